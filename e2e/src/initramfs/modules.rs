//! Chooses kernel modules with all they depend on, from `modules.dep` and `modules.builtin` (modules.dep(5)).

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Context, Error, Result};

/// One module to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    path: PathBuf,
    /// Its file's name without a compression suffix.
    pub(super) file_name: String,
}

impl Module {
    /// The module, decompressed.
    pub(super) fn content(&self) -> Result<Vec<u8>> {
        let what = || format!("reading {}", self.path.display());
        if self
            .path
            .extension()
            .is_none_or(|extension| extension != "xz")
        {
            return std::fs::read(&self.path).context(what);
        }
        let output = Command::new("xz")
            .arg("-dc")
            .arg(&self.path)
            .stdin(Stdio::null())
            .output()
            .context(what)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let command = format!("xz -dc {}", self.path.display());
        Err(Error::Command {
            command,
            status: output.status.code().unwrap_or(-1),
            stdout: String::new(),
            stderr,
        })
    }
}

/// `wanted` and everything they depend on, each once, dependencies first. Built-in ones need no loading.
pub(super) fn load_order(tree: &Path, release: &str, wanted: &[String]) -> Result<Vec<Module>> {
    let read = |name: &str| {
        let path = tree.join(name);
        std::fs::read_to_string(&path).context(|| format!("reading {}", path.display()))
    };
    let (dep, builtin) = (read("modules.dep")?, read("modules.builtin")?);
    let files = order(&dep, &builtin, wanted).map_err(|module| Error::NoModule {
        release: release.to_owned(),
        module: module.to_owned(),
    })?;
    Ok(files
        .into_iter()
        .map(|file| Module {
            path: tree.join(file),
            file_name: strip(file).to_owned(),
        })
        .collect())
}

/// The file's name without its folder and compression suffix.
fn strip(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.strip_suffix(".xz").unwrap_or(name)
}

/// The module's name as the kernel has it: file names may have dashes where it has underscores.
fn module_name(path: &str) -> String {
    strip(path).trim_end_matches(".ko").replace('-', "_")
}

/// Paths in the order of loading, or the name that is in neither file.
fn order<'a>(
    dep: &'a str,
    builtin: &str,
    wanted: &'a [String],
) -> std::result::Result<Vec<&'a str>, &'a str> {
    let needs: HashMap<String, (&str, Vec<&str>)> = dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, rest)| (module_name(file), (file, rest.split_whitespace().collect())))
        .collect();
    let builtin: HashSet<String> = builtin.lines().map(module_name).collect();
    let mut seen = HashSet::new();
    let mut order = Vec::new();
    for name in wanted {
        let Some((file, dependencies)) = needs.get(&name.replace('-', "_")) else {
            if builtin.contains(&name.replace('-', "_")) {
                continue;
            }
            return Err(name);
        };
        // depmod lists all dependencies, direct and indirect, the deepest last.
        for file in dependencies.iter().rev().chain(std::iter::once(file)) {
            if seen.insert(*file) {
                order.push(*file);
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/net/core/failover.ko:\n\
        kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko\n\
        kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko\n\
        kernel/a/virtio-rng.ko:\n";
    const BUILTIN: &str = "kernel/lib/virtio.ko\n";

    fn wanted(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let names = wanted(&["virtio_net", "failover", "virtio", "virtio_rng"]);
        let got = order(DEP, BUILTIN, &names).unwrap();
        let files: Vec<_> = got.iter().map(|path| strip(path)).collect();
        assert_eq!(
            files,
            [
                "failover.ko",
                "net_failover.ko",
                "virtio_net.ko",
                "virtio-rng.ko"
            ]
        );
    }

    #[test]
    fn an_unknown_module_is_named() {
        assert_eq!(
            order(DEP, BUILTIN, &wanted(&["failover", "siw"])),
            Err("siw")
        );
    }
}
