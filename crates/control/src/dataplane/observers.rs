//! Who looks at frames besides those who get them: captures, mirrors and exporters; and how long frames stay.

use serde::Serialize;

use crate::model::FrameSelection;

/// A capture to start.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Capture {
    /// Name, unique among the captures that run.
    pub name: String,
    /// The file; it must not exist.
    pub path: String,
    /// Bytes kept of each frame, 64 ..= 65535.
    pub snaplen: u32,
    /// Ends by itself after so many frames.
    pub max_packets: Option<u64>,
    /// Ends by itself before the file is longer than this.
    pub max_bytes: Option<u64>,
    /// Ends by itself after so many seconds.
    pub max_seconds: Option<u64>,
    /// Which frames are written.
    #[serde(flatten)]
    pub selection: FrameSelection,
}

/// A capture that runs, or what a stopped one came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaptureState {
    /// What was asked for.
    #[serde(flatten)]
    pub capture: Capture,
    /// Frames written.
    pub packets: u64,
    /// Frames that were lost because the writer could not follow.
    pub lost: u64,
    /// Whether it still runs.
    pub running: bool,
}

/// What a mirror is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MirrorState {
    /// Copies sent.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Copies that could not be sent.
    pub lost: u64,
}

/// What an exporter is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ExporterState {
    /// Flows that there are now.
    pub flows: u64,
    /// Packets counted.
    pub packets: u64,
    /// Packets of flows that there was no room for.
    pub unmetered: u64,
    /// Records that the collector was sent.
    pub records: u64,
    /// Records that were lost here: the exporting thread could not follow, or the system did not send them.
    pub lost: u64,
}

/// How long frames stayed in the engine: from before their burst was taken until it was shown to its receivers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ResidenceStats {
    /// The lcore's CPU.
    pub cpu: u16,
    /// Frames by how long they stayed, the shortest first.
    pub classes: Vec<ResidenceClass>,
    /// Nanoseconds of all frames together.
    pub sum_ns: u64,
}

/// Frames that stayed about as long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ResidenceClass {
    /// At most so many nanoseconds, and more than the class before; the last has no bound.
    pub up_to_ns: Option<u64>,
    /// How many.
    pub frames: u64,
}
