//! Long calls in batches: threads share the units of each, and Ctrl-C is handled in between.

use std::time::{Duration, Instant};

use super::{Units, share};
use crate::error::Error;

/// Polled between the batches of a long call; `true` stops it with [`Error::Interrupted`].
pub(crate) type Interrupt<'a> = &'a dyn Fn() -> bool;

/// After a batch that took less than `QUICK`, batches grow; after one that took more than `SLOW`, they shrink.
const QUICK: Duration = Duration::from_millis(5);
const SLOW: Duration = Duration::from_millis(20);

/// Calls `work` with `units` units on up to `threads` threads, in batches of at most `at_once`. Polls the interrupt
/// between batches, every few milliseconds.
///
/// Caches and unmapped pages change the time of a unit by a factor of a hundred, so the time of each batch decides the
/// size of the next.
pub(crate) fn run(
    units: usize,
    at_once: usize,
    threads: usize,
    interrupt: Interrupt<'_>,
    work: impl Fn(Units<'_>) + Sync,
) -> Result<(), Error> {
    let mut first = 0;
    let mut batch = for_all(threads, at_once.div_ceil(4), at_once);
    while first + batch < units {
        let start = Instant::now();
        share(first..first + batch, threads, &work);
        let time = start.elapsed();
        if interrupt() {
            return Err(Error::Interrupted);
        }
        first += batch;
        batch = for_all(threads, next_batch(batch, time), at_once);
    }
    share(first..units, threads, &work);
    Ok(())
}

/// About this many units and at most `at_once`, but as many for each thread: others would wait for the batch to end.
fn for_all(threads: usize, units: usize, at_once: usize) -> usize {
    let threads = threads.max(1);
    (units.min(at_once) / threads).max(1) * threads
}

/// Size of the batch that follows one of this size and time.
fn next_batch(batch: usize, time: Duration) -> usize {
    match time {
        time if time < QUICK => 2 * batch,
        time if time > SLOW => batch / 2,
        _ => batch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_gets_as_many_units_of_a_batch() {
        for (threads, units, at_once, expected) in
            [(1, 3, 12, 3), (2, 3, 12, 2), (2, 1, 12, 2), (2, 24, 12, 12), (3, 1, 1, 3), (4, 11, 64, 8), (0, 0, 0, 1)]
        {
            assert_eq!(for_all(threads, units, at_once), expected);
        }
    }

    /// Ctrl-C waits for the end of a batch. A batch of fixed size took 0.3 s where each element had a page of its own.
    #[test]
    fn batches_take_some_milliseconds_whatever_an_element_takes() {
        for nanoseconds in [1, 100, 10_000] {
            let mut batch = 1 << 20;
            let time = |batch: usize| Duration::from_nanos(nanoseconds * batch as u64 / 10);
            for _ in 0..20 {
                batch = next_batch(batch, time(batch));
            }
            assert!((QUICK..=SLOW).contains(&time(batch)), "{batch} elements of {nanoseconds} ns");
        }
    }
}
