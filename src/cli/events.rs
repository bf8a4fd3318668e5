//! `events`: what happened, newest last; with `-f` also what happens from now on.
//!
//! A daemon is asked. Without one, the file in the state folder is read.

use super::args::EventsArgs;
use super::exit::{Ended, Exit};
use super::interrupt::Interrupt;
use super::screen::{Paint, Tone};
use super::session::{Session, unexpected};
use crate::control::api::{Failure, Reply, Request};
use crate::control::client::{Client, ClientError};
use crate::control::event::{Event, EventPage, Level};
use crate::daemon::events::load;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the daemon waits for something to happen, and how long it may take beyond that.
const WAIT: Duration = Duration::from_secs(5);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How often Ctrl-C is looked for.
const LOOK: Duration = Duration::from_millis(100);

pub fn run(session: &Session, args: &EventsArgs) -> Result<Exit, Ended> {
    let wanted = Wanted::new(args);
    let Some(mut client) = session.daemon()? else {
        return without_daemon(session, args, &wanted);
    };
    let mut after = 0;
    loop {
        let page = ask(&mut client, after, Duration::ZERO).map_err(|lost| lost.ended(session))?;
        let more = show(session, &wanted, &page);
        after = page.events.last().map_or(page.newest, |e| e.seq);
        if !more {
            return Ok(Exit::Done);
        }
        if after >= page.newest {
            break;
        }
    }
    if args.follow { follow(session, &wanted, client, after) } else { Ok(Exit::Done) }
}

/// What is in the state folder.
fn without_daemon(session: &Session, args: &EventsArgs, wanted: &Wanted) -> Result<Exit, Ended> {
    let events = load(&session.globals.state);
    show(session, wanted, &EventPage { newest: 0, events });
    match args.follow {
        true => Err(Ended::unreachable(
            Failure::failed("NO_DAEMON", "no daemon is running: nothing more happens here")
                .with("Start one: drystone serve"),
        )),
        false => Ok(Exit::Done),
    }
}

/// Which events are shown.
struct Wanted {
    since_unix_ns: u64,
    pool: Option<String>,
}

impl Wanted {
    fn new(args: &EventsArgs) -> Wanted {
        Wanted {
            since_unix_ns: args.since.map_or(0, |since| since.unix_ns(now_ns())),
            pool: args.pool.clone(),
        }
    }

    fn wants(&self, event: &Event) -> bool {
        let of_pool = self.pool.is_none() || event.pool.is_none() || event.pool == self.pool;
        of_pool && event.time_unix_ns >= self.since_unix_ns
    }
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// What `--since` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    Ago(Duration),
    /// Nanoseconds since 1970.
    At(u64),
}

impl Since {
    fn unix_ns(self, now_ns: u64) -> u64 {
        match self {
            Since::Ago(ago) => now_ns.saturating_sub(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX)),
            Since::At(ns) => ns,
        }
    }
}

/// A duration such as `10m`, or a time, which is UTC unless it says otherwise.
pub fn parse_since(text: &str) -> Result<Since, String> {
    let civil = || {
        let zoned = text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        Some(zoned.timestamp())
    };
    if let Some(time) = text.parse::<jiff::Timestamp>().ok().or_else(civil) {
        return Ok(Since::At(u64::try_from(time.as_nanosecond()).unwrap_or(0)));
    }
    ago(text)
        .map(Since::Ago)
        .ok_or("a duration such as 90s, 10m, 2h, 3d, or a time such as 2026-05-01".to_owned())
}

fn ago(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return None,
    };
    let count: u64 = text[..text.len() - unit.len_utf8()].parse().ok()?;
    Some(Duration::from_secs(count.saturating_mul(seconds)))
}

/// Prints what is wanted of a page; whether anybody still reads.
fn show(session: &Session, wanted: &Wanted, page: &EventPage) -> bool {
    let screen = &session.screen;
    let events = page.events.iter().filter(|e| wanted.wants(e));
    let text: String = match screen.json {
        true => events.map(|e| screen.line("drystone.event/1", e)).collect(),
        false => events.map(|e| line(e, screen.paint)).collect(),
    };
    screen.try_print(&text)
}

/// `time  level  sentence [CODE]`
fn line(event: &Event, paint: Paint) -> String {
    let word = match event.level {
        Level::Info => "info    ".to_owned(),
        Level::Warning => paint.word(Tone::Warning, "WARNING "),
        Level::Critical => paint.word(Tone::Bad, "CRITICAL"),
    };
    let code = event.code.as_ref().map_or(String::new(), |code| format!(" [{code}]"));
    format!("{}  {word}  {}{code}\n", time(event.time_unix_ns), event.message)
}

/// To the second, UTC.
fn time(unix_ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(unix_ns))
        .map_or("unknown".to_owned(), |t| t.strftime("%F %TZ").to_string())
}

/// Why there is no page.
enum Lost {
    Connection(ClientError),
    Answer(Box<Reply>),
}

impl Lost {
    fn ended(self, session: &Session) -> Ended {
        match self {
            Lost::Connection(error) => session.went_away(&error),
            Lost::Answer(reply) => match *reply {
                Reply::Failed(failure) => failure.into(),
                other => unexpected(&other),
            },
        }
    }
}

fn ask(client: &mut Client, after: u64, wait: Duration) -> Result<EventPage, Lost> {
    let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    match client.ask(&Request::Events { after, wait_ms }, wait + ANSWER_LIMIT) {
        Ok(Reply::Events(page)) => Ok(page),
        Ok(other) => Err(Lost::Answer(Box::new(other))),
        Err(error) => Err(Lost::Connection(error)),
    }
}

/// Shows what happens until Ctrl-C, or until the daemon goes away.
fn follow(session: &Session, wanted: &Wanted, client: Client, after: u64) -> Result<Exit, Ended> {
    let system =
        |e: &dyn std::fmt::Display| Failure::failed("SYSTEM", format!("events cannot be followed: {e}"));
    // Held before the thread starts, which inherits it.
    let mut interrupt = Interrupt::hold().map_err(|e| system(&e))?;
    let (sender, pages) = sync_channel(1);
    let listener = std::thread::Builder::new().spawn(move || listen(client, after, &sender));
    listener.map_err(|e| system(&e))?;
    loop {
        match next(&pages) {
            Some(Ok(page)) if !show(session, wanted, &page) => return Ok(Exit::Done),
            Some(Ok(_)) | None => {}
            Some(Err(lost)) => return Err(lost.ended(session)),
        }
        if interrupt.wait(Duration::ZERO) {
            return Ok(Exit::Done);
        }
    }
}

type Heard = Result<EventPage, Lost>;

/// The next page, if it comes soon.
fn next(pages: &Receiver<Heard>) -> Option<Heard> {
    match pages.recv_timeout(LOOK) {
        Ok(heard) => Some(heard),
        Err(RecvTimeoutError::Timeout) => None,
        // The thread says why before it ends.
        Err(RecvTimeoutError::Disconnected) => Some(Err(Lost::Connection(ClientError::Gone))),
    }
}

fn listen(mut client: Client, mut after: u64, pages: &SyncSender<Heard>) {
    loop {
        let heard = ask(&mut client, after, WAIT);
        let last = heard.is_err();
        if let Ok(page) = &heard {
            after = page.events.last().map_or(after, |e| e.seq);
        }
        if pages.send(heard).is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::event::EventKind;

    fn event() -> Event {
        Event {
            seq: 7,
            time_unix_ns: 1_763_164_800_000_000_000,
            level: Level::Warning,
            kind: EventKind::DriveState,
            code: Some("DRIVE_MISSING".into()),
            pool: Some("tank".into()),
            subject: "sda".into(),
            message: "drive sda is gone: every block has all its copies".into(),
        }
    }

    #[test]
    fn a_line_has_the_time_the_level_the_sentence_and_the_code() {
        let expected = "2025-11-15 00:00:00Z  WARNING   drive sda is gone: every block has all its copies \
                        [DRIVE_MISSING]\n";
        assert_eq!(line(&event(), Paint { on: false }), expected);
    }

    #[test]
    fn times_and_durations_are_told_apart() {
        let second = 1_000_000_000;
        let now = 1_763_164_800 * second;
        let expected = [
            ("90s", Some(now - 90 * second)),
            ("10m", Some(now - 600 * second)),
            ("2h", Some(now - 7200 * second)),
            ("1d", Some(now - 86_400 * second)),
            ("2025-11-15", Some(now)),
            ("2025-11-15T00:00:01Z", Some(now + second)),
            ("2025-11-15 01:00:00+01:00", Some(now)),
            ("2025-11-15 00:01", Some(now + 60 * second)),
            ("99999999999999999999d", None),
            ("18446744073709551615d", Some(0)),
            ("", None),
            ("é", None),
            ("5", None),
            ("-5m", None),
            ("yesterday", None),
        ];
        for (text, ns) in expected {
            assert_eq!(parse_since(text).ok().map(|since| since.unix_ns(now)), ns, "{text}");
        }
    }

    #[test]
    fn what_is_about_no_pool_is_about_all() {
        let wanted = |pool: &str| Wanted { since_unix_ns: 0, pool: Some(pool.into()) };
        assert!(wanted("tank").wants(&event()) && !wanted("other").wants(&event()));
        assert!(wanted("other").wants(&Event { pool: None, ..event() }));
        let later = Wanted { since_unix_ns: event().time_unix_ns + 1, pool: None };
        assert!(!later.wants(&event()));
    }
}
