//! Ports on interfaces: opened, bonded, and what is said and known of their links.

use std::time::Duration;

use sumeru_switch::lane::bond::MemberReport;
use sumeru_switch::link::bond::{BondConfig, Mode, Reselect};
use sumeru_switch::link::hash::HashPolicy;
use sumeru_switch::link::lacp::{AggregatorSelect, LacpConfig, LacpStatus};
use sumeru_switch::link::lacp_port::{Mux, Receive, Selected};
use sumeru_switch::link::lldp::{ADDRESSES_MAX, LldpPortConfig, LldpSystem, Neighbour, PORTS_MAX};
use sumeru_switch::link::slow::{Peer, state};
use sumeru_switch::link::tlv::{Aggregation, Capabilities};
use sumeru_switch::snapshot::PortView;
use sumeru_switch::wire::packet::PacketSocket;
use sumeru_switch::wire::tap::Tap;
use sumeru_switch::wire::xdp::XdpSocket;
use sumeru_switch::wire::{LinkState, Wire};
use sumeru_switch::worker::{LldpReport, LldpSetup};

use super::{LivePort, Local, unknown};
use crate::dataplane::*;
use crate::model::{BondHash, BondMode, BondSpec, LacpRate, MemberKind, PortKind, PortSpec};
use crate::value::MacAddr;

/// Announcements of each address after a failover, and the time between them: those of Linux's bonding driver and of RFC 5227, 1.1.
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_secs(1);
/// System priority in LACP: the standard's default (802.1AX-2014, 6.3.2).
const SYSTEM_PRIORITY: u16 = 32_768;
/// An Ethernet header, a VLAN tag left out, and the check sequence.
const FRAMING: u16 = 18;

type AnyWire = Box<dyn Wire + Send>;

/// Opens an interface for a port with this MTU.
fn open_interface(kind: MemberKind, name: &str, mtu: u16) -> Done<AnyWire> {
    let wire: AnyWire = match kind {
        MemberKind::Tap => Box::new(Tap::open(name, mtu.into())?),
        MemberKind::AfPacket => Box::new(PacketSocket::open(name)?),
        MemberKind::AfXdp => Box::new(XdpSocket::open(name, 0)?),
    };
    // An interface whose MTU is below the port's would lose frames silently.
    let actual = match wire.interface() {
        Some(interface) => interface.mtu()?,
        None => mtu.into(),
    };
    if u32::from(mtu) > actual {
        return Err(Refusal::Field {
            field: "mtu",
            found: mtu.to_string(),
            expected: format!("at most {actual}, the MTU of interface {name}"),
        });
    }
    Ok(wire)
}

fn config_of(spec: &PortSpec, bond: &BondSpec, mac: [u8; 6]) -> BondConfig {
    let number = |name: &String| bond.members.iter().position(|member| member == name);
    let primary = bond.primary.as_ref().and_then(number);
    BondConfig {
        mode: match bond.bond_mode {
            BondMode::ActiveBackup => Mode::ActiveBackup {
                primary: primary.map(|at| at as u16 + 1),
                reselect: Reselect::Always,
            },
            BondMode::BalanceXor => Mode::BalanceXor,
            BondMode::Lacp => Mode::Lacp(LacpConfig {
                system: mac,
                system_priority: SYSTEM_PRIORITY,
                // Each bond of the node has its own, and zero is none.
                key: spec.index() + 1,
                active: true,
                short_timeout: bond.lacp_rate == Some(LacpRate::Fast),
                select: AggregatorSelect::Stable,
                fallback: false,
            }),
        },
        policy: match bond.bond_hash {
            BondHash::Layer2 => HashPolicy::Layer2,
            BondHash::Layer23 => HashPolicy::Layer23,
            BondHash::Layer34 => HashPolicy::Layer34,
        },
        up_delay: Duration::from_millis(bond.up_delay_ms.into()),
        down_delay: Duration::from_millis(bond.down_delay_ms.into()),
        min_links: bond.min_links.into(),
        announcements: ANNOUNCEMENTS,
        announcement_interval: ANNOUNCEMENT_INTERVAL,
    }
}

fn report(link: LinkState) -> LinkReport {
    LinkReport {
        up: link.up,
        speed_mbit: Some(link.speed).filter(|speed| *speed > 0),
    }
}

impl Local {
    pub(super) fn open_wire(&mut self, spec: &PortSpec) -> Done<LivePort> {
        let mtu = spec.mtu;
        let mut bond = None;
        let mut wires = Vec::new();
        match &spec.kind {
            PortKind::Tap { ifname } => wires.push(open_interface(MemberKind::Tap, ifname, mtu)?),
            PortKind::AfPacket { interface } => {
                wires.push(open_interface(MemberKind::AfPacket, interface, mtu)?);
            }
            PortKind::AfXdp { interface, queues } => {
                if *queues != 1 {
                    return Err(Refusal::Field {
                        field: "queues",
                        found: queues.to_string(),
                        expected: "1: one lcore polls an AF_XDP port".to_owned(),
                    });
                }
                wires.push(open_interface(MemberKind::AfXdp, interface, mtu)?);
            }
            PortKind::Bond(spec) => {
                for name in &spec.members {
                    wires.push(open_interface(spec.member_kind, name, mtu)?);
                }
                bond = Some(spec);
            }
            PortKind::VhostUser { .. } => {}
        }
        let first = wires
            .first()
            .ok_or_else(|| unknown("wire port", &spec.name))?;
        let mac = match (bond, spec.mac) {
            (Some(_), Some(mac)) => mac.0,
            _ => first.mac(),
        };
        let view = self.view(spec)?;
        let index = view.index;
        // Frames may come at once; without a network they go nowhere until the port is isolated.
        let shown = if spec.flow_isolated {
            PortView {
                network: None,
                uplink: false,
                ..view.clone()
            }
        } else {
            view.clone()
        };
        let switch = self.switch()?;
        match bond {
            None => wires
                .into_iter()
                .try_for_each(|wire| switch.add_wire(shown.clone(), wire))?,
            Some(bond) => switch.add_bond(shown, config_of(spec, bond, mac), wires)?,
        }
        if spec.flow_isolated {
            let opened = switch
                .set_isolated(index, true)
                .and_then(|()| switch.update_port(view));
            if let Err(error) = opened {
                switch.remove_port(index)?;
                return Err(error.into());
            }
        }
        Ok(LivePort {
            spec: spec.clone(),
            endpoint: None,
            net: None,
            mac,
        })
    }

    /// What a port on interfaces is doing.
    pub(super) fn wire_state(&self, port: &LivePort, lcores: Vec<u16>) -> Done<PortState> {
        let (switch, index) = (self.switch_ref()?, port.spec.index());
        let (up, link, bond) = match &port.spec.kind {
            PortKind::Bond(bond) => {
                let report = switch
                    .bond(index)?
                    .ok_or_else(|| unknown("bond", &port.spec.name))?;
                (report.up, None, Some(bond_state(bond, &report.members)))
            }
            _ => {
                let link = switch.link(index, 0).unwrap_or_default();
                (link.up, Some(self::report(link)), None)
            }
        };
        Ok(PortState {
            up,
            connected: true,
            features: 0,
            queues: 1,
            lcores,
            link,
            bond,
            syn_protection: None,
        })
    }

    /// Has LLDP say what there is to say, by every wire of a port that speaks it, but for one that is about to go.
    pub(super) fn settle_lldp(&mut self, but: Option<&str>) -> Done {
        let speaking = self.ports.values().filter(|port| {
            port.spec.speaks_lldp(self.node.lldp) && but != Some(port.spec.name.as_str())
        });
        let speaking: Vec<&LivePort> = speaking.collect();
        let mut ports = Vec::new();
        for port in &speaking {
            let spec = &port.spec;
            let bonded = matches!(spec.kind, PortKind::Bond(_));
            let (_, interfaces) = spec.kind.targets();
            for (number, interface) in (u16::from(bonded)..).zip(interfaces) {
                let config = LldpPortConfig {
                    mac: port.mac,
                    name: interface.to_owned(),
                    description: format!("port {}", spec.name),
                    pvid: None,
                    aggregation: Some(Aggregation {
                        capable: bonded,
                        aggregated: bonded,
                        port: if bonded {
                            u32::from(spec.index()) + 1
                        } else {
                            0
                        },
                    }),
                    max_frame: Some(spec.mtu.saturating_add(FRAMING)),
                };
                ports.push(((spec.index(), number), config));
            }
        }
        if ports.len() > PORTS_MAX {
            tracing::warn!(
                wires = ports.len(),
                "LLDP runs on the first {PORTS_MAX} wires"
            );
            ports.truncate(PORTS_MAX);
        }
        let uplink = self.node.uplink.as_ref();
        let uplink = uplink.and_then(|name| speaking.iter().find(|p| p.spec.name == *name));
        let first = speaking.iter().min_by_key(|port| port.spec.index());
        let chassis = uplink.or(first).map_or([0; 6], |port| port.mac);
        let interface = uplink.map_or(0, |port| u32::from(port.spec.index()));
        let setup = LldpSetup {
            system: LldpSystem {
                chassis,
                name: self.node.name.clone(),
                description: concat!("Sumeru ", env!("CARGO_PKG_VERSION")).to_owned(),
                capabilities: Capabilities {
                    available: Capabilities::BRIDGE,
                    enabled: Capabilities::BRIDGE,
                },
                management: self
                    .node
                    .underlay
                    .iter()
                    .take(ADDRESSES_MAX)
                    .map(|prefix| (prefix.address, interface + 1))
                    .collect(),
            },
            ports,
        };
        Ok(self.switch()?.set_lldp(setup)?)
    }

    pub(super) fn report_lldp(&self) -> Vec<LldpWire> {
        let reports = self.switch.as_ref().and_then(|switch| switch.lldp().ok());
        let one = |report: LldpReport| {
            let (index, member) = report.wire;
            let port = self
                .ports
                .values()
                .find(|port| port.spec.index() == index)?;
            let interface = interface_of(&port.spec, member)?;
            Some(LldpWire {
                port: port.spec.name.clone(),
                interface: interface.to_owned(),
                tx_frames: report.stats.frames_out,
                rx_frames: report.stats.frames_in,
                rx_discarded: report.stats.frames_discarded,
                aged_out: report.stats.aged_out,
                too_many: report.stats.too_many,
                neighbours: report.neighbours.into_iter().map(neighbour).collect(),
            })
        };
        let reports = reports.unwrap_or_default().into_iter();
        let mut wires: Vec<LldpWire> = reports.filter_map(one).collect();
        wires.sort_by(|a, b| (&a.port, &a.interface).cmp(&(&b.port, &b.interface)));
        wires
    }
}

/// The interface of a port's only wire (0), or of a bond's member.
fn interface_of(spec: &PortSpec, member: u16) -> Option<&str> {
    let (_, interfaces) = spec.kind.targets();
    let at = usize::from(member).saturating_sub(1);
    interfaces.get(at).copied()
}

fn bond_state(bond: &BondSpec, members: &[MemberReport]) -> BondState {
    let named = || bond.members.iter().zip(members);
    let mut in_use = named().filter(|(_, member)| member.status.in_use);
    let active = (bond.bond_mode == BondMode::ActiveBackup)
        .then(|| in_use.next().map(|(name, _)| name.clone()))
        .flatten();
    let carrying = || named().filter(|(_, member)| member.status.in_use);
    let partner = carrying().find_map(|(_, member)| Some(member.status.lacp?.partner));
    BondState {
        active,
        aggregator: partner.map(|partner| Aggregator {
            partner: MacAddr(partner.system),
            partner_key: partner.key,
            ports: carrying().count() as u16,
        }),
        members: named()
            .map(|(name, member)| bond_member(name, member))
            .collect(),
    }
}

fn bond_member(interface: &str, member: &MemberReport) -> BondMember {
    let (status, stats) = (&member.status, &member.stats);
    BondMember {
        interface: interface.to_owned(),
        mac: MacAddr(member.mac),
        link: report(LinkState {
            up: status.up,
            speed: status.speed,
        }),
        in_use: status.in_use,
        link_failures: stats.link_failures,
        rx_packets: stats.rx_packets,
        tx_packets: stats.tx_packets,
        rx_inactive: stats.rx_inactive,
        rx_bad: stats.rx_bad,
        lacp: status.lacp.as_ref().map(lacp_state),
    }
}

fn lacp_state(lacp: &LacpStatus) -> LacpState {
    LacpState {
        actor: lacp_peer(&lacp.actor),
        partner: lacp_peer(&lacp.partner),
        receive: match lacp.receive {
            Receive::Disabled => "disabled",
            Receive::Expired => "expired",
            Receive::Defaulted => "defaulted",
            Receive::Current => "current",
        },
        mux: match lacp.mux {
            Mux::Detached => "detached",
            Mux::Waiting => "waiting",
            Mux::Attached => "attached",
            Mux::CollectingDistributing => "collecting-distributing",
        },
        selected: match lacp.selected {
            Selected::Unselected => "unselected",
            Selected::Standby => "standby",
            Selected::Selected => "selected",
        },
        rx_pdus: lacp.stats.received,
        tx_pdus: lacp.stats.sent,
        expirations: lacp.stats.expirations,
    }
}

fn lacp_peer(peer: &Peer) -> LacpPeer {
    let bits = [
        (state::ACTIVITY, "active"),
        (state::SHORT_TIMEOUT, "short-timeout"),
        (state::AGGREGATION, "aggregatable"),
        (state::SYNCHRONIZATION, "in-sync"),
        (state::COLLECTING, "collecting"),
        (state::DISTRIBUTING, "distributing"),
        (state::DEFAULTED, "defaulted"),
        (state::EXPIRED, "expired"),
    ];
    LacpPeer {
        system: MacAddr(peer.system),
        system_priority: peer.system_priority,
        key: peer.key,
        port: peer.port,
        port_priority: peer.port_priority,
        state: bits
            .into_iter()
            .filter(|(bit, _)| peer.has(*bit))
            .map(|(_, word)| word)
            .collect(),
    }
}

fn neighbour((neighbour, expires_s, age_s): (Neighbour, u64, u64)) -> LldpNeighbour {
    let pdu = neighbour.pdu;
    let enabled = pdu.capabilities.unwrap_or_default().enabled;
    // 802.1AB-2016, table 8-4.
    let capabilities = [
        "other",
        "repeater",
        "bridge",
        "wlan-access-point",
        "router",
        "telephone",
        "docsis",
        "station",
        "c-vlan",
        "s-vlan",
        "two-port-mac-relay",
    ];
    let text = |text: Option<sumeru_switch::link::tlv::Text>| text.map(|text| text.to_string());
    LldpNeighbour {
        chassis: pdu.chassis.to_string(),
        port: pdu.port.to_string(),
        port_description: text(pdu.port_description),
        system_name: text(pdu.system_name),
        system_description: text(pdu.system_description),
        capabilities: (0..)
            .zip(capabilities)
            .filter(|(bit, _)| enabled >> bit & 1 == 1)
            .map(|(_, word)| word)
            .collect(),
        management: pdu.management.iter().filter_map(|m| m.address).collect(),
        ttl_s: pdu.ttl,
        expires_s,
        age_s,
        source: MacAddr(neighbour.source),
    }
}
