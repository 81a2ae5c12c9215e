//! Network namespaces as compute nodes and veth pairs as the wire between them (ip-netns(8), veth(4)).
//!
//! A namespace is removed on drop; those of ended processes are removed when the next one is created. Namespaces of
//! other names are never touched.

use std::path::Path;
use std::process::Command;

use crate::cleanup::{Deferred, defer};
use crate::error::{Error, Result};
use crate::place;
use crate::process::{self, Output};

/// Where ip(8) keeps named namespaces.
const RUN: &str = "/run/netns";
/// IFNAMSIZ less the final NUL (linux/if.h).
const INTERFACE_NAME_LIMIT: usize = 15;

/// A named network namespace with its loopback up.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    guard: Option<Deferred>,
}

impl Namespace {
    /// Creates a namespace with a name of its own that holds `label`.
    pub fn create(label: &str) -> Result<Self> {
        sweep();
        Self::named(&place::unique_name(label))
    }

    /// Creates the namespace `name` itself.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is one of that name: it is somebody's and stays.
    pub fn named(name: &str) -> Result<Self> {
        if Path::new(RUN).join(name).exists() {
            let reason = "a namespace of that name exists".to_owned();
            return Err(Error::Refused {
                peer: "ip".into(),
                request: format!("netns add {name}"),
                reason,
            });
        }
        // Registered first: a signal between the two leaves nothing behind, and deleting what is not there is harmless.
        let doomed = name.to_owned();
        let guard = defer(move || {
            let _ = process::run(Command::new("ip").args(["netns", "delete", &doomed]));
        });
        let namespace = Self {
            name: name.to_owned(),
            guard: Some(guard),
        };
        process::check(Command::new("ip").args(["netns", "add", name]))?;
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run `program` in the namespace, under the same pid that it is started with.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(program.as_ref());
        command
    }

    /// Runs `program` with `arguments` in the namespace to its end.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        process::run(self.command(program).args(arguments))
    }

    /// Runs `ip` with `arguments` in the namespace; its standard output.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        process::check(Command::new("ip").args(["-n", &self.name]).args(arguments))
    }

    /// Leaves the namespace in place after this process has ended.
    pub fn keep(mut self) {
        if let Some(guard) = self.guard.take() {
            guard.forget();
        }
    }
}

/// Connects two namespaces by a cable: interface `near.1` in `near.0` and `far.1` in `far.0`, both up, with `mtu` bytes
/// of payload per frame. It goes when either namespace goes.
pub fn veth_pair(near: (&Namespace, &str), far: (&Namespace, &str), mtu: u32) -> Result<()> {
    for (_, interface) in [near, far] {
        if interface.len() > INTERFACE_NAME_LIMIT {
            let (name, length) = (interface.to_owned(), interface.len());
            return Err(Error::NameTooLong {
                what: "interface name",
                name,
                length,
                limit: INTERFACE_NAME_LIMIT,
            });
        }
    }
    let (a, b) = (near.0.name(), far.0.name());
    process::check(Command::new("ip").args([
        "link", "add", near.1, "netns", a, "type", "veth", "peer", "name", far.1, "netns", b,
    ]))?;
    let mtu = mtu.to_string();
    for (namespace, interface) in [near, far] {
        namespace.ip(&["link", "set", interface, "mtu", &mtu, "up"])?;
    }
    Ok(())
}

fn sweep() {
    let Ok(entries) = std::fs::read_dir(RUN) else {
        return;
    };
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        if place::is_stale(&name) {
            let _ = process::run(Command::new("ip").args(["netns", "delete", &name]));
        }
    }
}
