//! Counters over HTTP/1.1 in Prometheus' text format 0.0.4: `GET /metrics`, and nothing else. A request has 8 KiB and ten seconds; the connection is closed
//! after the answer.

mod balance;
mod links;
mod observers;

use std::fmt::{Display, Write};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use sumeru_control::dataplane::{ConnectionRefusals, FlowCount, PairStats, PortStats};
use sumeru_control::model::Any;
use sumeru_control::reconcile::Control;
use sumeru_flow::Action;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::method::State;

/// A metric of a table: its name, its help, where its value is.
type Column<'a, T> = (&'a str, &'a str, fn(&T) -> u64);
/// A reason that connections are refused for, and how often.
type Reason = (&'static str, fn(&ConnectionRefusals) -> u64);

/// Most requests at a time.
const CLIENTS_MAX: usize = 8;
/// Longest head of a request.
const HEAD_MAX: usize = 8192;
/// How much of a request is read after its answer.
const UNREAD_MAX: u64 = 64 << 10;
/// How long a request and its answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most rules that are shown one by one.
const RULES_MAX: usize = 4096;

/// Serves counters until [`State::stop`].
pub async fn serve_metrics(listener: TcpListener, state: Arc<State>) {
    let slots = Arc::new(Semaphore::new(CLIENTS_MAX));
    let mut stopping = state.stopping();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, most likely: wait for clients to leave.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Nobody waits: a connection without a slot is closed.
        if let Ok(slot) = slots.clone().try_acquire_owned() {
            let state = state.clone();
            tokio::spawn(async move {
                if !matches!(timeout(PATIENCE, client(stream, state)).await, Ok(Ok(()))) {
                    tracing::debug!("a reader of metrics went away or was too slow");
                }
                drop(slot);
            });
        }
    }
}

async fn client(mut stream: TcpStream, state: Arc<State>) -> io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        head.extend_from_slice(chunk.get(..count).unwrap_or_default());
        if head.len() > HEAD_MAX {
            return answer(
                &mut stream,
                "431 Request Header Fields Too Large",
                "",
                false,
            )
            .await;
        }
    }
    let (status, with_body) = route(&head);
    let body = if status == OK {
        tokio::task::spawn_blocking(move || render(&state.control()))
            .await
            .map_err(io::Error::other)?
    } else {
        format!("{status}\n")
    };
    answer(&mut stream, status, &body, with_body).await
}

const OK: &str = "200 OK";

/// The status of a request, and whether its answer has a body.
fn route(head: &[u8]) -> (&'static str, bool) {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else {
        return ("400 Bad Request", true);
    };
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        [_, _, version] if !matches!(*version, "HTTP/1.1" | "HTTP/1.0") => {
            ("505 HTTP Version Not Supported", true)
        }
        ["GET", "/metrics", _] => (OK, true),
        ["HEAD", "/metrics", _] => (OK, false),
        [_, "/metrics", _] => ("405 Method Not Allowed", true),
        [_, target, _] if target.starts_with('/') => ("404 Not Found", true),
        _ => ("400 Bad Request", true),
    }
}

async fn answer(
    stream: &mut TcpStream,
    status: &str,
    body: &str,
    with_body: bool,
) -> io::Result<()> {
    let allow = if status.starts_with("405") {
        "Allow: GET, HEAD\r\n"
    } else {
        ""
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        body.len(),
    );
    stream.write_all(head.as_bytes()).await?;
    if with_body {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await?;
    // Closed with something unread, the connection would be reset and the answer perhaps lost.
    let mut rest = stream.take(UNREAD_MAX);
    let mut chunk = [0; 1024];
    while rest.read(&mut chunk).await? > 0 {}
    Ok(())
}

/// The text under way.
#[derive(Default)]
struct Text(String);

impl Text {
    /// Begins a metric.
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(
            self.0,
            "# HELP sumeru_{name} {help}\n# TYPE sumeru_{name} {kind}"
        );
    }

    /// A value with its labels.
    fn sample(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: u64) {
        let _ = write!(self.0, "sumeru_{name}");
        for (place, (label, text)) in labels.iter().enumerate() {
            let text = text
                .to_string()
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(
                self.0,
                "{}{label}=\"{text}\"",
                if place == 0 { '{' } else { ',' }
            );
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    /// Counters of many things, each a metric with a value per thing.
    fn table<T>(
        &mut self,
        kind: &str,
        rows: &[T],
        labels: impl Fn(&T) -> Vec<(&'static str, String)>,
        columns: &[Column<'_, T>],
    ) {
        for (name, help, value) in columns {
            self.metric(name, kind, help);
            for row in rows {
                let labels = labels(row);
                let labels: Vec<(&str, &dyn Display)> = labels
                    .iter()
                    .map(|(label, text)| (*label, text as &dyn Display))
                    .collect();
                self.sample(name, &labels, value(row));
            }
        }
    }
}

/// All counters.
pub fn render(control: &Control) -> String {
    let mut text = Text::default();
    lcores(&mut text, control);
    ports(&mut text, control);
    let plane = control.plane();
    text.table(
        "counter",
        &plane.stage_stats(),
        |stage| vec![("stage", stage.stage.clone())],
        &[(
            "stage_packets_total",
            "Packets that passed a stage.",
            |stage| stage.packets,
        )],
    );
    text.table(
        "counter",
        &plane.drop_stats(),
        |drop| vec![("reason", drop.reason.clone())],
        &[(
            "drop_packets_total",
            "Packets dropped, by reason.",
            |drop| drop.packets,
        )],
    );
    text.table(
        "counter",
        &plane.volume_stats(),
        |volume| vec![("volume", volume.volume.clone())],
        &[
            ("volume_reads_total", "Reads completed.", |v| v.reads),
            ("volume_read_bytes_total", "Bytes read.", |v| v.read_bytes),
            ("volume_writes_total", "Writes completed.", |v| v.writes),
            ("volume_write_bytes_total", "Bytes written.", |v| {
                v.write_bytes
            }),
            ("volume_flushes_total", "Flushes completed.", |v| v.flushes),
            (
                "volume_discards_total",
                "Discards and write-zeroes completed.",
                |v| v.discards,
            ),
            ("volume_errors_total", "Requests that failed.", |v| v.errors),
        ],
    );
    observers::residence(&mut text, control);
    observers::counters(&mut text, control);
    balance::counters(&mut text, control);
    links::links(&mut text, control);
    connections(&mut text, control);
    rules(&mut text, control);
    text.0
}

fn lcores(text: &mut Text, control: &Control) {
    let lcores = control.plane().lcore_stats();
    let cpu = |lcore: &sumeru_control::dataplane::LcoreStats| vec![("cpu", lcore.cpu.to_string())];
    text.table(
        "counter",
        &lcores,
        cpu,
        &[
            (
                "lcore_cycles_total",
                "Cycles since the lcore was started.",
                |l| l.tsc_elapsed,
            ),
            (
                "lcore_busy_cycles_total",
                "Cycles of loops that moved something.",
                |l| l.busy_cycles,
            ),
            (
                "lcore_idle_cycles_total",
                "Cycles of loops that found nothing.",
                |l| l.idle_cycles,
            ),
            ("lcore_sleep_cycles_total", "Cycles asleep.", |l| {
                l.sleep_cycles
            }),
            ("lcore_loops_total", "Turns of the loop.", |l| l.loops),
            (
                "lcore_busy_loops_total",
                "Turns that moved something.",
                |l| l.busy_loops,
            ),
            ("lcore_rx_packets_total", "Packets received.", |l| {
                l.rx_packets
            }),
            ("lcore_tx_packets_total", "Packets sent.", |l| l.tx_packets),
            (
                "lcore_block_requests_total",
                "Block requests completed.",
                |l| l.blk_ios,
            ),
            (
                "lcore_wakeups_total",
                "Times that a kick ended a sleep.",
                |l| l.wakeups,
            ),
        ],
    );
    text.table(
        "gauge",
        &lcores,
        cpu,
        &[
            (
                "lcore_cached_decisions",
                "Entries of the flow cache.",
                |l| l.cache.cached_decisions,
            ),
            (
                "lcore_cache_masks",
                "Masks of the flow cache in use.",
                |l| l.cache.cache_masks,
            ),
            (
                "lcore_cache_bytes",
                "Bytes reserved for the flow cache.",
                |l| l.cache.cache_bytes,
            ),
        ],
    );
}

fn ports(text: &mut Text, control: &Control) {
    let labels = |port: &PortStats| {
        vec![
            ("port", port.port.clone()),
            ("index", port.index.to_string()),
        ]
    };
    let ports = control.plane().port_stats();
    queue_pairs(text, &ports);
    text.table(
        "counter",
        &ports,
        labels,
        &[
            ("port_rx_packets_total", "Packets that came in.", |p| {
                p.rx_packets
            }),
            ("port_rx_bytes_total", "Bytes that came in.", |p| p.rx_bytes),
            ("port_tx_packets_total", "Packets that went out.", |p| {
                p.tx_packets
            }),
            ("port_tx_bytes_total", "Bytes that went out.", |p| {
                p.tx_bytes
            }),
            (
                "port_rx_drops_total",
                "Packets that came in and were dropped.",
                |p| p.rx_drops,
            ),
            (
                "port_tx_drops_total",
                "Packets that should have gone out and were dropped.",
                |p| p.tx_drops,
            ),
            (
                "port_tx_full_total",
                "Packets that were dropped because the guest had no free buffers.",
                |p| p.tx_full,
            ),
            (
                "port_rx_errors_total",
                "Malformed descriptors or frames.",
                |p| p.rx_errors,
            ),
            ("port_calls_total", "Interrupts sent to the guest.", |p| {
                p.calls
            }),
            (
                "port_syn_cookies_sent_total",
                "SYNs to the port that were answered with a cookie.",
                |p| p.syn_cookies_sent,
            ),
            (
                "port_syn_cookies_valid_total",
                "Connections whose clients proved a cookie.",
                |p| p.syn_cookies_valid,
            ),
            (
                "port_syn_cookies_invalid_total",
                "Segments of no connection that proved no cookie.",
                |p| p.syn_cookies_invalid,
            ),
            (
                "port_syn_cookies_unanswered_total",
                "Connections of such clients that the guest did not answer.",
                |p| p.syn_cookies_unanswered,
            ),
            (
                "port_syn_floods_total",
                "Times that SYNs began to be answered with cookies.",
                |p| p.syn_floods,
            ),
        ],
    );
    text.table(
        "gauge",
        &control.plane().port_stats(),
        labels,
        &[(
            "port_syn_cookies_active",
            "Whether SYNs to the port are answered with cookies now.",
            |p| p.syn_cookies_active,
        )],
    );
}

/// Pairs of guests' queues, each with its number as the label `queue`.
fn queue_pairs(text: &mut Text, ports: &[PortStats]) {
    let pairs: Vec<(String, PairStats)> = ports
        .iter()
        .flat_map(|port| {
            let pairs = port.queue_pairs.iter();
            pairs.map(|pair| (port.port.clone(), *pair))
        })
        .collect();
    text.table(
        "counter",
        &pairs,
        |(port, pair)| vec![("port", port.clone()), ("queue", pair.pair.to_string())],
        &[
            (
                "port_queue_rx_packets_total",
                "Packets that came in by a pair of queues.",
                |(_, pair)| pair.rx_packets,
            ),
            (
                "port_queue_rx_bytes_total",
                "Bytes that came in by it.",
                |(_, pair)| pair.rx_bytes,
            ),
            (
                "port_queue_tx_packets_total",
                "Packets that went out by a pair of queues.",
                |(_, pair)| pair.tx_packets,
            ),
            (
                "port_queue_tx_bytes_total",
                "Bytes that went out by it.",
                |(_, pair)| pair.tx_bytes,
            ),
            (
                "port_queue_tx_drops_total",
                "Packets that should have gone out by it and were dropped.",
                |(_, pair)| pair.tx_drops,
            ),
            (
                "port_queue_tx_full_total",
                "Packets that were dropped because it had no free buffers.",
                |(_, pair)| pair.tx_full,
            ),
        ],
    );
}

fn connections(text: &mut Text, control: &Control) {
    // An lcore that is gone counts nothing.
    let lcores = control.connection_stats().unwrap_or_default();
    let cpu =
        |lcore: &sumeru_control::dataplane::ConnectionStats| vec![("cpu", lcore.cpu.to_string())];
    text.table(
        "gauge",
        &lcores,
        cpu,
        &[
            ("conntrack_capacity", "Most connections.", |c| c.capacity),
            ("conntrack_connections", "Connections now.", |c| c.live),
            (
                "conntrack_half_open",
                "TCP connections that are being opened.",
                |c| c.half_open,
            ),
            (
                "conntrack_memory_bytes",
                "Memory of the connection table.",
                |c| c.memory,
            ),
        ],
    );
    text.table(
        "counter",
        &lcores,
        cpu,
        &[
            ("conntrack_created_total", "Connections made.", |c| {
                c.created
            }),
            (
                "conntrack_reopened_total",
                "Closed TCP connections that were opened again.",
                |c| c.reopened,
            ),
            (
                "conntrack_expired_total",
                "Connections that ended by time.",
                |c| c.expired,
            ),
            (
                "conntrack_flushed_total",
                "Connections that were flushed.",
                |c| c.flushed,
            ),
            (
                "conntrack_early_dropped_total",
                "Connections that gave way to new ones.",
                |c| c.early_dropped,
            ),
            (
                "conntrack_invalid_total",
                "Packets that are not part of their connection.",
                |c| c.invalid,
            ),
            (
                "conntrack_fragments_accepted_total",
                "Fragments that found their datagram.",
                |c| c.fragments_accepted,
            ),
            (
                "conntrack_fragments_unknown_total",
                "Fragments of unknown datagrams.",
                |c| c.fragments_unknown,
            ),
            (
                "conntrack_fragments_refused_total",
                "Fragments that were refused.",
                |c| c.fragments_refused,
            ),
        ],
    );
    let reasons: [Reason; 8] = [
        ("invalid", |r| r.invalid),
        ("full", |r| r.full),
        ("zone-full", |r| r.zone_full),
        ("port-full", |r| r.port_full),
        ("clash", |r| r.clash),
        ("nat-exhausted", |r| r.nat_exhausted),
        ("nat-range", |r| r.nat_range),
        ("policy", |r| r.policy),
    ];
    text.metric(
        "conntrack_refused_total",
        "counter",
        "Connections that were refused, by reason.",
    );
    for lcore in &lcores {
        for (reason, value) in reasons {
            text.sample(
                "conntrack_refused_total",
                &[("cpu", &lcore.cpu), ("reason", &reason)],
                value(&lcore.refused),
            );
        }
    }
}

fn rules(text: &mut Text, control: &Control) {
    let sums = control.plane().rule_stats();
    text.metric(
        "rules",
        "gauge",
        "Places of flow rules; a rule with ranges has several.",
    );
    text.sample("rules", &[], sums.rules);
    text.metric("rules_bytes", "gauge", "Bytes reserved for flow rules.");
    text.sample("rules_bytes", &[], sums.bytes);
    let inventory = control.inventory();
    let counting = inventory
        .ports()
        .flat_map(|port| inventory.flows_of(&port.spec.name))
        .filter(|flow| {
            flow.spec
                .rule
                .actions
                .iter()
                .any(|a| matches!(a, Action::Count { .. }))
        })
        .filter(|flow| control.failure(&Any::Flow((*flow).clone())).is_none())
        .take(RULES_MAX);
    let counts: Vec<(String, u32, FlowCount)> = counting
        .filter_map(|flow| {
            let count = control.query_flow(&flow.spec.port, flow.spec.id()).ok()?;
            Some((flow.spec.port.clone(), flow.spec.id(), count))
        })
        .collect();
    text.table(
        "counter",
        &counts,
        |(port, id, _)| vec![("port", port.clone()), ("id", id.to_string())],
        &[
            (
                "rule_packets_total",
                "Packets of a rule with a count action.",
                |(_, _, count)| count.packets,
            ),
            (
                "rule_bytes_total",
                "Bytes of a rule with a count action.",
                |(_, _, count)| count.bytes,
            ),
        ],
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_routed_strictly() {
        let status = |head: &str| route(format!("{head}\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!(status("GET /metrics HTTP/1.1"), (OK, true));
        assert_eq!(status("HEAD /metrics HTTP/1.0"), (OK, false));
        for (head, code) in [
            ("POST /metrics HTTP/1.1", "405"),
            ("GET / HTTP/1.1", "404"),
            ("GET /metrics/ HTTP/1.1", "404"),
            ("GET /metrics HTTP/2.0", "505"),
            ("GET  /metrics HTTP/1.1", "400"),
            ("GET", "400"),
            ("", "400"),
        ] {
            assert!(
                status(head).0.starts_with(code),
                "{head}: {}",
                status(head).0
            );
        }
        assert!(
            route(b"\xff /metrics HTTP/1.1\r\n\r\n")
                .0
                .starts_with("400")
        );
    }

    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        text.sample("x", &[("a", &"q\"b\\c\nd"), ("i", &7)], 5);
        assert_eq!(text.0, "sumeru_x{a=\"q\\\"b\\\\c\\nd\",i=\"7\"} 5\n");
    }
}
