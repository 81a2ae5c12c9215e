//! The one error type of the framework. Each message names the object, what was wrong with it and what was expected.

use std::path::PathBuf;
use std::time::Duration;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong when real peers are driven.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A peer is not installed; the message says how to install it.
    #[error("{what} is absent (expected at {path}): run scripts/install-prerequisites as root")]
    MissingPeer {
        /// The peer, as a person would call it.
        what: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The program under test has not been built.
    #[error(
        "the sumeru program is absent (expected at {path}): run `cargo build --release -p sumeru` or set SUMERU_BIN"
    )]
    MissingProgram {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// The operation and its object.
        what: String,
        /// The reason given by the system.
        source: std::io::Error,
    },
    /// A command ran and failed.
    #[error("`{command}` ended with status {status}\nstdout: {stdout}\nstderr: {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status; negative for the signal that ended it.
        status: i32,
        /// Its standard output.
        stdout: String,
        /// Its standard error.
        stderr: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {limit:?}{context}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        limit: Duration,
        /// The last lines of the log that explains it, or nothing.
        context: String,
    },
    /// A process that should be running has ended.
    #[error("{name} ended early ({status}); last lines of {log}:\n{tail}")]
    Exited {
        /// The process, by the name the test gave it.
        name: String,
        /// Its exit status.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The end of that log.
        tail: String,
    },
    /// The kernel of a guest panicked.
    #[error("the kernel of guest {guest} panicked; last lines of its console:\n{tail}")]
    GuestPanic {
        /// The guest's name.
        guest: String,
        /// The end of its console log.
        tail: String,
    },
    /// A peer answered something other than its protocol allows.
    #[error("{peer}: expected {expected}, got {got:?}")]
    Protocol {
        /// Who answered.
        peer: String,
        /// What the protocol asks for.
        expected: &'static str,
        /// What came instead.
        got: String,
    },
    /// A request was understood and refused.
    #[error("{peer} refused {request}: {reason}")]
    Refused {
        /// Who refused.
        peer: String,
        /// The request.
        request: String,
        /// The reason given.
        reason: String,
    },
    /// A kernel module is in neither modules.dep nor modules.builtin.
    #[error("kernel {release} has no module {module}")]
    NoModule {
        /// The kernel's release.
        release: String,
        /// The module's name.
        module: String,
    },
    /// A name would not fit where the system wants it.
    #[error("{what} {name:?} is {length} bytes long, the limit is {limit}")]
    NameTooLong {
        /// The kind of name.
        what: &'static str,
        /// The name.
        name: String,
        /// Its length in bytes.
        length: usize,
        /// The largest length in bytes.
        limit: usize,
    },
}

/// Attaches what was being done to an I/O error.
pub(crate) trait Context<T> {
    /// `what` names the operation and its object.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io {
            what: what(),
            source: source.into(),
        })
    }
}
