//! The members of a bond, as `sumeru port show` prints them.

use serde_json::Value;

use super::say;
use crate::failure::Failure;
use crate::table::{Table, cell};

/// Columns of a member: heading and key.
const MEMBER: [(&str, &str); 10] = [
    ("MEMBER", "interface"),
    ("MAC", "mac"),
    ("UP", "up"),
    ("MBIT", "speed_mbit"),
    ("IN-USE", "in_use"),
    ("FAILURES", "link_failures"),
    ("RX", "rx_packets"),
    ("TX", "tx_packets"),
    ("RX-INACTIVE", "rx_inactive"),
    ("RX-BAD", "rx_bad"),
];

/// Columns of one end of a link in LACP.
const PEER: [(&str, &str); 7] = [
    ("MEMBER", ""),
    ("END", ""),
    ("SYSTEM", "system"),
    ("KEY", "key"),
    ("PORT", "port"),
    ("PRIORITY", "port_priority"),
    ("STATE", "state"),
];

/// The members, and both ends of their links if LACP is spoken there.
pub fn show(bond: &Value) -> Result<(), Failure> {
    let members = bond["members"].as_array().map_or(&[][..], Vec::as_slice);
    let mut table = Table::new(&MEMBER.map(|(heading, _)| heading));
    for member in members {
        table.row(MEMBER.map(|(_, key)| cell(&member[key])));
    }
    say("")?;
    table.print()?;
    let mut table = Table::new(&PEER.map(|(heading, _)| heading));
    let mut spoken = false;
    for member in members {
        let lacp = &member["lacp"];
        spoken |= !lacp.is_null();
        for end in ["actor", "partner"] {
            let values = PEER[2..].iter().map(|(_, key)| cell(&lacp[end][*key]));
            table.row(
                [cell(&member["interface"]), end.to_owned()]
                    .into_iter()
                    .chain(values),
            );
        }
    }
    if !spoken {
        return Ok(());
    }
    say("")?;
    Ok(table.print()?)
}
