//! Random rules in testpmd's syntax. Groups 0 to 3, jumps upwards only, actions that fit the pattern's headers; what the engine refuses all the
//! same is left out by both sides.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::frames::{PORTS, TTLS, VIDS, ipv4, ipv6, mac};
use super::seed::Seed;

/// Ports of the switch here.
pub const SWITCH_PORTS: u16 = 6;
const GROUPS: usize = 4;
const ZONE: u16 = 5;

/// What rules may be about.
#[derive(Clone, Copy, Debug)]
pub struct About {
    pub tunnels: bool,
    pub connections: bool,
    /// What leaves a port too.
    pub leaving: bool,
    /// Nothing but plain frames, and fields that are read from each.
    pub plain: bool,
}

impl About {
    /// Whether rules track what others may have dropped already: the engine decides about all of a frame's way before it goes it.
    fn tracks_late(self) -> bool {
        self.connections && self.leaving
    }
}

/// Headers that a pattern demands, for the actions.
#[derive(Clone, Copy, Default)]
struct Demanded {
    vlans: usize,
    v4: bool,
    v6: bool,
    ports: bool,
    tunnel: bool,
    /// A whole datagram over IPv4.
    datagram: bool,
}

/// A rule's text and the port that it is made on.
pub fn rule(seed: &mut Seed, about: About) -> (u16, String) {
    /// Fields that are read only if a rule asks for them, of all frames then.
    const EXTRA: [&str; 3] = ["version_ihl", "fragment_offset", "flow is"];
    loop {
        let (port, text) = any_rule(seed, about);
        if !about.plain || EXTRA.iter().all(|field| !text.contains(field)) {
            return (port, text);
        }
    }
}

fn any_rule(seed: &mut Seed, about: About) -> (u16, String) {
    let port = seed.below(SWITCH_PORTS.into()) as u16;
    let group = seed.one_of(&[0, 0, 0, 1, 1, 2, 3]);
    let mut pattern = Vec::new();
    // On all ports, on one, or on the one that it is made on.
    let direction = match seed.below(6) {
        _ if about.leaving && seed.once_in(4) => {
            if seed.once_in(4) {
                let from = seed.below(SWITCH_PORTS.into());
                pattern.push(format!("represented_port ethdev_port_id is {from}"));
            }
            "egress"
        }
        0..3 => "transfer",
        3 => {
            pattern.push(format!("represented_port ethdev_port_id is {port}"));
            "transfer"
        }
        _ => "ingress",
    };
    if (group > 0 || direction == "egress") && seed.once_in(3) {
        pattern.push(match about.connections && !seed.once_in(3) {
            true => format!(
                "ct state is {}",
                seed.one_of(&[
                    "+trk+new", "+trk+est", "+est+rpl", "-trk", "+trk-rpl", "+inv", "+new-rpl"
                ])
            ),
            false => format!("mark id is {}", seed.below(3)),
        });
    }
    let (outer, inner) = headers(seed, about, &mut pattern);
    // What may be met again and again is not put into one tunnel after the other.
    let once = !about.leaving || group == 0 && direction != "egress";
    let drops = direction == "egress" && seed.once_in(3);
    let mut actions = actions(seed, about, (group, once), outer, inner);
    if about.plain && !seed.once_in(4) {
        actions = vec!["count".into(), output(seed)];
        if once && seed.once_in(3) {
            actions.insert(1, encapsulation(seed));
        }
    }
    if drops {
        actions = vec!["count".into(), "drop".into()];
    }
    let text = format!(
        "flow create {port} group {group} priority {} {direction} pattern {} / end actions {} / end",
        seed.below(4),
        pattern.join(" / "),
        actions.join(" / "),
    );
    (port, text)
}

/// Rules that track most datagrams, and keep the connections that one side begins.
pub fn tracking(seed: &mut Seed) -> [String; 2] {
    let datagram = "eth / ipv4 fragment_offset spec 0 fragment_offset mask 0x3fff";
    let (priority, group) = (seed.below(3), seed.one_of(&[1, 1, 2]));
    [(priority, format!("udp dst is {}", PORTS[0]), " commit"), (priority + 1, "udp".into(), "")].map(
        |(priority, udp, commit)| {
            format!(
                "flow create 0 priority {priority} transfer pattern {datagram} / {udp} / end actions ct zone {ZONE}{commit} group {group} / end"
            )
        },
    )
}

/// The fields of an item, each with a chance of one in `n`.
fn item(seed: &mut Seed, name: &str, n: usize, fields: &[fn(&mut Seed) -> String]) -> String {
    let mut text = name.to_owned();
    for field in fields {
        if seed.once_in(n) {
            text.push(' ');
            text.push_str(&field(seed));
        }
    }
    text
}

fn text_of(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn v4(seed: &mut Seed) -> Ipv4Addr {
    ipv4(seed.below(6) as u8).into()
}

fn v6(seed: &mut Seed) -> Ipv6Addr {
    ipv6(seed.below(6) as u8).into()
}

/// One value, a value under a mask, or a range.
fn port_field(seed: &mut Seed, name: &str) -> String {
    let port = seed.one_of(&PORTS);
    match seed.below(6) {
        0 => format!(
            "{name} spec {port} {name} mask {}",
            seed.one_of(&[1_u16, 0xff00, 0xfff0, 0x3ff])
        ),
        1 => format!(
            "{name} is {} {name} last {}",
            seed.below(1000),
            1000 + seed.below(9000)
        ),
        _ => format!("{name} is {port}"),
    }
}

fn mac_field(seed: &mut Seed, name: &str) -> String {
    let address = text_of(mac(seed.below(6) as u8));
    match seed.below(4) {
        0 => {
            let mask = seed.one_of(&[
                "01:00:00:00:00:00",
                "ff:ff:ff:ff:ff:00",
                "00:00:00:00:00:03",
            ]);
            format!("{name} spec {address} {name} mask {mask}")
        }
        _ => format!("{name} is {address}"),
    }
}

fn address_field(seed: &mut Seed, name: &str, address: String, lens: &[u8], mask: &str) -> String {
    match seed.below(4) {
        0 => format!("{name} spec {address} {name} prefix {}", seed.one_of(lens)),
        1 => format!("{name} spec {address} {name} mask {mask}"),
        _ => format!("{name} is {address}"),
    }
}

fn v4_field(seed: &mut Seed, name: &str) -> String {
    let address = v4(seed).to_string();
    address_field(seed, name, address, &[8, 24, 30, 31], "255.0.0.1")
}

fn v6_field(seed: &mut Seed, name: &str) -> String {
    let address = v6(seed).to_string();
    address_field(seed, name, address, &[8, 64, 127], "ff00::3")
}

fn ttl_field(seed: &mut Seed, name: &str) -> String {
    match seed.below(3) {
        0 => format!("{name} is 2 {name} last 100"),
        _ => format!("{name} is {}", seed.one_of(&TTLS)),
    }
}

const ETH: &[fn(&mut Seed) -> String] = &[|s| mac_field(s, "dst"), |s| mac_field(s, "src")];
const VLAN: &[fn(&mut Seed) -> String] = &[
    |s| format!("vid is {}", s.one_of(&VIDS)),
    |s| format!("pcp is {}", s.one_of(&[0, 3, 7])),
];
const IPV4: &[fn(&mut Seed) -> String] = &[
    |s| v4_field(s, "src"),
    |s| v4_field(s, "dst"),
    |s| v4_field(s, "dst"),
    |s| ttl_field(s, "ttl"),
    |s| format!("tos spec 16 tos mask {}", s.one_of(&[16, 252])),
    |s| format!("proto is {}", s.one_of(&[17, 6, 1, 99])),
    |s| {
        format!(
            "fragment_offset spec 0 fragment_offset mask {}",
            s.one_of(&["0x1fff", "0x3fff", "0x4000"])
        )
    },
    |_| "version_ihl is 0x45".into(),
];
const IPV6: &[fn(&mut Seed) -> String] = &[
    |s| v6_field(s, "src"),
    |s| v6_field(s, "dst"),
    |s| v6_field(s, "dst"),
    |s| ttl_field(s, "hop"),
    |s| format!("tc is {}", s.one_of(&[0, 2])),
    |s| format!("flow is {}", s.one_of(&[0, 9])),
    |s| format!("proto is {}", s.one_of(&[17, 6, 58, 59])),
];
const TRANSPORT: &[fn(&mut Seed) -> String] = &[|s| port_field(s, "src"), |s| port_field(s, "dst")];
const TCP: &[fn(&mut Seed) -> String] = &[
    |s| port_field(s, "src"),
    |s| port_field(s, "dst"),
    |s| format!("flags spec 2 flags mask {}", s.one_of(&[2, 0x12])),
];
const ICMP: &[fn(&mut Seed) -> String] = &[
    |s| format!("type is {}", s.one_of(&[0, 3, 8, 128])),
    |s| format!("code is {}", s.below(2)),
];

/// Puts the items of headers; answers what the outer and the inner frame have.
fn headers(
    seed: &mut Seed,
    about: About,
    pattern: &mut Vec<String>,
) -> (Demanded, Option<Demanded>) {
    if about.tunnels && seed.once_in(3) {
        pattern.push(item(seed, "eth", 8, ETH));
        pattern.push(item(seed, "ipv4", 12, &IPV4[..3]));
        pattern.push("udp".into());
        pattern.push(item(
            seed,
            "vxlan",
            2,
            &[|s| format!("vni is {}", s.one_of(&[7, 9]))],
        ));
        let outer = Demanded {
            v4: true,
            ports: true,
            tunnel: true,
            ..Demanded::default()
        };
        let inner = one_frame(seed, false, pattern);
        return (outer, Some(inner));
    }
    let datagram = about.connections && seed.once_in(2);
    (one_frame(seed, datagram, pattern), None)
}

fn one_frame(seed: &mut Seed, datagram: bool, pattern: &mut Vec<String>) -> Demanded {
    let mut demanded = Demanded::default();
    let mut eth = item(seed, "eth", 8, ETH);
    if datagram {
        pattern.push(eth);
        pattern.push(format!(
            "{} fragment_offset spec 0 fragment_offset mask 0x3fff",
            item(seed, "ipv4", 10, &IPV4[..5])
        ));
        pattern.push(item(seed, "udp", 6, TRANSPORT));
        return Demanded {
            v4: true,
            ports: true,
            datagram: true,
            ..demanded
        };
    }
    demanded.vlans = seed.one_of(&[0, 0, 0, 0, 1, 1, 2]);
    let kind = seed.below(8);
    if kind == 0 && demanded.vlans == 0 && seed.once_in(2) {
        eth.push_str(&format!(
            " type is {}",
            seed.one_of(&["0x0800", "0x86dd", "0x88b5", "0x0806"])
        ));
    }
    pattern.push(eth);
    for _ in 0..demanded.vlans {
        pattern.push(item(seed, "vlan", 2, VLAN));
    }
    match kind {
        0 => return demanded,
        1..6 => {
            pattern.push(item(seed, "ipv4", 10, IPV4));
            demanded.v4 = true;
        }
        _ => {
            pattern.push(item(seed, "ipv6", 10, IPV6));
            demanded.v6 = true;
        }
    }
    match seed.below(6) {
        0 | 1 => pattern.push(item(seed, "udp", 3, TRANSPORT)),
        2 => pattern.push(item(seed, "tcp", 3, TCP)),
        3 if demanded.v4 => pattern.push(item(seed, "icmp", 2, ICMP)),
        3 => pattern.push(item(seed, "icmp6", 2, ICMP)),
        _ => return demanded,
    }
    demanded.ports = pattern
        .last()
        .is_some_and(|last| last.starts_with("udp") || last.starts_with("tcp"));
    demanded
}

fn actions(
    seed: &mut Seed,
    about: About,
    (group, once): (usize, bool),
    outer: Demanded,
    inner: Option<Demanded>,
) -> Vec<String> {
    let mut out = Vec::new();
    let mut now = outer;
    if seed.once_in(2) {
        out.push("count".to_owned());
    }
    if about.connections && now.datagram && !seed.once_in(4) {
        // Tracked before anything can fail.
        let commit = if seed.once_in(2) { " commit" } else { "" };
        if group + 1 < GROUPS && !seed.once_in(4) {
            out.push(format!(
                "ct zone {ZONE}{commit} group {}",
                next_group(seed, group)
            ));
            return out;
        }
        out.push(format!("ct zone {ZONE}{commit}"));
    }
    if let Some(inner) = inner
        && !seed.once_in(4)
    {
        out.push("vxlan_decap".into());
        now = inner;
    }
    for _ in 0..seed.one_of(&[0, 0, 0, 1, 1, 2, 3, 4]) {
        out.extend(edit(seed, about, &mut now));
    }
    if seed.once_in(8) {
        out.push("count".to_owned());
    }
    match seed.below(8) {
        0 => out.push("drop".into()),
        1..4 if group + 1 < GROUPS => out.push(format!("jump group {}", next_group(seed, group))),
        4 if about.tunnels && !now.tunnel && once => {
            out.push(encapsulation(seed));
            out.push(output(seed));
        }
        _ => out.push(output(seed)),
    }
    out
}

fn next_group(seed: &mut Seed, group: usize) -> usize {
    group + 1 + seed.below(GROUPS - 1 - group)
}

fn output(seed: &mut Seed) -> String {
    format!(
        "represented_port ethdev_port_id {}",
        seed.below(SWITCH_PORTS.into())
    )
}

fn encapsulation(seed: &mut Seed) -> String {
    let (src, dst) = match seed.below(2) {
        0 => (v4(seed).to_string(), v4(seed).to_string()),
        _ => (v6(seed).to_string(), v6(seed).to_string()),
    };
    format!(
        "vxlan_encap vni 9 ip_src {src} ip_dst {dst} udp_src {} udp_dst 4789 ip_tos {} ip_ttl {} eth_dst {}",
        seed.one_of(&PORTS),
        seed.one_of(&[0, 0, 0x20, 0x21]),
        seed.one_of(&[64, 9]),
        text_of(mac(9)),
    )
}

/// One action that changes the packet, if the drawn one fits what the pattern demands.
fn edit(seed: &mut Seed, about: About, now: &mut Demanded) -> Option<String> {
    let station = text_of(mac(seed.below(6) as u8));
    Some(match seed.below(16) {
        0 => format!("set_mac_src mac_addr {station}"),
        1 => format!("set_mac_dst mac_addr {station}"),
        2 | 3 if now.v4 => format!("set_ipv4_src ipv4_addr {}", v4(seed)),
        4 if now.v4 => format!("set_ipv4_dst ipv4_addr {}", v4(seed)),
        2 | 3 if now.v6 => format!("set_ipv6_src ipv6_addr {}", v6(seed)),
        4 if now.v6 => format!("set_ipv6_dst ipv6_addr {}", v6(seed)),
        5 if now.ports => format!("set_tp_src port {}", seed.one_of(&PORTS)),
        6 if now.ports => format!("set_tp_dst port {}", seed.one_of(&PORTS)),
        7 if (now.v4 || now.v6) && !about.tracks_late() => "dec_ttl".into(),
        8 if now.v4 || now.v6 => format!("set_ttl ttl_value {}", seed.one_of(&TTLS)),
        9 if !about.tunnels || !now.tunnel => {
            now.vlans += 1;
            format!(
                "of_push_vlan ethertype {}",
                seed.one_of(&["0x8100", "0x88a8"])
            )
        }
        10 if now.vlans > 0 => {
            now.vlans -= 1;
            "of_pop_vlan".into()
        }
        11 if now.vlans > 0 => format!("of_set_vlan_vid vlan_vid {}", seed.one_of(&VIDS)),
        12 if now.vlans > 0 => format!("of_set_vlan_pcp vlan_pcp {}", seed.one_of(&[0, 3, 7])),
        13 => format!("mark id {}", seed.below(3)),
        14 => "mac_swap".into(),
        15 if now.v4 => format!("set_ipv4_dscp dscp_value {}", seed.one_of(&[0, 4, 63])),
        15 if now.v6 => format!("set_ipv6_dscp dscp_value {}", seed.one_of(&[0, 4, 63])),
        _ => return None,
    })
}
