//! Properties: printing and JSON lose nothing, matching means what rte_flow says, and no text and no
//! rule makes anything panic.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use sumeru_flow::model::{
    Access, ActionsTemplate, AddressRange, Argument, ByteString, CtAction, CtCommit, CtNat,
    Definition, Direction, ErasedMatch, Eth, FieldId, FieldKind, FieldPlace, FieldValue,
    FlowConfiguration, IndirectAction, MacAddr, Masked, Matched, Meter, MeterAlgorithm, MeterColor,
    MeterPolicy, MeterProfile, ModifyField, ModifyOperation, ModifySource, NatRange,
    PatternTemplate, Pcp, PortRange, PortRef, RawEncap, Rss, RssFunction, RssTypes, TemplateTable,
    Vlan,
};
use sumeru_flow::syntax::{IndirectCommand, MeterCommand, ObjectCommand, QueueCommand};
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
            Access::Port => (item, option::of(port()))
                .prop_map(|(item, value)| match item {
                    Item::PortId { .. } => Item::PortId { port: value },
                    Item::PortRepresentor { .. } => Item::PortRepresentor { port: value },
                    _ => Item::RepresentedPort { port: value },
                })
                .boxed(),
            Access::Bytes {
                set, alias: false, ..
            } => (item, bytes(max_bytes(row.kind)))
                .prop_map(move |(mut item, (spec, mask))| {
                    set(&mut item, spec, mask).expect("bytes that fit");
                    item
                })
                .boxed(),
            Access::Bytes { .. } | Access::Alias(_) => item,
        })
    })
}

fn max_bytes(kind: FieldKind) -> usize {
    match kind {
        FieldKind::Bytes(max) => max,
        _ => 0,
    }
}

/// Value and mask of one length.
fn bytes(max: usize) -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    (0..=max).prop_flat_map(|length| {
        let mask = prop_oneof![Just(vec![0xff; length]), vec(any::<u8>(), length)];
        (vec(any::<u8>(), length), mask)
    })
}

fn argument(kind: FieldKind, bits: u32) -> BoxedStrategy<Argument> {
    match kind {
        FieldKind::Port => port().prop_map(Argument::Port).boxed(),
        // One IP version throughout, so that both ends of a tunnel agree.
        FieldKind::Ip => any::<std::net::Ipv6Addr>()
            .prop_map(|address| Argument::Ip(address.into()))
            .boxed(),
        FieldKind::Named(names) => (0..names.len() as u128).prop_map(Argument::Bits).boxed(),
        FieldKind::NameSet(names) => subsequence(names, 0..names.len())
            .prop_map(|names| {
                let bits = names.iter().fold(0, |bits, (_, bit)| bits | bit);
                Argument::Bits(bits.into())
            })
            .boxed(),
        FieldKind::Flag => Just(Argument::Bits(1)).boxed(),
        FieldKind::Bytes(max) => vec(any::<u8>(), 1..=max).prop_map(Argument::Bytes).boxed(),
        FieldKind::Numbers => vec(any::<u16>(), 0..9).prop_map(Argument::Numbers).boxed(),
        FieldKind::Masked => any::<(u128, u128)>()
            .prop_map(move |(value, mask)| {
                Argument::Masked(value & low_mask(bits), mask & low_mask(bits))
            })
            .boxed(),
        FieldKind::Addresses => any::<(std::net::IpAddr, u8)>()
            .prop_map(|(first, more)| {
                let last = match first {
                    IpAddr::V4(first) => {
                        IpAddr::V4(u32::from(first).saturating_add(more.into()).into())
                    }
                    IpAddr::V6(first) => {
                        IpAddr::V6(u128::from(first).saturating_add(more.into()).into())
                    }
                };
                Argument::Addresses(AddressRange::new(first, last).expect("in order"))
            })
            .boxed(),
        FieldKind::Ports => (1..=u16::MAX)
            .prop_flat_map(|first| (Just(first), first..=u16::MAX))
            .prop_map(|(first, last)| {
                Argument::Ports(PortRange::new(first, last).expect("in order"))
            })
            .boxed(),
        FieldKind::Actions => vec(simple_action(), 0..=10)
            .prop_map(Argument::Actions)
            .boxed(),
        _ => any::<u128>()
            .prop_map(move |value| Argument::Bits(value & low_mask(bits)))
            .boxed(),
    }
}

/// An action that a sample can do.
fn simple_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        any::<u16>().prop_map(|index| Action::Queue { index }),
        any::<u32>().prop_map(|id| Action::Count { id }),
        port().prop_map(|port| Action::RepresentedPort { port }),
        vec(any::<u8>(), 1..50).prop_map(|data| Action::RawEncap(RawEncap {
            data: ByteString::new(data).expect("50 bytes fit")
        })),
    ]
}

/// Any action: arguments at random until they make one.
fn action() -> impl Strategy<Value = Action> {
    (0..Action::TABLE.len()).prop_flat_map(|index| {
        let row = &Action::TABLE[index];
        let arguments: Vec<_> = row
            .arguments
            .iter()
            .map(|row| match row.kind {
                FieldKind::Defined => Just(None).boxed(),
                _ => option::weighted(0.6, argument(row.kind, row.bits)).boxed(),
            })
            .collect();
        let all: Vec<_> = row
            .arguments
            .iter()
            .map(|row| argument_unless_defined(row.kind, row.bits))
            .collect();
        let made = match row.name {
            "modify_field" => modify_field().boxed(),
            "ct" => ct().boxed(),
            "rss" => rss().boxed(),
            _ => arguments
                .prop_filter_map("arguments that make no action", |values| {
                    (row.build)(&values).ok()
                })
                .boxed(),
        };
        match row.arguments.iter().all(|row| row.kind != FieldKind::Flag)
            && !["modify_field", "rss"].contains(&row.name)
        {
            // What needs many arguments is seldom made by chance.
            true => prop_oneof![
                1 => all.prop_map(|values| (row.build)(&values).expect("arguments are complete")),
                1 => made,
            ]
            .boxed(),
            false => made,
        }
    })
}

fn argument_unless_defined(kind: FieldKind, bits: u32) -> BoxedStrategy<Option<Argument>> {
    match kind {
        FieldKind::Defined => Just(None).boxed(),
        // No sample of no packets, no ratio of 0.
        _ => argument(kind, bits)
            .prop_map(move |value| match value {
                Argument::Bits(0) if bits == 32 => Some(Argument::Bits(1)),
                value => Some(value),
            })
            .boxed(),
    }
}

/// A change within the width of its fields.
fn modify_field() -> impl Strategy<Value = Action> {
    let fields: Vec<FieldId> = FieldId::ALL
        .iter()
        .copied()
        .filter(|field| !matches!(field, FieldId::Pointer | FieldId::Value))
        .collect();
    let place = |field: FieldId, width: u32| {
        let top = match field.width() {
            0 => 1000,
            bits => bits - width,
        };
        (any::<u32>(), 0..=top).prop_map(move |(level, offset)| FieldPlace {
            field,
            level,
            offset,
        })
    };
    let width = |field: FieldId| match field.width() {
        0 => 128,
        bits => bits,
    };
    (select(fields.clone()), select(fields))
        .prop_flat_map(move |(to, from)| {
            (
                Just((to, from)),
                1..=width(to).min(width(from)),
                any::<bool>(),
            )
        })
        .prop_flat_map(move |((to, from), width, pointer)| {
            let value = vec(any::<u8>(), width.div_ceil(8) as usize..=16)
                .prop_flat_map(move |bytes| {
                    let top = bytes.len() as u32 * 8 - width;
                    (Just(bytes), 0..=top)
                })
                .prop_map(move |(bytes, offset)| ModifySource::Value {
                    bytes: ByteString::new(bytes).expect("16 bytes fit"),
                    offset,
                    pointer,
                });
            let source = prop_oneof![place(from, width).prop_map(ModifySource::Field), value];
            let operation = select(vec![
                ModifyOperation::Set,
                ModifyOperation::Add,
                ModifyOperation::Sub,
            ]);
            (operation, place(to, width), source, Just(width))
        })
        .prop_map(|(operation, destination, source, width)| {
            Action::ModifyField(ModifyField {
                operation,
                destination,
                source,
                width,
            })
        })
}

fn masked<T: FieldValue>() -> impl Strategy<Value = Masked<T>> {
    any::<(u128, u128)>().prop_map(|(value, mask)| Masked {
        value: T::from_bits(value),
        mask: T::from_bits(mask),
    })
}

fn rss() -> impl Strategy<Value = Action> {
    let key =
        option::of(vec(any::<u8>(), 1..=64).prop_map(|key| ByteString::new(key).expect("fits")));
    let functions = vec![
        RssFunction::Default,
        RssFunction::Toeplitz,
        RssFunction::SimpleXor,
        RssFunction::SymmetricToeplitz,
    ];
    (
        select(functions),
        any::<u32>(),
        any::<u64>(),
        key,
        vec(any::<u16>(), 0..=128),
    )
        .prop_map(|(func, level, types, key, queues)| {
            let types = RssTypes::from_bits(types.into());
            Action::Rss(Rss {
                func,
                level,
                types,
                key,
                queues,
            })
        })
}

fn ct() -> impl Strategy<Value = Action> {
    let ranges = (
        option::of(argument(FieldKind::Addresses, 0)),
        option::of(argument(FieldKind::Ports, 0)),
    );
    let range = ranges.prop_map(|(addresses, ports)| NatRange {
        addresses: match addresses {
            Some(Argument::Addresses(range)) => Some(range),
            _ => None,
        },
        ports: match ports {
            Some(Argument::Ports(range)) => Some(range),
            _ => None,
        },
    });
    let commit = (
        any::<bool>(),
        option::of(masked()),
        option::of(masked()),
        option::of(any::<u32>()),
    )
        .prop_map(|(force, mark, label, timeout)| CtCommit {
            force,
            mark,
            label,
            timeout,
        });
    let nat = (0..3, range).prop_map(|(kind, range)| match kind {
        0 => CtNat::Restore,
        1 => CtNat::Src(range),
        _ => CtNat::Dst(range),
    });
    (
        any::<u16>(),
        option::of(commit),
        option::of(nat),
        option::of(any::<u32>()),
    )
        .prop_map(|(zone, commit, nat, group)| {
            let nat = nat.filter(|nat| commit.is_some() || *nat == CtNat::Restore);
            Action::Ct(CtAction {
                zone,
                commit,
                nat,
                group,
            })
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

fn direction() -> impl Strategy<Value = Direction> {
    any::<(bool, bool, bool)>().prop_map(|(ingress, egress, transfer)| Direction {
        ingress,
        egress,
        transfer,
    })
}

fn indirect() -> impl Strategy<Value = IndirectCommand> {
    let shared = action().prop_filter("void is no action", |action| *action != Action::Void);
    let shared = shared.boxed();
    prop_oneof![
        (option::of(any::<u32>()), direction(), shared.clone()).prop_map(
            |(id, direction, action)| {
                IndirectCommand::Create(IndirectAction {
                    id,
                    direction,
                    action,
                })
            }
        ),
        (any::<u32>(), shared).prop_map(|(id, action)| IndirectCommand::Update { id, action }),
        vec(any::<u32>(), 1..4).prop_map(IndirectCommand::Destroy),
        any::<u32>().prop_map(|id| IndirectCommand::Query { id }),
    ]
}

fn template_command() -> impl Strategy<Value = Command> {
    let id = || option::of(any::<u32>());
    let pattern = (id(), any::<bool>(), direction(), vec(item(), 0..5)).prop_map(
        |(id, relaxed, direction, pattern)| PatternTemplate {
            id,
            relaxed,
            direction,
            pattern,
        },
    );
    let actions = (id(), direction(), vec(action(), 0..5), vec(action(), 0..5)).prop_map(
        |(id, direction, actions, masks)| ActionsTemplate {
            id,
            direction,
            actions,
            masks,
        },
    );
    let table = (
        id(),
        rule(),
        any::<u32>(),
        vec(any::<u32>(), 0..4),
        vec(any::<u32>(), 0..4),
    );
    let table = table.prop_map(
        |(id, rule, rules_number, pattern_templates, actions_templates)| TemplateTable {
            id,
            attributes: rule.attributes,
            rules_number,
            pattern_templates,
            actions_templates,
        },
    );
    fn either<T: Clone + std::fmt::Debug + 'static>(
        object: impl Strategy<Value = T> + 'static,
    ) -> BoxedStrategy<ObjectCommand<T>> {
        prop_oneof![
            object.prop_map(ObjectCommand::Create),
            vec(any::<u32>(), 1..4).prop_map(ObjectCommand::Destroy),
        ]
        .boxed()
    }
    prop_oneof![
        (port(), either(pattern))
            .prop_map(|(port, command)| Command::PatternTemplate { port, command }),
        (port(), either(actions))
            .prop_map(|(port, command)| Command::ActionsTemplate { port, command }),
        (port(), either(table))
            .prop_map(|(port, command)| Command::TemplateTable { port, command }),
    ]
}

fn queue_command() -> impl Strategy<Value = QueueCommand> {
    let create = (
        any::<(u32, u32, u32, bool)>(),
        vec(item(), 0..5),
        vec(action(), 0..5),
    );
    prop_oneof![
        create.prop_map(
            |((table, pattern_template, actions_template, postpone), pattern, actions)| {
                QueueCommand::Create {
                    table,
                    pattern_template,
                    actions_template,
                    postpone,
                    pattern,
                    actions,
                }
            }
        ),
        (any::<bool>(), vec(any::<u64>(), 1..4))
            .prop_map(|(postpone, rules)| QueueCommand::Destroy { postpone, rules }),
        any::<bool>().prop_map(|destroy| QueueCommand::Aged { destroy }),
        (any::<bool>(), indirect())
            .prop_map(|(postpone, command)| QueueCommand::Indirect { postpone, command }),
    ]
}

fn meter_command() -> impl Strategy<Value = MeterCommand> {
    let algorithm = prop_oneof![
        any::<(u64, u64, u64)>().prop_map(|(cir, cbs, ebs)| MeterAlgorithm::SrtcmRfc2697 {
            cir,
            cbs,
            ebs
        }),
        any::<(u64, u64, u64, u64)>()
            .prop_map(|(cir, pir, cbs, pbs)| MeterAlgorithm::TrtcmRfc2698 { cir, pir, cbs, pbs }),
        any::<(u64, u64, u64, u64)>()
            .prop_map(|(cir, eir, cbs, ebs)| MeterAlgorithm::TrtcmRfc4115 { cir, eir, cbs, ebs }),
    ];
    let colors = vec![MeterColor::Green, MeterColor::Yellow, MeterColor::Red];
    let meter = (any::<(u32, u32, bool, u64, bool, bool)>(), select(colors)).prop_map(
        |((profile, policy, enabled, stats_mask, shared, use_previous_color), color)| Meter {
            profile,
            policy,
            enabled,
            stats_mask,
            shared,
            default_input_color: color,
            use_previous_color,
        },
    );
    let actions = || vec(action(), 0..3);
    let policy = (actions(), actions(), actions()).prop_map(|(green, yellow, red)| MeterPolicy {
        green,
        yellow,
        red,
    });
    prop_oneof![
        (any::<u32>(), algorithm, any::<bool>()).prop_map(|(id, algorithm, packet_mode)| {
            MeterCommand::AddProfile {
                id,
                profile: MeterProfile {
                    algorithm,
                    packet_mode,
                },
            }
        }),
        (any::<u32>(), policy).prop_map(|(id, policy)| MeterCommand::AddPolicy { id, policy }),
        (any::<u32>(), meter).prop_map(|(id, meter)| MeterCommand::Create { id, meter }),
        (any::<u32>(), 0..5).prop_map(|(id, kind)| match kind {
            0 => MeterCommand::DeleteProfile { id },
            1 => MeterCommand::DeletePolicy { id },
            2 => MeterCommand::Enable { id },
            3 => MeterCommand::Disable { id },
            _ => MeterCommand::Delete { id },
        }),
        any::<(u32, u32)>().prop_map(|(id, profile)| MeterCommand::SetProfile { id, profile }),
        any::<(u32, bool)>().prop_map(|(id, clear)| MeterCommand::Stats { id, clear }),
    ]
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
        (port(), any::<u64>()).prop_map(|(port, rule)| Command::QueryAge { port, rule }),
        (port(), any::<bool>()).prop_map(|(port, on)| Command::Isolate { port, on }),
        (port(), any::<bool>()).prop_map(|(port, destroy)| Command::Aged { port, destroy }),
        (port(), option::of(any::<u64>())).prop_map(|(port, rule)| Command::Dump { port, rule }),
        (port(), indirect()).prop_map(|(port, command)| Command::Indirect { port, command }),
        (port(), any::<(u16, u32, u32, u32, u32, u32, u32)>()).prop_map(|(port, of)| {
            let configuration = FlowConfiguration {
                queues_number: of.0,
                queues_size: of.1,
                counters_number: of.2,
                aging_counters_number: of.3,
                meters_number: of.4,
                conn_tracks_number: of.5,
                flags: of.6,
            };
            Command::Configure {
                port,
                configuration,
            }
        }),
        template_command(),
        (port(), any::<u32>(), queue_command()).prop_map(|(port, queue, command)| Command::Queue {
            port,
            queue,
            command
        }),
        (port(), any::<u32>()).prop_map(|(port, queue)| Command::Push { port, queue }),
        (port(), any::<u32>()).prop_map(|(port, queue)| Command::Pull { port, queue }),
        (port(), meter_command()).prop_map(|(port, command)| Command::Meter { port, command }),
        (0..8u32, vec(simple_action(), 0..=10)).prop_map(|(index, actions)| {
            Command::Define(Definition::SampleActions { index, actions })
        }),
        (0..8u32, any::<([u8; 6], bool)>(), 0..3usize).prop_map(|(index, (mac, encap), vlans)| {
            let mut header = vec![Item::Eth(Eth {
                dst: Matched::exact(MacAddr(mac)),
                ..Eth::default()
            })];
            header.extend(vec![Item::Vlan(Vlan::default()); vlans]);
            Command::Define(match encap {
                true => Definition::RawEncap { index, header },
                false => Definition::RawDecap { index, header },
            })
        }),
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
        "set",
        "raw_encap",
        "end_set",
        "queue",
        "postpone",
        "action",
        "+est-inv",
        "0a0b0c",
        "1-5",
        "5/0xff",
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

    /// A rule made from templates has the template's masks and constants, and the rule's own rest.
    #[test]
    fn templates_share_masks_and_constants(masks in rule(), rule in rule()) {
        let template = PatternTemplate { pattern: masks.pattern.clone(), ..PatternTemplate::default() };
        let own = template.instantiate(&masks.pattern);
        prop_assert_eq!(own.as_ref(), Ok(&masks.pattern));
        match template.instantiate(&rule.pattern) {
            Ok(made) => for (made, template) in made.iter().zip(&masks.pattern) {
                for field in made.row().fields {
                    if let Access::Field { get, .. } = field.access {
                        prop_assert_eq!(get(made).map(|m| m.mask), get(template).map(|m| m.mask));
                    }
                }
            },
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        let template = ActionsTemplate {
            actions: rule.actions.clone(),
            masks: rule.actions.clone(),
            ..ActionsTemplate::default()
        };
        prop_assert_eq!(template.instantiate(&rule.actions), Ok(rule.actions.clone()));
        let judged = (template.validate(), template.constants(0));
        prop_assert!(judged.1.len() == rule.actions.first().map_or(0, |a| a.row().arguments.len()));
        let json = serde_json::to_string(&template)?;
        prop_assert_eq!(serde_json::from_str::<ActionsTemplate>(&json)?, template);
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
        let value = takes_value.contains(&before) || in_actions && is_argument && !names_action;
        let offered = syntax::complete(&text[..cut]);
        if !offered.iter().any(|offer| offer == word) {
            // A value: behind what takes one, bare, or one of a list that `end` may end.
            let number = word.bytes().all(|byte| byte.is_ascii_digit());
            prop_assert!(value || number, "{:?} at {:?}", offered, &text[..cut]);
            prop_assert!(offered.iter().all(|offer| offer == "end"), "{:?} at {:?}", offered, &text[..cut]);
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
