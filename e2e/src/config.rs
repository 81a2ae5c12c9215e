//! A daemon's configuration file, written piece by piece. It is the file of a user, not an interface of its own: what
//! it says is documented with the daemon.

use std::fmt::{Display, Write};
use std::path::Path;

/// The text of a configuration (TOML).
#[derive(Debug, Clone)]
pub struct Config {
    node: String,
    rest: String,
}

impl Config {
    /// A node called `name` with one polling thread on processor `lcore`.
    pub fn new(name: &str, lcore: u16) -> Self {
        Self {
            node: format!("[node]\nname = \"{name}\"\nlcores = [{lcore}]\n"),
            rest: String::new(),
        }
    }

    /// A table `[[kind]]` of lines `key = value`; values are TOML.
    #[must_use]
    pub fn table(mut self, kind: &str, fields: &[(&str, &dyn Display)]) -> Self {
        // Writing to a string cannot fail.
        let _ = writeln!(self.rest, "\n[[{kind}]]");
        for (key, value) in fields {
            let _ = writeln!(self.rest, "{key} = {value}");
        }
        self
    }

    /// Several wires to other nodes as one: a bond with these `fields` and the underlay address `address` (with prefix length).
    #[must_use]
    pub fn bond_uplink(mut self, address: &str, mtu: u32, fields: &[(&str, &dyn Display)]) -> Self {
        let _ = writeln!(self.node, "underlay = [\"{address}\"]\nuplink = \"uplink\"");
        let (name, kind) = (quoted("uplink"), quoted("bond"));
        let mut all: Vec<(&str, &dyn Display)> = vec![
            ("name", &name),
            ("kind", &kind),
            ("uplink", &true),
            ("mtu", &mtu),
        ];
        all.extend(fields);
        self.table("port", &all)
    }

    /// The wire to other nodes: `kind` (`af-packet` or `af-xdp`) on `interface` with the underlay address `address` (with
    /// prefix length).
    #[must_use]
    pub fn uplink(mut self, kind: &str, interface: &str, address: &str, mtu: u32) -> Self {
        let _ = writeln!(self.node, "underlay = [\"{address}\"]\nuplink = \"uplink\"");
        self.table(
            "port",
            &[
                ("name", &quoted("uplink")),
                ("kind", &quoted(kind)),
                ("interface", &quoted(interface)),
                ("uplink", &true),
                ("mtu", &mtu),
            ],
        )
    }

    /// A tenant network that reaches to `remotes`.
    #[must_use]
    pub fn network(self, name: &str, vni: u32, remotes: &[&str], mtu: u32) -> Self {
        let remotes: Vec<String> = remotes.iter().map(|remote| quoted(remote)).collect();
        self.table(
            "network",
            &[
                ("name", &quoted(name)),
                ("vni", &vni),
                ("remotes", &format!("[{}]", remotes.join(", "))),
                ("mtu", &mtu),
            ],
        )
    }

    /// A vhost-user port, the daemon listening on `socket`, with room for packets of 9000 bytes.
    #[must_use]
    pub fn port(self, name: &str, socket: &Path, network: &str, mac: &str) -> Self {
        self.table(
            "port",
            &[
                ("name", &quoted(name)),
                ("kind", &quoted("vhost-user")),
                ("socket", &quoted(&socket.display().to_string())),
                ("network", &quoted(network)),
                ("mac", &quoted(mac)),
                ("mtu", &9000),
            ],
        )
    }

    /// A volume in a new sparse file `image` of `mebibytes`, and a controller of the same name that serves it on
    /// `socket`.
    #[must_use]
    pub fn disk(self, name: &str, image: &Path, mebibytes: u64, socket: &Path) -> Self {
        self.any_disk(name, image, mebibytes, socket, false)
    }

    /// The same past the page cache (`O_DIRECT`), so that requests take as long as the machine's disk does.
    #[must_use]
    pub fn direct_disk(self, name: &str, image: &Path, mebibytes: u64, socket: &Path) -> Self {
        self.any_disk(name, image, mebibytes, socket, true)
    }

    fn any_disk(
        self,
        name: &str,
        image: &Path,
        mebibytes: u64,
        socket: &Path,
        direct: bool,
    ) -> Self {
        self.table(
            "volume",
            &[
                ("name", &quoted(name)),
                ("kind", &quoted("file")),
                ("path", &quoted(&image.display().to_string())),
                ("size", &quoted(&format!("{mebibytes}MiB"))),
                ("create", &true),
                ("direct", &direct),
            ],
        )
        .table(
            "controller",
            &[
                ("name", &quoted(name)),
                ("volume", &quoted(name)),
                ("socket", &quoted(&socket.display().to_string())),
            ],
        )
    }

    /// The file's text.
    pub fn text(&self) -> String {
        format!("{}{}", self.node, self.rest)
    }
}

/// A TOML string; names and paths here hold neither quotes nor backslashes.
pub fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}
