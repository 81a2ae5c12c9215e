//! The parser against a real testpmd: both take or refuse the same lines at the level of syntax.
//!
//! testpmd runs on a null device, which supports no rules: "Bad arguments" and "Command not found"
//! are syntax errors, every other answer means that the line was understood. Where the syntaxes differ on purpose the table
//! says so, and the test fails if the difference goes away.

mod peer;

use peer::ask_testpmd;
use sumeru_flow::syntax;

/// Who takes a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// Both.
    Both,
    /// Neither.
    Neither,
    /// Only we do: an extension, or syntax of DPDK 24.11 that 22.11 lacks.
    OursOnly,
    /// Only testpmd does: we are stricter, or do not support it.
    TheirsOnly,
}
use Taken::{Both, Neither, OursOnly, TheirsOnly};

const LINES: &[(Taken, &str)] = &[
    // From testpmd's documentation and of its kind.
    (Both, "flow create 0 pattern end actions end"),
    (
        Both,
        "flow validate 0 ingress pattern eth / ipv6 / tcp / end actions drop / end",
    ),
    (
        Both,
        "flow create 0 ingress pattern eth / ipv4 / udp / end actions drop / end",
    ),
    (
        Both,
        "flow create 0 group 42 group 24 group 4 pattern eth / end actions drop / end",
    ),
    (
        Both,
        "flow create 0 priority 5 egress pattern eth / end actions mark id 42 / drop / end",
    ),
    (
        Both,
        "flow validate 0 transfer pattern eth / end actions represented_port ethdev_port_id 1 / end",
    ),
    (
        Both,
        "flow validate 0 transfer pattern eth / end actions port_representor port_id 1 / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / end actions port_id id 1 / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / ipv4 src is 10.1.1.1 dst is 10.2.0.0 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / ipv4 src spec 10.1.1.1 src mask 255.255.255.255 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / ipv4 src spec 10.1.1.1 src prefix 32 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / ipv4 src is 10.1.1.1 src last 0 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / ipv4 src is 10.1.1.1 src last 10.2.3.4 src mask 255.255.0.0 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / ipv4 src is 10.1.1.1 src is 10.1.2.3 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / ipv4 src is 10.1.1.1 src prefix 24 src prefix 16 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / ipv4 src is 0x0a000001 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / ipv4 src spec 10.0.0.1 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / ipv4 version_ihl is 0x45 tos is 3 packet_id is 4 fragment_offset is 6 ttl is 6 proto is 4 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / ipv6 tc is 3 flow is 4 proto is 58 hop is 6 has_frag_ext is 0 src is fe80::1 dst is ::ffff:1.2.3.4 / icmp6 type is 4 code is 4 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / ipv4 / icmp type is 3 code is 4 ident is 4 seq is 5 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / ipv4 / tcp src is 1 dst spec 80 dst last 90 dst mask 0xffff flags is 0x2 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth dst is 02:00:00:00:00:01 src spec 02:00:00:00:00:01 src prefix 24 type is 0x0800 has_vlan is 1 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / vlan pcp is 3 dei is 1 vid is 4 inner_type is 0x800 has_more_vlan is 0 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / vlan tci is 0x2005 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / ipv4 / udp dst is 4789 / vxlan vni is 0xffffff / eth / ipv4 / end actions vxlan_decap / drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern void / mark id is 3 / port_id id is 3 / eth / end actions void / drop / end",
    ),
    (
        Both,
        "flow validate 0 transfer pattern represented_port ethdev_port_id is 4 / eth / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 transfer pattern port_representor port_id is 4 / eth / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / end actions of_pop_vlan / of_push_vlan ethertype 0x8100 / of_set_vlan_vid vlan_vid 5 / of_set_vlan_pcp vlan_pcp 3 / jump group 3 / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / end actions set_mac_src mac_addr 02:00:00:00:00:01 / set_mac_dst mac_addr 02:00:00:00:00:02 / dec_ttl / set_ttl ttl_value 4 / drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / end actions set_ipv4_src ipv4_addr 1.2.3.4 / set_ipv4_dst ipv4_addr 1.2.3.5 / set_tp_src port 3 / set_tp_dst port 80 / drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / end actions set_ipv6_src ipv6_addr ::1 / set_ipv6_dst ipv6_addr 2001:db8::5 / drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / end actions count identifier 4 / count / drop / count / end",
    ),
    // Order and sense are no matter of syntax.
    (
        Both,
        "flow create 0 ingress pattern eth / udp / ipv4 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress egress transfer pattern eth / end actions drop / drop / end",
    ),
    // Numbers: octal, port in hexadecimal, blanks, comment.
    (
        Both,
        "  flow   validate 0x0  ingress pattern eth type is 077 / end actions drop / end # comment",
    ),
    (Both, "flow destroy 0 rule 0 rule 42"),
    (Both, "flow flush 0"),
    (Both, "flow list 0"),
    (Both, "flow list 0 group 1 group 2"),
    (Both, "flow query 0 0 count"),
    // Refused by both.
    (Neither, "flow"),
    (Neither, "flow create"),
    (Neither, "flow create 0"),
    (Neither, "flow frobnicate 0"),
    (
        Neither,
        "flow v 0 ingress pattern eth / end actions drop / end",
    ),
    (Neither, "flow validate 0 ingress pattern eth / end"),
    (
        Neither,
        "flow validate 0 ingress pattern / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / end actions drop",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / end actions drop / en",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / end actions drop / end extra",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / end actions drop / end /",
    ),
    (
        Neither,
        "flow validate 0 pattern eth / end ingress actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth/ipv4 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern ETH / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pat eth / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / bogus / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / end actions bogus / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / end actions dec_ttl ttl_value 3 / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / ipv4 dst in 10.0.0.1 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / ipv4 dst / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / ipv4 dst is / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / ipv4 dst is 10.0.0 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / ipv4 dst is 010.1.1.1 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / ipv4 dst prefix 33 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / ipv4 has_frag_ext is 1 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / ipv6 dst is 1.2.3.4 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / ipv6 dst is fe80::1%eth0 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / ipv6 dst spec :: dst prefix 129 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth dst is 1:2:3:4:5:6 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth dst is 02-00-00-00-00-01 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth dst spec 02:00:00:00:00:01 dst prefix 49 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth type is 0x10000 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth type is -1 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / tcp dst is 70000 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / tcp dst is 080 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / tcp dst is 0b11 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / tcp dst is 1k / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / vxlan vni is 0x1000000 / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / end actions set_ttl ttl_value 256 / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / end actions set_ipv6_src ipv6_addr 1.2.3.4 / end",
    ),
    (
        Neither,
        "flow validate 0 ingress pattern eth / end actions count identifier / end",
    ),
    (
        Neither,
        "flow validate 0 priority 4294967296 pattern eth / end actions drop / end",
    ),
    (
        Neither,
        "flow validate 0 group pattern eth / end actions drop / end",
    ),
    (Neither, "flow destroy 0"),
    (Neither, "flow destroy 0 rule"),
    (Neither, "flow destroy 0 rule -1"),
    (Neither, "flow flush 0 1"),
    (Neither, "flow list 0 group"),
    (Neither, "flow query 0 0"),
    // Extensions of ours.
    (
        OursOnly,
        "validate 0 ingress pattern eth / end actions drop / end",
    ),
    (
        OursOnly,
        "flow validate vm-1.net0 ingress pattern eth / end actions drop / end",
    ),
    (
        OursOnly,
        "flow validate 0 transfer pattern eth / end actions represented_port ethdev_port_id uplink0 / end",
    ),
    (
        OursOnly,
        "flow validate 0 ingress pattern eth / end actions vxlan_encap vni 5 ip_src 10.0.0.1 ip_dst 10.0.0.2 udp_dst 4789 eth_src 02:00:00:00:00:01 eth_dst 02:00:00:00:00:02 / represented_port ethdev_port_id 1 / end",
    ),
    (
        OursOnly,
        "flow validate 0 ingress pattern eth / ipv4 / udp / vxlan flags is 8 / end actions drop / end",
    ),
    // DPDK 24.11 has these: flags of VXLAN bit by bit, rule ids of 64 bits.
    (
        OursOnly,
        "flow validate 0 ingress pattern eth / ipv4 / udp / vxlan flag_i is 1 / end actions drop / end",
    ),
    (OursOnly, "flow query 0 4294967296 count"),
    // We are stricter: what does not fit or is not said is an error, not zero.
    (
        TheirsOnly,
        "flow validate 0 ingress pattern eth / vlan vid is 5000 / end actions drop / end",
    ),
    (
        TheirsOnly,
        "flow validate 0 ingress pattern eth has_vlan is 2 / end actions drop / end",
    ),
    (
        TheirsOnly,
        "flow validate 0 ingress pattern eth / ipv6 flow is 0x100000 / end actions drop / end",
    ),
    (
        TheirsOnly,
        "flow validate 0 ingress pattern eth / udp dst is +5 / end actions drop / end",
    ),
    (
        TheirsOnly,
        "flow validate 0 ingress pattern eth / ipv4 dst prefix 24 / end actions drop / end",
    ),
    (
        TheirsOnly,
        "flow validate 0 ingress pattern eth / vlan tci is 5 tci last 9 / end actions drop / end",
    ),
    (
        TheirsOnly,
        "flow validate 0 ingress pattern port_id id spec 3 id mask 0xff / end actions drop / end",
    ),
    (
        TheirsOnly,
        "flow validate 0 ingress pattern eth / end actions jump / end",
    ),
    (
        TheirsOnly,
        "flow validate 0 ingress pattern eth / end actions represented_port / end",
    ),
    (
        TheirsOnly,
        "flow validate 0 ingress pattern eth / end actions of_set_vlan_vid vlan_vid 5000 / end",
    ),
    (
        TheirsOnly,
        "flow validate 0 ingress pattern eth / end actions vxlan_encap / end",
    ),
    (TheirsOnly, "flow query 0 0 drop"),
    // Not supported, refused by name.
    (
        TheirsOnly,
        "flow validate 0 ingress pattern eth / e_tag grp_ecid_b is 3 / end actions drop / end",
    ),
    (
        TheirsOnly,
        "flow validate 0 ingress pattern eth / end actions vf id 3 / end",
    ),
    // Taken since the model has them.
    (
        Both,
        "flow validate 0 ingress pattern eth / arp_eth_ipv4 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / end actions queue index 3 / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern any num is 1 / end actions drop / end",
    ),
    (
        Both,
        "flow validate 0 ingress pattern eth / vxlan vni is 5 last_rsvd is 3 / end actions drop / end",
    ),
];

#[test]
fn agrees_with_testpmd_on_syntax() {
    let lines: Vec<&str> = LINES.iter().map(|(_, line)| *line).collect();
    let theirs = ask_testpmd(&lines);
    let mut differences = Vec::new();
    for ((expected, line), theirs) in LINES.iter().zip(theirs) {
        let ours = syntax::parse(line);
        let found = match (ours.is_ok(), theirs) {
            (true, true) => Both,
            (false, false) => Neither,
            (true, false) => OursOnly,
            (false, true) => TheirsOnly,
        };
        if found != *expected {
            let why = ours
                .err()
                .map(|error| error.render(line))
                .unwrap_or_default();
            differences.push(format!(
                "{line}\n  expected {expected:?}, found {found:?} {why}"
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    let count = |kind| LINES.iter().filter(|(taken, _)| *taken == kind).count();
    println!(
        "{} lines: both take {}, neither {}, only we {}, only testpmd {}",
        LINES.len(),
        count(Both),
        count(Neither),
        count(OursOnly),
        count(TheirsOnly)
    );
}

/// What we print without extensions is testpmd's syntax.
#[test]
fn testpmd_takes_what_we_print() {
    let printed: Vec<String> = LINES
        .iter()
        .filter(|(taken, _)| *taken == Both)
        .map(|(_, line)| syntax::parse(line).expect("taken by both").to_string())
        .collect();
    let lines: Vec<&str> = printed.iter().map(String::as_str).collect();
    let refused: Vec<&str> = lines
        .iter()
        .zip(ask_testpmd(&lines))
        .filter_map(|(line, taken)| (!taken).then_some(*line))
        .collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
