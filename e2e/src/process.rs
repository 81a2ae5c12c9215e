//! Child processes that never outlive what started them.
//!
//! A [`Process`] is killed and reaped on drop and by termination signals, and the kernel kills it if this process
//! vanishes in any other way (prctl(2), PR_SET_PDEATHSIG). Its pid stays ours until it is reaped, so a signal can
//! never reach a stranger.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::cleanup::{Deferred, defer};
use crate::error::{Context, Error, Result};
use crate::place::tail;

/// What a finished command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit status; negative for the signal that ended it.
    pub status: i32,
    /// Standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

impl Output {
    /// The standard output of a command that succeeded.
    ///
    /// # Errors
    /// [`Error::Command`] if the status is not zero; `command` is what the message shows.
    pub fn success(self, command: &str) -> Result<String> {
        if self.status == 0 {
            return Ok(self.stdout);
        }
        let Self {
            status,
            stdout,
            stderr,
        } = self;
        Err(Error::Command {
            command: command.to_owned(),
            status,
            stdout,
            stderr,
        })
    }
}

/// Exit status as one number: the code, or the negated signal.
fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| -status.signal().unwrap_or(0))
}

/// Runs `command` to its end and collects its output.
pub fn run(command: &mut Command) -> Result<Output> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .context(|| format!("running {}", command_line(command)))?;
    Ok(Output {
        status: code(output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs `command` and returns its standard output if it succeeded.
pub fn check(command: &mut Command) -> Result<String> {
    let line = command_line(command);
    run(command)?.success(&line)
}

/// The command line as a person would type it (without quoting).
pub fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// How long a process may live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifetime {
    /// At most as long as the process that started it.
    #[default]
    Bound,
    /// On its own after [`Process::keep`]; until then it is ended on drop like any other.
    Free,
}

/// A running child with its output in a log file.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    pid: u32,
    child: Arc<Mutex<Child>>,
    guard: Option<Deferred>,
}

fn lock(child: &Mutex<Child>) -> MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    /// Starts `command` in a process group of its own, standard output and error appended to `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path, lifetime: Lifetime) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .context(|| format!("opening {}", log.display()))?;
        let error = file
            .try_clone()
            .context(|| format!("opening {}", log.display()))?;
        // A group of its own: Ctrl-C at the terminal reaches us alone and we end our children in order.
        command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(error)
            .process_group(0);
        let line = command_line(&command);
        let child = start(command, lifetime).context(|| format!("starting {line}"))?;
        let pid = child.id();
        let child = Arc::new(Mutex::new(child));
        let doomed = Arc::clone(&child);
        let guard = defer(move || {
            let mut child = lock(&doomed);
            let _ = child.kill();
            let _ = child.wait();
        });
        Ok(Self {
            name: name.to_owned(),
            log: log.to_path_buf(),
            pid,
            child,
            guard: Some(guard),
        })
    }

    /// The name given at the start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The file its output goes to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its exit status if it has ended.
    pub fn ended(&self) -> Result<Option<i32>> {
        let status = lock(&self.child)
            .try_wait()
            .context(|| format!("waiting for {}", self.name))?;
        Ok(status.map(code))
    }

    /// # Errors
    /// [`Error::Exited`] with the end of its log if it is no longer running.
    pub fn check_running(&self) -> Result<()> {
        match lock(&self.child)
            .try_wait()
            .context(|| format!("waiting for {}", self.name))?
        {
            None => Ok(()),
            Some(status) => Err(Error::Exited {
                name: self.name.clone(),
                status: status.to_string(),
                log: self.log.clone(),
                tail: tail(&self.log, 20),
            }),
        }
    }

    /// Sends `signal`, if the process has not ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut child = lock(&self.child);
        let what = || format!("signalling {}", self.name);
        // Under the lock and not yet reaped: the pid cannot have gone to another process.
        if child.try_wait().context(what)?.is_none()
            && let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
        {
            rustix::process::kill_process(pid, signal).context(what)?;
        }
        Ok(())
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it still runs after `limit`.
    pub fn wait(&self, limit: Duration) -> Result<i32> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                let context = format!("; last lines of its log:\n{}", tail(&self.log, 20));
                return Err(Error::Timeout {
                    what: format!("the end of {}", self.name),
                    limit,
                    context,
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks it to end (SIGTERM) and waits; what still runs after `limit` is killed and reported.
    pub fn stop(self, limit: Duration) -> Result<i32> {
        self.signal(Signal::TERM)?;
        self.wait(limit)
    }

    /// Ends it at once (SIGKILL) and reaps it.
    pub fn kill(mut self) {
        drop(self.guard.take());
    }

    /// Lets it run on after this process has ended; only for processes started with [`Lifetime::Free`].
    pub fn keep(mut self) {
        if let Some(guard) = self.guard.take() {
            guard.forget();
        }
    }
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts `command` from a thread that lives as long as the process: PR_SET_PDEATHSIG fires when the *thread* that
/// forked ends, which would otherwise kill a guest as soon as the thread that booted it is done.
fn start(mut command: Command, lifetime: Lifetime) -> io::Result<Child> {
    static STARTER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    if lifetime == Lifetime::Bound {
        let parent = rustix::process::getpid();
        let die_with_parent = move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have ended before the line above took effect.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::from(io::ErrorKind::Interrupted));
            }
            Ok(())
        };
        // SAFETY: the closure runs in the child between fork and exec and makes two system calls on plain values: it
        // allocates nothing, takes no lock and touches no memory shared with the parent.
        unsafe { command.pre_exec(die_with_parent) };
    }
    let starter = STARTER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        let thread = std::thread::Builder::new().name("starter".into());
        // Without the thread the channel is closed, which each order reports below.
        let _ = thread.spawn(move || {
            for (mut command, reply) in orders {
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let gone = || io::Error::other("the thread that starts processes is gone");
    let (reply, answer) = mpsc::channel();
    starter.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sleeper(log: &Path) -> Process {
        let mut command = Command::new("sleep");
        command.arg("60");
        Process::spawn("sleeper", command, log, Lifetime::Bound).unwrap()
    }

    #[test]
    fn a_process_outlives_the_thread_that_started_it_but_not_its_value() {
        let log = std::env::temp_dir().join(crate::place::unique_name("log"));
        let shared = log.clone();
        let process = std::thread::spawn(move || sleeper(&shared)).join().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        process.check_running().unwrap();
        let pid = process.pid();
        drop(process);
        assert!(!crate::place::process_exists(&pid.to_string()));
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn stop_ends_with_the_signal_and_a_dead_process_is_reported() {
        let log = std::env::temp_dir().join(crate::place::unique_name("log"));
        assert_eq!(
            sleeper(&log).stop(Duration::from_secs(5)).unwrap(),
            -Signal::TERM.as_raw()
        );
        let process = sleeper(&log);
        process.signal(Signal::KILL).unwrap();
        process.wait(Duration::from_secs(5)).unwrap();
        assert!(matches!(process.check_running(), Err(Error::Exited { .. })));
        std::fs::remove_file(log).unwrap();
    }
}
