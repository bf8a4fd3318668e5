//! The task of a listener: accept, refuse what is too much, hand the rest to the least loaded core.

use super::desk::{Load, Message};
use super::{Protocol, Shared};
use crate::io::driver::Accepted;
use crate::reactor::Core;
use crate::reactor::net::{Listener, Stream};
use nix::errno::Errno;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The pause after an accept that failed for want of something, such as file descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// Accepts until the target stops.
pub(super) async fn run(core: Core, listener: Listener, protocol: Protocol, shared: Arc<Shared>) {
    loop {
        wait_for_handshakes(&shared).await;
        if shared.is_stopping() {
            return;
        }
        match listener.accept().await {
            Ok(accepted) => place(&core, accepted, protocol, &shared),
            Err(_) if shared.is_stopping() => return,
            // The client went away while it waited: that is its business.
            Err(Errno::ECONNABORTED | Errno::EINTR) => {}
            Err(errno) => {
                tracing::warn!(%errno, "cannot accept connections");
                core.sleep(RETRY).await;
            }
        }
    }
}

/// Leaves new connections in the backlog while too many are negotiating; those end within their deadline.
async fn wait_for_handshakes(shared: &Shared) {
    loop {
        let ticket = shared.changed.ticket();
        let busy = shared.handshakes.load(Ordering::SeqCst) >= shared.config.handshakes_max;
        if !busy || shared.is_stopping() {
            return;
        }
        ticket.await;
    }
}

/// Hands a connection to the core with the fewest. One that is too many is closed.
fn place(core: &Core, accepted: Accepted, protocol: Protocol, shared: &Arc<Shared>) {
    if shared.is_stopping() || shared.connections() >= shared.config.connections_max {
        tracing::warn!(peer = accepted.peer, "refused: too many connections, or stopping");
        drop(Stream::adopt(core, accepted.socket));
        return;
    }
    let loads = shared.loads.iter().map(|load| load.load(Ordering::Relaxed));
    let (index, _) = loads.enumerate().min_by_key(|(_, load)| *load).expect("there is a desk");
    let socket = accepted.socket;
    let message = Message::Serve(accepted, protocol, Load::new(shared.clone(), index));
    if shared.desks[index].send(message).is_err() {
        drop(Stream::adopt(core, socket));
    }
}
