//! A bond: several interfaces that are one port, with the words of Linux's bonding driver (Documentation/networking/bonding.rst).

use serde::Serialize;

use crate::decode::{Field, Fields, InterfaceName, optional};

/// Most members of a bond.
const MEMBERS_MAX: usize = 16;

/// What a bond does with its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum BondMode {
    /// One carries everything; another takes over when it fails.
    #[serde(rename = "active-backup")]
    ActiveBackup,
    /// All carry traffic; the other end has them as one by configuration.
    #[serde(rename = "balance-xor")]
    BalanceXor,
    /// All that the other end agreed on by LACP carry traffic.
    #[serde(rename = "802.3ad")]
    Lacp,
}

const MODES: &[(&str, BondMode)] = &[
    ("active-backup", BondMode::ActiveBackup),
    ("balance-xor", BondMode::BalanceXor),
    ("802.3ad", BondMode::Lacp),
];

/// Which frames go by the same member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum BondHash {
    /// Those between the same MAC addresses.
    #[serde(rename = "layer2")]
    Layer2,
    /// And the same IP addresses.
    #[serde(rename = "layer2+3")]
    Layer23,
    /// Those between the same IP addresses and ports.
    #[serde(rename = "layer3+4")]
    Layer34,
}

const HASHES: &[(&str, BondHash)] = &[
    ("layer2", BondHash::Layer2),
    ("layer2+3", BondHash::Layer23),
    ("layer3+4", BondHash::Layer34),
];

/// How often the partner is to send LACPDUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LacpRate {
    /// Every 30 seconds; it is given up after 90.
    Slow,
    /// Every second; it is given up after three.
    Fast,
}

/// How the members are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberKind {
    /// Existing interfaces through AF_PACKET.
    AfPacket,
    /// Existing interfaces through AF_XDP, queue 0 of each.
    AfXdp,
    /// TAP interfaces of the kernel, made if they do not exist.
    Tap,
}

/// What is configured of a bond.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BondSpec {
    /// Its interfaces, 2 to 16.
    pub members: Vec<String>,
    /// How they are reached.
    pub member_kind: MemberKind,
    /// What it does with them.
    pub bond_mode: BondMode,
    /// Which frames go by the same member.
    pub bond_hash: BondHash,
    /// Active-backup: the member that carries everything whenever it is up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// 802.3ad: how often the partner is to send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lacp_rate: Option<LacpRate>,
    /// With fewer members usable the bond is down.
    pub min_links: u8,
    /// Milliseconds that a link must have been up to be used.
    pub up_delay_ms: u32,
    /// Milliseconds that a link must have been down to be given up.
    pub down_delay_ms: u32,
}

/// Names of the fields, for kinds of port that have none of them, and because none may change.
pub(super) const FIELD_NAMES: [&str; 9] = [
    "members",
    "member_kind",
    "bond_mode",
    "bond_hash",
    "primary",
    "lacp_rate",
    "min_links",
    "up_delay_ms",
    "down_delay_ms",
];

/// The fields, to stand among those of a port.
pub(super) const FIELDS: [Field; 9] = [
    optional(
        "members",
        "list of interface names",
        "bond: its interfaces, 2 to 16 (needed)",
    ),
    optional(
        "member_kind",
        "\"af-packet\" | \"af-xdp\" | \"tap\"",
        "bond: how its interfaces are reached (default af-packet)",
    ),
    optional(
        "bond_mode",
        "\"active-backup\" | \"balance-xor\" | \"802.3ad\"",
        "bond: what it does with its members (default 802.3ad, LACP)",
    ),
    optional(
        "bond_hash",
        "\"layer2\" | \"layer2+3\" | \"layer3+4\"",
        "bond: which frames go by the same member (default layer3+4)",
    ),
    optional(
        "primary",
        "interface name",
        "bond in active-backup: the member that carries everything whenever it is up",
    ),
    optional(
        "lacp_rate",
        "\"slow\" | \"fast\"",
        "bond in 802.3ad: the partner is to send every 30 seconds or every second (default slow)",
    ),
    optional(
        "min_links",
        "integer 1..16",
        "bond: with fewer members usable it is down (default 1)",
    ),
    optional(
        "up_delay_ms",
        "integer 0..600000",
        "bond: how long a link must have been up to be used, milliseconds (default 0)",
    ),
    optional(
        "down_delay_ms",
        "integer 0..600000",
        "bond: how long a link must have been down to be given up, milliseconds (default 0)",
    ),
];

impl BondSpec {
    pub(super) fn read(fields: &mut Fields<'_>) -> Self {
        let members = read_members(fields);
        let bond_mode = fields.word("bond_mode", MODES, BondMode::Lacp);
        let primary = fields.optional::<InterfaceName>("primary").map(|n| n.0);
        if bond_mode != BondMode::ActiveBackup {
            fields.forbid(&["primary"], "the bond is not in active-backup");
        } else if let Some(primary) = &primary
            && !members.contains(primary)
        {
            fields.fault("primary", format!("{primary:?}"), "one of the members");
        }
        let lacp_rate = if bond_mode == BondMode::Lacp {
            let words = [("slow", LacpRate::Slow), ("fast", LacpRate::Fast)];
            Some(fields.word("lacp_rate", &words, LacpRate::Slow))
        } else {
            fields.forbid(&["lacp_rate"], "the bond is not in 802.3ad");
            None
        };
        let min_links = fields.integer("min_links", 1..=MEMBERS_MAX as u8, 1);
        if usize::from(min_links) > members.len() && members.len() > 1 {
            let expected = format!("at most {}, the number of members", members.len());
            fields.fault("min_links", min_links.to_string(), expected);
        }
        let kinds = [
            ("af-packet", MemberKind::AfPacket),
            ("af-xdp", MemberKind::AfXdp),
            ("tap", MemberKind::Tap),
        ];
        Self {
            member_kind: fields.word("member_kind", &kinds, MemberKind::AfPacket),
            bond_mode,
            bond_hash: fields.word("bond_hash", HASHES, BondHash::Layer34),
            primary,
            lacp_rate,
            min_links,
            up_delay_ms: fields.integer("up_delay_ms", 0..=600_000, 0),
            down_delay_ms: fields.integer("down_delay_ms", 0..=600_000, 0),
            members,
        }
    }
}

fn read_members(fields: &mut Fields<'_>) -> Vec<String> {
    let names = fields.list::<InterfaceName>("members");
    let members: Vec<String> = names.into_iter().map(|name| name.0).collect();
    if !(2..=MEMBERS_MAX).contains(&members.len()) {
        let found = match members.len() {
            0 => "missing".to_owned(),
            count => format!("a list of {count}"),
        };
        fields.fault("members", found, format!("2 to {MEMBERS_MAX} interfaces"));
    }
    for (i, member) in members.iter().enumerate() {
        if members[..i].contains(member) {
            fields.fault(
                "members",
                format!("{member:?} twice"),
                "each interface once",
            );
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::decode::no_lines;
    use crate::model::{Any, Kind, Marks, Origin};

    fn port(fields: &Value) -> Result<Any, Vec<String>> {
        let mut map = fields.as_object().unwrap().clone();
        map.insert("name".into(), json!("b"));
        map.entry("kind").or_insert(json!("bond"));
        let read = Any::decode(
            Kind::Port,
            "port b",
            &map,
            &no_lines,
            Marks::new(Origin::Api),
        );
        read.map_err(|faults| faults.into_iter().map(|fault| fault.field).collect())
    }

    #[test]
    fn what_is_written_is_read_again() {
        for fields in [
            json!({"members": ["a", "b"]}),
            json!({"members": ["a", "b"], "bond_mode": "active-backup", "primary": "b", "up_delay_ms": 5}),
            json!({"members": ["a", "b", "c"], "bond_mode": "balance-xor", "bond_hash": "layer2+3", "min_links": 2}),
            json!({"members": ["a", "b"], "lacp_rate": "fast", "member_kind": "tap", "lldp": true}),
        ] {
            let read = port(&fields).unwrap();
            let again = port(&Value::Object(read.spec_map())).unwrap();
            assert_eq!(read.spec_map(), again.spec_map(), "{fields}");
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (fields, wrong) in [
            (json!({}), "members"),
            (json!({"members": ["a"]}), "members"),
            (json!({"members": ["a", "a"]}), "members"),
            (json!({"members": ["a", "b/c"]}), "members"),
            (json!({"members": ["a", "b"], "primary": "a"}), "primary"),
            (
                json!({"members": ["a", "b"], "bond_mode": "active-backup", "primary": "c"}),
                "primary",
            ),
            (
                json!({"members": ["a", "b"], "bond_mode": "balance-xor", "lacp_rate": "slow"}),
                "lacp_rate",
            ),
            (
                json!({"members": ["a", "b"], "interface": "a"}),
                "interface",
            ),
            (
                json!({"members": ["a", "b"], "bond_mode": "balance-rr"}),
                "bond_mode",
            ),
            (
                json!({"kind": "af-packet", "interface": "a", "members": ["a", "b"]}),
                "members",
            ),
            (json!({"members": ["a", "b"], "link": "down"}), "link"),
            (json!({"members": ["a", "b"], "min_links": 3}), "min_links"),
        ] {
            assert!(
                port(&fields).unwrap_err().contains(&wrong.to_owned()),
                "{fields}"
            );
        }
    }
}
