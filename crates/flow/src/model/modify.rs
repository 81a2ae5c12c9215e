//! Changing any field: `modify_field` (`struct rte_flow_action_modify_field`, DPDK 22.11).
//!
//! Offsets count bits from the least significant one of a field, as in DPDK's drivers.

use serde::{Deserialize, Serialize};

use super::action::{ArgumentError, form};
use super::bytes::ByteString;
use super::field::{FieldKind, FieldValue, low_mask};

/// Longest immediate value in bytes, as in `struct rte_flow_action_modify_data`.
pub const MAX_MODIFY_VALUE: usize = 16;

/// What is done with the destination's bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModifyOperation {
    /// They become the source's.
    #[default]
    Set,
    /// The source's are added, wrapping.
    Add,
    /// The source's are subtracted, wrapping.
    Sub,
}

impl FieldValue for ModifyOperation {
    const BITS: u32 = 2;
    const KIND: FieldKind = FieldKind::Named(&["set", "add", "sub"]);
    fn to_bits(self) -> u128 {
        self as u128
    }
    fn from_bits(bits: u128) -> Self {
        match bits & 3 {
            1 => Self::Add,
            2 => Self::Sub,
            _ => Self::Set,
        }
    }
}

macro_rules! field_ids {
    ($(#[doc = $doc:tt] $id:ident = $token:literal, $bits:literal;)*) => {
        /// A field (`enum rte_flow_field_id`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum FieldId {
            $(
                #[doc = $doc]
                #[serde(rename = $token)]
                $id,
            )*
        }

        impl FieldId {
            /// All of them in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$id),*];
            /// testpmd's names in the order of their numbers.
            pub const NAMES: &'static [&'static str] = &[$($token),*];

            /// Width in bits; 0 where it is that of what stands there.
            pub fn width(self) -> u32 {
                match self {
                    $(Self::$id => $bits,)*
                }
            }
        }
    };
}

field_ids! {
    /// The packet from its first byte.
    Start = "start", 0;
    /// Destination MAC address.
    MacDst = "mac_dst", 48;
    /// Source MAC address.
    MacSrc = "mac_src", 48;
    /// Tag protocol identifier.
    VlanType = "vlan_type", 16;
    /// VLAN identifier.
    VlanId = "vlan_id", 12;
    /// EtherType.
    MacType = "mac_type", 16;
    /// IPv4 DSCP.
    Ipv4Dscp = "ipv4_dscp", 6;
    /// IPv4 time to live.
    Ipv4Ttl = "ipv4_ttl", 8;
    /// IPv4 source address.
    Ipv4Src = "ipv4_src", 32;
    /// IPv4 destination address.
    Ipv4Dst = "ipv4_dst", 32;
    /// IPv6 DSCP.
    Ipv6Dscp = "ipv6_dscp", 6;
    /// IPv6 hop limit.
    Ipv6HopLimit = "ipv6_hoplimit", 8;
    /// IPv6 source address.
    Ipv6Src = "ipv6_src", 128;
    /// IPv6 destination address.
    Ipv6Dst = "ipv6_dst", 128;
    /// TCP source port.
    TcpPortSrc = "tcp_port_src", 16;
    /// TCP destination port.
    TcpPortDst = "tcp_port_dst", 16;
    /// TCP sequence number.
    TcpSeqNum = "tcp_seq_num", 32;
    /// TCP acknowledgment number.
    TcpAckNum = "tcp_ack_num", 32;
    /// TCP control bits.
    TcpFlags = "tcp_flags", 9;
    /// UDP source port.
    UdpPortSrc = "udp_port_src", 16;
    /// UDP destination port.
    UdpPortDst = "udp_port_dst", 16;
    /// VXLAN network identifier.
    VxlanVni = "vxlan_vni", 24;
    /// Geneve network identifier.
    GeneveVni = "geneve_vni", 24;
    /// GTP tunnel endpoint identifier.
    GtpTeid = "gtp_teid", 32;
    /// A tag; the level says which.
    Tag = "tag", 32;
    /// The mark.
    Mark = "mark", 32;
    /// The metadata.
    Meta = "meta", 32;
    /// Bytes given when the rule was made, once more: the same as `value`.
    Pointer = "pointer", 0;
    /// Bytes given with the rule.
    Value = "value", 0;
    /// IPv4 ECN.
    Ipv4Ecn = "ipv4_ecn", 2;
    /// IPv6 ECN.
    Ipv6Ecn = "ipv6_ecn", 2;
    /// QoS flow identifier of a GTP PDU session container.
    GtpPscQfi = "gtp_psc_qfi", 6;
    /// Colour that a meter gave the packet.
    MeterColor = "meter_color", 2;
}

impl FieldValue for FieldId {
    const BITS: u32 = 6;
    const KIND: FieldKind = FieldKind::Named(Self::NAMES);
    fn to_bits(self) -> u128 {
        self as u128
    }
    fn from_bits(bits: u128) -> Self {
        let index = (bits & low_mask(Self::BITS)) as usize;
        Self::ALL.get(index).copied().unwrap_or(Self::Start)
    }
}

/// A place in the packet or its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FieldPlace {
    /// The field; neither `pointer` nor `value`.
    pub field: FieldId,
    /// Level of encapsulation: 0 the driver's default, 1 outermost, 2 the next; the index of a tag.
    pub level: u32,
    /// Bits of the field that are passed over, from the least significant one.
    pub offset: u32,
}

/// Where the bits come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModifySource {
    /// Another field.
    Field(FieldPlace),
    /// Bytes as they stand in the field on the wire, most significant first. At least as many as the
    /// width needs.
    Value {
        /// The bytes.
        bytes: ByteString<MAX_MODIFY_VALUE>,
        /// Bits that are passed over, from the least significant one.
        offset: u32,
        /// Whether they are given as `pointer` (`src_ptr`), which means the same.
        pointer: bool,
    },
}

/// What `modify_field` does.
///
/// Text, as in testpmd: `modify_field op set dst_type ipv4_src src_type value src_value 0a000001
/// width 32`. Network address translation without state is a `set` of addresses and ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct ModifyField {
    /// What is done.
    pub operation: ModifyOperation,
    /// The bits that change.
    pub destination: FieldPlace,
    /// The other operand.
    pub source: ModifySource,
    /// How many bits, 1 to 128.
    pub width: u32,
}

impl ModifyField {
    /// The operand as a number of [`Self::width`] bits, if it is a value.
    pub fn immediate(&self) -> Option<u128> {
        match &self.source {
            ModifySource::Field(_) => None,
            ModifySource::Value { bytes, offset, .. } => {
                let number = bytes
                    .as_bytes()
                    .iter()
                    .fold(0u128, |number, byte| number << 8 | u128::from(*byte));
                Some(number.checked_shr(*offset).unwrap_or(0) & low_mask(self.width))
            }
        }
    }
}

form! {
    ModifyField = "modify_field" for ModifyField {
        op: ModifyOperation = "op";
        dst_type: FieldId = "dst_type";
        dst_level: u32 = "dst_level";
        dst_offset: u32 = "dst_offset";
        src_type: FieldId = "src_type";
        src_level: u32 = "src_level";
        src_offset: u32 = "src_offset";
        src_value: ByteString<MAX_MODIFY_VALUE> = "src_value";
        src_ptr: ByteString<MAX_MODIFY_VALUE> = "src_ptr";
        width: u32 = "width";
    }
}

/// The end of a run of bits, or an error if the field does not reach that far.
fn within(
    argument: &'static str,
    field_width: u32,
    offset: u32,
    width: u32,
) -> Result<(), ArgumentError> {
    match offset.checked_add(width) {
        Some(end) if field_width == 0 || end <= field_width => Ok(()),
        _ => Err(ArgumentError::Value {
            action: NAME,
            argument,
            expected: "such that offset and width stay within the field",
        }),
    }
}

impl TryFrom<Form> for ModifyField {
    type Error = ArgumentError;
    fn try_from(form: Form) -> Result<Self, ArgumentError> {
        let missing = |argument| ArgumentError::Missing {
            action: NAME,
            argument,
        };
        let wrong = |argument, expected| ArgumentError::Value {
            action: NAME,
            argument,
            expected,
        };
        let operation = form.op.ok_or(missing("op"))?;
        let destination = FieldPlace {
            field: form.dst_type.ok_or(missing("dst_type"))?,
            level: form.dst_level.unwrap_or(0),
            offset: form.dst_offset.unwrap_or(0),
        };
        let width = form.width.ok_or(missing("width"))?;
        if !(1..=128).contains(&width) {
            return Err(wrong("width", "1 to 128"));
        }
        if matches!(destination.field, FieldId::Pointer | FieldId::Value) {
            return Err(wrong("dst_type", "a field, not a value"));
        }
        within(
            "dst_offset",
            destination.field.width(),
            destination.offset,
            width,
        )?;
        let offset = form.src_offset.unwrap_or(0);
        let field = form.src_type.ok_or(missing("src_type"))?;
        let (bytes, argument, other) = match field {
            FieldId::Value => (form.src_value, "src_value", form.src_ptr),
            FieldId::Pointer => (form.src_ptr, "src_ptr", form.src_value),
            _ => (None, "src_value", form.src_value.or(form.src_ptr)),
        };
        if other.is_some() {
            return Err(wrong(
                "src_type",
                "`value` with `src_value`, `pointer` with `src_ptr`",
            ));
        }
        let source = if matches!(field, FieldId::Value | FieldId::Pointer) {
            if form.src_level.is_some_and(|level| level != 0) {
                return Err(wrong("src_level", "0 for a value"));
            }
            let bytes = bytes.ok_or(missing(argument))?;
            let bits = bytes.as_bytes().len() as u32 * 8;
            if bits == 0 || offset.checked_add(width).is_none_or(|end| end > bits) {
                return Err(wrong(
                    argument,
                    "at least as many bytes as offset and width need",
                ));
            }
            ModifySource::Value {
                bytes,
                offset,
                pointer: field == FieldId::Pointer,
            }
        } else {
            within("src_offset", field.width(), offset, width)?;
            ModifySource::Field(FieldPlace {
                field,
                level: form.src_level.unwrap_or(0),
                offset,
            })
        };
        Ok(Self {
            operation,
            destination,
            source,
            width,
        })
    }
}

impl From<ModifyField> for Form {
    fn from(modify: ModifyField) -> Self {
        let given = |number: u32| (number != 0).then_some(number);
        let (src_type, src_level, src_offset, bytes) = match modify.source {
            ModifySource::Field(place) => (place.field, place.level, place.offset, None),
            ModifySource::Value {
                bytes,
                offset,
                pointer,
            } => {
                let field = if pointer {
                    FieldId::Pointer
                } else {
                    FieldId::Value
                };
                (field, 0, offset, Some(bytes))
            }
        };
        let (src_ptr, src_value) = match src_type {
            FieldId::Pointer => (bytes, None),
            _ => (None, bytes),
        };
        Self {
            op: Some(modify.operation),
            dst_type: Some(modify.destination.field),
            dst_level: given(modify.destination.level),
            dst_offset: given(modify.destination.offset),
            src_type: Some(src_type),
            src_level: given(src_level),
            src_offset: given(src_offset),
            src_value,
            src_ptr,
            width: Some(modify.width),
        }
    }
}
