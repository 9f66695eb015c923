//! Random numbers and bits in torch's tensors, for the kernels of torch's operators in Python and in machine code.
//!
//! Sentences of errors are torch's.

use std::sync::atomic::AtomicBool;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use super::arguments::{DETACH, detached, without_handlers};
use super::arrays::{Lengths, Steps, axes};
use super::key::PyKey;
use super::tensors;
use super::view::{Held, View};
use crate::driver;
use crate::error::Error;
use crate::kernel::Operation;
use crate::mask::{Dims, Mask};
use crate::operand::{Element, Format, Operands};
use crate::stream::key::Key;
use crate::stream::number::Distribution;
use crate::threads::batches::Interrupt;
use crate::threads::limits;
use crate::walk::source::Source;

/// What a call draws.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    Uniform { from: f64, to: f64 },
    Normal { mean: f64, std: f64 },
    Exponential { rate: f64 },
    Bernoulli { p: f64 },
}

impl Wanted {
    /// By the name of torch's operator, and its numbers.
    fn named(name: &str, [first, second]: [f64; 2]) -> PyResult<Self> {
        Ok(match name {
            "uniform_" => Self::Uniform { from: first, to: second },
            "normal_" => Self::Normal { mean: first, std: second },
            "exponential_" => Self::Exponential { rate: first },
            "bernoulli_" => Self::Bernoulli { p: first },
            _ => return Err(PyValueError::new_err(format!("there is no distribution {name}"))),
        })
    }

    /// Checks the numbers, for results of this element type.
    pub(super) fn check(self, element: Element) -> Result<(), String> {
        match self {
            Self::Uniform { from, to } => {
                let (name, short, most) = match element {
                    Element::F16 => ("c10::Half", "Half", half::f16::MAX.to_f64()),
                    Element::Bf16 => ("c10::BFloat16", "BFloat16", half::bf16::MAX.to_f64()),
                    Element::F64 => ("double", "Double", f64::MAX),
                    _ => ("float", "Float", f32::MAX.into()),
                };
                for (what, x) in [("from", from), ("to", to)] {
                    if !(-most..=most).contains(&x) {
                        return Err(format!("{what} is out of bounds for {name}"));
                    }
                }
                if from > to {
                    let [from, to] = [from, to].map(shown);
                    return Err(format!(
                        "uniform_ expects to return a [from, to) range, but found from={from} > to={to}"
                    ));
                }
                if to - from > most {
                    let [first, last] = [from, to].map(shown);
                    return Err(format!(
                        "uniform_ expects to-from <= std::numeric_limits<{short}>::max(), but found to={last} and \
                         from={first} which result in to-from to exceed the limit"
                    ));
                }
            }
            Self::Normal { std, .. } if std.is_nan() || std < 0.0 => {
                return Err(format!("normal expects std >= 0.0, but found std {}", shown(std)));
            }
            Self::Exponential { rate } if rate.is_nan() || rate <= 0.0 => {
                return Err(format!("exponential_ expects lambda > 0.0, but found lambda={}", shown(rate)));
            }
            Self::Bernoulli { p } if !(0.0..=1.0).contains(&p) => {
                return Err(format!("bernoulli_ expects p to be in [0, 1], but got p={}", shown(p)));
            }
            _ => {}
        }
        Ok(())
    }
}

/// A number with six digits, as C's `%g` prints it.
fn shown(x: f64) -> String {
    if !x.is_finite() {
        return x.to_string().to_lowercase();
    }
    let scientific = format!("{x:.5e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trimmed = |text: &str| text.trim_end_matches('0').trim_end_matches('.').to_owned();
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trimmed(digits), exponent.unsigned_abs());
    }
    let fixed = format!("{x:.*}", (5 - exponent) as usize);
    if fixed.contains('.') { trimmed(&fixed) } else { fixed }
}

/// torch's sentence for a probability in a tensor.
pub(super) const NO_PROBABILITY: &str = "Expected p_in >= 0 && p_in <= 1 to be true, but got false.  (Could this \
     error message be improved?  If so, please report an enhancement request to PyTorch.)";

/// torch's sentence for a tensor whose elements share memory.
const SHARED: &str = "unsupported operation: more than one element of the written-to tensor refers to a single memory \
     location. Please clone() the tensor before performing the operation.";

/// The elements of a tensor.
pub(super) struct Place {
    pub(super) first: *mut u8,
    pub(super) element: Element,
    pub(super) shape: Lengths,
    /// In bytes.
    pub(super) strides: Steps,
}

// SAFETY: a call has the tensors to itself, and any thread may work on them.
unsafe impl Send for Place {}
// SAFETY: as above; the threads of a call write disjoint elements.
unsafe impl Sync for Place {}

impl Place {
    fn of(view: View<'_>) -> Self {
        Self { first: view.first, element: view.format.element, shape: view.shape, strides: view.strides }
    }

    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Checks that its elements may be written.
    pub(super) fn check_written(&self) -> Result<(), String> {
        let shares = self.shape.iter().zip(&self.strides).any(|(len, stride)| *len > 1 && *stride == 0);
        if shares { Err(SHARED.to_owned()) } else { Ok(()) }
    }

    /// Whether elements of another may be among its own, other than each at its own position.
    pub(super) fn may_overlap(&self, other: &Self) -> bool {
        let is_same = self.first == other.first && self.element == other.element && self.strides == other.strides;
        let [own, others] = [self, other].map(|place| {
            let reach = |len: &usize, stride: &isize| (len - 1) * stride.unsigned_abs();
            let last: usize = place.shape.iter().zip(&place.strides).map(|(len, stride)| reach(len, stride)).sum();
            place.first.addr()..place.first.addr() + last + place.element.size()
        });
        !is_same && own.start < others.end && others.start < own.end
    }

    /// Steps of the elements' indices: those of an array in C order.
    fn indices(&self) -> Steps {
        let (mut step, mut steps) = (1, Steps::from_elem(0, self.shape.len()));
        for (index, len) in steps.iter_mut().zip(&self.shape).rev() {
            *index = step;
            step *= *len as isize;
        }
        steps
    }

    /// # Safety
    /// The elements of both must be there, and nobody else may touch them. The input has the same shape, and overlaps no
    /// element but the one at the same position.
    unsafe fn run(
        &self,
        input: Option<&Self>,
        source: &Source,
        operation: Operation<'_>,
        interrupt: Interrupt<'_>,
    ) -> Result<(), Error> {
        let x = input.unwrap_or(self);
        let mut operands = Operands::new(self.element, self.first, &[x.first.cast_const()]);
        let [own, given] = [self, x].map(|place| Format { element: place.element, swapped: false });
        operands.set_formats([own, given, own, own]);
        let mut axes = axes(&self.shape, [&self.strides, &x.strides, &[], &[]], &self.indices());
        // SAFETY: the caller guarantees the elements, and the axes are the shapes and strides.
        unsafe { driver::run(source, operation, operands, &mut axes, interrupt) }
    }

    /// Draws into each element. What passed `check` is right for it; `one` has the bits of a one, for bits.
    ///
    /// # Safety
    /// The elements must be there, pass `check_written`, and nobody else may touch them.
    pub(super) unsafe fn draw(
        &self,
        wanted: Wanted,
        one: u64,
        key: Key,
        interrupt: Interrupt<'_>,
    ) -> Result<(), Error> {
        let distribution = match wanted {
            Wanted::Uniform { from, to } => Distribution::uniform(self.element, from, to),
            Wanted::Normal { mean, std } => Distribution::Normal { mean, std },
            Wanted::Exponential { rate } => Distribution::exponential(self.element, rate),
            Wanted::Bernoulli { p } => {
                let shape: Dims = self.shape.iter().map(|len| *len as u64).collect();
                let source = Source::keep_bits(&Mask::new(&shape, p, key)?);
                // SAFETY: the obligations are the same.
                return unsafe { self.run(None, &source, Operation::Flags { one }, interrupt) };
            }
        };
        let source = Source::numbers(key, 0, distribution, self.element == Element::F64);
        // SAFETY: the obligations are the same.
        unsafe { self.run(None, &source, Operation::Store, interrupt) }
    }

    /// Draws bits with the probabilities of `p`.
    ///
    /// # Safety
    /// As for `draw`. `p` must pass `are_probabilities`, have the same shape, and not overlap.
    pub(super) unsafe fn draw_below(
        &self,
        p: &Self,
        one: u64,
        key: Key,
        interrupt: Interrupt<'_>,
    ) -> Result<(), Error> {
        let source = Source::uniforms(key, 0);
        // SAFETY: the obligations are the same.
        unsafe { self.run(Some(p), &source, Operation::Below { one }, interrupt) }
    }

    /// Whether all elements are in [0, 1].
    ///
    /// # Safety
    /// They must be there, and nobody else may write them.
    pub(super) unsafe fn are_probabilities(&self, interrupt: Interrupt<'_>) -> Result<bool, Error> {
        let valid = AtomicBool::new(true);
        // SAFETY: the operation only reads, and needs no more.
        unsafe { self.run(None, &Source::Constant(true), Operation::Check(&valid), interrupt)? };
        Ok(valid.into_inner())
    }

    /// The bits of a one, as one of its elements.
    pub(super) fn one(&self) -> u64 {
        match self.element {
            Element::F16 => half::f16::ONE.to_bits().into(),
            Element::Bf16 => half::bf16::ONE.to_bits().into(),
            Element::F32 => 1f32.to_bits().into(),
            Element::F64 => 1f64.to_bits(),
            _ => 1,
        }
    }
}

/// Checks the numbers of an operator of torch's for elements like those of `out`.
#[pyfunction]
pub(super) fn check_numbers(name: &str, first: f64, second: f64, out: &Bound<'_, PyAny>) -> PyResult<()> {
    let place = Place::of(tensors::view(out, "self")?.0);
    let checked = Wanted::named(name, [first, second])?.check(place.element).and_then(|()| place.check_written());
    checked.map_err(PyRuntimeError::new_err)
}

/// Draws numbers, or bits for a `name` of "bernoulli_", into a tensor that passed `check_numbers`, on at most `threads`
/// threads. `integer` means that a one of the tensor's dtype has the bits 1.
///
/// From `DETACH` elements on, the caller must keep the tensor's memory alive, whatever other threads assign to it.
#[pyfunction]
pub(super) fn draw_numbers(
    name: &str,
    first: f64,
    second: f64,
    out: &Bound<'_, PyAny>,
    integer: bool,
    key: PyRef<'_, PyKey>,
    threads: usize,
) -> PyResult<()> {
    let wanted = Wanted::named(name, [first, second])?;
    let place = Place::of(tensors::view(out, "self")?.0);
    wanted.check(place.element).and_then(|()| place.check_written()).map_err(PyRuntimeError::new_err)?;
    let (one, key) = (if integer { 1 } else { place.one() }, key.0);
    with_threads(out.py(), &place, threads, |interrupt| {
        // SAFETY: the caller keeps the tensor, and torch's users must not write to it during a call.
        unsafe { place.draw(wanted, one, key, interrupt) }
    })
}

/// Whether all elements of a tensor are probabilities.
#[pyfunction]
pub(super) fn are_probabilities(p: &Bound<'_, PyAny>, threads: usize) -> PyResult<bool> {
    let place = Place::of(tensors::number(tensors::view(p, "p")?, "p")?);
    with_threads(p.py(), &place, threads, |interrupt| {
        // SAFETY: as in `draw_numbers`.
        unsafe { place.are_probabilities(interrupt) }
    })
}

/// `draw_numbers` for bits with the probabilities of a tensor of the same shape, which passed `are_probabilities` and
/// shares no memory with `out`, except that they may be the same.
#[pyfunction]
pub(super) fn draw_below(
    p: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    integer: bool,
    key: PyRef<'_, PyKey>,
    threads: usize,
) -> PyResult<()> {
    let p = Place::of(tensors::number(tensors::view(p, "p")?, "p")?);
    let place = Place::of(tensors::view(out, "self")?.0);
    place.check_written().map_err(PyRuntimeError::new_err)?;
    if p.shape != place.shape || place.may_overlap(&p) {
        return Err(PyValueError::new_err("p must have the shape of self, and its own memory"));
    }
    let (one, key) = (if integer { 1 } else { place.one() }, key.0);
    with_threads(out.py(), &place, threads, |interrupt| {
        // SAFETY: as in `draw_numbers`.
        unsafe { place.draw_below(&p, one, key, interrupt) }
    })
}

fn with_threads<T: Send>(
    py: Python<'_>,
    place: &Place,
    threads: usize,
    work: impl FnOnce(Interrupt<'_>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let run = || detached(py, place.len() >= DETACH, &Held::default(), work);
    limits::with_team(threads, || without_handlers(run))
}
