//! What is done for one frame and not for a burst: decisions, and frames for the node itself.
#![allow(unsafe_code)]

use std::net::IpAddr;

use sumeru_packet::{Field, HEADER_MAX, Layer, ParseOptions};

use super::link::wire_number;
use super::{OWN_FRAME, SwitchWorker};
use crate::cache::{Decision, Hit};
use crate::conntrack::{ConnRef, Opening};
use crate::egress;
use crate::fdb::change_of;
use crate::frame::PortIndex;
use crate::lane::{Connections, Outcome};
use crate::link::tlv::LLDP_ETHERTYPE;
use crate::services::neighbours::Wanted;
use crate::stats::{Drop, Stage};
use crate::track::{Known, Table, Tracking};
use crate::translate::{Tables, Translation, translate};
use crate::underlay;

impl SwitchWorker {
    /// A frame that met a decision about frames without a connection, of which the table says this, and is none of those.
    #[inline(never)]
    pub(super) fn other(&mut self, index: usize, decision: u32, options: &ParseOptions) -> Outcome {
        let frame = &self.lane.frames[index];
        let stamps = self.rules.rules.stamps();
        let entry = self
            .cache
            .find_other(&frame.key, frame.hash, stamps, decision);
        let Some(entry) = entry else {
            return self.decide(index, None);
        };
        self.cache.acquaint(frame, entry, options);
        let Hit::Tracked(track, ops, counter) = self.cache.hit(entry) else {
            return self.decide(index, None);
        };
        match self.lane.execute_tracked(index, track, ops, counter) {
            Outcome::Outdated(known) => {
                self.cache.void(entry);
                self.decide(index, known)
            }
            outcome => outcome,
        }
    }

    /// The slow path for one frame: decide, learn, keep the decision, carry it out.
    #[cold]
    pub(super) fn decide(&mut self, index: usize, known: Known) -> Outcome {
        self.lane.counters.passed(Stage::SlowPath, 1);
        if self.rules.replaces && self.lane.frames[index].header.len() < HEADER_MAX {
            // What a new front uncovers may be decided by.
            // SAFETY: the frame is of the burst in hand.
            unsafe {
                egress::load_behind(&mut self.lane.frames[index], &self.lane.list, HEADER_MAX)
            };
        }
        let mut decision = self.look(index, known, None);
        if let Some(port) = decision.guarded.filter(|_| !decision.made.is_empty()) {
            decision.once = true;
            self.unmake(port, &decision.made);
        }
        // What was decided before an address was learned may depend on it (a frame to its own sender): it is good for this frame only.
        let news = decision
            .learn
            .filter(|(network, mac, target)| self.fdb.is_news(*network, *mac, *target));
        if news.is_some() || decision.once {
            let Translation {
                ops,
                tracks,
                bridged,
                ..
            } = decision;
            self.lane.broke_at = usize::MAX;
            self.lane.freshen(index, &tracks);
            let outcome = self.lane.execute_with(index, &tracks, &ops, None);
            // A frame that an action dropped on its way has not come to the bridge.
            if let Some((network, mac, target)) = news.filter(|_| self.lane.broke_at >= bridged) {
                self.fdb.learn(network, mac, target, self.now);
                self.cache.learned(change_of(network, mac));
            }
            return outcome;
        }
        if let Some((network, mac, _)) = decision.learn {
            self.fdb.touch(network, mac, self.now);
        }
        let tracks = decision.tracks.clone();
        let kept = Decision {
            tracks: decision.tracks,
            mask: decision.mask,
            rests: decision.rests,
            ops: decision.ops,
            sender: decision.learn.map(|(network, mac, _)| (network, mac)),
        };
        let key = self.lane.frames[index].key;
        let entry = self.cache.insert(&key, kept);
        match self.cache.hit(entry) {
            Hit::Output(quick) => self.lane.send_quick(index, quick),
            Hit::Run(ops, counter) => self.lane.execute(index, ops, counter),
            Hit::Tracked(_, ops, counter) => {
                // The further connections, perhaps behind what moves the numbers, were looked at just now and do nothing here.
                self.lane.freshen(index, &tracks);
                self.lane.execute_with(index, &tracks, ops, counter)
            }
        }
    }

    /// Decides what happens to a frame, and asks for what is missing to decide better. `redeemed`: it is the SYN of a client that was told this.
    pub(super) fn look(
        &mut self,
        index: usize,
        known: Known,
        redeemed: Option<Opening>,
    ) -> Translation {
        let key = self.lane.frames[index].key;
        let tables = Tables {
            snapshot: &self.snapshot,
            rules: &self.rules,
            fdb: &self.fdb,
            neighbours: &self.neighbours,
            residents: &self.residents,
        };
        let frame = &self.lane.frames[index];
        let mut tracking = match self.lane.connections.as_deref_mut() {
            Some(Connections {
                table,
                fragments,
                now,
            }) => Tracking::of(Table::Live(table, fragments), frame, *now, known),
            None => Tracking::of(Table::Off, frame, 0, None),
        };
        tracking.redeemed = redeemed;
        let mut decision = translate(tables, &key, tracking, None);
        if let Some(remote) = decision.resolve
            && self.neighbours.want(remote)
        {
            self.ask(remote);
        }
        if let Some((network, address)) = decision.want {
            let asker = self.lane.frames[index].in_port;
            match self.residents.want(network, address, asker) {
                Wanted::Now => self.ask_on(network, address, None),
                Wanted::Already => {}
                Wanted::Refused => decision.once = true,
            }
        }
        decision
    }

    /// Ends connections that were made in deciding about a SYN that is answered with a cookie.
    fn unmake(&mut self, port: PortIndex, made: &[ConnRef]) {
        let active = self
            .lane
            .shields
            .as_deref()
            .is_some_and(|shields| shields.is_active(port));
        if let Some(connections) = self.lane.connections.as_deref_mut().filter(|_| active) {
            for conn in made {
                connections.table.end_connection(*conn);
            }
        }
    }

    /// A frame for the node itself.
    #[cold]
    pub(super) fn consume(&mut self, index: usize) {
        let (frame, mut bytes, mut reply) =
            (&self.lane.frames[index], [0; OWN_FRAME], [0; OWN_FRAME]);
        // SAFETY: the frame is of the burst in hand.
        let len = unsafe { egress::linear(frame, &self.lane.list, &mut bytes) };
        if frame.key.get(Field::EthType(Layer::Outer)) == u128::from(LLDP_ETHERTYPE) {
            return self.hear_lldp(wire_number(frame.in_port, 0), &bytes[..len]);
        }
        self.lane.counters.dropped(Drop::Consumed.into());
        let network = self
            .snapshot
            .port(frame.in_port)
            .filter(|port| !port.uplink)
            .and_then(|port| port.network);
        if let Some(network) = network {
            return self.told(index, network);
        }
        // Longer ones are not answered.
        let Some(own) = &self.snapshot.underlay else {
            return;
        };
        if len < frame.len as usize {
            return;
        }
        let reaction = underlay::handle(
            &bytes[..len],
            &frame.layout,
            own,
            &mut self.neighbours,
            self.now,
            &mut reply,
        );
        let port = frame.in_port;
        if let Some(address) = reaction.learned {
            self.cache.learned(underlay::change_of(address));
            self.resolve_mirrors();
        }
        if reaction.reply_len > 0 {
            self.lane.send_own(port, &mut reply[..reaction.reply_len]);
        }
    }

    /// Asks the wire for a neighbour's link-layer address.
    pub(super) fn ask(&mut self, remote: IpAddr) {
        let Some(own) = &self.snapshot.underlay else {
            return;
        };
        let mut frame = [0; 128];
        let len = underlay::question(own, remote, &mut frame);
        if len > 0 {
            self.lane.send_own(own.port, &mut frame[..len]);
        }
    }
}
