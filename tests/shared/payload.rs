//! What the tests on simulated drives write: one byte, over and over.

use drystone::base::units::Span;
use drystone::block::{Payload, pieces};
use drystone::reactor::Core;

/// A span's worth of one byte, cut as a protocol would cut it.
pub fn payload(core: &Core, span: Span, byte: u8) -> Payload {
    let mut payload = Payload::default();
    for piece in pieces(span) {
        let len = piece.span.len().as_usize();
        let mut buf = core.buffers().take(piece.skew + len);
        buf.set_window(piece.skew..piece.skew + len);
        buf.as_mut_slice().fill(byte);
        payload.parts.push(buf.freeze());
    }
    payload
}
