//! Buffers: aligned for O_DIRECT, taken from a per-core arena that the driver registers with the kernel.
//!
//! A `BufMut` has one owner and can be written; `freeze` turns it into a `Buf`, which can be shared and cut but
//! never changed again: all copies and the checksum of a write are made from bytes that hold still. The memory
//! goes back to its pool when the last `Buf` is dropped.
//!
//! The arena is a buddy allocator. When it is exhausted the heap serves; admission control above keeps the sum
//! within the budget, so this only evens out fragmentation.

use crate::base::limits::{BLOCK, CHUNK_MAX};
use memmap2::{MmapMut, MmapOptions};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::{Cell, OnceCell, RefCell};
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;

const ALIGN: usize = BLOCK as usize; // a constant of 4096
const ORDERS: usize = 10; // 4 KiB << 9 = 2 MiB

/// The largest buffer, bytes: a chunk and the slack of an unaligned start.
pub const BUF_MAX: usize = ALIGN << (ORDERS - 1);

const _: () = assert!(BUF_MAX as u64 >= CHUNK_MAX + 2 * BLOCK); // widening

/// One core's supply of buffers. Cloning gives another handle to the same supply.
#[derive(Clone)]
pub struct BufPool {
    inner: Rc<PoolInner>,
}

struct PoolInner {
    arena: RefCell<Option<MmapMut>>,
    base: *mut u8,
    size: usize,
    free: RefCell<[Vec<u32>; ORDERS]>,
    free_at: RefCell<Vec<u8>>,
    in_use: Cell<usize>,
    on_heap: Cell<usize>,
    zeroes: OnceCell<Buf>,
}

const NOT_FREE: u8 = u8::MAX;

impl BufPool {
    /// A pool with an arena of `size` bytes (rounded down to whole 2 MiB), on huge pages where there are any.
    pub fn new(size: usize) -> std::io::Result<BufPool> {
        let size = size / BUF_MAX * BUF_MAX;
        let mut arena = match size {
            0 => None,
            _ => Some(map_arena(size)?),
        };
        let base = arena.as_mut().map_or(std::ptr::null_mut(), |a| a.as_mut_ptr());
        let mut free: [Vec<u32>; ORDERS] = Default::default();
        let mut free_at = vec![NOT_FREE; size / ALIGN];
        for chunk in (0..size / ALIGN).step_by(BUF_MAX / ALIGN).rev() {
            free[ORDERS - 1].push(u32::try_from(chunk).expect("arenas are below 16 TiB"));
            free_at[chunk] = order_u8(ORDERS - 1);
        }
        let inner = PoolInner {
            arena: RefCell::new(arena),
            base,
            size,
            free: RefCell::new(free),
            free_at: RefCell::new(free_at),
            in_use: Cell::new(0),
            on_heap: Cell::new(0),
            zeroes: OnceCell::new(),
        };
        Ok(BufPool { inner: Rc::new(inner) })
    }

    /// A buffer whose window is its first `len` bytes. The bytes are whatever was there before.
    ///
    /// # Panics
    /// If `len` exceeds `BUF_MAX`.
    pub fn take(&self, len: usize) -> BufMut {
        assert!(len <= BUF_MAX, "a buffer of {len} bytes is larger than any");
        let order = (len.max(1).div_ceil(ALIGN)).next_power_of_two().trailing_zeros() as usize; // at most 9
        let capacity = ALIGN << order;
        let block = match self.inner.carve(order) {
            Some(unit) => Block {
                // SAFETY: `carve` returns a unit within the arena, so base + unit * ALIGN is inside the mapping
                // (and not null); the mapping lives as long as the pool, which the block keeps alive.
                ptr: unsafe { NonNull::new_unchecked(self.inner.base.add(unit as usize * ALIGN)) }, // u32 to usize
                capacity,
                home: Home::Arena { pool: self.inner.clone(), unit, order },
            },
            None => heap_block(capacity, Some(self.inner.clone())),
        };
        BufMut { block, start: 0, len }
    }

    /// A buffer holding a copy of `bytes`.
    pub fn copy_of(&self, bytes: &[u8]) -> BufMut {
        let mut buf = self.take(bytes.len());
        buf.as_mut_slice().copy_from_slice(bytes);
        buf
    }

    /// `len` zero bytes, shared and never copied.
    ///
    /// # Panics
    /// If `len` exceeds `CHUNK_MAX`.
    pub fn zeroes(&self, len: usize) -> Buf {
        let all = self.inner.zeroes.get_or_init(|| {
            let size = usize::try_from(CHUNK_MAX).expect("1 MiB");
            BufMut { block: heap_block(size, None), start: 0, len: size }.freeze()
        });
        all.slice(0..len)
    }

    /// The arena's address and length, for registering it with the kernel.
    pub fn arena(&self) -> (*mut u8, usize) {
        (self.inner.base, self.inner.size)
    }

    /// Bytes handed out from the arena and from the heap.
    pub fn in_use(&self) -> (usize, usize) {
        (self.inner.in_use.get(), self.inner.on_heap.get())
    }
}

fn map_arena(size: usize) -> std::io::Result<MmapMut> {
    // 2 MiB pages: reserved ones when the machine has them, transparent ones otherwise.
    MmapOptions::new().len(size).huge(Some(21)).map_anon().or_else(|_| {
        let map = MmapOptions::new().len(size).map_anon()?;
        // Advice only: without huge pages everything works, a little slower.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(map)
    })
}

fn order_u8(order: usize) -> u8 {
    u8::try_from(order).expect("ten orders")
}

fn heap_block(capacity: usize, pool: Option<Rc<PoolInner>>) -> Block {
    let layout = Layout::from_size_align(capacity, ALIGN).expect("capacity is a small multiple of ALIGN");
    // SAFETY: the layout has a non-zero size; the block's Drop frees it with the same layout.
    let raw = unsafe { alloc_zeroed(layout) };
    let Some(ptr) = NonNull::new(raw) else { std::alloc::handle_alloc_error(layout) };
    if let Some(pool) = &pool {
        pool.on_heap.set(pool.on_heap.get() + capacity);
    }
    Block { ptr, capacity, home: Home::Heap { pool } }
}

impl PoolInner {
    fn carve(&self, order: usize) -> Option<u32> {
        let (mut free, mut free_at) = (self.free.borrow_mut(), self.free_at.borrow_mut());
        let (mut found, unit) =
            (order..ORDERS).find_map(|o| pop_free(&mut free[o], &mut free_at, o).map(|u| (o, u)))?;
        while found > order {
            found -= 1;
            let buddy = unit + (1 << found);
            free[found].push(buddy);
            free_at[buddy as usize] = order_u8(found); // u32 to usize
        }
        self.in_use.set(self.in_use.get() + (ALIGN << order));
        Some(unit)
    }

    fn give_back(&self, unit: u32, order: usize) {
        let (mut free, mut free_at) = (self.free.borrow_mut(), self.free_at.borrow_mut());
        self.in_use.set(self.in_use.get() - (ALIGN << order));
        let (mut unit, mut order) = (unit, order);
        // Buddies merge upward; the buddy's stale entry in its free list is skipped when it is popped.
        while order + 1 < ORDERS {
            let buddy = unit ^ (1 << order);
            if free_at[buddy as usize] != order_u8(order) {
                break;
            }
            free_at[buddy as usize] = NOT_FREE;
            unit = unit.min(buddy);
            order += 1;
        }
        free[order].push(unit);
        free_at[unit as usize] = order_u8(order);
    }
}

/// Pops a unit that is really free at this order; entries whose unit merged or was carved since are stale.
fn pop_free(list: &mut Vec<u32>, free_at: &mut [u8], order: usize) -> Option<u32> {
    while let Some(unit) = list.pop() {
        if free_at[unit as usize] == order_u8(order) {
            free_at[unit as usize] = NOT_FREE;
            return Some(unit);
        }
    }
    None
}

impl Drop for PoolInner {
    fn drop(&mut self) {
        drop(self.arena.take());
    }
}

struct Block {
    ptr: NonNull<u8>,
    capacity: usize,
    home: Home,
}

enum Home {
    Arena { pool: Rc<PoolInner>, unit: u32, order: usize },
    Heap { pool: Option<Rc<PoolInner>> },
}

impl Drop for Block {
    fn drop(&mut self) {
        match &self.home {
            Home::Arena { pool, unit, order } => pool.give_back(*unit, *order),
            Home::Heap { pool } => {
                if let Some(pool) = pool {
                    pool.on_heap.set(pool.on_heap.get() - self.capacity);
                }
                let layout = Layout::from_size_align(self.capacity, ALIGN).expect("as at allocation");
                // SAFETY: allocated in `heap_block` with this very layout, and dropped once.
                unsafe { dealloc(self.ptr.as_ptr(), layout) }
            }
        }
    }
}

/// A buffer with one owner. I/O and slices use its window, a part of its capacity.
pub struct BufMut {
    block: Block,
    start: usize,
    len: usize,
}

impl BufMut {
    pub fn capacity(&self) -> usize {
        self.block.capacity
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn window(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    /// Moves the window.
    ///
    /// # Panics
    /// If the window does not lie within the capacity.
    pub fn set_window(&mut self, window: Range<usize>) {
        assert!(window.start <= window.end && window.end <= self.block.capacity, "window {window:?}");
        self.start = window.start;
        self.len = window.end - window.start;
    }

    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the window lies within the block, whose bytes were initialised by mmap or alloc_zeroed; this
        // BufMut is the block's only owner, so nothing writes to it while it is borrowed.
        unsafe { std::slice::from_raw_parts(self.block.ptr.as_ptr().add(self.start), self.len) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`; the exclusive borrow of the only owner makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.block.ptr.as_ptr().add(self.start), self.len) }
    }

    /// The window's address, for the driver.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_slice().as_mut_ptr()
    }

    /// Whether the memory belongs to the registered arena.
    pub fn is_registered(&self) -> bool {
        matches!(self.block.home, Home::Arena { .. })
    }

    /// Gives up the right to write; the result shows the window.
    pub fn freeze(self) -> Buf {
        Buf { start: self.start, len: self.len, block: Rc::new(self.block) }
    }
}

/// Shared bytes that nobody changes.
#[derive(Clone)]
pub struct Buf {
    block: Rc<Block>,
    start: usize,
    len: usize,
}

impl Buf {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the range lies within the block, whose bytes are initialised; a frozen block has no writer.
        unsafe { std::slice::from_raw_parts(self.block.ptr.as_ptr().add(self.start), self.len) }
    }

    /// A part of these bytes, sharing the memory.
    ///
    /// # Panics
    /// If the range does not lie within this buffer.
    pub fn slice(&self, range: Range<usize>) -> Buf {
        assert!(range.start <= range.end && range.end <= self.len, "slice {range:?} of {}", self.len);
        Buf { block: self.block.clone(), start: self.start + range.start, len: range.end - range.start }
    }

    pub fn as_ptr(&self) -> *const u8 {
        self.as_slice().as_ptr()
    }

    pub fn is_registered(&self) -> bool {
        matches!(self.block.home, Home::Arena { .. })
    }

    /// The right to write again, if nobody shares the bytes; the window is this buffer's range.
    pub fn thaw(self) -> Result<BufMut, Buf> {
        let Buf { block, start, len } = self;
        match Rc::try_unwrap(block) {
            Ok(block) => Ok(BufMut { block, start, len }),
            Err(block) => Err(Buf { block, start, len }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    #[test]
    fn buffers_do_not_overlap_and_all_memory_comes_back() {
        let pool = BufPool::new(8 << 20).unwrap();
        let mut prng = Prng::from_seed(3);
        let mut held: Vec<(BufMut, u8)> = Vec::new();
        for round in 0..20_000u32 {
            if !held.is_empty() && prng.chance(500) {
                let (buf, tag) = held.swap_remove(usize::try_from(prng.below(held.len() as u64)).unwrap());
                assert!(buf.as_slice().iter().all(|b| *b == tag));
            } else if pool.in_use().0 < 6 << 20 {
                let mut buf = pool.take(usize::try_from(prng.below(300_000) + 1).unwrap());
                let tag = (round % 251) as u8;
                buf.as_mut_slice().fill(tag);
                held.push((buf, tag));
            }
        }
        held.clear();
        assert_eq!(pool.in_use(), (0, 0));
        let whole: Vec<_> = (0..4).map(|_| pool.take(BUF_MAX)).collect();
        assert!(whole.iter().all(BufMut::is_registered), "everything merged back into whole chunks");
        assert!(!pool.take(1).is_registered(), "an empty arena falls back to the heap");
    }

    #[test]
    fn frozen_bytes_are_shared_and_thaw_only_when_unshared() {
        let pool = BufPool::new(BUF_MAX).unwrap();
        let buf = pool.copy_of(b"drystone").freeze();
        let part = buf.slice(3..8);
        assert_eq!(part.as_slice(), b"stone");
        let buf = buf.thaw().err().expect("shared");
        drop(part);
        assert_eq!(buf.thaw().ok().expect("unshared").as_slice(), b"drystone");
        assert!(pool.zeroes(4096).as_slice().iter().all(|b| *b == 0));
    }
}
