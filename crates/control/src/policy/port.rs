//! Rules of one port: where its frames begin, which source addresses they may have, how many they may be.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sumeru_flow::model::{
    Action, Arp, CtAction, CtCommit, Eth, Icmp6NdNa, Icmp6NdNs, Item, Matched, MeterAlgorithm,
    MeterProfile,
};

use super::compile::PortPlan;
use super::layout::*;
use super::line::{Line, Origin};
use super::pattern::*;
use crate::model::{BURST_MS, Protocol};
use crate::value::{MacAddr, Prefix};

/// ICMPv6 types of RFC 4861 (137: section 4.5, redirect).
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// Report of MLDv2 (RFC 3810, section 5.2), which comes from the unspecified address while there is no other.
const MLD2_REPORT: u8 = 143;

/// Bytes that may come at once whatever the rate is: two of the largest frames that guests hand over unsegmented.
const BURST_BYTES_MIN: u64 = 2 << 16;
/// The same in packets.
const BURST_PACKETS_MIN: u64 = 8;

/// The rules of a port. Adds the meters that they name.
pub fn lines(plan: &PortPlan<'_>, meters: &mut BTreeMap<u32, MeterProfile>) -> Vec<Line> {
    let mut out = Vec::new();
    let rates = Rates::of(plan, meters);
    send(plan, &rates, &mut out);
    receive(plan, &rates, &mut out);
    if plan.spec.policy.port_security
        && let Some(mac) = plan.spec.mac
    {
        spoof(plan, mac, &mut out);
    }
    if plan.profile.1 {
        track(plan, &mut out);
    }
    out
}

/// Meters of a port.
struct Rates {
    receive: Vec<Action>,
    send: Vec<Action>,
    storm: Option<Action>,
}

impl Rates {
    fn of(plan: &PortPlan<'_>, meters: &mut BTreeMap<u32, MeterProfile>) -> Self {
        let policy = &plan.spec.policy;
        let burst = u64::from(policy.rate_burst_ms.unwrap_or(BURST_MS));
        let first = FIRST_METER + u32::from(plan.spec.index()) * METERS_PER_PORT;
        let mut meter = |number: u32, rate: Option<u64>, packet_mode: bool| {
            let rate = rate?;
            let (cir, least) = match packet_mode {
                true => (rate, BURST_PACKETS_MIN),
                // A kilobit is 1000 bits.
                false => (rate.saturating_mul(125), BURST_BYTES_MIN),
            };
            let cbs = (cir.saturating_mul(burst) / 1000).max(least);
            let profile = MeterProfile {
                algorithm: MeterAlgorithm::SrtcmRfc2697 { cir, cbs, ebs: 0 },
                packet_mode,
            };
            meters.insert(first + number, profile);
            Some(Action::Meter {
                mtr_id: first + number,
            })
        };
        Self {
            receive: [
                meter(0, policy.rx_rate_kbit, false),
                meter(1, policy.rx_rate_packets, true),
            ]
            .into_iter()
            .flatten()
            .collect(),
            send: [
                meter(2, policy.tx_rate_kbit, false),
                meter(3, policy.tx_rate_packets, true),
            ]
            .into_iter()
            .flatten()
            .collect(),
            storm: meter(4, policy.storm_limit, true),
        }
    }
}

/// The stored form of a profile's number.
fn profile(plan: &PortPlan<'_>) -> u32 {
    u32::from(plan.profile.0) | if plan.profile.1 { STATEFUL.mask } else { 0 }
}

fn whole_tag(index: u8, data: u32) -> Action {
    Action::SetTag {
        data,
        index,
        mask: u32::MAX,
    }
}

/// Group 0: what is known of the sender is put into the tags.
fn send(plan: &PortPlan<'_>, rates: &Rates, out: &mut Vec<Line>) {
    let policy = &plan.spec.policy;
    let filtered = plan.profile.0 != 0 || plan.send_scope != 0;
    let marked = plan.isolation != 0;
    if !(policy.port_security
        || filtered
        || marked
        || !rates.receive.is_empty()
        || rates.storm.is_some())
    {
        return;
    }
    let next = match policy.port_security {
        true => SPOOF,
        false if filtered => SEND_SETS,
        false => FORWARD,
    };
    let mut actions = rates.receive.clone();
    if filtered {
        actions.push(whole_tag(0, NETWORK.of(plan.network)));
        actions.push(whole_tag(
            1,
            profile(plan) | SCOPE.of(plan.send_scope.into()),
        ));
    }
    if marked {
        actions.push(set_tag(SENDER, plan.isolation.into()));
    }
    actions.push(jump(next));
    let index = plan.spec.index();
    let origin = of_port(plan, "frames from the port");
    if let Some(storm) = &rates.storm {
        let origin = of_port(plan, "storm_limit");
        let metered = [std::slice::from_ref(storm), &actions].concat();
        out.push(Line::new(
            index,
            from_port(START, 0),
            vec![eth_many()],
            metered,
            &origin,
        ));
    }
    out.push(Line::new(
        index,
        from_port(START, 1),
        vec![eth()],
        actions,
        &origin,
    ));
}

/// The egress pass: what is known of the receiver is put into the tags.
fn receive(plan: &PortPlan<'_>, rates: &Rates, out: &mut Vec<Line>) {
    let index = plan.spec.index();
    let filtered = plan.profile.0 != 0 || plan.receive_scope != 0;
    let origin = of_port(plan, "frames to the port");
    if filtered || plan.isolated {
        let actions = vec![
            whole_tag(0, NETWORK.of(plan.network)),
            whole_tag(1, profile(plan) | SCOPE.of(plan.receive_scope.into())),
            whole_tag(2, 0),
            set_tag(RECEIVER, plan.isolation.into()),
            jump(if filtered {
                RECEIVE_SETS
            } else {
                RECEIVE_BLOCK
            }),
        ];
        out.push(Line::new(
            index,
            to_port(RECEIVE, 0),
            vec![eth()],
            actions,
            &origin,
        ));
    } else if !rates.send.is_empty() {
        out.push(Line::new(
            index,
            to_port(RECEIVE, 0),
            vec![eth()],
            vec![jump(RECEIVE_RATE)],
            &origin,
        ));
    }
    if !rates.send.is_empty() {
        let actions = [rates.send.as_slice(), &[jump(DELIVER)]].concat();
        out.push(Line::new(
            index,
            to_port(RECEIVE_RATE, 0),
            vec![eth()],
            actions,
            &of_port(plan, "tx_rate"),
        ));
    }
}

fn of_port(plan: &PortPlan<'_>, line: &str) -> std::sync::Arc<Origin> {
    Origin::new(format!("port {}", plan.spec.name), line)
}

/// The link-local address that a MAC address makes (RFC 4291, appendix A).
fn link_local(mac: MacAddr) -> Prefix {
    let [a, b, c, d, e, f] = mac.0;
    let bytes = [
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ];
    Prefix::host(IpAddr::V6(Ipv6Addr::from(bytes)))
}

fn v4_host(address: Ipv4Addr) -> Prefix {
    Prefix::host(IpAddr::V4(address))
}

fn unspecified() -> Prefix {
    Prefix::host(IpAddr::V6(Ipv6Addr::UNSPECIFIED))
}

fn arp(mac: MacAddr, sender: Prefix) -> Item {
    let spa = match sender.address() {
        IpAddr::V4(address) => Matched::prefix(address, sender.length().into()),
        IpAddr::V6(_) => Matched::any(),
    };
    Item::Arp(Arp {
        sha: Matched::exact(flow_mac(mac)),
        spa,
        ..Arp::default()
    })
}

fn target(prefix: Prefix) -> Matched<Ipv6Addr> {
    match prefix.address() {
        IpAddr::V6(address) => Matched::prefix(address, prefix.length().into()),
        IpAddr::V4(_) => Matched::any(),
    }
}

/// What the port may send from.
fn spoof(plan: &PortPlan<'_>, own: MacAddr, out: &mut Vec<Line>) {
    let index = plan.spec.index();
    let mut macs = vec![own];
    for source in plan.spec.policy.sources() {
        let mac = source.mac.unwrap_or(own);
        if !macs.contains(&mac) {
            macs.push(mac);
        }
        let origin = of_port(plan, &format!("port_security: {source}"));
        may_send_from(index, mac, source.prefix, &origin, out);
    }
    for mac in macs {
        let origin = of_port(plan, &format!("port_security: {mac}"));
        let mut allow = |pattern| {
            out.push(Line::new(
                index,
                from_port(SPOOF, 1),
                pattern,
                vec![jump(SEND_SETS)],
                &origin,
            ))
        };
        // A probe asks without an address (RFC 5227, section 2.1), and so does a client for its first (RFC 2131, section 4.1).
        let nobody = v4_host(Ipv4Addr::UNSPECIFIED);
        allow(vec![eth_src(mac), arp(mac, nobody)]);
        allow(vec![
            eth_src(mac),
            ip(false, Some(nobody), Some(v4_host(Ipv4Addr::BROADCAST))),
            udp(68, 67),
        ]);
        for of_type in [NEIGHBOUR_SOLICITATION, MLD2_REPORT] {
            let pattern = vec![
                eth_src(mac),
                ip(true, Some(unspecified()), None),
                icmp6(of_type),
            ];
            out.push(Line::new(
                index,
                from_port(SPOOF, 1),
                pattern,
                vec![jump(NEIGHBOUR)],
                &origin,
            ));
        }
        may_send_from(index, mac, link_local(mac), &origin, out);
    }
}

fn may_send_from(
    index: u16,
    mac: MacAddr,
    prefix: Prefix,
    origin: &std::sync::Arc<Origin>,
    out: &mut Vec<Line>,
) {
    let mut allow = |group, pattern, next| {
        out.push(Line::new(
            index,
            from_port(group, if group == SPOOF { 1 } else { 0 }),
            pattern,
            vec![jump(next)],
            origin,
        ))
    };
    if !prefix.is_ipv6() {
        allow(SPOOF, vec![eth_src(mac), arp(mac, prefix)], SEND_SETS);
        allow(
            SPOOF,
            vec![eth_src(mac), ip(false, Some(prefix), None)],
            SEND_SETS,
        );
        return;
    }
    allow(
        SPOOF,
        vec![eth_src(mac), ip(true, Some(prefix), None)],
        NEIGHBOUR,
    );
    let told = Item::Icmp6NdNa(Icmp6NdNa {
        target_addr: target(prefix),
    });
    allow(
        NEIGHBOUR,
        vec![eth_src(mac), ip(true, None, None), told],
        SEND_SETS,
    );
    let asked = Item::Icmp6NdNs(Icmp6NdNs {
        target_addr: target(prefix),
    });
    allow(
        NEIGHBOUR,
        vec![eth_src(mac), ip(true, Some(unspecified()), None), asked],
        SEND_SETS,
    );
}

/// Zones are per port, so what does it has to be, too.
fn track(plan: &PortPlan<'_>, out: &mut Vec<Line>) {
    let index = plan.spec.index();
    let origin = of_port(plan, "security_groups");
    let ct = |commit: bool, group| {
        let commit = commit.then(CtCommit::default);
        vec![Action::Ct(CtAction {
            zone: zone(index),
            commit,
            nat: None,
            group: Some(group),
        })]
    };
    for ipv6 in [false, true] {
        let pattern = || vec![eth(), ip(ipv6, None, None)];
        out.push(Line::new(
            index,
            from_port(SEND_TRACK, 2),
            pattern(),
            ct(false, SEND_GROUPS),
            &origin,
        ));
        out.push(Line::new(
            index,
            from_port(SEND_COMMIT, 0),
            pattern(),
            ct(true, FORWARD),
            &origin,
        ));
        out.push(Line::new(
            index,
            to_port(RECEIVE_TRACK, 2),
            pattern(),
            ct(false, RECEIVE_GROUPS),
            &origin,
        ));
        out.push(Line::new(
            index,
            to_port(RECEIVE_COMMIT, 0),
            pattern(),
            ct(true, RECEIVE_RATE),
            &origin,
        ));
    }
}

/// What holds for every port with port security.
pub fn common() -> Vec<Line> {
    let mut out = Vec::new();
    let mut line = |group, priority, pattern, action, why: &str| {
        out.push(Line::new(
            SHARED,
            shared(group, priority),
            pattern,
            vec![action],
            &Origin::new("policy", why),
        ));
    };
    let v6 = |item| vec![eth(), ip(true, None, None), item];
    let tagged = Item::Eth(Eth {
        has_vlan: Matched::exact(true),
        ..Eth::default()
    });
    line(
        SPOOF,
        0,
        vec![tagged],
        Action::Drop,
        "port_security: no VLAN tags from guests",
    );
    line(
        SPOOF,
        0,
        vec![eth(), ip(false, None, None), udp(67, 68)],
        Action::Drop,
        "port_security: no DHCP server behind a guest's port",
    );
    line(
        SPOOF,
        0,
        v6(udp(547, 546)),
        Action::Drop,
        "port_security: no DHCPv6 server behind a guest's port",
    );
    line(
        SPOOF,
        0,
        v6(icmp6(ROUTER_ADVERTISEMENT)),
        Action::Drop,
        "port_security: no router advertisements from guests",
    );
    line(
        SPOOF,
        0,
        v6(icmp6(REDIRECT)),
        Action::Drop,
        "port_security: no redirects from guests",
    );
    line(
        SPOOF,
        LAST,
        vec![eth()],
        Action::Drop,
        "port_security: not an address of the port",
    );
    line(
        NEIGHBOUR,
        1,
        v6(icmp6(NEIGHBOUR_ADVERTISEMENT)),
        Action::Drop,
        "port_security: advertises an address that is not the port's",
    );
    let probe = vec![
        eth(),
        ip(true, Some(unspecified()), None),
        icmp6(NEIGHBOUR_SOLICITATION),
    ];
    line(
        NEIGHBOUR,
        1,
        probe,
        Action::Drop,
        "port_security: probes an address that is not the port's",
    );
    line(
        NEIGHBOUR,
        LAST,
        vec![eth()],
        jump(SEND_SETS),
        "source addresses checked",
    );
    out
}

/// UDP between these ports, as a group's rule cannot say it.
pub fn udp_over(ipv6: bool, src: u16, dst: u16) -> Vec<Item> {
    vec![eth(), ip(ipv6, None, None), udp(src, dst)]
}

/// ICMPv6 of a type.
pub fn icmp6_of_type(of_type: u8) -> Vec<Item> {
    [
        vec![eth()],
        above(ip(true, None, None), Protocol::Icmp6(Some(of_type), None)),
    ]
    .concat()
}
