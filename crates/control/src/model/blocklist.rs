//! A blocklist: traffic with addresses of a set is dropped, before connections are looked at, so that it also ends those that exist.

use serde::Serialize;

use super::{Kind, Spec};
use crate::decode::{Field, Fields, Name, optional, required};

/// Which traffic a blocklist drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Blocked {
    /// What comes to a guest from an address of the set.
    Ingress,
    /// What a guest sends to an address of the set.
    Egress,
    /// Both.
    Both,
}

/// What is configured of a blocklist.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlocklistSpec {
    /// Name.
    pub name: String,
    /// The set whose addresses are blocked.
    pub address_set: String,
    /// Which way.
    pub direction: Blocked,
    /// Ports that it applies to. With neither ports nor networks it applies to every port but the uplink.
    pub ports: Vec<String>,
    /// Networks to whose ports it applies.
    pub networks: Vec<String>,
}

impl Spec for BlocklistSpec {
    const KIND: Kind = Kind::Blocklist;
    const FIXED: &'static [&'static str] = &[];
    const FIELDS: &'static [Field] = &[
        required("name", "name", "name of the blocklist"),
        required("address_set", "address set name", "the addresses to block"),
        optional(
            "direction",
            "\"ingress\" | \"egress\" | \"both\"",
            "ingress: what comes from them to a guest, egress: what a guest sends to them (default both)",
        ),
        optional(
            "ports",
            "list of port names",
            "ports that it applies to (default, without networks either: all)",
        ),
        optional(
            "networks",
            "list of network names",
            "networks to whose ports it applies",
        ),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required::<Name>("name");
        let address_set = fields.required::<Name>("address_set");
        let words = [
            ("ingress", Blocked::Ingress),
            ("egress", Blocked::Egress),
            ("both", Blocked::Both),
        ];
        let direction = fields.word("direction", &words, Blocked::Both);
        let ports = read_names(fields, "ports");
        let networks = read_names(fields, "networks");
        Some(Self {
            name: name?.0,
            address_set: address_set?.0,
            direction,
            ports,
            networks,
        })
    }
}

/// A list of names of objects, each once.
pub(super) fn read_names(fields: &mut Fields<'_>, field: &str) -> Vec<String> {
    let names: Vec<String> = fields
        .list::<Name>(field)
        .into_iter()
        .map(|name| name.0)
        .collect();
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    for twice in sorted.windows(2).filter(|pair| pair[0] == pair[1]) {
        fields.fault(field, format!("{:?} twice", twice[0]), "each name once");
    }
    names
}
