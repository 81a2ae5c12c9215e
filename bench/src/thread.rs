//! Threads seen from outside: pinning, and how long they ran or waited by `/proc/PID/task/TID/schedstat`.
//!
//! A measurement counts only if the threads in it had their cores; this module is where that is decided.

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Pins the calling thread to one core.
///
/// # Errors
/// The system's, e.g. for a core that does not exist.
pub fn pin_self(core: usize) -> io::Result<()> {
    pin(None, core)
}

fn pin(thread: Option<Pid>, core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(thread, &set).map_err(io::Error::from)
}

/// Pins every thread that process `pid` has now to one core; threads made later inherit it.
///
/// # Errors
/// The system's.
pub fn pin_process(pid: u32, core: usize) -> io::Result<()> {
    for tid in threads(pid)? {
        or_gone(pin(Pid::from_raw(tid as i32), core))?;
    }
    Ok(())
}

/// A thread that ended since it was listed needs nothing any more.
fn or_gone(done: io::Result<()>) -> io::Result<()> {
    let gone = |error: &io::Error| {
        error.kind() == io::ErrorKind::NotFound
            || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
    };
    match done {
        Err(error) if !gone(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Gives every thread of `pid` and the scheduler's autogroup of its session nice level -20, so that unrelated work does
/// not take their cores. Sumeru, its peers and the generators are all treated alike.
///
/// # Errors
/// The system's; needs CAP_SYS_NICE.
pub fn raise_process(pid: u32) -> io::Result<()> {
    for tid in threads(pid)? {
        let raised = rustix::process::setpriority_process(Pid::from_raw(tid as i32), -20);
        or_gone(raised.map_err(io::Error::from))?;
    }
    write_autogroup(&format!("/proc/{pid}/autogroup"), -20)
}

/// The calling thread and its session's autogroup at nice level -20; both are put back when dropped.
#[derive(Debug)]
pub struct Raised(());

impl Raised {
    /// Raises the calling thread.
    ///
    /// # Errors
    /// The system's; needs CAP_SYS_NICE.
    pub fn this_thread() -> io::Result<Self> {
        rustix::process::setpriority_process(Some(rustix::thread::gettid()), -20)?;
        write_autogroup("/proc/self/autogroup", -20)?;
        Ok(Self(()))
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        let thread = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 0)
            .map_err(io::Error::from);
        if let Err(error) = thread.and_then(|()| write_autogroup("/proc/self/autogroup", 0)) {
            eprintln!("put the priority back: {error}");
        }
    }
}

/// A kernel without autogroups has no such file and needs none; nor does a process that never got a session of its own
/// (`setsid`): it is in the root group, whose weight cannot be changed (EINVAL) and whose threads compete by their own.
fn write_autogroup(path: &str, nice: i32) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, NotFound};
    match std::fs::write(path, nice.to_string()) {
        Err(error) if !matches!(error.kind(), NotFound | InvalidInput) => Err(error),
        _ => Ok(()),
    }
}

/// The thread ids of a process.
///
/// # Errors
/// The system's, e.g. for a process that is gone.
pub fn threads(pid: u32) -> io::Result<Vec<u32>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        threads.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok()),
        );
    }
    Ok(threads)
}

/// Time on a core and time waiting for one, from schedstat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedstat {
    /// Time on a core.
    pub running: Duration,
    /// Time runnable but waiting for a core.
    pub waiting: Duration,
}

impl Schedstat {
    /// Reads a thread's.
    ///
    /// # Errors
    /// The system's; invalid data if the file is not two numbers.
    pub fn read(pid: u32, tid: u32) -> io::Result<Self> {
        let text =
            std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/task/{tid}/schedstat")))?;
        let mut numbers = text
            .split_whitespace()
            .map(|word| word.parse::<u64>().map(Duration::from_nanos));
        match (numbers.next(), numbers.next()) {
            (Some(Ok(running)), Some(Ok(waiting))) => Ok(Self { running, waiting }),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("schedstat of thread {tid}: {text:?}"),
            )),
        }
    }
}

/// What one thread did during a [`Watch`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// The thread.
    pub tid: u32,
    /// Part of the time it ran, 0..=1.
    pub running: f64,
    /// Part of the time it wanted to run and could not, 0..=1.
    pub waiting: f64,
}

/// Watches all threads of a process from its making on.
pub struct Watch {
    pid: u32,
    start: Instant,
    before: HashMap<u32, Schedstat>,
}

impl Watch {
    /// Starts watching.
    ///
    /// # Errors
    /// The system's.
    pub fn start(pid: u32) -> io::Result<Self> {
        let mut before = HashMap::new();
        for tid in threads(pid)? {
            match Schedstat::read(pid, tid) {
                Ok(now) => {
                    before.insert(tid, now);
                }
                Err(error) => or_gone(Err(error))?,
            }
        }
        Ok(Self {
            pid,
            start: Instant::now(),
            before,
        })
    }

    /// Every thread's share since the start, busiest first; threads that ended are left out.
    ///
    /// # Errors
    /// The system's.
    pub fn shares(&self) -> io::Result<Vec<Share>> {
        let mut shares = Vec::new();
        for tid in threads(self.pid)? {
            let Ok(now) = Schedstat::read(self.pid, tid) else {
                continue;
            };
            let before = self.before.get(&tid).copied().unwrap_or(Schedstat {
                running: Duration::ZERO,
                waiting: Duration::ZERO,
            });
            let wall = self.start.elapsed().as_secs_f64();
            shares.push(Share {
                tid,
                running: (now.running - before.running).as_secs_f64() / wall,
                waiting: (now.waiting - before.waiting).as_secs_f64() / wall,
            });
        }
        shares.sort_by(|a, b| b.running.total_cmp(&a.running));
        Ok(shares)
    }

    /// The busiest thread's share.
    ///
    /// # Errors
    /// The system's; not found if the process has no thread left.
    pub fn busiest(&self) -> io::Result<Share> {
        self.shares()?.first().copied().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("process {} is gone", self.pid),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_in_the_root_group_or_without_autogroups_needs_no_weight() {
        // The first process and kernel threads never called setsid.
        write_autogroup("/proc/1/autogroup", 0).unwrap();
        write_autogroup("/proc/self/no-such-file", 0).unwrap();
    }
}
