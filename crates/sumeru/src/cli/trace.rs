//! `sumeru trace PORT …`: why does this packet go there? The packet is described in text or taken
//! from a capture file.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::{Value, json};
use sumeru_flow::PacketDescription;

use super::{Context, say, text};
use crate::failure::Failure;
use crate::table::{Table, cell};

pub fn grammar() -> Command {
    Command::new("trace")
        .about("Follow one packet through the switch: sumeru trace vm1 eth / ipv4 dst 10.0.0.2 / udp dst 53")
        .arg(Arg::new("port").required(true).value_name("PORT").help("Name or index of the port where it comes in"))
        .arg(
            Arg::new("pcap")
                .long("pcap")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .conflicts_with("packet")
                .help("Take the packet from a pcap or pcapng file"),
        )
        .arg(
            Arg::new("number")
                .long("number")
                .value_name("N")
                .requires("pcap")
                .default_value("1")
                .value_parser(value_parser!(u64).range(1..))
                .help("Which packet of the file, from 1"),
        )
        .arg(
            Arg::new("packet")
                .required_unless_present("pcap")
                .num_args(1..)
                .trailing_var_arg(true)
                .value_name("PACKET")
                .help("eth src MAC dst MAC / vlan vid N / ipv4 src A dst B ttl N / tcp dst N flags syn / payload N"),
        )
}

pub fn run(matches: &ArgMatches, context: &mut Context) -> Result<(), Failure> {
    let frame = match matches.get_one::<PathBuf>("pcap") {
        Some(path) => from_file(path, matches.get_one::<u64>("number").copied().unwrap_or(1))?,
        None => {
            let words: Vec<&str> = matches
                .get_many::<String>("packet")
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect();
            let text = words.join(" ");
            let described = PacketDescription::parse(&text);
            described
                .map_err(|error| Failure::Usage(format!("packet: {}", error.render(&text))))?
                .to_bytes()
        }
    };
    let hex: String = frame.iter().map(|b| format!("{b:02x}")).collect();
    let answer = context.call(
        "trace.packet",
        json!({ "port": text(matches, "port"), "frame": hex }),
    )?;
    context.show(&answer, print)
}

fn print(trace: &Value) -> Result<(), Failure> {
    let mut table = Table::new(&["STAGE", "DECISION"]);
    for step in trace["steps"].as_array().into_iter().flatten() {
        table.row([cell(&step["stage"]), cell(&step["decision"])]);
    }
    table.print()?;
    for output in trace["outputs"].as_array().into_iter().flatten() {
        let frame = output["frame"].as_str().unwrap_or_default();
        say(&format!(
            "=> port {}, {} bytes: {frame}",
            cell(&output["port"]),
            frame.len() / 2
        ))?;
    }
    match &trace["drop_reason"] {
        Value::String(reason) => say(&format!("=> dropped: {reason}")),
        _ => Ok(()),
    }
}

/// Packet `number` of a file, counted from 1.
fn from_file(path: &Path, number: u64) -> Result<Vec<u8>, Failure> {
    let wrong = |what: &str| Failure::Usage(format!("{}: {what}", path.display()));
    let open = || File::open(path).map_err(|error| wrong(&format!("cannot open it: {error}")));
    let too_short = |count: u64| {
        wrong(&format!(
            "it has {count} packets, expected at least {number}"
        ))
    };
    let mut count = 0;
    if let Ok(mut reader) = PcapNgReader::new(open()?) {
        while let Some(block) = reader.next_block() {
            let data = match block.map_err(|error| wrong(&format!("it is damaged: {error}")))? {
                Block::EnhancedPacket(packet) => packet.data.into_owned(),
                Block::SimplePacket(packet) => packet.data.into_owned(),
                _ => continue,
            };
            count += 1;
            if count == number {
                return Ok(data);
            }
        }
        return Err(too_short(count));
    }
    let mut reader = PcapReader::new(open()?)
        .map_err(|error| wrong(&format!("it is neither pcap nor pcapng: {error}")))?;
    while let Some(packet) = reader.next_packet() {
        let packet = packet.map_err(|error| wrong(&format!("it is damaged: {error}")))?;
        count += 1;
        if count == number {
            return Ok(packet.data.into_owned());
        }
    }
    Err(too_short(count))
}
