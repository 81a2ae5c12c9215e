//! One rule of a security group, as text or as a table, and its one printed form:
//!
//! ```text
//! ingress tcp 80-90 from 10.0.0.0/8
//! egress ipv6 udp 53 to set resolvers
//! ingress icmp type 8 code 0 from group web
//! ingress 47
//! egress
//! ```
//! Without IP version a rule is for both, without protocol, ports or remote for all of them.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::decode::{FromValue, Wrong};
use crate::value::{Prefix, is_name};

/// Which way the traffic of a rule goes, as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the guest.
    Ingress,
    /// From the guest.
    Egress,
}

impl Direction {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// What a rule matches of the layer above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Anything.
    Any,
    /// TCP to ports of a range (RFC 9293).
    Tcp(u16, u16),
    /// UDP to ports of a range (RFC 768).
    Udp(u16, u16),
    /// SCTP to ports of a range (RFC 9260).
    Sctp(u16, u16),
    /// ICMP of this type and code (RFC 792); over IPv4 only.
    Icmp(Option<u8>, Option<u8>),
    /// ICMPv6 of this type and code (RFC 4443); over IPv6 only.
    Icmp6(Option<u8>, Option<u8>),
    /// A protocol by its number.
    Number(u8),
}

/// Who is on the other side.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Remote {
    /// These addresses.
    Prefix(Prefix),
    /// Addresses of the ports in a group, in the port's network.
    Group(String),
    /// Addresses of a set.
    Set(String),
}

/// One rule of a security group: what it allows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupRule {
    /// Which way.
    pub direction: Direction,
    /// IPv6 (true), IPv4 (false) or both.
    pub ipv6: Option<bool>,
    /// What above IP.
    pub protocol: Protocol,
    /// Who is on the other side; anybody if absent.
    pub remote: Option<Remote>,
}

/// Fields of a rule written as a table; also what the words of a text become.
const KEYS: [&str; 9] = [
    "direction",
    "ethertype",
    "protocol",
    "ports",
    "icmp_type",
    "icmp_code",
    "remote_prefix",
    "remote_group",
    "remote_set",
];
const ALL_PORTS: (u16, u16) = (1, 65_535);

fn wrong<T>(expected: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong {
        expected: expected.into(),
    })
}

/// The words of a text as a table.
fn table_of(text: &str) -> Result<Map<String, Value>, Wrong> {
    let mut table = Map::new();
    let mut words = text.split_ascii_whitespace().peekable();
    let mut put = |key: &str, value: &str| match table.insert(key.to_owned(), Value::from(value)) {
        None => Ok(()),
        Some(first) => wrong(format!("a rule with one {key}, not {first} and {value:?}")),
    };
    put("direction", words.next().unwrap_or_default())?;
    while let Some(word) = words.next() {
        let mut argument = |what: &str| match words.next() {
            Some(word) => Ok(word),
            None => wrong(format!("a rule with {what} behind {word:?}")),
        };
        match word {
            "ipv4" | "ipv6" => put("ethertype", word)?,
            "type" => put("icmp_type", argument("a number")?)?,
            "code" => put("icmp_code", argument("a number")?)?,
            "from" | "to" => {
                let right = if text.trim_start().starts_with("egress") {
                    "to"
                } else {
                    "from"
                };
                if word != right {
                    return wrong(format!("a rule with {right:?} instead of {word:?}"));
                }
                match argument("a prefix, group NAME, set NAME or any")? {
                    "any" => {}
                    "group" => put("remote_group", words.next().unwrap_or_default())?,
                    "set" => put("remote_set", words.next().unwrap_or_default())?,
                    prefix => put("remote_prefix", prefix)?,
                }
            }
            protocol => {
                put("protocol", protocol)?;
                if words
                    .peek()
                    .is_some_and(|next| next.starts_with(|c: char| c.is_ascii_digit()))
                {
                    put("ports", words.next().unwrap_or_default())?;
                }
            }
        }
    }
    Ok(table)
}

/// Reads the fields of a table, one message for the first thing that is wrong.
struct Table<'a>(&'a Map<String, Value>);

impl Table<'_> {
    /// A string or a number as text.
    fn text(&self, key: &str) -> Result<Option<String>, Wrong> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => wrong(format!("a rule whose {key} is a string or a number")),
        }
    }

    fn byte(&self, key: &str) -> Result<Option<u8>, Wrong> {
        match self.text(key)?.map(|text| text.parse()) {
            None => Ok(None),
            Some(Ok(number)) => Ok(Some(number)),
            Some(Err(_)) => wrong(format!("a rule whose {key} is a number from 0 to 255")),
        }
    }

    fn ports(&self) -> Result<Option<(u16, u16)>, Wrong> {
        let Some(text) = self.text("ports")? else {
            return Ok(None);
        };
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first @ 1..), Ok(last)) if first <= last => Ok(Some((first, last))),
            (Ok(first @ 1..), Ok(last)) => {
                wrong(format!("a rule with the lower port first, {last}-{first}"))
            }
            _ => wrong("a rule whose ports are N or N-M of 1 to 65535"),
        }
    }

    fn protocol(&self) -> Result<Protocol, Wrong> {
        let name = self.text("protocol")?;
        let (ports, icmp) = (
            self.ports()?,
            (self.byte("icmp_type")?, self.byte("icmp_code")?),
        );
        if let (None, Some(_)) = icmp {
            return wrong("a rule with an ICMP type beside the code");
        }
        let range = ports.unwrap_or(ALL_PORTS);
        let protocol = match name.as_deref() {
            None | Some("any") => Protocol::Any,
            Some("tcp" | "6") => Protocol::Tcp(range.0, range.1),
            Some("udp" | "17") => Protocol::Udp(range.0, range.1),
            Some("sctp" | "132") => Protocol::Sctp(range.0, range.1),
            Some("icmp" | "1") => Protocol::Icmp(icmp.0, icmp.1),
            Some("icmp6" | "58") => Protocol::Icmp6(icmp.0, icmp.1),
            Some(number) => match number.parse() {
                Ok(number) => Protocol::Number(number),
                Err(_) => {
                    return wrong(format!(
                        "a rule whose protocol is tcp, udp, sctp, icmp, icmp6, any or a number, not {number:?}"
                    ));
                }
            },
        };
        let has_ports = matches!(
            protocol,
            Protocol::Tcp(..) | Protocol::Udp(..) | Protocol::Sctp(..)
        );
        if ports.is_some() && !has_ports {
            return wrong("a rule with ports for tcp, udp or sctp only");
        }
        if icmp.0.is_some() && !matches!(protocol, Protocol::Icmp(..) | Protocol::Icmp6(..)) {
            return wrong("a rule with an ICMP type for icmp or icmp6 only");
        }
        Ok(protocol)
    }

    fn remote(&self) -> Result<Option<Remote>, Wrong> {
        let prefix = match self.text("remote_prefix")?.map(|text| text.parse()) {
            None => None,
            Some(Ok(prefix)) => Some(Remote::Prefix(prefix)),
            Some(Err(_)) => {
                return wrong(format!(
                    "a rule whose remote prefix is {}",
                    Prefix::EXPECTED
                ));
            }
        };
        let named = |key| match self.text(key)? {
            Some(name) if !is_name(&name) => {
                wrong(format!("a rule whose {key} is a name, not {name:?}"))
            }
            name => Ok(name),
        };
        match (prefix, named("remote_group")?, named("remote_set")?) {
            (remote, None, None) => Ok(remote),
            (None, Some(group), None) => Ok(Some(Remote::Group(group))),
            (None, None, Some(set)) => Ok(Some(Remote::Set(set))),
            _ => wrong("a rule with one remote: a prefix, a group or a set"),
        }
    }

    fn rule(&self) -> Result<GroupRule, Wrong> {
        if let Some(key) = self.0.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return wrong(format!(
                "a rule with no field but {}, not {key:?}",
                KEYS.join(", ")
            ));
        }
        let direction = match self.text("direction")?.as_deref() {
            Some("ingress") => Direction::Ingress,
            Some("egress") => Direction::Egress,
            _ => {
                return wrong(
                    "a rule that begins with ingress or egress, such as \"ingress tcp 80-90 from 10.0.0.0/8\"",
                );
            }
        };
        let written = match self.text("ethertype")?.as_deref() {
            None | Some("any") => None,
            Some("ipv4") => Some(false),
            Some("ipv6") => Some(true),
            Some(_) => return wrong("a rule whose ethertype is ipv4, ipv6 or any"),
        };
        let (protocol, remote) = (self.protocol()?, self.remote()?);
        let of_protocol = match protocol {
            Protocol::Icmp(..) => Some(false),
            Protocol::Icmp6(..) => Some(true),
            _ => None,
        };
        let of_remote = match remote {
            Some(Remote::Prefix(prefix)) => Some(prefix.is_ipv6()),
            _ => None,
        };
        let mut ipv6 = None;
        for version in [written, of_protocol, of_remote].into_iter().flatten() {
            if ipv6.replace(version).is_some_and(|other| other != version) {
                return wrong(
                    "a rule of one IP version: icmp and addresses such as 10.0.0.1 are IPv4, icmp6 and such as 2001:db8::1 IPv6",
                );
            }
        }
        Ok(GroupRule {
            direction,
            ipv6,
            protocol,
            remote,
        })
    }
}

impl FromValue for GroupRule {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        match value {
            Value::String(text) => Table(&table_of(text)?).rule(),
            Value::Object(table) => Table(table).rule(),
            _ => {
                wrong("a rule as text such as \"ingress tcp 80-90 from 10.0.0.0/8\", or as a table")
            }
        }
    }
}

impl fmt::Display for GroupRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.direction.word())?;
        let implied = matches!(self.protocol, Protocol::Icmp(..) | Protocol::Icmp6(..))
            || matches!(self.remote, Some(Remote::Prefix(_)));
        match self.ipv6 {
            Some(ipv6) if !implied => f.write_str(if ipv6 { " ipv6" } else { " ipv4" })?,
            _ => {}
        }
        match self.protocol {
            Protocol::Any => {}
            Protocol::Tcp(first, last) => write_ports(f, "tcp", first, last)?,
            Protocol::Udp(first, last) => write_ports(f, "udp", first, last)?,
            Protocol::Sctp(first, last) => write_ports(f, "sctp", first, last)?,
            Protocol::Icmp(of_type, code) => write_icmp(f, "icmp", of_type, code)?,
            Protocol::Icmp6(of_type, code) => write_icmp(f, "icmp6", of_type, code)?,
            Protocol::Number(number) => write!(f, " {number}")?,
        }
        let side = if self.direction == Direction::Ingress {
            "from"
        } else {
            "to"
        };
        match &self.remote {
            None => Ok(()),
            Some(Remote::Prefix(prefix)) => write!(f, " {side} {prefix}"),
            Some(Remote::Group(name)) => write!(f, " {side} group {name}"),
            Some(Remote::Set(name)) => write!(f, " {side} set {name}"),
        }
    }
}

fn write_ports(f: &mut fmt::Formatter<'_>, name: &str, first: u16, last: u16) -> fmt::Result {
    match (first, last) {
        ALL_PORTS => write!(f, " {name}"),
        _ if first == last => write!(f, " {name} {first}"),
        _ => write!(f, " {name} {first}-{last}"),
    }
}

fn write_icmp(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    of_type: Option<u8>,
    code: Option<u8>,
) -> fmt::Result {
    write!(f, " {name}")?;
    of_type.map_or(Ok(()), |of_type| write!(f, " type {of_type}"))?;
    code.map_or(Ok(()), |code| write!(f, " code {code}"))
}

impl Serialize for GroupRule {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<String, String> {
        GroupRule::from_value(&value)
            .map(|rule| rule.to_string())
            .map_err(|wrong| wrong.expected)
    }

    #[test]
    fn texts_and_tables_have_one_printed_form() {
        for text in [
            "ingress",
            "egress",
            "ingress tcp",
            "ingress tcp 80",
            "egress ipv6 udp 53-54 to set resolvers",
            "ingress icmp type 8 code 0 from group web",
            "ingress 47 from 10.0.0.0/8",
            "ingress icmp6 type 128",
            "egress sctp 1-10 to 2001:db8::1",
            "ingress ipv4 from group web",
        ] {
            assert_eq!(read(json!(text)), Ok(text.to_owned()));
        }
        assert_eq!(read(json!("egress any to any")), Ok("egress".into()));
        assert_eq!(
            read(json!("ingress 6 1-65535 from 10.0.0.1/32")),
            Ok("ingress tcp from 10.0.0.1".into())
        );
        let table = json!({"direction": "ingress", "ethertype": "ipv4", "protocol": "tcp", "ports": "80-90", "remote_group": "web"});
        assert_eq!(
            read(table),
            Ok("ingress ipv4 tcp 80-90 from group web".into())
        );
        let table = json!({"direction": "ingress", "protocol": "icmp", "icmp_type": 3, "icmp_code": 1, "remote_prefix": null});
        assert_eq!(read(table), Ok("ingress icmp type 3 code 1".into()));
    }

    #[test]
    fn wrong_rules_say_what_is_wrong() {
        for (text, part) in [
            ("", "ingress or egress"),
            ("forward tcp", "ingress or egress"),
            ("ingress tcp 90-80", "80-90"),
            ("ingress tcp 0", "1 to 65535"),
            ("ingress tcp 65536", "1 to 65535"),
            ("ingress icmp code 0", "type beside the code"),
            ("ingress tcp type 8", "icmp or icmp6 only"),
            ("ingress icmp type 256", "0 to 255"),
            ("ingress 47 10", "tcp, udp or sctp only"),
            ("ingress ipv6 icmp", "one IP version"),
            ("ingress ipv4 from ::1", "one IP version"),
            ("ingress to 10.0.0.0/8", "from"),
            ("egress from 10.0.0.0/8", "to"),
            ("ingress from 10.0.0.1/8", "without host bits"),
            ("ingress from", "behind"),
            ("ingress from group", "a name"),
            ("ingress tcp udp", "one protocol"),
            ("ingress gre", "not \"gre\""),
            ("ingress from 10.0.0.1 from set x", "one remote"),
        ] {
            let error = read(json!(text)).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(
            read(json!({"direction": "ingress", "port": 80}))
                .unwrap_err()
                .contains("\"port\"")
        );
        assert!(read(json!(7)).unwrap_err().contains("as text"));
    }
}
