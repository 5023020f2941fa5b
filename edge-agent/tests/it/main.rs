//! The agent against real programs: its own binary, and a real broker.

mod agent;
mod arm;
mod broker;
mod certificates;
mod committer;
mod connection;
mod kill;
mod outage;
mod processor;
mod program;
mod spool;
mod supervised;
mod table;
mod tls;
mod unit;
