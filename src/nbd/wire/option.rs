//! Greeting, options and their replies (sections 4 to 7 and 10).

use super::number::{NBD_MAGIC, OLDSTYLE_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, info};
use super::{Fields, WireError, complete, concat, len_u32, text};

/// The first 18 bytes from a newstyle server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Greeting {
    pub flags: u16,
}

impl Greeting {
    pub const LEN: usize = 18;

    pub fn emit(self) -> [u8; Self::LEN] {
        concat(&[&NBD_MAGIC.to_be_bytes(), &OPTION_MAGIC.to_be_bytes(), &self.flags.to_be_bytes()])
    }

    pub fn parse(bytes: &[u8]) -> Result<Greeting, WireError> {
        let mut f = Fields::new(bytes);
        if f.u64()? != NBD_MAGIC || f.u64()? != OPTION_MAGIC {
            return Err(WireError::Magic);
        }
        Ok(Greeting { flags: f.u16()? })
    }

    /// Whether these are the first 16 bytes of a server of the old style, which nobody should run any more.
    pub fn is_oldstyle(bytes: &[u8]) -> bool {
        let mut f = Fields::new(bytes);
        f.u64() == Ok(NBD_MAGIC) && f.u64() == Ok(OLDSTYLE_MAGIC)
    }
}

/// What comes before the data of an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionHeader {
    pub option: u32,
    pub len: u32,
}

impl OptionHeader {
    pub const LEN: usize = 16;

    pub fn emit(self) -> [u8; Self::LEN] {
        concat(&[&OPTION_MAGIC.to_be_bytes(), &self.option.to_be_bytes(), &self.len.to_be_bytes()])
    }

    pub fn parse(bytes: &[u8]) -> Result<OptionHeader, WireError> {
        let mut f = Fields::new(bytes);
        if f.u64()? != OPTION_MAGIC {
            return Err(WireError::Magic);
        }
        Ok(OptionHeader { option: f.u32()?, len: f.u32()? })
    }
}

/// What comes before the data of an option reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionReplyHeader {
    pub option: u32,
    pub kind: u32,
    pub len: u32,
}

impl OptionReplyHeader {
    pub const LEN: usize = 20;

    pub fn emit(self) -> [u8; Self::LEN] {
        concat(&[
            &OPTION_REPLY_MAGIC.to_be_bytes(),
            &self.option.to_be_bytes(),
            &self.kind.to_be_bytes(),
            &self.len.to_be_bytes(),
        ])
    }

    pub fn parse(bytes: &[u8]) -> Result<OptionReplyHeader, WireError> {
        let mut f = Fields::new(bytes);
        if f.u64()? != OPTION_REPLY_MAGIC {
            return Err(WireError::Magic);
        }
        Ok(OptionReplyHeader { option: f.u32()?, kind: f.u32()?, len: f.u32()? })
    }
}

/// The answer to EXPORT_NAME, which has no envelope.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExportNameReply {
    pub size: u64,
    pub flags: u16,
}

impl ExportNameReply {
    pub const LEN: usize = 10;
    /// Zero bytes that follow unless both sides agreed to leave them out.
    pub const PADDING: usize = 124;

    pub fn emit(self) -> [u8; Self::LEN] {
        concat(&[&self.size.to_be_bytes(), &self.flags.to_be_bytes()])
    }

    pub fn parse(bytes: &[u8]) -> Result<ExportNameReply, WireError> {
        let mut f = Fields::new(bytes);
        Ok(ExportNameReply { size: f.u64()?, flags: f.u16()? })
    }
}

/// The data of INFO and GO.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportQuery<'a> {
    pub name: &'a str,
    /// The INFO types that are asked for, known or not.
    pub wanted: Vec<u16>,
}

impl<'a> ExportQuery<'a> {
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&len_u32(self.name.len()).to_be_bytes());
        out.extend_from_slice(self.name.as_bytes());
        let count = u16::try_from(self.wanted.len()).expect("few types are asked for");
        out.extend_from_slice(&count.to_be_bytes());
        self.wanted.iter().for_each(|kind| out.extend_from_slice(&kind.to_be_bytes()));
    }

    /// `data` is the whole data of the option.
    pub fn parse(data: &'a [u8]) -> Result<ExportQuery<'a>, WireError> {
        complete(Self::parse_fields(data))
    }

    fn parse_fields(data: &'a [u8]) -> Result<ExportQuery<'a>, WireError> {
        let mut f = Fields::new(data);
        let name = f.text()?;
        let count = usize::from(f.u16()?);
        if f.rest.len() != 2 * count {
            return Err(WireError::Length);
        }
        let mut wanted = Vec::with_capacity(count);
        for _ in 0..count {
            wanted.push(f.u16()?);
        }
        Ok(ExportQuery { name, wanted })
    }
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetaQuery<'a> {
    pub name: &'a str,
    /// How many queries there are; only the first `queries.len()` were kept.
    pub count: u32,
    pub queries: Vec<&'a str>,
}

impl<'a> MetaQuery<'a> {
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&len_u32(self.name.len()).to_be_bytes());
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(&self.count.to_be_bytes());
        for query in &self.queries {
            out.extend_from_slice(&len_u32(query.len()).to_be_bytes());
            out.extend_from_slice(query.as_bytes());
        }
    }

    /// `data` is the whole data of the option. All queries are checked, the first `keep` are kept.
    pub fn parse(data: &'a [u8], keep: u32) -> Result<MetaQuery<'a>, WireError> {
        complete(Self::parse_fields(data, keep))
    }

    fn parse_fields(data: &'a [u8], keep: u32) -> Result<MetaQuery<'a>, WireError> {
        let mut f = Fields::new(data);
        let name = f.text()?;
        let count = f.u32()?;
        let mut queries = Vec::new();
        // Every query takes at least 4 bytes of the data, so a huge count ends with the data.
        for at in 0..count {
            let query = f.text()?;
            if at < keep {
                queries.push(query);
            }
        }
        if f.rest.is_empty() { Ok(MetaQuery { name, count, queries }) } else { Err(WireError::Length) }
    }
}

/// One INFO item (section 7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InfoItem<'a> {
    Export {
        size: u64,
        flags: u16,
    },
    Name(&'a str),
    Description(&'a str),
    BlockSize {
        minimum: u32,
        preferred: u32,
        maximum: u32,
    },
    /// A type that this program does not know; clients ignore it.
    Unknown(u16),
}

impl<'a> InfoItem<'a> {
    /// Emits the item with its type before it.
    pub fn emit(&self, out: &mut Vec<u8>) {
        match *self {
            InfoItem::Export { size, flags } => {
                out.extend_from_slice(&info::EXPORT.to_be_bytes());
                out.extend_from_slice(&size.to_be_bytes());
                out.extend_from_slice(&flags.to_be_bytes());
            }
            InfoItem::Name(name) => emit_text(info::NAME, name, out),
            InfoItem::Description(text) => emit_text(info::DESCRIPTION, text, out),
            InfoItem::BlockSize { minimum, preferred, maximum } => {
                out.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
                [minimum, preferred, maximum].iter().for_each(|n| out.extend_from_slice(&n.to_be_bytes()));
            }
            InfoItem::Unknown(kind) => out.extend_from_slice(&kind.to_be_bytes()),
        }
    }

    /// `data` is the whole data of the INFO reply.
    pub fn parse(data: &'a [u8]) -> Result<InfoItem<'a>, WireError> {
        complete(Self::parse_fields(data))
    }

    fn parse_fields(data: &'a [u8]) -> Result<InfoItem<'a>, WireError> {
        let mut f = Fields::new(data);
        let item = match f.u16()? {
            info::EXPORT => InfoItem::Export { size: f.u64()?, flags: f.u16()? },
            info::NAME => return text(f.rest).map(InfoItem::Name),
            info::DESCRIPTION => return text(f.rest).map(InfoItem::Description),
            info::BLOCK_SIZE => {
                InfoItem::BlockSize { minimum: f.u32()?, preferred: f.u32()?, maximum: f.u32()? }
            }
            kind => return Ok(InfoItem::Unknown(kind)),
        };
        if f.rest.is_empty() { Ok(item) } else { Err(WireError::Length) }
    }
}

fn emit_text(kind: u16, text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The data of a SERVER reply: one export of a LIST.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerEntry<'a> {
    pub name: &'a str,
    pub description: &'a str,
}

impl<'a> ServerEntry<'a> {
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&len_u32(self.name.len()).to_be_bytes());
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(self.description.as_bytes());
    }

    /// `data` is the whole data of the reply.
    pub fn parse(data: &'a [u8]) -> Result<ServerEntry<'a>, WireError> {
        let mut f = Fields::new(data);
        let name = complete(f.text())?;
        Ok(ServerEntry { name, description: text(f.rest)? })
    }
}

/// The data of a META_CONTEXT reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetaContext<'a> {
    pub id: u32,
    pub name: &'a str,
}

impl<'a> MetaContext<'a> {
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(self.name.as_bytes());
    }

    /// `data` is the whole data of the reply.
    pub fn parse(data: &'a [u8]) -> Result<MetaContext<'a>, WireError> {
        let mut f = Fields::new(data);
        let id = complete(f.u32())?;
        Ok(MetaContext { id, name: text(f.rest)? })
    }
}
