//! Limits of the calling thread: how many threads its calls use, and whether these are OpenMP's.

use std::cell::Cell;
use std::thread::LocalKey;

thread_local! {
    static LIMITS: Cell<Limits> = const { Cell::new(Limits { most: usize::MAX, borrow: false }) };
}

/// Thread limit for calls from a thread, and whether they borrow OpenMP's threads.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) most: usize,
    pub(super) borrow: bool,
}

/// The limits for calls from here.
pub(super) fn current() -> Limits {
    LIMITS.get()
}

/// Runs `work` with its calls limited to this many threads: OpenMP's, if they can be borrowed.
pub(crate) fn with_team<T>(most: usize, work: impl FnOnce() -> T) -> T {
    with_value(&LIMITS, Limits { most: most.max(1), borrow: true }, work)
}

/// Runs `work` with its calls limited to this many threads, none of them OpenMP's.
pub(crate) fn limited<T>(most: usize, work: impl FnOnce() -> T) -> T {
    with_value(&LIMITS, Limits { most, borrow: false }, work)
}

/// Calls `work` while this thread's `cell` has this value, and restores the old one afterwards.
pub(crate) fn with_value<V: Copy, T>(cell: &'static LocalKey<Cell<V>>, value: V, work: impl FnOnce() -> T) -> T {
    struct Restored<V: Copy + 'static>(&'static LocalKey<Cell<V>>, V);
    impl<V: Copy> Drop for Restored<V> {
        fn drop(&mut self) {
            self.0.set(self.1);
        }
    }
    let _restored = Restored(cell, cell.replace(value));
    work()
}
