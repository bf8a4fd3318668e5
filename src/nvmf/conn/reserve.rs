//! Reservations at work: what they forbid, and the commands that change them.

use super::super::command::{Sqe, Status};
use super::super::io_command::{Action, status_of};
use super::super::reservation::{self, HostId, Outcome, Reservations};
use super::Session;
use crate::block::{Payload, ReservationError};
use crate::volume::Handle;
use std::rc::Rc;
use std::time::Duration;

/// How often it is looked whether the commands of a host that lost its registration have ended.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How long that may take. A drive that hangs is given up sooner.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Tries of a change that others get ahead of.
const TRIES: u32 = 100;

impl Session {
    fn host(&self) -> HostId {
        HostId(self.seat.controller.host.id)
    }

    /// Whether reservations let a command pass. Looks at the newest ones.
    pub(super) fn is_permitted(&self, handle: &Handle, action: &Action) -> bool {
        let newest = handle.reservations();
        let Some(access) = action.access().filter(|_| !newest.bytes.is_empty()) else { return true };
        let number = handle.volume().identity().number;
        let known = &mut self.known.borrow_mut().reservations;
        match known.get(&number) {
            Some((version, reservations)) if *version == newest.version => {
                reservations.permits(self.host(), access)
            }
            Some(_) | None => {
                // What cannot be read was not written by us: then nobody is kept out by it.
                let reservations = Reservations::decode(&newest.bytes).unwrap_or_default();
                let permitted = reservations.permits(self.host(), access);
                known.insert(number, (newest.version, reservations));
                permitted
            }
        }
    }
}

/// Register, Acquire, Release or Report, to its end.
pub(super) async fn execute(
    session: Rc<Session>,
    sqe: Sqe,
    handle: Rc<Handle>,
    action: Action,
    payload: Payload,
) {
    if let Action::ReportReservations { len, extended } = action {
        return report(&session, &sqe, &handle, len, extended);
    }
    let ended = change(&session, &sqe, &handle, &payload.to_vec()).await;
    session.answer(sqe.id(), ended.map(|()| 0), None);
}

fn report(session: &Session, sqe: &Sqe, handle: &Handle, len: u32, extended: bool) {
    if !extended {
        // Hosts have identifiers of 128 bits; the short form has no room for them.
        return session.answer(sqe.id(), Err((Status::HOST_ID_FORMAT, false)), None);
    }
    let mut bytes = Reservations::decode(&handle.reservations().bytes).unwrap_or_default().report(extended);
    bytes.resize(len as usize, 0); // widening
    let data = session.link.core().buffers().copy_of(&bytes).freeze();
    session.answer_data(sqe.id(), Payload::one(data), None);
}

/// Decides a change on the newest reservations, and again if others were quicker; then it is told and enforced.
async fn change(session: &Session, sqe: &Sqe, handle: &Handle, data: &[u8]) -> Result<(), (Status, bool)> {
    let refused = |status: Status| (status, status != Status::RESERVATION_CONFLICT);
    let command = reservation::Command::parse(sqe, data).map_err(refused)?;
    for _ in 0..TRIES {
        let newest = handle.reservations().clone();
        let known = Reservations::decode(&newest.bytes).unwrap_or_default();
        let controller = session.seat.controller.id;
        let outcome = known.decide(&command, session.host(), controller).map_err(refused)?;
        if outcome.next != known {
            let (bytes, durable) = (outcome.next.encode().into(), outcome.next.persists);
            match handle.set_reservations(newest.version, bytes, durable).await {
                Ok(()) => {}
                Err(ReservationError::Raced) => continue,
                Err(ReservationError::Failed(status)) => return Err(status_of(status, false)),
            }
        }
        enforce(session, handle, &outcome).await;
        return Ok(());
    }
    Err((Status::INTERNAL, false))
}

/// Tells the hosts that lost something, and waits for the commands of those that lost everything.
async fn enforce(session: &Session, handle: &Handle, outcome: &Outcome) {
    let namespace = handle.volume().identity().number;
    let controllers = session.fabric.controllers_and_leftovers_of(session.seat.controller.pool);
    let of = |host: HostId| controllers.iter().filter(move |c| c.host.id == host.0);
    for notice in &outcome.notices {
        of(notice.host).for_each(|controller| controller.notify(namespace, notice.kind.code()));
    }
    let core = session.link.core();
    let give_up = core.now() + WAIT_MAX;
    for controller in outcome.abort.iter().flat_map(|host| of(*host)) {
        // From the change on nothing new of theirs passes; what passed before is on its way.
        while controller.id != session.seat.controller.id && !controller.is_idle() && core.now() < give_up {
            core.sleep(LOOK_EVERY).await;
        }
    }
}
