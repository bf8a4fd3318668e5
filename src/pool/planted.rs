//! Bugs on purpose: each is switched on by the simulator's own tests to prove that its oracles find it. Outside
//! of test builds nothing can be planted, and every question is answered by a constant.

use super::shared::Shared;

/// A bug that an open pool can be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Planted {
    #[default]
    None,
    /// A write is answered when its first copy is written.
    AckAtFirstCopy,
    /// A region's dirty mark is not set before it is written.
    SkipDirtyMark,
    /// Written marks are saved before the data they speak of is durable.
    SaveMarksBeforeData,
    /// A flush leaves out the last member.
    FlushSkipsMember,
    /// A dirty mark is taken away while writes are under way.
    ClearDirtyEarly,
    /// A failed member is not written any more, but the record of it is not committed.
    LossNotCommitted,
    /// FUA is treated as a plain write.
    IgnoreFua,
    /// A flush does not save the written marks.
    ForgetUnsaved,
    /// Writes to one block are not ordered.
    ShareWrites,
    /// A checksum that does not match is not noticed.
    TrustChecksums,
    /// A region of a freed slot keeps what it knew.
    KeepFreedRegion,
}

/// Whether this bug was planted in this pool.
#[cfg(any(test, feature = "planted-bugs"))]
pub fn is_planted(pool: &Shared, bug: Planted) -> bool {
    *crate::reactor::sync::lock(&pool.planted) == bug
}

#[cfg(not(any(test, feature = "planted-bugs")))]
pub const fn is_planted(_pool: &Shared, _bug: Planted) -> bool {
    false
}

/// Plants a bug where that is possible; says whether it was.
#[cfg(any(test, feature = "planted-bugs"))]
pub fn plant(pool: &Shared, bug: Planted) -> bool {
    *crate::reactor::sync::lock(&pool.planted) = bug;
    true
}

#[cfg(not(any(test, feature = "planted-bugs")))]
pub fn plant(_pool: &Shared, bug: Planted) -> bool {
    bug == Planted::None
}

/// For `AckAtFirstCopy`: how the copy that is written first ended.
pub async fn first_of<T, F: Future<Output = Option<T>>, C: FromIterator<T>>(
    writes: impl Iterator<Item = F>,
) -> C {
    let writes: Vec<_> = writes.map(Box::pin).collect();
    futures_util::future::select_all(writes).await.0.into_iter().collect()
}
