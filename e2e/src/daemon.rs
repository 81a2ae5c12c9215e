//! The daemon under test: `sumeru daemon` on a node of its own, its command line, and its death at any moment.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::netns::Namespace;
use crate::place;
use crate::process::{self, Lifetime, Output, Process};

/// How long a daemon may take until its RPC socket answers.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a daemon may take to end when asked to.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// The method that is called to see whether the daemon answers; every JSON-RPC server knows it or refuses it.
const PROBE: &str = "rpc_get_methods";

/// The program under test: `SUMERU_BIN`, else the one built in the same profile as the running program, else release,
/// else debug.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SUMERU_BIN").map(PathBuf::from) {
        return if path.exists() {
            Ok(path)
        } else {
            Err(Error::MissingProgram { path })
        };
    }
    let target = place::target();
    let own = std::env::current_exe().ok();
    let profile = own
        .iter()
        .flat_map(|exe| exe.ancestors())
        .find(|folder| folder.parent() == Some(target.as_path()));
    let candidates = profile
        .into_iter()
        .map(Path::to_path_buf)
        .chain([target.join("release"), target.join("debug")]);
    candidates
        .map(|folder| folder.join("sumeru"))
        .find(|path| path.exists())
        .ok_or_else(|| Error::MissingProgram {
            path: target.join("release/sumeru"),
        })
}

/// A daemon that is running, or has been killed and can be restarted.
#[derive(Debug)]
pub struct Daemon {
    label: String,
    program: PathBuf,
    namespace: Option<String>,
    config: PathBuf,
    store: PathBuf,
    rpc: PathBuf,
    log: PathBuf,
    lifetime: Lifetime,
    process: Option<Process>,
}

impl Daemon {
    /// Starts `sumeru daemon --config CONFIG --rpc RPC` in `namespace` and waits until its RPC socket answers. Its store
    /// is kept beside the configuration, with the extension `db`.
    pub fn start(
        label: &str,
        namespace: Option<&Namespace>,
        config: &Path,
        rpc: &Path,
        lifetime: Lifetime,
    ) -> Result<Self> {
        let mut daemon = Self {
            label: label.to_owned(),
            program: program()?,
            namespace: namespace.map(|namespace| namespace.name().to_owned()),
            config: config.to_path_buf(),
            store: config.with_extension("db"),
            rpc: rpc.to_path_buf(),
            log: place::logs(label)?.join("daemon.log"),
            lifetime,
            process: None,
        };
        daemon.restart()?;
        Ok(daemon)
    }

    /// Starts it again with the same arguments; a daemon that still runs is killed first.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        let mut command = match &self.namespace {
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command
            .arg("daemon")
            .arg("--config")
            .arg(&self.config)
            .arg("--store")
            .arg(&self.store)
            .arg("--rpc")
            .arg(&self.rpc);
        let process = Process::spawn(&self.label, command, &self.log, self.lifetime)?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            process.check_running()?;
            match self.call(PROBE, &Value::Null) {
                Ok(_) | Err(Error::Refused { .. }) => break,
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10))
                }
                Err(error) => {
                    let context = format!(
                        " ({error}); last lines of its log:\n{}",
                        place::tail(&self.log, 20)
                    );
                    let what = format!(
                        "an answer of daemon {} on {}",
                        self.label,
                        self.rpc.display()
                    );
                    return Err(Error::Timeout {
                        what,
                        limit: START_LIMIT,
                        context,
                    });
                }
            }
        }
        self.process = Some(process);
        Ok(())
    }

    /// Kills it without warning (SIGKILL) and reaps it.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Asks it to end and expects exit status 0.
    pub fn stop(&mut self) -> Result<()> {
        let Some(process) = self.process.take() else {
            return Ok(());
        };
        let status = process.stop(STOP_LIMIT)?;
        if status == 0 {
            return Ok(());
        }
        let status = format!("status {status} after SIGTERM, expected 0");
        Err(Error::Exited {
            name: self.label.clone(),
            status,
            log: self.log.clone(),
            tail: place::tail(&self.log, 20),
        })
    }

    /// Its process; none after [`Self::kill`] or [`Self::stop`].
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its RPC socket.
    pub fn rpc(&self) -> &Path {
        &self.rpc
    }

    /// Calls JSON-RPC 2.0 `method` directly; the result.
    ///
    /// # Errors
    /// [`Error::Refused`] with the error object if the daemon answered with one.
    pub fn call(&self, method: &str, params: &Value) -> Result<Value> {
        let what = || format!("calling {method} on {}", self.rpc.display());
        let mut request = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": method});
        if !params.is_null() {
            request["params"] = params.clone();
        }
        let mut stream = UnixStream::connect(&self.rpc).context(what)?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .context(what)?;
        stream
            .set_write_timeout(Some(Duration::from_secs(10)))
            .context(what)?;
        stream
            .write_all(format!("{request}\n").as_bytes())
            .context(what)?;
        let answer = first_value(&mut stream).context(what)?;
        match (answer.get("result"), answer.get("error")) {
            (Some(result), None) => Ok(result.clone()),
            (_, Some(error)) => Err(Error::Refused {
                peer: self.label.clone(),
                request: method.into(),
                reason: error.to_string(),
            }),
            (None, None) => Err(Error::Protocol {
                peer: self.label.clone(),
                expected: "a JSON-RPC 2.0 response",
                got: answer.to_string(),
            }),
        }
    }

    /// Runs the command line client with `arguments`.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        process::run(
            Command::new(&self.program)
                .arg("--rpc")
                .arg(&self.rpc)
                .args(arguments),
        )
    }

    /// Runs the command line client with `--json` and parses what it prints.
    pub fn cli_json(&self, arguments: &[&str]) -> Result<Value> {
        let line = format!("sumeru {} --json", arguments.join(" "));
        let mut all = arguments.to_vec();
        all.push("--json");
        let text = self.cli(&all)?.success(&line)?;
        serde_json::from_str(&text).map_err(|_| Error::Protocol {
            peer: line,
            expected: "one JSON value",
            got: text,
        })
    }

    /// Lets it run on after this process has ended.
    pub fn keep(mut self) {
        if let Some(process) = self.process.take() {
            process.keep();
        }
    }
}

/// The first whole JSON value of a stream; what follows it is not waited for.
fn first_value(stream: impl Read) -> std::io::Result<Value> {
    let mut values = serde_json::Deserializer::from_reader(stream).into_iter::<Value>();
    values
        .next()
        .unwrap_or(Ok(Value::Null))
        .map_err(std::io::Error::from)
}
