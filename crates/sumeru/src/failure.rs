//! How a command can fail, and the exit code for it.

use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The daemon refused, or the command's own work failed. Exit code 1.
    #[error("{message}")]
    Refused {
        /// JSON-RPC error code.
        code: i64,
        /// The object, what was wrong, what was expected.
        message: String,
        /// The same for programs.
        data: Value,
    },
    /// The daemon could not be started or has failed. Exit code 1.
    #[error("{0:#}")]
    Daemon(anyhow::Error),
    /// The command makes no sense as it was given. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// No daemon answers. Exit code 3.
    #[error(
        "no daemon answers on {}: {source}; expected a running daemon: start one with `sumeru daemon --rpc {}`, \
         or name the socket of another with --rpc or SUMERU_RPC",
        .socket.display(), .socket.display()
    )]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Standard output was closed: whoever read it has enough. Exit code 0.
    #[error("standard output was closed")]
    OutputClosed,
}

impl Failure {
    /// Exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Refused { .. } | Self::Daemon(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable { .. } => 3,
        }
    }

    /// For `--json`: an object with one member, `error`.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Refused {
                code,
                message,
                data,
            } => {
                json!({ "error": { "code": code, "message": message, "data": data } })
            }
            other => json!({ "error": { "message": other.to_string() } }),
        }
    }
}

impl From<io::Error> for Failure {
    /// Only writing to standard output fails with a bare error.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Usage(format!("standard output: {error}")),
        }
    }
}
