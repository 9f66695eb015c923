//! Products of matrices, a tile of sums in registers at a time.
//!
//! Every sum is a chain of fused multiply-adds over the inner index, in order, whatever the size of a tile. So the result is
//! the same at every level.

use super::Number;
use crate::simd::{Floats, Kernel, Simd};

/// Columns that are packed side by side, so that the rows of a tile are adjacent in memory.
pub(super) const PANEL: usize = 64;

/// C = A B, or C += A B. Positions and steps count floats.
pub(super) struct Product<R> {
    /// Element (i, k) is at `i * a_row + k * a_step`.
    pub(super) a: *const R,
    pub(super) a_row: usize,
    pub(super) a_step: usize,
    /// Element (k, j) is at `j / PANEL * b_panel + k * b_row + j % PANEL`.
    pub(super) b: *const R,
    pub(super) b_panel: usize,
    pub(super) b_row: usize,
    /// Element (i, j) is at `i * c_row + j`.
    pub(super) c: *mut R,
    pub(super) c_row: usize,
    pub(super) rows: usize,
    /// Rounded up to whole vectors, also in B and C.
    pub(super) columns: usize,
    pub(super) depth: usize,
    /// Whether to add to C.
    pub(super) adds: bool,
}

impl<R: Number> Product<R> {
    /// # Safety
    /// All elements of A and B must be readable and those of C writeable, up to whole vectors of columns. C must not overlap
    /// the others.
    pub(super) unsafe fn run(self, level: crate::simd::Level) {
        level.run(self);
    }

    #[inline(always)]
    fn panels<S: Floats<R>>(&self, simd: S) {
        for first in (0..self.columns).step_by(PANEL) {
            let end = self.columns.min(first + PANEL);
            let mut column = first;
            while column < end {
                let vectors = (end - column).div_ceil(S::LANES);
                let taken = if !S::MANY_REGISTERS || vectors == 1 {
                    self.strips::<S, 6, 1>(simd, column);
                    1
                } else if vectors < 4 {
                    self.strips::<S, 8, 2>(simd, column);
                    2
                } else {
                    self.strips::<S, 6, 4>(simd, column);
                    4
                };
                column += taken * S::LANES;
            }
        }
    }

    /// All rows of N vectors of columns, M rows at a time.
    #[inline(always)]
    fn strips<S: Floats<R>, const M: usize, const N: usize>(&self, simd: S, column: usize) {
        let mut row = 0;
        while self.rows - row >= M {
            self.tile::<S, M, N>(simd, row, column);
            row += M;
        }
        if M > 4 && self.rows - row >= 4 {
            self.tile::<S, 4, N>(simd, row, column);
            row += 4;
        }
        if self.rows - row >= 2 {
            self.tile::<S, 2, N>(simd, row, column);
            row += 2;
        }
        while self.rows > row {
            self.tile::<S, 1, N>(simd, row, column);
            row += 1;
        }
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "the compiler unrolls these, and not iterators")]
    fn tile<S: Floats<R>, const M: usize, const N: usize>(&self, simd: S, row: usize, column: usize) {
        // SAFETY: the caller of `run` guarantees the elements; rows and columns are below their numbers.
        unsafe {
            let mut a = self.a.add(row * self.a_row);
            let mut b = self.b.add(column / PANEL * self.b_panel + column % PANEL);
            let c = self.c.add(row * self.c_row + column);
            let mut sums = [[simd.splat_float(R::default()); N]; M];
            if self.adds {
                for m in 0..M {
                    for n in 0..N {
                        sums[m][n] = simd.load_floats(c.add(m * self.c_row + n * S::LANES));
                    }
                }
            }
            for _ in 0..self.depth {
                let mut right = [simd.splat_float(R::default()); N];
                for n in 0..N {
                    right[n] = simd.load_floats(b.add(n * S::LANES));
                }
                for m in 0..M {
                    let left = simd.splat_float(*a.add(m * self.a_row));
                    for n in 0..N {
                        sums[m][n] = simd.fused(left, right[n], sums[m][n]);
                    }
                }
                a = a.add(self.a_step);
                b = b.add(self.b_row);
            }
            for m in 0..M {
                for n in 0..N {
                    simd.store_floats(c.add(m * self.c_row + n * S::LANES), sums[m][n]);
                }
            }
        }
    }
}

impl<R: Number> Kernel for Product<R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.panels(R::floats(simd));
    }
}
