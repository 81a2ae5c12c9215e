//! Properties: printing and JSON lose nothing, matching means what rte_flow says, and no text and no
//! rule makes anything panic.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use sumeru_flow::model::{Access, Argument, ErasedMatch, FieldKind, Matched, Pcp, PortRef};
use sumeru_flow::{Action, Attributes, Command, Item, PacketDescription, Rule, describe, syntax};

fn low_mask(bits: u32) -> u128 {
    u128::MAX >> (128 - bits)
}

fn port() -> impl Strategy<Value = PortRef> {
    prop_oneof![
        any::<u32>().prop_map(PortRef::from),
        "[A-Za-z0-9_.:@-]{1,64}".prop_map(|name| PortRef::new(&name).expect("a valid name")),
    ]
}

/// A value of a field, masked in all ways: not at all, in full, by a prefix, by any bits.
fn field(bits: u32) -> impl Strategy<Value = ErasedMatch> {
    let all = low_mask(bits);
    let mask = prop_oneof![
        Just(0),
        Just(all),
        (0..=bits).prop_map(move |low| all & all.checked_shl(low).unwrap_or(0)),
        any::<u128>().prop_map(move |mask| mask & all),
    ];
    let value = any::<u128>().prop_map(move |value| value & all);
    (value.clone(), mask, proptest::option::weighted(0.2, value))
        .prop_map(|(spec, mask, last)| ErasedMatch { spec, mask, last })
}

fn item() -> impl Strategy<Value = Item> {
    (0..Item::TABLE.len()).prop_flat_map(|index| {
        let row = &Item::TABLE[index];
        let base = Just((row.new)()).boxed();
        row.fields.iter().fold(base, |item, row| match row.access {
            Access::Field { set, .. } => (item, proptest::option::of(field(row.bits)))
                .prop_map(move |(mut item, value)| {
                    if let Some(value) = value {
                        set(&mut item, value);
                    }
                    item
                })
                .boxed(),
            Access::Port => (item, proptest::option::of(port()))
                .prop_map(|(item, value)| match item {
                    Item::PortId { .. } => Item::PortId { port: value },
                    Item::PortRepresentor { .. } => Item::PortRepresentor { port: value },
                    _ => Item::RepresentedPort { port: value },
                })
                .boxed(),
            Access::Alias(_) => item,
        })
    })
}

fn argument(kind: FieldKind, bits: u32) -> BoxedStrategy<Argument> {
    match kind {
        FieldKind::Port => port().prop_map(Argument::Port).boxed(),
        // One IP version throughout, so that both ends of a tunnel agree.
        FieldKind::Ip => any::<std::net::Ipv6Addr>()
            .prop_map(|address| Argument::Ip(address.into()))
            .boxed(),
        _ => any::<u128>()
            .prop_map(move |value| Argument::Bits(value & low_mask(bits)))
            .boxed(),
    }
}

fn action() -> impl Strategy<Value = Action> {
    (0..Action::TABLE.len()).prop_flat_map(|index| {
        let row = &Action::TABLE[index];
        let arguments: Vec<_> = row
            .arguments
            .iter()
            .enumerate()
            .map(|(index, argument_row)| {
                let value = argument(argument_row.kind, argument_row.bits).prop_map(Some);
                // The first three of an encapsulation and the only one of others are required.
                let optional = index >= 3 || row.name == "count";
                if optional {
                    prop_oneof![Just(None), value].boxed()
                } else {
                    value.boxed()
                }
            })
            .collect();
        arguments.prop_map(move |values| (row.build)(&values).expect("arguments are complete"))
    })
}

prop_compose! {
    fn rule()(
        group in prop_oneof![Just(0), any::<u32>()],
        priority in prop_oneof![Just(0), any::<u32>()],
        (ingress, egress, transfer) in any::<(bool, bool, bool)>(),
        pattern in vec(item(), 0..8),
        actions in vec(action(), 0..8),
    ) -> Rule {
        Rule { attributes: Attributes { group, priority, ingress, egress, transfer }, pattern, actions }
    }
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        (port(), rule()).prop_map(|(port, rule)| Command::Create { port, rule }),
        (port(), rule()).prop_map(|(port, rule)| Command::Validate { port, rule }),
        (port(), vec(any::<u64>(), 1..5))
            .prop_map(|(port, rules)| Command::Destroy { port, rules }),
        port().prop_map(|port| Command::Flush { port }),
        (port(), vec(any::<u32>(), 0..5)).prop_map(|(port, groups)| Command::List { port, groups }),
        (port(), any::<u64>()).prop_map(|(port, rule)| Command::QueryCount { port, rule }),
    ]
}

/// Text made of the grammar's own words, values and noise.
fn text() -> impl Strategy<Value = String> {
    let mut words = vec![
        "flow",
        "create",
        "validate",
        "destroy",
        "flush",
        "list",
        "query",
        "0",
        "vm1",
        "rule",
        "group",
        "priority",
        "ingress",
        "egress",
        "transfer",
        "pattern",
        "actions",
        "end",
        "/",
        "is",
        "spec",
        "last",
        "mask",
        "prefix",
        "24",
        "0x",
        "0xffffffffffffffff",
        "18446744073709551616",
        "10.0.0.1",
        "::1",
        "02:00:00:00:00:01",
        "count",
        "payload",
        "hex",
        "abc",
        "arp",
        "syn|ack",
        "#",
        "\u{1f980}",
        "é",
    ];
    for row in Item::TABLE {
        words.push(row.name);
        words.extend(row.fields.iter().map(|field| field.name));
    }
    for row in Action::TABLE {
        words.push(row.name);
        words.extend(row.arguments.iter().map(|argument| argument.name));
    }
    for row in describe::Layer::TABLE {
        words.extend(row.fields.iter().map(|field| field.name));
    }
    let word = prop_oneof![20 => select(words).prop_map(str::to_owned), 1 => "\\PC{0,8}"];
    prop_oneof![
        vec(word, 0..40).prop_map(|words| words.join(" ")),
        "\\PC{0,200}",
        any::<String>()
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn printed_commands_parse_back(command in command()) {
        let text = command.to_string();
        match syntax::parse(&text) {
            Ok(parsed) => prop_assert_eq!(parsed, command, "{}", text),
            Err(error) => prop_assert!(false, "{}", error.render(&text)),
        }
    }

    #[test]
    fn json_gives_the_same_rule(rule in rule()) {
        let json = serde_json::to_string(&rule)?;
        prop_assert_eq!(serde_json::from_str::<Rule>(&json)?, rule, "{}", json);
    }

    #[test]
    fn any_rule_is_judged(rule in rule()) {
        if let Err(error) = rule.validate() {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn any_text_is_answered(text in text()) {
        if let Err(error) = syntax::parse(&text) {
            prop_assert!(error.position + error.length <= text.len());
            prop_assert!(text.is_char_boundary(error.position));
            prop_assert!(error.render(&text).lines().count() == 3, "{}", error.render(&text));
        }
        if let Err(error) = syntax::parse_rule(&text) {
            // A text other than the parsed one must not do harm, either.
            prop_assert!(!error.render("é").is_empty());
        }
        if let Err(error) = PacketDescription::parse(&text) {
            prop_assert!(error.position + error.length <= text.len());
        }
        let last = text.rsplit(|c: char| c.is_ascii_whitespace()).next().unwrap_or_default();
        for completion in syntax::complete(&text) {
            prop_assert!(completion.starts_with(last));
        }
    }

    /// Wherever the text is cut within a word of the grammar, completion offers that word; within a
    /// value it offers nothing.
    #[test]
    fn every_word_is_completed(rule in rule(), cut in any::<proptest::sample::Index>()) {
        let text = format!("flow create 0 {rule}");
        let cut = cut.index(text.len());
        let start = text[..cut].rfind(' ').map_or(0, |blank| blank + 1);
        let end = text[start..].find(' ').map_or(text.len(), |length| start + length);
        let word = &text[start..end];
        let mut words = text[..start].split_whitespace().rev();
        let before = words.next().unwrap_or_default();
        // An action's name may be an argument's, too (`port_id`).
        let names_action = matches!(words.next(), Some("/" | "actions"));
        let takes_value = ["group", "priority", "create", "is", "spec", "last", "mask", "prefix"];
        let is_argument = Action::TABLE
            .iter()
            .any(|row| row.arguments.iter().any(|argument| argument.name == before));
        let in_actions = text[..start].contains(" actions ");
        let offered = syntax::complete(&text[..cut]);
        if takes_value.contains(&before) || in_actions && is_argument && !names_action {
            prop_assert!(offered.is_empty(), "{:?} at {:?}", offered, &text[..cut]);
        } else {
            prop_assert!(offered.iter().any(|offer| offer == word), "{:?} at {:?}", offered, &text[..cut]);
        }
    }

    #[test]
    fn match_is_what_rte_flow_says(spec: u8, mask: u8, last: Option<u8>, value: u8) {
        let matched = Matched { spec, mask, last };
        let (low, value_masked) = (spec & mask, value & mask);
        let expected = match last.map(|last| last & mask) {
            Some(high) if high != 0 && high != low => low <= value_masked && value_masked <= high,
            _ => value_masked == low,
        };
        prop_assert_eq!(matched.matches(value), expected);
        prop_assert_eq!(matched.is_exact(), (0..=255u8).filter(|v| matched.matches(*v)).count() == 1
            && mask == 255 && matched.range().is_none());
    }

    #[test]
    fn prefix_covers_the_top_bits(spec in 0u32..8, length in 0u32..=3) {
        let spec = Pcp::new(spec)?;
        let matched = Matched::prefix(spec, length);
        for value in 0..8 {
            let same = (value >> (3 - length)) == (u32::from(spec) >> (3 - length));
            prop_assert_eq!(matched.matches(Pcp::new(value)?), same);
        }
    }
}
