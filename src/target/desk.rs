//! One core's part of a target: the connections that live on it.

use super::{Protocol, Shared};
use crate::io::driver::Accepted;
use crate::link::Link;
use crate::nbd::conn::{negotiate, transmit};
use crate::nvmf;
use crate::reactor::Core;
use crate::reactor::mailbox::Receiver;
use slab::Slab;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a desk is told.
pub(super) enum Message {
    /// A connection to serve, counted already.
    Serve(Accepted, Protocol, Load),
    Order(Order),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// Finish what is in flight and end.
    Stop,
    /// End every connection now.
    Cut,
    /// End attending.
    Close,
}

/// Counts a connection among those of its core, and among the negotiating ones, while it lives.
pub(super) struct Load {
    shared: Arc<Shared>,
    index: usize,
    negotiating: bool,
}

impl Load {
    pub fn new(shared: Arc<Shared>, index: usize) -> Load {
        shared.loads[index].fetch_add(1, Ordering::SeqCst);
        shared.handshakes.fetch_add(1, Ordering::SeqCst);
        Load { shared, index, negotiating: true }
    }

    fn end_negotiation(&mut self) {
        if std::mem::replace(&mut self.negotiating, false) {
            self.shared.handshakes.fetch_sub(1, Ordering::SeqCst);
            self.shared.changed.wake_all();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end_negotiation();
        self.shared.loads[self.index].fetch_sub(1, Ordering::SeqCst);
        self.shared.changed.wake_all();
    }
}

type Links = Rc<RefCell<Slab<Rc<Link>>>>;

/// Where a core takes its connections from.
pub struct Desk {
    index: usize,
    receiver: Receiver<Message>,
    shared: Arc<Shared>,
}

impl Desk {
    pub(super) fn new(index: usize, receiver: Receiver<Message>, shared: Arc<Shared>) -> Desk {
        Desk { index, receiver, shared }
    }

    /// The number of this desk, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Serves the connections that are handed to this core, until the target has stopped.
    pub async fn attend(mut self, core: Core) {
        let links: Links = Rc::default();
        let mut stopping = false;
        while let Some(message) = self.receiver.receive().await {
            match message {
                Message::Serve(accepted, protocol, load) => {
                    let link = Link::new(&core, accepted.socket, accepted.peer, self.shared.house.clone());
                    if stopping {
                        link.stop();
                    }
                    // Known before it runs: an order may be the next message.
                    let key = links.borrow_mut().insert(link.clone());
                    let shared = self.shared.clone();
                    let place = Place { load, links: links.clone(), key };
                    core.spawn(serve(link, protocol, place, shared));
                }
                Message::Order(Order::Stop) => {
                    stopping = true;
                    all(&links).iter().for_each(|link| link.stop());
                }
                Message::Order(Order::Cut) => all(&links).iter().for_each(|link| link.kill()),
                Message::Order(Order::Close) => return,
            }
        }
    }
}

/// The links as they are now: stopping one may end it.
fn all(links: &Links) -> Vec<Rc<Link>> {
    links.borrow().iter().map(|(_, link)| link.clone()).collect()
}

/// What a connection is counted and known by.
struct Place {
    load: Load,
    links: Links,
    key: usize,
}

/// One connection from its first byte to its last.
async fn serve(link: Rc<Link>, protocol: Protocol, mut place: Place, shared: Arc<Shared>) {
    match protocol {
        Protocol::Nbd => {
            let opened = negotiate(&link).await;
            place.load.end_negotiation();
            if let Some(opened) = opened {
                let served = shared.serve_volume(opened.volume.name());
                transmit(link.clone(), opened).await;
                drop(served);
            }
        }
        Protocol::NvmeTcp | Protocol::NvmeDiscovery => {
            let opened = nvmf::conn::open(&link, &shared.fabric).await;
            place.load.end_negotiation();
            if let Some(opened) = opened {
                nvmf::conn::serve(link.clone(), opened).await;
            }
        }
    }
    place.links.borrow_mut().remove(place.key);
    // The socket is closed before the connection stops counting.
    drop(link);
    drop(place);
}
