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
    let most = at_once.max(1);
    let (mut first, mut batch) = (0, most.div_ceil(4));
    while first + batch < units {
        let start = Instant::now();
        share(first..first + batch, threads, &work);
        let time = start.elapsed();
        if interrupt() {
            return Err(Error::Interrupted);
        }
        first += batch;
        batch = next_batch(batch, time).clamp(1, most);
    }
    share(first..units, threads, &work);
    Ok(())
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
