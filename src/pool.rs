//! Threads: how many, and one function that shares units of work among them.
//!
//! Pools are built at first use, one per thread count, and never dropped. A forked child has none of its
//! parent's threads, so it sees the parent's pools as foreign and builds its own; no lock is held that a
//! fork could catch.

use std::ops::Range;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::Error;

/// More threads than this are never started.
const MOST_THREADS: usize = 256;

/// Threads to use; 0 while nobody has said or asked.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// The number of threads that large calls use: that of [`set_num_threads`], else of the variable
/// `FASTDROP_NUM_THREADS`, else the CPUs this process may run on.
///
/// # Errors
/// [`Error::Threads`] when the variable is not a positive number.
pub fn num_threads() -> Result<usize, Error> {
    match THREADS.load(Ordering::Relaxed) {
        0 => {
            let threads = match std::env::var("FASTDROP_NUM_THREADS") {
                Ok(text) if !text.is_empty() => match text.parse() {
                    Ok(threads) if threads > 0 => threads,
                    _ => return Err(Error::Threads(format!("{text:?} in FASTDROP_NUM_THREADS"))),
                },
                _ => std::thread::available_parallelism().map_or(1, usize::from),
            };
            set_num_threads(threads)?;
            Ok(threads)
        }
        threads => Ok(threads),
    }
}

/// Uses `threads` threads in large calls from now on. The masks do not depend on it.
///
/// # Errors
/// [`Error::Threads`] for 0.
pub fn set_num_threads(threads: usize) -> Result<(), Error> {
    if threads == 0 {
        return Err(Error::Threads("0".to_owned()));
    }
    THREADS.store(threads, Ordering::Relaxed);
    Ok(())
}

/// Units of work, handed out one by one to all threads that hold a clone.
#[derive(Clone)]
pub(crate) struct Units<'a> {
    next: &'a AtomicUsize,
    end: usize,
}

impl Iterator for Units<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let unit = self.next.fetch_add(1, Ordering::Relaxed);
        (unit < self.end).then_some(unit)
    }
}

/// Calls `work` with the units of `range`, on this thread and on up to `threads - 1` others.
pub(crate) fn share(range: Range<usize>, threads: usize, work: impl Fn(Units<'_>) + Sync) {
    let next = AtomicUsize::new(range.start);
    let units = Units { next: &next, end: range.end };
    let helpers = threads.min(range.len()).min(MOST_THREADS).saturating_sub(1);
    match helpers_pool(helpers) {
        None => work(units),
        Some(pool) => pool.in_place_scope(|scope| {
            for _ in 0..helpers {
                let units = units.clone();
                scope.spawn(|_| work(units));
            }
            work(units.clone());
        }),
    }
}

struct Entry {
    process: u32,
    pool: ThreadPool,
}

/// The pool of this many threads of this process; `None` for 0, or if threads cannot be had.
fn helpers_pool(threads: usize) -> Option<&'static ThreadPool> {
    static POOLS: [AtomicPtr<Entry>; MOST_THREADS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; MOST_THREADS];
    if threads == 0 {
        return None;
    }
    let process = std::process::id();
    let slot = &POOLS[threads];
    loop {
        let current = slot.load(Ordering::Acquire);
        // SAFETY: a slot holds null or an entry that was leaked below, so it lives for ever.
        if let Some(entry) = unsafe { current.as_ref() }
            && entry.process == process
        {
            return Some(&entry.pool);
        }
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("fastdrop-{index}"))
            .build()
            .ok()?;
        let new = Box::leak(Box::new(Entry { process, pool }));
        if slot.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return Some(&new.pool);
        }
        // Another thread was faster; its pool serves, and the one built here stays idle.
    }
}
