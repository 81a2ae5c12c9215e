//! One place that probes come from: its socket, a stack for each neighbour, and the members under probes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::stack::{FRAME_MAX, Stack};
use super::watch::Watch;
use super::{Change, SLEEP, Vantage};

/// Frames taken in one turn.
const FRAMES: usize = 64;
/// Probes under way at a time.
const ATTEMPTS_MAX: usize = 64;

/// See the module's documentation.
pub struct Site {
    vantage: Vantage,
    socket: Arc<UnixDatagram>,
    /// By neighbour; that of our own address answers questions for it.
    stacks: BTreeMap<IpAddr, Stack>,
    watches: Vec<Watch>,
}

impl Site {
    /// A place without members.
    pub fn new(vantage: &Vantage, socket: UnixDatagram) -> Self {
        Self {
            vantage: Vantage {
                targets: Vec::new(),
                ..vantage.clone()
            },
            socket: Arc::new(socket),
            stacks: BTreeMap::new(),
            watches: Vec::new(),
        }
    }

    /// Whether it is the place of a vantage.
    pub fn is_of(&self, vantage: &Vantage) -> bool {
        (self.vantage.network, self.vantage.source) == (vantage.network, vantage.source)
    }

    /// The network.
    pub fn network(&self) -> u32 {
        self.vantage.network
    }

    /// What becomes readable when a frame comes.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes over who is probed. Members that were there before go on; the others begin one after the other within their interval.
    pub fn configure(&mut self, vantage: Vantage, now: Instant) {
        let moved =
            (self.vantage.length, self.vantage.gateway) != (vantage.length, vantage.gateway);
        self.vantage = vantage;
        if moved {
            self.renew();
        }
        let mut before = std::mem::take(&mut self.watches);
        let count = self.vantage.targets.len().max(1) as u32;
        for (target, at) in self.vantage.targets.iter().zip(0..) {
            let known = before.iter().position(|watch| watch.slot() == target.slot);
            let known = known.map(|known| before.swap_remove(known));
            self.watches.push(match known {
                Some(watch) => watch.retargeted(target.clone(), now),
                None => Watch::new(
                    target.clone(),
                    now + target.interval.min(SLEEP) * at / count,
                ),
            });
        }
        for watch in &mut before {
            if let Some(stack) = self.stacks.get_mut(&self.vantage.neighbour(watch.member())) {
                watch.give_up(stack);
            }
        }
        let wanted: Vec<IpAddr> = std::iter::once(self.vantage.source)
            .chain(
                self.watches
                    .iter()
                    .map(|watch| self.vantage.neighbour(watch.member())),
            )
            .collect();
        self.stacks
            .retain(|neighbour, _| wanted.contains(neighbour));
        for neighbour in wanted {
            let new = || Stack::new(&self.vantage, self.socket.clone(), now);
            self.stacks.entry(neighbour).or_insert_with(new);
        }
    }

    /// Begins again with all stacks.
    pub fn renew(&mut self) {
        let now = Instant::now();
        self.watches.iter_mut().for_each(Watch::forget_attempt);
        for stack in self.stacks.values_mut() {
            *stack = Stack::new(&self.vantage, self.socket.clone(), now);
        }
    }

    /// Takes what came, goes on with every probe, begins those that are due. Answers when there is more to do at the latest.
    pub fn turn(&mut self, now: Instant, tell: &Sender<Change>) -> Duration {
        self.receive();
        self.stacks.values_mut().for_each(|stack| stack.poll(now));
        let busy = self.watches.iter().filter(|watch| watch.is_busy()).count();
        let mut room = ATTEMPTS_MAX.saturating_sub(busy);
        let mut sleep = SLEEP;
        for watch in &mut self.watches {
            let neighbour = self.vantage.neighbour(watch.member());
            let Some(stack) = self.stacks.get_mut(&neighbour) else {
                continue;
            };
            if let Some(change) = watch.turn(stack, now, &mut room) {
                // Nobody listens at the end.
                let _ = tell.send(change);
            }
            sleep = sleep.min(watch.due(now));
        }
        for stack in self.stacks.values_mut() {
            sleep = sleep.min(stack.settle(now));
        }
        sleep
    }

    /// Gives frames to the stacks of those who sent them; others' are nobody's.
    fn receive(&mut self) {
        let mut frame = [0; FRAME_MAX];
        for _ in 0..FRAMES {
            let Ok(len) = self.socket.recv(&mut frame) else {
                break;
            };
            let frame = &frame[..len];
            let from = match sender(frame) {
                Some(Sent::By(address)) => self.vantage.neighbour(address),
                Some(Sent::Question) => self.vantage.source,
                None => continue,
            };
            if let Some(stack) = self.stacks.get_mut(&from) {
                stack.hear(frame.to_vec());
            }
        }
    }
}

/// Who sent a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// The host of an address, or the neighbour whose link-layer address it tells.
    By(IpAddr),
    /// Somebody who asks for a link-layer address.
    Question,
}

fn sender(frame: &[u8]) -> Option<Sent> {
    fn bytes<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
        frame.get(at..at + N)?.try_into().ok()
    }
    let v6 = |at| Some(Sent::By(bytes::<16>(frame, at)?.into()));
    match bytes::<2>(frame, 12)? {
        // RFC 826.
        [0x08, 0x06] if bytes(frame, 20)? == [0, 1] => Some(Sent::Question),
        [0x08, 0x06] => Some(Sent::By(bytes::<4>(frame, 28)?.into())),
        [0x08, 0x00] => Some(Sent::By(bytes::<4>(frame, 26)?.into())),
        // RFC 4861 sections 4.3 and 4.4: the target is behind eight bytes.
        [0x86, 0xdd] if bytes(frame, 20)? == [58] => match bytes(frame, 54)? {
            [135] => Some(Sent::Question),
            [136] => v6(62),
            _ => v6(22),
        },
        [0x86, 0xdd] => v6(22),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_their_senders() {
        let mut frame = vec![0; 90];
        frame[12..14].copy_from_slice(&[8, 6]);
        frame[21] = 1;
        assert_eq!(sender(&frame), Some(Sent::Question));
        frame[21] = 2;
        frame[28..32].copy_from_slice(&[10, 0, 0, 1]);
        assert_eq!(sender(&frame), Some(Sent::By([10, 0, 0, 1].into())));
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[20] = 58;
        frame[54] = 136;
        frame[62] = 0xfd;
        let mut told = [0; 16];
        told[0] = 0xfd;
        assert_eq!(sender(&frame), Some(Sent::By(told.into())));
        for len in 0..frame.len() {
            sender(&frame[..len]);
        }
    }
}
