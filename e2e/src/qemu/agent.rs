//! The host's side of the command agent (`initramfs/init.sh`): a line protocol over a virtio serial port.
//!
//! Requests carry a number and answers repeat it, so that what a guest was saying when it rebooted is passed over.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};
use crate::process::Output;

use super::base64;

/// How often a waiting reader looks at what else may have happened.
const TICK: Duration = Duration::from_millis(100);
/// What a command may print, in bytes of base64, before the guest is held to be broken.
const OUTPUT_LIMIT: usize = 64 << 20;

/// A connection to a guest's agent.
#[derive(Debug)]
pub(super) struct Agent {
    guest: String,
    stream: BufReader<UnixStream>,
    /// The part of a line that has arrived.
    partial: Vec<u8>,
    next: u64,
}

/// Called while waiting; an error ends the wait.
pub(super) type Watch<'a> = &'a dyn Fn() -> Result<()>;

impl Agent {
    /// Takes the connection that QEMU makes to `listener`.
    pub(super) fn accept(
        guest: &str,
        listener: &UnixListener,
        limit: Duration,
        watch: Watch,
    ) -> Result<Self> {
        let what = || format!("accepting QEMU of {guest}");
        listener.set_nonblocking(true).context(what)?;
        let deadline = Instant::now() + limit;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).context(what)?;
                    stream.set_read_timeout(Some(TICK)).context(what)?;
                    stream
                        .set_write_timeout(Some(Duration::from_secs(30)))
                        .context(what)?;
                    return Ok(Self {
                        guest: guest.to_owned(),
                        stream: BufReader::new(stream),
                        partial: Vec::new(),
                        next: 1,
                    });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(source) => {
                    return Err(Error::Io {
                        what: what(),
                        source,
                    });
                }
            }
            watch()?;
            if Instant::now() >= deadline {
                return Err(Error::Timeout {
                    what: format!("the start of QEMU of {guest}"),
                    limit,
                    context: String::new(),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the guest reports for duty; the identity of this boot.
    pub(super) fn ready(&mut self, limit: Duration, watch: Watch) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let line = self.line("the boot", limit, deadline, watch)?;
            if let Some(boot) = line.strip_prefix("ready ") {
                return Ok(boot.to_owned());
            }
        }
    }

    /// Runs a shell script in the guest for at most `limit`.
    pub(super) fn run(&mut self, script: &str, limit: Duration, watch: Watch) -> Result<Output> {
        let id = self.next;
        self.next += 1;
        let seconds = limit.as_secs().max(1);
        let request = format!("{id} {seconds} {}\n", base64::encode(script.as_bytes()));
        let begun = Instant::now();
        self.stream
            .get_mut()
            .write_all(request.as_bytes())
            .context(|| format!("sending to guest {}", self.guest))?;
        // The guest ends the script itself; only a guest that hangs makes us wait longer.
        let deadline = begun + limit + Duration::from_secs(30);
        let done = format!("done {id} ");
        let status = loop {
            let line = self.line(script, limit, deadline, watch)?;
            if let Some(status) = line.strip_prefix(&done) {
                break status
                    .parse::<i32>()
                    .map_err(|_| self.protocol("an exit status", &line))?;
            }
        };
        let stdout = self.section("error", script, limit, deadline, watch)?;
        let stderr = self.section(&format!("end {id}"), script, limit, deadline, watch)?;
        // timeout(1) of busybox reports the signal it sent.
        if status == 128 + 9 && begun.elapsed() >= Duration::from_secs(seconds) {
            let context = format!("\nstdout: {stdout}\nstderr: {stderr}");
            return Err(Error::Timeout {
                what: format!("the end of `{script}` in guest {}", self.guest),
                limit,
                context,
            });
        }
        Ok(Output {
            status,
            stdout,
            stderr,
        })
    }

    /// Base64 lines up to the line `end`, as text.
    fn section(
        &mut self,
        end: &str,
        what: &str,
        limit: Duration,
        deadline: Instant,
        watch: Watch,
    ) -> Result<String> {
        let mut bytes = Vec::new();
        loop {
            let line = self.line(what, limit, deadline, watch)?;
            if line == end {
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            let part =
                base64::decode(&line).ok_or_else(|| self.protocol("a line of base64", &line))?;
            if bytes.len() + part.len() > OUTPUT_LIMIT {
                return Err(self.protocol("at most 64 MiB of output", "more"));
            }
            bytes.extend(part);
        }
    }

    /// The next line, without its end.
    fn line(
        &mut self,
        what: &str,
        limit: Duration,
        deadline: Instant,
        watch: Watch,
    ) -> Result<String> {
        loop {
            match self.stream.read_until(b'\n', &mut self.partial) {
                Ok(_) if self.partial.last() == Some(&b'\n') => {
                    let line = String::from_utf8_lossy(&self.partial).trim_end().to_owned();
                    self.partial.clear();
                    return Ok(line);
                }
                Ok(_) => {
                    // End of file: QEMU has closed its end. Its exit status says more than we can.
                    for _ in 0..20 {
                        watch()?;
                        std::thread::sleep(TICK);
                    }
                    return Err(self.protocol("a line", "end of file"));
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(source) => {
                    return Err(Error::Io {
                        what: format!("reading from guest {}", self.guest),
                        source,
                    });
                }
            }
            watch()?;
            if self.partial.len() > OUTPUT_LIMIT {
                return Err(self.protocol("a line", "64 MiB without an end"));
            }
            if Instant::now() >= deadline {
                return Err(Error::Timeout {
                    what: format!("{what} of guest {}", self.guest),
                    limit,
                    context: String::new(),
                });
            }
        }
    }

    fn protocol(&self, expected: &'static str, got: &str) -> Error {
        Error::Protocol {
            peer: format!("agent of guest {}", self.guest),
            expected,
            got: got.chars().take(200).collect(),
        }
    }
}
