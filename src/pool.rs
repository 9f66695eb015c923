//! Threads: how many, and one function that shares units of work among them.
//!
//! Pools are built at first use, one per thread count, and never dropped. A forked child has none of its
//! parent's threads, so it sees the parent's pools as foreign and builds its own; no lock is held that a
//! fork could catch.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::Thread;

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

/// Uses `threads` threads in large calls from now on, at most 256. The masks do not depend on it.
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

/// Units of work, handed out one by one to all who hold a clone.
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
///
/// The others help as soon as they are awake. A helper that comes when all units are done is not waited for, so
/// asking for help costs little even where waking a thread takes longer than the work.
pub(crate) fn share(range: Range<usize>, threads: usize, work: impl Fn(Units<'_>) + Sync) {
    let helpers = threads.min(range.len()).min(MOST_THREADS).saturating_sub(1);
    // The pool is that of the setting, not of this call, so that there is one however calls differ in size.
    let pool = if helpers == 0 { None } else { helpers_pool(threads.min(MOST_THREADS) - 1) };
    let Some(pool) = pool else {
        let next = AtomicUsize::new(range.start);
        return work(Units { next: &next, end: range.end });
    };
    let work: *const (dyn Fn(Units<'_>) + Sync) = &work;
    let job = Arc::new(Job {
        // SAFETY: only the lifetime changes, which a pointer does not rely on.
        work: unsafe { std::mem::transmute::<*const (dyn Fn(Units<'_>) + Sync), *const Work>(work) },
        next: AtomicUsize::new(range.start),
        end: range.end,
        inside: AtomicUsize::new(0),
        caller: std::thread::current(),
        panic: Mutex::new(None),
    });
    let closing = Closing(&job);
    for _ in 0..helpers {
        let job = Arc::clone(&job);
        pool.spawn(move || job.help());
    }
    job.work();
    drop(closing);
    let panic = job.panic.lock().ok().and_then(|mut panic| panic.take());
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
}

/// Set in [`Job::inside`] when nobody may enter any more.
const CLOSED: usize = 1 << (usize::BITS - 1);

type Work = dyn Fn(Units<'_>) + Sync + 'static;

/// One call of [`share`], as its helpers see it.
struct Job {
    /// Valid until the job is closed and everybody has left, which [`Closing`] waits for.
    work: *const Work,
    next: AtomicUsize,
    end: usize,
    /// How many helpers are at work, and [`CLOSED`].
    inside: AtomicUsize,
    caller: Thread,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: what `work` points to is `Sync`, so any thread may call it while it is valid.
unsafe impl Send for Job {}
// SAFETY: as above; the other fields are `Sync` by themselves.
unsafe impl Sync for Job {}

impl Job {
    /// Does units until there are none left. Only for those who are inside, and for the caller.
    fn work(&self) {
        // SAFETY: the caller has not returned, and waits for all who are inside; so `work` is valid.
        let work = unsafe { &*self.work };
        work(Units { next: &self.next, end: self.end });
    }

    fn help(&self) {
        let enter = |inside| if inside & CLOSED == 0 { Some(inside + 1) } else { None };
        if self.inside.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).is_err() {
            return;
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work()))
            && let Ok(mut first) = self.panic.lock()
        {
            first.get_or_insert(panic);
        }
        if self.inside.fetch_sub(1, Ordering::Release) == CLOSED + 1 {
            self.caller.unpark();
        }
    }
}

/// Closes a job when it goes out of scope, however that happens, and waits until its helpers have left.
struct Closing<'a>(&'a Job);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        /// Helpers are at their last unit, so they will mostly leave within this many looks.
        const LOOKS: usize = 1 << 10;
        let mut looks = 0;
        self.0.inside.fetch_or(CLOSED, Ordering::Relaxed);
        while self.0.inside.load(Ordering::Acquire) != CLOSED {
            looks += 1;
            if looks < LOOKS { std::hint::spin_loop() } else { std::thread::park() }
        }
    }
}

struct Entry {
    process: u32,
    pool: ThreadPool,
}

/// The pool of this many threads of this process; `None` if threads cannot be had.
fn helpers_pool(threads: usize) -> Option<&'static ThreadPool> {
    static POOLS: [AtomicPtr<Entry>; MOST_THREADS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; MOST_THREADS];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_done_once() {
        for threads in [1, 2, 3, 8] {
            let done: Vec<AtomicUsize> = (0..1000).map(|_| AtomicUsize::new(0)).collect();
            share(0..done.len(), threads, |units| {
                for unit in units {
                    done[unit].fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1), "{threads} threads");
        }
    }

    #[test]
    fn a_panic_in_any_thread_reaches_the_caller() {
        for threads in [1, 3] {
            let result = catch_unwind(|| share(0..100, threads, |mut units| assert!(units.all(|unit| unit != 50))));
            assert!(result.is_err(), "{threads} threads");
        }
    }
}
