//! Receive side scaling: `rss` (`struct rte_flow_action_rss`).

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::action::{ArgumentError, form};
use super::bytes::ByteString;
use super::field::{FieldKind, FieldValue};

/// Longest hash key in bytes, as in testpmd.
pub const MAX_RSS_KEY: usize = 64;

/// Most queues of one action, as in testpmd.
pub const MAX_RSS_QUEUES: usize = 128;

/// Hash function (`enum rte_eth_hash_function`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RssFunction {
    /// What the port does by default.
    #[default]
    Default,
    /// Toeplitz.
    Toeplitz,
    /// Exclusive or of all words.
    SimpleXor,
    /// Toeplitz over source and destination in the order of their values.
    SymmetricToeplitz,
}

impl RssFunction {
    const NAMES: &'static [&'static str] =
        &["default", "toeplitz", "simple_xor", "symmetric_toeplitz"];
}

impl FieldValue for RssFunction {
    const BITS: u32 = 2;
    const KIND: FieldKind = FieldKind::Named(Self::NAMES);
    fn to_bits(self) -> u128 {
        self as u128
    }
    fn from_bits(bits: u128) -> Self {
        match bits & 3 {
            0 => Self::Default,
            1 => Self::Toeplitz,
            2 => Self::SimpleXor,
            _ => Self::SymmetricToeplitz,
        }
    }
}

/// What is hashed, bits of `RTE_ETH_RSS_*` (rte_ethdev.h). JSON: the names of the bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RssTypes(u64);

const fn bit(number: u32) -> u64 {
    1 << number
}

impl RssTypes {
    /// testpmd's names: first those of several bits, then one for each bit.
    pub const NAMES: &'static [(&'static str, u64)] = &[
        ("all", ALL_TYPES),
        ("none", 0),
        ("ip", IP),
        ("udp", bit(5) | bit(11) | bit(17)),
        ("tcp", bit(4) | bit(10) | bit(16)),
        ("sctp", bit(6) | bit(12)),
        ("tunnel", bit(19) | bit(20) | bit(21)),
        ("vlan", bit(25) | bit(26)),
        ("ipv4", bit(2)),
        ("ipv4-frag", bit(3)),
        ("ipv4-tcp", bit(4)),
        ("ipv4-udp", bit(5)),
        ("ipv4-sctp", bit(6)),
        ("ipv4-other", bit(7)),
        ("ipv6", bit(8)),
        ("ipv6-frag", bit(9)),
        ("ipv6-tcp", bit(10)),
        ("ipv6-udp", bit(11)),
        ("ipv6-sctp", bit(12)),
        ("ipv6-other", bit(13)),
        ("l2-payload", bit(14)),
        ("ipv6-ex", bit(15)),
        ("ipv6-tcp-ex", bit(16)),
        ("ipv6-udp-ex", bit(17)),
        ("port", bit(18)),
        ("vxlan", bit(19)),
        ("geneve", bit(20)),
        ("nvgre", bit(21)),
        ("gtpu", bit(23)),
        ("eth", bit(24)),
        ("s-vlan", bit(25)),
        ("c-vlan", bit(26)),
        ("esp", bit(27)),
        ("ah", bit(28)),
        ("l2tpv3", bit(29)),
        ("pfcp", bit(30)),
        ("pppoe", bit(31)),
        ("ecpri", bit(32)),
        ("mpls", bit(33)),
        ("ipv4-chksum", bit(34)),
        ("l4-chksum", bit(35)),
        ("l2tpv2", bit(36)),
        ("l3-pre96", bit(52)),
        ("l3-pre64", bit(53)),
        ("l3-pre56", bit(54)),
        ("l3-pre48", bit(55)),
        ("l3-pre40", bit(56)),
        ("l3-pre32", bit(57)),
        ("l2-dst-only", bit(58)),
        ("l2-src-only", bit(59)),
        ("l4-dst-only", bit(60)),
        ("l4-src-only", bit(61)),
        ("l3-dst-only", bit(62)),
        ("l3-src-only", bit(63)),
    ];

    /// The bits, or `None` if one of them has no name.
    pub fn new(bits: u64) -> Option<Self> {
        let known = Self::NAMES.iter().fold(0, |all, (_, bits)| all | bits);
        (bits & !known == 0).then_some(Self(bits))
    }

    /// The bits.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The names of the bits that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .iter()
            .filter(move |(_, bit)| bit.count_ones() == 1 && self.0 & bit != 0)
            .map(|(name, _)| *name)
    }
}

/// `RTE_ETH_RSS_IP`.
const IP: u64 = bit(2) | bit(3) | bit(7) | bit(8) | bit(9) | bit(13) | bit(15);

/// What testpmd means by `all`.
const ALL_TYPES: u64 = bit(24) | bit(25) | bit(26) // Ethernet and tags
    | IP
    | bit(4) | bit(10) | bit(16) // TCP
    | bit(5) | bit(11) | bit(17) // UDP
    | bit(6) | bit(12) // SCTP
    | bit(14) | bit(29) | bit(27) | bit(28) | bit(30) // layer 2, L2TPv3, ESP, AH, PFCP
    | bit(23) | bit(32) | bit(33) | bit(36); // GTP-U, eCPRI, MPLS, L2TPv2

impl FieldValue for RssTypes {
    const BITS: u32 = 64;
    const KIND: FieldKind = FieldKind::NameSet(Self::NAMES);
    fn to_bits(self) -> u128 {
        self.0.into()
    }
    fn from_bits(bits: u128) -> Self {
        let known = Self::NAMES.iter().fold(0, |all, (_, bits)| all | bits);
        Self(bits as u64 & known)
    }
}

impl Serialize for RssTypes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl<'de> Deserialize<'de> for RssTypes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        names.iter().try_fold(Self::default(), |types, name| {
            let known = Self::NAMES.iter().find(|(known, _)| known == name);
            match known {
                Some((_, bits)) => Ok(Self(types.0 | bits)),
                None => Err(D::Error::custom(format!("`{name}` is no RSS type"))),
            }
        })
    }
}

/// How packets are spread over receive queues.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct Rss {
    /// Hash function.
    pub func: RssFunction,
    /// Level of encapsulation that is hashed: 0 the port's default, 1 outermost, 2 the next ...
    pub level: u32,
    /// What is hashed; nothing means the port's default.
    pub types: RssTypes,
    /// Hash key; without one the port's.
    pub key: Option<ByteString<MAX_RSS_KEY>>,
    /// The queues; none means all. At most [`MAX_RSS_QUEUES`].
    pub queues: Vec<u16>,
}

form! {
    Rss = "rss" for Rss {
        func: RssFunction = "func";
        level: u32 = "level";
        types: RssTypes = "types";
        key: ByteString<MAX_RSS_KEY> = "key";
        key_len: u32 = "key_len";
        queues: Vec<u16> = "queues";
    }
}

impl TryFrom<Form> for Rss {
    type Error = ArgumentError;
    fn try_from(form: Form) -> Result<Self, ArgumentError> {
        let queues = form.queues.unwrap_or_default();
        let value = |argument, expected| {
            Err(ArgumentError::Value {
                action: NAME,
                argument,
                expected,
            })
        };
        if queues.len() > MAX_RSS_QUEUES {
            return value("queues", "a list of at most 128");
        }
        let key_length = form.key.as_ref().map_or(0, |key| key.as_bytes().len());
        if form
            .key_len
            .is_some_and(|length| length as usize != key_length)
        {
            return value("key_len", "the length of `key` in bytes");
        }
        Ok(Self {
            func: form.func.unwrap_or_default(),
            level: form.level.unwrap_or(0),
            types: form.types.unwrap_or_default(),
            key: form.key.filter(|key| !key.as_bytes().is_empty()),
            queues,
        })
    }
}

impl From<Rss> for Form {
    fn from(rss: Rss) -> Self {
        let key_len = rss.key.as_ref().map(|key| key.as_bytes().len() as u32);
        Self {
            func: (rss.func != RssFunction::Default).then_some(rss.func),
            level: (rss.level != 0).then_some(rss.level),
            types: (rss.types != RssTypes::default()).then_some(rss.types),
            key: rss.key,
            key_len,
            queues: (!rss.queues.is_empty()).then_some(rss.queues),
        }
    }
}
