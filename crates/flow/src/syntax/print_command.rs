//! Commands as text that parses back to the same.

use std::fmt::{self, Display, Formatter};

use super::command::{Command, IndirectCommand, MeterCommand, ObjectCommand, QueueCommand};
use crate::model::{
    Action, ActionsTemplate, DEFAULT_ENCAP_TTL, Definition, Direction, EtherType,
    FlowConfiguration, IndirectAction, Item, MacAddr, Meter, MeterAlgorithm, MeterColor,
    PatternTemplate, TemplateTable, TunnelAddresses, VxlanDefinition,
};

impl Display for Command {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { port, rule } => write!(f, "flow create {port} {rule}"),
            Self::Validate { port, rule } => write!(f, "flow validate {port} {rule}"),
            Self::Destroy { port, rules } => {
                write!(f, "flow destroy {port}")?;
                each(f, "rule", rules)
            }
            Self::Flush { port } => write!(f, "flow flush {port}"),
            Self::List { port, groups } => {
                write!(f, "flow list {port}")?;
                each(f, "group", groups)
            }
            Self::QueryCount { port, rule } => write!(f, "flow query {port} {rule} count"),
            Self::QueryAge { port, rule } => write!(f, "flow query {port} {rule} age"),
            Self::Isolate { port, on } => write!(f, "flow isolate {port} {}", u8::from(*on)),
            Self::Aged { port, destroy } => {
                write!(f, "flow aged {port}{}", when(*destroy, " destroy"))
            }
            Self::Dump { port, rule: None } => write!(f, "flow dump {port} all"),
            Self::Dump {
                port,
                rule: Some(rule),
            } => write!(f, "flow dump {port} rule {rule}"),
            Self::Indirect { port, command } => {
                write!(f, "flow indirect_action {port} ")?;
                indirect(f, command, "")
            }
            Self::Configure {
                port,
                configuration,
            } => {
                write!(f, "flow configure {port}")?;
                configure(f, configuration)
            }
            Self::PatternTemplate { port, command } => {
                write!(f, "flow pattern_template {port} ")?;
                object(f, command, "pattern_template", pattern_template)
            }
            Self::ActionsTemplate { port, command } => {
                write!(f, "flow actions_template {port} ")?;
                object(f, command, "actions_template", actions_template)
            }
            Self::TemplateTable { port, command } => {
                write!(f, "flow template_table {port} ")?;
                object(f, command, "table", template_table)
            }
            Self::Queue {
                port,
                queue,
                command,
            } => {
                write!(f, "flow queue {port} ")?;
                operation(f, *queue, command)
            }
            Self::Push { port, queue } => write!(f, "flow push {port} queue {queue}"),
            Self::Pull { port, queue } => write!(f, "flow pull {port} queue {queue}"),
            Self::Meter { port, command } => meter(f, port, command),
            Self::Define(definition) => write!(f, "set {definition}"),
        }
    }
}

/// ` WORD VALUE` for each value.
fn each(f: &mut Formatter<'_>, word: &str, values: &[impl Display]) -> fmt::Result {
    values
        .iter()
        .try_for_each(|value| write!(f, " {word} {value}"))
}

fn when(condition: bool, word: &'static str) -> &'static str {
    if condition { word } else { "" }
}

/// ` WORD VALUE` if there is a value.
fn optional(f: &mut Formatter<'_>, word: &str, value: Option<u32>) -> fmt::Result {
    value.map_or(Ok(()), |value| write!(f, " {word} {value}"))
}

fn direction(f: &mut Formatter<'_>, direction: Direction) -> fmt::Result {
    f.write_str(when(direction.ingress, " ingress"))?;
    f.write_str(when(direction.egress, " egress"))?;
    f.write_str(when(direction.transfer, " transfer"))
}

fn items(f: &mut Formatter<'_>, items: &[Item], end: &str) -> fmt::Result {
    items.iter().try_for_each(|item| write!(f, " {item} /"))?;
    write!(f, " {end}")
}

fn actions(f: &mut Formatter<'_>, actions: &[Action]) -> fmt::Result {
    actions
        .iter()
        .try_for_each(|action| write!(f, " {action} /"))?;
    f.write_str(" end")
}

fn object<T>(
    f: &mut Formatter<'_>,
    command: &ObjectCommand<T>,
    word: &str,
    create: fn(&mut Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    match command {
        ObjectCommand::Create(object) => {
            f.write_str("create")?;
            create(f, object)
        }
        ObjectCommand::Destroy(ids) => {
            f.write_str("destroy")?;
            each(f, word, ids)
        }
    }
}

fn pattern_template(f: &mut Formatter<'_>, template: &PatternTemplate) -> fmt::Result {
    optional(f, "pattern_template_id", template.id)?;
    f.write_str(when(template.relaxed, " relaxed yes"))?;
    direction(f, template.direction)?;
    f.write_str(" template")?;
    items(f, &template.pattern, "end")
}

/// testpmd wants the number right before `template`.
fn actions_template(f: &mut Formatter<'_>, template: &ActionsTemplate) -> fmt::Result {
    direction(f, template.direction)?;
    optional(f, "actions_template_id", template.id)?;
    f.write_str(" template")?;
    actions(f, &template.actions)?;
    f.write_str(" mask")?;
    actions(f, &template.masks)
}

fn template_table(f: &mut Formatter<'_>, table: &TemplateTable) -> fmt::Result {
    optional(f, "table_id", table.id)?;
    let attributes = &table.attributes;
    let given = |number: u32| (number != 0).then_some(number);
    optional(f, "group", given(attributes.group))?;
    optional(f, "priority", given(attributes.priority))?;
    let to = Direction {
        ingress: attributes.ingress,
        egress: attributes.egress,
        transfer: attributes.transfer,
    };
    direction(f, to)?;
    write!(f, " rules_number {}", table.rules_number)?;
    each(f, "pattern_template", &table.pattern_templates)?;
    each(f, "actions_template", &table.actions_templates)
}

fn configure(f: &mut Formatter<'_>, configuration: &FlowConfiguration) -> fmt::Result {
    write!(f, " queues_number {}", configuration.queues_number)?;
    for (word, value) in [
        ("queues_size", configuration.queues_size),
        ("counters_number", configuration.counters_number),
        ("aging_counters_number", configuration.aging_counters_number),
        ("meters_number", configuration.meters_number),
        ("conn_tracks_number", configuration.conn_tracks_number),
        ("flags", configuration.flags),
    ] {
        optional(f, word, (value != 0).then_some(value))?;
    }
    Ok(())
}

/// `postpone` is that attribute as text, or nothing.
fn indirect(f: &mut Formatter<'_>, command: &IndirectCommand, postpone: &str) -> fmt::Result {
    match command {
        IndirectCommand::Create(IndirectAction {
            id,
            direction: to,
            action,
        }) => {
            f.write_str("create")?;
            optional(f, "action_id", *id)?;
            direction(f, *to)?;
            write!(f, "{postpone} action {action} / end")
        }
        IndirectCommand::Update { id, action } => {
            write!(f, "update {id}{postpone} action {action} / end")
        }
        IndirectCommand::Destroy(ids) => {
            write!(f, "destroy{postpone}")?;
            each(f, "action_id", ids)
        }
        IndirectCommand::Query { id } => write!(f, "query {id}{postpone}"),
    }
}

fn operation(f: &mut Formatter<'_>, queue: u32, command: &QueueCommand) -> fmt::Result {
    let yes_no = |on: bool| if on { "yes" } else { "no" };
    match command {
        QueueCommand::Create {
            table,
            pattern_template,
            actions_template,
            postpone,
            pattern,
            actions: list,
        } => {
            write!(
                f,
                "create {queue} template_table {table} pattern_template {pattern_template} \
                 actions_template {actions_template} postpone {} pattern",
                yes_no(*postpone)
            )?;
            items(f, pattern, "end")?;
            f.write_str(" actions")?;
            actions(f, list)
        }
        QueueCommand::Destroy { postpone, rules } => {
            write!(f, "destroy {queue} postpone {}", yes_no(*postpone))?;
            each(f, "rule", rules)
        }
        QueueCommand::Aged { destroy } => write!(f, "aged {queue}{}", when(*destroy, " destroy")),
        QueueCommand::Indirect { postpone, command } => {
            write!(f, "indirect_action {queue} ")?;
            indirect(f, command, when(*postpone, " postpone yes"))
        }
    }
}

fn meter(f: &mut Formatter<'_>, port: &impl Display, command: &MeterCommand) -> fmt::Result {
    let yes_no = |on: bool| if on { "yes" } else { "no" };
    match command {
        MeterCommand::AddProfile { id, profile } => {
            let packets = u8::from(profile.packet_mode);
            f.write_str("add port meter profile ")?;
            match profile.algorithm {
                MeterAlgorithm::SrtcmRfc2697 { cir, cbs, ebs } => {
                    write!(f, "srtcm_rfc2697 {port} {id} {cir} {cbs} {ebs} {packets}")
                }
                MeterAlgorithm::TrtcmRfc2698 { cir, pir, cbs, pbs } => {
                    write!(
                        f,
                        "trtcm_rfc2698 {port} {id} {cir} {pir} {cbs} {pbs} {packets}"
                    )
                }
                MeterAlgorithm::TrtcmRfc4115 { cir, eir, cbs, ebs } => {
                    write!(
                        f,
                        "trtcm_rfc4115 {port} {id} {cir} {eir} {cbs} {ebs} {packets}"
                    )
                }
            }
        }
        MeterCommand::DeleteProfile { id } => write!(f, "del port meter profile {port} {id}"),
        MeterCommand::AddPolicy { id, policy } => {
            write!(f, "add port meter policy {port} {id} g_actions")?;
            actions(f, &policy.green)?;
            f.write_str(" y_actions")?;
            actions(f, &policy.yellow)?;
            f.write_str(" r_actions")?;
            actions(f, &policy.red)
        }
        MeterCommand::DeletePolicy { id } => write!(f, "del port meter policy {port} {id}"),
        MeterCommand::Create { id, meter } => {
            let Meter {
                profile,
                policy,
                enabled,
                stats_mask,
                shared,
                default_input_color,
                use_previous_color,
            } = meter;
            let color = match default_input_color {
                MeterColor::Green | MeterColor::All => "g",
                MeterColor::Yellow => "y",
                MeterColor::Red => "r",
            };
            write!(
                f,
                "create port meter {port} {id} {profile} {policy} {} {stats_mask:#x} {} {color} {}",
                yes_no(*enabled),
                u8::from(*shared),
                u8::from(*use_previous_color)
            )
        }
        MeterCommand::Enable { id } => write!(f, "enable port meter {port} {id}"),
        MeterCommand::Disable { id } => write!(f, "disable port meter {port} {id}"),
        MeterCommand::Delete { id } => write!(f, "del port meter {port} {id}"),
        MeterCommand::SetProfile { id, profile } => {
            write!(f, "set port meter profile {port} {id} {profile}")
        }
        MeterCommand::Stats { id, clear } => {
            write!(f, "show port meter stats {port} {id} {}", yes_no(*clear))
        }
    }
}

impl Display for Definition {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::RawEncap { index, header } => {
                write!(f, "raw_encap {index}")?;
                items(f, header, "end_set")
            }
            Self::RawDecap { index, header } => {
                write!(f, "raw_decap {index}")?;
                items(f, header, "end_set")
            }
            Self::SampleActions {
                index,
                actions: list,
            } => {
                write!(f, "sample_actions {index}")?;
                actions(f, list)
            }
            Self::Vxlan(definition) => vxlan(f, definition),
            Self::Nvgre(definition) => {
                let version = version(definition.addresses.src().is_ipv4());
                write!(f, "nvgre ip-version {version} tni {}", definition.tni)?;
                addresses(f, &definition.addresses)?;
                ethernet(f, definition.eth_src, definition.eth_dst)
            }
            Self::L2Encap(definition) => {
                let vlan = when(definition.vlan_tci.is_some(), "-with-vlan");
                let version = version(definition.ethertype == EtherType::IPV4);
                write!(f, "l2_encap{vlan} ip-version {version}")?;
                optional(f, "vlan-tci", definition.vlan_tci.map(u32::from))?;
                ethernet(f, Some(definition.eth_src), Some(definition.eth_dst))
            }
            Self::L2Decap { vlan } => write!(f, "l2_decap{}", when(*vlan, "-with-vlan")),
        }
    }
}

fn version(ipv4: bool) -> &'static str {
    if ipv4 { "ipv4" } else { "ipv6" }
}

fn addresses(f: &mut Formatter<'_>, addresses: &TunnelAddresses) -> fmt::Result {
    let (src, dst) = (addresses.src(), addresses.dst());
    write!(f, " ip-src {src} ip-dst {dst}")
}

fn ethernet(f: &mut Formatter<'_>, src: Option<MacAddr>, dst: Option<MacAddr>) -> fmt::Result {
    let (src, dst) = (src.unwrap_or_default(), dst.unwrap_or_default());
    write!(f, " eth-src {src} eth-dst {dst}")
}

fn vxlan(f: &mut Formatter<'_>, definition: &VxlanDefinition) -> fmt::Result {
    let plain = definition.ip_tos == 0 && definition.ip_ttl == DEFAULT_ENCAP_TTL;
    write!(
        f,
        "vxlan{} ip-version {} vni {} udp-src {} udp-dst {}",
        when(!plain, "-tos-ttl"),
        version(definition.addresses.src().is_ipv4()),
        definition.vni,
        definition.udp_src.unwrap_or(0),
        definition.udp_dst
    )?;
    if !plain {
        write!(
            f,
            " ip-tos {} ip-ttl {}",
            definition.ip_tos, definition.ip_ttl
        )?;
    }
    addresses(f, &definition.addresses)?;
    ethernet(f, definition.eth_src, definition.eth_dst)
}
