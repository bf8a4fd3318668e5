//! The client side of NBD: many requests in flight on one connection of a core.
//!
//! Owns: the handle that requests are made with. `client::negotiation` and `client::decoder` are the pure halves,
//! `client::link` moves the bytes. A request is checked before it is sent, so that nothing leaves that the server
//! did not advertise (section 20.10). An error of the connection ends every request on it with that error.

pub mod decoder;
mod link;
pub mod negotiation;

use crate::base::limits::{HANDSHAKE_DEADLINE_NS, NBD_STRING_MAX, REQUESTS_IN_FLIGHT_MAX};
use crate::base::units::Span;
use crate::block::Payload;
use crate::io::driver::Address;
use crate::nbd::wire::number::{Command, NbdError, export, request};
use crate::nbd::wire::{Extent, ReplyMode};
use crate::reactor::Core;
use crate::reactor::net::Stream;
use decoder::{Asked, Violation};
use futures_util::future::{Either, select};
use link::Link;
use negotiation::{Export, Refusal, Wish};
use nix::errno::Errno;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// How to connect.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The reply mode to ask for; simple replies are the fastest.
    pub replies: ReplyMode,
    /// Ask for allocation status (needs structured or extended replies).
    pub allocation: bool,
    /// Requests in flight; more wait their turn. At most `REQUESTS_IN_FLIGHT_MAX`.
    pub depth: usize,
    /// A server that leaves requests without any progress for this long is given up.
    pub stall: Duration,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            replies: ReplyMode::Simple,
            allocation: false,
            depth: REQUESTS_IN_FLIGHT_MAX,
            stall: Duration::from_secs(60),
        }
    }
}

/// Why a request, or the whole connection, failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot connect: {}", .0.desc())]
    Connect(Errno),
    #[error("the connection broke: {}", .0.desc())]
    Socket(Errno),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server did not answer in time")]
    Stalled,
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("the server broke the protocol: {0}")]
    Violation(#[from] Violation),
    #[error("the server answered: {}", .0.text())]
    Server(NbdError),
    #[error("the request does not fit the export")]
    Invalid,
    #[error("the server does not offer this")]
    NotOffered,
}

/// How zeroes are to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ZeroWish {
    pub fua: bool,
    pub allocate: bool,
    pub fast_only: bool,
}

/// One connection to one export. Clones use the same connection; it ends when the last one is dropped.
#[derive(Clone)]
pub struct Client {
    handle: Rc<Handle>,
}

struct Handle {
    link: Rc<Link>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.link.hang_up();
    }
}

impl Client {
    /// Connects and negotiates, within the deadline for negotiations.
    pub async fn connect(
        core: &Core,
        address: Address,
        export_name: &str,
        options: ClientOptions,
    ) -> Result<Client, ClientError> {
        if export_name.len() > NBD_STRING_MAX || export_name.contains('\0') {
            return Err(ClientError::Invalid);
        }
        let wish =
            Wish { export: export_name.to_owned(), replies: options.replies, allocation: options.allocation };
        let negotiated = async {
            let stream = Stream::connect(core, address).await.map_err(ClientError::Connect)?;
            let export = link::negotiate(&stream, wish).await?;
            Ok::<_, ClientError>((stream, export))
        };
        let deadline = core.sleep(Duration::from_nanos(HANDSHAKE_DEADLINE_NS));
        let (stream, export) = match select(pin!(negotiated), pin!(deadline)).await {
            Either::Left((result, _)) => result?,
            Either::Right(_) => return Err(ClientError::Stalled),
        };
        let link = Link::start(core, stream, export, &options);
        Ok(Client { handle: Rc::new(Handle { link }) })
    }

    /// What the server said about the export.
    pub fn export(&self) -> &Export {
        &self.handle.link.export
    }

    /// The bytes of a span, at most `payload_max`.
    pub async fn read(&self, span: Span) -> Result<Payload, ClientError> {
        self.check(span, self.export().payload_max)?;
        if span.is_empty() {
            return Ok(Payload::default());
        }
        self.handle.link.call(Asked::Read(span), Command::Read, 0, span, None).await.map(|end| end.payload)
    }

    /// Writes a payload whose length is the span's.
    pub async fn write(&self, span: Span, payload: Payload, fua: bool) -> Result<(), ClientError> {
        if payload.len() != span.len() {
            return Err(ClientError::Invalid);
        }
        self.check(span, self.export().payload_max)?;
        self.effect(Command::Write, self.fua(fua)?, span, Some(payload)).await
    }

    /// Makes every write that was answered before durable; a server without FLUSH writes through.
    pub async fn flush(&self) -> Result<(), ClientError> {
        if !self.export().has(export::SEND_FLUSH) {
            return Ok(());
        }
        let link = &self.handle.link;
        link.call(Asked::Effect, Command::Flush, 0, Span::at(0, 0), None).await.map(drop)
    }

    /// Gives space back; what is read there afterwards is undefined.
    pub async fn trim(&self, span: Span, fua: bool) -> Result<(), ClientError> {
        self.offered(export::SEND_TRIM)?;
        self.check(span, self.effect_max())?;
        self.effect(Command::Trim, self.fua(fua)?, span, None).await
    }

    /// Makes a span read as zeroes.
    pub async fn write_zeroes(&self, span: Span, wish: ZeroWish) -> Result<(), ClientError> {
        self.offered(export::SEND_WRITE_ZEROES)?;
        self.check(span, self.effect_max())?;
        let mut flags = self.fua(wish.fua)?;
        if wish.allocate {
            flags |= request::NO_HOLE;
        }
        if wish.fast_only {
            self.offered(export::SEND_FAST_ZERO)?;
            flags |= request::FAST_ZERO;
        }
        self.effect(Command::WriteZeroes, flags, span, None).await
    }

    /// The allocation of a span from its start on; the answer may end before the span does, or after it.
    pub async fn block_status(&self, span: Span) -> Result<Vec<Extent>, ClientError> {
        if self.export().context.is_none() {
            return Err(ClientError::NotOffered);
        }
        self.check(span, self.effect_max())?;
        if span.is_empty() {
            return Ok(Vec::new());
        }
        let link = &self.handle.link;
        link.call(Asked::Status(span), Command::BlockStatus, 0, span, None).await.map(|end| end.extents)
    }

    /// Waits for the requests in flight, says goodbye and waits (not for ever) for the server to close.
    pub async fn disconnect(self) -> Result<(), ClientError> {
        self.handle.link.disconnect().await
    }

    async fn effect(
        &self,
        command: Command,
        flags: u16,
        span: Span,
        payload: Option<Payload>,
    ) -> Result<(), ClientError> {
        let read_only = self.export().has(export::READ_ONLY);
        match (read_only, span.is_empty()) {
            (true, _) => Err(ClientError::NotOffered),
            (false, true) => Ok(()),
            (false, false) => {
                self.handle.link.call(Asked::Effect, command, flags, span, payload).await.map(drop)
            }
        }
    }

    /// Section 20.10: nothing out of range, misaligned or too long is sent.
    fn check(&self, span: Span, len_max: u64) -> Result<(), ClientError> {
        let export = self.export();
        let unit = u64::from(export.block_min);
        let aligned = span.offset().is_aligned(unit) && span.len().is_aligned(unit);
        let fits = span.end().0 <= export.size && span.len().0 <= len_max;
        if aligned && fits { Ok(()) } else { Err(ClientError::Invalid) }
    }

    /// The longest span of a request without payload: what the request's header can say.
    fn effect_max(&self) -> u64 {
        match self.export().replies {
            ReplyMode::Extended => u64::MAX,
            ReplyMode::Simple | ReplyMode::Structured => u64::from(u32::MAX),
        }
    }

    fn offered(&self, flag: u16) -> Result<(), ClientError> {
        if self.export().has(flag) { Ok(()) } else { Err(ClientError::NotOffered) }
    }

    fn fua(&self, wanted: bool) -> Result<u16, ClientError> {
        if !wanted {
            return Ok(0);
        }
        self.offered(export::SEND_FUA).map(|()| request::FUA)
    }
}

#[cfg(test)]
mod tests;
