//! testpmd's text syntax for flow rules (testpmd User Guide, "Flow rules management", 22.11/24.11).
//!
//! ```text
//! [flow] create   PORT [group N] [priority N] [ingress] [egress] [transfer]
//!                      pattern ITEM [/ ITEM]... / end actions ACTION [/ ACTION]... / end
//! [flow] validate PORT ...as create...
//! [flow] destroy  PORT rule ID [rule ID]...
//! [flow] flush    PORT
//! [flow] list     PORT [group N]...
//! [flow] query    PORT ID count
//! ```
//! Items and actions are those of [`Item::TABLE`](crate::model::Item::TABLE) and
//! [`Action::TABLE`](crate::model::Action::TABLE). A field is `NAME is V`, or `NAME spec V` with
//! `NAME mask V` or `NAME prefix N`, and optionally `NAME last V`. An item that has a `spec` and
//! neither `is`, `mask` nor `prefix` anywhere gets rte_flow's default mask as a whole, so fields
//! that it does not name but the default mask covers must be zero.
//!
//! Beyond testpmd: the leading `flow` may be left out; ports may have names; `vxlan_encap` takes its
//! parameters inline (`vxlan_encap vni 5 ip_src 10.0.0.1 ip_dst 10.0.0.2 udp_src 49152 udp_dst 4789
//! ip_tos 0 ip_ttl 64 eth_src 02:00:00:00:00:01 eth_dst 02:00:00:00:00:02`, of which `vni`, `ip_src`
//! and `ip_dst` are needed) where testpmd has a separate `set vxlan` command; the `vxlan` item has
//! `flags`. Stricter than testpmd: numbers have no sign and must fit their field; arguments of
//! actions have no default except `count identifier`; `mask`, `prefix` and `last` need a `spec` or
//! `is` in their item; `tci` cannot be a range; ports are matched as a whole; `query` knows `count`.
//!
//! Parsing is a single pass without recursion over at most [`MAX_TEXT`] bytes. It does not
//! [`validate`](crate::Rule::validate) the rule.

mod command;
mod complete;
mod cursor;
mod error;
mod grammar;
mod print;
mod print_command;
mod rule;
mod value;

pub use command::{Command, IndirectCommand, MeterCommand, ObjectCommand, QueueCommand};
pub use complete::complete;
pub use error::{Expected, SyntaxError, SyntaxErrorKind};
pub use grammar::{parse, parse_rule, parse_with};

pub(crate) use cursor::Cursor;
pub(crate) use value::ValueText;

/// Longest text that is parsed, in bytes.
pub const MAX_TEXT: usize = 64 * 1024;
