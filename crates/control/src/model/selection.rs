//! Which frames of which ports: the words that captures, mirrors and flow export share.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;
use sumeru_flow::Rule;
use sumeru_flow::syntax::parse_rule;

use super::blocklist::read_names;
use crate::decode::{Fields, FromValue, Wrong};

/// Which way frames go, as the switch sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// They come in by a port.
    Ingress,
    /// They leave by it.
    Egress,
    /// Either.
    Both,
}

const WAYS: &[(&str, Way)] = &[
    ("ingress", Way::Ingress),
    ("egress", Way::Egress),
    ("both", Way::Both),
];

/// IP protocols that have a word (IANA, Protocol Numbers).
const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", 1),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("icmp6", 58),
    ("sctp", 132),
];

/// The fields of a selection, behind those that a kind has of its own.
#[macro_export]
macro_rules! with_selection {
    ($($own:expr,)*) => {
        &[
            $($own,)*
            $crate::decode::optional("ports", "list of port names", "only these ports (default: all)"),
            $crate::decode::optional(
                "direction",
                "\"ingress\" | \"egress\" | \"both\"",
                "frames that come in by the ports, leave by them, or either",
            ),
            $crate::decode::optional(
                "pattern",
                "string",
                "only frames that match these items of headers, in testpmd's syntax: eth / ipv4 / tcp dst is 80",
            ),
            $crate::decode::optional(
                "host",
                "address",
                "only packets from or to this address, in a tunnel too",
            ),
            $crate::decode::optional(
                "l4_port",
                "integer 1..65535",
                "only packets from or to this port of TCP, UDP or SCTP, in a tunnel too",
            ),
            $crate::decode::optional(
                "protocol",
                "\"icmp\" | \"tcp\" | \"udp\" | \"gre\" | \"esp\" | \"icmp6\" | \"sctp\" | 0..255",
                "only packets of this IP protocol, in a tunnel too",
            ),
            $crate::decode::optional(
                "sample",
                "integer 1..1000000",
                "one frame in so many, by chance (default 1: each)",
            ),
        ]
    };
}

/// Which frames.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FrameSelection {
    /// Names of ports; all without one.
    pub ports: Vec<String>,
    /// Which way.
    pub direction: Way,
    /// What the headers match, as it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<HeaderPattern>,
    /// Source or destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<IpAddr>,
    /// Source or destination port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l4_port: Option<u16>,
    /// IP protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// One in so many.
    pub sample: u32,
}

impl FrameSelection {
    /// Reads the fields of [`with_selection`].
    pub fn read(fields: &mut Fields<'_>, direction: Way) -> Self {
        Self {
            ports: read_names(fields, "ports"),
            direction: fields.word("direction", WAYS, direction),
            pattern: fields.optional("pattern"),
            host: fields.optional("host"),
            l4_port: fields.optional_integer("l4_port", 1..=u16::MAX),
            protocol: fields.optional::<Protocol>("protocol").map(|p| p.0),
            sample: fields.integer("sample", 1..=1_000_000, 1),
        }
    }
}

/// A pattern of headers with its text.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct HeaderPattern {
    /// As it was written, without the `end`.
    text: String,
    /// A rule with that pattern.
    #[serde(skip)]
    rule: Rule,
}

impl HeaderPattern {
    /// The items.
    pub fn items(&self) -> &[sumeru_flow::model::Item] {
        &self.rule.pattern
    }
}

impl FromValue for HeaderPattern {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        let wrong = |why: String| Wrong {
            expected: format!("items such as \"eth / ipv4 / tcp dst is 80\"{why}"),
        };
        let text = value.as_str().ok_or_else(|| wrong(String::new()))?.trim();
        let text = text.strip_suffix("end").unwrap_or(text);
        let text = text.trim_end().trim_end_matches('/').trim();
        let rule = parse_rule(&format!("ingress pattern {text} / end actions drop / end"))
            .map_err(|error| wrong(format!(": {error}")))?;
        rule.validate()
            .map_err(|error| wrong(format!(" that make sense: {error}")))?;
        Ok(Self {
            text: text.to_owned(),
            rule,
        })
    }
}

/// An IP protocol by word or number.
struct Protocol(u8);

impl FromValue for Protocol {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        let word = value.as_str();
        let named = PROTOCOLS.iter().find(|(name, _)| word == Some(*name));
        let number = match word {
            Some(text) => text.parse().ok(),
            None => value.as_u64().and_then(|number| number.try_into().ok()),
        };
        match named.map(|(_, number)| *number).or(number) {
            Some(number) => Ok(Self(number)),
            None => {
                let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
                Err(Wrong {
                    expected: format!("one of {}, or 0 to 255", names.join(", ")),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn patterns_are_read_with_and_without_their_end() {
        for text in [
            "eth / ipv4 / tcp dst is 80",
            "eth / ipv4 / tcp dst is 80 / end",
            " eth / ipv4 / tcp dst is 80 /",
        ] {
            let pattern = HeaderPattern::from_value(&json!(text)).unwrap();
            assert_eq!(pattern.items().len(), 3);
            assert_eq!(json!(pattern), json!("eth / ipv4 / tcp dst is 80"));
        }
        // The text is part of a rule's, and must not become more of it than a pattern.
        for wrong in ["eth / end actions drop", "ipv9", "", "eth / tcp / eth"] {
            assert!(HeaderPattern::from_value(&json!(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn protocols_have_words_and_numbers() {
        let read = |value| Protocol::from_value(&value).map(|p| p.0).ok();
        assert_eq!(read(json!("udp")), Some(17));
        assert_eq!(read(json!("89")), Some(89));
        assert_eq!(read(json!(89)), Some(89));
        assert_eq!(read(json!(256)), None);
        assert_eq!(read(json!("quic")), None);
    }
}
