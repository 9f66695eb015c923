//! Our own threads.
//!
//! There is one pool, built on first use and rebuilt when the setting changes. The old pool's threads end after their
//! last call. A forked child cannot use its parent's threads or locks, so it makes its own.
//!
//! The pool uses only rayon's threads and queue. Rayon's scopes would wait for every spawned task, even one whose
//! thread wakes after the work is done, and waking takes longer than most calls.

use std::ops::Range;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::fork::Process;
#[cfg(target_os = "linux")]
use super::linux::Cpus;
use super::room::{STACK, has_room};
use super::work::{FirstPanic, Units};

/// Calls `work` with the units of `range`, on this thread and on `helpers` threads of the pool.
///
/// Helpers start as soon as they wake. The call does not wait for a helper that wakes after all units are done, so
/// spawning one costs little even if waking it takes longer than the work.
pub(super) fn share(pool: &ThreadPool, range: Range<usize>, helpers: usize, work: &(dyn Fn(Units<'_>) + Sync)) {
    let work: *const (dyn Fn(Units<'_>) + Sync) = work;
    let job = Arc::new(Job {
        // SAFETY: only the lifetime changes, and a raw pointer does not depend on it.
        work: unsafe { std::mem::transmute::<*const (dyn Fn(Units<'_>) + Sync), *const Work>(work) },
        next: AtomicUsize::new(range.start),
        end: range.end,
        inside: AtomicUsize::new(0),
        caller: std::thread::current(),
        #[cfg(target_os = "linux")]
        cpus: Cpus::of_this_thread(),
        panic: FirstPanic::default(),
    });
    let closing = Closing(&job);
    for _ in 0..helpers {
        let job = Arc::clone(&job);
        pool.spawn(move || job.help());
    }
    job.work();
    drop(closing);
    job.panic.resume();
}

/// Set in [`Job::inside`] once no more helpers may enter.
const CLOSED: usize = 1 << (usize::BITS - 1);

type Work = dyn Fn(Units<'_>) + Sync + 'static;

/// One call of [`share`], as its helpers see it.
struct Job {
    /// Valid until the job is closed and all helpers have left, which [`Closing`] waits for.
    work: *const Work,
    next: AtomicUsize,
    end: usize,
    /// The number of helpers at work, plus [`CLOSED`] once it is set.
    inside: AtomicUsize,
    caller: Thread,
    /// CPUs that helpers may run on.
    #[cfg(target_os = "linux")]
    cpus: Cpus,
    panic: FirstPanic,
}

// SAFETY: what `work` points to is `Sync`, so any thread may call it while it is valid.
unsafe impl Send for Job {}
// SAFETY: as above; the other fields are `Sync`.
unsafe impl Sync for Job {}

impl Job {
    /// Works on units until none are left. Only for the caller, and for helpers that have entered.
    fn work(&self) {
        // SAFETY: the caller has not returned, and waits for all helpers inside, so `work` is
        // valid.
        let work = unsafe { &*self.work };
        work(Units { next: &self.next, end: self.end });
    }

    fn help(&self) {
        let enter = |inside| if inside & CLOSED == 0 { Some(inside + 1) } else { None };
        if self.inside.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).is_err() {
            return;
        }
        #[cfg(target_os = "linux")]
        self.cpus.take();
        self.panic.caught(|| self.work());
        if self.inside.fetch_sub(1, Ordering::Release) == CLOSED + 1 {
            self.caller.unpark();
        }
    }
}

/// Closes a job on drop, even during a panic, and waits until its helpers have left.
struct Closing<'a>(&'a Job);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        /// Helpers are on their last unit, so most leave within this many polls.
        const LOOKS: usize = 1 << 10;
        let mut looks = 0;
        self.0.inside.fetch_or(CLOSED, Ordering::Relaxed);
        while self.0.inside.load(Ordering::Acquire) != CLOSED {
            looks += 1;
            if looks < LOOKS { std::hint::spin_loop() } else { std::thread::park() }
        }
    }
}

/// One process's pool and its number of threads.
struct Entry {
    process: Process,
    pool: Mutex<Option<(usize, Arc<ThreadPool>)>>,
}

/// This process's pool of this many threads; `None` if they cannot be started.
pub(super) fn pool_of(threads: usize) -> Option<Arc<ThreadPool>> {
    // If a new pool cannot be built, the old one stays, and the next call tries again.
    let mut pool = this_process().pool.lock().unwrap_or_else(PoisonError::into_inner);
    match &*pool {
        Some((size, pool)) if *size == threads => Some(Arc::clone(pool)),
        _ if !has_room(threads) => None,
        _ => {
            let (started, caller) = (Arc::new(AtomicUsize::new(0)), std::thread::current());
            let count = Arc::clone(&started);
            let new = ThreadPoolBuilder::new()
                .num_threads(threads)
                .stack_size(STACK)
                .thread_name(|index| format!("fastdrop-{index}"))
                .start_handler(move |_| {
                    count.fetch_add(1, Ordering::Release);
                    caller.unpark();
                })
                .build()
                .ok()?;
            // Waits for each thread's first allocations, because memory may run out later.
            while started.load(Ordering::Acquire) < threads {
                std::thread::park();
            }
            let (_, new) = pool.insert((threads, Arc::new(new)));
            Some(Arc::clone(new))
        }
    }
}

/// This process's entry, made on first use. A forked child makes its own: if its parent held the lock, the child would
/// wait for it forever. The child leaves its parent's entry alone, because it cannot end its parent's threads.
fn this_process() -> &'static Entry {
    static CURRENT: AtomicPtr<Entry> = AtomicPtr::new(std::ptr::null_mut());
    let process = Process::current();
    loop {
        let current = CURRENT.load(Ordering::Acquire);
        // SAFETY: the pointer is null or points to an entry leaked below, which lives forever.
        if let Some(entry) = unsafe { current.as_ref() }
            && entry.process == process
        {
            return entry;
        }
        let new = Box::into_raw(Box::new(Entry { process, pool: Mutex::new(None) }));
        if CURRENT.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: the pointer was made above, and nobody else has seen it.
            drop(unsafe { Box::from_raw(new) });
        }
    }
}
