//! The admin queue's commands: what each is answered. Pure, but for the flags that the controller's queues share.

use super::command::{Sqe, Status};
use super::controller::{Controller, Fabric};
use super::events::{Event, Events};
use super::fabrics::{self, CAPABILITIES, Property, QUEUES_MAX, VERSION, bits, kind};
use super::identify::{self, ControllerView, NamespaceView, TRANSFER_MAX, events};
use super::log_page::{self, Record, RecordKind, id as page};
use super::subsystem::{self, NAMESPACE_MAX, Namespaces, Subsystem, nqn_of};
use crate::volume::Volume;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// Opcodes of admin commands.
pub mod opcode {
    pub const GET_LOG_PAGE: u8 = 0x02;
    pub const IDENTIFY: u8 = 0x06;
    pub const ABORT: u8 = 0x08;
    pub const SET_FEATURES: u8 = 0x09;
    pub const GET_FEATURES: u8 = 0x0a;
    pub const EVENT_REQUEST: u8 = 0x0c;
    pub const KEEP_ALIVE: u8 = 0x18;
}

/// Those of an I/O controller, for the effects log.
const ALL: [u8; 7] = [
    opcode::GET_LOG_PAGE,
    opcode::IDENTIFY,
    opcode::ABORT,
    opcode::SET_FEATURES,
    opcode::GET_FEATURES,
    opcode::EVENT_REQUEST,
    opcode::KEEP_ALIVE,
];

/// Features that are more than a stored number.
mod feature {
    pub const WRITE_CACHE: u8 = 0x06;
    pub const QUEUES: u8 = 0x07;
    pub const EVENTS: u8 = 0x0b;
    pub const TIMESTAMP: u8 = 0x0e;
    pub const KEEP_ALIVE: u8 = 0x0f;
    pub const HOST_BEHAVIOR: u8 = 0x16;
    pub const HOST_ID: u8 = 0x81;
    pub const RESERVATION_MASK: u8 = 0x82;
    /// Arbitration, power, temperature, error recovery, interrupts, atomicity: kept, and without an effect here.
    pub const STORED: [u8; 7] = [0x01, 0x02, 0x04, 0x05, 0x08, 0x09, 0x0a];

    /// Whether a controller has it.
    pub fn exists(id: u8, is_io: bool) -> bool {
        let is_everywhere = matches!(id, EVENTS | KEEP_ALIVE | HOST_ID);
        let of_io = matches!(id, WRITE_CACHE | QUEUES | TIMESTAMP | HOST_BEHAVIOR | RESERVATION_MASK);
        is_everywhere || (is_io && (of_io || STORED.contains(&id)))
    }

    /// Bit 1: each namespace has its own; bit 2: it can be changed. Nothing is saved (bit 0).
    pub fn capabilities(id: u8) -> u8 {
        let is_fixed = matches!(id, HOST_ID | WRITE_CACHE);
        u8::from(id == RESERVATION_MASK) << 1 | u8::from(!is_fixed) << 2
    }
}

/// Bytes of the host behaviour structure, and of a timestamp.
const HOST_BEHAVIOR_LEN: u32 = 512;
const TIMESTAMP_LEN: u32 = 8;

/// Reservation notices that are kept until the host reads them.
const NOTICES_MAX: usize = 255;

/// Every namespace.
pub const ALL_NAMESPACES: u32 = u32::MAX;

/// What an admin command is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Dwords 0 and 1.
    Done(u64),
    /// Data to the host; exactly as many bytes as it asked for.
    Data(Vec<u8>),
    /// The answer comes with an event.
    Held,
    Refused(Status),
}

/// What the host was told of a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    size: u64,
    read_only: bool,
}

/// The state of one controller that only its admin queue needs.
#[derive(Debug, Default)]
pub struct Admin {
    configuration: u32,
    is_shut_down: bool,
    is_fatal: bool,
    pub events: Events,
    /// Milliseconds; zero: none.
    keep_alive_ms: u32,
    stored: BTreeMap<u8, u32>,
    reservation_masks: BTreeMap<u32, u32>,
    /// Namespace and type of what was not read yet, oldest first, and how many there were.
    notices: VecDeque<(u32, u8)>,
    notices_seen: u64,
    /// Milliseconds since 1970 that the host said, and when, on our wall clock.
    timestamp: Option<(u64, u64)>,
    host_behavior: Vec<u8>,
    known: BTreeMap<u32, Known>,
    /// Namespaces that changed since the host read of it.
    changed: BTreeSet<u32>,
    generation: u64,
    /// Held event requests that a reset aborted, still to be answered.
    pub aborted: Vec<u16>,
}

/// What an answer may depend on besides the state.
pub struct World<'a> {
    pub fabric: &'a Fabric,
    pub controller: &'a Controller,
    pub wall_ns: u64,
    /// The address that the host's connection came to.
    pub local: Option<SocketAddr>,
}

impl World<'_> {
    fn namespaces(&self) -> Namespaces {
        let subsystem = self.controller.pool.and_then(|pool| Subsystem::of(&self.fabric.catalog, pool));
        subsystem.map(|s| s.namespaces).unwrap_or_default()
    }
}

/// A namespace as it is now.
pub fn view(volume: &Volume) -> NamespaceView {
    NamespaceView {
        identity: volume.identity(),
        geometry: volume.geometry(),
        lba: volume.lba_bytes(),
        used: volume.used().0,
        read_only: volume.is_read_only(),
    }
}

impl Admin {
    /// The state after Connect. What is exported now is what the host finds when it looks for the first time.
    pub fn new(keep_alive_ms: u32, world: &World<'_>) -> Admin {
        let mut admin = Admin { keep_alive_ms, host_behavior: vec![0; 512], ..Admin::default() };
        admin.known = known(&world.namespaces());
        admin.generation = world.fabric.generation();
        admin
    }

    fn is_enabled(&self) -> bool {
        self.configuration & bits::ENABLE != 0
    }

    /// Whether there is more than the properties.
    fn is_at_work(&self) -> bool {
        self.is_enabled() && !self.is_shut_down && !self.is_fatal
    }

    /// Whether a command is for this time. A host that shuts down may still say that it lives: one that is told "no" takes
    /// the connection for broken.
    fn takes(&self, opcode: u8) -> bool {
        self.is_at_work() || opcode == opcode::KEEP_ALIVE && self.is_enabled()
    }

    /// Whether the host's silence is measured, or will be when the controller is enabled.
    pub fn keeps_alive(&self) -> bool {
        self.keep_alive_ms > 0
    }

    /// How long the host may be silent; None: for ever. Half as long again, and two seconds at least: time that is
    /// ours and the network's.
    pub fn patience(&self) -> Option<Duration> {
        let asked = Duration::from_millis(u64::from(self.keep_alive_ms));
        let is_on = self.keeps_alive() && self.is_enabled();
        is_on.then(|| asked + (asked / 2).max(Duration::from_secs(2)))
    }

    /// Bytes of data that a command brings along.
    ///
    /// # Errors
    /// None of these commands brings so many, or there is no such command now.
    pub fn data_in(&self, sqe: &Sqe) -> Result<u32, Status> {
        match (sqe.opcode(), sqe.fabrics_type()) {
            (fabrics::OPCODE, kind::PROPERTY_GET | kind::PROPERTY_SET) => {}
            (fabrics::OPCODE, kind::CONNECT) => return Err(Status::COMMAND_SEQUENCE),
            (fabrics::OPCODE, _) => return Err(Status::INVALID_OPCODE),
            (opcode, _) if !self.takes(opcode) => return Err(Status::COMMAND_SEQUENCE),
            (known, _) if ALL.contains(&known) => {}
            _ => return Err(Status::INVALID_OPCODE),
        }
        let wanted = match (sqe.opcode(), sqe.dword_low_byte()) {
            (opcode::SET_FEATURES, feature::TIMESTAMP) => TIMESTAMP_LEN,
            (opcode::SET_FEATURES, feature::HOST_BEHAVIOR) => HOST_BEHAVIOR_LEN,
            _ => 0,
        };
        let len = sqe.data()?.len();
        let is_in = sqe.opcode() & 3 == 1;
        if is_in && len != wanted { Err(Status::SGL_LENGTH) } else { Ok(wanted) }
    }

    /// Answers a command.
    pub fn answer(&mut self, sqe: &Sqe, data: &[u8], world: &World<'_>) -> Answer {
        if sqe.opcode() == fabrics::OPCODE {
            return self.fabrics(sqe, world);
        }
        if !self.takes(sqe.opcode()) {
            return Answer::Refused(Status::COMMAND_SEQUENCE);
        }
        let is_discovery = world.controller.pool.is_none();
        let answered = match sqe.opcode() {
            opcode::IDENTIFY => identify(sqe, world),
            opcode::GET_LOG_PAGE => self.log_page(sqe, world),
            opcode::GET_FEATURES => self.feature(sqe, world),
            opcode::SET_FEATURES => self.set_feature(sqe, data, world),
            opcode::KEEP_ALIVE => Ok(Answer::Done(0)),
            opcode::EVENT_REQUEST => self.events.hold(sqe.id()).map(|()| Answer::Held),
            // Bit 0: it was not aborted. What runs ends by itself soon.
            opcode::ABORT if !is_discovery => Ok(Answer::Done(1)),
            _ => Err(Status::INVALID_OPCODE),
        };
        answered.unwrap_or_else(Answer::Refused)
    }

    fn fabrics(&mut self, sqe: &Sqe, world: &World<'_>) -> Answer {
        let answered = match sqe.fabrics_type() {
            kind::PROPERTY_GET => Property::of(sqe).map(|property| match property {
                Property::Capabilities => CAPABILITIES,
                Property::Version => VERSION,
                Property::Configuration => u64::from(self.configuration),
                Property::State => u64::from(self.state()),
            }),
            kind::PROPERTY_SET => match Property::of(sqe) {
                Ok(Property::Configuration) => {
                    self.configure(sqe.u32(48), world.controller);
                    Ok(0)
                }
                Ok(Property::Capabilities | Property::Version | Property::State) | Err(_) => {
                    Err(Status::INVALID_FIELD)
                }
            },
            kind::CONNECT => Err(Status::COMMAND_SEQUENCE),
            _ => Err(Status::INVALID_OPCODE),
        };
        answered.map_or_else(Answer::Refused, Answer::Done)
    }

    /// CSTS.
    fn state(&self) -> u32 {
        let set = |bits: u32, is_set: bool| if is_set { bits } else { 0 };
        set(bits::READY, self.is_enabled() && !self.is_fatal)
            | set(bits::FATAL, self.is_fatal)
            | set(bits::SHUT_DOWN, self.is_shut_down)
    }

    /// CC was written.
    fn configure(&mut self, configuration: u32, controller: &Controller) {
        let was_enabled = self.is_enabled();
        self.configuration = configuration;
        let is_enabled = self.is_enabled();
        if !was_enabled && is_enabled {
            self.is_shut_down = false;
            self.is_fatal = !fabrics::is_usable(configuration);
            if !self.is_fatal {
                controller.enable();
            }
        }
        if was_enabled && !is_enabled {
            self.is_fatal = false;
            self.is_shut_down = false;
            self.aborted.extend(self.events.reset());
            controller.disable();
        }
        if configuration & bits::SHUTDOWN != 0 {
            // What was answered without a flush is not promised; there is nothing else to finish.
            self.is_shut_down = true;
            controller.disable();
        }
    }

    fn feature(&self, sqe: &Sqe, world: &World<'_>) -> Result<Answer, Status> {
        let id = sqe.dword_low_byte();
        let is_io = world.controller.pool.is_some();
        if !feature::exists(id, is_io) {
            return Err(Status::INVALID_FIELD);
        }
        match sqe.dword(10) >> 8 & 7 {
            0 => self.present_feature(sqe, world),
            // Nothing is saved: what is asked for then is the default.
            1 | 2 => self.default_feature(sqe, world),
            3 => Ok(Answer::Done(u64::from(feature::capabilities(id)))),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    /// What a feature was when the host connected.
    fn default_feature(&self, sqe: &Sqe, world: &World<'_>) -> Result<Answer, Status> {
        match sqe.dword_low_byte() {
            feature::WRITE_CACHE | feature::HOST_ID => self.present_feature(sqe, world),
            feature::QUEUES => Ok(Answer::Done(u64::from(zero_based_twice(QUEUES_MAX)))),
            feature::TIMESTAMP => exactly(sqe, vec![0; TIMESTAMP_LEN as usize]), // small
            feature::HOST_BEHAVIOR => exactly(sqe, vec![0; HOST_BEHAVIOR_LEN as usize]), // small
            _ => Ok(Answer::Done(0)),
        }
    }

    fn present_feature(&self, sqe: &Sqe, world: &World<'_>) -> Result<Answer, Status> {
        let id = sqe.dword_low_byte();
        let is_io = world.controller.pool.is_some();
        let value = match id {
            feature::EVENTS => self.events.wanted,
            feature::KEEP_ALIVE => self.keep_alive_ms,
            feature::HOST_ID if sqe.dword(11) & 1 == 1 => {
                return exactly(sqe, world.controller.host.id.to_vec());
            }
            feature::HOST_ID => return Err(Status::INVALID_FIELD),
            feature::WRITE_CACHE if is_io => 1,
            feature::QUEUES if is_io => zero_based_twice(world.controller.granted()),
            feature::TIMESTAMP if is_io => return exactly(sqe, self.time(world.wall_ns).to_vec()),
            feature::HOST_BEHAVIOR if is_io => return exactly(sqe, self.host_behavior.clone()),
            feature::RESERVATION_MASK if is_io => {
                self.reservation_masks.get(&sqe.namespace()).copied().unwrap_or(0)
            }
            stored if is_io && feature::STORED.contains(&stored) => {
                self.stored.get(&stored).copied().unwrap_or(0)
            }
            _ => return Err(Status::INVALID_FIELD),
        };
        Ok(Answer::Done(u64::from(value)))
    }

    fn set_feature(&mut self, sqe: &Sqe, data: &[u8], world: &World<'_>) -> Result<Answer, Status> {
        if sqe.dword(10) >> 31 == 1 {
            return Err(Status::NOT_SAVEABLE);
        }
        let value = sqe.dword(11);
        let is_io = world.controller.pool.is_some();
        match sqe.dword_low_byte() {
            feature::EVENTS => {
                // Health may be asked for and never changes. Notices that OAES does not offer are refused, as Linux'
                // target does: a host that waited for them would wait for ever.
                let known = if is_io { events::IO | events::HEALTH } else { events::DISCOVERY };
                if value & !known != 0 {
                    return Err(Status::INVALID_FIELD);
                }
                self.events.wanted = value;
            }
            feature::KEEP_ALIVE => self.keep_alive_ms = value,
            feature::HOST_ID => return Err(Status::COMMAND_SEQUENCE),
            feature::WRITE_CACHE if is_io && value & 1 == 1 => {}
            // It cannot be switched off.
            feature::WRITE_CACHE => return Err(Status::INVALID_FIELD),
            feature::QUEUES if is_io => {
                let (submission, completion) = (value & 0xffff, value >> 16);
                if submission == 0xffff || completion == 0xffff {
                    return Err(Status::INVALID_FIELD);
                }
                let wanted = u16::try_from(submission.min(completion) + 1).unwrap_or(u16::MAX);
                let granted = world.controller.grant(wanted);
                return Ok(Answer::Done(u64::from(zero_based_twice(granted))));
            }
            feature::TIMESTAMP if is_io => {
                let mut bytes = [0; 8];
                bytes[..6].copy_from_slice(data.get(..6).ok_or(Status::SGL_LENGTH)?);
                self.timestamp = Some((u64::from_le_bytes(bytes), world.wall_ns));
            }
            feature::HOST_BEHAVIOR if is_io => self.host_behavior = data.to_vec(),
            feature::RESERVATION_MASK if is_io => self.mask_reservations(sqe.namespace(), value, world)?,
            stored if is_io && feature::STORED.contains(&stored) => {
                self.stored.insert(stored, value);
            }
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(Answer::Done(0))
    }

    fn mask_reservations(&mut self, namespace: u32, mask: u32, world: &World<'_>) -> Result<(), Status> {
        let namespaces = world.namespaces();
        let found: Vec<u32> = match namespace {
            ALL_NAMESPACES => namespaces.keys().copied().collect(),
            one => namespaces.get(&one).map(|_| one).into_iter().collect(),
        };
        if found.is_empty() && namespace != ALL_NAMESPACES {
            return Err(Status::INVALID_NAMESPACE);
        }
        self.reservation_masks.extend(found.into_iter().map(|one| (one, mask)));
        Ok(())
    }

    /// The timestamp data structure: what the host said, as old as it is now.
    fn time(&self, wall_ns: u64) -> [u8; 8] {
        let (said, at, origin) = match self.timestamp {
            Some((said, at)) => (said, at, 1_u8 << 1),
            None => (0, wall_ns, 0),
        };
        let mut bytes = (said + wall_ns.saturating_sub(at) / 1_000_000).to_le_bytes();
        (bytes[6], bytes[7]) = (origin, 0);
        bytes
    }

    fn log_page(&mut self, sqe: &Sqe, world: &World<'_>) -> Result<Answer, Status> {
        let id = sqe.dword_low_byte();
        let retain = sqe.dword(10) >> 15 & 1 == 1;
        let dwords = u64::from(sqe.dword(10) >> 16) | u64::from(sqe.dword(11) & 0xffff) << 16;
        let len = (dwords + 1) * 4;
        let offset = u64::from(sqe.dword(12)) | u64::from(sqe.dword(13)) << 32;
        if len > u64::from(TRANSFER_MAX) || !offset.is_multiple_of(4) {
            return Err(Status::INVALID_FIELD);
        }
        let is_discovery = world.controller.pool.is_none();
        let whole = match id {
            page::SUPPORTED if is_discovery => log_page::supported(&[page::SUPPORTED, page::DISCOVERY]),
            page::DISCOVERY if is_discovery => discovery_log(world),
            _ if is_discovery => return Err(Status::INVALID_LOG_PAGE),
            page::SUPPORTED => log_page::supported(&[0, 1, 2, 3, 4, 5, page::ANA, page::RESERVATION]),
            page::ERRORS => log_page::errors(),
            page::SMART => log_page::smart(&traffic(world)),
            page::FIRMWARE => log_page::firmware(),
            page::CHANGED_NAMESPACES => log_page::changed_namespaces(&self.changed),
            page::EFFECTS => log_page::effects(&ALL, &super::io_command::EFFECTS),
            page::ANA => {
                let groups_only = sqe.dword(10) >> 8 & 1 == 1;
                log_page::ana(&world.namespaces(), world.fabric.catalog.version(), groups_only)
            }
            page::RESERVATION => log_page::reservation(self.notices_seen, &self.notices),
            _ => return Err(Status::INVALID_LOG_PAGE),
        };
        if offset > whole.len() as u64 {
            return Err(Status::INVALID_FIELD);
        }
        let len = usize::try_from(len).map_err(|_| Status::INVALID_FIELD)?;
        let answer = exactly(sqe, log_page::part(&whole, offset, len))?;
        // Only what is on its way to the host has been looked at.
        if !retain {
            self.events.looked_at(id);
            if id == page::CHANGED_NAMESPACES {
                self.changed.clear();
            }
            if id == page::RESERVATION && self.notices.pop_front().is_some() {
                self.notices_seen += 1;
                if !self.notices.is_empty() {
                    self.events.raise(Event::Reservation);
                }
            }
        }
        Ok(answer)
    }

    /// Takes in what happened to reservations, but for what the host masked. Too much unread is not kept.
    pub fn note_reservations(&mut self, notices: Vec<(u32, u8)>) {
        for (namespace, kind) in notices {
            let mask = self.reservation_masks.get(&namespace).copied().unwrap_or(0);
            if mask >> kind & 1 == 0 && self.notices.len() < NOTICES_MAX {
                self.notices.push_back((namespace, kind));
                self.events.raise(Event::Reservation);
            }
        }
    }

    /// Compares what is exported with what the host was told, and notes events for what is different.
    pub fn look_for_changes(&mut self, world: &World<'_>) {
        let generation = world.fabric.generation();
        if generation != self.generation {
            self.generation = generation;
            self.events.raise(Event::Discovery);
        }
        let now = known(&world.namespaces());
        if now == self.known {
            return;
        }
        let numbers: BTreeSet<u32> = now.keys().chain(self.known.keys()).copied().collect();
        let is_other = |number: &u32| now.get(number) != self.known.get(number);
        let came_or_went = now.len() != self.known.len() || !now.keys().eq(self.known.keys());
        self.changed.extend(numbers.into_iter().filter(is_other));
        self.known = now;
        self.events.raise(Event::Namespaces);
        if came_or_went {
            self.events.raise(Event::Ana);
        }
    }
}

fn known(namespaces: &Namespaces) -> BTreeMap<u32, Known> {
    let of = |volume: &Volume| Known { size: volume.size().0, read_only: volume.is_read_only() };
    namespaces.iter().map(|(number, volume)| (*number, of(volume))).collect()
}

fn zero_based_twice(queues: u16) -> u32 {
    let one = u32::from(queues - 1);
    one | one << 16
}

/// Data for a host that asked for exactly so much.
fn exactly(sqe: &Sqe, data: Vec<u8>) -> Result<Answer, Status> {
    let wanted = sqe.data()?.len();
    if wanted as usize == data.len() { Ok(Answer::Data(data)) } else { Err(Status::SGL_LENGTH) }
}

fn traffic(world: &World<'_>) -> log_page::Traffic {
    let of_all = world.fabric.controllers_of(world.controller.pool);
    of_all.iter().fold(log_page::Traffic::default(), |sum, one| sum.with(&one.traffic()))
}

fn identify(sqe: &Sqe, world: &World<'_>) -> Result<Answer, Status> {
    let structure = sqe.dword_low_byte();
    let controller_id = u16::try_from(sqe.dword(10) >> 16).unwrap_or(u16::MAX);
    let command_set = sqe.dword(11) >> 24;
    let namespace = sqe.namespace();
    let controller = world.controller;
    let me = ControllerView { id: controller.id, subsystem: &controller.subsystem, pool: controller.pool };
    if structure == 0x01 {
        return exactly(sqe, identify::controller(&me));
    }
    if controller.pool.is_none() {
        return Err(Status::INVALID_FIELD);
    }
    let namespaces = world.namespaces();
    // Inactive namespaces are answered with zeroes; numbers that no namespace can have are not.
    let one = |make: fn(&NamespaceView) -> Vec<u8>| -> Result<Vec<u8>, Status> {
        if namespace == 0 || namespace > NAMESPACE_MAX {
            return Err(Status::INVALID_NAMESPACE);
        }
        Ok(namespaces.get(&namespace).map_or_else(|| vec![0; identify::LEN], |v| make(&view(v))))
    };
    let active = |make: fn(&NamespaceView) -> Vec<u8>| -> Result<Vec<u8>, Status> {
        namespaces.get(&namespace).map(|v| make(&view(v))).ok_or(Status::INVALID_NAMESPACE)
    };
    let ids = || world.fabric.controllers_of(controller.pool).into_iter().map(|c| c.id);
    let data = match structure {
        0x00 => one(identify::namespace)?,
        0x02 | 0x10 if namespace < 0xffff_fffe => identify::active(&namespaces, namespace),
        0x02 | 0x10 => return Err(Status::INVALID_NAMESPACE),
        0x03 => active(identify::descriptors)?,
        0x05 if command_set == 0 => one(|_| vec![0; identify::LEN])?,
        0x06 if command_set == 0 => identify::nvm_controller(),
        0x07 if command_set == 0 && namespace < 0xffff_fffe => identify::active(&namespaces, namespace),
        0x07 if command_set == 0 => return Err(Status::INVALID_NAMESPACE),
        0x08 => one(identify::independent_namespace)?,
        0x11 => one(identify::namespace)?,
        0x12 if namespaces.contains_key(&namespace) => identify::controllers(ids(), controller_id),
        0x12 => return Err(Status::INVALID_NAMESPACE),
        0x13 => identify::controllers(ids(), controller_id),
        _ => return Err(Status::INVALID_FIELD),
    };
    exactly(sqe, data)
}

/// The discovery log as the host sees it: every subsystem at every address, the address that it asked first of all.
fn discovery_log(world: &World<'_>) -> Vec<u8> {
    let mut records = Vec::new();
    let subsystems = subsystem::all(&world.fabric.catalog);
    for (number, address) in addresses(&world.fabric.portals(), world.local).into_iter().enumerate() {
        let port = u16::try_from(number).unwrap_or(u16::MAX);
        let is_mine = Some(address) == world.local;
        let kind = if is_mine { RecordKind::ThisDiscovery } else { RecordKind::Referral };
        records.push(Record { kind, address, port });
        for subsystem in &subsystems {
            let kind = RecordKind::Subsystem(nqn_of(subsystem.pool));
            records.push(Record { kind, address, port });
        }
    }
    log_page::discovery(world.fabric.generation(), &records)
}

/// The addresses of listeners as a host can use them: one that listens on every address is where the host found us.
fn addresses(portals: &[SocketAddr], local: Option<SocketAddr>) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for portal in portals {
        let ip = match local {
            Some(local) if portal.ip().is_unspecified() => local.ip(),
            Some(_) | None => portal.ip(),
        };
        let address = SocketAddr::new(ip, portal.port());
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests;
