//! Threads: how many, and one function that shares units of work among them.

pub(crate) mod batches;
#[allow(unsafe_code, reason = "the handler of forks is registered in C")]
mod fork;
#[cfg(feature = "python")]
pub(crate) mod limits;
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "system calls are C")]
mod linux;
#[cfg(feature = "python")]
#[allow(unsafe_code, reason = "the runtime of OpenMP is C")]
pub(crate) mod openmp;
#[allow(unsafe_code, reason = "hands a borrowed closure to threads, and keeps what a fork must not lock")]
mod pool;
pub(crate) mod room;
mod work;

use std::num::IntErrorKind;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Error;
pub(crate) use work::Units;

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

/// Sets the number of threads that large calls use; they use at most 256. Masks do not depend on it.
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

/// Thread limit for a call from this thread: the setting, capped by `MOST_THREADS` and by the thread's own limit.
pub(crate) fn threads_of_call() -> Result<usize, Error> {
    let threads = num_threads()?.min(MOST_THREADS);
    #[cfg(feature = "python")]
    let threads = threads.min(limits::current().most);
    Ok(threads)
}

/// Whether calls from here borrow threads that are awake: OpenMP's.
pub(crate) fn lends_team() -> bool {
    #[cfg(feature = "python")]
    return openmp::lent().is_some();
    #[cfg(not(feature = "python"))]
    false
}

/// Calls `work` with the units of `range`, on this thread and on up to `threads - 1` others.
pub(crate) fn share(range: Range<usize>, threads: usize, work: impl Fn(Units<'_>) + Sync) {
    let workers = threads.min(range.len()).min(MOST_THREADS);
    if workers > 1 {
        #[cfg(feature = "python")]
        if let Some(team) = openmp::lent() {
            return team.share(range, workers, &work);
        }
        // Sized by the setting, not by this call, so that calls of different sizes share one pool.
        if let Some(pool) = pool::pool_of(threads.min(MOST_THREADS) - 1) {
            return pool::share(&pool, range, workers - 1, &work);
        }
    }
    let next = AtomicUsize::new(range.start);
    work(Units { next: &next, end: range.end });
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

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
        // The last pool has 38 threads; threads of earlier pools may still be ending.
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
