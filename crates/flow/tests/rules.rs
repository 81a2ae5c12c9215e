//! Rules written in testpmd's syntax and in JSON, what they mean, and what is wrong with bad ones.

use std::net::Ipv4Addr;

use sumeru_flow::model::{
    Access, Eth, Ipv4, MAX_ACTIONS, MAX_ITEMS, MacAddr, TunnelAddresses, UNSUPPORTED_ACTIONS,
    UNSUPPORTED_ITEMS, VlanId, Vni, VxlanDefinition,
};
use sumeru_flow::syntax::{MAX_TEXT, SyntaxErrorKind, complete, parse, parse_rule};
use sumeru_flow::{Action, Attributes, Command, Item, Matched, PortRef, Rule};

fn rule(text: &str) -> Rule {
    parse_rule(text).unwrap_or_else(|error| panic!("{}", error.render(text)))
}

fn pattern(text: &str) -> Vec<Item> {
    rule(&format!("ingress pattern {text} / end actions drop / end")).pattern
}

fn ipv4(text: &str) -> Ipv4 {
    match pattern(text).as_slice() {
        [Item::Ipv4(header)] => *header,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_command_is_read() {
    let text =
        "flow create 0 ingress pattern eth / ipv4 dst is 10.0.0.1 / end actions count / drop / end";
    let dst = Matched::exact(Ipv4Addr::new(10, 0, 0, 1));
    let expected = Rule {
        attributes: Attributes {
            ingress: true,
            ..Attributes::default()
        },
        pattern: vec![
            Item::Eth(Eth::default()),
            Item::Ipv4(Ipv4 {
                dst,
                ..Ipv4::default()
            }),
        ],
        actions: vec![Action::Count { id: 0 }, Action::Drop],
    };
    let command = Command::Create {
        port: PortRef::from(0),
        rule: expected.clone(),
    };
    assert_eq!(parse(text), Ok(command.clone()));
    assert_eq!(command.to_string(), text);
    assert_eq!(parse(text.trim_start_matches("flow ")), Ok(command));
    assert_eq!(expected.validate(), Ok(()));
}

#[test]
fn ports_have_names() {
    let port = |text: &str| PortRef::new(text).expect(text);
    assert_eq!(
        parse("flush vm-1.net0"),
        Ok(Command::Flush {
            port: port("vm-1.net0")
        })
    );
    assert_eq!(
        parse("flush 0x10"),
        Ok(Command::Flush {
            port: PortRef::from(16)
        })
    );
    assert_eq!(port("vm1").number(), None);
    assert_eq!(port("017").number(), Some(15));
    assert_eq!(port("08").number(), None);
    for bad in ["", "a b", "a/b", "a#b", "é", &"x".repeat(65)] {
        assert!(PortRef::new(bad).is_err(), "{bad}");
    }
}

/// The examples of testpmd's documentation, "Matching pattern".
#[test]
fn parameters_mean_what_testpmd_documents() {
    let address = |last| Ipv4Addr::new(10, 1, 1, last);
    let exact = Matched::exact(address(1));
    for text in [
        "ipv4 src is 10.1.1.1",
        "ipv4 src spec 10.1.1.1 src mask 255.255.255.255",
        "ipv4 src spec 10.1.1.1 src prefix 32",
    ] {
        assert_eq!(ipv4(text).src, exact, "{text}");
    }
    for text in [
        "ipv4 src is 10.1.1.1 src last 10.1.1.1",
        "ipv4 src is 10.1.1.1 src last 0",
    ] {
        assert_eq!(ipv4(text).src.range(), None, "{text}");
        assert!(ipv4(text).src.is_exact(), "{text}");
    }
    let range = ipv4("ipv4 src is 10.1.1.1 src last 10.2.3.4 src mask 255.255.0.0").src;
    assert_eq!(
        range.range(),
        Some((Ipv4Addr::new(10, 1, 0, 0), Ipv4Addr::new(10, 2, 0, 0)))
    );
    assert!(range.matches(Ipv4Addr::new(10, 2, 255, 255)));
    assert!(!range.matches(Ipv4Addr::new(10, 3, 0, 0)));
    assert_eq!(
        ipv4("ipv4 src is 10.1.1.1 src is 10.1.1.2").src,
        Matched::exact(address(2))
    );
    assert_eq!(
        ipv4("ipv4 src is 10.1.1.1 src prefix 24 src prefix 16").src,
        Matched::prefix(address(1), 16)
    );
}

/// Programmer's Guide: a spec without a mask has the default mask of its item.
#[test]
fn a_spec_without_mask_has_the_default_mask() {
    let header = ipv4("ipv4 src spec 10.1.1.1 tos spec 5");
    assert_eq!(header.src, Matched::exact(Ipv4Addr::new(10, 1, 1, 1)));
    assert_eq!(header.dst, Matched::exact(Ipv4Addr::UNSPECIFIED));
    assert_eq!(header.tos, Matched::masked(5, 0));
    let header = ipv4("ipv4 src spec 10.1.1.1 tos is 5");
    assert!(header.src.is_any() && header.dst.is_any() && header.tos.is_exact());
}

#[test]
fn tci_stands_for_its_parts() {
    let items = pattern("vlan tci spec 0xf005 tci mask 0xe00f");
    let [Item::Vlan(tag)] = items.as_slice() else {
        panic!("{items:?}")
    };
    assert_eq!((tag.pcp.spec.get(), tag.pcp.mask.get()), (7, 7));
    assert_eq!((tag.dei.spec, tag.dei.mask), (true, false));
    assert_eq!((tag.vid.spec.get(), tag.vid.mask.get()), (5, 15));
    let items = pattern("vxlan flag_i is 1 flag_o is 0");
    let [Item::Vxlan(header)] = items.as_slice() else {
        panic!("{items:?}")
    };
    assert_eq!(header.flags, Matched::masked(8, 9));
}

#[test]
fn encapsulation_is_inline() {
    let text = "transfer pattern eth / end actions vxlan_encap vni 5 ip_src 10.0.0.1 ip_dst 10.0.0.2 \
                udp_dst 4790 eth_dst 02:00:00:00:00:02 / represented_port ethdev_port_id uplink0 / end";
    let addresses = TunnelAddresses::V4 {
        src: Ipv4Addr::new(10, 0, 0, 1),
        dst: Ipv4Addr::new(10, 0, 0, 2),
    };
    let definition = VxlanDefinition {
        udp_dst: 4790,
        eth_dst: Some(MacAddr([2, 0, 0, 0, 0, 2])),
        ..VxlanDefinition::new(Vni::new(5).expect("24 bits"), addresses)
    };
    let rule = rule(text);
    assert_eq!(rule.actions[0], Action::VxlanEncap(definition));
    assert_eq!(rule.to_string(), text);
    assert_eq!(rule.validate(), Ok(()));
}

#[test]
fn json_has_testpmd_names() {
    let text = "group 1 priority 2 ingress pattern represented_port ethdev_port_id is vm1 / \
                eth type is 0x800 / ipv4 src spec 10.0.0.0 src prefix 8 / \
                udp dst is 53 dst last 60 / end \
                actions count identifier 3 / of_push_vlan ethertype 0x8100 / \
                vxlan_encap vni 5 ip_src 10.0.0.1 ip_dst 10.0.0.2 / jump group 2 / end";
    let json = serde_json::json!({
        "attributes":
            {"group": 1, "priority": 2, "ingress": true, "egress": false, "transfer": false},
        "pattern": [
            {"represented_port": {"ethdev_port_id": "vm1"}},
            {"eth": {"type": {"is": 0x800}}},
            {"ipv4": {"src": {"spec": "10.0.0.0", "mask": "255.0.0.0"}}},
            {"udp": {"dst": {"is": 53, "last": 60}}},
        ],
        "actions": [
            {"count": {"identifier": 3}},
            {"of_push_vlan": {"ethertype": 0x8100}},
            {"vxlan_encap": {"vni": 5, "ip_src": "10.0.0.1", "ip_dst": "10.0.0.2"}},
            {"jump": {"group": 2}},
        ],
    });
    assert_eq!(serde_json::to_value(rule(text)).expect("JSON"), json);
    assert_eq!(
        serde_json::from_value::<Rule>(json).expect("a rule"),
        rule(text)
    );
    let short = r#"{"pattern": [{"ipv4": {"src": {"spec": "10.0.0.0", "prefix": 8}}}], "actions": ["drop"]}"#;
    assert_eq!(
        serde_json::from_str::<Rule>(short).expect("a rule"),
        rule("pattern ipv4 src spec 10.0.0.0 src prefix 8 / end actions drop / end")
    );
}

#[test]
fn bad_json_is_refused() {
    for (json, expected) in [
        (
            r#"{"eth": {"dts": {"is": "02:00:00:00:00:01"}}}"#,
            "unknown field `dts`",
        ),
        (
            r#"{"eth": {"dst": {"is": "02:00:00:00:00"}}}"#,
            "MAC address",
        ),
        (
            r#"{"eth": {"dst": {"is": "02:00:00:00:00:01", "mask": "02:00:00:00:00:01"}}}"#,
            "expected `is`",
        ),
        (
            r#"{"ipv4": {"dst": {"spec": "10.0.0.1"}}}"#,
            "`spec` with `mask`",
        ),
        (
            r#"{"ipv4": {"dst": {"spec": "10.0.0.1", "prefix": 33}}}"#,
            "`prefix` is 0 to 32",
        ),
        (
            r#"{"vlan": {"vid": {"is": 4096}}}"#,
            "VLAN identifier is 0 to 4095, found 4096",
        ),
        (r#"{"udp": {"dst": {"is": 65536}}}"#, "65536"),
        (r#"{"nsh": {}}"#, "unknown variant `nsh`"),
        (
            r#"{"port_id": {"id": "a b"}}"#,
            "a port is a number or a name",
        ),
    ] {
        let error = serde_json::from_str::<Item>(json)
            .expect_err(json)
            .to_string();
        assert!(error.contains(expected), "{json}: {error}");
    }
    let mixed = r#"{"vxlan_encap": {"vni": 5, "ip_src": "10.0.0.1", "ip_dst": "::1"}}"#;
    let error = serde_json::from_str::<Action>(mixed)
        .expect_err(mixed)
        .to_string();
    assert!(error.contains("both must be of one IP version"), "{error}");
}

#[test]
fn syntax_errors_say_where_and_what() {
    for (text, expected) in [
        (
            "flow create 0 ingress pattern eth dts is",
            "at byte 34: unexpected `dts`; expected one of: `dst`, `src`, `type`, `has_vlan`, `/`",
        ),
        (
            "flow create 0 inwards",
            "at byte 14: unexpected `inwards`; expected one of: `group`, `priority`, `ingress`, \
             `egress`, `transfer`, `pattern`",
        ),
        (
            "flow crate 0",
            "at byte 5: unexpected `crate`; expected one of: `create`, `validate`, `destroy`, \
             `flush`, `list`, `query`, `isolate`, `aged`, `dump`, `indirect_action`, `configure`, \
             `pattern_template`, `actions_template`, `template_table`, `queue`, `push`, `pull`",
        ),
        (
            "list",
            "at byte 4: the text ends too early; expected a port",
        ),
        (
            "create 0 pattern eth dst is 02:00 / end actions drop / end",
            "at byte 28: unexpected `02:00`; expected a MAC address",
        ),
        (
            "create 0 pattern nsh / end actions drop / end",
            "at byte 17: item `nsh` is not supported",
        ),
        (
            "create 0 pattern eth / end actions vf / end",
            "at byte 35: action `vf` is not supported",
        ),
        (
            "create 0 pattern eth / end actions jump / end",
            "at byte 35: action `jump` needs `group`",
        ),
        (
            "create 0 pattern eth / end actions vxlan_encap vni 1 ip_src ::1 ip_dst 10.0.0.1 / end",
            "at byte 35: `vxlan_encap` has `ip_src` ::1 and `ip_dst` 10.0.0.1; both must be of one \
             IP version",
        ),
        (
            "create 0 pattern ipv4 dst prefix 8 / end actions drop / end",
            "at byte 26: `ipv4` has a mask or an upper bound but no value; add `spec` or `is`",
        ),
        (
            "create 0 pattern vlan tci is 5 tci last 7 / end actions drop / end",
            "at byte 35: `vlan tci` cannot be a range; it stands for bits of other fields",
        ),
    ] {
        assert_eq!(parse(text).expect_err(text).to_string(), expected, "{text}");
    }
}

#[test]
fn an_error_is_drawn_below_its_place() {
    let text = "flush vm1 all";
    assert_eq!(
        parse(text).expect_err(text).render(text),
        "at byte 10: unexpected `all`; expected the end of the line\n  flush vm1 all\n            ^^^"
    );
    let long = format!(
        "destroy 0 {}rule x {}",
        "rule 1 ".repeat(30),
        "rule 1 ".repeat(30)
    );
    let drawn = parse(&long).expect_err("x is no number").render(&long);
    let lines: Vec<&str> = drawn.lines().collect();
    assert!(
        lines[1].starts_with("  ...") && lines[1].ends_with("..."),
        "{drawn}"
    );
    let mark = lines[2].find('^').expect("a mark");
    assert_eq!(&lines[1][mark..=mark], "x", "{drawn}");
}

#[test]
fn unsupported_names_are_refused_by_name() {
    for name in UNSUPPORTED_ITEMS {
        let text = format!("pattern {name} / end actions drop / end");
        let error = parse_rule(&text).expect_err(name);
        assert_eq!(error.kind, SyntaxErrorKind::UnsupportedItem { name });
    }
    for name in UNSUPPORTED_ACTIONS {
        let text = format!("pattern eth / end actions {name} / end");
        let error = parse_rule(&text).expect_err(name);
        assert_eq!(error.kind, SyntaxErrorKind::UnsupportedAction { name });
    }
}

#[test]
fn text_is_limited() {
    let items = |count| format!("pattern {}end actions drop / end", "void / ".repeat(count));
    assert_eq!(rule(&items(MAX_ITEMS)).pattern.len(), MAX_ITEMS);
    let error = parse_rule(&items(MAX_ITEMS + 1)).expect_err("too many");
    assert_eq!(error.kind, SyntaxErrorKind::TooManyItems);
    let actions = |count| format!("pattern end actions {}end", "count / ".repeat(count));
    assert_eq!(rule(&actions(MAX_ACTIONS)).actions.len(), MAX_ACTIONS);
    let error = parse_rule(&actions(MAX_ACTIONS + 1)).expect_err("too many");
    assert_eq!(
        error.kind,
        SyntaxErrorKind::TooManyActions { max: MAX_ACTIONS }
    );
    let long = " ".repeat(MAX_TEXT + 1);
    let error = parse(&long).expect_err("too long");
    assert_eq!(
        error.kind,
        SyntaxErrorKind::TooLong {
            found: MAX_TEXT + 1
        }
    );
    assert!(complete(&long).is_empty());
}

#[test]
fn words_are_completed() {
    for (prefix, expected) in [
        (
            "",
            &[
                "flow",
                "set",
                "add",
                "del",
                "enable",
                "disable",
                "show",
                "create",
                "validate",
                "destroy",
                "flush",
                "list",
                "query",
                "isolate",
                "aged",
                "dump",
                "indirect_action",
                "configure",
                "pattern_template",
                "actions_template",
                "template_table",
                "queue",
                "push",
                "pull",
            ][..],
        ),
        ("flow c", &["create", "configure"]),
        ("flow create ", &[]),
        ("flow create 0 in", &["ingress"]),
        (
            "create 0 pattern eth / ip",
            &["ipv4", "ipv6", "ipv6_ext", "ipv6_frag_ext"],
        ),
        ("create 0 pattern eth / ipv4 d", &["dst"]),
        (
            "create 0 pattern eth / ipv4 dst ",
            &["is", "spec", "last", "mask", "prefix"],
        ),
        ("create 0 pattern eth / ipv4 dst is ", &[]),
        ("create 0 pattern eth / end a", &["actions"]),
        (
            "create 0 pattern eth / end actions set_mac",
            &["set_mac_src", "set_mac_dst"],
        ),
        (
            "create 0 pattern eth / end actions vxlan_encap ip_",
            &["ip_src", "ip_dst", "ip_tos", "ip_ttl"],
        ),
        ("create 0 pattern eth / end actions drop / end ", &[]),
        ("destroy 0 rule 1 ", &["rule"]),
        ("list 0 ", &["group"]),
        ("nonsense 0 ", &[]),
        ("create 0 pattern conntrack i", &["is"]),
        (
            "create 0 pattern meter color is ",
            &["green", "yellow", "red", "all"],
        ),
        (
            "create 0 pattern eth / end actions rss func s",
            &["simple_xor", "symmetric_toeplitz"],
        ),
        (
            "create 0 pattern eth / end actions modify_field op set dst_type ipv4_d",
            &["ipv4_dscp", "ipv4_dst"],
        ),
        ("create 0 pattern eth / end actions indirect ", &[]),
        (
            "create 0 pattern eth / end actions ct nat_",
            &["nat_restore", "nat_src", "nat_dst"],
        ),
        (
            "flow queue 0 create 1 template_table 3 ",
            &["pattern_template"],
        ),
        ("set raw_encap 0 eth / ipv4 / end", &["end_set"]),
        ("add port meter ", &["policy", "profile"]),
    ] {
        assert_eq!(complete(prefix), expected, "{prefix}");
    }
}

#[test]
fn narrow_values_are_checked_when_made() {
    assert_eq!(VlanId::new(4095).map(VlanId::get), Ok(4095));
    assert!(VlanId::new(4096).is_err());
    assert!(Vni::new(1 << 24).is_err());
    assert_eq!(
        Vni::new(1 << 24).expect_err("25 bits").to_string(),
        "VXLAN network identifier is 0 to 16777215, found 16777216"
    );
}

/// Rows, names and values of the tables belong together.
#[test]
fn tables_agree() {
    for (index, row) in Item::TABLE.iter().enumerate() {
        assert_eq!((row.new)().name(), row.name);
        assert_eq!((row.new)().row().name, row.name);
        assert!(!UNSUPPORTED_ITEMS.contains(&row.name), "{}", row.name);
        assert!(
            Item::TABLE[..index]
                .iter()
                .all(|other| other.name != row.name),
            "{}",
            row.name
        );
        for (index, field) in row.fields.iter().enumerate() {
            assert!(
                row.fields[..index]
                    .iter()
                    .all(|other| other.name != field.name)
            );
            if let Access::Alias(parts) = field.access {
                assert_eq!(parts.iter().map(|part| part.bits).sum::<u32>(), field.bits);
                for part in parts {
                    let whole = row.fields.iter().find(|other| other.name == part.field);
                    let whole = whole.expect("a field of the item");
                    assert!(part.field_shift + part.bits <= whole.bits);
                }
            }
        }
    }
    for (index, row) in Action::TABLE.iter().enumerate() {
        assert!(!UNSUPPORTED_ACTIONS.contains(&row.name), "{}", row.name);
        assert!(
            Action::TABLE[..index]
                .iter()
                .all(|other| other.name != row.name),
            "{}",
            row.name
        );
        if let Ok(action) = (row.build)(&[]) {
            assert_eq!(action.name(), row.name);
        }
    }
}
