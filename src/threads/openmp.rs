//! OpenMP's threads, for calls from programs that compute with OpenMP themselves.
//!
//! Such a program keeps its threads spinning between its parallel regions. They start work at once, and leave no CPU to
//! a second pool. The runtime is looked up in the process, not linked.

use std::cell::Cell;
use std::ffi::{c_uint, c_void};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::fork::Process;
use super::limits::{self, Limits};
use super::room::{MEMBER_STACK, can_start, stack_left};
use super::work::{FirstPanic, Units};

thread_local! {
    /// The last team that this thread found able to start: its process and its size.
    static STARTED: Cell<Option<(Process, usize)>> = const { Cell::new(None) };
}

/// The process that found OpenMP's runtime, and how to run a team of its threads.
static OPENMP: OnceLock<(Process, Parallel)> = OnceLock::new();

/// Whether OpenMP's threads have stacks too small for the kernels (`OMP_STACKSIZE`).
static SHALLOW: AtomicBool = AtomicBool::new(false);

/// OpenMP's `GOMP_parallel`: calls `body` with `data` in each thread of a team, and waits for all.
type Parallel =
    unsafe extern "C" fn(body: unsafe extern "C" fn(*mut c_void), data: *mut c_void, threads: c_uint, c_uint);

/// The team for a call from here, if the call may borrow OpenMP's threads and they are available.
pub(super) fn lent() -> Option<Team> {
    let Limits { most, borrow } = limits::current();
    if !borrow || SHALLOW.load(Ordering::Relaxed) {
        return None;
    }
    let (process, run) = *OPENMP.get()?;
    // OpenMP's threads are gone in a forked child, where its runtime would wait for them forever.
    if process != Process::current() {
        return None;
    }
    // OpenMP's runtimes end the process if a thread cannot start, so check that first.
    if STARTED.get() != Some((process, most)) {
        if !can_start(most.saturating_sub(1)) {
            return None;
        }
        STARTED.set(Some((process, most)));
    }
    Some(Team { run, threads: most })
}

/// Looks for OpenMP's runtime, whose threads calls `with_team` use from now on.
#[cfg(target_os = "linux")]
pub(crate) fn find() {
    use std::ffi::c_char;
    unsafe extern "C" {
        fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    }
    if was_forked() {
        return;
    }
    // SAFETY: a null handle means the first symbol of this name in the process. `GOMP_parallel` has had this signature
    // since GCC 4.9, and has it in LLVM's runtime.
    let found = unsafe {
        let symbol = dlsym(std::ptr::null_mut(), c"GOMP_parallel".as_ptr());
        std::mem::transmute::<*mut c_void, Option<Parallel>>(symbol)
    };
    if let Some(run) = found {
        let _ = OPENMP.set((Process::current(), run)); // a second import finds the same
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn find() {}

/// Whether this process was forked and runs its parent's program, whose OpenMP threads it lacks.
#[cfg(target_os = "linux")]
fn was_forked() -> bool {
    const FORKED_WITHOUT_EXEC: u32 = 0x40;
    // Flags are the seventh field after the name, which is in parentheses and may contain spaces.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let flags = stat.rsplit(')').next().and_then(|fields| fields.split_whitespace().nth(6)?.parse::<u32>().ok());
    flags.is_none_or(|flags| flags & FORKED_WITHOUT_EXEC != 0)
}

/// A team of OpenMP's threads, the caller among them.
#[derive(Clone, Copy)]
pub(super) struct Team {
    run: Parallel,
    threads: usize,
}

impl Team {
    /// Calls `work` with the units of `range`, on up to `threads` threads.
    ///
    /// The whole team runs, because GCC's runtime ends the threads that a smaller team does not need. The program's
    /// next operator would have to start them again.
    pub(super) fn share(self, range: Range<usize>, threads: usize, work: &(dyn Fn(Units<'_>) + Sync)) {
        struct Shared<'a> {
            work: &'a (dyn Fn(Units<'_>) + Sync),
            units: Units<'a>,
            /// How many more threads may work.
            seats: AtomicUsize,
            panic: FirstPanic,
        }
        /// # Safety
        /// `data` must point to a `Shared`.
        unsafe extern "C" fn member(data: *mut c_void) {
            // SAFETY: the caller guarantees it.
            let shared = unsafe { &*data.cast::<Shared<'_>>() };
            if stack_left() < MEMBER_STACK {
                SHALLOW.store(true, Ordering::Relaxed);
                return;
            }
            let seat = |seats: usize| seats.checked_sub(1);
            if shared.seats.fetch_update(Ordering::Relaxed, Ordering::Relaxed, seat).is_err() {
                return;
            }
            shared.panic.caught(|| (shared.work)(shared.units.clone()));
        }
        let next = AtomicUsize::new(range.start);
        let units = Units { next: &next, end: range.end };
        let shared = Shared { work, units, seats: AtomicUsize::new(threads), panic: FirstPanic::default() };
        // SAFETY: the runtime returns after all threads of the team have returned, so `shared` outlives their use of
        // it. What they share is `Sync` or behind a lock.
        unsafe { (self.run)(member, (&raw const shared).cast_mut().cast(), self.threads as c_uint, 0) };
        shared.panic.resume();
        // Perhaps no thread of the team had enough stack.
        if next.load(Ordering::Relaxed) < range.end {
            work(Units { next: &next, end: range.end });
        }
    }
}
