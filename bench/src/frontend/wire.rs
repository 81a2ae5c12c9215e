//! Numbers and message bytes of vhost-user (QEMU's `docs/interop/vhost-user` text), as a front end sends them.
//!
//! Message: request u32, flags u32, payload size u32, payload; all in the machine's byte order. Holds no state.

/// Request codes of the front end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are the standard's own")]
pub enum Request {
    GetFeatures = 1,
    SetFeatures = 2,
    SetOwner = 3,
    ResetOwner = 4,
    SetMemTable = 5,
    SetLogBase = 6,
    SetLogFd = 7,
    SetVringNum = 8,
    SetVringAddr = 9,
    SetVringBase = 10,
    GetVringBase = 11,
    SetVringKick = 12,
    SetVringCall = 13,
    SetVringErr = 14,
    GetProtocolFeatures = 15,
    SetProtocolFeatures = 16,
    GetQueueNum = 17,
    SetVringEnable = 18,
    GetConfig = 24,
    SetConfig = 25,
    GetInflightFd = 31,
    SetInflightFd = 32,
    GetMaxMemSlots = 36,
    AddMemReg = 37,
    RemMemReg = 38,
    SetStatus = 39,
    GetStatus = 40,
}

/// Bytes of a message's header.
pub const HEADER_LEN: usize = 12;
/// Flags: protocol version 1.
pub const FLAG_VERSION: u32 = 0x1;
/// Flags: this is a reply.
pub const FLAG_REPLY: u32 = 0x4;
/// Flags: the sender wants a REPLY_ACK.
pub const FLAG_NEED_REPLY: u32 = 0x8;
/// Largest payload accepted in a reply, bytes; the protocol's own limits are far lower.
pub const MAX_PAYLOAD: u32 = 4096;
/// Payload bit of SET_VRING_KICK/CALL/ERR: no descriptor is attached.
pub const VRING_NO_FD: u64 = 1 << 8;

/// virtio features (virtio 1.2, section 6) by bit mask.
pub mod feature {
    /// Ring: indirect descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Ring: event index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// vhost-user: protocol features follow.
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    /// Complies with virtio 1.0 or later.
    pub const VERSION_1: u64 = 1 << 32;
    /// Ring: packed layout.
    pub const RING_PACKED: u64 = 1 << 34;
    /// virtio-blk: the flush command exists.
    pub const BLK_FLUSH: u64 = 1 << 9;
    /// virtio-net: receive buffers may be merged, so the header is always 12 bytes.
    pub const NET_MRG_RXBUF: u64 = 1 << 15;
}

/// vhost-user protocol features by bit mask.
pub mod protocol_feature {
    /// Several queues; GET_QUEUE_NUM.
    pub const MQ: u64 = 1 << 0;
    /// REPLY_ACK to any request.
    pub const REPLY_ACK: u64 = 1 << 3;
    /// GET_CONFIG and SET_CONFIG.
    pub const CONFIG: u64 = 1 << 9;
    /// GET_INFLIGHT_FD and SET_INFLIGHT_FD.
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    /// ADD_MEM_REG, REM_MEM_REG and GET_MAX_MEM_SLOTS.
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    /// SET_STATUS and GET_STATUS.
    pub const STATUS: u64 = 1 << 16;
}

/// One region as SET_MEM_TABLE carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRegion {
    /// Guest-physical address.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
    /// Address in the front end's process.
    pub userspace_addr: u64,
    /// Offset of the first byte in the descriptor.
    pub mmap_offset: u64,
}

/// Addresses of one ring as SET_VRING_ADDR carries them, in the front end's address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VringAddr {
    /// Queue.
    pub index: u32,
    /// Bit 0: dirty logging.
    pub flags: u32,
    /// Descriptor table.
    pub desc: u64,
    /// Used ring.
    pub used: u64,
    /// Available ring.
    pub avail: u64,
    /// Guest-physical address for dirty logging.
    pub log: u64,
}

/// What GET_INFLIGHT_FD answers and SET_INFLIGHT_FD sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inflight {
    /// Bytes of the shared area.
    pub mmap_size: u64,
    /// Its offset in the descriptor.
    pub mmap_offset: u64,
    /// Queues tracked.
    pub num_queues: u16,
    /// Entries of each.
    pub queue_size: u16,
}

/// A header's bytes.
pub fn header(request: u32, flags: u32, size: u32) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[0..4].copy_from_slice(&request.to_ne_bytes());
    bytes[4..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[8..12].copy_from_slice(&size.to_ne_bytes());
    bytes
}

/// SET_MEM_TABLE's payload.
pub fn mem_table(regions: &[MemoryRegion]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + 32 * regions.len());
    bytes.extend_from_slice(&(regions.len() as u32).to_ne_bytes());
    bytes.extend_from_slice(&0u32.to_ne_bytes());
    for region in regions {
        for word in [
            region.gpa,
            region.size,
            region.userspace_addr,
            region.mmap_offset,
        ] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
    }
    bytes
}

/// The payload of SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE and SET_VRING_ENABLE.
pub fn vring_state(index: u32, value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[0..4].copy_from_slice(&index.to_ne_bytes());
    bytes[4..8].copy_from_slice(&value.to_ne_bytes());
    bytes
}

/// SET_VRING_ADDR's payload.
pub fn vring_addr(addr: &VringAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(40);
    bytes.extend_from_slice(&addr.index.to_ne_bytes());
    bytes.extend_from_slice(&addr.flags.to_ne_bytes());
    for word in [addr.desc, addr.used, addr.avail, addr.log] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// The payload of GET_CONFIG and SET_CONFIG.
pub fn config(offset: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(12 + body.len());
    for word in [offset, body.len() as u32, flags] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(body);
    bytes
}

/// The payload of GET_INFLIGHT_FD and SET_INFLIGHT_FD: 20 bytes of fields, padded to 24 as QEMU and DPDK send it.
pub fn inflight(value: &Inflight) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24);
    bytes.extend_from_slice(&value.mmap_size.to_ne_bytes());
    bytes.extend_from_slice(&value.mmap_offset.to_ne_bytes());
    bytes.extend_from_slice(&value.num_queues.to_ne_bytes());
    bytes.extend_from_slice(&value.queue_size.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

/// The integer at `offset`, if the bytes reach that far.
pub fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes
        .get(offset..offset.checked_add(8)?)?
        .try_into()
        .ok()
        .map(u64::from_ne_bytes)
}

/// The integer at `offset`, if the bytes reach that far.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes
        .get(offset..offset.checked_add(4)?)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

/// The integer at `offset`, if the bytes reach that far.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes
        .get(offset..offset.checked_add(2)?)?
        .try_into()
        .ok()
        .map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as QEMU 7.2 sends them on a little-endian machine.
    #[test]
    fn messages_have_the_bytes_of_the_protocol() {
        let region = MemoryRegion {
            gpa: 1,
            size: 2,
            userspace_addr: 3,
            mmap_offset: 4,
        };
        let table = mem_table(&[region]);
        let words: Vec<u64> = table
            .chunks(8)
            .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
            .collect();
        assert_eq!(words, [1, 1, 2, 3, 4]);
        let addr = VringAddr {
            index: 7,
            flags: 1,
            desc: 2,
            used: 3,
            avail: 4,
            log: 5,
        };
        let bytes = vring_addr(&addr);
        assert_eq!(bytes.len(), 40);
        assert_eq!(
            (
                u32_at(&bytes, 0),
                u64_at(&bytes, 8),
                u64_at(&bytes, 16),
                u64_at(&bytes, 24)
            ),
            (Some(7), Some(2), Some(3), Some(4))
        );
        let area = Inflight {
            mmap_size: 9,
            mmap_offset: 8,
            num_queues: 2,
            queue_size: 256,
        };
        let bytes = inflight(&area);
        assert_eq!(
            (bytes.len(), u16_at(&bytes, 16), u16_at(&bytes, 18)),
            (24, Some(2), Some(256))
        );
        assert_eq!(
            config(4, 1, &[9])[..],
            [4, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 9].map(|b: u8| b)[..]
        );
        assert_eq!(header(1, 9, 8), [1, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0]);
        assert_eq!(
            (u64_at(&[0; 7], 0), u16_at(&[0; 2], usize::MAX)),
            (None, None)
        );
    }
}
