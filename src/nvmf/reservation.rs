//! Reservations of a namespace (Base specification, "Reservations"): who is registered, who holds it, who may do what.
//!
//! Pure: a command is decided against one value and gives the next one, with who has to be told and whose commands are to be
//! aborted. Whoever asks stores the next value before the command is answered; the value is one for all controllers of the
//! subsystem. Hosts are told apart by their host identifier alone, so that all paths of a host share its registration.
//!
//! ```text
//!                acquire (a registrant)                  release, last holder unregistered
//! not reserved ─────────────────────────▶ reserved ─────────────────────────────────────▶ not reserved
//!                                          │    ▲
//!                                          └────┘ preempt: another holder, another type
//! any state ── clear (a registrant) ──▶ not reserved, nobody registered
//! ```
//!
//! Always: a holder is registered; a reservation of an all-registrants type has a registrant, and no holder of its own, since
//! all registrants hold it.

mod bytes;
mod command;

pub use bytes::{ENCODED_MAX, Report, fuzz_reservations, parse_report};
pub use command::{
    Acquire, AcquireAction, Command, PersistChange, Register, RegisterAction, Release, ReleaseAction,
    data_len,
};

use super::command::Status;
use std::collections::BTreeMap;

/// Hosts that may be registered with one namespace.
pub const REGISTRANTS_MAX: usize = 64;

/// The controller of a host that the dynamic controller model gave one to: reports do not name it.
pub const CONTROLLER_DYNAMIC: u16 = 0xffff;

/// What the namespace's RESCAP field says: persistence, all six types, and IEKEY as since revision 1.3.
pub const RESCAP: u8 = 0xff;

/// The 128 bits that tell one host from another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct HostId(pub [u8; 16]);

/// The types of reservations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    WriteExclusive,
    ExclusiveAccess,
    WriteExclusiveRegistrantsOnly,
    ExclusiveAccessRegistrantsOnly,
    WriteExclusiveAllRegistrants,
    ExclusiveAccessAllRegistrants,
}

impl Kind {
    pub const ALL: [Kind; 6] = [
        Kind::WriteExclusive,
        Kind::ExclusiveAccess,
        Kind::WriteExclusiveRegistrantsOnly,
        Kind::ExclusiveAccessRegistrantsOnly,
        Kind::WriteExclusiveAllRegistrants,
        Kind::ExclusiveAccessAllRegistrants,
    ];

    /// The field RTYPE.
    pub fn code(self) -> u8 {
        match self {
            Kind::WriteExclusive => 1,
            Kind::ExclusiveAccess => 2,
            Kind::WriteExclusiveRegistrantsOnly => 3,
            Kind::ExclusiveAccessRegistrantsOnly => 4,
            Kind::WriteExclusiveAllRegistrants => 5,
            Kind::ExclusiveAccessAllRegistrants => 6,
        }
    }

    pub fn from_code(code: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Whether every registrant holds it.
    pub fn is_of_all_registrants(self) -> bool {
        match self {
            Kind::WriteExclusiveAllRegistrants | Kind::ExclusiveAccessAllRegistrants => true,
            Kind::WriteExclusive
            | Kind::ExclusiveAccess
            | Kind::WriteExclusiveRegistrantsOnly
            | Kind::ExclusiveAccessRegistrantsOnly => false,
        }
    }

    /// Whether registrants that do not hold it may do what its holder may.
    fn is_of_registrants_only(self) -> bool {
        match self {
            Kind::WriteExclusiveRegistrantsOnly | Kind::ExclusiveAccessRegistrantsOnly => true,
            Kind::WriteExclusive
            | Kind::ExclusiveAccess
            | Kind::WriteExclusiveAllRegistrants
            | Kind::ExclusiveAccessAllRegistrants => false,
        }
    }

    /// Whether it leaves reading to everybody.
    fn lets_all_read(self) -> bool {
        match self {
            Kind::WriteExclusive
            | Kind::WriteExclusiveRegistrantsOnly
            | Kind::WriteExclusiveAllRegistrants => true,
            Kind::ExclusiveAccess
            | Kind::ExclusiveAccessRegistrantsOnly
            | Kind::ExclusiveAccessAllRegistrants => false,
        }
    }
}

/// What a command does to the namespace, as far as reservations go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    Write,
}

/// One registered host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registrant {
    pub key: u64,
    /// The controller that its last Reservation Register came to.
    pub controller: u16,
}

/// The reservation that is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    pub kind: Kind,
    /// None exactly for the types that all registrants hold.
    pub holder: Option<HostId>,
}

/// All that is known of a namespace's reservations.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reservations {
    /// Counts what changed it, as the report tells; wraps around.
    pub generation: u32,
    /// Keep it over a loss of power, which here is a restart of the daemon.
    pub persists: bool,
    pub registrants: BTreeMap<HostId, Registrant>,
    pub held: Option<Held>,
}

/// What a host is to be told, in log page 0x80.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoticeKind {
    RegistrationPreempted,
    ReservationReleased,
    ReservationPreempted,
}

impl NoticeKind {
    /// The log page's type; also the bit of the notification mask (feature 0x82) that keeps it back.
    pub fn code(self) -> u8 {
        match self {
            NoticeKind::RegistrationPreempted => 1,
            NoticeKind::ReservationReleased => 2,
            NoticeKind::ReservationPreempted => 3,
        }
    }
}

/// A notice for every controller of a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notice {
    pub host: HostId,
    pub kind: NoticeKind,
}

/// What a command that succeeds amounts to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub next: Reservations,
    pub notices: Vec<Notice>,
    /// Hosts whose commands on this namespace end before this one is answered.
    pub abort: Vec<HostId>,
}

impl Outcome {
    fn quiet(next: Reservations) -> Outcome {
        Outcome { next, notices: Vec::new(), abort: Vec::new() }
    }
}

impl Reservations {
    /// Decides a command of a host that came to this controller.
    ///
    /// # Errors
    /// What the command is answered with; nothing changes then.
    pub fn decide(&self, command: &Command, host: HostId, controller: u16) -> Result<Outcome, Status> {
        match command {
            Command::Register(register) => self.register(register, host, controller),
            Command::Acquire(acquire) => self.acquire(acquire, host),
            Command::Release(release) => self.release(release, host),
        }
    }

    /// Reservation Register. Every one that succeeds counts the generation, also one that changes nothing.
    pub fn register(&self, command: &Register, host: HostId, controller: u16) -> Result<Outcome, Status> {
        let mut outcome = match command.action {
            RegisterAction::Register => {
                // The current key is not looked at, so that IEKEY changes nothing here.
                if self.registrants.get(&host).is_some_and(|known| known.key != command.new_key) {
                    return Err(Status::RESERVATION_CONFLICT);
                }
                Outcome::quiet(self.with_registrant(host, command.new_key, controller)?)
            }
            RegisterAction::Replace => {
                // With IEKEY it does not matter whether the host is registered.
                if !command.ignore_key {
                    self.check_key(host, command.current_key)?;
                }
                Outcome::quiet(self.with_registrant(host, command.new_key, controller)?)
            }
            RegisterAction::Unregister => {
                let known = self.registrants.get(&host).ok_or(Status::RESERVATION_CONFLICT)?;
                if !command.ignore_key && known.key != command.current_key {
                    return Err(Status::RESERVATION_CONFLICT);
                }
                self.unregister(host)
            }
        };
        match command.persist {
            PersistChange::Keep => {}
            PersistChange::Off => outcome.next.persists = false,
            PersistChange::On => outcome.next.persists = true,
        }
        outcome.next.count();
        Ok(outcome)
    }

    /// Reservation Acquire.
    pub fn acquire(&self, command: &Acquire, host: HostId) -> Result<Outcome, Status> {
        self.check_key(host, command.current_key)?;
        match command.action {
            AcquireAction::Acquire => self.take(command.kind, host).map(Outcome::quiet),
            AcquireAction::Preempt => {
                self.preempt(command, host).map(|outcome| Outcome { abort: Vec::new(), ..outcome })
            }
            AcquireAction::PreemptAndAbort => self.preempt(command, host),
        }
    }

    /// Reservation Release.
    pub fn release(&self, command: &Release, host: HostId) -> Result<Outcome, Status> {
        self.check_key(host, command.current_key)?;
        match command.action {
            ReleaseAction::Release(kind) => self.give_back(kind, host),
            ReleaseAction::Clear => Ok(self.clear(host)),
        }
    }

    /// Whether a host's command may be done now (Base specification, command behavior in the presence of a reservation).
    pub fn permits(&self, host: HostId, access: Access) -> bool {
        let Some(held) = &self.held else { return true };
        let reads = access == Access::Read && held.kind.lets_all_read();
        let shares = held.kind.is_of_registrants_only() && self.registrants.contains_key(&host);
        reads || shares || self.is_holder(host)
    }

    pub fn is_holder(&self, host: HostId) -> bool {
        match &self.held {
            Some(Held { holder: Some(holder), .. }) => *holder == host,
            Some(Held { holder: None, .. }) => self.registrants.contains_key(&host),
            None => false,
        }
    }

    /// A host must be registered, with the key that it names.
    fn check_key(&self, host: HostId, key: u64) -> Result<(), Status> {
        let right = self.registrants.get(&host).is_some_and(|known| known.key == key);
        if right { Ok(()) } else { Err(Status::RESERVATION_CONFLICT) }
    }

    /// The specification has no status for "too many": like other targets, an internal error.
    fn with_registrant(&self, host: HostId, key: u64, controller: u16) -> Result<Reservations, Status> {
        if !self.registrants.contains_key(&host) && self.registrants.len() >= REGISTRANTS_MAX {
            return Err(Status::INTERNAL);
        }
        let mut next = self.clone();
        next.registrants.insert(host, Registrant { key, controller });
        Ok(next)
    }

    /// The others hear of it only where they lose what they shared with the holder.
    fn unregister(&self, host: HostId) -> Outcome {
        let mut outcome = Outcome::quiet(self.clone());
        outcome.next.remove(&[host]);
        if let (Some(before), None) = (&self.held, &outcome.next.held)
            && before.kind.is_of_registrants_only()
        {
            outcome.notices = notices(outcome.next.others(host), NoticeKind::ReservationReleased);
        }
        outcome
    }

    fn take(&self, kind: Kind, host: HostId) -> Result<Reservations, Status> {
        match &self.held {
            // Whoever holds it already has what was asked for.
            Some(held) if self.is_holder(host) && held.kind == kind => Ok(self.clone()),
            Some(_) => Err(Status::RESERVATION_CONFLICT),
            None => {
                let mut next = self.clone();
                next.hold(kind, host);
                Ok(next)
            }
        }
    }

    /// Decides a preemption; its `abort` names everybody who lost the registration.
    fn preempt(&self, command: &Acquire, host: HostId) -> Result<Outcome, Status> {
        let with_key = |key: u64| -> Vec<HostId> {
            self.registrants.iter().filter(|(_, known)| known.key == key).map(|(id, _)| *id).collect()
        };
        let mut next = self.clone();
        let key = command.preempted_key;
        match self.preempted(key) {
            Preempted::Registrations => {
                let lost = with_key(key);
                if lost.is_empty() {
                    return Err(Status::RESERVATION_CONFLICT);
                }
                next.remove(&lost);
            }
            Preempted::Holder => {
                let lost: Vec<HostId> = with_key(key).into_iter().filter(|id| *id != host).collect();
                next.remove(&lost);
                next.hold(command.kind, host);
            }
            Preempted::AllHolders => {
                next.remove(&self.others(host));
                next.hold(command.kind, host);
            }
            Preempted::Nobody => return Err(Status::INVALID_FIELD),
        }
        next.count();
        let gone = |id: &HostId| *id != host && !next.registrants.contains_key(id);
        let lost: Vec<HostId> = self.registrants.keys().copied().filter(gone).collect();
        let mut told = notices(lost.clone(), NoticeKind::RegistrationPreempted);
        if let (Some(before), Some(after)) = (&self.held, &next.held)
            && before.kind != after.kind
        {
            told.extend(notices(next.others(host), NoticeKind::ReservationReleased));
        }
        Ok(Outcome { next, notices: told, abort: lost })
    }

    /// What the key of a preemption names. Zero is nobody's key: it stands for all holders, where all registrants are.
    fn preempted(&self, key: u64) -> Preempted {
        match &self.held {
            Some(Held { holder: None, .. }) if key == 0 => Preempted::AllHolders,
            Some(Held { holder: Some(holder), .. }) if self.registrants[holder].key == key => {
                Preempted::Holder
            }
            Some(Held { .. }) if key == 0 => Preempted::Nobody,
            Some(Held { .. }) | None => Preempted::Registrations,
        }
    }

    /// Releasing what one does not hold succeeds and does nothing.
    fn give_back(&self, kind: Kind, host: HostId) -> Result<Outcome, Status> {
        let mut outcome = Outcome::quiet(self.clone());
        let Some(held) = self.held.filter(|_| self.is_holder(host)) else { return Ok(outcome) };
        if held.kind != kind {
            return Err(Status::RESERVATION_CONFLICT);
        }
        outcome.next.held = None;
        if held.kind.is_of_registrants_only() || held.kind.is_of_all_registrants() {
            outcome.notices = notices(self.others(host), NoticeKind::ReservationReleased);
        }
        Ok(outcome)
    }

    fn clear(&self, host: HostId) -> Outcome {
        let mut next = self.clone();
        next.registrants.clear();
        next.held = None;
        next.count();
        let told = notices(self.others(host), NoticeKind::ReservationPreempted);
        Outcome { next, notices: told, abort: Vec::new() }
    }

    fn hold(&mut self, kind: Kind, host: HostId) {
        let holder = (!kind.is_of_all_registrants()).then_some(host);
        self.held = Some(Held { kind, holder });
    }

    /// Takes registrations away; the reservation ends with the last one that holds it.
    fn remove(&mut self, hosts: &[HostId]) {
        self.registrants.retain(|id, _| !hosts.contains(id));
        let still_held = match &self.held {
            Some(Held { holder: Some(holder), .. }) => self.registrants.contains_key(holder),
            Some(Held { holder: None, .. }) => !self.registrants.is_empty(),
            None => false,
        };
        if !still_held {
            self.held = None;
        }
    }

    fn others(&self, host: HostId) -> Vec<HostId> {
        self.registrants.keys().copied().filter(|id| *id != host).collect()
    }

    fn count(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }
}

/// What a preemption is about.
enum Preempted {
    /// Who registered with this key.
    Registrations,
    /// The one holder, and who shares its key.
    Holder,
    /// All registrants but who asks.
    AllHolders,
    /// A key that cannot be meant.
    Nobody,
}

fn notices(hosts: Vec<HostId>, kind: NoticeKind) -> Vec<Notice> {
    hosts.into_iter().map(|host| Notice { host, kind }).collect()
}

#[cfg(test)]
mod tests;
