//! The daemon's end of the control socket: accepts, reads requests line by line, answers in order.
//!
//! One connection is served one request at a time. Garbage is answered once, then the connection ends. When all
//! places are taken nothing is accepted until one is free again. The socket's mode (0660) is the access control.

use super::api::{Reply, Request};
use super::codec::{self, CodecError, LineBuffer};
use crate::base::limits::CONTROL_CONNECTIONS_MAX;
use crate::io::driver::{Address, RecvInto};
use crate::reactor::Core;
use crate::reactor::net::{Listener, Stream};
use crate::reactor::sync::{Budget, Grant};
use nix::errno::Errno;
use std::future::Future;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// How much is received at a time, bytes; requests are short.
const RECEIVE: usize = 16 << 10;

/// The longest piece sent in one buffer, bytes.
const SEND: usize = 256 << 10;

/// A pause after an accept that failed for want of something (descriptors, memory).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Tells connections apart, so that what one asked for can end with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct ConnectionId(pub u64);

/// Why the control socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("another daemon listens on {0}")]
    Taken(PathBuf),
    #[error("{0} is there and is not a socket")]
    NotASocket(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// Listens on a control socket, replacing one that nobody listens on any more.
pub async fn listen(core: &Core, path: &Path) -> Result<Listener, ListenError> {
    let io = |source: std::io::Error| ListenError::Io { path: path.to_owned(), source };
    clear_stale(path)?;
    let bound = Listener::bind(core, Address::Unix(path.to_owned())).await;
    let listener = bound.map_err(|e| io(e.into()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(io)?;
    Ok(listener)
}

/// Removes a socket file that a dead daemon left, and makes the folder for a new one.
fn clear_stale(path: &Path) -> Result<(), ListenError> {
    let io = |source: std::io::Error| ListenError::Io { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(io)?;
    }
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io(e)),
        Ok(meta) if !meta.file_type().is_socket() => Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => Err(ListenError::Taken(path.to_owned())),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(io)
            }
            Err(e) => Err(io(e)),
        },
    }
}

/// Serves until the listener is stopped. Connections that are open then go on until their clients leave.
pub async fn serve<H, F>(core: Core, listener: Listener, handler: H)
where
    H: Fn(Request) -> F + 'static,
    F: Future<Output = Reply> + 'static,
{
    serve_connections(core, listener, move |_, request| handler(request), |_| ()).await;
}

/// As `serve`; the handler learns which connection asks, and `ended` is called when one is gone.
pub async fn serve_connections<H, F, E>(core: Core, listener: Listener, handler: H, ended: E)
where
    H: Fn(ConnectionId, Request) -> F + 'static,
    F: Future<Output = Reply> + 'static,
    E: Fn(ConnectionId) + 'static,
{
    let places = Budget::new(CONTROL_CONNECTIONS_MAX as u64); // widening
    let shared = Rc::new((handler, ended));
    let mut serial = 0;
    loop {
        let place = places.take(1).await;
        match listener.accept().await {
            Ok(accepted) => {
                serial += 1;
                let stream = Stream::adopt(&core, accepted.socket);
                core.spawn(connection(stream, ConnectionId(serial), shared.clone(), place));
            }
            // EINVAL is the end that `stop` makes.
            Err(Errno::EINVAL) => return,
            Err(error) => {
                tracing::warn!(%error, "control socket: accept failed");
                core.sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connection<H, F, E>(stream: Stream, id: ConnectionId, shared: Rc<(H, E)>, place: Grant)
where
    H: Fn(ConnectionId, Request) -> F,
    F: Future<Output = Reply>,
    E: Fn(ConnectionId),
{
    if let Err(error) = converse(&stream, id, &shared.0).await {
        tracing::debug!(connection = id.0, %error, "control connection ended");
    }
    shared.1(id);
    drop(place);
}

/// Answers requests until the client leaves or sends what is not a request.
async fn converse<H, F>(stream: &Stream, id: ConnectionId, handler: &H) -> Result<(), Errno>
where
    H: Fn(ConnectionId, Request) -> F,
    F: Future<Output = Reply>,
{
    let mut lines = LineBuffer::default();
    loop {
        let request = match lines.next_line() {
            Ok(None) => {
                if receive(stream, &mut lines).await? == 0 {
                    return Ok(());
                }
                continue;
            }
            Ok(Some(line)) => codec::parse::<Request>(&line),
            Err(error) => Err(error),
        };
        match request {
            Ok(request) => answer(stream, &handler(id, request).await).await?,
            Err(error) => return answer(stream, &Reply::Failed(error.to_failure())).await,
        }
    }
}

async fn receive(stream: &Stream, lines: &mut LineBuffer) -> Result<usize, Errno> {
    let buf = stream.core().buffers().take(RECEIVE);
    let (received, into) = stream.receive(RecvInto { first: buf, second: None }).await;
    let received = received?;
    lines.push(&into.first.as_slice()[..received]);
    Ok(received)
}

async fn answer(stream: &Stream, reply: &Reply) -> Result<(), Errno> {
    let line = codec::emit(reply).unwrap_or_else(|error| too_long(&error));
    let buffers = stream.core().buffers();
    let parts = line.chunks(SEND).map(|part| buffers.copy_of(part).freeze()).collect();
    stream.send(parts).await.0
}

/// What is sent instead of an answer that does not fit in a line.
fn too_long(error: &CodecError) -> Vec<u8> {
    let failure = super::api::Failure::failed("ANSWER_TOO_LONG", format!("the answer is {error}"));
    codec::emit(&Reply::Failed(failure)).expect("a short failure fits in a line")
}
