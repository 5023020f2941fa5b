//! Tests of the programs as a user has them: real broker, real S3 endpoint, real browser.

mod access;
mod analytics;
mod archive;
mod browser;
mod canary;
mod components;
mod console;
mod factory;
mod faults;
mod life;
mod pace;
mod retraining;
mod roles;
mod shards;
mod start;
mod store;
mod takeover;
mod tls;
mod traces;
mod trigger;
mod writers;
