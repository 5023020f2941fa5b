//! See [`stream_processor::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    stream_processor::cli::main()
}
