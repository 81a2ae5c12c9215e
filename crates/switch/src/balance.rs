//! Load balancers as forwarding knows them: a virtual address and port, members, and which of them gets the next connection.
//!
//! Control makes them and says which members are healthy; the slow path chooses. What changes while they are in use (health, sums) is in cells that both
//! sides share, so that it takes effect for the next connection without a new configuration.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use crate::conntrack::Direction;
use crate::frame::PortIndex;
use crate::snapshot::NetworkId;

/// Most members of a load balancer: all are looked at for a new connection.
pub const MEMBERS_MAX: usize = 128;
/// Largest weight.
pub const WEIGHT_MAX: u16 = 256;

/// Something that several threads look at. It is equal to itself only.
#[derive(Debug, Default)]
pub struct Shared<T>(Arc<T>);

impl<T> Shared<T> {
    /// Shares a value.
    pub fn new(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Eq for Shared<T> {}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// How a member is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// By the sender's address: weighted rendezvous hashing (Thaler and Ravishankar 1998; weights as in draft-ietf-bess-weighted-hrw). The same on every node, and
    /// a member that goes moves its own senders only.
    SourceHash,
    /// The member with the fewest live connections for its weight.
    LeastConnections,
    /// One after the other, as often as the weights say (smooth weighted round-robin, as in nginx).
    RoundRobin,
}

impl Algorithm {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SourceHash => "source-hash",
            Self::LeastConnections => "least-connections",
            Self::RoundRobin => "round-robin",
        }
    }
}

/// What is known of a member while it is in use.
#[derive(Debug, Default)]
pub struct MemberState {
    /// It was found not to answer.
    down: AtomicBool,
    /// Credit in the round robin.
    credit: AtomicI64,
    connections: AtomicU64,
    packets: [AtomicU64; 2],
    bytes: [AtomicU64; 2],
}

/// Sums of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberSums {
    /// Connections that were given to it.
    pub connections: u64,
    /// Packets to it, and from it.
    pub packets: [u64; 2],
    /// Bytes of these.
    pub bytes: [u64; 2],
}

impl MemberState {
    /// Whether it may get connections, as far as probes know.
    pub fn is_up(&self) -> bool {
        !self.down.load(Relaxed)
    }

    /// Says whether it may get connections, from the next one on.
    pub fn set_up(&self, up: bool) {
        self.down.store(!up, Relaxed);
    }

    /// Counts a packet of one of its connections. For any lcore.
    pub fn count(&self, direction: Direction, bytes: u32) {
        let at = direction as usize;
        self.packets[at].fetch_add(1, Relaxed);
        self.bytes[at].fetch_add(bytes.into(), Relaxed);
    }

    /// Counts a connection.
    pub fn opened(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// Its sums.
    pub fn sums(&self) -> MemberSums {
        let read = |cells: &[AtomicU64; 2]| [cells[0].load(Relaxed), cells[1].load(Relaxed)];
        MemberSums {
            connections: self.connections.load(Relaxed),
            packets: read(&self.packets),
            bytes: read(&self.bytes),
        }
    }
}

/// A server behind a virtual address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The network that it is on.
    pub network: NetworkId,
    /// Its share, 0 to [`WEIGHT_MAX`]; without one it gets no new connection.
    pub weight: u16,
    /// It gets no new connection and keeps those that it has.
    pub draining: bool,
    /// The number that its connections carry in the connection table, not 0.
    pub slot: u16,
    /// What is known of it.
    pub state: Shared<MemberState>,
}

impl Member {
    /// Whether it may get a new connection.
    pub fn is_open(&self) -> bool {
        self.weight > 0 && !self.draining && self.state.is_up()
    }
}

/// What is counted of a load balancer.
#[derive(Debug, Default)]
pub struct BalancerState {
    refused: AtomicU64,
}

impl BalancerState {
    /// Counts a packet that no member could get.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Packets that no member could get; their senders were told.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

/// A virtual address and port, and who serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancer {
    /// Its name.
    pub name: Arc<str>,
    /// The zone of the connection table that its connections are in, and no others.
    pub zone: u16,
    /// The virtual address.
    pub address: IpAddr,
    /// IP protocol: TCP or UDP.
    pub proto: u8,
    /// The port that is called.
    pub port: u16,
    /// How a member is chosen.
    pub algorithm: Algorithm,
    /// The members, at most [`MEMBERS_MAX`], all of the family of the address.
    pub members: Vec<Member>,
    /// What is counted.
    pub state: Shared<BalancerState>,
}

impl Balancer {
    /// The member for a new connection of a sender; `live` is how many connections the member of a slot has. With `dry` nothing changes: the next
    /// connection gets the same one.
    pub fn choose(&self, sender: IpAddr, live: impl Fn(u16) -> u32, dry: bool) -> Option<&Member> {
        let open = || self.members.iter().filter(|member| member.is_open());
        match self.algorithm {
            Algorithm::SourceHash => {
                let sender = folded(sender);
                let score = |member: &&Member| score(sender, member);
                open().max_by(|one, other| score(one).total_cmp(&score(other)))
            }
            Algorithm::LeastConnections => {
                // Of those with as few for their weight, the one whose turn it is.
                let load =
                    |member: &Member| (u64::from(live(member.slot)) + 1, u64::from(member.weight));
                let less = |(one, its): (u64, u64), (other, others)| one * others < other * its;
                let mut least: Option<(u64, u64)> = None;
                for member in open() {
                    if least.is_none_or(|least| less(load(member), least)) {
                        least = Some(load(member));
                    }
                }
                let least = least?;
                turn(open().filter(|member| !less(least, load(member))), dry)
            }
            Algorithm::RoundRobin => turn(open(), dry),
        }
    }

    /// The member that has an address and port.
    pub fn member(&self, address: IpAddr, port: u16) -> Option<&Member> {
        let mut members = self.members.iter();
        members.find(|member| (member.address, member.port) == (address, port))
    }
}

/// Whose turn it is: everyone gets his weight as credit, and the richest one pays for all.
fn turn<'a>(members: impl Iterator<Item = &'a Member> + Clone, dry: bool) -> Option<&'a Member> {
    let credit = |member: &Member| member.state.credit.load(Relaxed);
    let of = |member: &Member| credit(member) + i64::from(member.weight);
    let mut next: Option<&Member> = None;
    let mut all = 0;
    for member in members.clone() {
        all += i64::from(member.weight);
        if next.is_none_or(|next| of(next) < of(member)) {
            next = Some(member);
        }
    }
    let next = next?;
    if !dry {
        for member in members {
            // What was saved up while others were away is bounded by what all get in a round.
            let pays = if std::ptr::eq(member, next) { all } else { 0 };
            let credit = (of(member) - pays).clamp(-all, all);
            member.state.credit.store(credit, Relaxed);
        }
    }
    Some(next)
}

/// An address in 64 bits.
fn folded(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            mix((bits >> 64) as u64) ^ bits as u64
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit of the answer depends on every bit of the number.
fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// How much a member wants a sender. Each is drawn by itself, so that others come and go without a change of it; the logarithm makes shares of weights.
fn score(sender: u64, member: &Member) -> f64 {
    let name = mix(folded(member.address)) ^ mix(u64::from(member.port) | 1 << 32);
    // Above 0 and below 1.
    let drawn = ((mix(mix(sender) ^ name) >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    -f64::from(member.weight) / drawn.ln()
}

/// Who is behind a virtual address, by protocol and port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualAddress {
    /// Its load balancers.
    pub balancers: Vec<Arc<Balancer>>,
}

/// The members whose packets come by a network: some are answers, which come from the virtual address then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answering {
    /// By the members' addresses.
    pub members: std::collections::HashMap<IpAddr, Vec<Arc<Balancer>>>,
    /// Ports of this node that members are known to be at. Others' frames are not theirs, unless [`Self::anywhere`].
    pub ports: std::collections::HashSet<PortIndex>,
    /// Some are behind tunnels.
    pub remote: bool,
    /// Of some it is not known where they are.
    pub anywhere: bool,
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
