//! One call: its arrays, and the rules for their shapes.

use smallvec::SmallVec;

use super::{Array, Dropout, WIDEST};
use crate::error::{Error, Extents};
use crate::mask::Mask;
use crate::operand::Format;

/// An array as the caller has it; strides are in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    /// What the caller calls it.
    pub(crate) name: &'static str,
    pub(crate) first: *mut u8,
    pub(crate) format: Format,
    pub(crate) shape: &'a [usize],
    pub(crate) strides: &'a [isize],
}

/// What the last axes of an array are. Its heads come before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Axes {
    Queries,
    Keys,
    KeyValues,
    Values,
    Rows,
    Weights,
}

/// Lengths of the axes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) batch: usize,
    /// Heads of queries; a multiple of those of keys and values.
    pub(crate) heads: usize,
    pub(crate) key_heads: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    /// Features of a query and a key.
    pub(crate) features: usize,
    /// Features of a value.
    pub(crate) width: usize,
}

/// One call, apart from its results.
pub(crate) struct Call {
    pub(crate) shape: Shape,
    /// Whether the arrays have an axis of batches.
    has_batch: bool,
    pub(super) query: Array,
    pub(super) key: Array,
    pub(super) value: Array,
    /// Added to scores; of booleans, those that are false exclude.
    pub(super) bias: Option<Array>,
    pub(super) scale: f64,
    /// With a causal mask: a query sees the keys up to its own number plus this.
    pub(super) causal: Option<isize>,
    pub(super) dropout: Dropout,
}

impl Call {
    /// A call that drops nothing. Dtypes have been checked: that of queries, keys and values is one of real numbers.
    pub(crate) fn new(
        [query, key, value]: [&Operand<'_>; 3],
        bias: Option<&Operand<'_>>,
        scale: f64,
        causal: Option<isize>,
    ) -> Result<Self, Error> {
        let ndim = query.shape.len();
        if !(3..=4).contains(&ndim) {
            let rule = "have the shape (batch, heads, queries, features), or one without the batch";
            return Err(query.must(rule.to_owned(), &Extents::from(query.shape)));
        }
        let at = |operand: &Operand<'_>, axis: usize| operand.shape[ndim - 3 + axis];
        let fits = |operand: &Operand<'_>, [heads, rows, columns]: [Option<usize>; 3]| {
            let wanted = query.shape[..ndim - 3].iter().map(|len| Some(*len)).chain([heads, rows, columns]);
            let agrees = |(wanted, len): (Option<usize>, &usize)| wanted.is_none_or(|wanted| wanted == *len);
            if operand.shape.len() == ndim && wanted.clone().zip(operand.shape).all(agrees) {
                return Ok(());
            }
            let words = ["batch", "heads", "keys", "features"].into_iter().skip(4 - ndim);
            let wanted =
                wanted.zip(words).map(|(len, word)| len.map_or_else(|| word.to_owned(), |len| len.to_string()));
            let wanted = wanted.collect::<Vec<_>>().join(", ");
            Err(operand.must(format!("have the shape ({wanted})"), &Extents::from(operand.shape)))
        };
        fits(key, [None, None, Some(at(query, 2))])?;
        fits(value, [Some(at(key, 0)), Some(at(key, 1)), None])?;
        let (heads, key_heads) = (at(query, 0), at(key, 0));
        if if key_heads == 0 { heads > 0 } else { heads % key_heads > 0 } {
            let rule = format!("have a number of heads that divides that of {}, {heads}", query.name);
            return Err(key.must(rule, &key_heads));
        }
        for operand in [query, value] {
            if at(operand, 2) > WIDEST {
                return Err(operand.must(format!("have at most {WIDEST} features"), &at(operand, 2)));
            }
        }
        let shape = Shape {
            batch: if ndim == 4 { query.shape[0] } else { 1 },
            heads,
            key_heads,
            queries: at(query, 1),
            keys: at(key, 1),
            features: at(query, 2),
            width: at(value, 2),
        };
        let [query, key, value] = [query, key, value].map(|operand| operand.array(operand.strides));
        let dropout = Dropout::none();
        // No sum with it overflows, and it excludes the same.
        let causal = causal.map(|offset| offset.clamp(-(shape.queries as isize), shape.keys as isize));
        let mut call = Self { shape, has_batch: ndim == 4, query, key, value, bias: None, scale, causal, dropout };
        call.bias = bias.map(|bias| call.broadcast(bias)).transpose()?;
        Ok(call)
    }

    /// Sets the mask of the weights.
    pub(crate) fn drop(&mut self, mask: &Mask) -> Result<(), Error> {
        let weights = self.extents(Axes::Weights);
        if !mask.shape().iter().map(|len| *len as usize).eq(weights.iter().copied()) {
            let (rule, got) = (format!("be of shape {}", Extents::from(&weights[..])), Extents::from(mask.shape()));
            return Err(Error::Operand { what: "mask", rule, got: got.to_string() });
        }
        self.dropout = Dropout::new(mask);
        Ok(())
    }

    /// The lengths of an array of the call.
    pub(crate) fn extents(&self, axes: Axes) -> SmallVec<[usize; 4]> {
        let Shape { batch, heads, key_heads, queries, keys, features, width } = self.shape;
        let last: &[usize] = match axes {
            Axes::Queries => &[heads, queries, features],
            Axes::Keys => &[key_heads, keys, features],
            Axes::KeyValues => &[key_heads, keys, width],
            Axes::Values => &[heads, queries, width],
            Axes::Rows => &[heads, queries],
            Axes::Weights => &[heads, queries, keys],
        };
        self.has_batch.then_some(batch).into_iter().chain(last.iter().copied()).collect()
    }

    /// The number of weights.
    #[cfg(feature = "python")]
    pub(crate) fn size(&self) -> usize {
        self.extents(Axes::Weights).into_iter().fold(1, usize::saturating_mul)
    }

    /// Another array of the call, with these axes.
    pub(crate) fn array(&self, operand: &Operand<'_>, axes: Axes) -> Result<Array, Error> {
        let wanted = self.extents(axes);
        if *operand.shape != wanted[..] {
            let rule = format!("have the shape {}", Extents::from(&wanted[..]));
            return Err(operand.must(rule, &Extents::from(operand.shape)));
        }
        let mut strides: SmallVec<[isize; 4]> = operand.strides.into();
        if axes == Axes::Rows {
            strides.push(operand.format.element.size() as isize); // one column
        }
        Ok(operand.array(&strides))
    }

    /// An array that broadcasts to the weights: its steps are 0 where it does.
    pub(crate) fn broadcast(&self, operand: &Operand<'_>) -> Result<Array, Error> {
        let weights = self.extents(Axes::Weights);
        let fits = operand.shape.len() <= weights.len()
            && operand.shape.iter().rev().zip(weights.iter().rev()).all(|(own, all)| *own == 1 || own == all);
        if !fits {
            let rule = format!("broadcast to shape {}", Extents::from(&weights[..]));
            return Err(operand.must(rule, &Extents::from(operand.shape)));
        }
        let steps = operand.shape.iter().zip(operand.strides).map(|(len, step)| if *len == 1 { 0 } else { *step });
        Ok(operand.array(&steps.collect::<SmallVec<[isize; 4]>>()))
    }

    /// What the products of packed keys with queries are multiplied with: scores are in units of log 2.
    pub(super) fn factor(&self) -> f64 {
        self.scale * std::f64::consts::LOG2_E
    }

    /// The head of keys and values that a head of queries uses.
    pub(super) fn key_head(&self, head: usize) -> usize {
        head / (self.shape.heads / self.shape.key_heads)
    }
}

impl Operand<'_> {
    /// With steps along its last axes, and none along the others.
    fn array(&self, last: &[isize]) -> Array {
        let mut steps = [0; 4];
        let new = steps.len() - last.len();
        steps[new..].copy_from_slice(last);
        Array { first: self.first, format: self.format, steps }
    }

    fn must(&self, rule: String, got: &dyn std::fmt::Display) -> Error {
        Error::Operand { what: self.name, rule, got: got.to_string() }
    }
}
