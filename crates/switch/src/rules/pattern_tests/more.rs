//! What is not a header, what is refused, ranges, extractions, and packets described in the words of their rule.

use sumeru_flow::describe::PacketDescription;
use sumeru_flow::model::{Access, ErasedMatch, Item};

use super::*;

#[test]
fn metadata_is_compared() {
    let (frame, registers) = (
        bytes(UDP),
        [Field::Tag0, Field::Tag1, Field::Tag2, Field::Tag3],
    );
    let mut cases = vec![
        ("mark id is 5".to_owned(), Field::Mark, 5),
        ("meta data is 5".to_owned(), Field::Meta, 5),
        ("conntrack is 1".to_owned(), Field::ConntrackItem, 1),
        (
            "ct state spec 0x22 state mask 0xff".to_owned(),
            Field::CtState,
            0x22,
        ),
        (
            "ct zone spec 3 zone mask 0xffff".to_owned(),
            Field::CtZone,
            3,
        ),
        (
            "ct mark spec 3 mark mask 0xffffffff".to_owned(),
            Field::CtMark,
            3,
        ),
        (
            "ct label spec 0x30000000000000000 label mask 0x30000000000000000".to_owned(),
            Field::CtLabel,
            3 << 64,
        ),
        (
            "represented_port ethdev_port_id is 3".to_owned(),
            Field::InPort,
            3,
        ),
        ("port_id id is 2".to_owned(), Field::InPort, 2),
    ];
    for (index, register) in registers.into_iter().enumerate() {
        cases.push((format!("tag data is 9 index is {index}"), register, 9));
    }
    for (pattern, field, value) in cases {
        let table = table(&[&format!("eth / {pattern}")]);
        assert!(
            met(&table, &frame, &[(field, value)]).is_some(),
            "{pattern}"
        );
        assert!(
            met(
                &table,
                &frame,
                &[(field, value ^ value & value.wrapping_neg())]
            )
            .is_none(),
            "{pattern}"
        );
    }
}

#[test]
fn what_a_key_does_not_have_is_refused_by_name() {
    for pattern in [
        "eth type is 0x8100",
        "eth type is 0x0040",
        "eth type is 0x8100 / vlan",
        "eth / ipv6 proto is 44",
        "eth / ipv6 / icmp6_nd_ns / icmp6_nd_opt type is 3",
        "eth / ipv4 / udp / geneve / geneve-opt type is 1 data is 01",
        "raw relative is 0 search is 1 pattern is a",
        "raw relative is 0 offset is 256 pattern is a",
        "raw relative is 0 pattern is 0123456789abcdefg",
        "eth / ipv4 / tcp / raw relative is 1 pattern is a",
        "eth / any num is 2 / tcp",
        "tag data is 1 index is 4",
        "eth / integrity value spec 32 value mask 32",
    ] {
        assert!(
            matches!(refusal(pattern), RuleError::Field { .. }),
            "{pattern}: {}",
            refusal(pattern)
        );
    }
    for pattern in [
        "eth / vlan / vlan / vlan",
        "eth / mpls / mpls / mpls",
        "eth / ipv4 / udp / vxlan / eth / ipv4 / gre",
        "eth / ipv4 / udp / esp",
        "eth / ipv4 / udp / mpls",
        "eth / ipv4 / udp / gtp teid is 1",
        "eth / mpls / eth",
        "meter color is green",
        "eth / integrity value spec 4 value mask 4",
        "eth / port_representor port_id is 1",
        "raw relative is 0 pattern is a / raw relative is 0 offset is 1 pattern is b",
    ] {
        assert!(
            matches!(refusal(pattern), RuleError::Unsupported { .. }),
            "{pattern}: {}",
            refusal(pattern)
        );
    }
    for pattern in [
        "eth / ipv6 has_frag_ext is 0 / ipv6_frag_ext",
        "eth type spec 0x86dd type last 0x86de type mask 0xffff / any / ipv4",
        "eth / ipv4 / tcp / integrity value spec 0 value mask 4",
        "conntrack is 256",
    ] {
        assert!(
            matches!(refusal(pattern), RuleError::Contradiction { .. }),
            "{pattern}: {}",
            refusal(pattern)
        );
    }
}

/// The items that one needs before it, and what it says of itself so that each of its fields can be tried.
fn surroundings(item: &str) -> (&'static str, String) {
    let before = match item {
        "vlan" | "arp_eth_ipv4" | "ipv4" | "ipv6" | "mpls" => "eth / ",
        "ipv6_ext" | "ipv6_frag_ext" | "icmp6" | "icmp6_nd_ns" | "icmp6_nd_na" => "eth / ipv6 / ",
        "icmp" | "tcp" | "udp" | "sctp" | "esp" | "gre" | "nvgre" => "eth / ipv4 / ",
        "gre_key" | "gre_option" => "eth / ipv4 / gre / ",
        "vxlan" | "vxlan-gpe" | "geneve" | "gtpu" | "gtpc" => "eth / ipv4 / udp / ",
        "gtp" => "eth / ipv4 / udp dst is 2152 / ",
        "geneve-opt" => "eth / ipv4 / udp / geneve / ",
        "gtp_psc" => "eth / ipv4 / udp / gtpu / ",
        "integrity" => "eth / ipv4 / tcp / ",
        _ => "",
    };
    let own = match item {
        "geneve-opt" => " class is 1 type is 1",
        "tag" => " index is 1",
        "raw" => " relative is 0 pattern_hex is 00",
        "icmp6_nd_opt" => " type is 1",
        _ => "",
    };
    (before, format!("{item}{own}"))
}

/// Items and fields that are refused for what they are; one that is not in this list is compiled.
const REFUSED: &[&str] = &[
    "arp_eth_ipv4 hln",
    "arp_eth_ipv4 hrd",
    "arp_eth_ipv4 pln",
    "arp_eth_ipv4 pro",
    "geneve-opt length",
    "gre_option checksum",
    "gre_option sequence",
    "gtp msg_len",
    "gtpc msg_len",
    "gtpc msg_type",
    "gtpc teid",
    "gtpc v_pt_rsv_flags",
    "gtpu msg_len",
    "ipv4 hdr_checksum",
    "ipv4 length",
    "ipv6 length",
    "ipv6_frag_ext frag_data",
    "meter",
    "meter color",
    "port_representor",
    "port_representor port_id",
    "raw limit",
    "raw search",
    "vlan dei",
    "vxlan last_rsvd",
];

#[test]
fn every_item_and_field_is_compiled_or_refused_by_name() {
    let mut refused = Vec::new();
    let mut note = |rule: &Rule, what: String, names: [&str; 2]| match compile_as(rule, 1) {
        Ok(_) => {}
        Err(error) => {
            let text = error.to_string();
            assert!(
                names.iter().all(|name| text.contains(name)),
                "{what}: {text}"
            );
            refused.push(what);
        }
    };
    for row in Item::TABLE {
        let (before, own) = surroundings(row.name);
        let base = rule(&format!("{before}{own}"));
        note(&base, row.name.to_owned(), [row.name, ""]);
        for field in row.fields {
            let mut rule = base.clone();
            let item = rule.pattern.last_mut().unwrap();
            match &field.access {
                Access::Field { get, set } => {
                    // Values that are wrong in themselves are tried elsewhere.
                    let spec = match (row.name, field.name) {
                        ("eth", "type") | ("vlan", "inner_type") => 0x0800,
                        ("ipv6" | "ipv6_ext" | "ipv6_frag_ext", "proto" | "next_hdr") => 6,
                        ("ipv4", "version_ihl") => 0x45,
                        ("integrity", "value") => 4,
                        ("ct", "state") => 0x20,
                        _ => 1,
                    };
                    let mask = match (row.name, field.name) {
                        ("integrity", "value") => 4,
                        _ => u128::MAX >> (128 - field.bits),
                    };
                    let matched = ErasedMatch {
                        spec,
                        mask,
                        last: None,
                    };
                    set(item, matched);
                    assert_eq!(get(item).map(|set| set.mask), Some(mask), "{}", field.name);
                }
                Access::Bytes {
                    set, alias: false, ..
                } => set(item, vec![1], vec![0xff]).unwrap(),
                Access::Port => {
                    let (text, name) = (format!("{} {} is 1", row.name, field.name), row.name);
                    rule = super::rule(&text);
                    note(&rule, format!("{name} {}", field.name), [name, ""]);
                    continue;
                }
                Access::Bytes { .. } | Access::Alias(_) => continue,
            }
            let name = match row.name {
                "meter" => "",
                _ => field.name,
            };
            note(
                &rule,
                format!("{} {}", row.name, field.name),
                [row.name, name],
            );
        }
    }
    refused.sort();
    assert_eq!(refused, REFUSED);
}

#[test]
fn extractions_are_shared_and_run_out() {
    let option = |class: u32, kind: u32| {
        format!("eth / ipv4 / udp / geneve / geneve-opt class is {class} type is {kind}")
    };
    let insert = |table: &mut RuleTable, id: u32, pattern: &str| {
        table.insert(&compile_as(&rule(pattern), id).unwrap())
    };
    let frame = bytes(GENEVE);
    let mut table = RuleTable::default();
    let (first, second) = (option(0x0102, 0x80), option(0x0103, 5));
    insert(&mut table, 1, &format!("{first} data is 4142")).unwrap();
    insert(&mut table, 2, &option(9, 9)).unwrap();
    table.publish();
    assert_eq!(met(&table, &frame, &[]), Some(1));
    let full = insert(&mut table, 3, &second).unwrap_err();
    assert!(
        matches!(full, RuleError::NoExtraction { limit: 2, .. }),
        "{full}"
    );
    insert(&mut table, 3, &option(9, 9)).unwrap();
    table.remove(0, 2).unwrap();
    assert!(
        insert(&mut table, 2, &second).is_err(),
        "a rule is left that uses it"
    );
    table.remove(0, 3).unwrap();
    // The rule's first option comes into the second slot and its second one is in the first already.
    let both =
        format!("{second} data is 7778 / geneve-opt class is 0x0102 type is 0x80 data is 4142");
    insert(&mut table, 2, &both).unwrap();
    table.remove(0, 1).unwrap();
    table.publish();
    assert_eq!(met(&table, &frame, &[]), Some(2));
    let mut other = frame.clone();
    other[67] ^= 1;
    assert_eq!(met(&table, &other, &[]), None);
    other[67] ^= 1;
    other[55] ^= 1;
    assert_eq!(met(&table, &other, &[]), None);
    table.remove(0, 2).unwrap();
    table.publish();
    assert!(table.view().extracts.is_empty());
    insert(
        &mut table,
        1,
        "raw relative is 0 offset is 42 pattern is pay",
    )
    .unwrap();
    insert(
        &mut table,
        2,
        "raw relative is 0 offset is 42 pattern is xyz",
    )
    .unwrap();
    let full = insert(
        &mut table,
        3,
        "raw relative is 0 offset is 43 pattern is ayl",
    );
    assert!(matches!(
        full,
        Err(RuleError::NoExtraction { limit: 1, .. })
    ));
    table.publish();
    assert_eq!(met(&table, &bytes(UDP), &[]), Some(1));
    assert!(Parsing::of(table.view()).extras);
}

#[test]
fn ranges_of_parts_are_ranges() {
    let table = table(&["eth / ipv4 packet_id spec 1000 packet_id last 2000 packet_id mask 65535"]);
    let mut frame = bytes(UDP);
    for id in (0..=65535_u16).step_by(13).chain([999, 1000, 2000, 2001]) {
        frame[18..20].copy_from_slice(&id.to_be_bytes());
        assert_eq!(
            met(&table, &frame, &[]).is_some(),
            (1000..=2000).contains(&id),
            "{id}"
        );
    }
}

/// A layer's token, and fields with the number of bits that may vary.
type LayerFields = (&'static str, &'static [(&'static str, u32)]);

/// Layers of a description with the fields that a pattern matches by the same name.
const STACKS: &[&[LayerFields]] = &[
    &[
        ("vlan", &[("vid", 12), ("pcp", 3)]),
        ("ipv4", &[("tos", 8), ("ttl", 8), ("packet_id", 16)]),
        ("udp", &[("src", 16), ("dst", 11)]),
    ],
    &[
        ("ipv6", &[("tc", 8), ("hop", 8), ("flow", 20)]),
        ("tcp", &[("src", 16), ("dst", 16), ("flags", 8)]),
    ],
    &[
        ("ipv4", &[("ttl", 8)]),
        (
            "icmp",
            &[("type", 8), ("code", 8), ("ident", 16), ("seq", 16)],
        ),
    ],
    &[("ipv6", &[("flow", 20)]), ("icmp6", &[("code", 8)])],
    &[
        ("ipv4", &[("packet_id", 16)]),
        ("udp", &[("src", 16)]),
        ("vxlan", &[("vni", 24)]),
        ("eth", &[]),
        ("ipv6", &[("hop", 8), ("flow", 20)]),
        ("tcp", &[("dst", 16), ("flags", 8)]),
    ],
];

proptest::proptest! {
    #[test]
    fn a_described_packet_meets_the_rule_in_the_same_words(
        stack in 0..STACKS.len(),
        values in proptest::collection::vec(proptest::num::u32::ANY, 16),
        named in proptest::num::u16::ANY,
        changed in 0..16_usize,
    ) {
        let layers = STACKS[stack];
        let count: usize = layers.iter().map(|(_, fields)| fields.len()).sum();
        let changed = changed % count;
        let write = |turned: Option<usize>| {
            let (mut packet, mut pattern, mut number) = ("eth".to_owned(), "eth".to_owned(), 0);
            for (layer, fields) in layers {
                packet += &format!(" / {layer}");
                pattern += &format!(" / {layer}");
                for (field, bits) in *fields {
                    let mut value = values[number] & ((1 << bits) - 1);
                    if named >> number & 1 == 1 || number == changed {
                        pattern += &format!(" {field} is {value}");
                    }
                    value ^= u32::from(turned == Some(number));
                    packet += &format!(" {field} {value}");
                    number += 1;
                }
            }
            (packet, pattern)
        };
        let (packet, pattern) = write(None);
        let frame = PacketDescription::parse(&packet).unwrap().to_bytes();
        proptest::prop_assert!(matches(&pattern, &frame), "{} does not meet {}", packet, pattern);
        let frame = PacketDescription::parse(&write(Some(changed)).0).unwrap().to_bytes();
        proptest::prop_assert!(!matches(&pattern, &frame), "{} meets {}", packet, pattern);
    }
}
