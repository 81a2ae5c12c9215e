//! The table as bytes, to outlive an orderly restart of the process.
//!
//! Little endian: magic, version, blocks of at most 256 records of 192 bytes each behind their number, an empty block, the number of records, a checksum
//! over everything before it. Only connections that are open or closing are kept. Reading trusts nothing: a bad file is refused as a whole.

use std::io::{self, Read, Write};

use super::splice::Splice;
use super::state::{POLICIES, STATES, State};
use super::store::{Cold, Hot, Peer, Traffic, flag, tcp_bit, traffic};
use super::table::Conntrack;
use super::tuple::{Direction, Family, Half, protocol};

const MAGIC: &[u8; 8] = b"SUMERUCT";
const VERSION: u32 = 1;
const BLOCK: usize = 256;
const RECORD: usize = 192;

/// What was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Restored {
    /// Connections that live on.
    pub connections: u64,
    /// Connections that ended meanwhile, whose owner is gone, or for which there is no room.
    pub skipped: u64,
}

/// A file that is not restored; the table is empty as before.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Reading failed.
    #[error("reading saved connections: {0}")]
    Io(io::Error),
    /// It ends too early.
    #[error("saved connections end too early")]
    Truncated,
    /// It is something else.
    #[error("these are no saved connections")]
    Magic,
    /// It is of a version that is not known.
    #[error("saved connections of version {0}, expected {VERSION}")]
    Version(u32),
    /// A block or the number of records is wrong.
    #[error("saved connections: impossible number of records")]
    Count,
    /// The checksum is wrong.
    #[error("saved connections: wrong checksum")]
    Checksum,
    /// A record cannot be.
    #[error("saved connection {number}: impossible {what}")]
    Record {
        /// Its number, from 0.
        number: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// There are connections already.
    #[error("connections can be restored into an empty table only")]
    NotEmpty,
}

impl From<io::Error> for RestoreError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => RestoreError::Truncated,
            _ => RestoreError::Io(error),
        }
    }
}

/// A checksum against accidents: it takes eight bytes at a time, shorter ends padded.
#[derive(Clone, Copy)]
struct Sum(u64);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let product =
                u128::from(self.0 ^ u64::from_le_bytes(word)) * 0x9e37_79b9_7f4a_7c15_u128;
            self.0 = (product as u64 ^ (product >> 64) as u64).wrapping_add(0x2545_f491_4f6c_dd1d);
        }
    }
}

/// Fields of a record one after the other.
struct Fields<'a>(&'a mut [u8]);

impl Fields<'_> {
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        let (place, rest) = std::mem::take(&mut self.0).split_at_mut(N);
        place.copy_from_slice(&bytes);
        self.0 = rest;
    }
}

struct Reading<'a>(&'a [u8; RECORD], usize);

impl Reading<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.0[self.1..self.1 + N]);
        self.1 += N;
        bytes
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
}

fn write_record(place: &mut [u8], hot: &Hot, cold: &Cold, remaining: u32, age: u64) {
    let mut fields = Fields(place);
    for word in cold
        .original
        .0
        .into_iter()
        .chain(cold.reply.0)
        .chain(cold.label)
    {
        fields.put(word.to_le_bytes());
    }
    fields.put(age.to_le_bytes());
    for direction in [Direction::Original, Direction::Reply] {
        let Traffic { packets, bytes } = traffic(hot, cold, direction);
        fields.put(packets.to_le_bytes());
        fields.put(bytes.to_le_bytes());
    }
    for peer in hot.peers {
        for word in [peer.end, peer.max_end, peer.max_window, peer.max_ack] {
            fields.put(word.to_le_bytes());
        }
    }
    for word in [remaining, cold.mark, cold.splice] {
        fields.put(word.to_le_bytes());
    }
    fields.put(cold.owner.to_le_bytes());
    fields.put([
        hot.state as u8,
        hot.flags & !flag::HALF_OPEN,
        hot.policy,
        hot.scales,
        hot.tcp,
    ]);
    fields.put([0; 5]);
}

const _: () = assert!(12 * 8 + 8 + 32 + 32 + 12 + 2 + 5 + 5 == RECORD);

fn read_half(reading: &mut Reading<'_>) -> Result<Half, &'static str> {
    let half = Half(std::array::from_fn(|_| reading.u64()));
    let family = half.0[4] as u8;
    if family != Family::V4 as u8 && family != Family::V6 as u8 {
        return Err("address family");
    }
    let tuple = half.tuple();
    if !tuple.family.holds(tuple.src) || !tuple.family.holds(tuple.dst) {
        return Err("address");
    }
    Ok(half)
}

/// The state of a kept connection of this protocol.
fn read_state(number: u8, proto: u8) -> Result<State, &'static str> {
    let state = STATES
        .into_iter()
        .find(|&state| state as u8 == number && state.is_kept())
        .ok_or("state")?;
    let fits = match state {
        State::UdpReplied | State::UdpStream => matches!(proto, protocol::UDP | protocol::UDP_LITE),
        State::SctpEstablished => proto == protocol::SCTP,
        State::Generic => {
            const OTHERS: [u8; 6] = [
                protocol::UDP,
                protocol::UDP_LITE,
                protocol::TCP,
                protocol::SCTP,
                protocol::ICMP,
                protocol::ICMPV6,
            ];
            !OTHERS.contains(&proto)
        }
        _ => proto == protocol::TCP,
    };
    if fits {
        Ok(state)
    } else {
        Err("state for its protocol")
    }
}

/// The answers' tuple must be the reverse of the opener's but for what is translated.
fn check_halves(original: &Half, reply: &Half, flags: u8) -> Result<(), &'static str> {
    let (plain, reply) = (original.tuple().reversed(), reply.tuple());
    let (snat, dnat) = (
        flags & super::ct_state::SNAT != 0,
        flags & super::ct_state::DNAT != 0,
    );
    let same = (plain.zone, plain.proto, plain.family) == (reply.zone, reply.proto, reply.family);
    if !same
        || !dnat && (plain.src, plain.sport) != (reply.src, reply.sport)
        || !snat && (plain.dst, plain.dport) != (reply.dst, reply.dport)
    {
        return Err("pair of tuples");
    }
    if reply == original.tuple() {
        Err("pair of equal tuples")
    } else {
        Ok(())
    }
}

/// A record, and its remaining milliseconds.
fn read_record(record: &[u8; RECORD], now: u64) -> Result<(Hot, Cold, u32), &'static str> {
    let reading = &mut Reading(record, 0);
    let (original, reply) = (read_half(reading)?, read_half(reading)?);
    let label = [reading.u64(), reading.u64()];
    let created = now.saturating_sub(reading.u64());
    let [(packets, bytes), (answers, answer_bytes)] =
        [(); 2].map(|()| (reading.u64(), reading.u64()));
    if packets >> 48 != 0 || answers >> 48 != 0 {
        return Err("number of packets");
    }
    let peers = [(); 2].map(|()| Peer {
        end: reading.u32(),
        max_end: reading.u32(),
        max_window: reading.u32(),
        max_ack: reading.u32(),
    });
    let (remaining, mark, splice) = (reading.u32(), reading.u32(), reading.u32());
    let owner = u16::from_le_bytes(reading.take());
    let [state, flags, policy, scales, tcp] = reading.take();
    if reading.take() != [0; 5] {
        return Err("rest");
    }
    let proto = original.tuple().proto;
    let state = read_state(state, proto)?;
    check_halves(&original, &reply, flags)?;
    let (known, tcp_bits) = match proto {
        protocol::TCP => (
            flag::REPLIED | flag::NAT | flag::LIBERAL | flag::SPLICED,
            3 * (tcp_bit::FIN | tcp_bit::ACKED_SYN),
        ),
        protocol::SCTP => (flag::REPLIED | flag::NAT | flag::LIBERAL, 3 * tcp_bit::TAG),
        _ => (flag::REPLIED | flag::NAT | flag::LIBERAL, 0),
    };
    if flags & !known != 0 || tcp & !tcp_bits != 0 {
        return Err("flags");
    }
    if flags & flag::SPLICED != 0 && !Splice::label_is_good(label) {
        return Err("splice");
    }
    if scales & 15 == 15
        || scales >> 4 == 15
        || proto != protocol::TCP && scales != 0
        || peers.iter().any(|peer| peer.max_window > 65_535 << 14)
    {
        return Err("window");
    }
    if usize::from(policy) >= POLICIES {
        return Err("timeout policy");
    }
    let hot = Hot {
        state,
        flags,
        policy,
        scales,
        tcp,
        packets: [packets as u32, answers as u32],
        bytes: [bytes as u32, answer_bytes as u32],
        peers,
        ..Hot::FREE
    };
    let cold = Cold {
        original,
        reply,
        created,
        mark,
        splice,
        label,
        owner,
        packet_carries: [(packets >> 32) as u16, (answers >> 32) as u16],
        byte_carries: [(bytes >> 32) as u32, (answer_bytes >> 32) as u32],
        member: 0,
    };
    Ok((hot, cold, remaining))
}

impl Conntrack {
    /// Writes the connections that outlive a restart. Returns how many.
    ///
    /// # Errors
    /// When writing fails.
    pub fn save(&self, now: u64, out: &mut impl Write) -> io::Result<u64> {
        let mut sum = Sum(0);
        let mut write = |bytes: &[u8]| {
            sum.add(bytes);
            out.write_all(bytes).map(|()| sum.0)
        };
        write(MAGIC)?;
        write(&VERSION.to_le_bytes())?;
        let mut block = vec![0; BLOCK * RECORD];
        let (mut filled, mut total) = (0, 0_u64);
        for (index, (hot, cold)) in self.hot.iter().zip(&self.cold).enumerate() {
            if !hot.state.is_kept() || self.is_expired(index as u32, now) {
                continue;
            }
            let timeout = self.timeouts[usize::from(hot.policy) % POLICIES].get(hot.state) as i32;
            let remaining = timeout.saturating_sub(hot.silence(now)).clamp(0, timeout) as u32;
            let place = filled * RECORD;
            write_record(
                &mut block[place..place + RECORD],
                hot,
                cold,
                remaining,
                now.saturating_sub(cold.created),
            );
            (filled, total) = (filled + 1, total + 1);
            if filled == BLOCK {
                write(&(filled as u32).to_le_bytes())?;
                write(&block)?;
                filled = 0;
            }
        }
        if filled != 0 {
            write(&(filled as u32).to_le_bytes())?;
            write(&block[..filled * RECORD])?;
        }
        write(&0_u32.to_le_bytes())?;
        let checksum = write(&total.to_le_bytes())?;
        out.write_all(&checksum.to_le_bytes())?;
        Ok(total)
    }

    /// Reads connections into an empty table, whose timeout policies are set already. `owner` says which port an owner's number means now. Reads no byte
    /// beyond its own.
    ///
    /// # Errors
    /// What is wrong with the bytes; the table is empty then.
    pub fn restore(
        &mut self,
        now: u64,
        input: &mut impl Read,
        owner: impl FnMut(u16) -> Option<u16>,
    ) -> Result<Restored, RestoreError> {
        if self.stats.live != 0 {
            return Err(RestoreError::NotEmpty);
        }
        let answer = self.read_all(now, input, owner);
        if answer.is_err() {
            for index in 0..self.hot.len() {
                if self.hot[index].state != State::Free {
                    self.remove(index as u32);
                }
            }
        }
        answer
    }

    fn read_all(
        &mut self,
        now: u64,
        input: &mut impl Read,
        mut owner: impl FnMut(u16) -> Option<u16>,
    ) -> Result<Restored, RestoreError> {
        let mut sum = Sum(0);
        let mut read = |place: &mut [u8]| -> Result<u64, RestoreError> {
            input.read_exact(place)?;
            let before = sum.0;
            sum.add(place);
            Ok(before)
        };
        let (mut magic, mut word) = ([0; 8], [0; 4]);
        read(&mut magic)?;
        if magic != *MAGIC {
            return Err(RestoreError::Magic);
        }
        read(&mut word)?;
        if u32::from_le_bytes(word) != VERSION {
            return Err(RestoreError::Version(u32::from_le_bytes(word)));
        }
        let mut block = vec![0; BLOCK * RECORD];
        let mut restored = Restored::default();
        loop {
            let number = restored.connections + restored.skipped;
            read(&mut word)?;
            let count = u32::from_le_bytes(word) as usize;
            if count == 0 {
                break;
            }
            if count > BLOCK {
                return Err(RestoreError::Count);
            }
            read(&mut block[..count * RECORD])?;
            let (records, _) = block[..count * RECORD].as_chunks::<RECORD>();
            for (place, record) in records.iter().enumerate() {
                let bad = |what| RestoreError::Record {
                    number: number + place as u64,
                    what,
                };
                let (hot, cold, remaining) = read_record(record, now).map_err(bad)?;
                let known = match owner(cold.owner) {
                    Some(owner) => self
                        .revive(hot, Cold { owner, ..cold }, remaining, now)
                        .map_err(bad)?,
                    None => false,
                };
                restored.connections += u64::from(known);
                restored.skipped += u64::from(!known);
            }
        }
        let (mut total, mut checksum) = ([0; 8], [0; 8]);
        read(&mut total)?;
        if u64::from_le_bytes(total) != restored.connections + restored.skipped {
            return Err(RestoreError::Count);
        }
        let expected = read(&mut checksum)?;
        if u64::from_le_bytes(checksum) != expected {
            Err(RestoreError::Checksum)
        } else {
            Ok(restored)
        }
    }

    /// Enters a connection that was read. `Ok(false)`: its time is over or there is no room.
    fn revive(
        &mut self,
        hot: Hot,
        cold: Cold,
        remaining: u32,
        now: u64,
    ) -> Result<bool, &'static str> {
        let keys = [self.key_of(cold.original), self.key_of(cold.reply)];
        if keys.iter().any(|key| self.entry(key).is_some()) {
            return Err("second connection of a tuple");
        }
        let timeout = self.timeouts[usize::from(hot.policy) % POLICIES].get(hot.state);
        let remaining = remaining.min(timeout);
        if remaining == 0 {
            return Ok(false);
        }
        let Ok(index) = self.place([&keys[0], &keys[1]]) else {
            return Ok(false);
        };
        let generation = self.hot[index as usize].generation;
        let last_seen = (now as u32).wrapping_sub(timeout - remaining);
        self.hot[index as usize] = Hot {
            generation,
            last_seen,
            ..hot
        };
        self.wheel.link(index, now + u64::from(remaining) + 1);
        self.enter(cold.original.zone(), cold.owner);
        self.cold[index as usize] = cold;
        Ok(true)
    }
}
