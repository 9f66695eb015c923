//! OpenMP's threads, for calls from programs that compute with OpenMP themselves.
//!
//! Such a program keeps its threads spinning between its parallel regions. They answer at once, and
//! leave no CPU to a second pool. The runtime is looked up in the process, not linked.

use std::any::Any;
use std::cell::Cell;
use std::ffi::{c_uint, c_void};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, OnceLock};

use crate::pool::Units;

thread_local! {
    /// The most threads that calls of this thread use, and whose.
    static TEAM: Cell<Team> = const { Cell::new(Team { most: usize::MAX, lent: None }) };
}

#[derive(Clone, Copy)]
struct Team {
    most: usize,
    lent: Option<Parallel>,
}

/// OpenMP's `GOMP_parallel`: calls `body` with `data` in each thread of a team, and waits for all.
pub(crate) type Parallel =
    unsafe extern "C" fn(body: unsafe extern "C" fn(*mut c_void), data: *mut c_void, threads: c_uint, c_uint);

/// The most threads of a call from here.
pub(crate) fn most() -> usize {
    TEAM.get().most
}

/// How to run a team for a call from here, if that is to be done.
pub(crate) fn lent() -> Option<Parallel> {
    TEAM.get().lent
}

/// Calls `work`, whose calls use at most this many threads: OpenMP's, where [`find`] found
/// them.
pub(crate) fn with_team<T>(most: usize, work: impl FnOnce() -> T) -> T {
    struct Restored(Team);
    impl Drop for Restored {
        fn drop(&mut self) {
            TEAM.set(self.0);
        }
    }
    // OpenMP's threads are gone in a forked child, where its runtime would wait for them forever.
    let lent = OPENMP.get().and_then(|(process, run)| (*process == std::process::id()).then_some(*run));
    let _restored = Restored(TEAM.replace(Team { most: most.max(1), lent }));
    work()
}

/// The process that found OpenMP's runtime, and how to run a team of its threads.
static OPENMP: OnceLock<(u32, Parallel)> = OnceLock::new();

/// Looks for OpenMP's runtime, whose threads [`with_team`] uses from now on.
#[cfg(target_os = "linux")]
pub(crate) fn find() {
    use std::ffi::c_char;
    unsafe extern "C" {
        fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    }
    if was_forked() {
        return;
    }
    // SAFETY: a null handle asks for the first symbol of this name in the process. `GOMP_parallel` has
    // had this signature since GCC 4.9, and has it in LLVM's runtime.
    let found = unsafe {
        let symbol = dlsym(std::ptr::null_mut(), c"GOMP_parallel".as_ptr());
        std::mem::transmute::<*mut c_void, Option<Parallel>>(symbol)
    };
    if let Some(run) = found {
        let _ = OPENMP.set((std::process::id(), run)); // a second import finds the same
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

/// Does what `pool::share` does, with a team of OpenMP's threads.
pub(crate) fn share(run: Parallel, range: Range<usize>, threads: usize, work: &(dyn Fn(Units<'_>) + Sync)) {
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
    unsafe { run(member, (&raw const shared).cast_mut().cast(), threads as c_uint, 0) };
    if let Some(panic) = shared.panic.into_inner().ok().flatten() {
        resume_unwind(panic);
    }
}
