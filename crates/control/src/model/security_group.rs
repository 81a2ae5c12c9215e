//! A security group: what may come to the ports that are in it, and what they may send. What no rule of any of a port's groups
//! allows is dropped, in both directions: a group without egress rules lets nothing out.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{Kind, Spec};
use crate::decode::{Field, Fields, FromValue, Name, Wrong, optional, required};
use crate::value::{Prefix, is_name};

pub use super::group_rule::{Direction, GroupRule, Protocol, Remote};

/// Most rules of a group.
pub const RULES_MAX: usize = 1024;
/// Most members of a group that are not ports of this node.
pub const MEMBERS_MAX: usize = 65_536;

/// What is configured of a security group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SecurityGroupSpec {
    /// Name.
    pub name: String,
    /// Whether answers to what was allowed are allowed (connections are tracked).
    pub stateful: bool,
    /// What is allowed.
    pub rules: Vec<GroupRule>,
    /// Addresses of ports on other nodes that are in the group.
    pub members: Vec<Member>,
}

/// An address of a group's member that is not a port of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The network that it is in.
    pub network: String,
    /// Its address.
    pub prefix: Prefix,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.network, self.prefix)
    }
}

impl Serialize for Member {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl FromValue for Member {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        let parts = value.as_str().and_then(|text| text.split_once('='));
        match parts.map(|(network, prefix)| (network, prefix.parse())) {
            Some((network, Ok(prefix))) if is_name(network) => Ok(Self {
                network: network.to_owned(),
                prefix,
            }),
            _ => Err(Wrong {
                expected: "NETWORK=ADDRESS such as blue=10.0.0.7 or blue=2001:db8::/64".to_owned(),
            }),
        }
    }
}

impl Spec for SecurityGroupSpec {
    const KIND: Kind = Kind::SecurityGroup;
    const FIXED: &'static [&'static str] = &[];
    const FIELDS: &'static [Field] = &[
        required("name", "name", "name of the group"),
        optional(
            "stateful",
            "boolean",
            "answers to what was allowed are allowed, too (default true)",
        ),
        optional(
            "rules",
            "list of strings or tables",
            "what is allowed: ingress|egress [ipv4|ipv6] [PROTOCOL [PORTS | type N [code N]]] [from|to PREFIX | group NAME | set NAME]",
        ),
        optional(
            "members",
            "list of addresses as NETWORK=ADDRESS",
            "members of the group on other nodes, for rules that name it as remote",
        ),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required::<Name>("name");
        let stateful = fields.or("stateful", true);
        let rules = fields.list::<GroupRule>("rules");
        let members = fields.list::<Member>("members");
        for (field, found, limit) in [
            ("rules", rules.len(), RULES_MAX),
            ("members", members.len(), MEMBERS_MAX),
        ] {
            if found > limit {
                fields.fault(
                    field,
                    format!("a list of {found}"),
                    format!("at most {limit}"),
                );
                return None;
            }
        }
        for (i, rule) in rules.iter().enumerate() {
            if let Some(first) = rules[..i].iter().position(|other| other == rule) {
                let found = format!("{rule:?} as number {} and {}", first + 1, i + 1);
                fields.fault("rules", found, "each rule once");
            }
        }
        Some(Self {
            name: name?.0,
            stateful,
            rules,
            members,
        })
    }
}

impl SecurityGroupSpec {
    /// Groups that its rules name as remote.
    pub fn remote_groups(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().filter_map(|rule| match &rule.remote {
            Some(Remote::Group(name)) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Address sets that its rules name as remote.
    pub fn remote_sets(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().filter_map(|rule| match &rule.remote {
            Some(Remote::Set(name)) => Some(name.as_str()),
            _ => None,
        })
    }
}
