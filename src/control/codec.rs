//! One JSON object a line, both ways.
//!
//! Pure: bytes in, lines out. A line that does not end within `CONTROL_LINE_MAX` bytes is an error, so a peer
//! cannot make this side keep more than that.

use super::api::Failure;
use crate::base::limits::CONTROL_LINE_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("a line of more than {CONTROL_LINE_MAX} bytes")]
    TooLong,
    #[error("not a message of this protocol: {0}")]
    Malformed(String),
}

impl CodecError {
    /// The answer to a peer that sent this.
    pub fn to_failure(&self) -> Failure {
        Failure::failed("CONTROL_GARBAGE", format!("the daemon did not understand the request: {self}"))
    }
}

/// Collects received bytes and gives them back line by line.
#[derive(Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// No newline is in the bytes before this.
    searched: usize,
}

impl LineBuffer {
    pub fn push(&mut self, received: &[u8]) {
        self.bytes.extend_from_slice(received);
    }

    /// The next whole line, without its end.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, CodecError> {
        let found = self.bytes[self.searched..].iter().position(|b| *b == b'\n').map(|at| at + self.searched);
        match found {
            Some(at) if at <= CONTROL_LINE_MAX => {
                let rest = self.bytes.split_off(at + 1);
                let mut line = std::mem::replace(&mut self.bytes, rest);
                line.pop();
                self.searched = 0;
                Ok(Some(line))
            }
            None if self.bytes.len() <= CONTROL_LINE_MAX => {
                self.searched = self.bytes.len();
                Ok(None)
            }
            Some(_) | None => Err(CodecError::TooLong),
        }
    }
}

/// Reads the message of one line.
pub fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, CodecError> {
    serde_json::from_slice(line).map_err(|e| CodecError::Malformed(e.to_string()))
}

/// The line of a message, with its end.
///
/// # Errors
/// `TooLong` if the other side would refuse it.
pub fn emit<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let mut line = serde_json::to_vec(message).map_err(|e| CodecError::Malformed(e.to_string()))?;
    if line.len() > CONTROL_LINE_MAX {
        return Err(CodecError::TooLong);
    }
    line.push(b'\n');
    Ok(line)
}

/// Feeds arbitrary bytes through the parser, as the fuzz target and the tests do.
pub fn fuzz_requests(bytes: &[u8]) {
    let mut lines = LineBuffer::default();
    for part in bytes.chunks(7) {
        lines.push(part);
        while let Ok(Some(line)) = lines.next_line() {
            if let Ok(request) = parse::<super::api::Request>(&line) {
                let again = emit(&request).expect("what was parsed from a line fits in a line");
                assert_eq!(parse::<super::api::Request>(&again), Ok(request));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::api::{Reply, Request, VolumeCreate};
    use super::*;

    fn volume_create() -> Request {
        Request::VolumeCreate(VolumeCreate {
            name: "data".into(),
            size_bytes: 70_000_000_000,
            pool: None,
            copies: Some(2),
            stripe_unit_bytes: None,
            checksums: true,
            lba_bytes: None,
        })
    }

    #[test]
    fn golden_lines_stay_as_they_are() {
        let line = emit(&volume_create()).unwrap();
        let expected = concat!(
            r#"{"do":"volume_create","name":"data","size_bytes":70000000000,"pool":null,"copies":2,"#,
            r#""stripe_unit_bytes":null,"checksums":true}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(line).unwrap(), expected);
        let failed = Reply::Failed(Failure::refused("DISK_HAS_DATA", "sda holds an ext4 filesystem"));
        let expected = concat!(
            r#"{"answer":"failed","refused":true,"code":"DISK_HAS_DATA","#,
            r#""message":"sda holds an ext4 filesystem","details":["Nothing was written."]}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(emit(&failed).unwrap()).unwrap(), expected);
    }

    #[test]
    fn unknown_fields_are_ignored_and_unknown_requests_are_not_understood() {
        assert_eq!(parse(br#"{"do":"pool_list","colour":"red"}"#), Ok(Request::PoolList));
        assert!(matches!(parse::<Request>(br#"{"do":"fly"}"#), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn lines_come_out_whole_however_the_bytes_arrive() {
        let line = emit(&volume_create()).unwrap();
        let stream = [line.clone(), line].concat();
        for step in 1..=stream.len() {
            let mut lines = LineBuffer::default();
            let mut seen = Vec::new();
            for part in stream.chunks(step) {
                lines.push(part);
                while let Some(line) = lines.next_line().unwrap() {
                    seen.push(parse::<Request>(&line).unwrap());
                }
            }
            assert_eq!(seen, [volume_create(), volume_create()], "in steps of {step}");
        }
    }

    #[test]
    fn a_message_cut_anywhere_is_not_a_message() {
        let line = emit(&volume_create()).unwrap();
        for end in 0..line.len() - 1 {
            assert!(parse::<Request>(&line[..end]).is_err(), "{end} bytes");
        }
    }

    #[test]
    fn a_line_without_end_is_refused_at_the_limit() {
        let mut lines = LineBuffer::default();
        lines.push(&vec![b'x'; CONTROL_LINE_MAX]);
        assert_eq!(lines.next_line(), Ok(None));
        lines.push(b"x");
        assert_eq!(lines.next_line(), Err(CodecError::TooLong));
        assert_eq!(emit(&"x".repeat(CONTROL_LINE_MAX)), Err(CodecError::TooLong));
    }

    #[test]
    fn garbage_never_panics() {
        let mut prng = crate::base::prng::Prng::from_seed(11);
        for round in 0..2_000u64 {
            let mut bytes = emit(&volume_create()).unwrap();
            for _ in 0..round % 5 {
                let at = usize::try_from(prng.below(bytes.len() as u64)).unwrap();
                bytes[at] = u8::try_from(prng.below(256)).unwrap();
            }
            fuzz_requests(&bytes);
        }
    }
}
