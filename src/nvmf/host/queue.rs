//! An I/O queue: requests on the bytes of a namespace.
//!
//! A request is checked before it is sent, so that nothing leaves that the controller did not advertise. Requests that
//! are longer than a command may be become several, at the same time.

use super::draft::{self, BLOCKS_MAX, Draft, Manner, OnBlocks, RANGES_MAX};
use super::link::{Data, Link};
use super::{Host, HostError, Namespace};
use crate::base::units::Span;
use crate::block::Payload;
use crate::nvmf::command::Status;
use futures_util::future::try_join_all;
use std::rc::Rc;

/// How zeroes are to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ZeroWish {
    pub fua: bool,
    /// Space may be given back.
    pub deallocate: bool,
}

/// One I/O queue, for one namespace. Clones use the same connection; it ends when the last one is dropped, and the
/// association lives as long as one of its queues.
#[derive(Clone)]
pub struct Queue {
    handle: Rc<Handle>,
    host: Host,
    namespace: Rc<Namespace>,
}

struct Handle {
    link: Rc<Link>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.link.fail(HostError::Closed);
    }
}

impl Queue {
    pub(super) fn new(link: Rc<Link>, host: Host, namespace: Namespace) -> Queue {
        Queue { handle: Rc::new(Handle { link }), host, namespace: Rc::new(namespace) }
    }

    /// What the controller said about the namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The same queue for another namespace.
    pub fn to(&self, namespace: &Namespace) -> Queue {
        Queue { namespace: Rc::new(namespace.clone()), ..self.clone() }
    }

    /// The bytes of a span.
    pub async fn read(&self, span: Span) -> Result<Payload, HostError> {
        self.check(span)?;
        if span.len().0 <= self.namespace.transfer_max && !span.is_empty() {
            return self.read_one(span).await;
        }
        let pieces = self.pieces(span, self.namespace.transfer_max).map(|piece| self.read_one(piece));
        let parts = try_join_all(pieces).await?.into_iter().flat_map(|payload| payload.parts);
        Ok(Payload { parts: parts.collect() })
    }

    /// Writes a payload whose length is the span's.
    pub async fn write(&self, span: Span, payload: Payload, fua: bool) -> Result<(), HostError> {
        if payload.len() != span.len() {
            return Err(HostError::Invalid);
        }
        self.check_write(span)?;
        let manner = Manner { fua, deallocate: false };
        self.send(OnBlocks::Write, span, payload, manner).await
    }

    /// Whether a span holds these bytes.
    pub async fn compare(&self, span: Span, payload: Payload) -> Result<bool, HostError> {
        self.offered(self.host.controller().offers.compare)?;
        if payload.len() != span.len() {
            return Err(HostError::Invalid);
        }
        self.check(span)?;
        match self.send(OnBlocks::Compare, span, payload, Manner::default()).await {
            Ok(()) => Ok(true),
            Err(HostError::Command(failure)) if failure.status == Status::COMPARE_FAILED => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes every write that was answered before durable; without a volatile cache all of them are already.
    pub async fn flush(&self) -> Result<(), HostError> {
        if !self.host.controller().offers.volatile_cache {
            return Ok(());
        }
        self.effect(draft::flush(self.namespace.number)).await
    }

    /// Makes a span read as zeroes.
    pub async fn write_zeroes(&self, span: Span, wish: ZeroWish) -> Result<(), HostError> {
        self.offered(self.host.controller().offers.write_zeroes)?;
        self.offered(self.namespace.zeroes_deallocate || !wish.deallocate)?;
        self.check_write(span)?;
        let manner = Manner { fua: wish.fua, deallocate: wish.deallocate };
        let most = BLOCKS_MAX * u64::from(self.namespace.block);
        let pieces = self
            .pieces(span, most)
            .map(|piece| self.effect(self.draft(OnBlocks::WriteZeroes, piece, manner)));
        try_join_all(pieces).await.map(drop)
    }

    /// Gives space back; what is read there afterwards is zeroes where `deallocated_zero` says so, else undefined.
    pub async fn deallocate(&self, spans: &[Span]) -> Result<(), HostError> {
        self.offered(self.host.controller().offers.deallocate)?;
        for span in spans {
            self.check_write(*span)?;
        }
        let most = u64::from(u32::MAX) * u64::from(self.namespace.block);
        let pieces: Vec<Span> = spans.iter().flat_map(|span| self.pieces(*span, most)).collect();
        for ranges in pieces.chunks(RANGES_MAX) {
            let bytes: Vec<u8> = ranges.iter().flat_map(|range| self.range(*range)).collect();
            let payload = Payload::one(self.handle.link.buffers().copy_of(&bytes).freeze());
            let draft = draft::deallocate(self.namespace.number, ranges.len());
            self.handle.link.call(draft, Data::Send(payload)).await?;
        }
        Ok(())
    }

    /// Waits until the connection ends, and says why.
    pub async fn end(&self) -> HostError {
        self.handle.link.end().await
    }

    async fn read_one(&self, span: Span) -> Result<Payload, HostError> {
        let draft = self.draft(OnBlocks::Read, span, Manner::default());
        self.handle.link.call(draft, Data::Receive(span)).await.map(|end| end.payload)
    }

    async fn send(
        &self,
        what: OnBlocks,
        span: Span,
        payload: Payload,
        manner: Manner,
    ) -> Result<(), HostError> {
        if span.len().0 <= self.namespace.transfer_max && !span.is_empty() {
            return self.send_one(what, span, payload, manner).await;
        }
        let pieces = self.pieces(span, self.namespace.transfer_max).map(|piece| {
            let part = payload.slice((piece.offset() - span.offset()).0, piece.len().0);
            self.send_one(what, piece, part, manner)
        });
        try_join_all(pieces).await.map(drop)
    }

    async fn send_one(
        &self,
        what: OnBlocks,
        span: Span,
        payload: Payload,
        manner: Manner,
    ) -> Result<(), HostError> {
        let draft = self.draft(what, span, manner);
        self.handle.link.call(draft, Data::Send(payload)).await.map(drop)
    }

    async fn effect(&self, draft: Draft) -> Result<(), HostError> {
        self.handle.link.call(draft, Data::None).await.map(drop)
    }

    fn draft(&self, what: OnBlocks, span: Span, manner: Manner) -> Draft {
        let block = u64::from(self.namespace.block);
        draft::on_blocks(what, self.namespace.number, span.offset().0 / block, span.len().0 / block, manner)
    }

    fn range(&self, span: Span) -> [u8; 16] {
        let block = u64::from(self.namespace.block);
        let blocks = u32::try_from(span.len().0 / block).expect("cut to 32 bits");
        draft::range(span.offset().0 / block, blocks)
    }

    /// A span in pieces of at most `most` bytes; none for an empty one.
    fn pieces(&self, span: Span, most: u64) -> impl Iterator<Item = Span> + use<> {
        let (start, len) = (span.offset().0, span.len().0);
        (0..len.div_ceil(most)).map(move |number| {
            let at = number * most;
            Span::at(start + at, most.min(len - at))
        })
    }

    fn check(&self, span: Span) -> Result<(), HostError> {
        let unit = u64::from(self.namespace.block);
        let aligned = span.offset().is_aligned(unit) && span.len().is_aligned(unit);
        if aligned && span.end().0 <= self.namespace.size { Ok(()) } else { Err(HostError::Invalid) }
    }

    fn check_write(&self, span: Span) -> Result<(), HostError> {
        self.offered(!self.namespace.read_only)?;
        self.check(span)
    }

    fn offered(&self, offered: bool) -> Result<(), HostError> {
        if offered { Ok(()) } else { Err(HostError::NotOffered) }
    }
}
