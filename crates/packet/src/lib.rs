//! Packets as bytes: flow keys, header parsing, checksums, edits, segmentation and builders.
//!
//! This crate is the base of the switch. It reads and writes header bytes that were already copied out of guest or
//! wire memory; it never allocates, never touches a ring, never panics on any input and contains no `unsafe`.
//!
//! | module | what it is |
//! |---|---|
//! | [`key`] | [`FlowKey`] and [`FlowMask`]: the words a classifier matches on |
//! | [`field`] | [`Field`]: where each header field lives in a key |
//! | [`parse`](mod@parse) | one pass from header bytes to a key and a [`Layout`] |
//! | [`plain`] | plain frames known again by their bytes |
//! | [`layout`] | offsets of every header that was found |
//! | [`view`] | wire formats as `zerocopy` structs |
//! | [`checksum`] | RFC 1071 sums, RFC 1624 updates, pseudo-headers |
//! | [`crc32c`](mod@crc32c) | SCTP's checksum and its update |
//! | [`edit`] | in-place rewrites that keep checksums right |
//! | [`headroom`] | a header buffer that can grow and shrink at the front |
//! | [`segment`] | TCP and UDP segmentation plans |
//! | [`ecn`] | congestion marks across tunnels (RFC 6040) |
//! | [`build`] | frames made from nothing: ARP, neighbour discovery, ICMP errors, TCP answers; tunnel encapsulation |
//! | [`ipfix`] | flow records for a collector |
//! | [`dhcp4`], [`dhcp6`] | requests parsed, answers built |
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(test)]
extern crate std;

pub mod build;
pub mod checksum;
pub mod crc32c;
pub mod dhcp4;
pub mod dhcp6;
pub mod ecn;
pub mod edit;
pub mod field;
#[cfg(test)]
mod golden;
pub mod headroom;
pub mod ipfix;
pub mod key;
pub mod layout;
pub mod parse;
pub mod plain;
pub mod segment;
pub mod tcp;
#[cfg(test)]
mod verify;
pub mod view;

pub use checksum::Checksum;
pub use edit::EditError;
pub use field::{Field, Layer, Part, TunnelKind};
pub use headroom::Headroom;
pub use key::{ActiveWords, FlowKey, FlowMask};
pub use layout::{L3Kind, LayerLayout, Layout};
pub use parse::{GeneveExtract, Malformed, ParseOptions, RawBase, RawExtract, parse};
pub use segment::{Gso, Segment, SegmentError, SegmentPlan};

/// Captured header bytes that are parsed, in bytes: a header chain must fit in the first 256 bytes of a frame.
pub const HEADER_MAX: usize = 256;
