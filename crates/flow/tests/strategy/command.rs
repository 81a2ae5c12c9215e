//! Any command, and text that resembles one.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use sumeru_flow::model::{
    ActionsTemplate, Definition, Direction, Eth, FlowConfiguration, IndirectAction, MacAddr,
    Matched, Meter, MeterAlgorithm, MeterColor, MeterPolicy, MeterProfile, PatternTemplate,
    TemplateTable, Vlan,
};
use sumeru_flow::syntax::{IndirectCommand, MeterCommand, ObjectCommand, QueueCommand};
use sumeru_flow::{Action, Command, Item, describe};

use super::{action, item, port, rule, simple_action};

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

pub fn command() -> impl Strategy<Value = Command> {
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
pub fn text() -> impl Strategy<Value = String> {
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
