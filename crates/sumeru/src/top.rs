//! `sumeru top`: rates of lcores, ports, drops, stages and volumes, from two looks at the daemon's
//! counters. It only reads, one batch of calls per look.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Row, Table as Grid};
use serde_json::{Value, json};

use crate::cli::{print_json, say};
use crate::client::Client;
use crate::failure::Failure;
use crate::table::Table;

const METHODS: [&str; 7] = [
    "node.show",
    "stats.lcore",
    "stats.port",
    "stats.drop",
    "stats.stage",
    "stats.volume",
    "stats.residence",
];

/// The counters at one moment, in the order of [`METHODS`].
struct Look {
    at: Instant,
    answers: Vec<Value>,
}

impl Look {
    fn take(client: &mut Client) -> Result<Self, Failure> {
        let answers = client.batch(&METHODS)?;
        Ok(Self {
            at: Instant::now(),
            answers,
        })
    }

    fn of(&self, method: &str) -> &Value {
        let place = METHODS.iter().position(|m| *m == method);
        place
            .and_then(|i| self.answers.get(i))
            .unwrap_or(&Value::Null)
    }
}

/// One table of the view.
struct Section {
    title: &'static str,
    headings: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

/// Rates between two looks; counters that went back (a daemon that was restarted) count as zero.
fn rates(old: &Look, new: &Look) -> Value {
    let seconds = (new.at - old.at).as_secs_f64().max(1e-3);
    let per_second = |method: &str, key: &str, fields: &[(&str, &str)], keep: &[&str]| -> Value {
        let rows = new.of(method).as_array().into_iter().flatten().map(|row| {
            let before = old
                .of(method)
                .as_array()
                .into_iter()
                .flatten()
                .find(|r| r[key] == row[key]);
            let mut out = json!({ key: row[key] });
            for (field, name) in fields {
                out[*name] = json!(delta(before, row, field) / seconds);
            }
            for field in keep {
                out[*field] = row[*field].clone();
            }
            out
        });
        rows.collect()
    };
    let node = new.of("node.show");
    json!({
        "interval_s": seconds,
        "node": node["name"],
        "uptime_s": node["uptime_s"],
        "out_of_service": node["out_of_service"],
        "lcores": lcores(old, new, seconds),
        "ports": per_second("stats.port", "port", &[
            ("rx_packets", "rx_pps"), ("rx_bytes", "rx_bytes_per_s"), ("tx_packets", "tx_pps"),
            ("tx_bytes", "tx_bytes_per_s"), ("rx_drops", "rx_drops_per_s"), ("tx_drops", "tx_drops_per_s"),
        ], &["index"]),
        "drops": per_second("stats.drop", "reason", &[("packets", "per_s")], &["packets"]),
        "stages": per_second("stats.stage", "stage", &[("packets", "per_s")], &["packets"]),
        "volumes": per_second("stats.volume", "volume", &[
            ("reads", "reads_per_s"), ("read_bytes", "read_bytes_per_s"), ("writes", "writes_per_s"),
            ("write_bytes", "write_bytes_per_s"),
        ], &["errors"]),
        "residence": residence(old, new, seconds),
    })
}

/// How long frames stayed in the engine, of all lcores together: frames of each class, and the share of those that stayed no longer.
fn residence(old: &Look, new: &Look, seconds: f64) -> Value {
    let mut classes: Vec<(Value, f64)> = Vec::new();
    let lcores = |look: &'_ Look| {
        look.of("stats.residence")
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    let before = lcores(old);
    for lcore in lcores(new) {
        let before = before.iter().find(|other| other["cpu"] == lcore["cpu"]);
        let counted = lcore["classes"].as_array().into_iter().flatten();
        for (place, class) in counted.enumerate() {
            if classes.len() == place {
                classes.push((class["up_to_ns"].clone(), 0.0));
            }
            let before = before.map(|lcore| &lcore["classes"][place]);
            classes[place].1 += delta(before, class, "frames");
        }
    }
    let all: f64 = classes.iter().map(|(_, frames)| frames).sum();
    if all == 0.0 {
        return json!([]);
    }
    let mut below = 0.0;
    let rows = classes.into_iter().map(|(up_to_ns, frames)| {
        below += frames;
        json!({ "up_to_ns": up_to_ns, "per_s": frames / seconds, "no_longer": below / all })
    });
    rows.collect()
}

fn delta(before: Option<&Value>, after: &Value, field: &str) -> f64 {
    let after = after[field].as_u64().unwrap_or(0);
    let before = before.map_or(after, |b| b[field].as_u64().unwrap_or(0));
    after.saturating_sub(before) as f64
}

fn lcores(old: &Look, new: &Look, seconds: f64) -> Value {
    let rows = new
        .of("stats.lcore")
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| {
            let before = old
                .of("stats.lcore")
                .as_array()
                .into_iter()
                .flatten()
                .find(|r| r["cpu"] == row["cpu"]);
            let moved = |field| delta(before, row, field);
            let elapsed = moved("tsc_elapsed").max(1.0);
            json!({
                "cpu": row["cpu"],
                "busy": moved("busy_cycles") / elapsed,
                "idle": moved("idle_cycles") / elapsed,
                "asleep": moved("sleep_cycles") / elapsed,
                "rx_pps": moved("rx_packets") / seconds,
                "tx_pps": moved("tx_packets") / seconds,
                "iops": moved("blk_ios") / seconds,
                "wakeups_per_s": moved("wakeups") / seconds,
                "busy_cycles_per_packet": moved("busy_cycles") / moved("rx_packets").max(1.0),
            })
        });
    rows.collect()
}

/// The tables of a view.
fn sections(rates: &Value) -> Vec<Section> {
    let rows = |list: &str, row: fn(&Value) -> Vec<String>| -> Vec<Vec<String>> {
        rates[list]
            .as_array()
            .into_iter()
            .flatten()
            .map(row)
            .collect()
    };
    let counted = |list: &str, key: &'static str| -> Vec<Vec<String>> {
        let seen = rates[list]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|r| r["packets"] != 0);
        seen.map(|r| vec![word(&r[key]), rate(&r["per_s"]), word(&r["packets"])])
            .collect()
    };
    vec![
        Section {
            title: "lcores",
            headings: &[
                "CPU",
                "BUSY",
                "IDLE",
                "ASLEEP",
                "RX pps",
                "TX pps",
                "IOPS",
                "WAKEUPS/s",
                "CYCLES/PKT",
            ],
            rows: rows("lcores", |r| {
                let cycles = if r["rx_pps"].as_f64() > Some(0.0) {
                    rate(&r["busy_cycles_per_packet"])
                } else {
                    "-".to_owned()
                };
                vec![
                    word(&r["cpu"]),
                    share(&r["busy"]),
                    share(&r["idle"]),
                    share(&r["asleep"]),
                    rate(&r["rx_pps"]),
                    rate(&r["tx_pps"]),
                    rate(&r["iops"]),
                    rate(&r["wakeups_per_s"]),
                    cycles,
                ]
            }),
        },
        Section {
            title: "ports",
            headings: &[
                "INDEX",
                "PORT",
                "RX pps",
                "RX bit/s",
                "TX pps",
                "TX bit/s",
                "RX drops/s",
                "TX drops/s",
            ],
            rows: rows("ports", |r| {
                vec![
                    word(&r["index"]),
                    word(&r["port"]),
                    rate(&r["rx_pps"]),
                    bits(&r["rx_bytes_per_s"]),
                    rate(&r["tx_pps"]),
                    bits(&r["tx_bytes_per_s"]),
                    rate(&r["rx_drops_per_s"]),
                    rate(&r["tx_drops_per_s"]),
                ]
            }),
        },
        Section {
            title: "stages",
            headings: &["STAGE", "PACKETS/s", "TOTAL"],
            rows: counted("stages", "stage"),
        },
        Section {
            title: "drops",
            headings: &["REASON", "PACKETS/s", "TOTAL"],
            rows: counted("drops", "reason"),
        },
        Section {
            title: "residence",
            headings: &["UP TO us", "PACKETS/s", "NO LONGER"],
            rows: residence_rows(&rates["residence"]),
        },
        Section {
            title: "volumes",
            headings: &[
                "VOLUME",
                "READ IOPS",
                "READ B/s",
                "WRITE IOPS",
                "WRITE B/s",
                "ERRORS",
            ],
            rows: rows("volumes", |r| {
                vec![
                    word(&r["volume"]),
                    rate(&r["reads_per_s"]),
                    rate(&r["read_bytes_per_s"]),
                    rate(&r["writes_per_s"]),
                    rate(&r["write_bytes_per_s"]),
                    word(&r["errors"]),
                ]
            }),
        },
    ]
}

/// The classes from the first to the last in which there were frames.
fn residence_rows(classes: &Value) -> Vec<Vec<String>> {
    let classes = classes.as_array().map_or(&[][..], Vec::as_slice);
    let any = |class: &Value| class["per_s"].as_f64() > Some(0.0);
    let first = classes.iter().position(any).unwrap_or(0);
    let end = classes.iter().rposition(any).map_or(0, |last| last + 1);
    let row = |class: &Value| {
        let bound = class["up_to_ns"].as_f64();
        vec![
            bound.map_or("more".to_owned(), |ns| format!("{}", ns / 1000.0)),
            rate(&class["per_s"]),
            format!("{:.2}%", 100.0 * class["no_longer"].as_f64().unwrap_or(0.0)),
        ]
    };
    classes[first..end.max(first)].iter().map(row).collect()
}

fn word(value: &Value) -> String {
    crate::table::cell(value)
}

fn share(value: &Value) -> String {
    format!("{:.1}%", 100.0 * value.as_f64().unwrap_or(0.0))
}

fn bits(bytes: &Value) -> String {
    rate(&json!(8.0 * bytes.as_f64().unwrap_or(0.0)))
}

/// A rate with a decimal unit: `1.23M`.
fn rate(value: &Value) -> String {
    let mut value = value.as_f64().unwrap_or(0.0);
    for unit in ["", "k", "M", "G"] {
        if value < 1000.0 || unit == "G" {
            let digits = if unit.is_empty() { 0 } else { 2 };
            return format!("{value:.digits$}{unit}");
        }
        value /= 1000.0;
    }
    String::new()
}

/// Prints the rates of one interval.
pub fn once(client: &mut Client, interval: Duration, json: bool) -> Result<(), Failure> {
    let old = Look::take(client)?;
    std::thread::sleep(interval);
    let rates = rates(&old, &Look::take(client)?);
    if json {
        return print_json(&rates);
    }
    for section in sections(&rates).iter().filter(|s| !s.rows.is_empty()) {
        say(section.title)?;
        let mut table = Table::new(section.headings);
        for row in &section.rows {
            table.row(row.clone());
        }
        table.print()?;
        say("")?;
    }
    Ok(())
}

/// The live view, until q, Escape or Ctrl-C.
pub fn live(client: &mut Client, interval: Duration) -> Result<(), Failure> {
    if !io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "top: standard output is no terminal, expected one; or use top --once".to_owned(),
        ));
    }
    let mut old = Look::take(client)?;
    let mut terminal = ratatui::try_init()?;
    let done = loop {
        let new = match Look::take(client) {
            Ok(new) => new,
            Err(failure) => break Err(failure),
        };
        let rates = rates(&old, &new);
        if let Err(error) = terminal.draw(|frame| draw(frame, &rates)) {
            break Err(error.into());
        }
        match wait(interval, new.at) {
            Ok(false) => old = new,
            Ok(true) => break Ok(()),
            Err(error) => break Err(error.into()),
        }
    };
    ratatui::restore();
    done
}

/// Waits for the next look; true when the user wants to leave.
fn wait(interval: Duration, since: Instant) -> io::Result<bool> {
    loop {
        let left = interval.saturating_sub(since.elapsed());
        if !event::poll(left)? {
            return Ok(false);
        }
        match event::read()? {
            Event::Key(key) if key.kind == KeyEventKind::Press => {
                let control_c =
                    key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                if control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                    return Ok(true);
                }
            }
            // The next look draws in the new size.
            Event::Resize(..) => return Ok(false),
            _ => {}
        }
    }
}

fn draw(frame: &mut Frame<'_>, rates: &Value) {
    let sections = sections(rates);
    let height = |section: &Section| {
        Constraint::Length(u16::try_from(section.rows.len() + 3).unwrap_or(u16::MAX))
    };
    let [lcores, ports, stages, drops, residence, volumes] = &sections[..] else {
        return;
    };
    // What is not measured takes no room.
    let mut beside = vec![stages, drops];
    beside.extend(Some(residence).filter(|residence| !residence.rows.is_empty()));
    let tallest = beside.iter().max_by_key(|section| section.rows.len());
    let wide = tallest.copied().unwrap_or(stages);
    let areas = Layout::vertical([
        Constraint::Length(1),
        height(lcores),
        height(ports),
        height(wide),
        height(volumes),
        Constraint::Fill(1),
    ])
    .split(frame.area());
    let failed = rates["out_of_service"].as_array().map_or(0, Vec::len);
    let service = if failed == 0 {
        String::new()
    } else {
        format!("   {failed} OBJECTS OUT OF SERVICE")
    };
    let title = format!(
        "sumeru {}   up {} s{service}   q quits",
        word(&rates["node"]),
        word(&rates["uptime_s"])
    );
    frame.render_widget(
        Line::styled(title, Style::new().add_modifier(Modifier::BOLD)),
        areas[0],
    );
    grid(frame, areas[1], lcores);
    grid(frame, areas[2], ports);
    let columns = Layout::horizontal(beside.iter().map(|_| Constraint::Fill(1))).split(areas[3]);
    for (area, section) in columns.iter().zip(beside) {
        grid(frame, *area, section);
    }
    grid(frame, areas[4], volumes);
}

fn grid(frame: &mut Frame<'_>, area: Rect, section: &Section) {
    let widths = section.headings.iter().enumerate().map(|(i, heading)| {
        let longest = section
            .rows
            .iter()
            .map(|r| r[i].chars().count())
            .chain([heading.len()])
            .max();
        Constraint::Length(u16::try_from(longest.unwrap_or(0).max(8)).unwrap_or(u16::MAX))
    });
    let mut header = Style::new().add_modifier(Modifier::BOLD);
    if crate::table::colours() {
        header = header.cyan();
    }
    let grid = Grid::new(section.rows.iter().map(|r| Row::new(r.clone())), widths)
        .header(Row::new(section.headings.to_vec()).style(header))
        .block(Block::bordered().title(section.title))
        .column_spacing(2);
    frame.render_widget(grid, area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn look(at: Instant, factor: u64) -> Look {
        let answers = vec![
            json!({ "name": "a", "uptime_s": 5, "out_of_service": [] }),
            json!([{ "cpu": 1, "tsc_elapsed": 1000 * factor, "busy_cycles": 250 * factor, "idle_cycles": 750 * factor,
                     "rx_packets": 5 * factor }]),
            json!([{ "port": "vm1", "index": 0, "rx_packets": 2_000_000 * factor, "rx_bytes": 128_000_000 * factor }]),
            json!([{ "reason": "no-route", "packets": 0 }]),
            json!([{ "stage": "parse", "packets": 10 * factor }]),
            json!([{ "volume": "d", "reads": 1500 * factor, "errors": 0 }]),
            json!(
                [0, 1].map(|cpu| json!({ "cpu": cpu, "sum_ns": 0, "classes": [
                { "up_to_ns": 500, "frames": 0 }, { "up_to_ns": 1000, "frames": 3 * factor },
                { "up_to_ns": 2000, "frames": 7 }, { "up_to_ns": null, "frames": factor } ] }))
            ),
        ];
        Look { at, answers }
    }

    #[test]
    fn rates_are_differences_over_time() {
        let now = Instant::now();
        let rates = rates(&look(now, 1), &look(now + Duration::from_secs(2), 3));
        assert_eq!(rates["ports"][0]["rx_pps"], 2_000_000.0);
        assert_eq!(rates["lcores"][0]["busy"], 0.25);
        assert_eq!(rates["lcores"][0]["busy_cycles_per_packet"], 50.0);
        let restarted = super::rates(&look(now, 3), &look(now + Duration::from_secs(2), 1));
        assert_eq!(restarted["ports"][0]["rx_pps"], 0.0);
    }

    #[test]
    fn residence_is_that_of_the_interval_on_all_lcores() {
        let now = Instant::now();
        let rates = rates(&look(now, 1), &look(now + Duration::from_secs(2), 3));
        let rows = residence_rows(&rates["residence"]);
        assert_eq!(
            rows,
            [
                ["1", "6", "75.00%"],
                ["2", "0", "75.00%"],
                ["more", "2", "100.00%"]
            ]
        );
        let still = super::rates(&look(now, 1), &look(now + Duration::from_secs(2), 1));
        assert_eq!(still["residence"], json!([]));
        assert!(residence_rows(&still["residence"]).is_empty());
    }

    #[test]
    fn the_view_shows_what_moves() {
        let now = Instant::now();
        let rates = rates(&look(now, 1), &look(now + Duration::from_secs(2), 3));
        let mut terminal = Terminal::new(TestBackend::new(110, 30)).unwrap();
        terminal.draw(|frame| draw(frame, &rates)).unwrap();
        let screen = format!("{}", terminal.backend());
        for part in [
            "sumeru a", "25.0%", "vm1", "2.00M", "1.02G", "parse", "1.50k", "75.00%",
        ] {
            assert!(screen.contains(part), "{part} is not in\n{screen}");
        }
        assert!(
            !screen.contains("no-route"),
            "reasons that never happened are noise\n{screen}"
        );
    }

    #[test]
    fn a_small_terminal_is_no_fault() {
        let now = Instant::now();
        let rates = rates(&look(now, 1), &look(now, 2));
        for (width, height) in [(1, 1), (10, 3), (40, 8)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| draw(frame, &rates)).unwrap();
        }
    }
}
