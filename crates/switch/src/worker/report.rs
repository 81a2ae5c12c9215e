//! What an lcore tells of its tables.

use std::net::IpAddr;

use super::SwitchWorker;
use crate::fdb::Entry;
use crate::snapshot::NetworkId;
use crate::underlay::Neighbour;

/// An lcore's flow cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheSums {
    /// Decisions that are cached.
    pub entries: u64,
    /// Masks that are in use.
    pub masks: u64,
    /// Bytes reserved.
    pub bytes: u64,
}

impl SwitchWorker {
    /// The learned addresses, and the lcore's clock in seconds.
    pub fn fdb(&self) -> (Vec<(NetworkId, [u8; 6], Entry)>, u32) {
        (
            self.fdb
                .iter()
                .map(|(network, mac, entry)| (network, mac, *entry))
                .collect(),
            self.now,
        )
    }

    /// The neighbours on the underlay, and the lcore's clock in seconds.
    pub fn neighbours(&self) -> (Vec<(IpAddr, Neighbour)>, u32) {
        (
            self.neighbours
                .iter()
                .map(|(address, neighbour)| (address, *neighbour))
                .collect(),
            self.now,
        )
    }

    /// Entries in the flow cache.
    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    /// Bytes that the flow cache has reserved.
    pub fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// The flow cache: entries, masks in use, bytes reserved.
    pub fn cache_sums(&self) -> CacheSums {
        CacheSums {
            entries: self.cache.len() as u64,
            masks: self.cache.masks() as u64,
            bytes: self.cache.bytes() as u64,
        }
    }
}
