//! What happened, as it is kept in the state folder and told through the control socket: plain data.

use serde::{Deserialize, Serialize};

/// How much it matters.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Info,
    /// Nothing is lost, and something should be looked at.
    Warning,
    /// Data cannot be read, or changes can no longer be made.
    Critical,
}

/// What kind of thing it was, for programs; additions only.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    DaemonStarted,
    DaemonStopping,
    DaemonStopped,
    PoolMade,
    PoolOpened,
    PoolNotOpened,
    PoolClosed,
    PoolDestroyed,
    PoolState,
    VotesChanged,
    VolumeMade,
    VolumeRenamed,
    VolumeGrown,
    /// It is to have another number of copies, or has it.
    VolumeCopies,
    VolumeDestroyed,
    DriveAdded,
    DriveLeft,
    /// Gone, failed, behind, slow, given up, back, in sync again: the message says which.
    DriveState,
    DriveErrors,
    DriveHealed,
    WorkBegun,
    WorkEnded,
    BlocksLost,
    HealReserve,
    Space,
    Filling,
    /// The same thing happened so often that only the number is kept.
    Repeated,
    /// Of a newer version.
    #[serde(other)]
    Unknown,
}

/// One thing that happened.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Event {
    /// Counts from 1, also across restarts of the daemon.
    pub seq: u64,
    /// When it was noticed, nanoseconds since 1970 (UTC).
    pub time_unix_ns: u64,
    pub level: Level,
    pub kind: EventKind,
    /// What `explain` knows more about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// What it happened to: a drive's, volume's or pool's name, or `daemon`.
    pub subject: String,
    /// One sentence that says what it means for the data.
    pub message: String,
}

/// Events in their order.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct EventPage {
    pub events: Vec<Event>,
    /// The number of the newest event there is; zero: none. Larger than that of the last in `events`: ask again.
    pub newest: u64,
}
