//! Whole connections: what comes back is what was written, and every fault surfaces as an error.

use super::super::{Client, ClientError, ClientOptions};
use super::server::{Manner, SIZE, core};
use crate::base::limits::CHUNK_MAX;
use crate::base::units::Span;
use crate::block::Payload;
use crate::io::driver::Address;
use crate::nbd::wire::number::{OptionCode, export};
use crate::nbd::wire::{Extent, ReplyMode};
use crate::reactor::Core;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

fn options(replies: ReplyMode) -> ClientOptions {
    ClientOptions { replies, allocation: true, depth: 8, stall: Duration::from_secs(10) }
}

async fn connect(core: &Core, options: ClientOptions) -> Result<Client, ClientError> {
    Client::connect(core, Address::Tcp("127.0.0.1:1".parse().unwrap()), "data", options).await
}

fn pattern(core: &Core, len: usize, seed: u8) -> Payload {
    let mut buf = core.buffers().take(len);
    buf.as_mut_slice().iter_mut().enumerate().for_each(|(at, b)| *b = (at % 251) as u8 ^ seed);
    Payload::one(buf.freeze())
}

/// Writes and reads at unaligned places across buffer boundaries, several at a time, then says goodbye.
async fn session(core: Core, replies: ReplyMode) -> Result<(), ClientError> {
    let client = connect(&core, options(replies)).await?;
    let spans = [Span::at(CHUNK_MAX - 700, 300_000), Span::at(5, 1), Span::at(2 << 20, 300_000)];
    for (seed, span) in (1u8..).zip(spans) {
        let payload = pattern(&core, span.len().as_usize(), seed);
        client.write(span, payload, seed == 1).await?;
    }
    client.flush().await?;
    client.trim(Span::at(0, 1), false).await?;
    let reads = (1u8..).zip(spans).map(|(seed, span)| {
        let (client, core) = (client.clone(), core.clone());
        async move {
            let got = client.read(span).await?.to_vec();
            assert!(got == pattern(&core, got.len(), seed).to_vec() && got.len() == span.len().as_usize());
            Ok::<(), ClientError>(())
        }
    });
    futures_util::future::try_join_all(reads).await?;
    assert!(client.read(Span::at(64 << 10, 100_000)).await?.to_vec().iter().all(|b| *b == 0));
    client.disconnect().await
}

#[test]
fn what_was_written_is_read_back_in_every_mode_and_in_pieces_of_any_size() {
    for replies in [ReplyMode::Simple, ReplyMode::Structured, ReplyMode::Extended] {
        for piece in [usize::MAX, 100_000, 4099, 777] {
            let core = core(Manner { piece, ..Manner::default() });
            assert_eq!(core.run_until(session(core.clone(), replies)), Ok(()), "{replies:?} {piece}");
            core.drain();
            let (arena, heap) = core.buffers().in_use();
            assert_eq!((arena, heap), (0, 0), "every buffer came back");
        }
    }
}

/// In the order in which a client would do without them.
static OPTIONS: [OptionCode; 4] =
    [OptionCode::ExtendedHeaders, OptionCode::StructuredReply, OptionCode::SetMetaContext, OptionCode::Go];

#[test]
fn a_server_without_an_option_gets_the_next_simpler_one() {
    for (count, mode, context) in [
        (0, ReplyMode::Extended, Some(9)),
        (1, ReplyMode::Structured, Some(9)),
        (2, ReplyMode::Simple, None),
        (3, ReplyMode::Simple, None),
        (4, ReplyMode::Simple, None),
    ] {
        let core = core(Manner { unsupported: &OPTIONS[..count], ..Manner::default() });
        let export = core.run_until({
            let core = core.clone();
            async move { connect(&core, options(ReplyMode::Extended)).await.unwrap().export().clone() }
        });
        assert_eq!((export.replies, export.context, export.size), (mode, context, SIZE as u64), "{count}");
        core.drain();
    }
}

#[test]
fn checklist_93_a_server_that_closes_anywhere_gives_an_error_and_leaks_nothing() {
    // What a session sends at least; its last read is of zeroes, which may be a hole.
    let total = 18 + 32 + 20 + 5 * 16 + 300_000 + 1 + 300_000;
    let near: Vec<usize> =
        (0..180).chain((180..400).step_by(7)).chain((400..total).step_by(20_011)).collect();
    for replies in [ReplyMode::Simple, ReplyMode::Structured, ReplyMode::Extended] {
        for end_after in near.iter().copied() {
            let core = core(Manner { end_after, ..Manner::default() });
            let outcome = core.run_until(session(core.clone(), replies));
            assert!(outcome.is_err(), "{replies:?}: closed after {end_after} bytes: {outcome:?}");
            core.drain();
            assert_eq!(core.buffers().in_use(), (0, 0), "{end_after}");
        }
    }
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    let core = core(Manner { silent_after: 3, ..Manner::default() });
    assert_eq!(core.run_until(session(core.clone(), ReplyMode::Simple)), Err(ClientError::Stalled));
    assert!(core.now().as_ns() >= 10_000_000_000);
    core.drain();
    let mute = super::server::core(Manner { piece: 0, ..Manner::default() });
    let outcome = mute.run_until({
        let core = mute.clone();
        async move { connect(&core, options(ReplyMode::Simple)).await.map(drop) }
    });
    assert_eq!(outcome, Err(ClientError::Stalled), "also in negotiation");
    mute.drain();
}

#[test]
fn section_20_10_nothing_is_sent_that_was_not_offered_or_does_not_fit() {
    let core = core(Manner { flags: export::HAS_FLAGS, ..Manner::default() });
    core.run_until({
        let core = core.clone();
        async move {
            let client = connect(&core, options(ReplyMode::Simple)).await.unwrap();
            let (size, block) = (SIZE as u64, Span::at(0, 4096));
            assert_eq!(client.read(Span::at(size - 1, 2)).await.err(), Some(ClientError::Invalid));
            assert_eq!(client.read(Span::at(u64::MAX, 0)).await.err(), Some(ClientError::Invalid));
            let short = pattern(&core, 10, 0);
            assert_eq!(client.write(block, short, false).await, Err(ClientError::Invalid));
            let full = pattern(&core, 4096, 0);
            assert_eq!(client.write(block, full, true).await, Err(ClientError::NotOffered), "no FUA");
            assert_eq!(client.trim(block, false).await, Err(ClientError::NotOffered));
            assert_eq!(client.write_zeroes(block, Default::default()).await, Err(ClientError::NotOffered));
            assert_eq!(client.block_status(block).await, Err(ClientError::NotOffered));
            assert_eq!(client.flush().await, Ok(()), "without FLUSH a server writes through");
            assert!(client.read(Span::at(size, 0)).await.unwrap().is_empty());
        }
    });
    core.drain();
}

#[test]
fn a_read_only_export_is_not_written_to() {
    let core = core(Manner {
        flags: export::HAS_FLAGS | export::READ_ONLY | export::SEND_TRIM,
        ..Manner::default()
    });
    core.run_until({
        let core = core.clone();
        async move {
            let client = connect(&core, options(ReplyMode::Simple)).await.unwrap();
            let full = pattern(&core, 4096, 0);
            assert_eq!(client.write(Span::at(0, 4096), full, false).await, Err(ClientError::NotOffered));
            assert_eq!(client.trim(Span::at(0, 4096), false).await, Err(ClientError::NotOffered));
        }
    });
    core.drain();
}

#[test]
fn allocation_is_told_where_it_was_negotiated() {
    for replies in [ReplyMode::Structured, ReplyMode::Extended] {
        let core = core(Manner::default());
        let extents = core.run_until({
            let core = core.clone();
            async move {
                let client = connect(&core, options(replies)).await.unwrap();
                client.block_status(Span::at(4096, 8192)).await
            }
        });
        assert_eq!(extents, Ok(vec![Extent { len: 8192, status: 3 }]));
        core.drain();
    }
}

#[test]
fn dropped_requests_keep_their_place_until_answered_and_the_connection_goes_on() {
    let core = core(Manner { piece: 1000, ..Manner::default() });
    let polled = Rc::new(Cell::new(0));
    core.run_until({
        let (core, polled) = (core.clone(), polled.clone());
        async move {
            let client = connect(&core, options(ReplyMode::Simple)).await.unwrap();
            for _ in 0..20 {
                let read = client.read(Span::at(0, 50_000));
                let nap = core.sleep(Duration::ZERO);
                // The nap ends first: the read is dropped in flight.
                let _ = futures_util::future::select(std::pin::pin!(read), std::pin::pin!(nap)).await;
                polled.set(polled.get() + 1);
            }
            let span = Span::at(4096, 4096);
            client.write(span, pattern(&core, 4096, 3), false).await.unwrap();
            let got = client.read(span).await.unwrap().to_vec();
            assert!(got == pattern(&core, 4096, 3).to_vec());
            client.disconnect().await.unwrap();
        }
    });
    assert_eq!(polled.get(), 20);
    core.drain();
    assert_eq!(core.buffers().in_use(), (0, 0));
}
