//! Where things live: the checkout, its target folder, logs that outlive a run, and folders for sockets that do not.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cleanup::{Deferred, defer};
use crate::error::{Context, Error, Result};

/// `sun_path` of `struct sockaddr_un` (unix(7)), less the final NUL.
const SOCKET_PATH_LIMIT: usize = 107;

/// The checkout this crate was built from.
pub fn checkout() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cargo's target folder: the one the running program is in, else the checkout's.
pub fn target() -> PathBuf {
    let own = std::env::current_exe().ok().and_then(|exe| {
        exe.ancestors()
            .skip(1)
            .find(|folder| folder.join("CACHEDIR.TAG").is_file())
            .map(Path::to_path_buf)
    });
    own.unwrap_or_else(|| checkout().join("target"))
}

/// A folder for the logs of `name` within the running test, emptied; it stays after the run.
pub fn logs(name: &str) -> Result<PathBuf> {
    let thread = std::thread::current();
    // The test harness names each test's thread after the test.
    let test = thread
        .name()
        .filter(|name| *name != "main")
        .unwrap_or("main")
        .replace("::", ".");
    let folder = target().join("e2e/logs").join(test).join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).context(|| format!("emptying {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

/// A number that no other call in this process gets.
pub(crate) fn serial() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Whether a process with this id exists.
pub(crate) fn process_exists(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

/// Names the framework gives: `sumeru-e2e.PID.NUMBER.LABEL`, so that the next run knows whose they were.
pub(crate) const PREFIX: &str = "sumeru-e2e.";

/// A new name of this process for something that must be unique on the machine.
pub(crate) fn unique_name(label: &str) -> String {
    format!("{PREFIX}{}.{}.{label}", std::process::id(), serial())
}

/// Whether `name` was given by a process that no longer exists.
pub(crate) fn is_stale(name: &str) -> bool {
    let owner = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split('.').next());
    owner.is_some_and(|pid| {
        !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) && !process_exists(pid)
    })
}

/// The end of a log as text, at most `lines` lines of it.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A short-lived folder with a short path, for sockets; removed with everything in it on drop.
#[derive(Debug)]
pub struct SocketFolder {
    path: PathBuf,
    guard: Option<Deferred>,
}

impl SocketFolder {
    /// Creates a folder whose name holds `label`, and removes those that ended processes left behind.
    pub fn create(label: &str) -> Result<Self> {
        let base = std::env::temp_dir();
        sweep(&base);
        Self::at(base.join(unique_name(label)))
    }

    /// Creates the folder `path` itself, which must not exist yet.
    pub fn at(path: PathBuf) -> Result<Self> {
        std::fs::create_dir(&path).context(|| format!("creating {}", path.display()))?;
        let doomed = path.clone();
        let guard = defer(move || {
            let _ = std::fs::remove_dir_all(doomed);
        });
        Ok(Self {
            path,
            guard: Some(guard),
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a socket called `name` in the folder.
    ///
    /// # Errors
    /// [`Error::NameTooLong`] if it does not fit into a socket address.
    pub fn socket(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        let length = path.as_os_str().len();
        if length > SOCKET_PATH_LIMIT {
            let name = path.display().to_string();
            return Err(Error::NameTooLong {
                what: "socket path",
                name,
                length,
                limit: SOCKET_PATH_LIMIT,
            });
        }
        Ok(path)
    }

    /// Leaves the folder in place after this process has ended.
    pub fn keep(mut self) {
        if let Some(guard) = self.guard.take() {
            guard.forget();
        }
    }
}

fn sweep(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        // The type of the entry itself: a link planted under our name is not followed.
        let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if folder && entry.file_name().to_str().is_some_and(is_stale) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ended_processes_are_stale_and_others_are_not() {
        assert!(!is_stale(&unique_name("x")));
        // Above the largest pid Linux ever gives (2^22).
        assert!(is_stale("sumeru-e2e.99999999.0.x"));
        assert!(!is_stale("sumeru-e2e..0.x"));
        assert!(!is_stale("sumeru-e2e.x.0.x"));
        assert!(!is_stale("other.99999999.0.x"));
    }

    #[test]
    fn a_socket_folder_vanishes_and_refuses_long_names() {
        let folder = SocketFolder::create("t").unwrap();
        let path = folder.path().to_path_buf();
        std::fs::write(path.join("f"), "x").unwrap();
        assert!(matches!(
            folder.socket(&"n".repeat(120)),
            Err(Error::NameTooLong { .. })
        ));
        drop(folder);
        assert!(!path.exists());
    }
}
