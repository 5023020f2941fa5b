#![no_main]

use std::path::PathBuf;

use edge_agent::config::Gateway;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // A path that is not there: what the text names is not opened.
    let _ = Gateway::parse("gateway.toml", text, PathBuf::from("/nonexistent"));
});
