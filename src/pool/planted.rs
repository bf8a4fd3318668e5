//! Bugs on purpose in an open pool: the core that opens it hands down what was planted there.

pub use crate::base::planted::{BUGS, Plantable, Planted, is_planted};

use super::shared::Shared;
use crate::reactor::Core;

#[cfg(any(test, feature = "planted-bugs"))]
impl Plantable for Shared {
    fn planted(&self) -> Planted {
        *crate::reactor::sync::lock(&self.planted)
    }
}

/// Gives a pool the bug of the core that opens it.
#[cfg(any(test, feature = "planted-bugs"))]
pub fn hand_down(core: &Core, pool: &Shared) {
    *crate::reactor::sync::lock(&pool.planted) = core.planted();
}

#[cfg(not(any(test, feature = "planted-bugs")))]
pub const fn hand_down(_core: &Core, _pool: &Shared) {}

/// For `AckAtFirstCopy`: how the copy that is written first ended.
pub async fn first_of<T, F: Future<Output = Option<T>>, C: FromIterator<T>>(
    writes: impl Iterator<Item = F>,
) -> C {
    let writes: Vec<_> = writes.map(Box::pin).collect();
    futures_util::future::select_all(writes).await.0.into_iter().collect()
}
