//! Metrics of who looks at frames, and of how long frames stay.

use std::fmt::Display;

use sumeru_control::model::{Any, Kind};
use sumeru_control::reconcile::Control;

use super::Text;

/// A histogram, as Prometheus counts: every class with all below it.
pub fn residence(text: &mut Text, control: &Control) {
    let help = "How long frames stayed in the engine, in nanoseconds.";
    text.metric("residence_nanoseconds", "histogram", help);
    for lcore in control.plane().residence_stats() {
        let cpu: &dyn Display = &lcore.cpu;
        let mut below = 0;
        for class in &lcore.classes {
            below += class.frames;
            let bound = class
                .up_to_ns
                .map_or("+Inf".to_owned(), |bound| bound.to_string());
            let labels = [("cpu", cpu), ("le", &bound)];
            text.sample("residence_nanoseconds_bucket", &labels, below);
        }
        text.sample("residence_nanoseconds_sum", &[("cpu", cpu)], lcore.sum_ns);
        text.sample("residence_nanoseconds_count", &[("cpu", cpu)], below);
    }
}

/// Counters of mirrors and exporters.
pub fn counters(text: &mut Text, control: &Control) {
    let plane = control.plane();
    let named = |kind| {
        let objects = control.inventory().of(kind);
        objects.map(Any::name).collect::<Vec<String>>()
    };
    let mirrors: Vec<_> = named(Kind::Mirror)
        .into_iter()
        .filter_map(|name| Some((plane.mirror_state(&name).ok()?, name)))
        .collect();
    text.table(
        "counter",
        &mirrors,
        |(_, name)| vec![("mirror", name.clone())],
        &[
            ("mirror_packets_total", "Copies sent.", |m| m.0.packets),
            ("mirror_bytes_total", "Bytes of copies.", |m| m.0.bytes),
            ("mirror_lost_total", "Copies that could not be sent.", |m| {
                m.0.lost
            }),
        ],
    );
    let exporters: Vec<_> = named(Kind::Exporter)
        .into_iter()
        .filter_map(|name| Some((plane.exporter_state(&name).ok()?, name)))
        .collect();
    let label = |(_, name): &(_, String)| vec![("exporter", name.clone())];
    text.table(
        "gauge",
        &exporters,
        label,
        &[("exporter_flows", "Flows that there are.", |e| e.0.flows)],
    );
    text.table(
        "counter",
        &exporters,
        label,
        &[
            ("exporter_packets_total", "Packets counted.", |e| {
                e.0.packets
            }),
            (
                "exporter_unmetered_total",
                "Packets of flows that there was no room for.",
                |e| e.0.unmetered,
            ),
            ("exporter_records_total", "Records sent.", |e| e.0.records),
            ("exporter_lost_total", "Records lost.", |e| e.0.lost),
        ],
    );
}
