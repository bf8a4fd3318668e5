//! Which volumes there are: what the operator was answered, and the one operation that was not.
//!
//! An operation that was answered survives every crash; the one that was not is there or not, wholly. After an
//! opening the volumes that are there decide it, and it stays so.

use super::report::{Failure, Oracle, Verdict};
use std::collections::BTreeMap;

/// A volume as the ledger has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its number in the model.
    pub number: usize,
    pub size: u64,
}

/// A change of the set of volumes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    Create { name: String, entry: Entry },
    Resize { name: String, size: u64 },
    Rename { from: String, to: String },
    Destroy { name: String },
}

#[derive(Default)]
pub struct Ledger {
    known: BTreeMap<String, Entry>,
    pending: Option<Operation>,
}

impl Ledger {
    pub fn volumes(&self) -> &BTreeMap<String, Entry> {
        &self.known
    }

    /// Whether an operation was begun that nobody knows the end of.
    pub fn is_unsettled(&self) -> bool {
        self.pending.is_some()
    }

    pub fn begin(&mut self, operation: Operation) {
        assert!(self.pending.is_none(), "one at a time");
        self.pending = Some(operation);
    }

    /// The operation under way succeeded.
    pub fn done(&mut self) {
        if let Some(operation) = self.pending.take() {
            apply(&mut self.known, operation);
        }
    }

    /// The operation under way was refused: nothing was changed.
    pub fn refused(&mut self) {
        self.pending = None;
    }

    /// What was opened, names and sizes, is what is known, with or without the operation that was not answered.
    pub fn judge(&mut self, found: &BTreeMap<String, u64>) -> Verdict {
        let pending = self.pending.take();
        if agrees(&self.known, found) {
            return Ok(());
        }
        let mut after = self.known.clone();
        if let Some(operation) = pending.clone() {
            apply(&mut after, operation);
        }
        if agrees(&after, found) {
            self.known = after;
            return Ok(());
        }
        let what = format!("there are {found:?}; known were {:?}, and {pending:?}", self.known);
        Err(Failure::new(Oracle::Durability, what))
    }
}

fn agrees(entries: &BTreeMap<String, Entry>, found: &BTreeMap<String, u64>) -> bool {
    entries.iter().map(|(name, entry)| (name, entry.size)).eq(found.iter().map(|(name, size)| (name, *size)))
}

fn apply(volumes: &mut BTreeMap<String, Entry>, operation: Operation) {
    match operation {
        Operation::Create { name, entry } => drop(volumes.insert(name, entry)),
        Operation::Resize { name, size } => volumes.get_mut(&name).expect("it is known").size = size,
        Operation::Rename { from, to } => {
            let entry = volumes.remove(&from).expect("it is known");
            volumes.insert(to, entry);
        }
        Operation::Destroy { name } => drop(volumes.remove(&name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(volumes: &[(&str, u64)]) -> BTreeMap<String, u64> {
        volumes.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect()
    }

    #[test]
    fn an_operation_without_an_answer_is_there_or_not_and_stays_so() {
        let mut ledger = Ledger::default();
        ledger.begin(Operation::Create { name: "a".into(), entry: Entry { number: 0, size: 1 } });
        ledger.done();
        ledger.begin(Operation::Resize { name: "a".into(), size: 2 });
        assert_eq!(ledger.judge(&found(&[("a", 2)])), Ok(()));
        assert!(ledger.judge(&found(&[("a", 1)])).is_err());
        ledger.begin(Operation::Rename { from: "a".into(), to: "b".into() });
        assert!(ledger.judge(&found(&[("a", 2), ("b", 2)])).is_err());
        ledger.begin(Operation::Destroy { name: "a".into() });
        assert_eq!(ledger.judge(&found(&[("a", 2)])), Ok(()));
        assert!(ledger.judge(&found(&[])).is_err());
    }
}
