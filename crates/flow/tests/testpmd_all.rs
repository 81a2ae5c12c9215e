//! All items, fields, actions, arguments and commands against a real testpmd of DPDK 22.11: the words it
//! offers are ours or known as unsupported, what is marked as ours it does not have, and whatever we
//! print of the rest it takes.
//!
//! The differences, all of which are held here:
//! - the item and the action `ct` are ours, as are the fields marked [`Spelling::Ours`];
//! - arguments that testpmd takes from `set` commands may stand in the action: all of `vxlan_encap`,
//!   `nvgre_encap`, `l2_encap` and `l2_decap`, `data` of `raw_encap` and `raw_decap`, `actions` of
//!   `sample`; `age` has a `context`;
//! - testpmd takes no number below 0 for `raw offset`, only `is` for `tag index`, and no `integrity`
//!   without a field;
//! - `port_id original` is not supported;
//! - of `flow` commands, `info`, `tunnel` and `flex_item` are not there.

mod peer;

use std::collections::BTreeSet;

use peer::{ask_testpmd, offers};
use sumeru_flow::model::{
    Access, FieldId, FieldKind, RssTypes, Spelling, UNSUPPORTED_ACTIONS, UNSUPPORTED_ITEMS,
};
use sumeru_flow::{Action, Item, syntax};

/// Words of testpmd that are no items or actions.
const ENDS: &[&str] = &["end", "end_set", "/"];
/// Items and actions that only we have.
const OURS: &[&str] = &["ct"];
/// Arguments that only we have, or an action all of whose arguments are ours.
const OUR_ARGUMENTS: &[(&str, &[&str])] = &[
    (
        "vxlan_encap",
        &[
            "vni", "ip_src", "ip_dst", "udp_src", "udp_dst", "ip_tos", "ip_ttl", "eth_src",
            "eth_dst",
        ],
    ),
    (
        "nvgre_encap",
        &[
            "tni", "ip_src", "ip_dst", "flow_id", "ip_tos", "ip_ttl", "eth_src", "eth_dst",
        ],
    ),
    ("l2_encap", &["eth_src", "eth_dst", "ethertype", "vlan_tci"]),
    ("l2_decap", &["vlan"]),
    ("raw_encap", &["data"]),
    ("raw_decap", &["data"]),
    ("sample", &["actions"]),
    ("age", &["context"]),
];
/// Arguments that only testpmd has; `age` and `sample` offer themselves once more.
const THEIR_ARGUMENTS: &[(&str, &[&str])] = &[
    ("port_id", &["original"]),
    ("age", &["age"]),
    ("sample", &["sample"]),
];
/// `flow` commands that only testpmd has.
const THEIR_COMMANDS: &[&str] = &["info", "tunnel", "flex_item"];

type Words = BTreeSet<String>;

fn set<'a>(words: impl IntoIterator<Item = &'a str>) -> Words {
    words.into_iter().map(str::to_owned).collect()
}

/// The words of `action` in one of the tables above.
fn listed(table: &[(&str, &[&'static str])], action: &str) -> Words {
    let rows = table.iter().filter(|(name, _)| *name == action);
    set(rows.flat_map(|(_, words)| words.iter().copied()))
}

fn single(beginning: &str) -> Words {
    let mut words = offers(&[beginning.to_owned()]);
    words.pop().expect("one answer").into_iter().collect()
}

#[test]
fn items_and_actions_are_those_of_testpmd() {
    for (beginning, ours, unsupported) in [
        (
            "flow validate 0 pattern",
            set(Item::TABLE.iter().map(|row| row.name)),
            UNSUPPORTED_ITEMS,
        ),
        (
            "flow validate 0 pattern end actions",
            set(Action::TABLE.iter().map(|row| row.name)),
            UNSUPPORTED_ACTIONS,
        ),
    ] {
        let theirs = &single(beginning) - &set(ENDS.iter().copied());
        assert!(theirs.len() > 40, "{theirs:?}");
        let known = &ours | &set(unsupported.iter().copied());
        assert_eq!(
            &theirs - &known,
            Words::new(),
            "neither supported nor refused by name"
        );
        assert_eq!(&ours - &theirs, set(OURS.iter().copied()), "only ours");
    }
}

#[test]
fn fields_are_those_of_testpmd() {
    // Behind a bare field testpmd offers `is` and the like.
    let rows: Vec<_> = Item::TABLE
        .iter()
        .filter(|row| !OURS.contains(&row.name))
        .filter(|row| {
            row.fields
                .iter()
                .all(|field| field.spelling != Spelling::Bare)
        })
        .collect();
    let beginnings: Vec<String> = rows
        .iter()
        .map(|row| format!("flow validate 0 pattern {}", row.name))
        .collect();
    for (row, theirs) in rows.iter().zip(offers(&beginnings)) {
        let of = |spelling| {
            let fields = row
                .fields
                .iter()
                .filter(move |field| field.spelling == spelling);
            set(fields.map(|field| field.name))
        };
        let theirs = &set(theirs.iter().map(String::as_str)) - &set(ENDS.iter().copied());
        assert_eq!(theirs, of(Spelling::Testpmd), "{}", row.name);
        assert!(theirs.is_disjoint(&of(Spelling::Ours)), "{}", row.name);
    }
}

#[test]
fn arguments_are_those_of_testpmd() {
    // `indirect` has a bare argument; `modify_field` has its arguments in a fixed order.
    let rows: Vec<_> = Action::TABLE
        .iter()
        .filter(|row| !OURS.contains(&row.name))
        .filter(|row| !["indirect", "modify_field"].contains(&row.name))
        .collect();
    let beginnings: Vec<String> = rows
        .iter()
        .map(|row| format!("flow validate 0 pattern end actions {}", row.name))
        .collect();
    for (row, theirs) in rows.iter().zip(offers(&beginnings)) {
        let theirs = &set(theirs.iter().map(String::as_str)) - &set(ENDS.iter().copied());
        let ours = set(row.arguments.iter().map(|argument| argument.name));
        let only_ours = listed(OUR_ARGUMENTS, row.name);
        assert_eq!(&ours - &theirs, only_ours, "{}", row.name);
        assert_eq!(
            &theirs - &ours,
            listed(THEIR_ARGUMENTS, row.name),
            "{}",
            row.name
        );
    }
    let modify = "flow validate 0 pattern end actions modify_field";
    let operations = single(&format!("{modify} op"));
    assert_eq!(operations, set(["set", "add", "sub"]));
    let places = single(&format!("{modify} op set dst_type"));
    let sources = single(&format!("{modify} op set dst_type mark src_type"));
    let all = set(FieldId::NAMES.iter().copied());
    assert_eq!(places, &all - &set(["pointer", "value"]));
    assert_eq!(sources, all);
    let types = single("flow validate 0 pattern end actions rss types");
    assert_eq!(
        &types - &set(["end"]),
        set(RssTypes::NAMES.iter().map(|(name, _)| *name))
    );
}

#[test]
fn commands_are_those_of_testpmd() {
    let theirs = &single("flow") - &set(THEIR_COMMANDS.iter().copied());
    let ours: Words = syntax::complete("flow ").into_iter().collect();
    assert_eq!(theirs, ours);
    for beginning in [
        "flow queue 0",
        "flow indirect_action 0",
        "flow pattern_template 0",
    ] {
        let ours: Words = syntax::complete(&format!("{beginning} "))
            .into_iter()
            .collect();
        assert_eq!(single(beginning), ours, "{beginning}");
    }
}

/// A value of a field as text, a partial mask and an upper bound.
fn values(kind: FieldKind, bits: u32) -> Option<(&'static str, &'static str, &'static str)> {
    Some(match kind {
        FieldKind::Mac => (
            "02:00:00:00:00:01",
            "ff:00:ff:00:ff:00",
            "02:00:00:00:00:ff",
        ),
        FieldKind::Ipv4 => ("10.0.0.1", "255.0.255.0", "10.0.0.255"),
        FieldKind::Ipv6 => ("2001:db8::1", "ffff::ffff", "2001:db8::ff"),
        FieldKind::Named(_) => ("yellow", "red", "red"),
        FieldKind::Unsigned | FieldKind::Hexadecimal if bits == 1 => ("1", "0", "1"),
        FieldKind::Unsigned | FieldKind::Hexadecimal if bits < 4 => ("1", "2", "3"),
        FieldKind::Unsigned | FieldKind::Hexadecimal => ("5", "0x5", "7"),
        FieldKind::Signed => ("5", "5", "7"),
        FieldKind::Bytes(_) => ("0a0b", "ff0f", ""),
        FieldKind::Text(_) => ("text", "mask", ""),
        FieldKind::Port => ("3", "", ""),
        _ => return None,
    })
}

/// Lines that use every field of every item in every way.
fn item_lines(spelling: Spelling) -> Vec<String> {
    let mut lines = Vec::new();
    for row in Item::TABLE.iter().filter(|row| !OURS.contains(&row.name)) {
        let mut line = |rest: &str| {
            lines.push(format!(
                "flow validate 0 ingress pattern {} {rest} / end actions drop / end",
                row.name
            ));
        };
        let bare = row
            .fields
            .iter()
            .any(|field| field.spelling == Spelling::Bare);
        if spelling == Spelling::Testpmd && !bare && row.name != "integrity" {
            line("");
        }
        for field in row.fields.iter().filter(|field| field.spelling == spelling) {
            let (value, mask, last) = values(field.kind, field.bits).expect(field.name);
            let name = field.name;
            if spelling == Spelling::Bare {
                line(&format!("is {value}"));
                continue;
            }
            line(&format!("{name} is {value}"));
            if spelling == Spelling::Ours || (row.name, name) == ("tag", "index") {
                continue;
            }
            if !mask.is_empty() {
                line(&format!("{name} spec {value} {name} mask {mask}"));
            }
            let number = matches!(field.access, Access::Field { .. });
            if number && !last.is_empty() {
                line(&format!("{name} is {value} {name} last {last}"));
            }
            if number && field.bits > 4 && !matches!(field.kind, FieldKind::Signed) {
                line(&format!("{name} spec {value} {name} prefix 4"));
            }
        }
    }
    lines
}

/// Lines that testpmd and we take: actions with all their arguments, and commands.
const LINES: &[&str] = &[
    "flow validate 0 ingress pattern eth / end actions void / passthru / end",
    "flow validate 0 ingress pattern eth / end actions flag / mark id 5 / queue index 3 / end",
    "flow validate 0 ingress pattern eth / end actions rss func toeplitz level 2 types ipv4-tcp udp end key 0a0b0c key_len 3 queues 0 1 2 end / end",
    "flow validate 0 ingress pattern eth / end actions rss / end",
    "flow validate 0 ingress pattern eth / end actions rss func symmetric_toeplitz types end queues end / end",
    "flow validate 0 ingress pattern eth / end actions rss types none end queues 3 end / end",
    "flow validate 0 ingress pattern eth / end actions meter mtr_id 5 / color type red / drop / end",
    "flow validate 0 ingress pattern eth / end actions of_dec_nw_ttl / of_pop_mpls ethertype 0x800 / of_push_mpls ethertype 0x8847 / drop / end",
    "flow validate 0 ingress pattern eth / end actions vxlan_decap / nvgre_decap / mac_swap / l2_decap / drop / end",
    "flow validate 0 ingress pattern eth / end actions inc_tcp_seq value 1 / dec_tcp_seq value 2 / inc_tcp_ack value 3 / dec_tcp_ack value 4 / drop / end",
    "flow validate 0 ingress pattern eth / end actions set_tag data 5 index 1 mask 0xff / set_meta data 6 mask 0xffffffff / drop / end",
    "flow validate 0 ingress pattern eth / end actions set_ipv4_dscp dscp_value 46 / set_ipv6_dscp dscp_value 10 / drop / end",
    "flow validate 0 ingress pattern eth / end actions age timeout 30 / count identifier 4 / drop / end",
    "flow validate 0 ingress pattern eth / end actions modify_field op set dst_type ipv4_src src_type value src_value 0a000001 width 32 / drop / end",
    "flow validate 0 ingress pattern eth / end actions modify_field op add dst_type tag dst_level 2 dst_offset 3 src_type meta src_level 1 src_offset 4 width 8 / drop / end",
    "flow validate 0 ingress pattern eth / end actions modify_field op sub dst_type ipv6_dst dst_offset 64 src_type pointer src_ptr 00112233445566778899aabbccddeeff width 64 / drop / end",
    "flow validate 0 ingress pattern eth / ipv4 / udp / end actions modify_field op set dst_type udp_port_dst src_type value src_value 0035 width 16 / drop / end",
    "flow isolate 0 1",
    "flow isolate 0 off",
    "flow aged 0",
    "flow aged 0 destroy",
    "flow dump 0 all",
    "flow dump 0 rule 3",
    "flow query 0 3 count",
    "flow query 0 3 age",
    "flow indirect_action 0 create action_id 5 ingress action count / end",
    "flow indirect_action 0 create transfer action conntrack / end",
    "flow indirect_action 0 update 5 action queue index 3 / end",
    "flow indirect_action 0 destroy action_id 5 action_id 6",
    "flow indirect_action 0 query 5",
    "flow configure 0 queues_number 2 queues_size 128 counters_number 9 aging_counters_number 8 meters_number 7 conn_tracks_number 6 flags 1",
    "flow configure 0 queues_number 1",
    "flow pattern_template 0 create pattern_template_id 3 relaxed yes ingress template eth / ipv4 src mask 255.255.255.0 src spec 0.0.0.0 / end",
    "flow pattern_template 0 create transfer template end",
    "flow pattern_template 0 destroy pattern_template 3 pattern_template 4",
    "flow actions_template 0 create ingress actions_template_id 4 template count / queue index 0 / end mask count / queue index 0xffff / end",
    "flow actions_template 0 destroy actions_template 4",
    "flow template_table 0 create table_id 5 group 1 priority 2 ingress rules_number 1024 pattern_template 3 pattern_template 7 actions_template 4",
    "flow template_table 0 destroy table 5 table 6",
    "flow queue 0 create 1 template_table 5 pattern_template 0 actions_template 0 postpone yes pattern eth / ipv4 src spec 10.0.0.1 / end actions count / queue index 3 / end",
    "flow queue 0 destroy 1 postpone no rule 3 rule 4",
    "flow queue 0 aged 1 destroy",
    "flow queue 0 indirect_action 1 create action_id 3 ingress postpone yes action count / end",
    "flow queue 0 indirect_action 1 update 3 postpone yes action count / end",
    "flow queue 0 indirect_action 1 destroy postpone yes action_id 3",
    "flow queue 0 indirect_action 1 query 3",
    "flow push 0 queue 1",
    "flow pull 0 queue 1",
    "add port meter profile srtcm_rfc2697 0 1 1000 2000 3000 0",
    "add port meter profile trtcm_rfc2698 0 1 1000 2000 3000 4000 1",
    "add port meter profile trtcm_rfc4115 0 1 1000 2000 3000 4000 0",
    "del port meter profile 0 1",
    "add port meter policy 0 1 g_actions color type green / end y_actions color type yellow / end r_actions drop / end",
    "del port meter policy 0 1",
    "create port meter 0 2 1 1 yes 0xff 1 g 0",
    "create port meter 0 2 1 1 no 0 0 R 1",
    "enable port meter 0 2",
    "disable port meter 0 2",
    "del port meter 0 2",
    "set port meter profile 0 2 1",
    "show port meter stats 0 2 yes",
    "set raw_encap 1 eth dst is 02:00:00:00:00:01 / ipv4 src is 10.0.0.1 dst is 10.0.0.2 / udp dst is 4789 / vxlan vni is 5 / end_set",
    "set raw_decap eth / ipv4 / end_set",
    "set sample_actions 2 mark id 3 / port_id id 1 / end",
    "set vxlan ip-version ipv4 vni 4 udp-src 5 udp-dst 4789 ip-src 10.0.0.1 ip-dst 10.0.0.2 eth-src 02:00:00:00:00:01 eth-dst 02:00:00:00:00:02",
    "set vxlan-tos-ttl ip-version ipv6 vni 4 udp-src 5 udp-dst 4789 ip-tos 1 ip-ttl 30 ip-src ::1 ip-dst ::2 eth-src 02:00:00:00:00:01 eth-dst 02:00:00:00:00:02",
    "set nvgre ip-version ipv4 tni 4 ip-src 10.0.0.1 ip-dst 10.0.0.2 eth-src 02:00:00:00:00:01 eth-dst 02:00:00:00:00:02",
    "set l2_encap ip-version ipv4 eth-src 02:00:00:00:00:01 eth-dst 02:00:00:00:00:02",
    "set l2_encap-with-vlan ip-version ipv6 vlan-tci 5 eth-src 02:00:00:00:00:01 eth-dst 02:00:00:00:00:02",
    "set l2_decap",
    "set l2_decap-with-vlan",
];

fn printed(line: &str) -> String {
    match syntax::parse(line) {
        Ok(command) => command.to_string(),
        Err(error) => panic!("{}", error.render(line)),
    }
}

#[test]
fn testpmd_takes_all_that_we_print() {
    let mut lines = item_lines(Spelling::Testpmd);
    lines.extend(item_lines(Spelling::Bare));
    lines.extend(LINES.iter().map(|line| (*line).to_owned()));
    let printed: Vec<String> = lines.iter().map(|line| printed(line)).collect();
    assert!(printed.len() > 300, "{}", printed.len());
    let both: Vec<&str> = lines.iter().chain(&printed).map(String::as_str).collect();
    let taken = ask_testpmd(&both);
    let refused: Vec<&str> = both
        .iter()
        .zip(taken)
        .filter_map(|(line, taken)| (!taken).then_some(*line))
        .collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn testpmd_refuses_what_is_ours() {
    let mut lines = item_lines(Spelling::Ours);
    for (action, argument) in [
        ("raw_encap", "data 0a"),
        ("age", "timeout 3 context 5"),
        ("sample", "ratio 1 actions count / end"),
        ("l2_decap", "vlan"),
        ("ct", ""),
        ("ct", "commit nat_src addr 10.0.0.1-10.0.0.9 group 1"),
    ] {
        lines.push(format!(
            "flow validate 0 ingress pattern eth / end actions {action} {argument} / drop / end"
        ));
    }
    for item in [
        "ct state is +est",
        "tag index spec 5 index mask 1",
        "tag index is 5 index last 7",
        "raw relative is 1 offset is -5",
        "integrity",
        "conntrack flags is 1",
        "conntrack is 1 flags mask 3",
    ] {
        lines.push(format!(
            "flow validate 0 ingress pattern {item} / end actions drop / end"
        ));
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    for line in &lines {
        printed(line);
    }
    let taken: Vec<&str> = lines
        .iter()
        .zip(ask_testpmd(&lines))
        .filter_map(|(line, taken)| taken.then_some(*line))
        .collect();
    assert!(taken.is_empty(), "{}", taken.join("\n"));
}
