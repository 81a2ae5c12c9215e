//! The real peers that Sumeru is measured beside: where they are, how each is started, what its own statistics say.
//!
//! A peer that is missing is an error that names the command to install it, never a skipped row.

pub mod ovs;
pub mod qsd;
pub mod testpmd;

use anyhow::{Result, bail};
use std::path::PathBuf;

/// Finds an executable: `$SUMERU_PEERS/bin`, `target/peers/bin` of the checkout, then `PATH`.
///
/// # Errors
/// If it is nowhere, with the command that installs it.
pub fn find(name: &str) -> Result<PathBuf> {
    let mut folders = Vec::new();
    if let Some(peers) = std::env::var_os("SUMERU_PEERS") {
        folders.push(PathBuf::from(peers).join("bin"));
    }
    // target/release/bench-x lies beside target/peers.
    if let Ok(own) = std::env::current_exe() {
        folders.extend(
            own.ancestors()
                .skip(2)
                .take(2)
                .map(|folder| folder.join("peers/bin")),
        );
    }
    folders.push(PathBuf::from("target/peers/bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    folders.push(PathBuf::from("/usr/lib/openvswitch-switch-dpdk"));
    match folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
    {
        Some(file) => Ok(std::path::absolute(file)?),
        None => bail!("{name} is not installed; run scripts/install-prerequisites --for bench"),
    }
}
