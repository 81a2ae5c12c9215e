//! One member under probes: when the next is due, what the one under way has come to, and what follows of several.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use smoltcp::iface::SocketHandle;

use super::http::{LINE_MAX, Status, status};
use super::stack::Stack;
use super::{Change, Check, Target};

/// A probe under way.
struct Attempt {
    connection: SocketHandle,
    until: Instant,
    asked: bool,
    answer: Vec<u8>,
}

/// See the module's documentation.
pub struct Watch {
    target: Target,
    next: Instant,
    attempt: Option<Attempt>,
    /// Probes in a row that came to the contrary of what is believed.
    contrary: u8,
}

impl Watch {
    /// Begins with a probe at a time.
    pub fn new(target: Target, next: Instant) -> Self {
        Self {
            target,
            next,
            attempt: None,
            contrary: 0,
        }
    }

    /// Goes on with another word on how. A shorter interval begins now.
    pub fn retargeted(self, target: Target, now: Instant) -> Self {
        Self {
            next: self.next.min(now + target.interval),
            target,
            ..self
        }
    }

    /// The member's number.
    pub fn slot(&self) -> u16 {
        self.target.slot
    }

    /// The member's address.
    pub fn member(&self) -> IpAddr {
        self.target.member.ip()
    }

    /// A probe is under way.
    pub fn is_busy(&self) -> bool {
        self.attempt.is_some()
    }

    /// Ends a probe under way.
    pub fn give_up(&mut self, stack: &mut Stack) {
        if let Some(attempt) = self.attempt.take() {
            stack.end(attempt.connection);
        }
    }

    /// Its connection is gone with the stack.
    pub fn forget_attempt(&mut self) {
        self.attempt = None;
    }

    /// When it has something to do at the latest.
    pub fn due(&self, now: Instant) -> Duration {
        let at = self
            .attempt
            .as_ref()
            .map_or(self.next, |attempt| attempt.until);
        at.saturating_duration_since(now)
    }

    /// Goes on with a probe, or begins one if there is room for another. What that changes.
    pub fn turn(&mut self, stack: &mut Stack, now: Instant, room: &mut usize) -> Option<Change> {
        let Some(attempt) = &mut self.attempt else {
            if now >= self.next {
                self.begin(stack, now, room);
            }
            return None;
        };
        let result = attempt.look(&self.target.check, stack);
        let result = match result {
            None if now >= attempt.until => Err("no answer in time"),
            None => return None,
            Some(result) => result,
        };
        stack.end(attempt.connection);
        self.attempt = None;
        self.note(result)
    }

    fn begin(&mut self, stack: &mut Stack, now: Instant, room: &mut usize) {
        // If there are too many, it is tried again in a moment.
        let left = room.checked_sub(1);
        let connection = left.and_then(|_| stack.connect(self.member(), self.target.port));
        let (Some(connection), Some(left)) = (connection, left) else {
            self.next = now + Duration::from_millis(10);
            return;
        };
        *room = left;
        self.next = now + self.target.interval;
        self.attempt = Some(Attempt {
            connection,
            until: now + self.target.timeout,
            asked: false,
            answer: Vec::new(),
        });
    }

    fn note(&mut self, result: Result<(), &'static str>) -> Option<Change> {
        let target = &self.target;
        let up = result.is_ok();
        if target.state.is_up() == up {
            self.contrary = 0;
            return None;
        }
        self.contrary = self.contrary.saturating_add(1);
        let needed = if up { target.rise } else { target.fall };
        if self.contrary < needed {
            return None;
        }
        self.contrary = 0;
        target.state.set_up(up);
        Some(Change {
            balancer: target.balancer.clone(),
            member: target.member,
            slot: target.slot,
            up,
            why: result.err().unwrap_or("it answers"),
        })
    }
}

impl Attempt {
    /// What it has come to, if it has.
    fn look(&mut self, check: &Check, stack: &mut Stack) -> Option<Result<(), &'static str>> {
        let connection = stack.connection(self.connection);
        if !connection.is_open() && self.answer.is_empty() && !connection.can_recv() {
            let asked = self.asked;
            return Some(Err(match asked {
                true => "the connection ended without an answer",
                false => "the connection was refused",
            }));
        }
        let Check::Http { request, codes } = check else {
            return connection.may_send().then_some(Ok(()));
        };
        if connection.may_send() && !self.asked {
            // A request is shorter than the buffer, which is empty.
            self.asked = connection.send_slice(request) == Ok(request.len());
        }
        while connection.can_recv() && self.answer.len() < LINE_MAX {
            let room = LINE_MAX - self.answer.len();
            let answer = &mut self.answer;
            let read = connection.recv(|bytes| {
                let taken = bytes.len().min(room);
                answer.extend_from_slice(&bytes[..taken]);
                (taken, ())
            });
            read.ok()?;
        }
        match status(&self.answer) {
            Status::Code(code) if codes.contains(&code) => Some(Ok(())),
            Status::Code(_) => Some(Err("another status code")),
            Status::Malformed => Some(Err("no answer by HTTP")),
            Status::Partial if !connection.may_recv() && self.asked => {
                Some(Err("the connection ended without an answer"))
            }
            Status::Partial => None,
        }
    }
}
