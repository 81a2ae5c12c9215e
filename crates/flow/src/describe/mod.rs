//! A packet described in text, and its bytes: what `sumeru trace` follows through the switch.
//!
//! ```text
//! eth src 02:00:00:00:00:01 dst 02:00:00:00:00:02 / vlan vid 5 /
//!     ipv4 src 10.0.0.1 dst 10.0.0.2 ttl 64 / udp src 1000 dst 53 / payload 32
//! ```
//! Layers stand outermost first, the first is `eth`; each has the fields of [`Layer::TABLE`] as
//! `NAME VALUE`, all with a default. Fields that name the next header follow from the next layer
//! unless given. `payload N` is N bytes counting from 0, `payload hex 0a0b0c` these bytes. TCP flags
//! are a number or names as `syn|ack`. Lengths and checksums are always right; there is no padding
//! and no frame check sequence. Nothing is sent or matched here.

mod bytes;
mod layer;

use std::fmt;

pub use layer::{Layer, LayerField, LayerRow, TcpFlags};

use crate::model::{Argument, EtherType, GENEVE_UDP_PORT, GTPU_UDP_PORT, VXLAN_UDP_PORT};
use crate::syntax::{Cursor, SyntaxError, ValueText};

/// Longest frame that can be described, in bytes; every length field holds it.
pub const MAX_FRAME: usize = 65_535;

/// Most layers a packet can have.
pub const MAX_LAYERS: usize = 64;

/// Why a packet cannot be built as described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescribeError {
    /// The frame is too long.
    #[error("the frame has {found} bytes, the limit is {MAX_FRAME}")]
    TooLong {
        /// Length of the frame in bytes.
        found: usize,
    },
    /// Too many layers.
    #[error("the packet has more than {MAX_LAYERS} layers")]
    TooManyLayers,
}

/// A packet as layers with concrete values, outermost first. The order of layers makes sense and
/// the frame is at most [`MAX_FRAME`] bytes long.
///
/// `Display` prints all fields, in text that parses back to the same description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketDescription {
    layers: Vec<Layer>,
}

impl PacketDescription {
    /// Reads a description.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let mut cursor = Cursor::new(text)?;
        let mut layers = Vec::new();
        let mut allowed: &'static [&'static str] = &["eth"];
        loop {
            let place = cursor.place();
            if layers.len() == MAX_LAYERS {
                return Err(cursor.error(DescribeError::TooManyLayers.into()));
            }
            let layer = parse_layer(&mut cursor, allowed)?;
            allowed = layer.0.followers();
            layers.push(layer);
            let length: usize = layers.iter().map(|(layer, _)| layer.length()).sum();
            if length > MAX_FRAME {
                let kind = DescribeError::TooLong { found: length };
                return Err(cursor.error_at(place, kind.into()));
            }
            if cursor.peek().is_none() || allowed.is_empty() {
                cursor.require_end()?;
                break;
            }
            cursor.require("/")?;
        }
        for index in 0..layers.len() {
            let (above, rest) = layers.split_at_mut(index + 1);
            let (layer, given) = &mut above[index];
            let next: Vec<&Layer> = rest.iter().map(|(layer, _)| layer).take(2).collect();
            name_next(layer, given, &next);
        }
        Ok(Self {
            layers: layers.into_iter().map(|(layer, _)| layer).collect(),
        })
    }

    /// The layers, outermost first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The bytes of the frame, from the destination MAC address to the end of the payload.
    pub fn to_bytes(&self) -> Vec<u8> {
        bytes::build(&self.layers)
    }
}

impl std::str::FromStr for PacketDescription {
    type Err = SyntaxError;
    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        Self::parse(text)
    }
}

/// One layer and the names of the fields that the text gives.
fn parse_layer(
    cursor: &mut Cursor<'_>,
    allowed: &'static [&'static str],
) -> Result<(Layer, Vec<&'static str>), SyntaxError> {
    let Some(index) = cursor.choose(allowed, |name| name) else {
        return Err(cursor.unexpected());
    };
    let name = allowed[index];
    let Some(row) = Layer::TABLE.iter().find(|row| row.name == name) else {
        return parse_payload(cursor).map(|bytes| (Layer::Payload(bytes), Vec::new()));
    };
    let mut layer = (row.new)();
    let mut given = Vec::new();
    while let Some(index) = cursor.choose(row.fields, |field| field.name) {
        let field = &row.fields[index];
        if let Argument::Bits(bits) = cursor.value(field.kind, field.bits)? {
            (field.set)(&mut layer, bits);
        }
        if !given.contains(&field.name) {
            given.push(field.name);
        }
    }
    Ok((layer, given))
}

fn parse_payload(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, SyntaxError> {
    if !cursor.keyword("hex") {
        let length = cursor.number(MAX_FRAME as u64)?;
        return Ok(counting(length as usize));
    }
    cursor.expect_value("an even number of hexadecimal digits".to_owned());
    let bytes = cursor
        .peek()
        .and_then(crate::model::parse_hex)
        .ok_or_else(|| cursor.unexpected())?;
    cursor.advance();
    Ok(bytes)
}

/// Payload of this length: bytes 0, 1, 2 ... 255, 0 ...
fn counting(length: usize) -> Vec<u8> {
    (0..length).map(|index| index as u8).collect()
}

/// EtherType of a header whose payload has none of its own (IEEE 802, local experimental 1).
const EXPERIMENTAL_ETHER_TYPE: EtherType = EtherType(0x88b5);
/// Protocol number of a payload that has none of its own (RFC 3692, section 2.1).
const EXPERIMENTAL_PROTOCOL: u8 = 253;

/// Sets the fields of `layer` that name the next header and that the text does not give.
fn name_next(layer: &mut Layer, given: &[&'static str], next: &[&Layer]) {
    let open = |field: &str| !given.contains(&field);
    let ether_type = match next {
        [Layer::Vlan { .. }, Layer::Vlan { .. }] => EtherType::QINQ,
        [Layer::Vlan { .. }, ..] => EtherType::VLAN,
        [Layer::Arp { .. }, ..] => EtherType::ARP,
        [Layer::Ipv4 { .. }, ..] => EtherType::IPV4,
        [Layer::Ipv6 { .. }, ..] => EtherType::IPV6,
        [Layer::Mpls { .. }, ..] => EtherType::MPLS,
        [Layer::Eth { .. }, ..] => EtherType::TEB,
        _ => EXPERIMENTAL_ETHER_TYPE,
    };
    let protocol = match next {
        [Layer::Tcp { .. }, ..] => 6,
        [Layer::Udp { .. }, ..] => 17,
        [Layer::Icmp { .. }, ..] => 1,
        [Layer::Icmp6 { .. }, ..] => 58,
        [Layer::Gre { .. }, ..] => 47,
        [Layer::Sctp { .. }, ..] => 132,
        _ => EXPERIMENTAL_PROTOCOL,
    };
    match layer {
        Layer::Eth {
            ether_type: field, ..
        } if open("type") => *field = ether_type,
        Layer::Vlan {
            inner_type: field, ..
        } if open("inner_type") => *field = ether_type,
        Layer::Ipv4 { proto: field, .. } | Layer::Ipv6 { proto: field, .. } if open("proto") => {
            *field = protocol;
        }
        Layer::Gre {
            protocol: field, ..
        }
        | Layer::Geneve {
            protocol: field, ..
        } if open("protocol") => *field = ether_type,
        Layer::Mpls { s, .. } if open("s") => *s = !matches!(next, [Layer::Mpls { .. }, ..]),
        Layer::Udp { dst, .. } if open("dst") => match next {
            [Layer::Vxlan { .. }, ..] => *dst = VXLAN_UDP_PORT,
            [Layer::Geneve { .. }, ..] => *dst = GENEVE_UDP_PORT,
            [Layer::Gtpu { .. }, ..] => *dst = GTPU_UDP_PORT,
            _ => {}
        },
        _ => {}
    }
}

impl fmt::Display for PacketDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                f.write_str(" / ")?;
            }
            write!(f, "{layer}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Layer::Payload(bytes) = self {
            if *bytes == counting(bytes.len()) {
                return write!(f, "payload {}", bytes.len());
            }
            f.write_str("payload hex ")?;
            return crate::model::write_hex(bytes, f);
        }
        f.write_str(self.name())?;
        for field in Layer::TABLE
            .iter()
            .filter(|row| row.name == self.name())
            .flat_map(|r| r.fields)
        {
            if let Some(bits) = (field.get)(self) {
                write!(f, " {} ", field.name)?;
                ValueText {
                    kind: field.kind,
                    bits: field.bits,
                }
                .print(&Argument::Bits(bits), f)?;
            }
        }
        Ok(())
    }
}
