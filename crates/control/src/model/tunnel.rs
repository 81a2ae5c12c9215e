//! What a network says of the headers that its frames travel between nodes with.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::decode::{Fields, FromValue, Wrong};

/// Longest data of one Geneve option in bytes (RFC 8926 section 3.5).
const OPTION_DATA_MAX: usize = 124;
/// Most bytes of the Geneve options of a network, headers included: what is left of the engine's room for outer headers over IPv6.
pub const OPTIONS_MAX: usize = 48;

/// Where a field of the outer IP header comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OuterField {
    /// Always this value (pipe model, RFC 2983).
    Fixed(u8),
    /// From the packet inside (uniform model); the default for one that is not IP.
    Copy,
}

impl Serialize for OuterField {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(value) => serializer.serialize_u8(*value),
            Self::Copy => serializer.serialize_str("copy"),
        }
    }
}

/// Reads a field that is a number in a range or `"copy"`.
pub(super) fn read_outer(
    fields: &mut Fields<'_>,
    field: &str,
    range: std::ops::RangeInclusive<u8>,
    default: u8,
) -> OuterField {
    let Some(value) = fields.raw(field) else {
        return OuterField::Fixed(default);
    };
    if value.as_str() == Some("copy") {
        return OuterField::Copy;
    }
    // A command line has only text.
    let number = value
        .as_u64()
        .or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    let number = number.and_then(|number| u8::try_from(number).ok());
    match number.filter(|number| range.contains(number)) {
        Some(number) => OuterField::Fixed(number),
        None => {
            let expected = format!("{} to {}, or \"copy\"", range.start(), range.end());
            fields.fault(field, value.to_string(), expected);
            OuterField::Fixed(default)
        }
    }
}

/// A Geneve option (RFC 8926 section 3.5), written `CLASS:TYPE:DATA` as iproute2 does: two numbers, and the data in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GeneveOption {
    /// Who defines the type.
    pub class: u16,
    /// The type; from 128 on the option is critical: who does not know it drops the frame.
    pub kind: u8,
    /// Data, a multiple of 4 bytes, at most 124.
    pub data: Vec<u8>,
}

impl GeneveOption {
    const EXPECTED: &'static str =
        "CLASS:TYPE:DATA such as 0x0102:0x80:00112233, the data 4 to 124 bytes in steps of 4";

    /// Bytes on the wire.
    pub fn encode(&self, to: &mut Vec<u8>) {
        to.extend(self.class.to_be_bytes());
        to.extend([self.kind, (self.data.len() / 4) as u8]);
        to.extend(&self.data);
    }
}

impl FromStr for GeneveOption {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(digits) => u16::from_str_radix(digits, 16).map_err(drop),
            None => text.parse().map_err(drop),
        };
        let mut parts = text.splitn(3, ':');
        let mut part = || parts.next().ok_or(());
        let (class, kind, data) = (number(part()?)?, number(part()?)?, part()?);
        let data = (0..data.len())
            .step_by(2)
            .map(|at| {
                let digits = data.get(at..at + 2).ok_or(())?;
                u8::from_str_radix(digits, 16).map_err(drop)
            })
            .collect::<Result<Vec<u8>, ()>>()?;
        let fits = data.len().is_multiple_of(4) && (4..=OPTION_DATA_MAX).contains(&data.len());
        let kind = u8::try_from(kind).map_err(drop)?;
        fits.then_some(Self { class, kind, data }).ok_or(())
    }
}

impl fmt::Display for GeneveOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}:{:#04x}:", self.class, self.kind)?;
        self.data
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for GeneveOption {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromValue for GeneveOption {
    fn from_value(value: &Value) -> Result<Self, Wrong> {
        let option = value.as_str().and_then(|text| text.parse().ok());
        option.ok_or_else(|| Wrong {
            expected: Self::EXPECTED.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_written_as_it_is_read() {
        let option: GeneveOption = "258:0x80:00112233".parse().unwrap();
        assert_eq!(option.to_string(), "0x0102:0x80:00112233");
        let mut bytes = Vec::new();
        option.encode(&mut bytes);
        assert_eq!(bytes, [1, 2, 0x80, 1, 0, 0x11, 0x22, 0x33]);
        for wrong in [
            "",
            "1:2",
            "1:2:",
            "1:2:00",
            "1:256:00112233",
            "1:2:0011223g",
            "65536:2:00112233",
            "1:2:é0112233",
        ] {
            assert!(wrong.parse::<GeneveOption>().is_err(), "{wrong}");
        }
    }
}
