//! What URIs of storage have in common: percent signs, and a host with a port (RFC 3986). Pure.

/// Why a part of a URI cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("no host is named")]
    NoHost,
    #[error("the port is not a number from 1 to 65535")]
    Port,
    #[error("a percent sign is not followed by two hexadecimal digits, or the text is not UTF-8")]
    Encoding,
}

/// Host and port of an authority; `port` where it names none.
pub fn host_and_port(authority: &str, port: u16) -> Result<(String, u16), Unreadable> {
    // The user's name means something with TLS only.
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, text) = match authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':').or(rest.is_empty().then_some(""))),
        None => authority.split_once(':').map_or((authority, Some("")), |(host, port)| (host, Some(port))),
    };
    let port = match text.ok_or(Unreadable::Port)? {
        "" => port,
        text => text.parse().ok().filter(|port| *port > 0).ok_or(Unreadable::Port)?,
    };
    let host = decode(host)?;
    if host.is_empty() { Err(Unreadable::NoHost) } else { Ok((host, port)) }
}

/// Replaces `%41` and the like.
pub fn decode(text: &str) -> Result<String, Unreadable> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2).ok_or(Unreadable::Encoding)?;
        let digits = std::str::from_utf8(digits).map_err(|_| Unreadable::Encoding)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Unreadable::Encoding);
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| Unreadable::Encoding)?);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| Unreadable::Encoding)
}

/// A text as one segment of a path: what means something elsewhere in a URI becomes `%2F` and the like.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                out.push(char::from(byte));
            }
            other => out += &format!("%{other:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart() {
        let read = |text| host_and_port(text, 7);
        let found = |host: &str, port| Ok((host.to_owned(), port));
        assert_eq!(read("stonebox"), found("stonebox", 7));
        assert_eq!(read("h:"), found("h", 7));
        assert_eq!(read("me@h:80"), found("h", 80));
        assert_eq!(read("[::1]:9"), found("::1", 9));
        assert_eq!(read("[fe80::1]"), found("fe80::1", 7));
        assert_eq!(read(""), Err(Unreadable::NoHost));
        assert_eq!(read("%zz"), Err(Unreadable::Encoding));
        for bad in ["h:0", "h:65536", "h:-1", "[::1]x"] {
            assert_eq!(read(bad), Err(Unreadable::Port), "{bad}");
        }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let text = "nqn.2014-08.org:a b/ü?#%";
        assert_eq!(encode(text), "nqn.2014-08.org:a%20b%2F%C3%BC%3F%23%25");
        assert_eq!(decode(&encode(text)).as_deref(), Ok(text));
        assert!(["%4", "%+4", "%ff"].into_iter().all(|bad| decode(bad) == Err(Unreadable::Encoding)));
    }
}
