//! Child processes of a bench, the folder they live in, and the huge pages they need; all of it goes away with its owner.
//!
//! Children also die with the bench (`setpriv --pdeathsig`), so a killed bench leaves nothing that spins on a core.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A folder of this bench alone below the system's temporary folder, removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one.
    ///
    /// # Errors
    /// The system's.
    pub fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("sumeru-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of something in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("remove {}: {error}", self.path.display());
        }
    }
}

/// A running child with its output in a log file (or a pipe); killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` pinned to `core` if one is given; its output goes to `log`.
    ///
    /// # Errors
    /// The system's, e.g. a program that does not exist.
    pub fn start<S: AsRef<OsStr>>(
        program: &Path,
        arguments: &[S],
        environment: &[(&str, &Path)],
        core: Option<usize>,
        log: &Path,
    ) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("make {}", log.display()))?;
        let errors = output.try_clone().context("duplicate the log")?;
        let mut command = wrapped(program, arguments, environment, core);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        Ok(Self {
            name: name_of(program),
            child,
            log: log.to_owned(),
        })
    }

    /// As [`Process::start`], with the ends of pipes to its standard input and output; errors go to `log`.
    ///
    /// # Errors
    /// The system's.
    pub fn start_piped<S: AsRef<OsStr>>(
        program: &Path,
        arguments: &[S],
        core: Option<usize>,
        log: &Path,
    ) -> Result<(Self, ChildStdin, ChildStdout)> {
        let errors = File::create(log).with_context(|| format!("make {}", log.display()))?;
        let mut command = wrapped(program, arguments, &[], core);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors);
        let mut child = command
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("no pipes to {}", program.display())
        };
        Ok((
            Self {
                name: name_of(program),
                child,
                log: log.to_owned(),
            },
            stdin,
            stdout,
        ))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails with the end of its log if it has ended.
    ///
    /// # Errors
    /// That it has ended, with which status and why.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            bail!(
                "{} ended with {status}: {}",
                self.name,
                lines[lines.len().saturating_sub(8)..].join(" | ")
            );
        }
        Ok(())
    }

    /// Waits until `ready` or `patience` is over.
    ///
    /// # Errors
    /// If it ended meanwhile, or never got ready.
    pub fn wait_until(
        &mut self,
        what: &str,
        patience: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !ready() {
            self.check()?;
            if Instant::now() > deadline {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                bail!(
                    "{}: no {what} within {patience:?}; its log ends: {}",
                    self.name,
                    log.lines().last().unwrap_or("empty")
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM), waits up to `patience`, then kills it.
    ///
    /// # Errors
    /// The system's.
    pub fn stop(&mut self, patience: Duration) -> Result<()> {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32)
            && self.child.try_wait()?.is_none()
        {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            // It may have been paused.
            rustix::process::kill_process(pid, rustix::process::Signal::CONT)?;
        }
        let deadline = Instant::now() + patience;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                self.child.kill()?;
                self.child.wait()?;
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop(Duration::from_secs(3)) {
            eprintln!("stop {}: {error:#}", self.name);
        }
    }
}

fn name_of(program: &Path) -> String {
    program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn wrapped<S: AsRef<OsStr>>(
    program: &Path,
    arguments: &[S],
    environment: &[(&str, &Path)],
    core: Option<usize>,
) -> Command {
    // A session of its own: Ctrl-C reaches the bench alone, which then takes the children down in order, and the
    // scheduler's autogroup of the child can be raised without that of the user's shell.
    let mut command = Command::new("setsid");
    command.args(["setpriv", "--pdeathsig", "KILL"]);
    if let Some(core) = core {
        command.args(["taskset", "-c", &core.to_string()]);
    }
    command
        .arg(program)
        .args(arguments)
        .envs(environment.iter().copied());
    command
}

/// Stops every thread of a process, or lets it go on: of two switches on one core only one may spin at a time.
///
/// # Errors
/// The system's.
pub fn pause(pid: u32, paused: bool) -> Result<()> {
    let signal = if paused {
        rustix::process::Signal::STOP
    } else {
        rustix::process::Signal::CONT
    };
    let pid = rustix::process::Pid::from_raw(pid as i32).context("process id 0")?;
    rustix::process::kill_process(pid, signal).context("pause a process")
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// With its standard error if it cannot be started or fails.
pub fn output_of<S: AsRef<OsStr>>(
    program: &str,
    arguments: &[S],
    environment: &[(&str, &Path)],
) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        let arguments: Vec<_> = arguments
            .iter()
            .map(|argument| argument.as_ref().to_string_lossy())
            .collect();
        bail!(
            "{program} {}: {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

/// Huge pages reserved for the time of a bench; the former number is restored when dropped.
#[derive(Debug)]
pub struct HugePages {
    before: u64,
}

impl HugePages {
    /// Makes at least `pages` of 2 MiB available.
    ///
    /// # Errors
    /// If not root, or memory is too fragmented.
    pub fn reserve(pages: u64) -> Result<Self> {
        let read = || -> Result<u64> { Ok(fs::read_to_string(NR_HUGEPAGES)?.trim().parse()?) };
        let before = read().context(NR_HUGEPAGES)?;
        let guard = Self { before };
        if before < pages {
            fs::write(NR_HUGEPAGES, pages.to_string())
                .with_context(|| format!("write {NR_HUGEPAGES} (needs root)"))?;
            let got = read()?;
            if got < pages {
                bail!("{got} huge pages of 2 MiB are to be had, {pages} are needed");
            }
        }
        Ok(guard)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Err(error) = fs::write(NR_HUGEPAGES, self.before.to_string()) {
            eprintln!("restore {NR_HUGEPAGES} to {}: {error}", self.before);
        }
    }
}

/// Becomes true on SIGINT or SIGTERM; benches look at it between points, so that everything is taken down in order.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Catches the two signals from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn install() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    /// Fails if a signal came.
    ///
    /// # Errors
    /// That it was interrupted.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}
