//! Starts a retraining when an alert asks for one: what stands between Alertmanager and the trainer.
//!
//! ```text
//! Alertmanager ── webhook ──> notice ──> desk: start, repeat, running, cooling down? ──> runner: command | job
//!                (listener)                 ^── what has run ───────────────────────────────┘      └──> `model retrain`
//! ```
//!
//! It decides when a retraining starts and nothing else: what comes of it the gate decides, and the registry's history tells.

pub mod config;
pub mod notice;
pub mod desk;
pub mod runner;
pub mod listener;
