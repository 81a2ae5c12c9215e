//! A set of addresses that share their leading bits, as filters write it: `10.0.0.0/8`, `2001:db8::/32`. Bits behind the prefix
//! are zero; an interface's address with its prefix length is [`super::IpPrefix`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::{ValueError, form};

/// Addresses with the same leading bits. Ordered so that a prefix comes right before those inside it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    v6: bool,
    bits: u128,
    length: u8,
}

impl Prefix {
    /// Text form that a reader is told to write.
    pub const EXPECTED: &'static str =
        "an address, or a prefix without host bits, such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32";

    /// The addresses whose first `length` bits are those of `address`, whose other bits must be zero.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, ValueError> {
        let host = Self::host(address);
        let short = Self { length, ..host };
        if length > host.length || host.bits & !short.mask() != 0 {
            return Err(form(&format!("{address}/{length}"), Self::EXPECTED));
        }
        Ok(short)
    }

    /// This one address.
    pub fn host(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self {
                v6: false,
                bits: address.to_bits().into(),
                length: 32,
            },
            IpAddr::V6(address) => Self {
                v6: true,
                bits: address.to_bits(),
                length: 128,
            },
        }
    }

    /// Whether it is of IPv6.
    pub fn is_ipv6(self) -> bool {
        self.v6
    }

    /// Number of leading bits.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Bits of an address: 32 or 128.
    pub fn width(self) -> u8 {
        if self.v6 { 128 } else { 32 }
    }

    /// The lowest address.
    pub fn address(self) -> IpAddr {
        match self.v6 {
            false => IpAddr::V4(Ipv4Addr::from_bits(self.bits as u32)),
            true => IpAddr::V6(Ipv6Addr::from_bits(self.bits)),
        }
    }

    /// Whether every address of `other` is one of these.
    pub fn covers(self, other: Self) -> bool {
        self.v6 == other.v6
            && self.length <= other.length
            && (self.bits ^ other.bits) & self.mask() == 0
    }

    /// The leading bits set.
    fn mask(self) -> u128 {
        let all = if self.v6 { u128::MAX } else { u32::MAX.into() };
        let host = self.width() - self.length.min(self.width());
        all.checked_shl(host.into()).unwrap_or(0) & all
    }
}

impl FromStr for Prefix {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || form(text, Self::EXPECTED);
        let Some((address, length)) = text.split_once('/') else {
            return text.parse().map(Self::host).map_err(|_| wrong());
        };
        let (address, length) = (
            address.parse().map_err(|_| wrong())?,
            length.parse().map_err(|_| wrong())?,
        );
        Self::new(address, length)
    }
}

impl fmt::Display for Prefix {
    /// A single address without its length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().fmt(f)?;
        if self.length == self.width() {
            Ok(())
        } else {
            write!(f, "/{}", self.length)
        }
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_and_lengths_are_checked() {
        for good in [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "::/0",
            "2001:db8::/32",
            "192.0.2.7",
            "::1",
        ] {
            assert_eq!(good.parse::<Prefix>().unwrap().to_string(), good);
        }
        assert_eq!(
            "10.0.0.1/32".parse::<Prefix>().unwrap().to_string(),
            "10.0.0.1"
        );
        for bad in [
            "10.0.0.1/8",
            "10.0.0.0/33",
            "::/129",
            "10/8",
            "",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "2001:db8::1/64",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_covers_what_is_inside() {
        let p = |text: &str| text.parse::<Prefix>().unwrap();
        assert!(p("10.0.0.0/8").covers(p("10.1.0.0/16")) && p("0.0.0.0/0").covers(p("1.2.3.4")));
        assert!(
            !p("10.0.0.0/8").covers(p("11.0.0.0/16")) && !p("10.1.0.0/16").covers(p("10.0.0.0/8"))
        );
        assert!(!p("::/0").covers(p("10.0.0.0/8")) && p("::/0").covers(p("2001:db8::/32")));
        assert!(p("10.0.0.0/8") < p("10.0.0.0/9") && p("10.0.0.0/9") < p("10.128.0.0/9"));
    }
}
