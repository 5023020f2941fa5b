//! The agent against real programs: its own binary, and a real broker.

mod agent;
mod broker;
mod committer;
mod kill;
mod outage;
mod program;
mod table;
