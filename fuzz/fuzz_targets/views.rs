//! Calls on views of any layout, with settings of any kind. Each writes the right numbers or returns an error, and
//! writes nothing around the view.
//!
//! Keep bits are compared with `keep_group`. Formulas and noise are compared with the results for contiguous slices,
//! which the tests check.

#![no_main]

use std::fmt::Debug;

use fastdrop::{Error, Float, Formula, Key, Level, Mask, Numbers, apply_bools, keep_group, set_num_threads};
use half::{bf16, f16};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::{Corpus, fuzz_target};
use ndarray::{ArrayD, ArrayViewD, ArrayViewMutD, Axis, IxDyn, Slice};
use num_complex::Complex;

/// More elements than this take too long for a fuzzer.
const MOST: usize = 1 << 13;

#[derive(Arbitrary, Debug)]
struct Case {
    key: [u8; 16],
    p: Rate,
    axes: Vec<Extent>,
    /// Layouts of the output and of the inputs.
    layouts: [Vec<Layout>; 4],
    level: u8,
    threads: u8,
    element: u8,
    call: Call,
    values: u64,
}

#[derive(Arbitrary, Debug)]
enum Rate {
    Any(f64),
    Digits(u64),
    Power(u8),
}

/// An axis of the mask: its length, where it begins in the whole, and how much of the whole comes after.
#[derive(Arbitrary, Debug)]
struct Extent {
    len: u16,
    start: u64,
    after: u16,
}

/// How an axis lies in memory.
#[derive(Arbitrary, Debug, Clone, Copy)]
struct Layout {
    /// Order among the axes in memory.
    order: u8,
    /// Step, read as -4 to 3. In inputs, 0 repeats one element.
    step: u8,
}

#[derive(Arbitrary, Debug)]
enum Call {
    Select(Option<f64>),
    InPlace(Option<f64>),
    Given(f64),
    Fused { formula: u8, scale: f64, shift: f64, fill: f64, inputs: u8 },
    Gaussian(f64),
    Bits,
    Wrong(Vec<u16>),
}

trait Number: Float + Debug + Default {
    fn from_seed(seed: u64) -> Self;
    /// The value times `scale`, rounded as the crate defines it.
    fn times(self, scale: f64) -> Self;
    /// Its bits, which are the same for every NaN.
    fn bits(self) -> u128;
}

macro_rules! real {
    ($($type:ty, $bits:ty, $wide:ty, $from:expr, $to:expr;)+) => {$(
        impl Number for $type {
            fn from_seed(seed: u64) -> Self {
                Self::from_bits(seed as $bits)
            }
            fn times(self, scale: f64) -> Self {
                let (from, to): (fn($wide) -> Self, fn(Self) -> $wide) = ($from, $to);
                from(to(self) * scale as $wide)
            }
            fn bits(self) -> u128 {
                if self.is_nan() { u128::MAX } else { u128::from(self.to_bits()) }
            }
        }
    )+};
}
real! {
    f32, u32, f32, |x| x, |x| x;
    f64, u64, f64, |x| x, |x| x;
    f16, u16, f32, f16::from_f32, f16::to_f32;
    bf16, u16, f32, bf16::from_f32, bf16::to_f32;
}

macro_rules! complex {
    ($($part:ty),+) => {$(
        impl Number for Complex<$part> {
            fn from_seed(seed: u64) -> Self {
                Self::new(<$part>::from_seed(seed), <$part>::from_seed(seed.rotate_left(32)))
            }
            fn times(self, scale: f64) -> Self {
                Self::new(self.re.times(scale), self.im.times(scale))
            }
            fn bits(self) -> u128 {
                let [re, im] = [self.re, self.im].map(|part| part.bits() & u128::from(u64::MAX));
                re << 64 | im
            }
        }
    )+};
}
complex!(f32, f64);

/// Numbers with arbitrary bits, made from a seed.
struct Values(u64);

impl Values {
    fn next<T: Number>(&mut self) -> T {
        self.0 = self.0.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        T::from_seed(self.0 ^ self.0 >> 29)
    }
}

/// An array with a view of the requested shape and layouts, and with other elements around and between.
struct Memory<T> {
    whole: ArrayD<T>,
    /// Per axis of the view: the axis of the whole, and its step.
    axes: Vec<(usize, isize)>,
}

impl<T: Number> Memory<T> {
    fn new(shape: &[usize], layouts: &[Layout], repeats: bool, values: &mut Values) -> Self {
        let layout = |axis: usize| layouts.get(axis).copied().unwrap_or(Layout { order: axis as u8, step: 5 });
        let mut order: Vec<usize> = (0..shape.len()).collect();
        order.sort_by_key(|axis| layout(*axis).order);
        let mut extents = vec![0; shape.len()];
        let mut axes = vec![(0, 0); shape.len()];
        for (at, axis) in order.into_iter().enumerate() {
            let step = match isize::from(layout(axis).step % 8) - 4 {
                0 if !repeats || shape[axis] == 0 => 1,
                step => step,
            };
            extents[at] = if step == 0 { 1 } else { shape[axis] * step.unsigned_abs() + 1 };
            axes[axis] = (at, step);
        }
        let whole = ArrayD::from_shape_simple_fn(IxDyn(&extents), || values.next());
        Self { whole, axes }
    }

    /// The view; axes that repeat one element have length 1.
    fn view(&self, shape: &[usize]) -> ArrayViewD<'_, T> {
        let mut view = self.whole.view();
        for (&(at, step), len) in self.axes.iter().zip(shape).filter(|((_, step), _)| *step != 0) {
            view.slice_axis_inplace(Axis(at), slice(*len, step));
        }
        view.permuted_axes(self.order())
    }

    fn view_mut(&mut self, shape: &[usize]) -> ArrayViewMutD<'_, T> {
        let order = self.order();
        let mut view = self.whole.view_mut();
        for (&(at, step), len) in self.axes.iter().zip(shape) {
            view.slice_axis_inplace(Axis(at), slice(*len, step));
        }
        view.permuted_axes(order)
    }

    fn order(&self) -> Vec<usize> {
        self.axes.iter().map(|(at, _)| *at).collect()
    }

    /// Checks that the view has these elements, and that all others are those of `before`.
    fn check(mut self, shape: &[usize], expected: &[T], mut before: ArrayD<T>) {
        let differs = self.view(shape).iter().zip(expected).position(|(y, expected)| y.bits() != expected.bits());
        assert_eq!(differs, None, "an element differs");
        std::mem::swap(&mut self.whole, &mut before);
        self.view_mut(shape).iter_mut().zip(expected).for_each(|(y, expected)| *y = *expected);
        assert!(self.whole.iter().map(|y| y.bits()).eq(before.iter().map(|y| y.bits())), "written around out");
    }
}

fn slice(len: usize, step: isize) -> Slice {
    Slice::new(0, Some((len * step.unsigned_abs()) as isize), step)
}

/// The mask of a case, or the error for its arguments.
fn mask(case: &Case) -> Result<Mask, Error> {
    let p = match case.p {
        Rate::Any(p) => p,
        Rate::Digits(digits) => digits as f64 / u64::MAX as f64,
        Rate::Power(power) => (-f64::from(power)).exp2(),
    };
    // Several threads work only on the longest arrays.
    let mut room = if case.threads == u8::MAX { 1 << 18 } else { MOST };
    let (mut whole, mut start, mut shape) = (vec![], vec![], vec![]);
    for axis in case.axes.iter().take(6) {
        let len = (usize::from(axis.len) * if case.threads == u8::MAX { 64 } else { 1 }) % (room + 1);
        room /= len.max(1);
        shape.push(len as u64);
        start.push(axis.start >> (64 - 60 / case.axes.len().min(6)));
        whole.push(len as u64 + start[start.len() - 1] + u64::from(axis.after));
    }
    Mask::new(&whole, p, Key::from_bytes(case.key))?.region(&start, &shape)
}

/// The keep bits of a mask, element by element.
fn kept(mask: &Mask) -> Vec<bool> {
    let mut last = (u64::MAX, [0; 2]);
    let mut at = vec![0; mask.shape().len()];
    (0..mask.size())
        .map(|_| {
            let places = at.iter().zip(mask.start()).zip(mask.whole());
            let index = places.fold(0u64, |index, ((at, start), whole)| index * whole + start + at);
            for (at, len) in at.iter_mut().zip(mask.shape()).rev() {
                *at += 1;
                if *at < *len {
                    break;
                }
                *at = 0;
            }
            let group = index / 128;
            if last.0 != group {
                last = (group, keep_group(mask.key(), mask.probability().threshold(), group));
            }
            last.1[(index / 64 % 2) as usize] >> (index % 64) & 1 == 1
        })
        .collect()
}

fn choose(level: Level, threads: usize) {
    level.set_current();
    set_num_threads(threads).expect("a number of threads");
}

fn run<T: Number>(case: &Case, mask: &Mask) {
    let shape: Vec<usize> = mask.shape().iter().map(|len| *len as usize).collect();
    let mut values = Values(case.values);
    let mut out = Memory::<T>::new(&shape, &case.layouts[0], false, &mut values);
    let before = out.whole.clone();
    let memories: Vec<_> =
        case.layouts[1..].iter().map(|layout| Memory::<T>::new(&shape, layout, true, &mut values)).collect();
    let bases: Vec<_> = memories.iter().map(|memory| memory.view(&shape)).collect();
    let inputs: Vec<_> = bases.iter().map(|base| base.broadcast(shape.clone()).expect("length 1 or equal")).collect();
    let flat: Vec<Vec<T>> = inputs.iter().map(|input| input.iter().copied().collect()).collect();
    let x = &flat[0];
    let len = x.len();
    let levels: Vec<Level> = Level::available().collect();
    let (level, threads) = (levels[usize::from(case.level) % levels.len()], 1 + usize::from(case.threads) % 3);
    choose(level, threads);
    let selected = |keep: &[bool], x: &[T], scale: f64| -> Vec<T> {
        keep.iter().zip(x).map(|(keep, x)| if *keep { x.times(scale) } else { T::default() }).collect()
    };
    // The result for contiguous slices, computed with scalar code and one thread.
    let plainly = |call: &dyn Fn(&mut [T]) -> Result<(), Error>| {
        choose(Level::portable(), 1);
        let mut y = vec![T::default(); len];
        let done = call(&mut y).map(|()| y);
        choose(level, threads);
        done
    };
    let old: Vec<T> = out.view(&shape).iter().copied().collect();
    let (done, expected) = match &case.call {
        Call::Select(scale) => {
            let done = mask.apply_view(inputs[0].clone(), out.view_mut(&shape), *scale);
            let scale = scale.unwrap_or(mask.probability().inverted_scale());
            (done, scale.is_finite().then(|| selected(&kept(mask), x, scale)))
        }
        Call::InPlace(scale) => {
            let done = mask.apply_view_in_place(out.view_mut(&shape), *scale);
            let scale = scale.unwrap_or(mask.probability().inverted_scale());
            (done, scale.is_finite().then(|| selected(&kept(mask), &old, scale)))
        }
        Call::Given(scale) => {
            let keep: Vec<bool> = (0..len).map(|i| case.values >> (i % 61) & 1 == 1).collect();
            let mut y = vec![T::default(); len];
            let done = apply_bools(&keep, x, &mut y, *scale);
            let expected = scale.is_finite().then(|| selected(&keep, x, *scale));
            assert_eq!(done.is_ok(), expected.is_some());
            assert!(expected.is_none_or(|expected| y.iter().map(|y| y.bits()).eq(expected.iter().map(|y| y.bits()))));
            return;
        }
        Call::Fused { formula, scale, shift, fill, inputs: count } => {
            let formula = Formula::ALL[usize::from(*formula) % Formula::ALL.len()];
            let count = if *count < 4 { usize::from(*count) } else { formula.inputs() };
            let numbers = Numbers { scale: *scale, shift: *shift, fill: *fill };
            let slices: Vec<&[T]> = flat.iter().take(count).map(|input| &input[..]).collect();
            let expected = plainly(&|y| mask.fused(formula, numbers, &slices, y)).ok();
            (mask.fused_view(formula, numbers, &inputs[..count], out.view_mut(&shape)), expected)
        }
        Call::Gaussian(std) => {
            let expected = plainly(&|y| mask.gaussian(*std, x, y)).ok();
            (mask.gaussian_view(*std, inputs[0].clone(), out.view_mut(&shape)), expected)
        }
        Call::Bits => {
            let (mut bools, mut bytes) = (vec![false; len], vec![0; len.div_ceil(8)]);
            mask.to_bools(&mut bools).expect("the right length");
            mask.packbits(&mut bytes).expect("the right length");
            let keep = kept(mask);
            assert_eq!(bools, keep);
            assert_eq!(mask.count().ok(), Some(keep.iter().filter(|keep| **keep).count() as u64));
            assert!(keep.iter().enumerate().all(|(i, keep)| (bytes[i / 8] >> (i % 8) & 1 == 1) == *keep));
            return;
        }
        Call::Wrong(shape) => {
            let shape: Vec<usize> = shape.iter().take(6).map(|len| usize::from(*len % 4)).collect();
            let mut y = ArrayD::<T>::default(shape.clone());
            let right = y.shape().iter().map(|len| *len as u64).eq(mask.shape().iter().copied());
            let x = ArrayD::<T>::default(shape);
            assert_eq!(mask.apply_view(x.view(), y.view_mut(), None).is_ok(), right);
            return;
        }
    };
    assert_eq!(done.is_ok(), expected.is_some(), "{done:?}");
    out.check(&shape, &expected.unwrap_or(old), before);
}

fuzz_target!(|case: Case| -> Corpus {
    let Ok(mask) = mask(&case) else {
        return Corpus::Reject;
    };
    match case.element % 6 {
        0 => run::<f32>(&case, &mask),
        1 => run::<f64>(&case, &mask),
        2 => run::<f16>(&case, &mask),
        3 => run::<bf16>(&case, &mask),
        4 => run::<Complex<f32>>(&case, &mask),
        _ => run::<Complex<f64>>(&case, &mask),
    }
    Corpus::Keep
});
