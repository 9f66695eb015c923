//! Identity of the running process. A fork copies a program's memory, but not its threads.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Number of forks between this process and the first that counted them.
static FORKS: AtomicUsize = AtomicUsize::new(0);

/// A process, as seen from its own memory: differs between a parent and its child.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    forks: usize,
    id: u32,
}

impl Process {
    /// This process. Makes a system call.
    ///
    /// The id alone is not enough: parent and child may both be process 1, each in its own namespace. The count alone
    /// misses children of a bare `clone`, which runs no handlers. The system call takes one percent of the time that
    /// waking a thread takes.
    pub(crate) fn current() -> Self {
        count_forks();
        Self { forks: FORKS.load(Ordering::Relaxed), id: std::process::id() }
    }
}

/// Runs in each child.
///
/// # Safety
/// Nothing is required: `pthread_atfork` takes unsafe functions.
#[cfg(unix)]
unsafe extern "C" fn count() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Counts the forks from now on.
///
/// Takes no lock, because a child forked meanwhile would wait for it forever. Two threads may both register the
/// handler. Each fork then counts twice, which still tells a child from its parent.
#[cfg(unix)]
fn count_forks() {
    use std::ffi::c_int;
    use std::sync::atomic::AtomicBool;

    type Handler = unsafe extern "C" fn();
    unsafe extern "C" {
        fn pthread_atfork(prepare: Option<Handler>, parent: Option<Handler>, child: Option<Handler>) -> c_int;
    }
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.load(Ordering::Acquire) {
        // SAFETY: `count` may run in any child, even one forked in a signal handler: it changes an atomic number and
        // nothing else.
        let failed = unsafe { pthread_atfork(None, None, Some(count)) } != 0;
        REGISTERED.store(!failed, Ordering::Release);
    }
}

#[cfg(not(unix))]
fn count_forks() {}
