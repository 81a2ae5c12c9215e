//! Metrics of load balancers and their members.

use sumeru_control::balance::{LoadBalancerState, MemberState};
use sumeru_control::model::{Any, Kind};
use sumeru_control::reconcile::Control;

use super::Text;

/// Counters of load balancers.
pub fn counters(text: &mut Text, control: &Control) {
    let named = control.inventory().of(Kind::LoadBalancer).map(Any::name);
    let balancers: Vec<(LoadBalancerState, String)> = named
        .filter_map(|name| Some((control.load_balancer_state(&name)?, name)))
        .collect();
    let label = |(_, name): &(_, String)| vec![("load_balancer", name.clone())];
    text.table(
        "gauge",
        &balancers,
        label,
        &[(
            "load_balancer_open_members",
            "Members that get new connections.",
            |b| b.0.open as u64,
        )],
    );
    text.table(
        "counter",
        &balancers,
        label,
        &[(
            "load_balancer_refused_total",
            "Packets that no member could get.",
            |b| b.0.refused,
        )],
    );
    let members: Vec<(&MemberState, &String)> = balancers
        .iter()
        .flat_map(|(state, name)| state.members.iter().map(move |member| (member, name)))
        .collect();
    let label = |(member, name): &(&MemberState, &String)| {
        vec![
            ("load_balancer", (*name).clone()),
            ("member", member.address.to_string()),
        ]
    };
    text.table(
        "gauge",
        &members,
        label,
        &[
            (
                "load_balancer_member_up",
                "Whether probes find it well.",
                |m| u64::from(m.0.state != "down"),
            ),
            (
                "load_balancer_member_connections",
                "Connections that it has.",
                |m| m.0.current.into(),
            ),
        ],
    );
    text.table(
        "counter",
        &members,
        label,
        &[
            (
                "load_balancer_member_connections_total",
                "Connections that it was given.",
                |m| m.0.connections,
            ),
            (
                "load_balancer_member_packets_in_total",
                "Packets to it.",
                |m| m.0.packets_in,
            ),
            ("load_balancer_member_bytes_in_total", "Bytes to it.", |m| {
                m.0.bytes_in
            }),
            (
                "load_balancer_member_packets_out_total",
                "Packets from it.",
                |m| m.0.packets_out,
            ),
            (
                "load_balancer_member_bytes_out_total",
                "Bytes from it.",
                |m| m.0.bytes_out,
            ),
        ],
    );
}
