//! Wire formats of the headers this crate knows, as `zerocopy` structs of alignment 1 in network order.
//!
//! `Header::ref_from_prefix(bytes)` and `mut_from_prefix` view them in place. A view checks nothing but the length;
//! [`parse`](crate::parse()) is what validates.

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

macro_rules! header {
    ($(#[$doc:meta])* $name:ident = $size:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $name {
            /// Length in bytes, options not counted.
            pub const LEN: usize = $size;
        }

        const _: () = assert!(size_of::<$name>() == $size && align_of::<$name>() == 1);
    };
}

header! {
    /// Ethernet II (IEEE 802.3 section 3).
    Ethernet = 14 {
        /// Destination MAC address.
        dst: [u8; 6],
        /// Source MAC address.
        src: [u8; 6],
        /// EtherType, or length below 0x600.
        ethertype: U16,
    }
}

header! {
    /// What follows a VLAN TPID (IEEE 802.1Q section 9.6).
    Vlan = 4 {
        /// Priority (3 bits), DEI (1), VLAN id (12).
        tci: U16,
        /// EtherType of what follows.
        ethertype: U16,
    }
}

header! {
    /// ARP for IPv4 over Ethernet (RFC 826).
    Arp = 28 {
        /// Hardware type, 1 for Ethernet.
        hardware: U16,
        /// Protocol type, 0x0800.
        protocol: U16,
        /// Hardware address length, 6.
        hardware_len: u8,
        /// Protocol address length, 4.
        protocol_len: u8,
        /// 1 request, 2 reply.
        opcode: U16,
        /// Sender's MAC address.
        sender_mac: [u8; 6],
        /// Sender's IPv4 address.
        sender_ip: U32,
        /// Target's MAC address.
        target_mac: [u8; 6],
        /// Target's IPv4 address.
        target_ip: U32,
    }
}

header! {
    /// IPv4 without options (RFC 791 section 3.1).
    Ipv4 = 20 {
        /// Version 4 in the high half, header length in 4-byte units in the low half.
        version_ihl: u8,
        /// DSCP (6 bits) and ECN (2).
        tos: u8,
        /// Length of header and payload in bytes.
        total_len: U16,
        /// Identification of the datagram for reassembly.
        id: U16,
        /// Flags (3 bits) and fragment offset in 8-byte units (13).
        fragment: U16,
        /// Time to live.
        ttl: u8,
        /// Protocol of the payload.
        proto: u8,
        /// Header checksum.
        checksum: U16,
        /// Source address.
        src: U32,
        /// Destination address.
        dst: U32,
    }
}

impl Ipv4 {
    /// "Don't fragment" of [`Ipv4::fragment`].
    pub const DONT_FRAGMENT: u16 = 0x4000;
}

header! {
    /// IPv6 fixed header (RFC 8200 section 3).
    Ipv6 = 40 {
        /// Version 6 (4 bits), traffic class (8), flow label (20).
        version_class_flow: U32,
        /// Length of everything after this header in bytes.
        payload_len: U16,
        /// Next header.
        next: u8,
        /// Hop limit.
        hop_limit: u8,
        /// Source address.
        src: [u8; 16],
        /// Destination address.
        dst: [u8; 16],
    }
}

header! {
    /// TCP without options (RFC 9293 section 3.1).
    Tcp = 20 {
        /// Source port.
        src: U16,
        /// Destination port.
        dst: U16,
        /// Sequence number.
        seq: U32,
        /// Acknowledgement number.
        ack: U32,
        /// Header length in 4-byte units in the high half.
        data_offset: u8,
        /// Flags, see the constants.
        flags: u8,
        /// Window.
        window: U16,
        /// Checksum.
        checksum: U16,
        /// Urgent pointer.
        urgent: U16,
    }
}

impl Tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// Acknowledgement field is significant.
    pub const ACK: u8 = 0x10;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

header! {
    /// UDP (RFC 768).
    Udp = 8 {
        /// Source port.
        src: U16,
        /// Destination port.
        dst: U16,
        /// Length of header and payload in bytes.
        len: U16,
        /// Checksum; zero for none.
        checksum: U16,
    }
}

header! {
    /// ICMP and ICMPv6 as far as they are alike, with the four bytes that follow (RFC 792, RFC 4443).
    Icmp = 8 {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Checksum.
        checksum: U16,
        /// Identifier and sequence number of an echo; other things otherwise.
        rest: U32,
    }
}

header! {
    /// VXLAN (RFC 7348 section 5).
    Vxlan = 8 {
        /// Flags; [`Vxlan::VALID`] says that the VNI is valid.
        flags: u8,
        /// Reserved.
        reserved: [u8; 3],
        /// VNI in the high 24 bits, reserved below.
        vni_reserved: U32,
    }
}

impl Vxlan {
    /// The I flag.
    pub const VALID: u8 = 0x08;
    /// Largest VNI.
    pub const VNI_MAX: u32 = 0xff_ffff;

    /// A header for `vni` (24 bits; higher ones dropped).
    pub const fn new(vni: u32) -> Vxlan {
        Vxlan {
            flags: Self::VALID,
            reserved: [0; 3],
            vni_reserved: U32::new(vni << 8),
        }
    }

    /// The VNI.
    pub const fn vni(&self) -> u32 {
        self.vni_reserved.get() >> 8
    }
}
