//! The agent's figures, measured on the program itself: with its log synced, against a real mosquitto on loopback, and
//! with a committer that looks at every frame. Run by hand, on a machine that does nothing else:
//!
//! `cargo bench -p edge-agent --bench agent -- [throughput|replay|live|wear|day|drain]...`
//!
//! CPU time and memory are the agent's alone, as the kernel counts them. `MILLWRIGHT_AGENT` names another binary.

use std::{path::PathBuf, process::ExitCode};

#[allow(dead_code, reason = "a part of what the tests have")]
#[path = "../../tests/it/broker.rs"]
mod broker;
#[allow(dead_code, reason = "a part of what the tests have")]
#[path = "../../tests/it/committer.rs"]
mod committer;
mod figures;
mod process;
mod site;

const FIGURES: [(&str, fn()); 6] = [
    ("throughput", figures::throughput),
    ("replay", figures::replay),
    ("live", figures::live),
    ("wear", figures::wear),
    ("day", figures::day),
    ("drain", figures::drain),
];

fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let Some(unknown) = asked.iter().find(|a| FIGURES.iter().all(|(name, _)| name != a)) {
        eprintln!("`{unknown}` is none of {:?}", FIGURES.map(|(name, _)| name));
        return ExitCode::FAILURE;
    }
    if broker::find("mosquitto").is_none() {
        return ExitCode::SUCCESS;
    }
    println!("machine: {}", process::machine());
    println!("agent: {}, {} bytes", binary().display(), std::fs::metadata(binary()).map_or(0, |m| m.len()));
    for (name, measure) in FIGURES {
        if asked.is_empty() || asked.iter().any(|a| a == name) {
            println!("\n{name}");
            measure();
        }
    }
    ExitCode::SUCCESS
}

fn binary() -> PathBuf {
    std::env::var_os("MILLWRIGHT_AGENT").map_or(env!("CARGO_BIN_EXE_edge-agent").into(), PathBuf::from)
}
