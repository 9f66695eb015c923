//! The 64-bit uniforms themselves, for comparison with each other or with many thresholds.
//!
//! `bernoulli` compares them with one threshold, and draws only the digits that it needs. This module draws all 64
//! bit-planes.

use super::ars::Schedule;
use super::bernoulli::GROUP;
use crate::simd::{Kernel, Level, Simd};
use crate::words::transpose;

/// Draws the uniforms of group `group`.
pub(crate) fn group(level: Level, schedule: &Schedule, group: u64, uniforms: &mut [u64; GROUP]) {
    level.run(Draw { schedule, group, uniforms });
}

struct Draw<'a> {
    schedule: &'a Schedule,
    group: u64,
    uniforms: &'a mut [u64; GROUP],
}

impl Kernel for Draw<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let planes: [[u64; 2]; 64] = self.schedule.tagged(simd, self.group, 0);
        let halves = self.uniforms.as_chunks_mut::<64>().0;
        for (which, half) in halves.iter_mut().enumerate() {
            // Plane 0 is the most significant digit.
            for (row, plane) in half.iter_mut().rev().zip(planes) {
                *row = plane[which];
            }
            transpose(half);
        }
    }
}
