//! Protected ports: the clients that have proved their addresses, and the clock of it all.
#![allow(unsafe_code)]

use sumeru_packet::tcp::Options;
use sumeru_virtio::GuestSlice;

use super::SwitchWorker;
use crate::conntrack::{Opening, ZonePolicy, tcp_flag};
use crate::egress;
use crate::frame::{BURST, PortIndex};
use crate::lane::Outcome;
use crate::net_header::{Offload, SHORT_NET_HEADER_LEN};
use crate::shield::segment::{self, Own};
use crate::shield::{Client, LONGEST, Shields, Waiting, zone};

/// Connections of one protected port that are tracked at most.
const CONNECTIONS: u32 = 1 << 16;
/// Longest frame of our own making that goes through the switch.
const LONGEST_OWN: usize = LONGEST + 64;

impl SwitchWorker {
    /// Takes over which ports are protected.
    pub(super) fn adopt_shields(&mut self) {
        let protected = self.snapshot.ports.iter().flatten();
        let views: Vec<_> = protected
            .filter_map(|port| {
                let local = self.lane.ports.get(usize::from(port.index))?.as_ref()?;
                Some((port.index, port.shield?, port.mtu, local.counters.clone()))
            })
            .collect();
        if views.is_empty() && self.lane.shields.is_none() {
            return;
        }
        self.make_connections();
        if let Some(connections) = self.lane.connections.as_deref_mut() {
            let policy = ZonePolicy {
                limit: Some(CONNECTIONS),
                pickup: true,
                liberal: true,
            };
            for (port, ..) in &views {
                connections.table.set_zone(zone(*port), policy);
            }
        }
        let shields = self
            .lane
            .shields
            .get_or_insert_with(Box::<Shields>::default);
        shields.set(views.into_iter());
    }

    /// Lets segments of our own making go through the switch as if they had come in.
    #[cold]
    pub(super) fn take_in_own(&mut self) {
        // No more at a time than come in by a port.
        for _ in 0..BURST {
            let shields = self.lane.shields.as_deref_mut();
            let Some(waiting) = shields.and_then(Shields::next_waiting) else {
                return;
            };
            let (client, syn) = match waiting {
                Waiting::Syn(client) => (client, true),
                Waiting::Ack(client) => (client, false),
            };
            let Some(came) = segment::read(&client.ack, &client.layout, client.inner) else {
                continue;
            };
            let own = if syn {
                Own {
                    flags: tcp_flag::SYN,
                    seq: came.seq.wrapping_sub(1),
                    window: came.window,
                    options: client.options,
                    ..Own::default()
                }
            } else {
                Own {
                    flags: tcp_flag::ACK,
                    seq: came.seq,
                    ack: came.ack,
                    window: came.window,
                    options: Options {
                        timestamps: came.options.timestamps,
                        ..Options::default()
                    },
                }
            };
            let mut bytes = [0; LONGEST_OWN];
            let len = segment::instead(&client.ack, &client.layout, client.inner, &own, &mut bytes);
            if let Some(bytes) = len.and_then(|len| bytes.get_mut(..len)) {
                self.take_in(client.from, bytes, syn.then_some(client));
            }
        }
    }

    /// Lets a frame go through the switch as if it had come in by a port.
    fn take_in(&mut self, port: PortIndex, bytes: &mut [u8], client: Option<Client>) {
        let Some(options) = self.lane.port(port).map(|port| port.parse) else {
            return;
        };
        let lane = &mut self.lane;
        lane.list.clear();
        lane.list.push(GuestSlice::from_own(bytes));
        let frame = &mut lane.frames[0];
        (frame.in_port, frame.first_segment, frame.segments) = (port, 0, 1);
        (frame.len, frame.offload) = (bytes.len() as u32, Offload::NONE);
        // SAFETY: the bytes are ours, and the caller's for as long as this runs.
        if !unsafe { egress::load(frame, &lane.list, 0, &mut [0; SHORT_NET_HEADER_LEN]) } {
            return;
        }
        if let Err(reason) = self.parse_one(0, &options) {
            return self.lane.counters.dropped(reason);
        }
        let frame = &mut self.lane.frames[0];
        frame.hash = self.cache.hash(&frame.key);
        match client {
            None => self.decide_all(port, 1, &options),
            Some(client) => self.open(client),
        }
        self.lane.flush(port);
        self.lane.list.clear();
    }

    /// The SYN of a client that has proved its address, which goes to the guest.
    fn open(&mut self, client: Client) {
        let opening: Opening = client.opening;
        let decision = self.look(0, None, Some(opening));
        if let (Some((conn, port)), Some(shields)) =
            (decision.opened, self.lane.shields.as_deref_mut())
        {
            shields.begun(conn, port, client, self.now);
        }
        self.lane.freshen(0, &decision.tracks);
        let outcome = self
            .lane
            .execute_with(0, &decision.tracks, &decision.ops, None);
        if outcome == Outcome::Consume {
            self.consume(0);
        }
    }

    /// Once a second: guests that did not answer are asked again, and floods may be over.
    pub(super) fn serve_shields(&mut self) {
        let (Some(shields), Some(connections)) = (
            self.lane.shields.as_deref_mut(),
            self.lane.connections.as_deref_mut(),
        ) else {
            return;
        };
        let table = &mut connections.table;
        shields.tick(|port| table.half_open_in(zone(port)));
        let lost = shields.retry(self.now, |conn| table.opening_of(conn).is_some());
        for (conn, _) in &lost {
            table.end_connection(*conn);
        }
        for (_, client) in &lost {
            self.lane.reset(client);
        }
    }
}
