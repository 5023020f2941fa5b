//! The agent against real programs: its own binary, and a real broker.

mod broker;
mod program;
