//! Builds the initial RAM file system of a guest: busybox, chosen kernel modules, chosen programs of this machine with
//! their libraries, files, and the init script with the command agent (`init.sh`).
//!
//! The archive is not compressed: under emulation the guest unpacks slower than it reads. Built archives are kept in
//! `target/e2e/initramfs` by the hash of their content.

mod cpio;
mod libraries;
mod modules;

use std::collections::BTreeSet;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::{Context, Result};
use crate::peers::{Kernel, system_program};
use crate::place;

/// What every guest needs: the PCI transport, the port of the agent, and the devices under test.
const BASE_MODULES: [&str; 4] = ["virtio_pci", "virtio_console", "virtio_net", "virtio_blk"];

/// Archives not used for this long are removed.
const UNUSED: Duration = Duration::from_secs(3 * 24 * 3600);

/// A description of an initial RAM file system.
#[derive(Debug, Clone)]
pub struct Initramfs {
    kernel: Kernel,
    modules: Vec<String>,
    programs: Vec<String>,
    files: Vec<(PathBuf, String)>,
}

impl Initramfs {
    /// Busybox, the agent and the virtio drivers for `kernel`.
    pub fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            modules: BASE_MODULES.map(str::to_owned).to_vec(),
            programs: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Adds kernel module `name` and what it depends on; loaded at boot in the order added.
    #[must_use]
    pub fn module(mut self, name: &str) -> Self {
        self.modules.push(name.to_owned());
        self
    }

    /// Adds this machine's program `name` with its shared libraries, as `/bin/NAME`.
    #[must_use]
    pub fn program(mut self, name: &str) -> Self {
        self.programs.push(name.to_owned());
        self
    }

    /// Adds the file `host` as the absolute path `guest`, with the mode it has here.
    #[must_use]
    pub fn file(mut self, host: impl Into<PathBuf>, guest: &str) -> Self {
        self.files.push((host.into(), guest.to_owned()));
        self
    }

    /// Builds the archive, or finds it built already, and returns its path.
    pub fn build(&self) -> Result<PathBuf> {
        let content = self.archive()?;
        // Not a cryptographic hash: it only tells our own archives apart.
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(&content);
        let folder = place::target().join("e2e/initramfs");
        std::fs::create_dir_all(&folder).context(|| format!("creating {}", folder.display()))?;
        let path = folder.join(format!("{:016x}.cpio", hasher.finish()));
        if std::fs::metadata(&path).is_ok_and(|meta| meta.len() == content.len() as u64) {
            // Its time of change is the time of last use, for `prune`.
            let touched = std::fs::File::options()
                .append(true)
                .open(&path)
                .and_then(|f| f.set_modified(SystemTime::now()));
            touched.context(|| format!("touching {}", path.display()))?;
        } else {
            let partial = folder.join(place::unique_name("partial"));
            std::fs::write(&partial, &content)
                .context(|| format!("writing {}", partial.display()))?;
            std::fs::rename(&partial, &path).context(|| format!("writing {}", path.display()))?;
        }
        prune(&folder);
        Ok(path)
    }

    fn archive(&self) -> Result<Vec<u8>> {
        let mut tree = Tree::default();
        for folder in ["proc", "sys", "dev", "run", "tmp", "root", "mnt"] {
            tree.folder(folder);
        }
        tree.archive.file("init", 0o755, include_bytes!("init.sh"));
        tree.copy(&system_program("busybox")?, "bin/busybox")?;
        let release = self.kernel.release()?;
        let mut order = String::new();
        for module in modules::load_order(&self.kernel.modules()?, &release, &self.modules)? {
            let guest = format!("lib/modules/{}", module.file_name);
            tree.folder("lib/modules");
            tree.archive.file(&guest, 0o644, &module.content()?);
            order.push_str(&format!("/{guest}\n"));
        }
        tree.folder("etc");
        tree.archive.file("etc/modules", 0o644, order.as_bytes());
        tree.archive
            .file("etc/hosts", 0o644, b"127.0.0.1 localhost\n::1 localhost\n");
        let mut libraries = BTreeSet::new();
        for name in &self.programs {
            let path = system_program(name)?;
            tree.copy(&path, &format!("bin/{name}"))?;
            libraries.extend(libraries::of(&path)?);
        }
        for library in libraries {
            tree.copy(&library, &library.to_string_lossy())?;
        }
        for (host, guest) in &self.files {
            tree.copy(host, guest)?;
        }
        Ok(tree.archive.finish())
    }
}

/// The archive under construction and the folders it has already.
#[derive(Default)]
struct Tree {
    archive: cpio::Archive,
    folders: BTreeSet<String>,
}

impl Tree {
    /// Makes sure that `path` and the folders above it exist.
    fn folder(&mut self, path: &str) {
        let mut sofar = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if !sofar.is_empty() {
                sofar.push('/');
            }
            sofar.push_str(part);
            if self.folders.insert(sofar.clone()) {
                self.archive.folder(&sofar, 0o755);
            }
        }
    }

    /// Copies the file `host` (links followed) to `guest`.
    fn copy(&mut self, host: &Path, guest: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let guest = guest.trim_start_matches('/');
        if let Some((folder, _)) = guest.rsplit_once('/') {
            self.folder(folder);
        }
        let content = std::fs::read(host).context(|| format!("reading {}", host.display()))?;
        let meta = std::fs::metadata(host).context(|| format!("reading {}", host.display()))?;
        self.archive
            .file(guest, meta.permissions().mode() & 0o777, &content);
        Ok(())
    }
}

fn prune(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let age = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .map(|time| time.elapsed().unwrap_or_default());
        if age.is_ok_and(|age| age > UNUSED) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
