//! Both ends of the control socket, on the production driver.

use drystone::base::limits::{CONTROL_CONNECTIONS_MAX, CONTROL_LINE_MAX};
use drystone::base::prng::Prng;
use drystone::control::api::{Reply, Request};
use drystone::control::client::{Client, ClientError};
use drystone::control::server::{ConnectionId, ListenError, listen, serve_connections};
use drystone::io::buf::BufPool;
use drystone::io::driver::Direction;
use drystone::io::uring::{Handles, UringConfig, UringDriver};
use drystone::reactor::net::stop;
use drystone::reactor::{Core, CoreIndex};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(5);

fn core() -> Core {
    let buffers = BufPool::new(4 << 20).unwrap();
    let driver = UringDriver::new(UringConfig::default(), &buffers, Handles::new()).unwrap();
    Core::new(CoreIndex(0), Box::new(driver), buffers, Prng::from_seed(1))
}

/// What the server saw.
#[derive(Debug, PartialEq)]
enum Event {
    Asked(ConnectionId, Request),
    Ended(ConnectionId),
}

struct Server {
    folder: tempfile::TempDir,
    events: Receiver<Event>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers `done` to everything; `Stop` ends it.
    fn start() -> Server {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/control.sock");
        let (sender, events) = channel();
        let (ready, started) = channel();
        let thread = std::thread::spawn(move || run(&path, sender, &ready));
        started.recv_timeout(LIMIT).unwrap();
        Server { folder, events, thread: Some(thread) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("run/control.sock")
    }

    fn client(&self) -> Client {
        Client::connect(&self.path()).unwrap()
    }

    fn event(&self) -> Event {
        self.events.recv_timeout(LIMIT).unwrap()
    }

    fn stop(mut self) {
        let reply = self.client().ask(&Request::Stop, LIMIT).unwrap();
        assert_eq!(reply, done("stopping"));
        self.thread.take().unwrap().join().unwrap();
    }
}

fn done(message: &str) -> Reply {
    Reply::Done { message: message.to_owned() }
}

fn run(path: &Path, events: Sender<Event>, ready: &Sender<()>) {
    let core = core();
    let (path, ready, handle) = (path.to_owned(), ready.clone(), core.clone());
    core.run_until(async move {
        let listener = listen(&handle, &path).await.unwrap();
        ready.send(()).unwrap();
        let (socket, ended, core) = (listener.socket(), events.clone(), handle.clone());
        let handler = move |id, request: Request| {
            let (core, events) = (core.clone(), events.clone());
            async move {
                let stopping = request == Request::Stop;
                events.send(Event::Asked(id, request)).unwrap();
                if stopping {
                    stop(&core, socket, Direction::Both).await;
                    return done("stopping");
                }
                done("yes")
            }
        };
        serve_connections(handle.clone(), listener, handler, move |id| drop(ended.send(Event::Ended(id))))
            .await;
        // The last answer is on its way when the listener has ended.
        handle.sleep(Duration::from_millis(100)).await;
    });
    core.drain();
}

#[test]
fn requests_are_answered_in_order_and_the_end_is_noticed() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.ask(&Request::PoolList, LIMIT).unwrap(), done("yes"));
    let rename = Request::VolumeRename { volume: "a".into(), name: "b".into() };
    assert_eq!(client.ask(&rename, LIMIT).unwrap(), done("yes"));
    drop(client);
    let one = ConnectionId(1);
    assert_eq!(server.event(), Event::Asked(one, Request::PoolList));
    assert_eq!(server.event(), Event::Asked(one, rename));
    assert_eq!(server.event(), Event::Ended(one));
    server.stop();
}

#[test]
fn only_owner_and_group_may_connect() {
    let server = Server::start();
    let mode = std::fs::metadata(server.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    server.stop();
}

#[test]
fn requests_arrive_whole_however_they_are_cut_and_several_at_once() {
    let server = Server::start();
    let mut stream = UnixStream::connect(server.path()).unwrap();
    for byte in b"{\"do\":\"pool_list\"}\n" {
        stream.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    stream.write_all(b"{\"do\":\"pool_list\"}\n{\"do\":\"pool_list\"}\n").unwrap();
    let lines: Vec<_> = BufReader::new(&stream).lines().take(3).map(Result::unwrap).collect();
    assert_eq!(lines, [r#"{"answer":"done","message":"yes"}"#; 3]);
    drop(stream);
    server.stop();
}

#[test]
fn garbage_is_answered_once_and_ends_only_its_own_connection() {
    let server = Server::start();
    let mut other = server.client();
    let endless = vec![b'x'; CONTROL_LINE_MAX + 1];
    for garbage in [
        b"hello\n{\"do\":\"pool_list\"}\n".as_slice(),
        b"\xff\xfe\n",
        b"{\"do\":\"fly\"}\n",
        b"[]\n",
        &endless,
    ] {
        let mut stream = UnixStream::connect(server.path()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        // The server may hang up before it has read everything.
        let _ = stream.write_all(garbage);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8(answer).unwrap();
        assert!(text.contains("CONTROL_GARBAGE") && text.lines().count() == 1, "{text:?}");
    }
    assert_eq!(other.ask(&Request::PoolList, LIMIT).unwrap(), done("yes"));
    server.stop();
}

#[test]
fn when_all_places_are_taken_the_next_client_waits_its_turn() {
    let server = Server::start();
    let mut held: Vec<Client> = (0..CONTROL_CONNECTIONS_MAX).map(|_| server.client()).collect();
    for client in &mut held {
        assert_eq!(client.ask(&Request::PoolList, LIMIT).unwrap(), done("yes"));
    }
    let mut late = server.client();
    let silent = late.ask(&Request::PoolList, Duration::from_millis(300));
    assert!(matches!(silent, Err(ClientError::Silent(_))), "{silent:?}");
    held.pop();
    // The question that was asked before is answered now, then this one.
    assert_eq!(late.ask(&Request::PoolList, LIMIT).unwrap(), done("yes"));
    drop(held);
    server.stop();
}

#[test]
fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
    let server = Server::start();
    let (path, second) = (server.path(), core());
    let handle = second.clone();
    let taken = second.run_until(async move { listen(&handle, &path).await.map(drop) });
    assert!(matches!(taken, Err(ListenError::Taken(_))), "{taken:?}");
    let path = server.path();
    let other = path.with_file_name("not-a-socket");
    std::fs::write(&other, "x").unwrap();
    let handle = second.clone();
    let file = second.run_until(async move { listen(&handle, &other).await.map(drop) });
    assert!(matches!(file, Err(ListenError::NotASocket(_))), "{file:?}");
    let folder = tempfile::tempdir().unwrap();
    let stale = folder.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let (handle, path) = (second.clone(), stale.clone());
    second.run_until(async move { listen(&handle, &path).await.map(drop) }).unwrap();
    second.drain();
    server.stop();
}
