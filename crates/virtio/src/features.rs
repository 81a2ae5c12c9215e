//! Feature bits: virtio device and ring features (VIRTIO 1.2 sections 5.1.3, 5.2.3 and 6) and the
//! vhost-user protocol features ("Protocol features" in the vhost-user specification).
//!
//! Plain masks, so that feature sets can be pinned and compared as numbers. This module decides nothing:
//! what is offered is the device's choice.

use bitflags::bitflags;

/// Features of the ring and of the transport, common to every device type (VIRTIO 1.2 section 6).
pub mod ring {
    /// `VIRTIO_F_NOTIFY_ON_EMPTY` (legacy drivers only).
    pub const NOTIFY_ON_EMPTY: u64 = 1 << 24;
    /// `VHOST_F_LOG_ALL`: every write to guest memory is logged (vhost, "Migration").
    pub const LOG_ALL: u64 = 1 << 26;
    /// `VIRTIO_F_ANY_LAYOUT` (legacy drivers only).
    pub const ANY_LAYOUT: u64 = 1 << 27;
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// `VIRTIO_F_EVENT_IDX`.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// `VHOST_USER_F_PROTOCOL_FEATURES`: the vhost-user protocol features exist. Never seen by a driver.
    pub const VHOST_USER_PROTOCOL_FEATURES: u64 = 1 << 30;
    /// `VIRTIO_F_VERSION_1`.
    pub const VERSION_1: u64 = 1 << 32;
    /// `VIRTIO_F_ACCESS_PLATFORM`: addresses in rings go through an IOMMU.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    /// `VIRTIO_F_RING_PACKED`.
    pub const PACKED: u64 = 1 << 34;
    /// `VIRTIO_F_IN_ORDER`.
    pub const IN_ORDER: u64 = 1 << 35;
    /// `VIRTIO_F_ORDER_PLATFORM`.
    pub const ORDER_PLATFORM: u64 = 1 << 36;
    /// `VIRTIO_F_NOTIFICATION_DATA`.
    pub const NOTIFICATION_DATA: u64 = 1 << 38;
    /// `VIRTIO_F_RING_RESET`.
    pub const RING_RESET: u64 = 1 << 40;
}

/// Features of the network device (VIRTIO 1.2 section 5.1.3).
pub mod net {
    /// `VIRTIO_NET_F_CSUM`: the device takes frames with partial checksums.
    pub const CSUM: u64 = 1 << 0;
    /// `VIRTIO_NET_F_GUEST_CSUM`: the driver takes frames with partial checksums.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// `VIRTIO_NET_F_MTU`: the configuration space carries a maximum MTU.
    pub const MTU: u64 = 1 << 3;
    /// `VIRTIO_NET_F_MAC`: the configuration space carries the address.
    pub const MAC: u64 = 1 << 5;
    /// `VIRTIO_NET_F_GUEST_TSO4`: the driver takes TCP over IPv4 segments of up to 64 KiB.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// `VIRTIO_NET_F_GUEST_TSO6`: the driver takes TCP over IPv6 segments of up to 64 KiB.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// `VIRTIO_NET_F_GUEST_ECN`.
    pub const GUEST_ECN: u64 = 1 << 9;
    /// `VIRTIO_NET_F_GUEST_UFO`.
    pub const GUEST_UFO: u64 = 1 << 10;
    /// `VIRTIO_NET_F_HOST_TSO4`: the device takes TCP over IPv4 segments of up to 64 KiB.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// `VIRTIO_NET_F_HOST_TSO6`: the device takes TCP over IPv6 segments of up to 64 KiB.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// `VIRTIO_NET_F_HOST_ECN`.
    pub const HOST_ECN: u64 = 1 << 13;
    /// `VIRTIO_NET_F_HOST_UFO`.
    pub const HOST_UFO: u64 = 1 << 14;
    /// `VIRTIO_NET_F_MRG_RXBUF`: a received frame may span several buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// `VIRTIO_NET_F_STATUS`: the configuration space carries the link state.
    pub const STATUS: u64 = 1 << 16;
    /// `VIRTIO_NET_F_CTRL_VQ`. With vhost-user the front end serves that queue.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// `VIRTIO_NET_F_CTRL_RX`.
    pub const CTRL_RX: u64 = 1 << 18;
    /// `VIRTIO_NET_F_CTRL_VLAN`.
    pub const CTRL_VLAN: u64 = 1 << 19;
    /// `VIRTIO_NET_F_GUEST_ANNOUNCE`: the driver can announce itself after a migration.
    pub const GUEST_ANNOUNCE: u64 = 1 << 21;
    /// `VIRTIO_NET_F_MQ`: more than one queue pair.
    pub const MQ: u64 = 1 << 22;
    /// `VIRTIO_NET_F_CTRL_MAC_ADDR`.
    pub const CTRL_MAC_ADDR: u64 = 1 << 23;
}

/// Features of the block device (VIRTIO 1.2 section 5.2.3).
pub mod blk {
    /// `VIRTIO_BLK_F_SIZE_MAX`: maximum size of one segment is in `size_max`.
    pub const SIZE_MAX: u64 = 1 << 1;
    /// `VIRTIO_BLK_F_SEG_MAX`: maximum number of segments of a request is in `seg_max`.
    pub const SEG_MAX: u64 = 1 << 2;
    /// `VIRTIO_BLK_F_GEOMETRY`.
    pub const GEOMETRY: u64 = 1 << 4;
    /// `VIRTIO_BLK_F_RO`: the device is read-only.
    pub const RO: u64 = 1 << 5;
    /// `VIRTIO_BLK_F_BLK_SIZE`: the logical block size is in `blk_size`.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// `VIRTIO_BLK_F_FLUSH`: the flush command exists.
    pub const FLUSH: u64 = 1 << 9;
    /// `VIRTIO_BLK_F_TOPOLOGY`: optimal I/O sizes are in `topology`.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// `VIRTIO_BLK_F_CONFIG_WCE`: the driver may switch the write cache.
    pub const CONFIG_WCE: u64 = 1 << 11;
    /// `VIRTIO_BLK_F_MQ`: the number of queues is in `num_queues`.
    pub const MQ: u64 = 1 << 12;
    /// `VIRTIO_BLK_F_DISCARD`.
    pub const DISCARD: u64 = 1 << 13;
    /// `VIRTIO_BLK_F_WRITE_ZEROES`.
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

bitflags! {
    /// The vhost-user protocol features, negotiated with messages 15 and 16.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ProtocolFeatures: u64 {
        /// Multiple queues; GET_QUEUE_NUM.
        const MQ = 1 << 0;
        /// The dirty log is a shared memory file.
        const LOG_SHMFD = 1 << 1;
        /// SEND_RARP after a migration.
        const RARP = 1 << 2;
        /// Any message may ask for an acknowledgement.
        const REPLY_ACK = 1 << 3;
        /// NET_SET_MTU.
        const NET_MTU = 1 << 4;
        /// A channel for requests of the back end.
        const BACKEND_REQ = 1 << 5;
        /// SET_VRING_ENDIAN.
        const CROSS_ENDIAN = 1 << 6;
        /// Crypto sessions.
        const CRYPTO_SESSION = 1 << 7;
        /// Post-copy migration.
        const PAGEFAULT = 1 << 8;
        /// GET_CONFIG, SET_CONFIG and the change notification.
        const CONFIG = 1 << 9;
        /// File descriptors may travel on the back-end channel.
        const BACKEND_SEND_FD = 1 << 10;
        /// Host notifiers.
        const HOST_NOTIFIER = 1 << 11;
        /// The in-flight region survives the back end.
        const INFLIGHT_SHMFD = 1 << 12;
        /// RESET_DEVICE.
        const RESET_DEVICE = 1 << 13;
        /// Kick and call as messages.
        const INBAND_NOTIFICATIONS = 1 << 14;
        /// ADD_MEM_REG and REM_MEM_REG.
        const CONFIGURE_MEM_SLOTS = 1 << 15;
        /// SET_STATUS and GET_STATUS.
        const STATUS = 1 << 16;
        /// Xen grant mappings.
        const XEN_MMAP = 1 << 17;
        /// Shared objects between devices.
        const SHARED_OBJECT = 1 << 18;
        /// SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE.
        const DEVICE_STATE = 1 << 19;
        /// VIRTIO shared memory regions.
        const SHMEM = 1 << 20;
    }
}

impl ProtocolFeatures {
    /// What the session serves by itself, for any device.
    pub const TRANSPORT: Self = Self::MQ
        .union(Self::REPLY_ACK)
        .union(Self::BACKEND_REQ)
        .union(Self::RESET_DEVICE)
        .union(Self::CONFIGURE_MEM_SLOTS)
        .union(Self::STATUS);

    /// Everything the session can serve if the device takes part: the outer bound of what is ever offered.
    pub const IMPLEMENTED: Self = Self::TRANSPORT
        .union(Self::CONFIG)
        .union(Self::NET_MTU)
        .union(Self::RARP)
        .union(Self::INFLIGHT_SHMFD);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_unimplemented_is_in_the_outer_bound() {
        for absent in [
            ProtocolFeatures::LOG_SHMFD,
            ProtocolFeatures::PAGEFAULT,
            ProtocolFeatures::INBAND_NOTIFICATIONS,
            ProtocolFeatures::DEVICE_STATE,
        ] {
            assert!(!ProtocolFeatures::IMPLEMENTED.intersects(absent));
        }
        assert!(ProtocolFeatures::IMPLEMENTED.contains(ProtocolFeatures::TRANSPORT));
    }
}
