//! `sumeru daemon`: the grammar of the daemon's own options.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::Context;
use crate::daemon::{self, Options, StoreAt};
use crate::failure::Failure;

pub fn grammar() -> Command {
    Command::new("daemon")
        .about("Run the daemon of a node in the foreground")
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Configuration file (TOML); without one the stored objects, or defaults"),
        )
        .arg(
            Arg::new("store").long("store").value_name("PATH").help(
                "Where objects survive a restart, or `none` [default: /var/lib/sumeru/NODE.db]",
            ),
        )
        .arg(
            Arg::new("log")
                .long("log")
                .value_name("LEVEL")
                .default_value("info")
                .help(
                    "error, warn, info, debug, trace, or a filter such as info,sumeru_virtio=debug",
                ),
        )
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Open no device, file or interface: try a configuration and the API"),
        )
}

pub fn run(matches: &ArgMatches, context: &Context) -> Result<(), Failure> {
    let store = match matches.get_one::<String>("store").map(String::as_str) {
        None => StoreAt::Default,
        Some("none") => StoreAt::Nowhere,
        Some(path) => StoreAt::Path(PathBuf::from(path)),
    };
    daemon::run(Options {
        config: matches.get_one::<PathBuf>("config").cloned(),
        socket: context.socket.clone(),
        store,
        log: super::text(matches, "log").to_owned(),
        dry_run: matches.get_flag("dry-run"),
    })
}
