//! State that the threads of a call share: its units of work, and the first panic.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// The first panic of several threads.
#[derive(Default)]
pub(super) struct FirstPanic(Mutex<Option<Box<dyn Any + Send>>>);

impl FirstPanic {
    /// Calls `work`, and keeps its panic if it is the first.
    pub(super) fn caught(&self, work: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work))
            && let Ok(mut first) = self.0.lock()
        {
            first.get_or_insert(panic);
        }
    }

    /// Resumes the panic, if there was one.
    pub(super) fn resume(&self) {
        let panic = self.0.lock().ok().and_then(|mut first| first.take());
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}
