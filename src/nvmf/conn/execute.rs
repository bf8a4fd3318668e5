//! Executing a command and answering it.
//!
//! A command is polled once where it was received: what the volume answers at once needs no task.

use super::super::admin::Answer;
use super::super::command::Status;
use super::super::identify::TRANSFER_MAX;
use super::super::io_command::{self, Action, Extent, status_of};
use super::super::pdu::Transfer;
use super::{Command, Plan, Session, reserve};
use crate::base::planted::{Planted, is_planted};
use crate::base::units::Span;
use crate::block::{Payload, WriteFlags};
use crate::link::{Chunk, Head, Share};
use crate::volume::Handle;
use crate::volume::sweep::{Sweep, sweep};
use futures_util::future::try_join_all;
use smallvec::SmallVec;
use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Waker};

/// How a command ended: dwords 0 and 1, or the status and whether trying again would end the same way.
type Ended = Result<u64, (Status, bool)>;

/// Starts a command; its answer comes through the outbox.
pub(super) fn start(session: &Rc<Session>, command: Command, payload: Payload, share: Option<Share>) {
    let id = command.sqe.id();
    if session.link.is_dead() || session.is_over.get() {
        // Of a dead connection nothing new is begun (R12).
        return session.answer(id, Err((Status::ABORTED, false)), share);
    }
    match command.plan {
        Plan::Admin => administer(session, &command, &payload, share),
        Plan::FlushAll => run(session, flush_all(session.clone(), id)),
        Plan::Io(handle, action, extent) => {
            if action.access().is_some() {
                session.seat.traffic.admit();
                if !session.is_permitted(&handle, &action) {
                    session.seat.traffic.end();
                    return session.answer(id, Err((Status::RESERVATION_CONFLICT, false)), share);
                }
            }
            if let Action::Reserve { .. } | Action::ReportReservations { .. } = action {
                let reserving = reserve::execute(session.clone(), command.sqe, handle, action, payload);
                return run(session, reserving);
            }
            run(session, execute(session.clone(), id, handle, action, extent, payload, share));
        }
    }
}

fn run(session: &Rc<Session>, command: impl Future<Output = ()> + 'static) {
    let mut running = Box::pin(command);
    // The task that it becomes is polled again in any case, so nothing is lost by waking nobody here.
    let mut context = Context::from_waker(Waker::noop());
    if running.as_mut().poll(&mut context).is_pending() {
        session.link.core().spawn(running);
    }
}

/// Answers an admin command.
fn administer(session: &Rc<Session>, command: &Command, payload: &Payload, share: Option<Share>) {
    let Some(admin) = &session.admin else { return };
    let id = command.sqe.id();
    let data = payload.to_vec();
    let answer = admin.borrow_mut().answer(&command.sqe, &data, &session.world());
    match answer {
        Answer::Done(result) => session.answer(id, Ok(result), share),
        Answer::Refused(status) => session.answer(id, Err((status, true)), share),
        Answer::Data(bytes) => {
            let payload = Payload::one(session.link.core().buffers().copy_of(&bytes).freeze());
            session.answer_data(id, payload, share);
        }
        // It does not count as running, so that it keeps no daemon from stopping.
        Answer::Held => session.link.count_sent(1, 0),
    }
    session.tell_events(admin);
}

async fn flush_all(session: Rc<Session>, id: u16) {
    let handles = session.all_handles();
    let flushed = try_join_all(handles.iter().map(|handle| handle.flush())).await;
    session.answer(id, flushed.map(|_| 0).map_err(|status| status_of(status, false)), None);
}

/// One I/O command to its end.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice: 150 bytes in every request"
)]
fn execute(
    session: Rc<Session>,
    id: u16,
    handle: Rc<Handle>,
    action: Action,
    extent: Extent,
    payload: Payload,
    share: Option<Share>,
) -> impl Future<Output = ()> {
    async move {
        let early = matches!(action, Action::Write { .. }) && session.has(Planted::NvmeAnswerBeforeWrite);
        if early {
            session.link.begin();
            session.answer(id, Ok(0), None);
        }
        let ended = match action {
            Action::Read { span } => match handle.read(span).await {
                Ok(data) => {
                    session.count(true, span.len().0);
                    session.seat.traffic.end();
                    return session.answer_data(id, data, share);
                }
                Err(_) if session.has(Planted::NvmeFailedReadAnswered) => {
                    session.seat.traffic.end();
                    return session.answer_data(id, session.zeros(span), share);
                }
                Err(status) => Err(status_of(status, true)),
            },
            Action::Write { span, flags } => {
                let written = handle.write(span, &payload, flags).await;
                session.count(false, span.len().0);
                written.map(|()| 0).map_err(|status| status_of(status, false))
            }
            Action::Flush if session.has(Planted::NvmeFlushIsNothing) => Ok(0),
            Action::Flush => handle.flush().await.map(|()| 0).map_err(|status| status_of(status, false)),
            other => Box::pin(execute_rare(&session, &handle, other, &extent, &payload)).await,
        };
        if action.access().is_some() {
            session.seat.traffic.end();
        }
        // The share of a payload goes back with it, and does not wait for the answer to be sent.
        drop((payload, share));
        match early {
            true => session.link.count_sent(1, 0),
            false => session.answer(id, ended, None),
        }
    }
}

/// What is not about the bytes themselves; apart, so that reads and writes need not carry its state along.
async fn execute_rare(
    session: &Session,
    handle: &Handle,
    action: Action,
    extent: &Extent,
    payload: &Payload,
) -> Ended {
    let is_cancelled = || session.link.is_cancelled();
    match action {
        Action::Compare { span } => {
            let found = handle.read(span).await.map_err(|status| status_of(status, true))?;
            if found.to_vec() == payload.to_vec() { Ok(0) } else { Err((Status::COMPARE_FAILED, true)) }
        }
        Action::Verify { span } => {
            for from in (0..span.len().0).step_by(TRANSFER_MAX as usize) {
                let len = (span.len().0 - from).min(u64::from(TRANSFER_MAX));
                let part = Span::at(span.offset().0 + from, len);
                handle.read(part).await.map_err(|status| status_of(status, true))?;
            }
            Ok(0)
        }
        Action::Zero { span, flags } => {
            let zeroed = sweep(handle, span, Sweep::Zero(flags), is_cancelled).await;
            zeroed.map(|()| 0).map_err(|status| status_of(status, false))
        }
        Action::Deallocate { ranges, deallocate, .. } => {
            let spans =
                io_command::ranges(&payload.to_vec(), ranges, extent).map_err(|status| (status, true))?;
            for span in spans.into_iter().filter(|_| deallocate) {
                let given_back =
                    sweep(handle, span, Sweep::Trim(WriteFlags { fua: false }), is_cancelled).await;
                given_back.map_err(|status| status_of(status, false))?;
            }
            Ok(0)
        }
        Action::Read { .. }
        | Action::Write { .. }
        | Action::Flush
        | Action::Reserve { .. }
        | Action::ReportReservations { .. } => {
            unreachable!("these are executed elsewhere")
        }
    }
}

impl Session {
    fn has(&self, bug: Planted) -> bool {
        is_planted(self.link.core(), bug)
    }

    /// For a planted bug.
    fn zeros(&self, span: Span) -> Payload {
        let mut buf = self.link.core().buffers().take(span.len().as_usize());
        buf.as_mut_slice().fill(0);
        Payload::one(buf.freeze())
    }

    /// Sends data, and the response behind it; the flag for success stands for that where the host needs no SQHD.
    pub(super) fn answer_data(&self, id: u16, data: Payload, share: Option<Share>) {
        if self.is_over.get() {
            return self.answer(id, Err((Status::ABORTED, false)), share);
        }
        self.forget(id);
        let len = u32::try_from(data.len().0).expect("a transfer is 1 MiB at most");
        let success = self.queue.no_flow_control;
        let header = Transfer { command: id, tag: 0, offset: 0, len };
        let head = Some(Head::new(&header.emit_c2h(true, success, self.digests)));
        let mut tail = SmallVec::<[u8; 64]>::new();
        if self.digests.data {
            let sum = data.parts.iter().fold(0, |sum, part| crc32c::crc32c_append(sum, part.as_slice()));
            tail.extend_from_slice(&sum.to_le_bytes());
        }
        if !success {
            tail.extend_from_slice(&self.completion(id, Ok(0)));
        }
        let last = tail.is_empty();
        let (here, later) = if last { (share, None) } else { (None, share) };
        self.link.push(Chunk { head, parts: data.parts, next: 0, last, share: here });
        if !last {
            let head = Some(Head::new(&tail));
            self.link.push(Chunk { head, parts: SmallVec::new(), next: 0, last: true, share: later });
        }
    }
}
