//! Executing a request on its volume and answering it.
//!
//! A request is polled once where it was received: what the volume answers at once needs no task. Commands about
//! more than `SLICE` bytes run in slices, with other requests in between, and stop when nobody waits for them.

use super::super::transmission::{Action, ReplyTo, emit_extents, error_of, extents_len, sections};
use super::super::wire::ReplyMode;
use super::super::wire::number::NbdError;
use super::Session;
use super::link::{Chunk, Share};
use crate::base::limits::{BLOCK, STATUS_EXTENTS_MAX};
use crate::base::planted::{Planted, is_planted};
use crate::base::units::{ByteLen, Span};
use crate::block::{AllocationRun, Payload, Status, WriteFlags, ZeroFlags};
use crate::io::buf::Buf;
use smallvec::SmallVec;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Bytes that TRIM and WRITE_ZEROES are about in one step.
const SLICE: u64 = 64 << 20;

const _: () = assert!(SLICE.is_multiple_of(BLOCK));

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

/// Lets the other tasks of the core run.
pub(super) fn yield_now() -> impl Future<Output = ()> {
    let mut yielded = false;
    poll_fn(move |cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
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
        Action::Trim { span, flags } => sweep(session, span, Sweep::Trim(flags)).await,
        Action::Zero { span, flags } => sweep(session, span, Sweep::Zero(flags)).await,
        Action::Read { .. } | Action::Write { .. } | Action::Status { .. } => {
            unreachable!("these are executed by `execute` itself")
        }
    }
}

/// A command about many bytes that carries none.
#[derive(Clone, Copy)]
enum Sweep {
    Trim(WriteFlags),
    Zero(ZeroFlags),
}

impl Sweep {
    async fn step(self, session: &Session, span: Span) -> Result<(), Status> {
        match self {
            Sweep::Trim(flags) => session.handle.discard(span, flags).await,
            Sweep::Zero(flags) => session.handle.write_zeroes(span, flags).await,
        }
    }

    /// The same without FUA: one flush at the end makes all slices durable.
    fn without_fua(self) -> Sweep {
        match self {
            Sweep::Trim(_) => Sweep::Trim(WriteFlags { fua: false }),
            Sweep::Zero(flags) => Sweep::Zero(ZeroFlags { fua: false, ..flags }),
        }
    }

    /// The same for the slices after the first: by then something was changed, and "not fast" would come too late.
    fn for_the_rest(self) -> Sweep {
        match self {
            Sweep::Trim(_) => self,
            Sweep::Zero(flags) => Sweep::Zero(ZeroFlags { fast_only: false, ..flags }),
        }
    }

    fn has_fua(self) -> bool {
        match self {
            Sweep::Trim(flags) => flags.fua,
            Sweep::Zero(flags) => flags.fua,
        }
    }

    /// Whether a hole that reads as zeroes may be left as it is.
    fn leaves_holes(self) -> bool {
        match self {
            Sweep::Trim(_) => true,
            Sweep::Zero(flags) => !flags.allocate,
        }
    }
}

async fn sweep(session: &Session, span: Span, sweep: Sweep) -> Result<(), Status> {
    if span.len().0 <= SLICE {
        return sweep.step(session, span).await;
    }
    let mut step = sweep.without_fua();
    let mut at = span.offset().0;
    while at < span.end().0 {
        if session.link.is_cancelled() {
            return Err(Status::ShuttingDown);
        }
        let rest = Span::at(at, span.end().0 - at);
        let hole = if sweep.leaves_holes() { hole_at(session, rest).await? } else { 0 };
        if hole > 0 {
            at += hole;
        } else {
            let stop = (at / SLICE + 1).saturating_mul(SLICE).min(span.end().0);
            step.step(session, Span::at(at, stop - at)).await?;
            step = step.for_the_rest();
            at = stop;
        }
        yield_now().await;
    }
    // Holes that were left alone may be the work of an earlier request that is not durable yet: the flush covers it.
    if sweep.has_fua() { session.handle.flush().await } else { Ok(()) }
}

/// Bytes at the start of a span that are a hole which reads as zeroes.
async fn hole_at(session: &Session, span: Span) -> Result<u64, Status> {
    let found = session.handle.allocation(span, 1).await?;
    Ok(found.runs.first().filter(|run| run.hole && run.zero).map_or(0, |run| run.len.0))
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
