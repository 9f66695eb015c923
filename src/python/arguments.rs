//! Maps errors to Python's, and releases the interpreter.
//!
//! The core calls no Python code: the Python layer turns what a user passes into exact types. Python code can release
//! the interpreter. During shutdown, a thread that waits for the interpreter is terminated on the spot, and that must
//! not unwind through Rust.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::{ffi, intern};

use super::view::Held;
use crate::error::Error;
use crate::threads::batches::Interrupt;
use crate::threads::limits::with_value;
use crate::threads::room::{CALL_STACK, on_large_stack, stack_left};

/// Below this many elements the interpreter is not released: the work is over before another thread could use it.
pub(super) const DETACH: usize = 1 << 14;

thread_local! {
    /// Whether calls of this thread leave signal handlers to their caller.
    static DEFERRED: Cell<bool> = const { Cell::new(false) };
}

/// Calls `work` without running signal handlers, which could free the memory of its tensors. The interpreter runs them
/// afterwards, as it does for torch's own operators. Ctrl-C still ends a call, unless the program handles it.
pub(super) fn without_handlers<T>(work: impl FnOnce() -> T) -> T {
    with_value(&DEFERRED, true, work)
}

/// Runs signal handlers. If they are `deferred`, only checks for Ctrl-C.
fn check_signals(py: Python<'_>, deferred: bool) -> PyResult<()> {
    if !deferred && !DEFERRED.get() {
        return py.check_signals();
    }
    // SAFETY: the interpreter is attached. In the main thread, the call consumes a pending SIGINT.
    if unsafe { ffi::PyOS_InterruptOccurred() } == 0 {
        return Ok(());
    }
    let signals = py.import(intern!(py, "_signal"))?;
    let handler = signals.call_method1(intern!(py, "getsignal"), (signals.getattr(intern!(py, "SIGINT"))?,))?;
    if handler.is(&signals.getattr(intern!(py, "default_int_handler"))?) {
        return Err(PyKeyboardInterrupt::new_err(()));
    }
    // SAFETY: as above. The signal becomes pending again.
    unsafe { ffi::PyErr_SetInterrupt() };
    Ok(())
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        match error {
            Error::Interrupted => PyKeyboardInterrupt::new_err(()),
            Error::Memory => PyMemoryError::new_err(error.to_string()),
            Error::Entropy(_) => PyOSError::new_err(error.to_string()),
            error => PyValueError::new_err(error.to_string()),
        }
    }
}

/// Calls `work`, and releases the interpreter if there is `much` to do. A signal handler interrupts it by raising, or
/// by taking memory from `held` arrays. A panic becomes an exception.
pub(super) fn detached<T: Send>(
    py: Python<'_>,
    much: bool,
    held: &Held,
    work: impl FnOnce(Interrupt<'_>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let guarded = |polls: bool| {
        let signal = Cell::new(None);
        let interrupt = || {
            if !polls {
                return false;
            }
            let raised = Python::attach(|py| {
                check_signals(py, held.elsewhere)?;
                held.check(py)
            });
            raised.map_err(|error| signal.set(Some(Box::new(error)))).is_err()
        };
        let result = catch_unwind(AssertUnwindSafe(|| work(&interrupt)));
        match (result, signal.take()) {
            (_, Some(error)) => Err(*error),
            (Ok(result), None) => Ok(result?),
            (Err(panic), None) => {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                Err(PyRuntimeError::new_err(format!("bug in fastdrop, please report it: {text}")))
            }
        }
    };
    let run = || {
        if stack_left() >= CALL_STACK {
            return guarded(true);
        }
        // No need to poll signals: handlers run in the main thread, which has a large stack.
        on_large_stack(|| guarded(false)).unwrap_or_else(|| Err(Error::Memory.into()))
    };
    if much { py.detach(run) } else { run() }
}
