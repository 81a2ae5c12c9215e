//! Checked scalar types of the object model: once one of these exists it is valid, so nobody
//! checks again further in. Text forms are those an operator writes in TOML, JSON and on a
//! command line. Nothing here knows an object.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

mod prefix;

pub use prefix::Prefix;

/// Why a text is not the value that was expected; the message says what would have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The text does not have the form of the type.
    #[error("{found:?} is not {expected}")]
    Form {
        /// What was written.
        found: String,
        /// What the type looks like, with an example.
        expected: &'static str,
    },
    /// The form is right, the value is outside its range.
    #[error("{found} is out of range, expected {expected}")]
    Range {
        /// What was written.
        found: String,
        /// The permitted range.
        expected: &'static str,
    },
}

fn form(found: &str, expected: &'static str) -> ValueError {
    ValueError::Form {
        found: found.to_owned(),
        expected,
    }
}

/// An Ethernet address (IEEE 802, 48 bits), written `52:54:00:12:34:56`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Text form that a reader is told to write.
    pub const EXPECTED: &'static str = "a MAC address such as 52:54:00:12:34:56";

    /// True when the group bit is set: such an address cannot belong to a port.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl FromStr for MacAddr {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(|| form(text, Self::EXPECTED))?;
            if part.len() != 2 || !part.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(form(text, Self::EXPECTED));
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| form(text, Self::EXPECTED))?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(form(text, Self::EXPECTED)),
        }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// A VXLAN network identifier (RFC 7348 section 5): 24 bits, 1 ..= 16,777,215. Zero is refused
/// because many peers use it as "none".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Vni(u32);

impl Vni {
    /// Range that a reader is told to stay in.
    pub const EXPECTED: &'static str = "a VXLAN network identifier from 1 to 16777215";

    /// Checks the range.
    pub fn new(vni: u64) -> Result<Self, ValueError> {
        match u32::try_from(vni) {
            Ok(v @ 1..=0x00ff_ffff) => Ok(Self(v)),
            _ => Err(ValueError::Range {
                found: vni.to_string(),
                expected: Self::EXPECTED,
            }),
        }
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A size in bytes, 1 byte to 8 EiB - 1 (what `off_t` can address). Written as an integer or as
/// an integer with a unit: `KiB`, `MiB`, `GiB`, `TiB` (1024) or `KB`, `MB`, `GB`, `TB` (1000).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ByteSize(u64);

const UNITS: [(&str, u64); 10] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
    ("", 1),
];

impl ByteSize {
    /// Text form that a reader is told to write.
    pub const EXPECTED: &'static str =
        "a size such as 64MiB, 10GiB or a number of bytes, from 1 byte to 8 EiB - 1";

    /// Checks the range.
    pub fn new(bytes: u64) -> Result<Self, ValueError> {
        if bytes == 0 || bytes > i64::MAX as u64 {
            return Err(ValueError::Range {
                found: bytes.to_string(),
                expected: Self::EXPECTED,
            });
        }
        Ok(Self(bytes))
    }

    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start();
        let scale = UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|(_, scale)| *scale)
            .ok_or_else(|| form(text, Self::EXPECTED))?;
        let number: u64 = number.parse().map_err(|_| form(text, Self::EXPECTED))?;
        let bytes = number.checked_mul(scale).unwrap_or(0);
        Self::new(bytes).map_err(|_| ValueError::Range {
            found: text.to_owned(),
            expected: Self::EXPECTED,
        })
    }
}

impl fmt::Display for ByteSize {
    /// The shortest exact form: `64MiB`, not `67108864`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, scale) in UNITS[..4].iter().rev() {
            if self.0.is_multiple_of(*scale) {
                return write!(f, "{}{unit}", self.0 / scale);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// An interface address with its prefix length, written `192.0.2.1/24` or `2001:db8::1/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpPrefix {
    /// The address itself, host bits included.
    pub address: IpAddr,
    /// Length of the on-link prefix in bits: 0 ..= 32 (IPv4) or 0 ..= 128 (IPv6).
    pub length: u8,
}

impl IpPrefix {
    /// Text form that a reader is told to write.
    pub const EXPECTED: &'static str =
        "an address with its prefix length, such as 192.0.2.1/24 or 2001:db8::1/64";
}

impl FromStr for IpPrefix {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || form(text, Self::EXPECTED);
        let (address, length) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let length: u8 = length.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if length > longest || address.is_unspecified() || address.is_multicast() {
            return Err(wrong());
        }
        Ok(Self { address, length })
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Serialize for IpPrefix {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Form of an object's name, told to a reader who wrote something else.
pub const NAME_EXPECTED: &str =
    "a name of 1 to 63 letters, digits, '.', '_', '-' or ':', not a number";

/// Whether `text` can name an object. A number (also as `0x10`) is refused because a port may also
/// be given by its index.
pub fn is_name(text: &str) -> bool {
    let number = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
    let hex = |text: &str| {
        text.strip_prefix("0x")
            .is_some_and(|h| h.bytes().all(|c| c.is_ascii_hexdigit()))
    };
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"._-:".contains(&c))
        && !number(text)
        && !hex(text)
        && !text.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_read_units_and_write_the_shortest_exact_form() {
        for (text, bytes, shown) in [
            ("64MiB", 64 << 20, "64MiB"),
            ("64 mib", 64 << 20, "64MiB"),
            ("1GB", 1_000_000_000, "1000000000"),
            ("4096", 4096, "4KiB"),
            ("513B", 513, "513"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.bytes(), bytes, "{text}");
            assert_eq!(size.to_string(), shown);
        }
        for text in [
            "",
            "MiB",
            "-1",
            "1.5GiB",
            "0",
            "9999999999TiB",
            "16777216TiB",
            "1 XiB",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_refuse_what_is_not_one() {
        assert_eq!(
            "52:54:00:AB:cd:01".parse::<MacAddr>().unwrap().to_string(),
            "52:54:00:ab:cd:01"
        );
        for text in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "52-54-00-12-34-56",
            "+2:54:00:12:34:56",
        ] {
            assert!(text.parse::<MacAddr>().is_err(), "{text}");
        }
        assert!("10.0.0.1/33".parse::<IpPrefix>().is_err());
        assert!("224.0.0.1/24".parse::<IpPrefix>().is_err());
        assert!("10.0.0.1".parse::<IpPrefix>().is_err());
        assert_eq!(
            "2001:db8::1/64".parse::<IpPrefix>().unwrap().to_string(),
            "2001:db8::1/64"
        );
        assert!(Vni::new(0).is_err());
        assert!(Vni::new(1 << 24).is_err());
        assert_eq!(Vni::new(0xff_ffff).unwrap().get(), 0xff_ffff);
    }

    #[test]
    fn names() {
        for good in ["vm1", "a", "blue.net", "vhost-0", "x:1"] {
            assert!(is_name(good), "{good}");
        }
        let long = "a".repeat(64);
        for bad in [
            "",
            "12",
            "0x1F",
            "a b",
            "a/b",
            ".x",
            "-x",
            "ü",
            long.as_str(),
        ] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn size_text_round_trips(bytes in 1u64..=i64::MAX as u64) {
            let size = ByteSize::new(bytes).unwrap();
            prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }

        #[test]
        fn mac_text_round_trips(bytes: [u8; 6]) {
            prop_assert_eq!(MacAddr(bytes).to_string().parse::<MacAddr>().unwrap(), MacAddr(bytes));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,40}") {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<MacAddr>();
            let _ = text.parse::<IpPrefix>();
            let _ = is_name(&text);
        }
    }
}
