//! The forward pass: a unit is some blocks of queries of one head, with all keys.

use std::ops::Range;

use super::arrays::{Array, Results};
use super::products::{PANEL, Product};
use super::softmax::{Running, Softmax, folded, log2};
use super::tiles::{Bits, Edge};
use super::{Call, KEYS, Number, PARTS, QUERIES, Scratch, Split, UNIT, padded, run, threads};
use crate::error::Error;
use crate::simd::Level;
use crate::threads::batches::Interrupt;

/// Most blocks of queries in a unit: keys are packed once for all of them.
const BLOCKS: usize = 8;

/// Computes y and, for each row, the logarithm of the sum of exponentials, in C order.
///
/// # Safety
/// The arrays of the call must be readable and those of the result writeable, in the shapes of the call. Nobody else may
/// touch them, and the result must overlap no other array nor itself.
pub(crate) unsafe fn forward<R: Number>(
    call: &Call,
    y: Array,
    sums: Option<Array>,
    interrupt: Interrupt<'_>,
) -> Result<(), Error> {
    let shape = call.shape;
    let heads = shape.batch * shape.heads;
    let blocks = shape.queries.div_ceil(QUERIES);
    let products = QUERIES.saturating_mul(shape.keys).saturating_mul(shape.features + shape.width).max(1);
    let together = blocks_of_unit(heads, blocks, UNIT / products, threads()?);
    let per_head = blocks.div_ceil(together);
    let split = Split { units: heads * per_head, products: products.saturating_mul(together) };
    let rows = together * QUERIES;
    let floats = Buffers::<R>::floats(call, rows);
    run::<R>(&split, floats, interrupt, |level, units, scratch| {
        let mut buffers = Buffers::new(call, rows, scratch);
        for unit in units {
            let (head, part) = (unit / per_head, unit % per_head);
            let first = part * rows;
            let queries = first..shape.queries.min(first + rows);
            let place = [head / shape.heads, head % shape.heads];
            // SAFETY: the caller guarantees the arrays, and units have different rows.
            unsafe { buffers.unit(call, level, place, queries, &y, sums.as_ref()) };
        }
    })
}

/// Blocks of a unit, so that threads end together.
fn blocks_of_unit(heads: usize, blocks: usize, most: usize, threads: usize) -> usize {
    // A unit packs its keys, which takes about a fifth of a block.
    let time = |together: &usize| (heads * blocks.div_ceil(*together)).div_ceil(threads) * (5 * together + 1);
    (1..=BLOCKS.min(most).min(blocks)).rev().min_by_key(time).unwrap_or(1)
}

/// Scratch memory of one thread.
struct Buffers<'a, R> {
    queries: *mut R,
    /// Transposed, in panels.
    keys: *mut R,
    values: *mut R,
    scores: *mut R,
    biases: *mut R,
    result: *mut R,
    /// The state of each row: see [`Running`].
    sums: *mut R,
    maxima: *mut R,
    kept: [u64; BLOCKS * QUERIES],
    bits: &'a mut Bits,
}

impl<'a, R: Number> Buffers<'a, R> {
    /// Floats of scratch memory.
    fn floats(call: &Call, rows: usize) -> usize {
        let [features, width] = [call.shape.features, call.shape.width].map(padded);
        let tiles = if call.bias.is_some() { 2 } else { 1 };
        rows * (features + width + PARTS) + padded(rows) + KEYS * (features + width) + tiles * QUERIES * KEYS
    }

    fn new(call: &Call, rows: usize, scratch: &'a mut Scratch<R>) -> Self {
        let [features, width] = [call.shape.features, call.shape.width].map(padded);
        Self {
            queries: scratch.take(rows * features),
            keys: scratch.take(KEYS * features),
            values: scratch.take(KEYS * width),
            scores: scratch.take(QUERIES * KEYS),
            biases: if call.bias.is_some() { scratch.take(QUERIES * KEYS) } else { std::ptr::null_mut() },
            result: scratch.take(rows * width),
            sums: scratch.take(rows * PARTS),
            maxima: scratch.take(padded(rows)),
            kept: [0; BLOCKS * QUERIES],
            bits: &mut scratch.bits,
        }
    }

    /// All keys, for some queries of one head.
    ///
    /// # Safety
    /// As for `forward`; nobody else may work on the same rows.
    unsafe fn unit(
        &mut self,
        call: &Call,
        level: Level,
        place: [usize; 2],
        queries: Range<usize>,
        y: &Array,
        logarithms: Option<&Array>,
    ) {
        let [batch, head] = place;
        let key_head = call.key_head(head);
        let shape = &call.shape;
        let width = padded(shape.width);
        let [key, value] = [call.key, call.value].map(|array| array.matrix(batch, key_head));
        self.kept.fill(0);
        // SAFETY: the caller guarantees the arrays, and `new` took room for as many rows.
        unsafe {
            let query = call.query.matrix(batch, head);
            query.pack(level, queries.clone(), shape.features, 1.0, (self.queries, padded(shape.features)));
            std::slice::from_raw_parts_mut(self.sums, queries.len() * PARTS).fill(R::default());
            std::slice::from_raw_parts_mut(self.maxima, queries.len()).fill(R::from_f64(f64::NEG_INFINITY));
            for start in (0..shape.keys).step_by(KEYS) {
                let keys = start..shape.keys.min(start + KEYS);
                if Edge::new(&queries, &keys, call.causal).columns == 0 {
                    break;
                }
                key.transpose(level, keys.clone(), shape.features, call.factor(), self.keys, self.scores);
                value.pack(level, keys.clone(), shape.width, 1.0, (self.values, width));
                for first in queries.clone().step_by(QUERIES) {
                    let block = first..queries.end.min(first + QUERIES);
                    self.tile(call, level, place, first - queries.start, block, keys.clone());
                }
            }
            for at in 0..queries.len() {
                let sum = folded(self.sums.add(at * PARTS).cast::<[R; PARTS]>().read(), |a, b| a + b);
                let result = std::slice::from_raw_parts_mut(self.result.add(at * width), width);
                if self.kept[at] == 0 || sum == R::default() {
                    result.fill(R::default());
                } else {
                    let factor = R::from_f64(call.dropout.scale) / sum;
                    result.iter_mut().for_each(|result| *result = *result * factor);
                }
                if logarithms.is_some() {
                    let maximum = &mut *self.maxima.add(at);
                    *maximum = R::from_f64((maximum.to_f64() + log2(sum.to_f64())) * std::f64::consts::LN_2);
                }
            }
            let y = y.matrix(batch, head);
            let results = Results { from: self.result, stride: width, factor: 1.0, adds: false };
            y.store(level, queries.clone(), shape.width, results);
            if let Some(logarithms) = logarithms {
                let results = Results { from: self.maxima, stride: 0, factor: 1.0, adds: false };
                let row = logarithms.matrix(batch, head).transposed().columns_from(queries.start);
                row.store(level, 0..1, queries.len(), results);
            }
        }
    }

    /// Some keys, for a block of queries that begins with row `at` of the unit.
    ///
    /// # Safety
    /// The queries, keys and values of the tile must have been packed.
    unsafe fn tile(
        &mut self,
        call: &Call,
        level: Level,
        place: [usize; 2],
        at: usize,
        queries: Range<usize>,
        keys: Range<usize>,
    ) {
        let edge = Edge::new(&queries, &keys, call.causal);
        if edge.columns == 0 {
            return;
        }
        let rows = queries.len();
        let [features, width] = [call.shape.features, call.shape.width].map(padded);
        // SAFETY: `new` took room for a tile, and the caller packed what it needs.
        unsafe {
            let result = self.result.add(at * width);
            Product {
                a: self.queries.add(at * features),
                a_row: features,
                a_step: 1,
                b: self.keys,
                b_panel: PANEL * call.shape.features,
                b_row: PANEL,
                c: self.scores,
                c_row: KEYS,
                rows,
                columns: padded(edge.columns),
                depth: call.shape.features,
                adds: false,
            }
            .run(level);
            let bias = call.bias.map(|bias| {
                let [batch, head] = place;
                let columns = keys.start..keys.start + edge.columns;
                let step = bias.matrix(batch, head).pack_bias(level, queries.clone(), columns, (self.biases, KEYS));
                (self.biases.cast_const(), step)
            });
            call.dropout.draw(level, place, &queries, keys.start, edge.columns, self.bits);
            let first = keys.start == 0;
            let running = Running {
                maxima: std::slice::from_raw_parts_mut(self.maxima.add(at), rows),
                sums: self.sums.add(at * PARTS),
                kept: &mut self.kept[at..at + rows],
                result,
                width,
            };
            level.run(Softmax { scores: self.scores, row: KEYS, bias, edge, bits: self.bits, running, first });
            Product {
                a: self.scores,
                a_row: KEYS,
                a_step: 1,
                b: self.values,
                b_panel: PANEL,
                b_row: width,
                c: result,
                c_row: width,
                rows,
                columns: width,
                depth: edge.columns,
                adds: !first,
            }
            .run(level);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units of a fixed size would leave a thread alone with the last of 3 or 5.
    #[test]
    fn threads_end_together() {
        for threads in [1, 2, 4] {
            for heads in 1..12 {
                for blocks in 8..70 {
                    let together = blocks_of_unit(heads, blocks, BLOCKS, threads);
                    let units = heads * blocks.div_ceil(together);
                    let longest = units.div_ceil(threads) * together;
                    let fair = (heads * blocks).div_ceil(threads);
                    assert!(6 * longest <= 7 * fair, "{heads} heads, {blocks} blocks, {threads} threads: {together}");
                }
            }
        }
        assert_eq!(blocks_of_unit(1, 10, 8, 2), 5);
        assert_eq!(blocks_of_unit(5, 8, 8, 2), 4);
        assert_eq!(blocks_of_unit(1, 0, 8, 2), 1);
    }
}
