//! A client of QEMU's machine protocol (QMP: one JSON object per line): commands in, results out, events passed over.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Context, Error, Result};

/// QEMU answers control commands at once unless its main loop is stuck.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A connection in command mode.
#[derive(Debug)]
pub struct Qmp {
    guest: String,
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects and leaves the negotiation mode.
    pub(super) fn connect(guest: &str, socket: &Path) -> Result<Self> {
        let what = || format!("connecting to {}", socket.display());
        let stream = UnixStream::connect(socket).context(what)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT)).context(what)?;
        stream.set_write_timeout(Some(ANSWER_LIMIT)).context(what)?;
        let mut qmp = Self {
            guest: guest.to_owned(),
            stream: BufReader::new(stream),
        };
        let greeting = qmp.line()?;
        if greeting.get("QMP").is_none() {
            return Err(qmp.protocol("the greeting of QMP", &greeting));
        }
        qmp.execute("qmp_capabilities", &Value::Null)?;
        Ok(qmp)
    }

    /// Executes `command`; its return value.
    ///
    /// # Errors
    /// [`Error::Refused`] with QEMU's reason.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let mut request = json!({"execute": command});
        if !arguments.is_null() {
            request["arguments"] = arguments.clone();
        }
        let what = || format!("sending {command} to QEMU of {}", self.guest);
        self.stream
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())
            .context(what)?;
        loop {
            let answer = self.line()?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                let reason = error
                    .get("desc")
                    .and_then(Value::as_str)
                    .unwrap_or("no reason given")
                    .to_owned();
                return Err(Error::Refused {
                    peer: format!("QEMU of {}", self.guest),
                    request: command.to_owned(),
                    reason,
                });
            }
            if answer.get("event").is_none() {
                return Err(self.protocol("a return, an error or an event", &answer));
            }
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.stream
            .read_line(&mut line)
            .context(|| format!("reading from QEMU of {}", self.guest))?;
        serde_json::from_str(&line)
            .map_err(|_| self.protocol("a JSON object", &Value::String(line.clone())))
    }

    fn protocol(&self, expected: &'static str, got: &Value) -> Error {
        Error::Protocol {
            peer: format!("QEMU of {}", self.guest),
            expected,
            got: got.to_string(),
        }
    }
}
