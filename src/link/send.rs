//! Sending replies: everything that is queued leaves in one vectored send, up to a size.

use super::{Link, Share};
use crate::io::buf::Buf;
use futures_util::future::{Either, select};
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;

/// Bytes of data in one send. Longer ones were measured to be slower (design, section 7).
pub const SEND_MAX: usize = 256 << 10;

/// Buffers of one send; the kernel takes no more in one call.
const PARTS_MAX: usize = 1024;

/// Bytes of headers of one send.
const HEADS_MAX: usize = 16 << 10;

/// One send. Its vectors are used again for the next.
#[derive(Default)]
struct Batch {
    plan: Vec<Part>,
    parts: Vec<Buf>,
    /// The shares of the requests that end with this batch.
    shares: Vec<Option<Share>>,
    /// Bytes, headers not counted.
    data: usize,
}

enum Part {
    /// Headers, in the batch's header buffer.
    Heads(Range<usize>),
    Data(Buf),
}

/// Sends replies until there will be no more.
pub async fn run(link: Rc<Link>) {
    let mut batch = Batch::default();
    while link.next_replies().await {
        batch.fill(&link);
        if !send(&link, &mut batch).await {
            link.kill();
        }
        link.count_sent(batch.shares.len(), batch.data);
        batch.shares.clear();
    }
    link.sender_ended();
}

/// Sends a batch; false if the connection is no good any more.
async fn send(link: &Link, batch: &mut Batch) -> bool {
    let parts = std::mem::take(&mut batch.parts);
    let patience = link.house().patience();
    let sending = pin!(link.stream().send(parts));
    let (sent, parts) = match select(sending, pin!(link.core().sleep(patience))).await {
        Either::Left((ended, _)) => ended,
        Either::Right(((), sending)) => {
            tracing::info!(peer = link.peer(), "closed: the client does not read its replies");
            link.kill();
            sending.await
        }
    };
    batch.parts = parts;
    sent.is_ok()
}

impl Batch {
    /// Takes as many chunks from the outbox as one send may have; the last one may be taken in part.
    fn fill(&mut self, link: &Link) {
        self.data = 0;
        let mut heads = link.core().buffers().take(HEADS_MAX);
        let mut used = 0;
        link.with_outbox(|outbox| {
            while let Some(chunk) = outbox.front_mut() {
                if let Some(head) = &chunk.head {
                    if !self.push_head(head.as_slice(), heads.as_mut_slice(), &mut used) {
                        return;
                    }
                    chunk.head = None;
                }
                while let Some(part) = chunk.parts.get_mut(chunk.next) {
                    if !self.push_data(part) {
                        return;
                    }
                    chunk.next += 1;
                }
                let chunk = outbox.pop_front().expect("it is at the front");
                if chunk.last {
                    self.shares.push(chunk.share);
                }
            }
        });
        heads.set_window(0..used);
        let heads = heads.freeze();
        self.parts.extend(self.plan.drain(..).map(|part| match part {
            Part::Heads(range) => heads.slice(range),
            Part::Data(buf) => buf,
        }));
    }

    fn is_full(&self) -> bool {
        self.data >= SEND_MAX || self.plan.len() == PARTS_MAX
    }

    /// Adds a header behind the last one if there is no data in between; false if there is no room.
    fn push_head(&mut self, head: &[u8], heads: &mut [u8], used: &mut usize) -> bool {
        let range = *used..*used + head.len();
        if self.is_full() || range.end > heads.len() {
            return false;
        }
        heads[range.clone()].copy_from_slice(head);
        *used = range.end;
        match self.plan.last_mut() {
            Some(Part::Heads(last)) => last.end = range.end,
            Some(Part::Data(_)) | None => self.plan.push(Part::Heads(range)),
        }
        true
    }

    /// Adds data, or as much of it as there is room for; false if some of it is left.
    fn push_data(&mut self, part: &mut Buf) -> bool {
        if part.is_empty() {
            return true;
        }
        if self.is_full() {
            return false;
        }
        let len = part.len().min(SEND_MAX - self.data);
        self.data += len;
        let whole = len == part.len();
        self.plan.push(Part::Data(part.slice(0..len)));
        if !whole {
            *part = part.slice(len..part.len());
        }
        whole
    }
}

const _: () = assert!(SEND_MAX as u64 <= crate::base::limits::CHUNK_MAX); // widening
