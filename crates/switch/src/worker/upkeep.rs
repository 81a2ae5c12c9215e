//! What an lcore's switch does once a second, or sooner if a link protocol asks for it: neighbours are asked again, what is old is forgotten, faults
//! and losses are told.

use std::collections::HashMap;

use sumeru_engine::Tsc;

use super::SwitchWorker;
use crate::fdb::change_of;
use crate::frame::PortIndex;
use crate::lane::{Attachment, LocalPort};
use crate::ring::Receiver;
use crate::snapshot::{NetworkId, Snapshot};
use crate::stats::Drop;
use crate::underlay;

/// Connections looked at in a millisecond for their end.
const EXPIRE: usize = 256;
/// Seconds between looks at what has become old.
const SWEEP: u32 = 10;

impl SwitchWorker {
    /// Once a second.
    #[cold]
    pub(super) fn tick(&mut self, now: Tsc) {
        self.next_tick = Tsc(now.0 + self.second);
        let seconds = (now.since(self.started) / self.second.max(1)) as u32;
        let new_second = seconds != self.now;
        self.now = seconds;
        let mut questions = std::mem::take(&mut self.questions);
        // A question that cannot be put yet does not count.
        let (neighbours, cache) = (&mut self.neighbours, &mut self.cache);
        if self.snapshot.underlay.is_some() {
            let lost = |remote| cache.learned(underlay::change_of(remote));
            neighbours.ask(seconds, new_second, |remote| questions.push(remote), lost);
        }
        questions.drain(..).for_each(|remote| self.ask(remote));
        self.questions = questions;
        self.resolve_mirrors();
        self.run_links(now);
        if !new_second {
            return;
        }
        allow_floods(&mut self.lane.floods, &self.snapshot);
        self.lane.begin_second();
        self.serve_networks();
        self.serve_shields();
        if seconds.is_multiple_of(SWEEP) {
            self.cache.begin_sweep();
        }
        self.report_receivers();
        self.count_lost();
    }

    /// The clock of the connections goes on, and some that are over end.
    #[inline(always)]
    pub(super) fn advance(&mut self, now: Tsc) {
        self.lane.now = now.0;
        if let Some(connections) = self.lane.connections.as_deref_mut() {
            let now = now.since(self.started) / self.millisecond;
            if now != connections.now {
                connections.now = now;
                connections.table.expire(now, EXPIRE);
            }
        }
    }

    /// A step through the flow cache.
    #[cold]
    pub(super) fn sweep(&mut self) {
        let (fdb, now) = (&mut self.fdb, self.now);
        self.cache
            .sweep(|(network, mac)| fdb.touch(network, mac, now));
        if !self.cache.sweeping() {
            // Every address whose frames are decided from the cache has been touched.
            let cache = &mut self.cache;
            fdb.age(&self.snapshot, now, |network, mac| {
                cache.learned(change_of(network, mac));
            });
        }
    }

    /// Counts what the kernel lost before it came here.
    fn count_lost(&mut self) {
        for port in self.lane.ports.iter_mut().flatten() {
            for wire in port.attachment.wires_mut() {
                let lost = wire.take_lost();
                self.lane
                    .counters
                    .dropped_many(Drop::WireOverflow.into(), lost.overflow);
                self.lane
                    .counters
                    .dropped_many(Drop::WireMalformed.into(), lost.malformed);
                port.counters.rx_drops.add(lost.overflow + lost.malformed);
            }
        }
    }

    /// Tells of receive queues that were stopped since the last look.
    fn report_receivers(&mut self) {
        for (index, port) in self.lane.ports.iter_mut().enumerate() {
            let Some(LocalPort {
                attachment: Attachment::Rings(pairs),
                ..
            }) = port
            else {
                continue;
            };
            for (number, pair) in pairs.iter_mut().enumerate() {
                if let Some(fault) = pair.receiver.as_mut().and_then(Receiver::take_fault) {
                    (self.faults)(index as PortIndex, number * 2, fault);
                }
            }
        }
    }
}

/// A new second: every network may flood again. Allocates only when a network is new.
pub(super) fn allow_floods(floods: &mut HashMap<NetworkId, u32>, snapshot: &Snapshot) {
    let networks = snapshot.networks.values();
    for network in networks.filter(|network| network.flood_limit > 0) {
        floods.insert(network.id, network.flood_limit);
    }
}
