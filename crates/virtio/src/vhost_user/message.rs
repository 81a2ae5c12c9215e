//! The messages of the vhost-user protocol: header, payload structures and the rules of each message
//! (vhost-user specification, "Message Specification" and "Front-end message types").
//!
//! Everything here is data. Numbers are in machine byte order, as the protocol wants it.

use std::fmt;
use std::ops::RangeInclusive;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::features::ProtocolFeatures;

/// Protocol version in the low two bits of the flags.
pub const VERSION: u32 = 1;
/// Mask of the version in the flags.
pub const FLAG_VERSION_MASK: u32 = 0x3;
/// Set on every reply.
pub const FLAG_REPLY: u32 = 1 << 2;
/// The sender wants an acknowledgement (REPLY_ACK).
pub const FLAG_NEED_REPLY: u32 = 1 << 3;
/// Largest payload accepted of any message, in bytes; a longer one ends the connection.
pub const MAX_PAYLOAD: usize = 4096;
/// Largest number of file descriptors any message may carry.
pub const MAX_FDS: usize = 8;
/// Number of regions in a memory table.
pub const MAX_TABLE_REGIONS: usize = 8;
/// Largest size of a configuration space access, in bytes.
pub const MAX_CONFIG: usize = 256;
/// Bit of SET_VRING_KICK, _CALL and _ERR: no descriptor comes with the message.
pub const VRING_NO_FD: u64 = 1 << 8;

/// Header of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// Message id.
    pub request: u32,
    /// Version, reply and need-reply flags.
    pub flags: u32,
    /// Payload size in bytes.
    pub size: u32,
}
const _: () = assert!(size_of::<Header>() == 12);

/// Index of a ring and a number whose meaning depends on the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VringState {
    /// Ring index.
    pub index: u32,
    /// Size, base index, or enabled flag.
    pub num: u32,
}
const _: () = assert!(size_of::<VringState>() == 8);

/// Addresses of the three parts of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VringAddress {
    /// Ring index.
    pub index: u32,
    /// Bit 0: log writes to the used ring.
    pub flags: u32,
    /// Descriptor table, user address.
    pub descriptor: u64,
    /// Used ring, user address.
    pub used: u64,
    /// Available ring, user address.
    pub available: u64,
    /// Guest address for logging.
    pub log: u64,
}
const _: () = assert!(size_of::<VringAddress>() == 40);

/// One region of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryRegion {
    /// Guest physical address.
    pub guest_address: u64,
    /// Size in bytes.
    pub size: u64,
    /// Address in the front end's process.
    pub user_address: u64,
    /// Where the region starts in the file.
    pub mmap_offset: u64,
}
const _: () = assert!(size_of::<MemoryRegion>() == 32);

/// What precedes the regions of SET_MEM_TABLE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryTableHeader {
    /// Number of regions that follow.
    pub regions: u32,
    /// Unused.
    pub padding: u32,
}
const _: () = assert!(size_of::<MemoryTableHeader>() == 8);

/// Payload of ADD_MEM_REG and REM_MEM_REG.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SingleMemoryRegion {
    /// Unused.
    pub padding: u64,
    /// The region.
    pub region: MemoryRegion,
}
const _: () = assert!(size_of::<SingleMemoryRegion>() == 40);

/// What precedes the bytes of GET_CONFIG and SET_CONFIG.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConfigHeader {
    /// First byte in the configuration space.
    pub offset: u32,
    /// Number of bytes.
    pub size: u32,
    /// 0: the driver wrote; 1: restored by a migration.
    pub flags: u32,
}
const _: () = assert!(size_of::<ConfigHeader>() == 12);

/// Payload of GET_INFLIGHT_FD and SET_INFLIGHT_FD.
///
/// The protocol's structure ends after 20 bytes; front ends that use the C structure send four bytes of padding
/// more and expect them in the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InflightDescription {
    /// Size of the area in bytes.
    pub mmap_size: u64,
    /// Where the area starts in the file.
    pub mmap_offset: u64,
    /// Number of queues tracked.
    pub queues: u16,
    /// Number of descriptors of each.
    pub queue_size: u16,
    /// Unused.
    pub padding: u32,
}
const _: () = assert!(size_of::<InflightDescription>() == 24);
/// Size of [`InflightDescription`] without its padding, in bytes.
pub const INFLIGHT_UNPADDED: usize = 20;

/// Requests of the back end to the front end that this implementation sends ("Back-end message types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum BackendRequest {
    /// The configuration space has changed.
    ConfigChange = 2,
}

/// How a message is answered when all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Only with an acknowledgement, if one is asked for.
    Acknowledge,
    /// Always, with a payload of its own.
    Reply,
}

/// When a message is in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the first byte of the connection.
    Connected,
    /// After SET_OWNER.
    Owned,
}

/// What becomes of a connection whose front end cannot be told that its message failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The two sides now disagree on something later messages build on: end the connection.
    Close,
    /// Only this message's effect is lost: log, count, go on.
    Continue,
}

/// The rules of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The message.
    pub request: Request,
    /// Name as in the specification, without prefix.
    pub name: &'static str,
    /// Payload sizes accepted, in bytes.
    pub payload: RangeInclusive<u32>,
    /// Numbers of file descriptors accepted.
    pub fds: RangeInclusive<usize>,
    /// How it is answered.
    pub answer: Answer,
    /// When it is in order.
    pub stage: Stage,
    /// Protocol features that must have been negotiated.
    pub needs: ProtocolFeatures,
    /// What a failure means without REPLY_ACK.
    pub failure: Failure,
}

macro_rules! messages {
    ($($id:literal $variant:ident $name:literal $payload:expr, $fds:expr, $answer:ident, $stage:ident, $needs:expr, $failure:ident;)+) => {
        /// Every message a front end can send, named as in the specification.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Request {
            $(
                #[doc = concat!("`", $name, "`.")]
                $variant = $id,
            )+
        }

        /// The message table: one rule for each message, in the order of the ids, which start at 1.
        pub static RULES: &[Rule] = &[$(
            Rule {
                request: Request::$variant,
                name: $name,
                payload: $payload,
                fds: $fds,
                answer: Answer::$answer,
                stage: Stage::$stage,
                needs: $needs,
                failure: Failure::$failure,
            },
        )+];
    };
}

/// No protocol feature needed.
const NONE: ProtocolFeatures = ProtocolFeatures::empty();
/// Shorthand for the column of needed features.
use ProtocolFeatures as P;

// Messages whose feature is never offered keep their row: a front end that sends one all the same is refused by the
// column of needed features. Crypto sessions and shared objects are for device types that do not exist here.
messages! {
    // id variant name                                        payload     fds    answer       stage      needs                      failure
    1  GetFeatures           "GET_FEATURES"                   0..=0,      0..=0, Reply,       Connected, NONE,                      Close;
    2  SetFeatures           "SET_FEATURES"                   8..=8,      0..=0, Acknowledge, Owned,     NONE,                      Close;
    3  SetOwner              "SET_OWNER"                      0..=0,      0..=0, Acknowledge, Connected, NONE,                      Close;
    4  ResetOwner            "RESET_OWNER"                    0..=0,      0..=0, Acknowledge, Connected, NONE,                      Close;
    5  SetMemTable           "SET_MEM_TABLE"                  40..=264,   1..=8, Acknowledge, Owned,     NONE,                      Close;
    6  SetLogBase            "SET_LOG_BASE"                   8..=16,     0..=1, Acknowledge, Owned,     P::LOG_SHMFD,              Continue;
    7  SetLogFd              "SET_LOG_FD"                     0..=8,      0..=1, Acknowledge, Owned,     NONE,                      Continue;
    8  SetVringNum           "SET_VRING_NUM"                  8..=8,      0..=0, Acknowledge, Owned,     NONE,                      Close;
    9  SetVringAddr          "SET_VRING_ADDR"                 40..=40,    0..=0, Acknowledge, Owned,     NONE,                      Close;
    10 SetVringBase          "SET_VRING_BASE"                 8..=8,      0..=0, Acknowledge, Owned,     NONE,                      Close;
    11 GetVringBase          "GET_VRING_BASE"                 8..=8,      0..=0, Reply,       Owned,     NONE,                      Close;
    12 SetVringKick          "SET_VRING_KICK"                 8..=8,      0..=1, Acknowledge, Owned,     NONE,                      Continue;
    13 SetVringCall          "SET_VRING_CALL"                 8..=8,      0..=1, Acknowledge, Owned,     NONE,                      Close;
    14 SetVringErr           "SET_VRING_ERR"                  8..=8,      0..=1, Acknowledge, Owned,     NONE,                      Continue;
    15 GetProtocolFeatures   "GET_PROTOCOL_FEATURES"          0..=0,      0..=0, Reply,       Connected, NONE,                      Close;
    16 SetProtocolFeatures   "SET_PROTOCOL_FEATURES"          8..=8,      0..=0, Acknowledge, Connected, NONE,                      Close;
    17 GetQueueNum           "GET_QUEUE_NUM"                  0..=0,      0..=0, Reply,       Connected, P::MQ,                     Close;
    18 SetVringEnable        "SET_VRING_ENABLE"               8..=8,      0..=0, Acknowledge, Owned,     NONE,                      Close;
    19 SendRarp              "SEND_RARP"                      8..=8,      0..=0, Acknowledge, Owned,     P::RARP,                   Continue;
    20 NetSetMtu             "NET_SET_MTU"                    8..=8,      0..=0, Acknowledge, Connected, P::NET_MTU,                Continue;
    21 SetBackendReqFd       "SET_BACKEND_REQ_FD"             0..=8,      1..=1, Acknowledge, Connected, P::BACKEND_REQ,            Close;
    22 IotlbMsg              "IOTLB_MSG"                      32..=32,    0..=0, Reply,       Owned,     P::BACKEND_REQ,            Continue;
    23 SetVringEndian        "SET_VRING_ENDIAN"               8..=8,      0..=0, Acknowledge, Owned,     P::CROSS_ENDIAN,           Close;
    24 GetConfig             "GET_CONFIG"                     12..=268,   0..=0, Reply,       Connected, P::CONFIG,                 Close;
    25 SetConfig             "SET_CONFIG"                     13..=268,   0..=0, Acknowledge, Connected, P::CONFIG,                 Continue;
    26 CreateCryptoSession   "CREATE_CRYPTO_SESSION"          0..=4096,   0..=0, Reply,       Owned,     P::CRYPTO_SESSION,         Close;
    27 CloseCryptoSession    "CLOSE_CRYPTO_SESSION"           8..=8,      0..=0, Acknowledge, Owned,     P::CRYPTO_SESSION,         Continue;
    28 PostcopyAdvise        "POSTCOPY_ADVISE"                0..=0,      0..=0, Reply,       Owned,     P::PAGEFAULT,              Continue;
    29 PostcopyListen        "POSTCOPY_LISTEN"                0..=0,      0..=0, Acknowledge, Owned,     P::PAGEFAULT,              Close;
    30 PostcopyEnd           "POSTCOPY_END"                   0..=0,      0..=0, Reply,       Owned,     P::PAGEFAULT,              Continue;
    31 GetInflightFd         "GET_INFLIGHT_FD"                20..=24,    0..=0, Reply,       Owned,     P::INFLIGHT_SHMFD,         Continue;
    32 SetInflightFd         "SET_INFLIGHT_FD"                20..=24,    1..=1, Acknowledge, Owned,     P::INFLIGHT_SHMFD,         Close;
    33 GpuSetSocket          "GPU_SET_SOCKET"                 0..=0,      1..=1, Acknowledge, Owned,     NONE,                      Close;
    34 ResetDevice           "RESET_DEVICE"                   0..=0,      0..=0, Acknowledge, Owned,     P::RESET_DEVICE,           Close;
    35 VringKick             "VRING_KICK"                     8..=8,      0..=0, Acknowledge, Owned,     P::INBAND_NOTIFICATIONS,   Continue;
    36 GetMaxMemSlots        "GET_MAX_MEM_SLOTS"              0..=0,      0..=0, Reply,       Connected, P::CONFIGURE_MEM_SLOTS,    Close;
    37 AddMemReg             "ADD_MEM_REG"                    40..=40,    1..=1, Acknowledge, Owned,     P::CONFIGURE_MEM_SLOTS,    Close;
    38 RemMemReg             "REM_MEM_REG"                    40..=40,    0..=1, Acknowledge, Owned,     P::CONFIGURE_MEM_SLOTS,    Close;
    39 SetStatus             "SET_STATUS"                     8..=8,      0..=0, Acknowledge, Connected, P::STATUS,                 Close;
    40 GetStatus             "GET_STATUS"                     0..=0,      0..=0, Reply,       Connected, P::STATUS,                 Close;
    41 GetSharedObject       "GET_SHARED_OBJECT"              16..=16,    0..=0, Reply,       Owned,     P::SHARED_OBJECT,          Continue;
    42 SetDeviceStateFd      "SET_DEVICE_STATE_FD"            8..=8,      1..=1, Reply,       Owned,     P::DEVICE_STATE,           Continue;
    43 CheckDeviceState      "CHECK_DEVICE_STATE"             0..=0,      0..=0, Reply,       Owned,     P::DEVICE_STATE,           Continue;
    44 GetShmemConfig        "GET_SHMEM_CONFIG"               0..=0,      0..=0, Reply,       Connected, P::SHMEM,                  Close;
}

impl Request {
    /// The rules of this message.
    pub fn rule(self) -> &'static Rule {
        &RULES[self as usize - 1]
    }
}

/// A message id as it came, known or not; prints as name and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageId(pub u32);

impl MessageId {
    /// The message's rules, if the id is known.
    pub fn rule(self) -> Option<&'static Rule> {
        RULES.get((self.0 as usize).checked_sub(1)?)
    }
}

impl From<Request> for MessageId {
    fn from(request: Request) -> Self {
        Self(request as u32)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule() {
            Some(rule) => write!(formatter, "{} ({})", rule.name, self.0),
            None => write!(formatter, "message {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_complete_and_in_order() {
        assert_eq!(RULES.len(), 44);
        for (position, rule) in RULES.iter().enumerate() {
            assert_eq!(rule.request as usize, position + 1, "{}", rule.name);
            assert!(*rule.payload.end() as usize <= MAX_PAYLOAD, "{}", rule.name);
            assert!(*rule.fds.end() <= MAX_FDS, "{}", rule.name);
            assert_eq!(rule.request.rule(), rule);
        }
        assert_eq!(MessageId(0).rule(), None);
        assert_eq!(MessageId(45).rule(), None);
        assert_eq!(MessageId(u32::MAX).rule(), None);
    }

    #[test]
    fn ids_print_with_their_names() {
        assert_eq!(MessageId(9).to_string(), "SET_VRING_ADDR (9)");
        assert_eq!(MessageId(99).to_string(), "message 99");
    }

    #[test]
    fn the_largest_memory_table_fits_its_rule() {
        let largest =
            size_of::<MemoryTableHeader>() + MAX_TABLE_REGIONS * size_of::<MemoryRegion>();
        assert_eq!(*Request::SetMemTable.rule().payload.end() as usize, largest);
        let config = size_of::<ConfigHeader>() + MAX_CONFIG;
        assert_eq!(*Request::GetConfig.rule().payload.end() as usize, config);
    }
}
