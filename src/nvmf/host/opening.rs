//! The commands that open a controller, in order, and what their answers mean. Pure.
//!
//! ```text
//! Connect → CAP → CC.EN = 1 → CSTS until ready → VS → Identify Controller → number of queues → open
//!                                                                       └─ for discovery ─────────────┘
//! ```
//!
//! Each answer leads to the next command or to a reason why the controller cannot be used. How long a controller may
//! take is the caller's business.

use super::draft::{self, Draft, IDENTIFY_LEN, Page, Property};
use super::failure::Failure;
use super::identify::{Controller, Properties};
use super::refusal::Refusal;
use crate::nvmf::fabrics::ANY_CONTROLLER;
use uuid::Uuid;

/// CC: entries of 64 and 16 bytes, the NVM command set.
const CONFIGURATION: u32 = 0x0046_0000;
const ENABLE: u32 = 1;
const SHUT_DOWN: u32 = 1 << 14;

/// Entries of the admin queue, counted from 0.
pub const ADMIN_DEPTH: u16 = 31;

/// What a host wants of a subsystem.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wish {
    /// The NQN of the subsystem, and of this host.
    pub subsystem: String,
    pub host: String,
    pub host_id: Uuid,
    /// Milliseconds; 0 for none.
    pub keep_alive_ms: u32,
    pub purpose: Purpose,
}

/// What the controller is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Requests, by so many queues at most.
    Io { queues: u16 },
    /// The discovery log.
    Discovery,
}

/// A command, and its data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    pub draft: Draft,
    pub data: AskData,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AskData {
    None,
    /// To the controller, in the capsule.
    Send(Vec<u8>),
    /// From the controller, so many bytes.
    Receive(u64),
}

/// How a command was answered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// Dwords 0 and 1.
    pub result: u64,
    pub data: Vec<u8>,
}

/// What comes next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Ask(Ask),
    /// The same, after a short wait.
    AskLater(Ask),
    Open(Controller),
}

/// How far it has come.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Stage {
    Connect,
    Capabilities,
    Enable,
    Ready,
    Version,
    Identify,
    /// Asked for so many.
    Queues(Controller, u16),
}

impl Stage {
    /// What is asked for, for people.
    fn asked(&self) -> &'static str {
        match self {
            Stage::Connect => "the server refused the connection",
            Stage::Capabilities => "the controller does not tell its capabilities",
            Stage::Enable => "the controller cannot be enabled",
            Stage::Ready => "the controller does not tell whether it is ready",
            Stage::Version => "the controller does not tell its version",
            Stage::Identify => "the controller cannot be identified",
            Stage::Queues(..) => "the controller grants no queues",
        }
    }
}

/// The way from a connection to an open controller.
pub struct Opening {
    wish: Wish,
    stage: Stage,
    properties: Properties,
}

impl Opening {
    /// The opening, and its first command.
    pub fn new(wish: Wish) -> (Opening, Ask) {
        let data = draft::connect_data(wish.host_id, ANY_CONTROLLER, &wish.subsystem, &wish.host);
        let ask =
            Ask { draft: draft::connect(0, ADMIN_DEPTH, wish.keep_alive_ms), data: AskData::Send(data) };
        let discovery = wish.purpose == Purpose::Discovery;
        let properties =
            Properties { keep_alive: wish.keep_alive_ms > 0, discovery, ..Properties::default() };
        (Opening { wish, stage: Stage::Connect, properties }, ask)
    }

    /// Takes the answer to the last command.
    ///
    /// # Errors
    /// Why the controller cannot be used.
    pub fn answer(&mut self, answer: Result<Answer, Failure>) -> Result<Step, Refusal> {
        let asked = self.stage.asked();
        let answer = answer.map_err(|failure| Refusal::Command { asked, failure })?;
        // Each property but CAP has 32 bits, and so has every other answer.
        let low = u32::try_from(answer.result & 0xffff_ffff).expect("32 bits");
        match &self.stage {
            Stage::Connect => {
                self.properties.id = connected(low)?;
                self.ask(Stage::Capabilities, draft::property_of(Property::Capabilities))
            }
            Stage::Capabilities => {
                self.capabilities(answer.result)?;
                let value = self.configuration() | ENABLE;
                self.ask(Stage::Enable, draft::set_property(Property::Configuration, value))
            }
            Stage::Enable => self.ask(Stage::Ready, draft::property_of(Property::Status)),
            Stage::Ready => match (low & 1 != 0, low & 2 != 0) {
                (_, true) => Err(Refusal::Fatal),
                (true, false) => self.ask(Stage::Version, draft::property_of(Property::Version)),
                (false, false) => Ok(Step::AskLater(plain(draft::property_of(Property::Status)))),
            },
            Stage::Version => {
                self.properties.version = low;
                self.stage = Stage::Identify;
                let draft = draft::identify(Page::Controller, 0);
                Ok(Step::Ask(Ask { draft, data: AskData::Receive(IDENTIFY_LEN) }))
            }
            Stage::Identify => {
                let controller = Controller::parse(&answer.data, self.properties)?;
                match self.wish.purpose {
                    Purpose::Discovery => Ok(Step::Open(controller)),
                    Purpose::Io { queues } => {
                        self.ask(Stage::Queues(controller, queues), draft::number_of_queues(queues))
                    }
                }
            }
            Stage::Queues(controller, asked) => {
                let granted = (low & 0xffff).min(low >> 16) + 1;
                let granted = u16::try_from(granted).unwrap_or(u16::MAX);
                let queues = granted.min(*asked).max(1);
                Ok(Step::Open(Controller { queues, ..controller.clone() }))
            }
        }
    }

    fn ask(&mut self, stage: Stage, draft: Draft) -> Result<Step, Refusal> {
        self.stage = stage;
        Ok(Step::Ask(plain(draft)))
    }

    fn capabilities(&mut self, value: u64) -> Result<(), Refusal> {
        if value >> 37 & 1 == 0 {
            return Err(Refusal::Broken("no support for the NVM command set"));
        }
        let bits = |shift: u32, mask: u64| value >> shift & mask;
        self.properties.queue_entries = u16::try_from(bits(0, 0xffff)).expect("16 bits");
        self.properties.page_shift = u8::try_from(bits(48, 0xf)).expect("4 bits");
        if self.properties.queue_entries == 0 {
            return Err(Refusal::Broken("queues of one entry"));
        }
        Ok(())
    }

    /// CC without its commands: the smallest page that the controller knows.
    fn configuration(&self) -> u32 {
        CONFIGURATION | u32::from(self.properties.page_shift) << 7
    }

    /// The command that ends an open controller in order; its status property tells when it has ended.
    pub fn shut_down(&self) -> Ask {
        plain(draft::set_property(Property::Configuration, self.configuration() | ENABLE | SHUT_DOWN))
    }
}

/// Asks whether a controller has ended.
pub fn ask_status() -> Ask {
    plain(draft::property_of(Property::Status))
}

/// Whether the status property says that the controller has ended.
pub fn has_ended(status: u64) -> bool {
    status >> 2 & 3 == 2
}

fn plain(draft: Draft) -> Ask {
    Ask { draft, data: AskData::None }
}

/// Connect's answer: the controller's id.
fn connected(answer: u32) -> Result<u16, Refusal> {
    if answer >> 17 & 3 != 0 {
        return Err(Refusal::Authentication);
    }
    Ok(u16::try_from(answer & 0xffff).expect("16 bits"))
}

/// Connect of an I/O queue to a controller that is open.
pub fn connect_queue(wish: &Wish, controller: u16, queue: u16, depth: u16) -> Ask {
    let data = draft::connect_data(wish.host_id, controller, &wish.subsystem, &wish.host);
    Ask { draft: draft::connect(queue, depth, 0), data: AskData::Send(data) }
}

/// What the answer to that means.
///
/// # Errors
/// Why the queue cannot be used.
pub fn queue_connected(answer: Result<Answer, Failure>, controller: u16) -> Result<(), Refusal> {
    let asked = "the server refused an I/O queue";
    let answer = answer.map_err(|failure| Refusal::Command { asked, failure })?;
    match connected(u32::try_from(answer.result & 0xffff_ffff).expect("32 bits"))? {
        id if id == controller => Ok(()),
        _ => Err(Refusal::Broken("an I/O queue of another controller")),
    }
}
