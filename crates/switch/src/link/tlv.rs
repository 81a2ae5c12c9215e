//! LLDPDUs as bytes: the basic TLVs of IEEE 802.1AB-2016, clause 8, and those of 802.1Q, annex D, and 802.3, clause 79 that matter here.
//!
//! Parsing is that of 802.1AB-2016, 9.2.7.7: what breaks the frame's order or lengths condemns the frame, what breaks an optional TLV
//! that TLV only; what is not known is counted and skipped.

use std::fmt;
use std::net::IpAddr;

use arrayvec::ArrayVec;
use thiserror::Error;

use super::Mac;

/// Destination of LLDP frames that no bridge passes on.
pub const LLDP_MAC: Mac = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
/// The EtherType of LLDP.
pub const LLDP_ETHERTYPE: u16 = 0x88cc;
/// Most management addresses that are kept of a neighbour.
pub const MANAGEMENT_MAX: usize = 8;
/// Longest text of a TLV, and longest identifier.
pub const TEXT_MAX: usize = 255;

const HEADER: usize = 14;
const ORGANIZATION: u8 = 127;
const OUI_8021: [u8; 3] = [0x00, 0x80, 0xc2];
const OUI_8023: [u8; 3] = [0x00, 0x12, 0x0f];

/// A frame that is no LLDPDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TlvError {
    /// Not addressed or typed as LLDP.
    #[error("no LLDP frame")]
    NotLldp,
    /// A TLV goes on past the end of the frame.
    #[error("TLV {kind} of {len} bytes goes past the end of the frame")]
    Truncated {
        /// Its type.
        kind: u8,
        /// Its length.
        len: usize,
    },
    /// Chassis ID, port ID and TTL must come first, in that order, and once.
    #[error("TLV {0} where it must not be")]
    Order(u8),
    /// A mandatory TLV of an impossible length.
    #[error("TLV {kind} of {len} bytes")]
    Length {
        /// Its type.
        kind: u8,
        /// Its length.
        len: usize,
    },
}

/// Text of somebody else. Shown with everything escaped that a terminal might act on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Text(Box<[u8]>);

impl Text {
    /// The bytes as received.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in String::from_utf8_lossy(&self.0).chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

/// A chassis or port identifier: a subtype and 1 to 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    /// What the bytes are; see [`Id::CHASSIS_MAC`] and its like.
    pub subtype: u8,
    /// Whether it names a chassis; subtypes mean other things for ports.
    pub chassis: bool,
    value: Box<[u8]>,
}

impl Id {
    /// Chassis subtype: a MAC address.
    pub const CHASSIS_MAC: u8 = 4;
    /// Port subtype: a MAC address.
    pub const PORT_MAC: u8 = 3;
    /// Port subtype: an interface name.
    pub const PORT_NAME: u8 = 5;

    /// The bytes.
    pub fn value(&self) -> &[u8] {
        &self.value
    }
}

impl fmt::Display for Id {
    /// MAC addresses as such, other identifiers as text where they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mac = if self.chassis {
            Id::CHASSIS_MAC
        } else {
            Id::PORT_MAC
        };
        if self.subtype != mac {
            return Text(self.value.clone()).fmt(f);
        }
        for (i, byte) in self.value.iter().enumerate() {
            write!(f, "{}{byte:02x}", if i == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

/// System capabilities, bits as in 802.1AB-2016, table 8-4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// What the system could be.
    pub available: u16,
    /// What it is.
    pub enabled: u16,
}

impl Capabilities {
    /// Forwards frames between ports.
    pub const BRIDGE: u16 = 1 << 2;
    /// Forwards packets between networks.
    pub const ROUTER: u16 = 1 << 4;
    /// Only an end of links.
    pub const STATION: u16 = 1 << 7;
}

/// An address at which a system is managed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Management {
    /// The address; None if it is of a family other than IPv4 and IPv6.
    pub address: Option<IpAddr>,
    /// Its interface's number.
    pub interface: u32,
}

/// Link aggregation (802.3-2012, 79.3.3; 802.1Q, D.2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aggregation {
    /// The link can be aggregated.
    pub capable: bool,
    /// It is.
    pub aggregated: bool,
    /// Number of the aggregated port; zero if it is not.
    pub port: u32,
}

/// What an LLDPDU says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lldpdu {
    /// The system.
    pub chassis: Id,
    /// Its port.
    pub port: Id,
    /// Seconds that this holds; zero takes it back.
    pub ttl: u16,
    /// Port description.
    pub port_description: Option<Text>,
    /// System name.
    pub system_name: Option<Text>,
    /// System description.
    pub system_description: Option<Text>,
    /// System capabilities.
    pub capabilities: Option<Capabilities>,
    /// Management addresses, the first [`MANAGEMENT_MAX`] of them.
    pub management: ArrayVec<Management, MANAGEMENT_MAX>,
    /// VLAN of untagged frames; zero for none (802.1Q).
    pub pvid: Option<u16>,
    /// Link aggregation.
    pub aggregation: Option<Aggregation>,
    /// Longest frame, with header and check sequence (802.3).
    pub max_frame: Option<u16>,
    /// TLVs that are not known here.
    pub unrecognized: u32,
    /// TLVs that made no sense, came twice, or were one management address too many.
    pub discarded: u32,
}

/// Splits the first TLV off: type, value, rest.
fn split(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), TlvError> {
    let (head, rest) = bytes.split_first_chunk::<2>().ok_or(TlvError::Truncated {
        kind: bytes.first().map_or(0, |byte| byte >> 1),
        len: 0,
    })?;
    let word = u16::from_be_bytes(*head);
    let (kind, len) = ((word >> 9) as u8, usize::from(word & 0x1ff));
    let (value, rest) = rest
        .split_at_checked(len)
        .ok_or(TlvError::Truncated { kind, len })?;
    Ok((kind, value, rest))
}

fn id(kind: u8, value: &[u8]) -> Result<Id, TlvError> {
    match value {
        [subtype, value @ ..] if (1..=TEXT_MAX).contains(&value.len()) => Ok(Id {
            subtype: *subtype,
            chassis: kind == 1,
            value: value.into(),
        }),
        _ => Err(TlvError::Length {
            kind,
            len: value.len(),
        }),
    }
}

fn management(value: &[u8]) -> Option<Management> {
    let (len, rest) = value.split_first()?;
    let (address, rest) = rest.split_at_checked(usize::from(*len))?;
    // One byte of family and 1 to 31 of address.
    if !(2..=32).contains(len) {
        return None;
    }
    let address = match address {
        [1, ip @ ..] => <[u8; 4]>::try_from(ip).ok().map(IpAddr::from),
        [2, ip @ ..] => <[u8; 16]>::try_from(ip).ok().map(IpAddr::from),
        _ => None,
    };
    let (_subtype, rest) = rest.split_first()?;
    let (interface, rest) = rest.split_first_chunk::<4>()?;
    let (oid_len, oid) = rest.split_first()?;
    (oid.len() == usize::from(*oid_len) && *oid_len <= 128).then(|| Management {
        address,
        interface: u32::from_be_bytes(*interface),
    })
}

fn aggregation(value: &[u8]) -> Option<Aggregation> {
    let (status, port) = value.split_first()?;
    Some(Aggregation {
        capable: status & 1 != 0,
        aggregated: status & 2 != 0,
        port: u32::from_be_bytes(port.try_into().ok()?),
    })
}

/// What became of an optional TLV.
enum Outcome {
    Taken,
    Unknown,
    Bad,
}

/// Keeps the first of a kind.
fn keep<T>(place: &mut Option<T>, value: Option<T>) -> Outcome {
    match value {
        Some(value) if place.is_none() => {
            *place = Some(value);
            Outcome::Taken
        }
        _ => Outcome::Bad,
    }
}

fn text(value: &[u8]) -> Option<Text> {
    (value.len() <= TEXT_MAX).then(|| Text(value.into()))
}

impl Lldpdu {
    /// Takes a whole Ethernet frame (untagged, without check sequence) apart.
    ///
    /// # Errors
    /// [`TlvError`]; the frame is to be dropped and counted.
    pub fn parse(frame: &[u8]) -> Result<Lldpdu, TlvError> {
        let ethertype = LLDP_ETHERTYPE.to_be_bytes();
        // Nearest bridge, nearest non-TPMR bridge, nearest customer bridge (802.1AB-2016, table 7-1).
        let addressed = matches!(
            frame,
            [0x01, 0x80, 0xc2, 0, 0, 0x0e | 0x03 | 0x00, ..] if frame.get(12..HEADER) == Some(&ethertype)
        );
        let payload = frame.get(HEADER..).filter(|_| addressed);
        let rest = payload.ok_or(TlvError::NotLldp)?;
        let (kind, chassis, rest) = split(rest)?;
        if kind != 1 {
            return Err(TlvError::Order(kind));
        }
        let chassis = id(kind, chassis)?;
        let (kind, port, rest) = split(rest)?;
        if kind != 2 {
            return Err(TlvError::Order(kind));
        }
        let port = id(kind, port)?;
        let (kind, ttl, rest) = split(rest)?;
        if kind != 3 {
            return Err(TlvError::Order(kind));
        }
        let len = ttl.len();
        // Longer ones are of a later version.
        let ttl = ttl.first_chunk().ok_or(TlvError::Length { kind, len })?;
        let mut pdu = Lldpdu {
            chassis,
            port,
            ttl: u16::from_be_bytes(*ttl),
            port_description: None,
            system_name: None,
            system_description: None,
            capabilities: None,
            management: ArrayVec::new(),
            pvid: None,
            aggregation: None,
            max_frame: None,
            unrecognized: 0,
            discarded: 0,
        };
        pdu.parse_options(rest)?;
        Ok(pdu)
    }

    fn parse_options(&mut self, mut rest: &[u8]) -> Result<(), TlvError> {
        while !rest.is_empty() {
            let (kind, value, next) = split(rest)?;
            rest = next;
            match kind {
                0 if value.is_empty() => return Ok(()),
                0 => {
                    let len = value.len();
                    return Err(TlvError::Length { kind, len });
                }
                1..=3 => return Err(TlvError::Order(kind)),
                _ => {}
            }
            match self.option(kind, value) {
                Outcome::Taken => {}
                Outcome::Unknown => self.unrecognized += 1,
                Outcome::Bad => self.discarded += 1,
            }
        }
        Ok(())
    }

    fn option(&mut self, kind: u8, value: &[u8]) -> Outcome {
        match kind {
            4 => keep(&mut self.port_description, text(value)),
            5 => keep(&mut self.system_name, text(value)),
            6 => keep(&mut self.system_description, text(value)),
            7 => {
                let words = <[u8; 4]>::try_from(value).ok();
                let capabilities = words.map(|[a, b, c, d]| Capabilities {
                    available: u16::from_be_bytes([a, b]),
                    enabled: u16::from_be_bytes([c, d]),
                });
                keep(&mut self.capabilities, capabilities)
            }
            8 => {
                let kept = management(value).is_some_and(|m| self.management.try_push(m).is_ok());
                if kept { Outcome::Taken } else { Outcome::Bad }
            }
            ORGANIZATION => self.organization(value),
            _ => Outcome::Unknown,
        }
    }

    fn organization(&mut self, value: &[u8]) -> Outcome {
        let Some((&[a, b, c, subtype], value)) = value.split_first_chunk::<4>() else {
            return Outcome::Bad;
        };
        let word = || value.try_into().ok().map(u16::from_be_bytes);
        match ([a, b, c], subtype) {
            (OUI_8021, 1) => keep(&mut self.pvid, word()),
            // 802.1 took this TLV over from 802.3.
            (OUI_8021, 7) | (OUI_8023, 3) => keep(&mut self.aggregation, aggregation(value)),
            (OUI_8023, 4) => keep(&mut self.max_frame, word()),
            _ => Outcome::Unknown,
        }
    }
}

/// Writes an LLDPDU, TLV by TLV. What does not fit its TLV is cut off there.
#[derive(Debug)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Begins a frame from `source` with the mandatory TLVs: the chassis by its MAC address, the port by its name.
    pub fn new(source: Mac, chassis: Mac, port: &str, ttl: u16) -> Writer {
        let mut writer = Writer(Vec::with_capacity(256));
        for bytes in [&LLDP_MAC[..], &source, &LLDP_ETHERTYPE.to_be_bytes()] {
            writer.0.extend_from_slice(bytes);
        }
        writer.tlv(1, &[&[Id::CHASSIS_MAC], &chassis]);
        let port = port.as_bytes();
        let port = port.get(..TEXT_MAX).unwrap_or(port);
        writer.tlv(2, &[&[Id::PORT_NAME], port]);
        writer.tlv(3, &[&ttl.to_be_bytes()]);
        writer
    }

    fn tlv(&mut self, kind: u8, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let head = u16::from(kind) << 9 | (len.min(0x1ff) as u16);
        self.0.extend_from_slice(&head.to_be_bytes());
        let bytes = parts.iter().flat_map(|part| part.iter());
        self.0.extend(bytes.take(0x1ff));
    }

    fn text(&mut self, kind: u8, text: &str) {
        let bytes = text.as_bytes();
        if !bytes.is_empty() {
            self.tlv(kind, &[bytes.get(..TEXT_MAX).unwrap_or(bytes)]);
        }
    }

    /// Port description; nothing if it is empty.
    pub fn port_description(&mut self, text: &str) {
        self.text(4, text);
    }

    /// System name and description; nothing where empty.
    pub fn system(&mut self, name: &str, description: &str) {
        self.text(5, name);
        self.text(6, description);
    }

    /// System capabilities.
    pub fn capabilities(&mut self, capabilities: Capabilities) {
        let (available, enabled) = (capabilities.available, capabilities.enabled);
        self.tlv(7, &[&available.to_be_bytes(), &enabled.to_be_bytes()]);
    }

    /// A management address on the interface with this number.
    pub fn management(&mut self, address: IpAddr, interface: u32) {
        // Interface numbering subtype 2 is ifIndex; no object identifier follows.
        let mut tail = [2, 0, 0, 0, 0, 0];
        tail[1..5].copy_from_slice(&interface.to_be_bytes());
        match address {
            IpAddr::V4(ip) => self.tlv(8, &[&[5, 1], &ip.octets(), &tail]),
            IpAddr::V6(ip) => self.tlv(8, &[&[17, 2], &ip.octets(), &tail]),
        }
    }

    /// VLAN of untagged frames; zero for none.
    pub fn pvid(&mut self, pvid: u16) {
        self.tlv(ORGANIZATION, &[&OUI_8021, &[1], &pvid.to_be_bytes()]);
    }

    /// Link aggregation, as 802.3 has it, which is what peers understand.
    pub fn aggregation(&mut self, aggregation: Aggregation) {
        let status = u8::from(aggregation.capable) | u8::from(aggregation.aggregated) << 1;
        let port = aggregation.port.to_be_bytes();
        self.tlv(ORGANIZATION, &[&OUI_8023, &[3, status], &port]);
    }

    /// Longest frame, with header and check sequence.
    pub fn max_frame(&mut self, len: u16) {
        self.tlv(ORGANIZATION, &[&OUI_8023, &[4], &len.to_be_bytes()]);
    }

    /// The frame.
    pub fn finish(mut self) -> Vec<u8> {
        self.tlv(0, &[]);
        self.0
    }
}

#[cfg(test)]
#[path = "tlv_tests.rs"]
pub(in crate::link) mod tests;
