//! Links of ports, members of bonds, what LLDP counts, and queues in front of ports.

use sumeru_control::dataplane::{BondMember, LldpWire, QueueStats};
use sumeru_control::reconcile::Control;

use super::Text;

/// Links of ports on interfaces, bonds and their members, and LLDP.
pub(super) fn links(text: &mut Text, control: &Control) {
    let plane = control.plane();
    let mut up = Vec::new();
    let mut members: Vec<(String, BondMember)> = Vec::new();
    for port in control.inventory().ports() {
        let name = &port.spec.name;
        let Ok(state) = plane.port_state(name) else {
            continue;
        };
        up.push((name.clone(), state.up));
        let bonded = state.bond.map(|bond| bond.members).unwrap_or_default();
        members.extend(bonded.into_iter().map(|member| (name.clone(), member)));
    }
    text.table(
        "gauge",
        &up,
        |(port, _)| vec![("port", port.clone())],
        &[("port_up", "Whether frames can pass.", |(_, up)| {
            u64::from(*up)
        })],
    );
    let labels = |(port, member): &(String, BondMember)| {
        vec![("port", port.clone()), ("member", member.interface.clone())]
    };
    text.table(
        "gauge",
        &members,
        labels,
        &[
            (
                "bond_member_up",
                "Whether a member has a link.",
                |(_, m)| u64::from(m.link.up),
            ),
            (
                "bond_member_in_use",
                "Whether a member carries traffic.",
                |(_, m)| u64::from(m.in_use),
            ),
        ],
    );
    text.table(
        "counter",
        &members,
        labels,
        &[
            (
                "bond_member_rx_packets_total",
                "Frames that came in by a member.",
                |(_, m)| m.rx_packets,
            ),
            (
                "bond_member_tx_packets_total",
                "Frames that left by a member.",
                |(_, m)| m.tx_packets,
            ),
            (
                "bond_member_link_failures_total",
                "Times that a member's link went down.",
                |(_, m)| m.link_failures,
            ),
        ],
    );
    let labels = |wire: &LldpWire| {
        vec![
            ("port", wire.port.clone()),
            ("interface", wire.interface.clone()),
        ]
    };
    let wires = plane.lldp();
    text.table(
        "gauge",
        &wires,
        labels,
        &[("lldp_neighbours", "Neighbours heard by LLDP.", |wire| {
            wire.neighbours.len() as u64
        })],
    );
    text.table(
        "counter",
        &wires,
        labels,
        &[
            ("lldp_rx_frames_total", "LLDP frames received.", |wire| {
                wire.rx_frames
            }),
            ("lldp_tx_frames_total", "LLDP frames sent.", |wire| {
                wire.tx_frames
            }),
        ],
    );
    queues(text, control);
}

/// What waits in front of ports that are shaped.
fn queues(text: &mut Text, control: &Control) {
    let queues = control.plane().queue_stats();
    let labels = |queue: &QueueStats| {
        vec![
            ("port", queue.port.clone()),
            ("tenant", queue.tenant.clone()),
            ("class", queue.class.clone()),
        ]
    };
    text.table(
        "counter",
        &queues,
        labels,
        &[
            ("queue_sent_packets_total", "Frames sent.", |q| {
                q.sent_packets
            }),
            ("queue_sent_bytes_total", "Bytes sent.", |q| q.sent_bytes),
            (
                "queue_full_packets_total",
                "Frames dropped because as many waited as may.",
                |q| q.full_packets,
            ),
            (
                "queue_delay_packets_total",
                "Frames dropped because those of the class had waited for too long.",
                |q| q.delay_packets,
            ),
            (
                "queue_marked_packets_total",
                "Frames marked for having waited.",
                |q| q.marked_packets,
            ),
        ],
    );
    text.table(
        "gauge",
        &queues,
        labels,
        &[
            ("queue_packets", "Frames that wait.", |q| q.queued_packets),
            ("queue_bytes", "Bytes that wait.", |q| q.queued_bytes),
        ],
    );
}
