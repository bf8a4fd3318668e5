//! Asynchronous events of one controller: what is to be told, what was told, and what the host does not want to hear.
//!
//! An event that happens while no request for one is held, or while the last one of its kind was not looked at, is kept
//! and told later. Only its log page says what happened, so one note for each kind is enough.

use super::command::Status;
use super::identify::{EVENTS_HELD_MAX, events};
use super::log_page;
use std::collections::VecDeque;

/// The kinds of events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A namespace came, went, or has another size.
    Namespaces,
    Ana,
    /// The discovery log is another one.
    Discovery,
    /// There are reservation notifications.
    Reservation,
}

const ALL: [Event; 4] = [Event::Namespaces, Event::Ana, Event::Discovery, Event::Reservation];

impl Event {
    fn bit(self) -> u8 {
        1 << (self as u8)
    }

    /// The feature's bit that must be set; none for reservations, which have a mask of their own.
    fn wanted_by(self) -> u32 {
        match self {
            Event::Namespaces => events::NAMESPACES,
            Event::Ana => events::ANA,
            Event::Discovery => events::DISCOVERY,
            Event::Reservation => 0,
        }
    }

    fn log_page(self) -> u8 {
        match self {
            Event::Namespaces => log_page::id::CHANGED_NAMESPACES,
            Event::Ana => log_page::id::ANA,
            Event::Discovery => log_page::id::DISCOVERY,
            Event::Reservation => log_page::id::RESERVATION,
        }
    }

    /// Dword 0 of the completion: type, information, log page.
    fn dword(self) -> u64 {
        let (kind, information) = match self {
            Event::Namespaces => (2, 0x00),
            Event::Ana => (2, 0x03),
            Event::Discovery => (2, 0xf0),
            Event::Reservation => (6, 0x00),
        };
        kind | information << 8 | u64::from(self.log_page()) << 16
    }
}

/// The events of a controller.
#[derive(Default, Debug)]
pub struct Events {
    /// Requests that wait for an event, by command identifier.
    held: VecDeque<u16>,
    pending: u8,
    /// Told, and not looked at since.
    told: u8,
    /// The feature: what the host wants to hear.
    pub wanted: u32,
}

impl Events {
    /// Something happened.
    pub fn raise(&mut self, event: Event) {
        if event.wanted_by() & self.wanted == event.wanted_by() {
            self.pending |= event.bit();
        }
    }

    /// Holds a request until there is an event.
    ///
    /// # Errors
    /// Too many are held.
    pub fn hold(&mut self, id: u16) -> Result<(), Status> {
        if self.held.len() >= usize::from(EVENTS_HELD_MAX) {
            return Err(Status::EVENT_LIMIT);
        }
        self.held.push_back(id);
        Ok(())
    }

    /// A request to answer, with dword 0 of its completion.
    pub fn due(&mut self) -> Option<(u16, u64)> {
        let event = ALL.into_iter().find(|event| self.pending & !self.told & event.bit() != 0)?;
        let id = self.held.pop_front()?;
        self.pending &= !event.bit();
        self.told |= event.bit();
        Some((id, event.dword()))
    }

    /// A log page was read, and not with "retain": its event may be told again.
    pub fn looked_at(&mut self, page: u8) {
        for event in ALL.into_iter().filter(|event| event.log_page() == page) {
            self.told &= !event.bit();
        }
    }

    /// The controller is reset: the requests that were held, to be answered as aborted.
    pub fn reset(&mut self) -> VecDeque<u16> {
        std::mem::take(self).held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_waits_for_a_request_and_is_told_once_until_it_is_looked_at() {
        let mut events = Events { wanted: 1 << 8 | 1 << 11, ..Events::default() };
        events.raise(Event::Namespaces);
        assert_eq!(events.due(), None);
        events.hold(7).unwrap();
        assert_eq!(events.due(), Some((7, 0x0004_0002)));
        events.raise(Event::Namespaces);
        events.hold(8).unwrap();
        assert_eq!(events.due(), None, "the host has not read the log");
        events.raise(Event::Ana);
        assert_eq!(events.due(), Some((8, 0x000c_0302)));
        events.hold(9).unwrap();
        events.looked_at(4);
        assert_eq!(events.due(), Some((9, 0x0004_0002)), "it happened again meanwhile");
    }

    #[test]
    fn what_is_not_wanted_is_not_told_and_four_requests_are_held() {
        let mut events = Events { wanted: 1 << 31, ..Events::default() };
        events.raise(Event::Ana);
        (0..4).for_each(|id| events.hold(id).unwrap());
        assert_eq!(events.hold(4), Err(Status::EVENT_LIMIT));
        assert_eq!(events.due(), None);
        events.raise(Event::Discovery);
        assert_eq!(events.due(), Some((0, 0x0070_f002)));
        assert_eq!(events.reset(), [1, 2, 3]);
        assert_eq!(events.wanted, 0);
    }
}
