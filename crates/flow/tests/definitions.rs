//! Headers and definitions of `set` commands, against the bytes that Scapy 2.8.0 builds for the same
//! headers with lengths and checksums of 0; connection tracking, NAT and templates as values.

use std::net::IpAddr;

use sumeru_flow::model::{
    ActionsTemplate, AddressRange, ArgumentError, CtAction, CtCommit, CtLabel, CtNat, CtState,
    Definitions, HeaderError, IndirectAction, MAX_RAW_HEADER, Masked, MeterError, MeterProfile,
    ModifySource, NatRange, PatternTemplate, PortRange, Sample, TemplateError, TemplateTable,
};
use sumeru_flow::syntax::{
    Command, IndirectCommand, MeterCommand, ObjectCommand, SyntaxErrorKind, parse, parse_rule,
    parse_with,
};
use sumeru_flow::{Action, FlowError, Item, Matched, Rule};

const HEADERS: &[(&str, &str)] = &[
    (
        "ipv4 src is 10.0.0.1 dst is 10.0.0.2 / udp src is 5 / vxlan vni is 5",
        "08004500000000000000401100000a0000010a000002000512b5000000000800000000000500",
    ),
    (
        "vlan vid is 7 pcp is 3 / ipv6 src is 2001:db8::1 dst is 2001:db8::2 flow is 5 / gre / \
         gre_key value is 77 / eth",
        "8100600786dd6000000500002f4020010db800000000000000000000000120010db8000000000000000000000002\
         200065580000004d0000000000000000000000000000",
    ),
    (
        "ipv4 src is 10.0.0.1 dst is 10.0.0.2 / udp / geneve vni is 9 / \
         geneve-opt class is 0x103 type is 1 data is 0a0b0c0d",
        "08004500000000000000401100000a0000010a000002000017c10000000002006558000009000103\
         01010a0b0c0d",
    ),
    (
        "mpls label is 1000 tc is 2 / mpls label is 1001 ttl is 9",
        "8847003e8440003e9109",
    ),
    (
        "ipv4 src is 10.0.0.1 dst is 10.0.0.2 / udp / gtpu teid is 42 / gtp_psc pdu_t is 1 qfi is 9",
        "08004500000000000000401100000a0000010a000002000008680000000034ff00000000002a00000085\
         01100900",
    ),
];

fn command(text: &str) -> Command {
    parse(text).unwrap_or_else(|error| panic!("{}", error.render(text)))
}

fn rule(text: &str) -> Rule {
    parse_rule(text).unwrap_or_else(|error| panic!("{}", error.render(text)))
}

fn action(text: &str) -> Result<Action, SyntaxErrorKind> {
    match parse_rule(&format!("ingress pattern end actions {text} / end")) {
        Ok(rule) => Ok(rule.actions[0].clone()),
        Err(error) => Err(error.kind),
    }
}

fn define(definitions: &mut Definitions, text: &str) {
    match command(text) {
        Command::Define(definition) => definitions.define(&definition).expect(text),
        other => panic!("{other:?}"),
    }
}

#[test]
fn headers_are_those_of_scapy() {
    for (header, expected) in HEADERS {
        let mut definitions = Definitions::new();
        let ethernet = "eth src is 02:00:00:00:00:01 dst is 02:00:00:00:00:02";
        define(
            &mut definitions,
            &format!("set raw_encap 3 {ethernet} / {header} / end_set"),
        );
        let text = "create 0 ingress pattern end actions raw_encap index 3 / drop / end";
        let Ok(Command::Create { rule, .. }) = parse_with(text, &definitions) else {
            panic!("{header}")
        };
        let Action::RawEncap(raw) = &rule.actions[0] else {
            panic!("{rule:?}")
        };
        assert_eq!(
            raw.data.to_string(),
            format!("020000000002020000000001{expected}"),
            "{header}"
        );
    }
}

#[test]
fn a_header_is_of_headers_and_limited() {
    let kind = |text: &str| parse(text).expect_err(text).kind;
    assert_eq!(
        kind("set raw_encap 0 eth / raw pattern is a / end_set"),
        SyntaxErrorKind::Header(HeaderError::Item { item: "raw" })
    );
    assert_eq!(
        kind("set raw_encap 0 void / end_set"),
        SyntaxErrorKind::Header(HeaderError::Empty)
    );
    let long = format!("set raw_encap 0 {}end_set", "ipv6 / ".repeat(13));
    assert_eq!(
        kind(&long),
        SyntaxErrorKind::Header(HeaderError::TooLong { found: 520 })
    );
    const { assert!(520 > MAX_RAW_HEADER) };
    assert!(parse("set raw_encap 8 eth / end_set").is_err());
}

#[test]
fn definitions_are_copied_into_rules() {
    let mut definitions = Definitions::new();
    let text =
        "create 0 ingress pattern end actions sample ratio 2 index 1 / vxlan_encap / drop / end";
    let kind = |definitions: &Definitions| parse_with(text, definitions).expect_err(text).kind;
    let missing = SyntaxErrorKind::Undefined {
        name: "sample",
        index: 1,
    };
    assert_eq!(kind(&definitions), missing);
    assert_eq!(parse(text).expect_err(text).kind, missing);
    define(
        &mut definitions,
        "set sample_actions 1 count / port_id id 4 / end",
    );
    assert_eq!(
        kind(&definitions),
        SyntaxErrorKind::Argument(ArgumentError::Missing {
            action: "vxlan_encap",
            argument: "vni"
        })
    );
    define(
        &mut definitions,
        "set vxlan ip-version ipv4 vni 4 udp-src 0 udp-dst 4789 ip-src 10.0.0.1 ip-dst 10.0.0.2 \
         eth-src 00:00:00:00:00:00 eth-dst 00:00:00:00:00:00",
    );
    let command = parse_with(text, &definitions).expect(text);
    // What is printed needs no definition.
    assert_eq!(
        command.to_string(),
        "flow create 0 ingress pattern end actions sample ratio 2 actions count / port_id id 4 / \
         end / vxlan_encap vni 4 ip_src 10.0.0.1 ip_dst 10.0.0.2 / drop / end"
    );
    assert_eq!(parse(&command.to_string()), Ok(command));
}

#[test]
fn samples_are_limited() {
    assert!(Sample::new(0, vec![]).is_err());
    assert!(Sample::new(1, vec![Action::Drop]).is_err());
    assert!(Sample::new(1, vec![Action::Void; 11]).is_err());
    let inner = "sample ratio 1 actions sample ratio 1 actions end / end";
    assert_eq!(action(inner), Err(SyntaxErrorKind::NestedActions));
    let deep = "sample ratio 1 actions ".repeat(2000);
    assert_eq!(action(&deep), Err(SyntaxErrorKind::NestedActions));
    let two = "sample ratio 1 actions port_id id 1 / port_id id 2 / end";
    let rule = rule(&format!(
        "ingress pattern eth / end actions {two} / drop / end"
    ));
    let error = rule.validate().expect_err("two fates");
    assert_eq!(
        error.to_string(),
        "action 0: in `sample`, action 1: `port_id` decides the packet's fate, which `port_id` \
         already does"
    );
}

#[test]
fn connection_tracking_is_written_as_in_the_documentation() {
    let text = "ct commit force zone 5 mark 0x5/0xff label 0x10 nat_src addr 192.0.2.1-192.0.2.4 \
                port 1024-65535 timeout 7 group 3";
    let address = |text: &str| text.parse::<IpAddr>().expect(text);
    let expected = CtAction {
        zone: 5,
        commit: Some(CtCommit {
            force: true,
            mark: Some(Masked {
                value: 5,
                mask: 0xff,
            }),
            label: Some(Masked {
                value: CtLabel(16),
                mask: CtLabel(u128::MAX),
            }),
            timeout: Some(7),
        }),
        nat: Some(CtNat::Src(NatRange {
            addresses: AddressRange::new(address("192.0.2.1"), address("192.0.2.4")).ok(),
            ports: PortRange::new(1024, 65535).ok(),
        })),
        group: Some(3),
    };
    let parsed = action(text).expect(text);
    assert_eq!(parsed, Action::Ct(expected));
    assert_eq!(parsed.to_string(), text);
    let json = serde_json::json!({"ct": {
        "commit": true, "force": true, "zone": 5, "mark": "0x5/0xff", "label": "0x10",
        "nat_src": true, "addr": "192.0.2.1-192.0.2.4", "port": "1024-65535", "timeout": 7, "group": 3,
    }});
    assert_eq!(serde_json::to_value(&parsed).expect("JSON"), json);
    assert_eq!(
        serde_json::from_value::<Action>(json).expect("an action"),
        parsed
    );
    assert!(parsed.is_fate());
    assert!(!action("ct zone 5").expect("tracks only").is_fate());
    for (text, expected) in [
        ("ct force", "`force` of action `ct` needs `commit`"),
        ("ct nat_src", "`nat_src` of action `ct` needs `commit`"),
        (
            "ct commit nat_src nat_dst",
            "action `ct` takes exactly one of `nat_restore`, `nat_src`, `nat_dst`",
        ),
        (
            "ct nat_restore port 5",
            "`addr` or `port` of action `ct` needs `nat_src` or `nat_dst`",
        ),
        ("ct commit nat_src port 0", "unexpected `0`"),
        (
            "ct commit nat_src addr 10.0.0.2-10.0.0.1",
            "unexpected `10.0.0.2-10.0.0.1`",
        ),
        (
            "ct commit nat_src addr 10.0.0.2-::1",
            "unexpected `10.0.0.2-::1`",
        ),
        ("ct commit mark 0x100000000", "unexpected `0x100000000`"),
    ] {
        assert_eq!(
            action(text).expect_err(text).to_string(),
            expected,
            "{text}"
        );
    }
}

#[test]
fn connection_state_is_written_as_in_openflow() {
    let item =
        |text: &str| rule(&format!("ingress pattern {text} / end actions drop / end")).pattern;
    let state = |text: &str| match item(text).as_slice() {
        [Item::Ct(ct)] => ct.state,
        other => panic!("{other:?}"),
    };
    let expected = Matched::masked(CtState(0x22), CtState(0x32));
    assert_eq!(state("ct state is +trk+est-inv"), expected);
    assert_eq!(state("ct state is +est-inv state is +trk"), expected);
    assert_eq!(state("ct state spec 0x22 state mask 0x32"), expected);
    assert_eq!(
        item("ct state spec 0x22 state mask 0x32")[0].to_string(),
        "ct state is +est-inv+trk"
    );
    assert_eq!(state("ct state is 0x22"), Matched::exact(CtState(0x22)));
    for bad in ["+", "+-", "est", "+est+est", "+foo", "+est-", "é", "+é"] {
        assert_eq!(CtState::from_signs(bad), None, "{bad}");
    }
    let text = "ingress pattern ct state spec 2 / end actions drop / end";
    assert_eq!(
        parse_rule(text).expect_err(text).kind,
        SyntaxErrorKind::NoDefaultMask { item: "ct" }
    );
    let text = "ingress pattern ct state is -trk+est / end actions drop / end";
    assert!(matches!(
        rule(text).validate(),
        Err(FlowError::Contradiction { field: "state", .. })
    ));
}

#[test]
fn nat_without_state_is_a_change_of_fields() {
    let text = "modify_field op set dst_type ipv4_src src_type value src_value 0a000001 width 32";
    let Ok(Action::ModifyField(modify)) = action(text) else {
        panic!("{text}")
    };
    assert_eq!(modify.immediate(), Some(0x0a00_0001));
    assert!(matches!(
        modify.source,
        ModifySource::Value { pointer: false, .. }
    ));
    let text = "modify_field op set dst_type tcp_port_dst src_type value src_offset 8 src_value \
                01bb00 width 16";
    let Ok(Action::ModifyField(modify)) = action(text) else {
        panic!("{text}")
    };
    assert_eq!(modify.immediate(), Some(443));
    for (text, expected) in [
        (
            "modify_field op set dst_type ipv4_ttl src_type value src_value 40 width 9",
            "`dst_offset` of action `modify_field` is such that offset and width stay within the field",
        ),
        (
            "modify_field op set dst_type mark src_type value src_value 40 width 32",
            "`src_value` of action `modify_field` is at least as many bytes as offset and width need",
        ),
        (
            "modify_field op set dst_type value src_type mark width 8",
            "`dst_type` of action `modify_field` is a field, not a value",
        ),
        (
            "modify_field op set dst_type mark src_type value width 8",
            "action `modify_field` needs `src_value`",
        ),
        (
            "modify_field op set dst_type mark src_type meta src_offset 4294967295 width 8",
            "`src_offset` of action `modify_field` is such that offset and width stay within the field",
        ),
        (
            "modify_field op set dst_type mark src_type meta width 0",
            "`width` of action `modify_field` is 1 to 128",
        ),
    ] {
        assert_eq!(
            action(text).expect_err(text).to_string(),
            expected,
            "{text}"
        );
    }
}

#[test]
fn templates_make_rules() {
    let pattern = |text: &str| -> PatternTemplate {
        match command(text) {
            Command::PatternTemplate {
                command: ObjectCommand::Create(template),
                ..
            } => template,
            other => panic!("{other:?}"),
        }
    };
    let actions = |text: &str| -> ActionsTemplate {
        match command(text) {
            Command::ActionsTemplate {
                command: ObjectCommand::Create(template),
                ..
            } => template,
            other => panic!("{other:?}"),
        }
    };
    let template = pattern(
        "flow pattern_template 0 create ingress template eth / \
         ipv4 dst spec 0.0.0.0 dst mask 255.255.255.0 / end",
    );
    assert_eq!(template.validate(), Ok(()));
    let own = rule(
        "ingress pattern eth / ipv4 dst spec 10.0.0.0 src is 10.0.0.9 / end actions drop / end",
    );
    let made = template.instantiate(&own.pattern).expect("the same items");
    assert_eq!(
        made[1].to_string(),
        "ipv4 src spec 10.0.0.9 src mask 0.0.0.0 dst spec 10.0.0.0 dst prefix 24"
    );
    let other = rule("ingress pattern eth / end actions drop / end");
    assert_eq!(
        template.instantiate(&other.pattern),
        Err(TemplateError::Different {
            list: "pattern",
            index: 1,
            found: "the end",
            expected: "ipv4",
        })
    );
    assert!(
        pattern("flow pattern_template 0 create ingress template udp / eth / end")
            .validate()
            .is_err()
    );
    assert!(
        pattern("flow pattern_template 0 create template eth / end")
            .validate()
            .is_err()
    );

    let template = actions(
        "flow actions_template 0 create ingress template set_tag data 5 index 1 mask 255 / \
         jump group 7 / end mask set_tag data 0 index 1 mask 1 / jump group 0 / end",
    );
    assert_eq!(template.validate(), Ok(()));
    assert_eq!(template.constants(0), [false, true, true]);
    assert_eq!(template.constants(1), [false]);
    assert!(template.constants(2).is_empty());
    let own =
        rule("ingress pattern end actions set_tag data 9 index 9 mask 9 / jump group 9 / end");
    let made = template
        .instantiate(&own.actions)
        .expect("the same actions");
    let made: Vec<String> = made.iter().map(Action::to_string).collect();
    assert_eq!(made, ["set_tag data 9 index 1 mask 255", "jump group 9"]);
    let different =
        actions("flow actions_template 0 create ingress template drop / end mask count / end");
    assert!(matches!(
        different.validate(),
        Err(TemplateError::Different { list: "masks", .. })
    ));
    let table = |text: &str| -> TemplateTable {
        match command(text) {
            Command::TemplateTable {
                command: ObjectCommand::Create(table),
                ..
            } => table,
            other => panic!("{other:?}"),
        }
    };
    let full =
        "flow template_table 0 create ingress rules_number 9 pattern_template 1 actions_template 2";
    assert_eq!(table(full).validate(), Ok(()));
    let empty = "flow template_table 0 create ingress pattern_template 1 actions_template 2";
    assert_eq!(
        table(empty).validate(),
        Err(TemplateError::Empty {
            what: "room for rules"
        })
    );
}

#[test]
fn indirect_actions_and_meters_are_judged() {
    let indirect = |text: &str| -> IndirectAction {
        match command(&format!("flow indirect_action 0 create {text} / end")) {
            Command::Indirect {
                command: IndirectCommand::Create(indirect),
                ..
            } => indirect,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(indirect("ingress action conntrack").validate(), Ok(()));
    assert_eq!(indirect("ingress action count").validate(), Ok(()));
    assert!(indirect("action count").validate().is_err());
    assert!(indirect("ingress action indirect 5").validate().is_err());
    let two = "flow indirect_action 0 create ingress action count / drop / end";
    assert_eq!(
        parse(two).expect_err(two).kind,
        SyntaxErrorKind::NotOneAction
    );
    let profile = |text: &str| -> MeterProfile {
        match command(&format!("add port meter profile {text}")) {
            Command::Meter {
                command: MeterCommand::AddProfile { profile, .. },
                ..
            } => profile,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        profile("srtcm_rfc2697 0 1 1000 1500 0 0").validate(),
        Ok(())
    );
    assert_eq!(
        profile("trtcm_rfc2698 0 1 1000 2000 1500 1500 0").validate(),
        Ok(())
    );
    assert_eq!(
        profile("srtcm_rfc2697 0 1 0 1500 0 0").validate(),
        Err(MeterError::NoRate)
    );
    assert!(profile("srtcm_rfc2697 0 1 1000 0 0 0").validate().is_err());
    assert!(
        profile("trtcm_rfc4115 0 1 1000 1 1 0 0")
            .validate()
            .is_err()
    );
    assert_eq!(
        profile("trtcm_rfc2698 0 1 1000 999 1500 1500 0").validate(),
        Err(MeterError::PeakBelowCommitted {
            cir: 1000,
            pir: 999
        })
    );
}
