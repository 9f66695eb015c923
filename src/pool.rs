//! Threads: how many, and one function that shares units of work among them.
//!
//! There is one pool, built on first use and rebuilt when the setting changes; the old pool's
//! threads end when their last call is done. A forked child cannot use its parent's threads or
//! locks, so it makes its own.
//!
//! Only rayon's threads and queue are used. Its scopes would wait for every spawned task, even one
//! whose thread wakes after the work is done, and waking takes longer than most calls.

use std::any::Any;
use std::num::IntErrorKind;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::Error;
use crate::fork::Process;
#[cfg(all(feature = "python", target_os = "linux"))]
pub(crate) use crate::linux::stack_left;
#[cfg(target_os = "linux")]
use crate::linux::{Cpus, has_heaps};
#[cfg(feature = "python")]
use crate::openmp;

/// No call uses more threads than this.
const MOST_THREADS: usize = 256;

/// Configured number of threads; 0 until first read or set.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// The number of threads that large calls use: as set by [`set_num_threads`], else by the
/// environment variable `FASTDROP_NUM_THREADS`, else the number of CPUs this process may run on.
///
/// # Errors
/// [`Error::Threads`] if the variable is not a positive number.
pub fn num_threads() -> Result<usize, Error> {
    match THREADS.load(Ordering::Relaxed) {
        0 => {
            let threads = match std::env::var_os("FASTDROP_NUM_THREADS") {
                Some(text) if !text.is_empty() => match text.to_str().map(str::parse::<usize>) {
                    Some(Ok(threads)) if threads > 0 => threads,
                    Some(Err(error)) if *error.kind() == IntErrorKind::PosOverflow => usize::MAX,
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

/// The most threads of a call from here. Settings may be any number.
pub(crate) fn threads_of_call() -> Result<usize, Error> {
    let threads = num_threads()?.min(MOST_THREADS);
    #[cfg(feature = "python")]
    let threads = threads.min(openmp::most());
    Ok(threads)
}

/// Units of work, handed out one at a time among all clones.
#[derive(Clone)]
pub(crate) struct Units<'a> {
    pub(crate) next: &'a AtomicUsize,
    pub(crate) end: usize,
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
/// The others help as soon as they wake. A helper that arrives after all units are done is not
/// waited for, so asking for help costs little even if waking a thread takes longer than the work.
pub(crate) fn share(range: Range<usize>, threads: usize, work: impl Fn(Units<'_>) + Sync) {
    let helpers = threads.min(range.len()).min(MOST_THREADS).saturating_sub(1);
    #[cfg(feature = "python")]
    if helpers > 0
        && let Some(team) = openmp::lent()
    {
        return team.share(range, helpers + 1, &work);
    }
    // Sized by the setting, not by this call, so that calls of different sizes share one pool.
    let pool = if helpers == 0 { None } else { pool_of(threads.min(MOST_THREADS) - 1) };
    let Some(pool) = pool else {
        let next = AtomicUsize::new(range.start);
        return work(Units { next: &next, end: range.end });
    };
    let work: *const (dyn Fn(Units<'_>) + Sync) = &work;
    let job = Arc::new(Job {
        // SAFETY: only the lifetime changes, and a raw pointer does not depend on it.
        work: unsafe { std::mem::transmute::<*const (dyn Fn(Units<'_>) + Sync), *const Work>(work) },
        next: AtomicUsize::new(range.start),
        end: range.end,
        inside: AtomicUsize::new(0),
        caller: std::thread::current(),
        #[cfg(target_os = "linux")]
        cpus: Cpus::of_this_thread(),
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
    /// Where helpers may run.
    #[cfg(target_os = "linux")]
    cpus: Cpus,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: what `work` points to is `Sync`, so any thread may call it while it is valid.
unsafe impl Send for Job {}
// SAFETY: as above; the other fields are `Sync` by themselves.
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

/// A helper's stack in bytes; the largest kernels use less than a tenth.
const STACK: usize = 1 << 19;
/// Stack that units of work need, and a whole call: about twice what the largest use.
#[cfg(feature = "python")]
pub(crate) const MEMBER_STACK: usize = 40 << 10;
#[cfg(feature = "python")]
pub(crate) const CALL_STACK: usize = 64 << 10;
/// Bytes that must be available per helper before it starts: its stack, and what the system and the
/// standard library allocate for a new thread; they abort if that fails.
const THREAD: usize = 2 * STACK;

/// Whether this many bytes can be allocated right now.
///
/// Infallible allocations in the standard library and in rayon abort the process when memory runs
/// out. So a call that might run out first tests for more than it needs, while it can still return
/// an error.
pub(crate) fn has_memory(bytes: usize) -> bool {
    Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
}

/// Calls `work` on a thread with a stack for every call; `None` if it cannot start.
#[cfg(feature = "python")]
pub(crate) fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    if !has_memory(THREAD) || !has_heaps(1) {
        return None;
    }
    let most = openmp::most();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        thread.spawn_scoped(scope, || openmp::limited(most, work)).ok()?.join().ok()
    })
}

/// Whether this many more threads can start now: starts them, and waits until they have ended.
#[cfg(feature = "python")]
pub(crate) fn can_start(threads: usize) -> bool {
    /// Size of a thread's stack unless its program chooses another.
    const DEFAULT_STACK: usize = 1 << 23;
    if !has_memory(threads.saturating_mul(THREAD)) || !has_heaps(threads) {
        return false;
    }
    let gate = Mutex::new(());
    std::thread::scope(|scope| {
        let closed = gate.lock();
        let start = || {
            let thread = std::thread::Builder::new().stack_size(DEFAULT_STACK);
            thread.spawn_scoped(scope, || {
                drop(gate.lock());
                std::fs::read_link("/proc/thread-self")
            })
        };
        let started: Vec<_> = (0..threads).map_while(|_| start().ok()).collect();
        drop(closed);
        let all = started.len() == threads;
        for thread in started {
            let name = thread.join();
            // The system still counts a thread for some microseconds after it was joined.
            if let Ok(Ok(name)) = name {
                let place = std::path::Path::new("/proc").join(name);
                (0..1000).take_while(|_| place.exists()).for_each(|_| std::thread::yield_now());
            }
        }
        all
    })
}

#[cfg(not(target_os = "linux"))]
fn has_heaps(_: usize) -> bool {
    true
}

#[cfg(all(feature = "python", not(target_os = "linux")))]
pub(crate) fn stack_left() -> usize {
    usize::MAX
}

/// One process's pool and its number of threads.
struct Entry {
    process: Process,
    pool: Mutex<Option<(usize, Arc<ThreadPool>)>>,
}

/// This process's pool of this many threads; `None` if they cannot be started.
fn pool_of(threads: usize) -> Option<Arc<ThreadPool>> {
    // If a new pool cannot be built, the old one stays, and the next call tries again.
    let mut pool = this_process().pool.lock().unwrap_or_else(PoisonError::into_inner);
    match &*pool {
        Some((size, pool)) if *size == threads => Some(Arc::clone(pool)),
        _ if !has_memory(threads * THREAD) || !has_heaps(threads) => None,
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
            // Until each has what it allocates first. Later the memory may be gone.
            while started.load(Ordering::Acquire) < threads {
                std::thread::park();
            }
            let (_, new) = pool.insert((threads, Arc::new(new)));
            Some(Arc::clone(new))
        }
    }
}

/// This process's entry, made on first use. A child forked while its parent held the lock would
/// wait for it forever, so it makes its own entry. It leaves the parent's alone, because those
/// threads are not the child's to end.
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

    /// A pool kept for every setting would leave thousands of threads.
    #[cfg(target_os = "linux")]
    #[test]
    fn threads_end_with_their_setting() {
        let threads = || std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
        let before = threads();
        for setting in 2..40 {
            share(0..64, setting, |units| units.for_each(drop));
        }
        // The last pool has 38 threads; those of the others may be on their way out.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let mut now = threads();
        while now > before + 60 && std::time::Instant::now() < deadline {
            std::thread::yield_now();
            now = threads();
        }
        assert!(now <= before + 60, "{now} threads, {before} before");
    }

    #[test]
    fn a_panic_in_any_thread_reaches_the_caller() {
        for threads in [1, 3] {
            let result = catch_unwind(|| share(0..100, threads, |mut units| assert!(units.all(|unit| unit != 50))));
            assert!(result.is_err(), "{threads} threads");
        }
    }
}
