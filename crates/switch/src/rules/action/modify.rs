//! `modify_field`: its fields as bits of headers and of the key.

use std::fmt;

use sumeru_flow::model::{FieldId, FieldPlace, ModifyField, ModifyOperation, ModifySource};
use sumeru_packet::edit::{Bits, Change};
use sumeru_packet::{Field, Layer, Part};

use crate::rules::RuleError;

/// Bits of a header or of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// testpmd's name of the field.
    pub name: &'static str,
    /// Where it is in the packet; none for a register.
    pub header: Option<(Layer, Bits)>,
    /// The field of the key that has it,
    pub field: Field,
    /// from this bit of the field on.
    pub shift: u32,
    /// How many bits.
    pub width: u32,
}

impl Place {
    /// The bits in the key's field.
    pub fn mask(&self) -> u128 {
        let ones = u128::MAX >> (128 - self.width.clamp(1, 128));
        ones << self.shift & self.field.position().max()
    }

    /// Whether every key has it. If not, only one that was asked for extra fields does.
    pub fn is_kept(&self) -> bool {
        !matches!(self.field, Field::L4Extra(_))
    }
}

/// The other operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// A number.
    Value(u128),
    /// Bits of the packet or a register.
    Place(Place),
}

/// A change of some bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Modification {
    /// What is done.
    pub change: Change,
    /// With these.
    pub to: Place,
    /// By this.
    pub by: Operand,
}

impl Modification {
    /// What `old` becomes, under a mask of the width.
    pub fn result(&self, old: u128, by: u128) -> u128 {
        let new = match self.change {
            Change::Set => by,
            Change::Add => old.wrapping_add(by),
            Change::Sub => old.wrapping_sub(by),
        };
        new & u128::MAX >> (128 - self.to.width.clamp(1, 128))
    }

    /// A change of a whole field by a number.
    pub fn of(
        name: &'static str,
        id: FieldId,
        change: Change,
        value: u128,
    ) -> Result<Self, RuleError> {
        let whole = FieldPlace {
            field: id,
            level: 0,
            offset: 0,
        };
        let to = Place {
            name,
            ..place(&whole, id.width())?
        };
        Ok(Self {
            change,
            to,
            by: Operand::Value(value),
        })
    }
}

impl fmt::Display for Modification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (to, width) = (self.to.name, self.to.width);
        match self.change {
            Change::Set => write!(f, "set {width} bits of {to} to ")?,
            Change::Add => write!(f, "add to {width} bits of {to} ")?,
            Change::Sub => write!(f, "subtract from {width} bits of {to} ")?,
        }
        match self.by {
            Operand::Value(value) => write!(f, "{value:#x}"),
            Operand::Place(place) => write!(f, "{}", place.name),
        }
    }
}

fn unsupported(what: &'static str, expected: &'static str) -> RuleError {
    RuleError::Unsupported { what, expected }
}

/// Compiles the action.
pub fn modification(modify: &ModifyField) -> Result<Modification, RuleError> {
    let to = place(&modify.destination, modify.width)?;
    let by = match (&modify.source, modify.immediate()) {
        (ModifySource::Field(from), _) => Operand::Place(place(from, modify.width)?),
        (_, value) => Operand::Value(value.unwrap_or(0)),
    };
    if let Operand::Place(from) = by
        && to.header.is_none()
        && !from.is_kept()
    {
        return Err(unsupported(
            "modify_field from a TCP sequence or acknowledgment number to a register",
            "a copy within the packet; a decision cannot rest on these numbers",
        ));
    }
    let change = match modify.operation {
        ModifyOperation::Set => Change::Set,
        ModifyOperation::Add => Change::Add,
        ModifyOperation::Sub => Change::Sub,
    };
    Ok(Modification { change, to, by })
}

/// `width` bits of a field.
fn place(place: &FieldPlace, width: u32) -> Result<Place, RuleError> {
    let id = place.field;
    let name = FieldId::NAMES.get(id as usize).copied().unwrap_or("field");
    if let Some(register) = register(id, place.level)? {
        return Ok(Place {
            name,
            header: None,
            field: register,
            shift: place.offset,
            width,
        });
    }
    let layer = match place.level {
        0 | 1 => Layer::Outer,
        2 => Layer::Inner,
        _ => {
            return Err(unsupported(
                "modify_field at a level above 2",
                "the outermost headers (0, 1) or those inside the tunnel (2)",
            ));
        }
    };
    let (bits, field, shift) = header(id, layer)?;
    // The model counts from the lowest bit of the field, the header from its first.
    let below = place.offset.saturating_add(width);
    let all = id.width();
    let out = || {
        unsupported(
            "modify_field beyond the field",
            "an offset and a width within it",
        )
    };
    let first = all.checked_sub(below).ok_or_else(out)?;
    Ok(Place {
        name,
        header: Some((
            layer,
            Bits {
                header: bits.header,
                offset: bits.offset + first as u16,
                width: width as u8,
            },
        )),
        field,
        shift: shift + place.offset,
        width,
    })
}

fn register(id: FieldId, level: u32) -> Result<Option<Field>, RuleError> {
    Ok(Some(match id {
        FieldId::Mark => Field::Mark,
        FieldId::Meta => Field::Meta,
        FieldId::Tag => tag(level)?,
        _ => return Ok(None),
    }))
}

/// The register of a tag.
pub fn tag(index: u32) -> Result<Field, RuleError> {
    Ok(match index {
        0 => Field::Tag0,
        1 => Field::Tag1,
        2 => Field::Tag2,
        3 => Field::Tag3,
        _ => return Err(unsupported("a tag of index 4 and above", "index 0 to 3")),
    })
}

/// Where a field is in its header, which field of the key has it, and where there.
fn header(id: FieldId, layer: Layer) -> Result<(Bits, Field, u32), RuleError> {
    let extra = Field::L4Extra(layer);
    // The bit that was once a nonce (RFC 3540) stands before the eight that the key has.
    let flags = Bits {
        offset: 103,
        width: 9,
        ..Bits::TCP_FLAGS
    };
    Ok(match id {
        FieldId::MacDst => (Bits::MAC_DST, Field::EthDst(layer), 0),
        FieldId::MacSrc => (Bits::MAC_SRC, Field::EthSrc(layer), 0),
        FieldId::VlanId => (Bits::VLAN_ID, Field::VlanTci(layer), 0),
        FieldId::Ipv4Dscp => (Bits::IPV4_DSCP, Field::IpTos(layer), 2),
        FieldId::Ipv4Ecn => (Bits::IPV4_ECN, Field::IpTos(layer), 0),
        FieldId::Ipv4Ttl => (Bits::IPV4_TTL, Field::IpTtl(layer), 0),
        FieldId::Ipv4Src => (Bits::IPV4_SRC, Field::IpSrc(layer), 0),
        FieldId::Ipv4Dst => (Bits::IPV4_DST, Field::IpDst(layer), 0),
        FieldId::Ipv6Dscp => (Bits::IPV6_DSCP, Field::IpTos(layer), 2),
        FieldId::Ipv6Ecn => (Bits::IPV6_ECN, Field::IpTos(layer), 0),
        FieldId::Ipv6HopLimit => (Bits::IPV6_HOP_LIMIT, Field::IpTtl(layer), 0),
        FieldId::Ipv6Src => (Bits::IPV6_SRC, Field::IpSrc(layer), 0),
        FieldId::Ipv6Dst => (Bits::IPV6_DST, Field::IpDst(layer), 0),
        FieldId::TcpPortSrc => (Bits::TCP_SRC, Field::L4Src(layer), 0),
        FieldId::TcpPortDst => (Bits::TCP_DST, Field::L4Dst(layer), 0),
        FieldId::TcpSeqNum => (Bits::TCP_SEQUENCE, extra, Part::TCP_SEQUENCE.shift),
        FieldId::TcpAckNum => (
            Bits::TCP_ACKNOWLEDGEMENT,
            extra,
            Part::TCP_ACKNOWLEDGEMENT.shift,
        ),
        FieldId::TcpFlags => (flags, Field::TcpFlags(layer), 0),
        FieldId::UdpPortSrc => (Bits::UDP_SRC, Field::L4Src(layer), 0),
        FieldId::UdpPortDst => (Bits::UDP_DST, Field::L4Dst(layer), 0),
        FieldId::VxlanVni => (Bits::VXLAN_VNI, Field::TunnelId(layer), 0),
        FieldId::GeneveVni => (Bits::GENEVE_VNI, Field::TunnelId(layer), 0),
        FieldId::GtpTeid => (Bits::GTPU_TEID, Field::TunnelId(layer), 0),
        FieldId::Start => return Err(unsupported("modify_field of start", "a field by its name")),
        FieldId::VlanType | FieldId::MacType => {
            return Err(unsupported(
                "modify_field of vlan_type and mac_type",
                "other headers by raw_decap and raw_encap; the type says what follows",
            ));
        }
        FieldId::GtpPscQfi => {
            return Err(unsupported(
                "modify_field of gtp_psc_qfi",
                "gtp_teid; the container behind GTP-U is only read",
            ));
        }
        FieldId::MeterColor => {
            return Err(unsupported(
                "modify_field of meter_color",
                "the action color",
            ));
        }
        FieldId::Tag | FieldId::Mark | FieldId::Meta | FieldId::Pointer | FieldId::Value => {
            return Err(unsupported("modify_field of a value", "a field"));
        }
    })
}
