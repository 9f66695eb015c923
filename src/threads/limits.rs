//! Thread limits of the calling thread: how many threads its calls use, and whose.

use std::cell::Cell;

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

/// Calls `work`, whose calls use at most this many threads: OpenMP's, where they can be borrowed.
pub(crate) fn with_team<T>(most: usize, work: impl FnOnce() -> T) -> T {
    with(Limits { most: most.max(1), borrow: true }, work)
}

/// Calls `work`, whose calls use at most this many threads, none of OpenMP's.
pub(crate) fn limited<T>(most: usize, work: impl FnOnce() -> T) -> T {
    with(Limits { most, borrow: false }, work)
}

fn with<T>(limits: Limits, work: impl FnOnce() -> T) -> T {
    struct Restored(Limits);
    impl Drop for Restored {
        fn drop(&mut self) {
            LIMITS.set(self.0);
        }
    }
    let _restored = Restored(LIMITS.replace(limits));
    work()
}
