//! The host's side of NVMe/TCP: one association with a subsystem, and queues to its namespaces.
//!
//! Owns: the handle of an association, its admin queue and its keep-alive timer. `introduction`, `opening`, `identify`
//! and `decoder` decide, `draft` holds the bytes of commands, `link` moves bytes, `queue` is what requests are made
//! with. A controller whose admin queue is lost is lost as a whole: its I/O queues end with the same error.

pub mod decoder;
pub mod discovery;
pub mod draft;
pub mod failure;
pub mod identify;
pub mod introduction;
mod link;
pub mod opening;
mod outbox;
mod queue;
pub mod refusal;

pub use failure::Failure;
pub use identify::{Controller, Namespace};
pub use queue::{Queue, ZeroWish};
pub use refusal::Refusal;

use crate::base::limits::{HANDSHAKE_DEADLINE_NS, REQUESTS_IN_FLIGHT_MAX};
use crate::base::units::Span;
use crate::block::Payload;
use crate::io::driver::Address;
use crate::nvmf::command::Status;
use crate::nvmf::pdu::Digests;
use crate::nvmf::subsystem::DISCOVERY_NQN;
use crate::nvmf::uri::is_nqn;
use crate::reactor::Core;
use crate::reactor::net::Stream;
use decoder::Violation;
use discovery::{Header, RECORD_LEN, Record, TRIES};
use draft::{FABRICS_CAPSULE_MAX, IDENTIFY_LEN, Page};
use futures_util::future::{Either, select};
use identify::NAMESPACES_MAX;
use link::{Data, Link};
use nix::errno::Errno;
use opening::{ADMIN_DEPTH, Answer, Ask, AskData, Opening, Purpose, Step, Wish};
use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;
use uuid::Uuid;

/// Between two looks at whether a controller is ready, or has ended.
const POLL: Duration = Duration::from_millis(2);

/// Keep Alive is not sent more often than this, whatever the timeout.
const KEEP_ALIVE_MIN: Duration = Duration::from_millis(100);

/// How long a controller may take to end in order.
const GOODBYE: Duration = Duration::from_secs(5);

/// How to connect.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Digests to ask for; a controller that does not grant exactly these is refused.
    pub digests: Digests,
    /// I/O queues that may be opened, at most.
    pub queues: u16,
    /// Commands in flight on each of them; more wait their turn. At most `REQUESTS_IN_FLIGHT_MAX`.
    pub depth: usize,
    /// Data up to so many bytes goes behind its command, if the controller takes it there; more has to be asked for.
    pub capsule: u32,
    /// A controller that hears nothing for so long may drop the host; it is told something twice as often. Zero for
    /// no such timer.
    pub keep_alive: Duration,
    /// A controller that leaves commands without any progress for this long is given up.
    pub stall: Duration,
    /// Who this host is: the same for all its connections, and for no other host.
    pub host_id: Uuid,
}

impl HostOptions {
    /// The usual ones, for this host.
    pub fn of(host_id: Uuid) -> HostOptions {
        HostOptions {
            digests: Digests::default(),
            queues: 4,
            depth: REQUESTS_IN_FLIGHT_MAX,
            capsule: u32::MAX,
            keep_alive: Duration::from_secs(5),
            stall: Duration::from_secs(60),
            host_id,
        }
    }
}

/// Why a command, or the whole association, failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HostError {
    #[error("cannot connect: {}", .0.desc())]
    Connect(Errno),
    #[error("the connection broke: {}", .0.desc())]
    Socket(Errno),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server did not answer in time")]
    Stalled,
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("the server broke the protocol: {0}")]
    Violation(#[from] Violation),
    #[error("the server answered: {0}")]
    Command(Failure),
    #[error("the request does not fit the namespace")]
    Invalid,
    #[error("the server does not offer this")]
    NotOffered,
}

/// One association with a subsystem. Clones use the same; it ends when the last one, and the last queue, is dropped.
#[derive(Clone)]
pub struct Host {
    association: Rc<Association>,
}

struct Association {
    core: Core,
    address: Address,
    options: HostOptions,
    wish: Wish,
    opening: Opening,
    controller: Controller,
    admin: Rc<Link>,
    queues_opened: Cell<u16>,
    queues: Queues,
}

/// The I/O queues of an association, as far as they live.
type Queues = Rc<RefCell<Vec<Weak<Link>>>>;

impl Drop for Association {
    fn drop(&mut self) {
        self.end();
    }
}

impl Host {
    /// Connects to a subsystem and opens a controller, within the deadline for negotiations.
    pub async fn connect(
        core: &Core,
        address: Address,
        subsystem: &str,
        options: HostOptions,
    ) -> Result<Host, HostError> {
        let purpose = Purpose::Io { queues: options.queues.max(1) };
        Host::open(core, address, subsystem, purpose, options).await
    }

    /// What the discovery service at an address knows: ways to subsystems, and to other services, which are not asked.
    pub async fn discover(
        core: &Core,
        address: Address,
        options: HostOptions,
    ) -> Result<Vec<Record>, HostError> {
        // The association lives as long as one reading of the log.
        let options = HostOptions { keep_alive: Duration::ZERO, ..options };
        let host = Host::open(core, address, DISCOVERY_NQN, Purpose::Discovery, options).await?;
        let found = in_time(core, host.discovery_log()).await?;
        // What was read counts, also if the controller does not end in order.
        let _ = host.disconnect().await;
        Ok(found)
    }

    async fn open(
        core: &Core,
        address: Address,
        subsystem: &str,
        purpose: Purpose,
        options: HostOptions,
    ) -> Result<Host, HostError> {
        if !is_nqn(subsystem) {
            return Err(HostError::Invalid);
        }
        let wish = wish(subsystem, purpose, &options);
        let (opening, first) = Opening::new(wish.clone());
        let opened = open_controller(core, address.clone(), opening, first, &options);
        let (admin, opening, controller) = in_time(core, opened).await?;
        let (queues, queues_opened) = (Queues::default(), Cell::new(0));
        core.spawn(keep_alive(admin.clone(), queues.clone(), options.keep_alive));
        let core = core.clone();
        let association =
            Association { core, address, options, wish, opening, controller, admin, queues_opened, queues };
        Ok(Host { association: Rc::new(association) })
    }

    /// What the controller said about itself.
    pub fn controller(&self) -> &Controller {
        &self.association.controller
    }

    /// The numbers of the namespaces, ascending.
    pub async fn namespaces(&self) -> Result<Vec<u32>, HostError> {
        let mut found: Vec<u32> = Vec::new();
        loop {
            let last = found.last().copied().unwrap_or(0);
            let page = self.identify(Page::Namespaces, last).await?;
            let more = identify::namespaces(&page, last)?;
            let full = u64::try_from(more.len() * 4) == Ok(IDENTIFY_LEN);
            found.extend(more);
            if found.len() > NAMESPACES_MAX {
                return Err(Refusal::Broken("more namespaces than can be").into());
            }
            if !full {
                return Ok(found);
            }
        }
    }

    /// What a namespace is.
    pub async fn namespace(&self, number: u32) -> Result<Namespace, HostError> {
        let page = match self.identify(Page::Namespace, number).await {
            Err(HostError::Command(failure)) if failure.status == Status::INVALID_NAMESPACE => {
                return Err(Refusal::NoNamespace(number).into());
            }
            other => other?,
        };
        let mut namespace = Namespace::parse(&page, number, self.controller().transfer_max)?;
        if self.controller().has_descriptors() {
            namespace.uuid = match self.identify(Page::Descriptors, number).await {
                Ok(descriptors) => identify::uuid_of(&descriptors)?,
                // Controllers need not have them; then the number is all there is to tell namespaces apart.
                Err(HostError::Command(_)) => None,
                Err(other) => return Err(other),
            };
        }
        Ok(namespace)
    }

    /// Opens another I/O queue, for requests to this namespace.
    pub async fn queue(&self, namespace: &Namespace) -> Result<Queue, HostError> {
        let association = &self.association;
        let number = association.queues_opened.get() + 1;
        if number > self.controller().queues {
            return Err(HostError::NotOffered);
        }
        // A number is not used again: the controller may still hold on to it.
        association.queues_opened.set(number);
        let link = in_time(&association.core, association.open_queue(number)).await?;
        association.queues.borrow_mut().push(Rc::downgrade(&link));
        Ok(Queue::new(link, self.clone(), namespace.clone()))
    }

    /// Ends the association in order: I/O queues first, whose commands end with `Closed`, then the controller is shut
    /// down, which is not waited for for ever.
    pub async fn disconnect(self) -> Result<(), HostError> {
        let association = &self.association;
        association.end_queues(&HostError::Closed);
        let ended = async {
            ask(&association.admin, association.opening.shut_down()).await?;
            while !opening::has_ended(ask(&association.admin, opening::ask_status()).await?.result) {
                association.core.sleep(POLL).await;
            }
            Ok(())
        };
        let outcome = match select(pin!(ended), pin!(association.core.sleep(GOODBYE))).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => Err(HostError::Stalled),
        };
        association.end();
        outcome
    }

    /// The records of one generation of the log.
    async fn discovery_log(&self) -> Result<Vec<Record>, HostError> {
        for _ in 0..TRIES {
            let before = self.discovery_header().await?;
            let mut records = Vec::new();
            for number in 1..=before.records {
                let bytes = self.log(number * RECORD_LEN).await?;
                records.push(Record::parse(&bytes)?);
            }
            if self.discovery_header().await? == before {
                return Ok(records);
            }
        }
        Err(Refusal::Restless.into())
    }

    async fn discovery_header(&self) -> Result<Header, HostError> {
        Ok(Header::parse(&self.log(0).await?)?)
    }

    /// As many bytes of the discovery log as a record has.
    async fn log(&self, offset: u64) -> Result<Vec<u8>, HostError> {
        let len = u32::try_from(RECORD_LEN).expect("1024");
        let draft = draft::discovery_log(offset, len);
        let answer = ask(&self.association.admin, Ask { draft, data: AskData::Receive(RECORD_LEN) });
        Ok(answer.await?.data)
    }

    async fn identify(&self, page: Page, namespace: u32) -> Result<Vec<u8>, HostError> {
        let data = AskData::Receive(IDENTIFY_LEN);
        let answer = ask(&self.association.admin, Ask { draft: draft::identify(page, namespace), data });
        Ok(answer.await?.data)
    }
}

impl Association {
    async fn open_queue(&self, number: u16) -> Result<Rc<Link>, HostError> {
        let stream = Stream::connect(&self.core, self.address.clone()).await.map_err(HostError::Connect)?;
        let terms = link::meet(&stream, self.options.digests).await?;
        let most = usize::from(self.controller.depth_max).min(REQUESTS_IN_FLIGHT_MAX);
        let depth = self.options.depth.clamp(1, most);
        let capsule_max = self.controller.capsule_max.min(self.options.capsule);
        let link = Link::start(stream, terms, capsule_max, depth, &self.options);
        let unused = Unused { link: Some(link.clone()) };
        let entries = u16::try_from(depth).expect("at most REQUESTS_IN_FLIGHT_MAX");
        let asked = opening::connect_queue(&self.wish, self.controller.id, number, entries);
        let answer = connect(&link, asked).await?;
        opening::queue_connected(answer, self.controller.id)?;
        unused.keep();
        Ok(link)
    }

    fn end(&self) {
        self.end_queues(&HostError::Closed);
        self.admin.fail(HostError::Closed);
    }

    fn end_queues(&self, error: &HostError) {
        end_queues(&self.queues, error);
    }
}

fn end_queues(queues: &Queues, error: &HostError) {
    let queues = std::mem::take(&mut *queues.borrow_mut());
    queues.iter().filter_map(Weak::upgrade).for_each(|link| link.fail(error.clone()));
}

fn wish(subsystem: &str, purpose: Purpose, options: &HostOptions) -> Wish {
    Wish {
        subsystem: subsystem.to_owned(),
        host: format!("nqn.2014-08.org.nvmexpress:uuid:{}", options.host_id),
        host_id: options.host_id,
        keep_alive_ms: u32::try_from(options.keep_alive.as_millis()).unwrap_or(u32::MAX),
        purpose,
    }
}

/// Ends with `Stalled` where the controller does not come to an end with it.
async fn in_time<T>(core: &Core, work: impl Future<Output = Result<T, HostError>>) -> Result<T, HostError> {
    let deadline = core.sleep(Duration::from_nanos(HANDSHAKE_DEADLINE_NS));
    match select(pin!(work), pin!(deadline)).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(HostError::Stalled),
    }
}

/// Connects the pure opening to an admin queue until the controller is open.
async fn open_controller(
    core: &Core,
    address: Address,
    mut opening: Opening,
    first: Ask,
    options: &HostOptions,
) -> Result<(Rc<Link>, Opening, Controller), HostError> {
    let stream = Stream::connect(core, address).await.map_err(HostError::Connect)?;
    let terms = link::meet(&stream, options.digests).await?;
    let admin = Link::start(stream, terms, FABRICS_CAPSULE_MAX, usize::from(ADMIN_DEPTH), options);
    let unused = Unused { link: Some(admin.clone()) };
    let mut answer = connect(&admin, first).await?;
    loop {
        let next = match opening.answer(answer)? {
            Step::Open(controller) => {
                unused.keep();
                return Ok((admin, opening, controller));
            }
            Step::AskLater(next) => {
                core.sleep(POLL).await;
                next
            }
            Step::Ask(next) => next,
        };
        answer = answered(ask(&admin, next).await)?;
    }
}

/// A queue that ends unless it is kept: where the opening fails, or is given up.
struct Unused {
    link: Option<Rc<Link>>,
}

impl Unused {
    fn keep(mut self) {
        self.link = None;
    }
}

impl Drop for Unused {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            link.fail(HostError::Closed);
        }
    }
}

type Answered = Result<Answer, Failure>;

/// Sends Connect; afterwards data may stand for responses, if the controller does without flow control.
async fn connect(link: &Rc<Link>, asked: Ask) -> Result<Answered, HostError> {
    let end = answered(call(link, asked).await)?;
    Ok(end.map(|end| {
        if end.completion.queue_head == u16::MAX {
            link.allow_success();
        }
        Answer { result: end.completion.result, data: Vec::new() }
    }))
}

async fn ask(link: &Rc<Link>, asked: Ask) -> Result<Answer, HostError> {
    let end = call(link, asked).await?;
    Ok(Answer { result: end.completion.result, data: end.payload.to_vec() })
}

async fn call(link: &Rc<Link>, asked: Ask) -> Result<link::End, HostError> {
    let data = match asked.data {
        AskData::None => Data::None,
        AskData::Receive(len) => Data::Receive(Span::at(0, len)),
        AskData::Send(bytes) => Data::Send(Payload::one(link.buffers().copy_of(&bytes).freeze())),
    };
    link.call(asked.draft, data).await
}

/// Tells failed commands from failed connections.
fn answered<T>(outcome: Result<T, HostError>) -> Result<Result<T, Failure>, HostError> {
    match outcome {
        Ok(answer) => Ok(Ok(answer)),
        Err(HostError::Command(failure)) => Ok(Err(failure)),
        Err(other) => Err(other),
    }
}

/// Tells the controller that this host lives, until the admin queue ends; then the I/O queues end, too.
async fn keep_alive(admin: Rc<Link>, queues: Queues, timeout: Duration) {
    let error = match timeout.is_zero() {
        true => admin.end().await,
        false => {
            let ended = pin!(admin.end());
            match select(ended, pin!(stay_alive(&admin, timeout))).await {
                Either::Left((error, _)) | Either::Right((error, _)) => error,
            }
        }
    };
    admin.fail(error.clone());
    end_queues(&queues, &error);
}

/// Sends Keep Alive twice in every timeout; ends with the error of one that failed or came to no answer.
async fn stay_alive(admin: &Rc<Link>, timeout: Duration) -> HostError {
    loop {
        admin.core().sleep((timeout / 2).max(KEEP_ALIVE_MIN)).await;
        let alive = admin.call(draft::keep_alive(), Data::None);
        match select(pin!(alive), pin!(admin.core().sleep(timeout))).await {
            Either::Left((Ok(_), _)) => {}
            Either::Left((Err(error), _)) => return error,
            Either::Right(_) => return HostError::Stalled,
        }
    }
}

#[cfg(test)]
mod tests;
