//! A connection of the server: negotiation, then one task that receives and one that sends, all on one core.
//!
//! ```text
//! socket -> receive -> judge -> execute (inline, or a task of its own) -> outbox -> send -> socket
//!              |                                                            |
//!              +-- waits while too much is in flight or granted  <----------+
//! ```
//! Memory is bounded because bytes are granted by the budget before they are received or read, and given back when
//! the reply has been sent. The end of receiving is not the end of the connection: replies to what was received
//! are still sent. A connection is closed when a payload or a batch of replies makes no progress for a minute.

mod execute;
mod receive;

use super::negotiation::{Agreement, Export, Exports, Negotiation, Step};
use super::transmission::Terms;
use crate::base::limits::{CHUNK_MAX, HANDSHAKE_DEADLINE_NS};
use crate::base::units::ByteLen;
use crate::io::driver::RecvInto;
use crate::link::{Inbox, Link, send_outbox};
use crate::volume::catalog::Catalog;
use crate::volume::{Handle, Volume};
use futures_util::future::{Either, select};
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Bytes received at a time during negotiation.
const NEGOTIATION_READ: usize = 4096;

/// How long a client may take to send its next option, only to be told that the server is shutting down.
const STOPPING_PATIENCE: Duration = Duration::from_secs(1);

/// How long requests that take many steps go on after the client said goodbye.
const FAREWELL: Duration = Duration::from_secs(30);

/// What a connection of the transmission phase works with.
struct Session {
    link: Rc<Link>,
    terms: Terms,
    handle: Handle,
    /// The addresses of the core's shared zeroes: data from there is a hole.
    zeroes: Range<usize>,
}

/// A negotiation that ended in transmission.
pub struct Opened {
    agreement: Agreement,
    pub volume: Arc<Volume>,
    /// What was received behind the last option.
    early: Vec<u8>,
}

impl Exports for Catalog {
    fn find(&self, name: &str) -> Option<Export> {
        Catalog::find(self, name).map(|volume| export_of(&volume))
    }

    fn list(&self) -> Vec<Export> {
        Catalog::list(self).iter().map(|volume| export_of(volume)).collect()
    }
}

fn export_of(volume: &Volume) -> Export {
    Export {
        name: volume.name().to_owned(),
        description: volume.description().to_owned(),
        geometry: volume.geometry(),
        read_only: volume.is_read_only(),
    }
}

/// Negotiates; None if the connection is over.
pub async fn negotiate(link: &Rc<Link>) -> Option<Opened> {
    let out_of_time = async {
        let deadline = link.core().sleep(Duration::from_nanos(HANDSHAKE_DEADLINE_NS));
        let stopped = async {
            link.stopped().await;
            link.core().sleep(STOPPING_PATIENCE).await;
        };
        select(pin!(deadline), pin!(stopped)).await;
    };
    match select(pin!(talk(link)), pin!(out_of_time)).await {
        Either::Left((Some(opened), _)) if !link.is_dead() => Some(opened),
        Either::Left((_, _)) => {
            link.kill();
            None
        }
        Either::Right(((), _)) => {
            tracing::debug!(peer = link.peer(), "closed: negotiation took too long");
            link.kill();
            None
        }
    }
}

async fn talk(link: &Rc<Link>) -> Option<Opened> {
    let mut negotiation = Negotiation::default();
    link.send_all(&Negotiation::greeting()).await?;
    let (mut input, mut out) = (Vec::new(), Vec::new());
    loop {
        let into = RecvInto { first: link.core().buffers().take(NEGOTIATION_READ), second: None };
        let (received, into) = link.stream().receive(into).await;
        let count = received.ok().filter(|count| *count > 0)?;
        input.extend_from_slice(&into.first.as_slice()[..count]);
        if link.is_stopping() {
            negotiation.stop();
        }
        let (taken, step) = negotiation.advance(&input, link.house().catalog.as_ref(), &mut out);
        input.drain(..taken);
        match step {
            Step::Receive => link.send_all(&out).await?,
            Step::Close => {
                link.send_all(&out).await?;
                link.linger().await;
                return None;
            }
            Step::Transmit(agreement) => {
                // The name was found a moment ago; if its volume is gone now, there is nothing to open.
                let volume = link.house().catalog.find(&agreement.export)?;
                link.send_all(&out).await?;
                return Some(Opened { agreement, volume, early: input });
            }
        }
        out.clear();
    }
}

/// Serves requests until the connection has ended and nothing of it is left running.
pub async fn transmit(link: Rc<Link>, opened: Opened) {
    let Opened { agreement, volume, early } = opened;
    let zeroes = link.core().buffers().zeroes(ByteLen(CHUNK_MAX).as_usize());
    let start = zeroes.as_ptr().addr();
    let session = Rc::new(Session {
        link: link.clone(),
        terms: Terms {
            mode: agreement.mode,
            alignment: agreement.alignment,
            read_only: volume.is_read_only(),
            allocation_context: agreement.allocation_context,
        },
        handle: volume.handle(link.core()),
        zeroes: start..start + zeroes.len(),
    });
    link.open();
    link.core().spawn(send_outbox(link.clone()));
    let mut inbox = Inbox::new(link.clone(), &early);
    let end = receive::run(&session, &mut inbox).await;
    drop(inbox);
    finish(&link, end).await;
}

/// How receiving ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// The client said so (DISC).
    Disconnect,
    /// The client will send nothing more, or nothing can be received from it.
    Eof,
    /// The client broke the protocol.
    Violation(&'static str),
}

/// Sends what is still to be sent, closes the socket, and waits for the requests that are still running.
async fn finish(link: &Rc<Link>, end: End) {
    match end {
        End::Disconnect => link.end_receiving(FAREWELL),
        End::Eof => link.end_receiving(Duration::ZERO),
        End::Violation(rule) => {
            tracing::warn!(peer = link.peer(), rule, "closed: the client broke the protocol");
            link.end_receiving(Duration::ZERO);
        }
    }
    link.all_sent().await;
    if end != End::Eof && !link.is_dead() {
        link.linger().await;
    }
    link.kill();
    link.all_done().await;
}
