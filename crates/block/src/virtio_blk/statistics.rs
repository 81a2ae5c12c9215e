//! What a queue counts. One writer, the lcore that polls it; anybody reads.

use sumeru_engine::Counter;

/// The cells of one queue. They go on counting when the queue is stopped and started again.
#[derive(Debug, Default)]
pub struct QueueStatistics {
    /// Reads that ended well.
    pub reads: Counter,
    /// Bytes that they moved.
    pub read_bytes: Counter,
    /// Writes that ended well.
    pub writes: Counter,
    /// Bytes that they moved.
    pub written_bytes: Counter,
    /// Flushes that ended well.
    pub flushes: Counter,
    /// Discards and write-zeroes that ended well.
    pub unmaps: Counter,
    /// GET_ID requests.
    pub identifies: Counter,
    /// Requests that failed in the device.
    pub errors: Counter,
    /// Requests refused because they make no sense.
    pub refused: Counter,
    /// Requests found in flight after a restart and submitted again.
    pub resubmitted: Counter,
    /// Notifications sent to the driver.
    pub notifications: Counter,
    /// Times the queue was halted because the ring was malformed.
    pub halts: Counter,
}

/// One reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueReport {
    /// Reads that ended well.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes that ended well.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards and write-zeroes.
    pub unmaps: u64,
    /// GET_ID requests.
    pub identifies: u64,
    /// Requests failed by the device.
    pub errors: u64,
    /// Requests refused.
    pub refused: u64,
    /// Requests submitted again after a restart.
    pub resubmitted: u64,
    /// Notifications sent.
    pub notifications: u64,
    /// Times halted.
    pub halts: u64,
}

impl QueueStatistics {
    /// The values now; not all of the same moment.
    pub fn report(&self) -> QueueReport {
        QueueReport {
            reads: self.reads.get(),
            read_bytes: self.read_bytes.get(),
            writes: self.writes.get(),
            written_bytes: self.written_bytes.get(),
            flushes: self.flushes.get(),
            unmaps: self.unmaps.get(),
            identifies: self.identifies.get(),
            errors: self.errors.get(),
            refused: self.refused.get(),
            resubmitted: self.resubmitted.get(),
            notifications: self.notifications.get(),
            halts: self.halts.get(),
        }
    }
}
