//! testpmd's text syntax for flow rules (testpmd User Guide, "Flow rules management", 22.11/24.11).
//!
//! ```text
//! [flow] create   PORT [group N] [priority N] [ingress] [egress] [transfer]
//!                      pattern ITEM [/ ITEM]... / end actions ACTION [/ ACTION]... / end
//! [flow] validate PORT ...as create...
//! [flow] destroy  PORT rule ID [rule ID]...
//! [flow] flush    PORT
//! [flow] list     PORT [group N]...
//! [flow] query    PORT ID count|age
//! [flow] isolate  PORT BOOLEAN
//! [flow] aged     PORT [destroy]
//! [flow] dump     PORT all | rule ID
//! [flow] indirect_action  PORT create|update|destroy|query ...
//! [flow] configure        PORT [queues_number N] [queues_size N] ...
//! [flow] pattern_template|actions_template|template_table PORT create|destroy ...
//! [flow] queue    PORT create|destroy|aged|indirect_action QUEUE ...
//! [flow] push|pull PORT queue QUEUE
//! set raw_encap|raw_decap N ITEM [/ ITEM]... / end_set
//! set sample_actions N ACTION [/ ACTION]... / end
//! set vxlan|vxlan-tos-ttl|nvgre|l2_encap|l2_encap-with-vlan|l2_decap|l2_decap-with-vlan ...
//! add|del|create|enable|disable|set|show port meter ...
//! ```
//! Items and actions are those of [`Item::TABLE`](crate::model::Item::TABLE) and
//! [`Action::TABLE`](crate::model::Action::TABLE). A field is `NAME is V`, or `NAME spec V` with
//! `NAME mask V` or `NAME prefix N`, and optionally `NAME last V`. An item that has a `spec` and
//! neither `is`, `mask` nor `prefix` anywhere gets rte_flow's default mask as a whole, so fields
//! that it does not name but the default mask covers must be zero. Where rte_flow has no default mask
//! (`ipv6_frag_ext`, `gre_option`, and our `ct`) a mask or `is` must be given.
//!
//! Beyond testpmd: the leading `flow` may be left out; ports may have names; `vxlan_encap` takes its
//! parameters inline (`vxlan_encap vni 5 ip_src 10.0.0.1 ip_dst 10.0.0.2 udp_src 49152 udp_dst 4789
//! ip_tos 0 ip_ttl 64 eth_src 02:00:00:00:00:01 eth_dst 02:00:00:00:00:02`, of which `vni`, `ip_src`
//! and `ip_dst` are needed) where testpmd has a separate `set vxlan` command, and `nvgre_encap`,
//! `l2_encap`, `l2_decap`, `raw_encap data HEX`, `raw_decap data HEX` and `sample ratio N actions ... end`
//! likewise; what `set` commands defined is known to [`parse_with`] and copied when a rule is read, so
//! what is printed names none of it. Fields that rte_flow.h has and testpmd of 22.11 has no word for are
//! marked [`Spelling::Ours`](crate::model::Spelling); the item and the action `ct` are private. Stricter
//! than testpmd: numbers have no sign and must fit their field; arguments of
//! actions have no default except `count identifier`; `mask`, `prefix` and `last` need a `spec` or
//! `is` in their item; `tci` cannot be a range; ports are matched as a whole; `query` knows
//! `count` and `age`; `dump` writes to no file; an actions template always has masks; meters have no
//! colour tables.
//!
//! Parsing is a single pass, with recursion only into the actions of one `sample`, over at most [`MAX_TEXT`] bytes. It does not
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
