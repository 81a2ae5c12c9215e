//! The `sumeru` binary: the daemon of a node and the client that talks to it. Wiring only.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cli;
mod client;
mod daemon;
mod failure;
mod table;
mod top;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
