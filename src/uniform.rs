//! The 64-bit uniforms themselves, for what compares them with each other or with many thresholds.
//!
//! `bernoulli` compares them with one threshold, and draws no more of their digits than that needs. Here all 64
//! bit-planes are drawn.

use crate::bernoulli::GROUP;
use crate::error::Error;
use crate::key::Key;
use crate::mask::Interrupt;
use crate::pool;
use crate::simd::{Kernel, Level, Simd};
use crate::turned::transpose;

/// Elements between two looks at the interrupt.
const BATCH: usize = 1 << 20;
/// Elements that a thread takes at a time: a whole number of groups.
const UNIT: usize = 1 << 13;

/// The uniforms of the first elements of a stream.
///
/// # Errors
/// [`Error::Interrupted`], or an error of the environment's settings.
pub(crate) fn fill(key: Key, uniforms: &mut [u64], interrupt: Interrupt<'_>) -> Result<(), Error> {
    let level = Level::current()?;
    let threads = pool::num_threads()?;
    let mut first = 0;
    for batch in uniforms.chunks_mut(BATCH) {
        pool::share_chunks(batch, UNIT, threads, |unit, chunk| {
            for (group, chunk) in chunk.chunks_mut(GROUP).enumerate() {
                let index = (first + unit * UNIT) / GROUP + group;
                chunk.copy_from_slice(&self::group(level, key, index as u64)[..chunk.len()]);
            }
        });
        first += batch.len();
        if interrupt() {
            return Err(Error::Interrupted);
        }
    }
    Ok(())
}

struct Planes {
    key: Key,
    group: u64,
}

impl Kernel for Planes {
    type Output = [[u64; 2]; 64];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        self.key.schedule().tagged(simd, self.group, 0)
    }
}

/// The uniforms of one group: its planes, turned.
fn group(level: Level, key: Key, group: u64) -> [u64; GROUP] {
    let planes = level.run(Planes { key, group });
    let mut uniforms = [0; GROUP];
    let (low, high) = uniforms.split_at_mut(64);
    // Plane 0 is the most significant digit.
    for ((low, high), plane) in low.iter_mut().zip(high).rev().zip(planes) {
        [*low, *high] = plane;
    }
    for half in uniforms.as_chunks_mut::<64>().0 {
        transpose(level, half);
    }
    uniforms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bernoulli::{Threshold, keep_group};

    #[test]
    fn uniforms_are_not_those_that_masks_compare() {
        let key = Key::from_bytes([7; 16]);
        for index in [0, 5] {
            let uniforms = group(Level::portable(), key, index);
            for threshold in [1 << 63, 1 << 60 | 12345, !0] {
                let keep = keep_group(key, Threshold::Below(threshold), index);
                for (lane, uniform) in uniforms.iter().enumerate() {
                    assert_eq!(keep[lane / 64] >> (lane % 64) & 1 == 1, *uniform >= threshold, "lane {lane}");
                }
            }
        }
    }
}
