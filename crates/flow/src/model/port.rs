//! A port as a rule names it: by number, as in DPDK, or by the name it was created with.
//!
//! Whether the port exists is not known here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Name or number of a port: 1 to 64 letters, digits and `_ . : @ -`.
///
/// Text that is a number in testpmd's notation (`0x10`, `017`) becomes that number in decimal, so
/// equal numbers are equal references.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRef(String);

/// Text that cannot name a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a port is a number or a name of 1 to {max} letters, digits and _ . : @ -", max = PortRef::MAX_LENGTH)]
pub struct PortRefError;

impl PortRef {
    /// The longest name, in bytes.
    pub const MAX_LENGTH: usize = 64;

    /// The reference, or an error if the text cannot name a port.
    pub fn new(text: &str) -> Result<Self, PortRefError> {
        if let Some(number) = crate::number::parse(text).and_then(|n| u32::try_from(n).ok()) {
            return Ok(Self::from(number));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.:@-".contains(&b);
        if text.is_empty() || text.len() > Self::MAX_LENGTH || !text.bytes().all(allowed) {
            return Err(PortRefError);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name, or the number in decimal.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number, if the port is named by one.
    pub fn number(&self) -> Option<u32> {
        // Only the canonical form: a name such as `08` is no number in testpmd's notation.
        self.0
            .parse()
            .ok()
            .filter(|number: &u32| number.to_string() == self.0)
    }
}

impl From<u32> for PortRef {
    fn from(number: u32) -> Self {
        Self(number.to_string())
    }
}

impl FromStr for PortRef {
    type Err = PortRefError;
    fn from_str(text: &str) -> Result<Self, PortRefError> {
        Self::new(text)
    }
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for PortRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.number() {
            Some(number) => serializer.serialize_u32(number),
            None => serializer.serialize_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for PortRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a port number or name")]
        enum Form {
            Number(u32),
            Name(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(number) => Ok(Self::from(number)),
            Form::Name(name) => Self::new(&name).map_err(serde::de::Error::custom),
        }
    }
}
