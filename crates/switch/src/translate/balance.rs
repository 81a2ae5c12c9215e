//! Load balancers: packets to a virtual address go to one of its members, and what members answer comes from the virtual address.

use std::net::IpAddr;

use sumeru_packet::build::IcmpError;
use sumeru_packet::{Field, Layer};

use super::ct::Tracked;
use super::{Walk, ip_of};
use crate::balance::{Balancer, Member, VirtualAddress};
use crate::conntrack::{Direction, Nat, NatBinding, NatRange, Rewrite, Tuple, ct_state, protocol};
use crate::fdb::Target;
use crate::program::{Hop, Op};
use crate::rules::CtChange;
use crate::services::{Answer, Place, Services};
use crate::snapshot::NetworkId;
use crate::stats::Drop;
use crate::track::Table;

const OUTER: Layer = Layer::Outer;

/// An address as connections have it.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// One address, and one port if that is given.
fn only(address: IpAddr, port: Option<u16>) -> NatRange {
    NatRange {
        min: number(address),
        max: number(address),
        ports: port.map(|port| (port, port)),
        random: false,
    }
}

impl Walk<'_> {
    /// What the frame's headers say of its part in a balancer's protocol: whether its ports are not in it, and whether it is an error about a packet.
    fn kind(&mut self) -> (u8, bool, bool) {
        self.get(Field::Fragment(OUTER));
        let proto = self.get(Field::IpProto(OUTER)) as u8;
        let facts = &self.tracking.facts[usize::from(self.seen.is_decapsulated())];
        let later = facts.fragment.is_some_and(|fragment| fragment.offset != 0);
        let icmp = matches!(proto, protocol::ICMP | protocol::ICMPV6);
        (proto, later, icmp && facts.embedded.is_some())
    }

    /// A packet to a virtual address.
    pub(super) fn balance(
        &mut self,
        id: NetworkId,
        services: &Services,
        from: Target,
        called: &VirtualAddress,
        address: IpAddr,
    ) -> bool {
        let (proto, later, error) = self.kind();
        for balancer in &called.balancers {
            let meant = match error {
                true => true,
                false if balancer.proto != proto => false,
                false => later || self.get(Field::L4Dst(OUTER)) == balancer.port.into(),
            };
            if !meant {
                continue;
            }
            let Some(tracked) = self.look_in(balancer.zone) else {
                return true;
            };
            if let Some((conn, direction)) = tracked.found {
                let table = self.tracking.table.connections();
                let tuples = table.and_then(|table| table.tuples(conn));
                if let Some(tuples) = tuples {
                    return self.carry_on(services, from, balancer, tracked, direction, &tuples);
                }
            }
            // Ports of a fragment are known now.
            if !error && self.key.get(Field::L4Dst(OUTER)) == balancer.port.into() {
                return self.begin_balanced(services, from, balancer, tracked);
            }
        }
        if error || later {
            self.drop(Drop::Unanswered);
            return true;
        }
        self.own(id, services, from, address)
    }

    /// A packet of a connection that has its member.
    fn carry_on(
        &mut self,
        services: &Services,
        from: Target,
        balancer: &Balancer,
        tracked: Tracked,
        direction: Direction,
        (original, reply): &(Tuple, Tuple),
    ) -> bool {
        // An error goes to the side that sent what it is about.
        let Some((conn, _)) = tracked.found else {
            return false;
        };
        let eth_type = self.key.get(Field::EthType(OUTER));
        let server = ip_of(eth_type, reply.src);
        let member = balancer.member(server, reply.sport).cloned();
        let Some(member) = member.filter(|_| direction == Direction::Original) else {
            // Its member was taken away a moment ago, or this is nothing that a member's port sent.
            return self.refuse(from, balancer, original.proto);
        };
        self.note_member(balancer, &member, "its connection");
        let Some(place) = self.towards(services, from, balancer, &member) else {
            return true;
        };
        self.translate(conn, direction, tracked.number);
        self.hand_over(from, &member, place)
    }

    /// The first packet of a connection, or one that belongs to none.
    fn begin_balanced(
        &mut self,
        services: &Services,
        from: Target,
        balancer: &Balancer,
        mut tracked: Tracked,
    ) -> bool {
        let new = tracked.verdict.state() & ct_state::NEW != 0;
        let Some(tuple) = tracked.tuple.filter(|_| new) else {
            return self.refuse(from, balancer, balancer.proto);
        };
        let eth_type = self.key.get(Field::EthType(OUTER));
        let sender = ip_of(eth_type, self.get(Field::IpSrc(OUTER)));
        let table = self.tracking.table.connections();
        let live = |slot| table.map_or(0, |table| table.member_count(slot));
        let dry = !matches!(self.tracking.table, Table::Live(..));
        let Some(member) = balancer.choose(sender, live, dry).cloned() else {
            self.note(
                "load-balancer",
                format_args!(
                    "load-balancer {}: no member may have new connections",
                    balancer.name
                ),
            );
            return self.refuse(from, balancer, balancer.proto);
        };
        self.note_member(balancer, &member, balancer.algorithm.as_str());
        let Some(place) = self.towards(services, from, balancer, &member) else {
            return true;
        };
        // A member that calls itself would answer past the switch.
        let itself = (member.address == sender).then(|| only(balancer.address, None));
        let change = CtChange {
            force: false,
            mark: None,
            label: None,
            policy: 0,
            nat: Some(Nat {
                source: itself,
                destination: Some(only(member.address, Some(member.port))),
            }),
        };
        match self.open_in(balancer.zone, &change, &mut tracked) {
            Err(reason) => {
                self.drop(reason);
                return true;
            }
            Ok(Some(conn)) => {
                if let Table::Live(table, _) = &mut self.tracking.table {
                    table.set_member(conn, member.slot);
                }
                member.state.opened();
                self.translate(conn, Direction::Original, tracked.number);
            }
            Ok(None) => self.pretend(&tuple, &member, itself),
        }
        self.hand_over(from, &member, place)
    }

    /// In a trace nothing is kept: it is translated as it would be.
    fn pretend(&mut self, tuple: &Tuple, member: &Member, itself: Option<NatRange>) {
        let binding = NatBinding {
            original: Rewrite {
                src: itself.map(|range| range.min),
                dst: Some(number(member.address)),
                sport: None,
                dport: (tuple.dport != member.port).then_some(member.port),
            },
            reply: Rewrite::default(),
            embedded_original: Rewrite::default(),
            embedded_reply: Rewrite::default(),
        };
        if let Some(src) = binding.original.src {
            self.write(Field::IpSrc(OUTER), src);
        }
        self.write(Field::IpDst(OUTER), number(member.address));
        self.write(Field::L4Dst(OUTER), member.port.into());
        let how = Box::new((binding, Direction::Original));
        self.out.ops.push(Op::Translate(how));
    }

    fn note_member(&mut self, balancer: &Balancer, member: &Member, why: &str) {
        self.say("load-balancer", |_| {
            let open = balancer.members.iter().filter(|member| member.is_open());
            format!(
                "load-balancer {}: {} of {} members open, {} port {} by {why}",
                balancer.name,
                open.count(),
                balancer.members.len(),
                member.address,
                member.port
            )
        });
    }

    /// Puts a packet on its way to a member; `None` when its fate is decided by it.
    fn towards(
        &mut self,
        services: &Services,
        from: Target,
        balancer: &Balancer,
        member: &Member,
    ) -> Option<Place> {
        let tables = self.tables;
        let Some(there) = tables.snapshot.services.get(&member.network) else {
            self.drop(Drop::NoRoute);
            return None;
        };
        let (mac, place) = self.next(there, member.network, member.address)?;
        let virtual_address = Some(balancer.address).filter(|_| matches!(from, Target::Port(_)));
        self.hop(Hop {
            src: there.mac,
            dst: mac,
            source: self
                .teller(services, from, member.address)
                .or(virtual_address),
            mtu: there.mtu,
        });
        Some(place)
    }

    fn hand_over(&mut self, from: Target, member: &Member, place: Place) -> bool {
        let state = member.state.clone();
        self.out.ops.push(Op::Member(state, Direction::Original));
        self.leave(from, member.network, place)
    }

    /// Nobody can have this packet: its sender is told.
    fn refuse(&mut self, from: Target, balancer: &Balancer, proto: u8) -> bool {
        // Another member may be there for the next one.
        self.out.once = true;
        if matches!(self.tracking.table, Table::Live(..)) {
            balancer.state.refuse();
        }
        self.note(
            "load-balancer",
            format_args!("load-balancer {}: refused", balancer.name),
        );
        self.answer(
            from,
            match proto {
                protocol::TCP => Answer::Reset,
                _ => Answer::Error(IcmpError::NoPort, balancer.address),
            },
        )
    }

    /// Lets what a member answers come from the virtual address; true when that decides the frame's fate.
    pub(super) fn answers_call(&mut self, id: NetworkId, from: Target) -> bool {
        let tables = self.tables;
        let Some(services) = tables.snapshot.services.get(&id) else {
            return false;
        };
        let answering = &services.answering;
        let expected = match from {
            _ if answering.anywhere => true,
            Target::Port(port) => answering.ports.contains(&port),
            Target::Remote(_) => answering.remote,
        };
        if !expected {
            return false;
        }
        let eth_type = self.get(Field::EthType(OUTER));
        if !matches!(eth_type, 0x0800 | 0x86dd) {
            return false;
        }
        let sender = ip_of(eth_type, self.get(Field::IpSrc(OUTER)));
        let Some(balancers) = answering.members.get(&sender) else {
            return false;
        };
        let known = services.hosts.get(&sender).map(|host| host.place);
        if known.is_some_and(|place| !is_from(place, from)) {
            return false;
        }
        let (proto, later, error) = self.kind();
        for balancer in balancers {
            let at = |port| balancer.member(sender, port).is_some();
            let may = error
                || balancer.proto == proto && (later || at(self.get(Field::L4Src(OUTER)) as u16));
            if !may {
                continue;
            }
            let Some(tracked) = self.look_in(balancer.zone) else {
                return true;
            };
            if let Some((_, Direction::Reply)) = tracked.found {
                return self.give_back(services, id, from, balancer, tracked);
            }
        }
        false
    }

    /// What a member answers, on its way back; true when that decides the frame's fate, or else it goes on to whom it is addressed.
    fn give_back(
        &mut self,
        services: &Services,
        id: NetworkId,
        from: Target,
        balancer: &Balancer,
        tracked: Tracked,
    ) -> bool {
        let Some((conn, direction)) = tracked.found else {
            return false;
        };
        let table = self.tracking.table.connections();
        let Some((original, reply)) = table.and_then(|table| table.tuples(conn)) else {
            return false;
        };
        let eth_type = self.key.get(Field::EthType(OUTER));
        let server = ip_of(eth_type, reply.src);
        self.note(
            "load-balancer",
            format_args!("load-balancer {}: an answer of {server}", balancer.name),
        );
        let member = balancer.member(server, reply.sport);
        let state = member.map(|member| member.state.clone());
        // To a member that called itself.
        let caller = ip_of(eth_type, original.src);
        let itself = reply.dst != original.src;
        let mut back = None;
        if itself {
            let Some((mac, place)) = self.next(services, id, caller) else {
                return true;
            };
            self.hop(Hop {
                src: services.mac,
                dst: mac,
                source: self.teller(services, from, caller),
                mtu: services.mtu,
            });
            back = Some(place);
        }
        self.translate(conn, direction, tracked.number);
        if let Some(state) = state {
            self.out.ops.push(Op::Member(state, Direction::Reply));
        }
        back.is_some_and(|place| self.leave(from, id, place))
    }
}

/// Whether a host at a place is who a frame came from.
fn is_from(place: Place, from: Target) -> bool {
    match (place, from) {
        (Place::Port(port), Target::Port(from)) => port == from,
        (Place::Remote(remote), Target::Remote(from)) => remote == from,
        _ => false,
    }
}
