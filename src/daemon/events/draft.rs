//! An event before it has a number and a time.

use crate::control::event::{Event, EventKind, Level};

/// What happened, to whom, and what it means.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    pub level: Level,
    pub kind: EventKind,
    pub code: Option<String>,
    pub pool: Option<String>,
    pub subject: String,
    pub message: String,
}

impl Draft {
    /// Something that is as it should be.
    pub fn info(kind: EventKind, pool: &str, subject: &str, message: impl Into<String>) -> Draft {
        let (pool, subject) = (Some(pool.to_owned()), subject.to_owned());
        Draft { level: Level::Info, kind, code: None, pool, subject, message: message.into() }
    }

    /// Something that `explain` has more about.
    pub fn coded(
        code: &str,
        level: Level,
        kind: EventKind,
        pool: &str,
        subject: &str,
        message: impl Into<String>,
    ) -> Draft {
        Draft { level, code: Some(code.to_owned()), ..Draft::info(kind, pool, subject, message) }
    }

    /// Something about the daemon itself.
    pub fn daemon(kind: EventKind, message: impl Into<String>) -> Draft {
        Draft { pool: None, ..Draft::info(kind, "", "daemon", message) }
    }

    pub fn numbered(self, seq: u64, time_unix_ns: u64) -> Event {
        let Draft { level, kind, code, pool, subject, message } = self;
        // Names and reasons come from outside: one line each.
        let plain = |text: String| text.replace(char::is_control, " ");
        Event { seq, time_unix_ns, level, kind, code, pool, subject: plain(subject), message: plain(message) }
    }
}
