//! The command line's end of the control socket. Blocking, with time limits.

use super::api::{Reply, Request};
use super::codec::{self, CodecError, LineBuffer};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How the conversation went wrong.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: no socket, or one that refuses.
    #[error("no daemon listens there")]
    NoDaemon,
    #[error("the socket cannot be used: {0}")]
    Socket(std::io::Error),
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the daemon ended the connection without an answer")]
    Gone,
    #[error("the daemon's answer was not understood: {0}")]
    Garbage(#[from] CodecError),
}

/// A connection to a daemon.
pub struct Client {
    stream: UnixStream,
    lines: LineBuffer,
}

impl Client {
    /// Connects to a daemon.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Client { stream, lines: LineBuffer::default() }),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                Err(ClientError::NoDaemon)
            }
            Err(e) => Err(ClientError::Socket(e)),
        }
    }

    /// Asks, and waits for the answer until `limit` has passed.
    pub fn ask(&mut self, request: &Request, limit: Duration) -> Result<Reply, ClientError> {
        let line = codec::emit(request)?;
        self.stream.set_write_timeout(Some(limit)).map_err(ClientError::Socket)?;
        self.stream.write_all(&line).map_err(|e| end_of(e, limit))?;
        let line = self.receive_line(limit)?;
        Ok(codec::parse(&line)?)
    }

    fn receive_line(&mut self, limit: Duration) -> Result<Vec<u8>, ClientError> {
        let until = Instant::now() + limit;
        let mut buf = vec![0; 64 << 10];
        loop {
            if let Some(line) = self.lines.next_line()? {
                return Ok(line);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClientError::Silent(limit));
            }
            self.stream.set_read_timeout(Some(left)).map_err(ClientError::Socket)?;
            match self.stream.read(&mut buf) {
                Ok(0) => return Err(ClientError::Gone),
                Ok(received) => self.lines.push(&buf[..received]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(end_of(e, limit)),
            }
        }
    }
}

fn end_of(error: std::io::Error, limit: Duration) -> ClientError {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => ClientError::Silent(limit),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => ClientError::Gone,
        _ => ClientError::Socket(error), // std's enum, not ours
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    fn answered_with(reply: &'static [u8]) -> Result<Reply, ClientError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {}
            stream.write_all(reply).unwrap();
            if reply.is_empty() {
                // Held open until the client gives up.
                let _ = stream.read(&mut byte);
            }
        });
        let answer = Client::connect(&path).unwrap().ask(&Request::PoolList, Duration::from_millis(300));
        server.join().unwrap();
        answer
    }

    #[test]
    fn an_answer_arrives() {
        let reply = answered_with(b"{\"answer\":\"pools\",\"pools\":[]}\n").unwrap();
        assert_eq!(reply, Reply::Pools { pools: vec![] });
    }

    #[test]
    fn silence_garbage_and_hanging_up_are_told_apart() {
        assert!(matches!(answered_with(b""), Err(ClientError::Silent(_))));
        assert!(matches!(answered_with(b"hello\n"), Err(ClientError::Garbage(_))));
        assert!(matches!(answered_with(b"{\"answer\":"), Err(ClientError::Gone)));
    }

    #[test]
    fn no_socket_and_a_dead_socket_mean_no_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        assert!(matches!(Client::connect(&path), Err(ClientError::NoDaemon)));
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(Client::connect(&path), Err(ClientError::NoDaemon)));
    }
}
