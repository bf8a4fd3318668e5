//! Who executes a request: the daemon if there is one, this process otherwise.
//!
//! A socket that does not exist or refuses means that no daemon runs, unless a process holds the state folder. One
//! that does not listen soon cannot be asked, and working beside it would be wrong: the command ends (exit 4).
//! A change is sent only after the daemon has answered something, so that "no answer" means "nothing was done".

use super::args::Globals;
use super::exit::Ended;
use super::screen::Screen;
use crate::control::api::{Failure, PoolReport, Reply, Request, StatusReport, VolumeReport};
use crate::control::client::{Client, ClientError};
use crate::control::presence;
use crate::daemon;
use std::time::{Duration, Instant};

/// How long a daemon may take to answer a question.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How long it may take to make a change, after which the change goes on without us.
const CHANGE_LIMIT: Duration = Duration::from_secs(120);

/// How long to wait for another command that works with the same state folder.
const TURN_LIMIT: Duration = Duration::from_secs(20);

/// How long to wait for a daemon that holds the state folder and does not listen yet: it is starting.
const START_LIMIT: Duration = Duration::from_secs(5);

/// One command's way to whoever executes requests.
pub struct Session {
    pub globals: Globals,
    pub screen: Screen,
}

impl Session {
    pub fn new(globals: Globals) -> Session {
        let screen = Screen::new(globals.json);
        Session { globals, screen }
    }

    /// Has a request executed.
    pub fn ask(&self, request: &Request) -> Result<Reply, Ended> {
        let reply = match self.daemon()? {
            Some(client) => self.ask_daemon(client, request)?,
            None => daemon::execute_offline(&self.globals.state, request.clone()),
        };
        match reply {
            Reply::Failed(failure) => Err(failure.into()),
            Reply::Done { .. }
            | Reply::Status(_)
            | Reply::Pools { .. }
            | Reply::Volumes { .. }
            | Reply::Disk(_)
            | Reply::Bench { .. }
            | Reply::Events(_)
            | Reply::Counters(_) => Ok(reply),
        }
    }

    /// A connection to the daemon; None if none runs and this process may do the work.
    pub fn daemon(&self) -> Result<Option<Client>, Ended> {
        let began = Instant::now();
        loop {
            match Client::connect(&self.globals.control) {
                Ok(client) => return Ok(Some(client)),
                Err(ClientError::NoDaemon) => {}
                Err(error) => return Err(self.unreachable(&error.to_string())),
            }
            let Some(holder) = presence::holder(&self.globals.state) else { return Ok(None) };
            let limit = if holder.starts_with("command") { TURN_LIMIT } else { START_LIMIT };
            if began.elapsed() >= limit {
                return Err(self.deaf(&holder));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn ask_daemon(&self, mut client: Client, request: &Request) -> Result<Reply, Ended> {
        if request.is_read_only() {
            return client.ask(request, ANSWER_LIMIT).map_err(|e| self.unreachable(&e.to_string()));
        }
        let first = client.ask(&Request::PoolList, ANSWER_LIMIT);
        first.map_err(|e| self.unreachable(&e.to_string()))?;
        client.ask(request, CHANGE_LIMIT).map_err(|error| match error {
            ClientError::Silent(limit) => Ended::interrupted(
                Failure::failed(
                    "STILL_WORKING",
                    format!("the daemon is still at it after {} s", limit.as_secs()),
                )
                .with("it goes on; `drystone status` shows how far it is"),
            ),
            ClientError::NoDaemon | ClientError::Socket(_) | ClientError::Gone | ClientError::Garbage(_) => {
                let sentence = format!("the daemon went away while it made the change: {error}");
                let look = "whether it was made is not known: look with `drystone status`";
                Ended::unreachable(Failure::failed("DAEMON_LOST", sentence).with(look))
            }
        })
    }

    fn unreachable(&self, reason: &str) -> Ended {
        let socket = self.globals.control.display();
        let failure = Failure::failed(
            "DAEMON_UNREACHABLE",
            format!("the daemon at {socket} cannot be asked: {reason}"),
        )
        .with("Nothing was written.")
        .with("is it the right one? --control SOCKET (or DRYSTONE_CONTROL); may you use it? try with sudo");
        Ended::unreachable(failure)
    }

    /// The daemon ended while it was looked at.
    pub fn went_away(&self, error: &ClientError) -> Ended {
        let message = format!("the daemon at {} went away: {error}", self.globals.control.display());
        Ended::unreachable(
            Failure::failed("DAEMON_GONE", message)
                .with("what happened before is still there: drystone events"),
        )
    }

    fn deaf(&self, holder: &str) -> Ended {
        let (state, socket) = (self.globals.state.display(), self.globals.control.display());
        let message = format!("{holder} works with {state}, but nobody listens on {socket}");
        let failure = Failure::failed("DAEMON_DEAF", message)
            .with("Nothing was written.")
            .with("a daemon that listens elsewhere: --control SOCKET (or DRYSTONE_CONTROL)")
            .with("one that hangs: end it by its number, then try again");
        Ended::unreachable(failure)
    }

    /// Executes a change and prints what was done.
    pub fn change(&self, request: &Request) -> Result<(), Ended> {
        match self.ask(request)? {
            Reply::Done { message } if self.screen.json => {
                self.screen.document("drystone.done/1", &serde_json::json!({ "message": message }));
            }
            Reply::Done { message } => self.screen.print(&format!("{}\n", message.trim_end())),
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    pub fn status(&self, pool: Option<&String>) -> Result<StatusReport, Ended> {
        match self.ask(&Request::Status { pool: pool.cloned() })? {
            Reply::Status(report) => Ok(report),
            other => Err(unexpected(&other)),
        }
    }

    pub fn pools(&self, request: &Request) -> Result<Vec<PoolReport>, Ended> {
        match self.ask(request)? {
            Reply::Pools { pools } => Ok(pools),
            other => Err(unexpected(&other)),
        }
    }

    pub fn volumes(&self, request: &Request) -> Result<Vec<VolumeReport>, Ended> {
        match self.ask(request)? {
            Reply::Volumes { volumes } => Ok(volumes),
            other => Err(unexpected(&other)),
        }
    }
}

/// An answer to another question: two versions that do not fit together.
pub fn unexpected(reply: &Reply) -> Ended {
    let kind = match reply {
        Reply::Done { .. } => "done",
        Reply::Status(_) => "status",
        Reply::Pools { .. } => "pools",
        Reply::Volumes { .. } => "volumes",
        Reply::Disk(_) => "disk",
        Reply::Bench { .. } => "bench",
        Reply::Failed(_) => "failed",
        Reply::Events(_) => "events",
        Reply::Counters(_) => "counters",
    };
    let message = format!("the daemon answered another question (`{kind}`)");
    Failure::failed("ANSWER_UNEXPECTED", message)
        .with("are the daemon and this program of the same version?")
        .into()
}
