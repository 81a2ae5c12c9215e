//! What happened to objects, in order, for whoever wants to follow. The last 1024 events are kept;
//! a reader that was away longer sees the gap in the numbers.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// An object was made.
    Created,
    /// An object was changed.
    Changed,
    /// An object was deleted.
    Deleted,
    /// The data plane refused a stored object; it is kept and tried again.
    Failed,
    /// A failed object is in service now.
    Recovered,
    /// A front end connected, or an interface came up.
    Up,
    /// A front end went away, or an interface went down.
    Down,
    /// A flood of SYNs to a port began.
    Flooded,
    /// It is over.
    Calm,
}

/// One thing that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Number, from 1, without gaps.
    pub seq: u64,
    /// When, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// What.
    pub what: What,
    /// To which object: kind and name.
    pub object: String,
    /// More about it, empty if there is nothing to say.
    pub detail: String,
}

const KEPT: usize = 1024;

/// The last events.
#[derive(Debug, Default)]
pub struct Events {
    last: VecDeque<Event>,
    seq: u64,
}

impl Events {
    /// Notes an event.
    pub fn note(&mut self, what: What, object: impl Into<String>, detail: impl Into<String>) {
        self.seq += 1;
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        // A clock before 1970 gives 0; events are ordered by number, not by time.
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.last.push_back(Event {
            seq: self.seq,
            unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            what,
            object: object.into(),
            detail: detail.into(),
        });
    }

    /// Events with a number above `since`, oldest first.
    pub fn since(&self, since: u64) -> impl Iterator<Item = &Event> {
        self.last.iter().filter(move |e| e.seq > since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_and_numbers_all() {
        let mut events = Events::default();
        for i in 0..2000 {
            events.note(What::Created, format!("port p{i}"), "");
        }
        assert_eq!(events.since(0).count(), KEPT);
        assert_eq!(events.since(0).next().unwrap().seq, 2000 - KEPT as u64 + 1);
        assert_eq!(
            events
                .since(1999)
                .map(|e| e.object.as_str())
                .collect::<Vec<_>>(),
            ["port p1999"]
        );
    }
}
