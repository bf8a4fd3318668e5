//! `top`: what goes on now, and what the limit is.
//!
//! Two looks at the daemon's counters make `rates`; `limit` is the sentence about them, `picture` how it looks,
//! `terminal` where it is drawn. Without a terminal, one picture is printed.

mod limit;
mod picture;
mod rates;
mod terminal;

use super::args::TopArgs;
use super::exit::{Ended, Exit};
use super::interrupt::Interrupt;
use super::session::{Session, unexpected};
use crate::control::api::{Failure, Reply, Request};
use crate::control::client::Client;
use crate::control::counters::CountersReport;
use limit::{Limit, limit};
use rates::{Rates, rates};
use serde::Serialize;
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use terminal::{Did, Taken};

/// How long the daemon may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How often signals are looked for, beside keys.
const LOOK: Duration = Duration::from_millis(200);

/// A picture for programs.
#[derive(Serialize)]
struct Document<'a> {
    limit: Limit,
    sentence: &'a str,
    #[serde(flatten)]
    rates: &'a Rates,
}

pub fn run(session: &Session, args: &TopArgs) -> Result<Exit, Ended> {
    let Some(client) = session.daemon()? else {
        let failure = Failure::failed("NO_DAEMON", "no daemon is running: nothing goes on here");
        return Err(Ended::unreachable(failure.with("Start one: drystone serve")));
    };
    let mut view = View { session, client, interval: Duration::from_secs(u64::from(args.interval)) };
    if args.once || session.screen.json || !std::io::stdout().is_terminal() {
        view.once()
    } else {
        view.live()
    }
}

/// Who looks.
struct View<'a> {
    session: &'a Session,
    client: Client,
    interval: Duration,
}

impl View<'_> {
    fn ask(&mut self) -> Result<CountersReport, Ended> {
        match self.client.ask(&Request::Counters, ANSWER_LIMIT) {
            Ok(Reply::Counters(report)) => Ok(report),
            Ok(Reply::Failed(failure)) => Err(failure.into()),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => Err(self.session.went_away(&error)),
        }
    }

    /// One picture as text or JSON.
    fn once(&mut self) -> Result<Exit, Ended> {
        let before = self.ask()?;
        std::thread::sleep(self.interval);
        let rates = rates(&before, &self.ask()?);
        let (limit, sentence) = limit(&rates);
        let screen = &self.session.screen;
        if screen.json {
            screen.document("drystone.top/1", &Document { limit, sentence: &sentence, rates: &rates });
        } else {
            screen.print(&format!("{}\nnow  {sentence}\n", picture::text(&rates)));
        }
        Ok(Exit::Done)
    }

    /// Pictures on the terminal until somebody ends it.
    fn live(&mut self) -> Result<Exit, Ended> {
        let system = |e: &dyn std::fmt::Display| {
            Failure::failed("SYSTEM", format!("the terminal cannot be used: {e}"))
        };
        let mut before = self.ask()?;
        let mut interrupt = Interrupt::hold().map_err(|e| system(&e))?;
        let mut taken = Taken::take().map_err(|e| system(&e))?;
        let mut shown = (Rates::default(), "the first figures are being taken".to_owned());
        let mut next = Instant::now() + self.interval.min(Duration::from_secs(1));
        let mut draw = true;
        loop {
            if draw {
                let drawn = taken.terminal.draw(|frame| picture::draw(frame, &shown.0, &shown.1));
                drawn.map_err(|e| system(&e))?;
            }
            let left = next.saturating_duration_since(Instant::now());
            draw = match terminal::wait(left.min(LOOK)).map_err(|e| system(&e))? {
                Did::Ended => return Ok(Exit::Done),
                Did::Resized => true,
                Did::Nothing => false,
            };
            if interrupt.wait(Duration::ZERO) {
                return Ok(Exit::Done);
            }
            if Instant::now() >= next {
                let after = self.ask()?;
                let rates = rates(&before, &after);
                let (_, sentence) = limit(&rates);
                (shown, before, draw) = ((rates, sentence), after, true);
                next = Instant::now() + self.interval;
            }
        }
    }
}

#[cfg(test)]
mod tests;
