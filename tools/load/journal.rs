//! The file behind the ledger: a header and one record a sector, mapped shared.
//!
//! A record that was stored survives the death of this process at any moment (the page cache has it), and what is
//! issued is recorded before the request is sent. Without a path the same layout lives in anonymous memory.

use anyhow::{Context, Result, bail};
use memmap2::{MmapMut, MmapOptions};
use std::fs::{File, OpenOptions};
use std::path::Path;

const HEADER: usize = 4096;
const RECORD: usize = 16;
const MAGIC: &[u8; 8] = b"DSLOAD01";

/// What is known of one sector. A stamp of 0 stands for the zeros that were there before the first write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// No write older than this can be the present value.
    pub low: u32,
    /// As `low`, but also after a crash of the server.
    pub durable: u32,
    /// The newest write that was issued.
    pub newest: u32,
    /// The newest request that may have made the sector zero.
    pub zero: u32,
}

/// What a journal is about; fixed when it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subject {
    pub seed: u64,
    /// Size of the export, bytes.
    pub size: u64,
    /// Where sector 0 begins, bytes.
    pub shift: u64,
    pub sectors: u64,
}

pub struct Journal {
    map: MmapMut,
    subject: Subject,
    /// Holds the lock; none in memory.
    _file: Option<File>,
}

impl Journal {
    /// A journal that ends with the process.
    pub fn in_memory(subject: Subject) -> Result<Journal> {
        let map = MmapOptions::new().len(length(subject)?).map_anon().context("memory for the ledger")?;
        let mut journal = Journal { map, subject, _file: None };
        journal.emit_header();
        Ok(journal)
    }

    /// Opens a journal, or makes one for `subject`.
    ///
    /// # Errors
    /// If it is in use, is not a journal, or is about something else.
    pub fn open_or_create(path: &Path, subject: Subject) -> Result<Journal> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let fresh = file.metadata()?.len() == 0;
        if fresh {
            file.set_len(u64::try_from(length(subject)?)?)?;
        }
        let mut journal = Journal::map(file, subject, path)?;
        if fresh {
            journal.emit_header();
        }
        match journal.parse_header() {
            Some(found) if found == subject => Ok(journal),
            Some(found) => bail!("{} is about {found:?}, not {subject:?}", path.display()),
            None => bail!("{} is not a journal", path.display()),
        }
    }

    /// Opens a journal that must be there.
    pub fn open(path: &Path) -> Result<Journal> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let empty = Subject { seed: 0, size: 0, shift: 0, sectors: 0 };
        let mut journal = Journal::map(file, empty, path)?;
        let Some(subject) = journal.parse_header() else { bail!("{} is not a journal", path.display()) };
        journal.subject = subject;
        Ok(journal)
    }

    fn map(file: File, subject: Subject, path: &Path) -> Result<Journal> {
        file.try_lock().with_context(|| format!("{} is in use by another load", path.display()))?;
        let length = usize::try_from(file.metadata()?.len())?;
        if length < HEADER.max(self::length(subject)?) {
            bail!("{} is too short for a journal of this export", path.display());
        }
        // SAFETY: a mapped file must not be changed or cut by others while it is mapped. There is no safe way to
        // share memory with a file. The lock above, held as long as the map, keeps other loads away, and the file
        // is private to this tool; every access goes through bounds-checked slices of plain bytes.
        let map = unsafe { MmapOptions::new().len(length).map_mut(&file) }?;
        Ok(Journal { map, subject, _file: Some(file) })
    }

    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// The stamp that the next write gets.
    pub fn next_stamp(&self) -> u32 {
        self.word(40)
    }

    pub fn set_next_stamp(&mut self, stamp: u32) {
        self.set_word(40, stamp);
    }

    /// Writes up to this stamp were issued before the last crash.
    pub fn crash_mark(&self) -> u32 {
        self.word(44)
    }

    pub fn set_crash_mark(&mut self, stamp: u32) {
        self.set_word(44, stamp);
    }

    pub fn record(&self, sector: u64) -> Record {
        let at = self.place(sector);
        Record {
            low: self.word(at),
            durable: self.word(at + 4),
            newest: self.word(at + 8),
            zero: self.word(at + 12),
        }
    }

    pub fn set_record(&mut self, sector: u64, record: Record) {
        let at = self.place(sector);
        self.set_word(at, record.low);
        self.set_word(at + 4, record.durable);
        self.set_word(at + 8, record.newest);
        self.set_word(at + 12, record.zero);
    }

    /// Brings the file to stable storage.
    pub fn sync(&self) -> Result<()> {
        if self._file.is_some() {
            self.map.flush().context("cannot sync the journal")?;
        }
        Ok(())
    }

    fn place(&self, sector: u64) -> usize {
        assert!(sector < self.subject.sectors, "sector {sector} of {}", self.subject.sectors);
        HEADER + RECORD * usize::try_from(sector).expect("checked against the sectors")
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.map[at..at + 4].try_into().expect("four bytes"))
    }

    fn set_word(&mut self, at: usize, word: u32) {
        self.map[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }

    fn emit_header(&mut self) {
        let Subject { seed, size, shift, sectors } = self.subject;
        self.map[..8].copy_from_slice(MAGIC);
        for (at, word) in [(8, seed), (16, size), (24, shift), (32, sectors)] {
            self.map[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        self.set_next_stamp(1);
    }

    fn parse_header(&self) -> Option<Subject> {
        let word = |at: usize| u64::from_le_bytes(self.map[at..at + 8].try_into().expect("eight bytes"));
        let subject = Subject { seed: word(8), size: word(16), shift: word(24), sectors: word(32) };
        let long_enough = length(subject).is_ok_and(|length| self.map.len() >= length);
        (&self.map[..8] == MAGIC && long_enough).then_some(subject)
    }
}

fn length(subject: Subject) -> Result<usize> {
    let records = subject.sectors.checked_mul(16).and_then(|bytes| bytes.checked_add(4096));
    let records = records.context("the export is too large for a journal")?;
    Ok(usize::try_from(records)?)
}
