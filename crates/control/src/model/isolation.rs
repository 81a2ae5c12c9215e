//! An isolation policy: which ports or networks of the node may talk to each other at all, whatever their groups allow.

use serde::Serialize;

use super::blocklist::read_names;
use super::{Kind, Spec};
use crate::decode::{Field, Fields, Name, optional, required};

/// What a policy says of its members. Ports of one network that is a member are one party.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolate {
    /// Members may not talk to each other.
    Deny,
    /// Members may talk to nobody but each other.
    Allow,
}

/// What is configured of an isolation policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IsolationSpec {
    /// Name.
    pub name: String,
    /// What it says of its members.
    pub mode: Isolate,
    /// Ports that are members, each a party of its own.
    pub ports: Vec<String>,
    /// Networks that are members: all ports of one are one party.
    pub networks: Vec<String>,
}

impl Spec for IsolationSpec {
    const KIND: Kind = Kind::Isolation;
    const FIXED: &'static [&'static str] = &[];
    const FIELDS: &'static [Field] = &[
        required("name", "name", "name of the policy"),
        required(
            "mode",
            "\"deny\" | \"allow\"",
            "deny: members may not talk to each other; allow: they may talk to nobody else",
        ),
        optional("ports", "list of port names", "members"),
        optional(
            "networks",
            "list of network names",
            "members; the ports of one network may talk to each other",
        ),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required::<Name>("name");
        let mode = fields.required_word(
            "mode",
            &[("deny", Isolate::Deny), ("allow", Isolate::Allow)],
        );
        let ports = read_names(fields, "ports");
        let networks = read_names(fields, "networks");
        if ports.is_empty() && networks.is_empty() {
            fields.fault("ports", "empty, and so is networks", "at least one member");
        }
        Some(Self {
            name: name?.0,
            mode: mode?,
            ports,
            networks,
        })
    }
}
