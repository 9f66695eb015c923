//! Tiles of the backward pass: weights and gradients of scores are made again from what the forward pass kept.

use std::ops::Range;

use super::arrays::{Array, Results};
use super::products::{PANEL, Product};
use super::softmax::{Gradient, folded};
use super::tiles::{Bits, Edge};
use super::{Call, Number, PART, PARTS, QUERIES, Scratch, Split, WIDEST, padded, run};
use crate::error::Error;
use crate::simd::Level;
use crate::threads::batches::Interrupt;

/// What comes from the forward pass, and the gradient with respect to its result.
pub(crate) struct Upstream {
    pub(crate) y: Array,
    /// The logarithm of each row's sum of exponentials.
    pub(crate) sums: Array,
    pub(crate) dy: Array,
}

/// One head at a time: what is packed of it, and the current tile.
pub(super) struct Head<'a, R> {
    pub(super) call: &'a Call,
    pub(super) level: Level,
    from: &'a Upstream,
    /// The head whose queries are packed.
    packed: Option<[usize; 2]>,
    pub(super) queries: *mut R,
    pub(super) upstream: *mut R,
    /// By row: the logarithm to base 2 of the sum of weights, and the sum of dy y.
    sums: *mut R,
    deltas: *mut R,
    /// Transposed, in panels.
    keys: *mut R,
    values: *mut R,
    /// Kept weights, and gradients of scores: rows of [`PART`] floats.
    pub(super) weights: *mut R,
    pub(super) gradients: *mut R,
    biases: *mut R,
    bits: &'a mut Bits,
}

impl<'a, R: Number> Head<'a, R> {
    /// Floats of scratch memory.
    pub(super) fn floats(call: &Call) -> usize {
        let rows = call.shape.queries;
        let [features, width] = [call.shape.features, call.shape.width].map(padded);
        let tiles = if call.bias.is_some() { 3 } else { 2 };
        rows * (features + width) + 2 * padded(rows) + PART * (features + width) + tiles * QUERIES * PART
    }

    pub(super) fn new(call: &'a Call, level: Level, from: &'a Upstream, scratch: &'a mut Scratch<R>) -> Self {
        let rows = call.shape.queries;
        let [features, width] = [call.shape.features, call.shape.width].map(padded);
        Self {
            call,
            level,
            from,
            packed: None,
            queries: scratch.take(rows * features),
            upstream: scratch.take(rows * width),
            sums: scratch.take(padded(rows)),
            deltas: scratch.take(padded(rows)),
            keys: scratch.take(PART * features),
            values: scratch.take(PART * width),
            weights: scratch.take(QUERIES * PART),
            gradients: scratch.take(QUERIES * PART),
            biases: if call.bias.is_some() { scratch.take(QUERIES * PART) } else { std::ptr::null_mut() },
            bits: &mut scratch.bits,
        }
    }

    /// # Safety
    /// The arrays must be readable.
    pub(super) unsafe fn pack_keys(&mut self, [batch, key_head]: [usize; 2], keys: &Range<usize>) {
        let (call, level, shape) = (self.call, self.level, &self.call.shape);
        // SAFETY: the caller guarantees the arrays, and `new` took room for a part.
        unsafe {
            let key = call.key.matrix(batch, key_head);
            key.transpose(level, keys.clone(), shape.features, call.factor(), self.keys, self.weights);
            call.value.matrix(batch, key_head).transpose(
                level,
                keys.clone(),
                shape.width,
                1.0,
                self.values,
                self.weights,
            );
        }
    }

    /// Packs the queries of a head and what belongs to them, unless that was done last.
    ///
    /// # Safety
    /// The arrays must be readable.
    pub(super) unsafe fn pack_queries(&mut self, place: [usize; 2]) {
        if self.packed == Some(place) {
            return;
        }
        let [batch, head] = place;
        let shape = &self.call.shape;
        let [features, width] = [shape.features, shape.width].map(padded);
        let [y, sums, dy] = [self.from.y, self.from.sums, self.from.dy].map(|array| array.matrix(batch, head));
        let level = self.level;
        // SAFETY: the caller guarantees the arrays, and `new` took room for all queries.
        unsafe {
            let query = self.call.query.matrix(batch, head);
            query.pack(level, 0..shape.queries, shape.features, 1.0, (self.queries, features));
            dy.pack(level, 0..shape.queries, shape.width, 1.0, (self.upstream, width));
            sums.transposed().pack(level, 0..1, shape.queries, 1.0, (self.sums, 0));
            for sum in std::slice::from_raw_parts_mut(self.sums, shape.queries) {
                let binary = sum.to_f64() * std::f64::consts::LOG2_E;
                // Where all scores are -inf, weights are 0.
                *sum = R::from_f64(if binary == f64::NEG_INFINITY { 0.0 } else { binary });
            }
            // Some rows of y at a time, where tiles will be.
            const ROWS: usize = QUERIES * PART / WIDEST;
            for first in (0..shape.queries).step_by(ROWS) {
                let rows = first..shape.queries.min(first + ROWS);
                y.pack(level, rows.clone(), shape.width, 1.0, (self.weights, width));
                for (at, row) in rows.enumerate() {
                    let y = std::slice::from_raw_parts(self.weights.add(at * width), width);
                    let dy = std::slice::from_raw_parts(self.upstream.add(row * width), width);
                    let mut parts = [R::default(); PARTS];
                    for (dy, y) in dy.as_chunks::<PARTS>().0.iter().zip(y.as_chunks::<PARTS>().0) {
                        for (part, (dy, y)) in parts.iter_mut().zip(dy.iter().zip(y)) {
                            *part = *part + *dy * *y;
                        }
                    }
                    *self.deltas.add(row) = folded(parts, |a, b| a + b);
                }
            }
        }
        self.packed = Some(place);
    }

    /// Makes the weights and the gradients of scores of a tile. Returns the number of columns that take part in any row.
    ///
    /// # Safety
    /// The queries and keys must be packed, and a bias readable.
    pub(super) unsafe fn tile(&mut self, place: [usize; 2], queries: &Range<usize>, keys: &Range<usize>) -> usize {
        let edge = Edge::new(queries, keys, self.call.causal);
        if edge.columns == 0 {
            return 0;
        }
        let (call, shape) = (self.call, &self.call.shape);
        let rows = queries.len();
        // SAFETY: the caller guarantees the arrays, and `new` took room for a tile.
        unsafe {
            let operands = [
                (self.queries, shape.features, self.keys, self.weights),
                (self.upstream, shape.width, self.values, self.gradients),
            ];
            for (a, depth, b, c) in operands {
                let product = Product {
                    a: a.add(queries.start * padded(depth)),
                    a_row: padded(depth),
                    a_step: 1,
                    b,
                    b_panel: PANEL * depth,
                    b_row: PANEL,
                    c,
                    c_row: PART,
                    rows,
                    columns: padded(edge.columns),
                    depth,
                    adds: false,
                };
                product.run(self.level);
            }
            let bias = call.bias.map(|bias| {
                let columns = keys.start..keys.start + edge.columns;
                let bias = bias.matrix(place[0], place[1]);
                (self.biases.cast_const(), bias.pack_bias(self.level, queries.clone(), columns, (self.biases, PART)))
            });
            call.dropout.draw(self.level, place, queries, keys.start, edge.columns, self.bits);
            self.level.run(Gradient {
                weights: self.weights,
                gradients: self.gradients,
                row: PART,
                bias,
                edge,
                bits: self.bits,
                sums: std::slice::from_raw_parts(self.sums.add(queries.start), rows),
                deltas: std::slice::from_raw_parts(self.deltas.add(queries.start), rows),
                scale: R::from_f64(call.dropout.scale),
            });
        }
        edge.columns
    }
}

/// Adds up the gradient with respect to a bias, of the shape `[batch, heads, queries, keys]` or 1 where it is shared.
///
/// A unit has all elements of the call that share a bias, so nobody else adds to it.
///
/// # Safety
/// As for `backward`; `gradient` must be of floats that are computed in, with steps of 0 along shared axes.
pub(crate) unsafe fn bias_gradient<R: Number>(
    call: &Call,
    upstream: &Upstream,
    gradient: &Array,
    own: [usize; 4],
    interrupt: Interrupt<'_>,
) -> Result<(), Error> {
    if call.dropout.drops_all() {
        return Ok(());
    }
    let shape = call.shape;
    let parts = shape.keys.div_ceil(PART);
    let together = if own[3] == 1 { parts.max(1) } else { 1 };
    let units = own[0] * own[1] * parts.div_ceil(together);
    let sharing = [shape.batch, shape.heads].map(|len| len.max(1)).iter().product::<usize>() / (own[0] * own[1]).max(1);
    let tiles = sharing.saturating_mul(together).saturating_mul(PART).saturating_mul(shape.queries);
    let products = tiles.saturating_mul(padded(shape.features) + padded(shape.width));
    run::<R>(&Split { units, products }, Head::<R>::floats(call), interrupt, |level, units, scratch| {
        let mut packed = Head::new(call, level, upstream, scratch);
        for unit in units {
            let (outer, first) = (unit / parts.div_ceil(together), unit % parts.div_ceil(together) * together);
            let sharing = |own: usize, all: usize, at: usize| if own == 1 { 0..all } else { at..at + 1 };
            for batch in sharing(own[0], shape.batch, outer / own[1]) {
                for head in sharing(own[1], shape.heads, outer % own[1]) {
                    // SAFETY: the caller guarantees the arrays, and no other unit has these biases.
                    unsafe {
                        packed.pack_queries([batch, head]);
                        for part in first..first + together {
                            let keys = part * PART..shape.keys.min((part + 1) * PART);
                            packed.pack_keys([batch, call.key_head(head)], &keys);
                            for first in (0..shape.queries).step_by(QUERIES) {
                                let queries = first..shape.queries.min(first + QUERIES);
                                let columns = packed.tile([batch, head], &queries, &keys);
                                let from = packed.gradients;
                                let target = gradient.matrix(batch, head);
                                let results = Results { from, stride: PART, factor: 1.0, adds: true };
                                if own[3] == 1 {
                                    for at in 0..queries.len() {
                                        let row = std::slice::from_raw_parts_mut(from.add(at * PART), columns.max(1));
                                        row[0] = row[..columns].iter().fold(R::default(), |sum, one| sum + *one);
                                    }
                                    target.store(level, queries, 1, results);
                                } else {
                                    target.columns_from(keys.start).store(level, queries, columns, results);
                                }
                            }
                        }
                    }
                }
            }
        }
    })
}
