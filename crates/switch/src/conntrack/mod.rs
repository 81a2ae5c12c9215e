//! Connection tracking and address translation of one lcore: tables and state machines, no packet bytes and no clock of their own.
//!
//! A connection has two halves, one per direction, both in one hash table; with translation the reply half is what the answers look like on the wire. The slow
//! path calls [`Conntrack::lookup`], [`Conntrack::classify`] and [`Conntrack::commit`]; the fast path keeps the [`ConnRef`] and the [`Direction`] with its
//! cached decision and calls [`Conntrack::track`] per packet, which touches one line. [`Verdict::decision`] is the integer that tells whether the
//! decision still holds. [`Conntrack::expire`] is called once in a while with a budget.

mod commit;
mod fragment;
mod index;
mod inspect;
mod member;
mod nat;
#[cfg(test)]
mod nat_tests;
mod packet;
mod save;
#[cfg(test)]
mod save_tests;
mod sctp;
mod splice;
#[cfg(test)]
mod splice_tests;
mod state;
mod store;
mod syncookie;
mod table;
#[cfg(test)]
mod table_tests;
mod tcp;
#[cfg(test)]
mod tcp_tests;
mod track;
mod tuple;
mod wheel;

pub use commit::{Commit, Refusal};
pub use fragment::{Fragment, FragmentRefusal, FragmentStats, Fragments, Ports};
pub use inspect::{Connection, Filter};
pub use nat::{Nat, NatBinding, NatRange, Rewrite};
pub use packet::{CtPacket, sctp_chunk, tcp_flag};
pub use save::{RestoreError, Restored};
pub use splice::{Opening, Splice};
pub use state::{LONGEST_TIMEOUT, POLICIES, State, Timeouts, Verdict, ct_state, packet_state};
pub use store::{ConnRef, Traffic};
pub use syncookie::{Cookie, CookieSecret};
pub use table::{Config, Conntrack, Reserve, Stats, ZonePolicy};
pub use tuple::{Direction, Family, Key, Tags, Tuple, protocol};
