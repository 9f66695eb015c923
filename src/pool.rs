//! Threads: how many, and one function that shares units of work among them.
//!
//! There is one pool, built at first use and again when the setting changes; the threads of the old one end when nobody
//! works on it any more. A forked child has none of its parent's threads and locks: it makes its own.
//!
//! Of rayon, this takes the threads and their queue. Its scopes would wait for every task they were given, also for one
//! whose thread wakes when the work is done, and waking takes longer than most calls.

use std::any::Any;
use std::cell::Cell;
use std::ffi::{c_uint, c_void};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::Error;

/// More threads than this are never started.
const MOST_THREADS: usize = 256;

/// Configured number of threads; 0 until first read or set.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// The number of threads that large calls use: that of [`set_num_threads`], else of the variable
/// `FASTDROP_NUM_THREADS`, else the CPUs this process may run on.
///
/// # Errors
/// [`Error::Threads`] when the variable is not a positive number.
pub fn num_threads() -> Result<usize, Error> {
    match THREADS.load(Ordering::Relaxed) {
        0 => {
            let threads = match std::env::var_os("FASTDROP_NUM_THREADS") {
                Some(text) if !text.is_empty() => match text.to_str().map(str::parse) {
                    Some(Ok(threads)) if threads > 0 => threads,
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

thread_local! {
    /// The most threads that calls of this thread use, and whose.
    static TEAM: Cell<Team> = const { Cell::new(Team { most: usize::MAX, lent: None }) };
}

#[derive(Clone, Copy)]
struct Team {
    most: usize,
    lent: Option<Parallel>,
}

/// `GOMP_parallel` of OpenMP's runtime: calls `body` with `data` in each thread of a team, and waits for all.
type Parallel =
    unsafe extern "C" fn(body: unsafe extern "C" fn(*mut c_void), data: *mut c_void, threads: c_uint, c_uint);

/// Calls `work`, whose calls use at most this many threads: those of OpenMP, if the process has them.
///
/// A program that computes with OpenMP in between keeps those awake, and has no CPU to spare for others.
#[cfg(feature = "python")]
pub(crate) fn with_team<T>(most: usize, work: impl FnOnce() -> T) -> T {
    struct Restored(Team);
    impl Drop for Restored {
        fn drop(&mut self) {
            TEAM.set(self.0);
        }
    }
    let _restored = Restored(TEAM.replace(Team { most: most.max(1), lent: openmp() }));
    work()
}

/// OpenMP's way to run a team, in the process that asked first: in its forked children that would wait for ever.
#[cfg(all(feature = "python", target_os = "linux"))]
fn openmp() -> Option<Parallel> {
    use std::ffi::c_char;
    use std::sync::OnceLock;
    unsafe extern "C" {
        fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    }
    static FOUND: OnceLock<(u32, Option<Parallel>)> = OnceLock::new();
    let (process, parallel) = FOUND.get_or_init(|| {
        // SAFETY: a null handle asks for the first symbol of this name in the process. GOMP_parallel has this signature
        // since GCC 4.9, and in LLVM's runtime.
        let parallel = unsafe {
            let symbol = dlsym(std::ptr::null_mut(), c"GOMP_parallel".as_ptr());
            std::mem::transmute::<*mut c_void, Option<Parallel>>(symbol)
        };
        (std::process::id(), parallel)
    });
    parallel.filter(|_| *process == std::process::id())
}

#[cfg(all(feature = "python", not(target_os = "linux")))]
fn openmp() -> Option<Parallel> {
    None
}

/// The number of threads of a call from here.
pub(crate) fn threads_of_call() -> Result<usize, Error> {
    Ok(num_threads()?.min(TEAM.get().most))
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
    if let Some(parallel) = TEAM.get().lent
        && helpers > 0
    {
        return share_lent(parallel, range, helpers + 1, &work);
    }
    // The pool has the size of the setting, not of this call, so that it stays however calls differ.
    let pool = if helpers == 0 { None } else { pool_of(threads.min(MOST_THREADS) - 1) };
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

/// Does what `share` does with a team of OpenMP.
fn share_lent(parallel: Parallel, range: Range<usize>, threads: usize, work: &(dyn Fn(Units<'_>) + Sync)) {
    struct Shared<'a> {
        work: &'a (dyn Fn(Units<'_>) + Sync),
        next: AtomicUsize,
        end: usize,
        panic: Mutex<Option<Box<dyn Any + Send>>>,
    }
    /// # Safety
    /// `data` must point to a `Shared`.
    unsafe extern "C" fn member(data: *mut c_void) {
        // SAFETY: the caller vouches for it.
        let shared = unsafe { &*data.cast::<Shared<'_>>() };
        let units = Units { next: &shared.next, end: shared.end };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (shared.work)(units)))
            && let Ok(mut first) = shared.panic.lock()
        {
            first.get_or_insert(panic);
        }
    }
    let shared = Shared { work, next: AtomicUsize::new(range.start), end: range.end, panic: Mutex::new(None) };
    // SAFETY: the runtime returns when all threads of the team have, so `shared` outlives them; what they share is `Sync`
    // or behind a lock.
    unsafe { parallel(member, (&raw const shared).cast_mut().cast(), threads as c_uint, 0) };
    if let Some(panic) = shared.panic.into_inner().ok().flatten() {
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

/// Bytes of stack of a helper: the largest kernels take less than a tenth.
const STACK: usize = 1 << 19;
/// Bytes that there must be for each helper before it is started: its stack, and what the system and the standard library
/// allocate for a new thread, which abort where they get none.
const THREAD: usize = 2 * STACK;

/// Whether this many bytes can be allocated at this moment.
///
/// Allocations that cannot fail, in the standard library and in rayon, abort the process. A call that may be in want of
/// memory asks for more than it needs first, and gives up where it can.
pub(crate) fn has_memory(bytes: usize) -> bool {
    Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
}

/// The pool of one process, and how many threads it has.
struct Process {
    id: u32,
    pool: Mutex<Option<(usize, Arc<ThreadPool>)>>,
}

/// The pool of this process with this many threads; `None` if they cannot be had.
fn pool_of(threads: usize) -> Option<Arc<ThreadPool>> {
    // The pool itself is left alone where there is none to be had, and tried again with the next call.
    let mut pool = this_process().pool.lock().unwrap_or_else(PoisonError::into_inner);
    match &*pool {
        Some((size, pool)) if *size == threads => Some(Arc::clone(pool)),
        _ if !has_memory(threads * THREAD) => None,
        _ => {
            let new = ThreadPoolBuilder::new()
                .num_threads(threads)
                .stack_size(STACK)
                .thread_name(|index| format!("fastdrop-{index}"))
                .build()
                .ok()?;
            let (_, new) = pool.insert((threads, Arc::new(new)));
            Some(Arc::clone(new))
        }
    }
}

/// The entry of this process, made at first use. A child that was forked while its parent's lock was held would wait for
/// it for ever, so it makes another; the parent's stays as it is, for its threads are not the child's to end.
fn this_process() -> &'static Process {
    static CURRENT: AtomicPtr<Process> = AtomicPtr::new(std::ptr::null_mut());
    let id = std::process::id();
    loop {
        let current = CURRENT.load(Ordering::Acquire);
        // SAFETY: the pointer is null or that of an entry that was leaked below, so it lives for ever.
        if let Some(process) = unsafe { current.as_ref() }
            && process.id == id
        {
            return process;
        }
        let new = Box::into_raw(Box::new(Process { id, pool: Mutex::new(None) }));
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
