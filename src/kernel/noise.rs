//! Multiplicative noise: elements times 1 + std z, with a normal z for each.

use super::real::Real;
use super::{Memory, Run};
use crate::operand::Element;
use crate::simd::{Kernel, Simd, WORD};

/// `1 + std * z`, in the precision of the computation.
#[inline(always)]
fn factor<R: Real>(std: R, normal: f32) -> R {
    R::from_f64(1.0) + std * R::from_f32(normal)
}

/// `factor` as a double, for elements that share one normal.
pub(super) fn shared_factor(std: f64, normal: f32, element: Element) -> f64 {
    if element.is_double() { factor(std, normal) } else { f64::from(factor(std as f32, normal)) }
}

/// Multiplies a run by `1 + std * z`, with a normal z for each element.
///
/// # Safety
/// See [`super::Operation::run`].
pub(super) unsafe fn run(memory: &Memory, std: f64, normals: &[f32], run: &Run<'_>) {
    assert!(normals.len() == run.len);
    // SAFETY: the obligations are the same.
    unsafe {
        if run.operands.is_double() {
            run_in::<f64>(memory, std, normals, run);
        } else {
            run_in::<f32>(memory, std, normals, run);
        }
    }
}

/// # Safety
/// See [`run`]; R must be the float that the elements are computed in.
unsafe fn run_in<R: Real>(memory: &Memory, std: f64, normals: &[f32], run: &Run<'_>) {
    let parts = run.operands.element().parts();
    let size = size_of::<R>();
    if run.operands.element().size() == size && run.is_contiguous(size, 1) {
        let (src, dst) = (run.address(1).cast::<R>().cast_const(), run.address(0).cast::<R>());
        return memory.level.run(Multiply { std, normals, src, dst });
    }
    let mut x = [R::default(); 2 * WORD];
    let mut twice = [0.0; 2 * WORD];
    for (at, normals) in (0..).step_by(WORD).zip(normals.chunks(WORD)) {
        let place = |which: usize| run.address(which).wrapping_offset(at as isize * run.steps[which]);
        let x = &mut x[..normals.len() * parts];
        let mut normals = normals;
        if parts == 2 {
            // Both parts of a complex number share one normal.
            for (pair, normal) in twice.as_chunks_mut::<2>().0.iter_mut().zip(normals) {
                *pair = [*normal; 2];
            }
            normals = &twice[..x.len()];
        }
        // SAFETY: the normals from `at` on belong to the run, and the caller guarantees its
        // elements.
        unsafe {
            run.layout(1).load(place(1), parts, x);
            let dst = x.as_mut_ptr();
            memory.level.run(Multiply { std, normals, src: dst.cast_const(), dst });
            run.layout(0).store(x, place(0));
        }
    }
}

/// Contiguous elements and their normals. Only [`run_in`] makes one, from a run's elements or its
/// own buffer.
struct Multiply<'a, R> {
    std: f64,
    normals: &'a [f32],
    src: *const R,
    dst: *mut R,
}

impl<R: Real> Kernel for Multiply<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { std, normals, src, dst } = self;
        let std = R::from_f64(std);
        let (words, rest) = normals.as_chunks::<WORD>();
        for (word, normals) in words.iter().enumerate() {
            // SAFETY: `run_in`, which made this, guarantees as many elements as there are normals.
            unsafe {
                let mut x = src.cast::<[R; WORD]>().add(word).read_unaligned();
                for (x, normal) in x.iter_mut().zip(normals) {
                    *x = *x * factor(std, *normal);
                }
                dst.cast::<[R; WORD]>().add(word).write_unaligned(x);
            }
        }
        for (i, normal) in (words.len() * WORD..).zip(rest) {
            // SAFETY: as above.
            unsafe {
                let x = src.add(i).read_unaligned();
                dst.add(i).write_unaligned(x * factor(std, *normal));
            }
        }
    }
}
