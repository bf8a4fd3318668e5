//! Commands about many bytes that carry none: in slices, with other requests in between, so that none of them holds a
//! core for long, and one that nobody waits for any more can end.

use super::Handle;
use crate::base::limits::BLOCK;
use crate::base::units::Span;
use crate::block::{Status, WriteFlags, ZeroFlags};
use crate::reactor::sync::yield_now;

/// Bytes of one step.
const SLICE: u64 = 64 << 20;

const _: () = assert!(SLICE.is_multiple_of(BLOCK));

/// A command about many bytes that carries none.
#[derive(Clone, Copy)]
pub enum Sweep {
    Trim(WriteFlags),
    Zero(ZeroFlags),
}

impl Sweep {
    async fn step(self, handle: &Handle, span: Span) -> Result<(), Status> {
        match self {
            Sweep::Trim(flags) => handle.discard(span, flags).await,
            Sweep::Zero(flags) => handle.write_zeroes(span, flags).await,
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

/// Runs a command in slices. One that is cancelled in between ends with `ShuttingDown`.
pub async fn sweep(
    handle: &Handle,
    span: Span,
    sweep: Sweep,
    is_cancelled: impl Fn() -> bool,
) -> Result<(), Status> {
    if span.len().0 <= SLICE {
        return sweep.step(handle, span).await;
    }
    let mut step = sweep.without_fua();
    let mut at = span.offset().0;
    while at < span.end().0 {
        if is_cancelled() {
            return Err(Status::ShuttingDown);
        }
        let rest = Span::at(at, span.end().0 - at);
        let hole = if sweep.leaves_holes() { hole_at(handle, rest).await? } else { 0 };
        if hole > 0 {
            at += hole;
        } else {
            let stop = (at / SLICE + 1).saturating_mul(SLICE).min(span.end().0);
            step.step(handle, Span::at(at, stop - at)).await?;
            step = step.for_the_rest();
            at = stop;
        }
        yield_now().await;
    }
    // Holes that were left alone may be the work of an earlier request that is not durable yet: the flush covers it.
    if sweep.has_fua() { handle.flush().await } else { Ok(()) }
}

/// Bytes at the start of a span that are a hole which reads as zeroes.
async fn hole_at(handle: &Handle, span: Span) -> Result<u64, Status> {
    let found = handle.allocation(span, 1).await?;
    Ok(found.runs.first().filter(|run| run.hole && run.zero).map_or(0, |run| run.len.0))
}
