//! The agent against real programs: its own binary, and a real broker.

mod broker;
mod certificates;
mod connection;
mod processor;
mod program;
mod supervised;
mod tls;
mod unit;
