//! `sumeru stats lcore|port|queue|stage|drop|residence|volume`: counters, once. `sumeru top` shows rates.

use clap::{Arg, ArgMatches, Command};
use serde_json::{Value, json};

use super::{Context, say, text};
use crate::failure::Failure;
use crate::table::{Table, cell};

pub fn grammar() -> Command {
    let what = [
        "lcore",
        "port",
        "queue",
        "stage",
        "drop",
        "residence",
        "volume",
    ];
    Command::new("stats")
        .about("Counters")
        .arg(
            Arg::new("what")
                .required(true)
                .value_parser(what)
                .help("Counters of what"),
        )
        .arg(
            Arg::new("port")
                .long("port")
                .value_name("PORT")
                .help("With `port` and `queue`: only this one"),
        )
}

/// Columns of each kind of counters: heading and key.
fn columns(what: &str) -> &'static [(&'static str, &'static str)] {
    match what {
        "lcore" => &[
            ("CPU", "cpu"),
            ("LOOPS", "loops"),
            ("RX-PACKETS", "rx_packets"),
            ("TX-PACKETS", "tx_packets"),
            ("BLK-IOS", "blk_ios"),
            ("WAKEUPS", "wakeups"),
            ("CACHED", "cached_decisions"),
            ("MASKS", "cache_masks"),
            ("BUSY", "busy"),
            ("IDLE", "idle"),
            ("ASLEEP", "sleep"),
        ],
        "port" => &[
            ("INDEX", "index"),
            ("PORT", "port"),
            ("RX-PACKETS", "rx_packets"),
            ("RX-BYTES", "rx_bytes"),
            ("TX-PACKETS", "tx_packets"),
            ("TX-BYTES", "tx_bytes"),
            ("RX-DROPS", "rx_drops"),
            ("TX-DROPS", "tx_drops"),
            ("TX-FULL", "tx_full"),
            ("RX-ERRORS", "rx_errors"),
            ("CALLS", "calls"),
            ("SYN-COOKIES", "syn_cookies_sent"),
        ],
        "queue" => &[
            ("PORT", "port"),
            ("TENANT", "tenant"),
            ("CLASS", "class"),
            ("SENT-PACKETS", "sent_packets"),
            ("SENT-BYTES", "sent_bytes"),
            ("FULL", "full_packets"),
            ("DELAYED", "delay_packets"),
            ("MARKED", "marked_packets"),
            ("QUEUED-PACKETS", "queued_packets"),
            ("QUEUED-BYTES", "queued_bytes"),
        ],
        "stage" => &[("STAGE", "stage"), ("PACKETS", "packets")],
        "drop" => &[("REASON", "reason"), ("PACKETS", "packets")],
        _ => &[
            ("VOLUME", "volume"),
            ("READS", "reads"),
            ("READ-BYTES", "read_bytes"),
            ("WRITES", "writes"),
            ("WRITE-BYTES", "write_bytes"),
            ("FLUSHES", "flushes"),
            ("DISCARDS", "discards"),
            ("ERRORS", "errors"),
        ],
    }
}

pub fn run(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let what = text(matches, "what");
    let port = matches.get_one::<String>("port");
    let params = match (what, port) {
        ("port" | "queue", Some(port)) => json!({ "port": port }),
        (_, Some(_)) => {
            return Err(Failure::Usage(format!(
                "stats {what}: --port is given, expected it with `stats port` and `stats queue` only"
            )));
        }
        _ => json!({}),
    };
    let answer = context.call(&format!("stats.{what}"), params)?;
    context.show(&answer, |answer| print(what, answer))
}

fn print(what: &str, answer: &Value) -> Result<(), Failure> {
    let rows = answer.as_array().map_or(&[][..], Vec::as_slice);
    if rows.is_empty() {
        return say(&format!("There are no {what} counters."));
    }
    if what == "residence" {
        return residence(rows);
    }
    let columns = columns(what);
    let headings: Vec<&'static str> = columns.iter().map(|(heading, _)| *heading).collect();
    let mut table = Table::new(&headings);
    for row in rows {
        table.row(columns.iter().map(|(_, key)| match *key {
            "busy" | "idle" | "sleep" if what == "lcore" => share(row, &format!("{key}_cycles")),
            key => cell(&row[key]),
        }));
    }
    table.print()?;
    if what == "port" {
        return pairs(rows);
    }
    Ok(())
}

/// The pairs of queues of guests that have several.
fn pairs(ports: &[Value]) -> Result<(), Failure> {
    let columns = [
        ("PAIR", "pair"),
        ("RX-PACKETS", "rx_packets"),
        ("RX-BYTES", "rx_bytes"),
        ("TX-PACKETS", "tx_packets"),
        ("TX-BYTES", "tx_bytes"),
        ("TX-DROPS", "tx_drops"),
        ("TX-FULL", "tx_full"),
    ];
    let headings: Vec<&'static str> = std::iter::once("PORT")
        .chain(columns.map(|(heading, _)| heading))
        .collect();
    let mut table = Table::new(&headings);
    let mut any = false;
    for port in ports {
        let pairs = port["queue_pairs"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        for pair in pairs.iter().filter(|_| pairs.len() > 1) {
            any = true;
            let cells = columns.iter().map(|(_, key)| cell(&pair[key]));
            table.row(std::iter::once(cell(&port["port"])).chain(cells));
        }
    }
    if any {
        say("")?;
        table.print()?;
    }
    Ok(())
}

/// A class a row, with the share of frames that stayed no longer.
fn residence(lcores: &[Value]) -> Result<(), Failure> {
    let mut table = Table::new(&["CPU", "UP-TO-US", "PACKETS", "SHARE"]);
    for lcore in lcores {
        let classes = lcore["classes"].as_array().map_or(&[][..], Vec::as_slice);
        let frames = |class: &Value| class["frames"].as_u64().unwrap_or(0);
        let all: u64 = classes.iter().map(frames).sum();
        let mut below = 0;
        for class in classes {
            below += frames(class);
            let bound = class["up_to_ns"].as_f64();
            let share = 100.0 * below as f64 / all.max(1) as f64;
            table.row([
                cell(&lcore["cpu"]),
                bound.map_or("more".to_owned(), |ns| format!("{}", ns / 1000.0)),
                frames(class).to_string(),
                format!("{share:.2}%"),
            ]);
        }
    }
    Ok(table.print()?)
}

/// Cycles as a share of all that have passed.
fn share(row: &Value, key: &str) -> String {
    match (row[key].as_f64(), row["tsc_elapsed"].as_f64()) {
        (Some(part), Some(whole)) if whole > 0.0 => format!("{:.1}%", 100.0 * part / whole),
        _ => "-".to_owned(),
    }
}
