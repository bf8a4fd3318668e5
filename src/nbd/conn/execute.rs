//! Executing a request on its volume and answering it.
//!
//! A request is polled once where it was received: what the volume answers at once needs no task. Commands about
//! many bytes run in slices (`volume/sweep.rs`), and stop when nobody waits for them.

use super::super::transmission::{Action, ReplyTo, emit_extents, error_of, extents_len, sections};
use super::super::wire::ReplyMode;
use super::super::wire::number::NbdError;
use super::Session;
use crate::base::limits::STATUS_EXTENTS_MAX;
use crate::base::planted::{Planted, is_planted};
use crate::base::units::{ByteLen, Span};
use crate::block::{AllocationRun, Payload, Status};
use crate::io::buf::Buf;
use crate::link::{Chunk, Share};
use crate::volume::sweep::{Sweep, sweep};
use smallvec::SmallVec;
use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Waker};

/// Starts a request; its answer comes through the outbox.
pub(super) fn start(
    session: &Rc<Session>,
    reply: ReplyTo,
    action: Action,
    payload: Payload,
    share: Option<Share>,
) {
    if action == Action::Nothing || session.link.is_dead() {
        // Of a dead connection nothing new is begun (R12); this reply is dropped and counted.
        return session.link.push_head(reply.done());
    }
    let mut running = Box::pin(execute(session.clone(), reply, action, payload, share));
    // The task that it becomes is polled again in any case, so nothing is lost by waking nobody here.
    let mut context = Context::from_waker(Waker::noop());
    if running.as_mut().poll(&mut context).is_pending() {
        session.link.core().spawn(running);
    }
}

/// One request to its end.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice: 150 bytes in every request"
)]
fn execute(
    session: Rc<Session>,
    reply: ReplyTo,
    action: Action,
    payload: Payload,
    share: Option<Share>,
) -> impl Future<Output = ()> {
    async move {
        let handle = &session.handle;
        let early = matches!(action, Action::Write { .. }) && answers_early(&session);
        if early {
            session.link.push_head(reply.done());
        }
        let ended = match action {
            Action::Read { span, whole } => match handle.read(span).await {
                Ok(data) => return session.answer_read(&reply, span, whole, data, share),
                Err(status) => Err(status),
            },
            Action::Write { span, flags } => handle.write(span, &payload, flags).await,
            Action::Status { span, one } => {
                let runs_max = if one { 1 } else { STATUS_EXTENTS_MAX };
                match Box::pin(handle.allocation(span, runs_max)).await {
                    Ok(found) => return session.answer_status(&reply, &found.runs, share),
                    Err(status) => Err(status),
                }
            }
            other => Box::pin(execute_rare(&session, other)).await,
        };
        // The share of a payload goes back with it, and does not wait for the answer to be sent.
        drop((payload, share));
        match ended {
            _ if early => {}
            Ok(()) => session.link.push_head(reply.done()),
            Err(status) => session.link.push_head(reply.error(error_of(status))),
        }
    }
}

/// For the planted bug: what is running counts as done then, as its answer does.
fn answers_early(session: &Session) -> bool {
    is_planted(session.link.core(), Planted::AnswerBeforeWrite)
}

/// What is not about the bytes themselves; apart, so that reads and writes need not carry its state along.
async fn execute_rare(session: &Session, action: Action) -> Result<(), Status> {
    match action {
        Action::Nothing => Ok(()),
        Action::Flush => session.handle.flush().await,
        Action::Trim { span, flags } => {
            sweep(&session.handle, span, Sweep::Trim(flags), || session.link.is_cancelled()).await
        }
        Action::Zero { span, flags } => {
            sweep(&session.handle, span, Sweep::Zero(flags), || session.link.is_cancelled()).await
        }
        Action::Read { .. } | Action::Write { .. } | Action::Status { .. } => {
            unreachable!("these are executed by `execute` itself")
        }
    }
}

impl Session {
    fn answer_read(&self, reply: &ReplyTo, span: Span, whole: bool, data: Payload, share: Option<Share>) {
        assert_eq!(data.len(), span.len(), "a volume reads exactly what it was asked for");
        let simple = self.terms.mode == ReplyMode::Simple;
        let is_zero = |part: &Buf| self.zeroes.contains(&part.as_ptr().addr());
        let kinds = data.parts.iter().map(|part| (ByteLen(part.len() as u64), is_zero(part))); // widening
        let sections = sections(span.offset(), kinds, whole || simple, !simple);
        let (mut parts, mut share, count) = (data.parts.into_iter(), share, sections.len());
        for (index, section) in sections.iter().enumerate() {
            let last = index + 1 == count;
            let taken = parts.by_ref().take(section.parts);
            let parts: SmallVec<[Buf; 2]> = if section.hole { drop_all(taken) } else { taken.collect() };
            let head = Some(reply.content(section, last));
            let share = if last { share.take() } else { None };
            self.link.push(Chunk { head, parts, next: 0, last, share });
        }
    }

    fn answer_status(&self, reply: &ReplyTo, runs: &[AllocationRun], share: Option<Share>) {
        let Some(context) = self.terms.allocation_context.filter(|_| !runs.is_empty()) else {
            // A volume that knows nothing about a span that is not empty has broken its contract.
            return self.link.push_head(reply.error(NbdError::Io));
        };
        let len = extents_len(self.terms.mode, runs.len());
        let mut extents = self.link.core().buffers().take(len);
        emit_extents(self.terms.mode, runs, extents.as_mut_slice());
        let parts = Payload::one(extents.freeze()).parts;
        self.link.push(Chunk { head: Some(reply.status(context, len)), parts, next: 0, last: true, share });
    }
}

/// Zeroes that a hole stands for are not sent.
fn drop_all(parts: impl Iterator<Item = Buf>) -> SmallVec<[Buf; 2]> {
    parts.for_each(drop);
    SmallVec::new()
}
