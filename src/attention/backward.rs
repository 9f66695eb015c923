//! The backward pass: a unit is one part of the keys of one head, or all of them, with all queries.
//!
//! Gradients of keys and values belong to one unit. Those of queries are added part by part: a unit waits until the part
//! before was added to a block of queries. Units are handed out in order, so that part is always at work or done.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::arrays::{Array, Results};
use super::gradients::{Head, Upstream};
use super::products::{PANEL, Product};
use super::tiles::Edge;
use super::{Call, Number, PART, QUERIES, Scratch, Split, UNIT, WIDEST, padded, run, threads};
use crate::error::Error;
use crate::simd::Level;
use crate::threads::batches::Interrupt;

/// The gradients of queries, keys and values.
pub(crate) struct Gradients {
    pub(crate) query: Array,
    pub(crate) key: Array,
    pub(crate) value: Array,
}

/// Computes the gradients, from what the forward pass computed and the gradient with respect to it.
///
/// # Safety
/// As for `forward`, of all arrays.
pub(crate) unsafe fn backward<R: Number>(
    call: &Call,
    upstream: &Upstream,
    gradients: &Gradients,
    interrupt: Interrupt<'_>,
) -> Result<(), Error> {
    if call.dropout.drops_all() {
        // SAFETY: the obligations are the same.
        return unsafe { zeros::<R>(call, gradients) };
    }
    let shape = call.shape;
    let heads = shape.batch * shape.key_heads;
    let parts = shape.keys.div_ceil(PART).max(1);
    let [features, width] = [shape.features, shape.width].map(padded);
    let group = shape.heads / shape.key_heads.max(1);
    let one = group * PART * shape.queries.saturating_mul(3 * features + 2 * width).max(1);
    // Threads should end together: an odd head would keep one of them busy alone.
    let threads = threads()?;
    let even = heads.is_multiple_of(threads) && heads >= 2 * threads || heads >= 8 * threads;
    let whole = even && one.saturating_mul(parts) <= 16 * UNIT;
    let together = if whole { parts } else { 1 };
    let split = Split { units: heads * parts.div_ceil(together), products: one.saturating_mul(together) };
    let mut floats = Head::<R>::floats(call) + PART * (2 * features + width) + QUERIES * features;
    let order = Order::new(shape.batch * shape.heads * shape.queries.div_ceil(QUERIES))?;
    // Sums of parts are not rounded: half precision needs room for them. A unit has its own, or they are shared.
    let rounds = gradients.query.format.element != R::ELEMENT;
    let mut shared = Vec::<R>::new();
    if rounds && whole {
        floats += group * shape.queries * features;
    } else if rounds {
        let len = shape.batch * shape.heads * shape.queries * features;
        shared.try_reserve_exact(len).map_err(|_| Error::Memory)?;
    }
    let shared = Array::of_floats(shared.as_mut_ptr(), [shape.heads, shape.queries, features]);
    run::<R>(&split, floats, interrupt, |level, units, scratch| {
        let sums = rounds.then(|| {
            if !whole {
                return Sums { array: shared, heads: shape.heads };
            }
            let first = scratch.take(group * shape.queries * features);
            Sums { array: Array::of_floats(first, [0, shape.queries, features]), heads: group }
        });
        let mut buffers = Buffers::new(call, level, upstream, sums, scratch);
        let failing = Failing(&order);
        for unit in units {
            let (head, first) = (unit / (parts / together), unit % (parts / together) * together);
            for part in first..first + together {
                let keys = part * PART..shape.keys.min((part + 1) * PART);
                let place = [head / shape.key_heads, head % shape.key_heads];
                // SAFETY: the caller guarantees the arrays. Units have different keys, and take turns at queries.
                unsafe { buffers.part(place, part, keys, gradients, &order) };
            }
        }
        drop(failing);
    })
}

/// Writes gradients where all weights are dropped: 0, whatever the numbers are.
///
/// # Safety
/// As for `backward`.
unsafe fn zeros<R: Number>(call: &Call, gradients: &Gradients) -> Result<(), Error> {
    let (level, shape, zeros) = (Level::current()?, &call.shape, [R::default(); WIDEST]);
    let arrays = [
        (gradients.query, shape.heads, shape.queries, shape.features),
        (gradients.key, shape.key_heads, shape.keys, shape.features),
        (gradients.value, shape.key_heads, shape.keys, shape.width),
    ];
    for (array, heads, rows, width) in arrays {
        for at in 0..shape.batch * heads {
            let results = Results { from: zeros.as_ptr(), stride: 0, factor: 1.0, adds: false };
            // SAFETY: the caller guarantees the arrays, and no row is wider than the zeros.
            unsafe { array.matrix(at / heads, at % heads).store(level, 0..rows, width, results) };
        }
    }
    Ok(())
}

/// How many parts were added to each block of queries.
struct Order {
    added: Vec<AtomicUsize>,
    /// Whether a unit has panicked: nobody must wait for it.
    failed: AtomicBool,
}

impl Order {
    fn new(blocks: usize) -> Result<Self, Error> {
        let mut added = Vec::new();
        added.try_reserve_exact(blocks).map_err(|_| Error::Memory)?;
        added.resize_with(blocks, AtomicUsize::default);
        Ok(Self { added, failed: AtomicBool::new(false) })
    }

    /// Calls `add` after all parts before this one were added, or not at all if another thread has panicked.
    fn in_turn(&self, block: usize, part: usize, add: impl FnOnce()) {
        const LOOKS: usize = 1 << 10;
        let mut looks = 0;
        while self.added[block].load(Ordering::Acquire) < part {
            if self.failed.load(Ordering::Relaxed) {
                return; // several threads may wait, and must not add at once
            }
            looks += 1;
            if looks < LOOKS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        add();
        self.added[block].store(part + 1, Ordering::Release);
    }
}

/// Tells the others if this thread panics.
struct Failing<'a>(&'a Order);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, Ordering::Relaxed);
        }
    }
}

/// Sums of parts of the gradients of queries, for so many heads.
struct Sums {
    array: Array,
    heads: usize,
}

/// Scratch memory of one thread.
struct Buffers<'a, R> {
    head: Head<'a, R>,
    keys: *mut R,
    /// Gradients of a block of queries, and of a part of keys and values.
    of_queries: *mut R,
    of_keys: *mut R,
    of_values: *mut R,
    /// If gradients of queries are rounded.
    sums: Option<Sums>,
}

impl<'a, R: Number> Buffers<'a, R> {
    fn new(
        call: &'a Call,
        level: Level,
        upstream: &'a Upstream,
        sums: Option<Sums>,
        scratch: &'a mut Scratch<R>,
    ) -> Self {
        let [features, width] = [call.shape.features, call.shape.width].map(padded);
        Self {
            sums,
            keys: scratch.take(PART * features),
            of_queries: scratch.take(QUERIES * features),
            of_keys: scratch.take(PART * features),
            of_values: scratch.take(PART * width),
            head: Head::new(call, level, upstream, scratch),
        }
    }

    /// One part of the keys, for all queries of all heads that use them.
    ///
    /// # Safety
    /// As for `backward`; nobody else may work on the same keys.
    unsafe fn part(
        &mut self,
        [batch, key_head]: [usize; 2],
        part: usize,
        keys: Range<usize>,
        gradients: &Gradients,
        order: &Order,
    ) {
        let (call, level) = (self.head.call, self.head.level);
        let shape = &call.shape;
        let [features, width] = [shape.features, shape.width].map(padded);
        let count = keys.len();
        // SAFETY: the caller guarantees the arrays, and `new` took room for a part.
        unsafe {
            call.key.matrix(batch, key_head).pack(level, keys.clone(), shape.features, 1.0, (self.keys, features));
            std::slice::from_raw_parts_mut(self.of_keys, count * features).fill(R::default());
            std::slice::from_raw_parts_mut(self.of_values, count * width).fill(R::default());
            self.head.pack_keys([batch, key_head], &keys);
            let group = shape.heads / shape.key_heads;
            let next = keys.end..shape.keys.min(keys.end + PART);
            for head in key_head * group..(key_head + 1) * group {
                self.head.pack_queries([batch, head]);
                let target = gradients.query.matrix(batch, head);
                let sums = self.sums.as_ref().map(|sums| sums.array.matrix(batch, head % sums.heads));
                for (block, first) in (0..shape.queries).step_by(QUERIES).enumerate() {
                    let queries = first..shape.queries.min(first + QUERIES);
                    let block = (batch * shape.heads + head) * shape.queries.div_ceil(QUERIES) + block;
                    let columns = self.head.tile([batch, head], &queries, &keys);
                    if columns == 0 && part > 0 {
                        continue;
                    }
                    let product = Product {
                        a: self.head.weights,
                        a_row: 1,
                        a_step: PART,
                        b: self.head.upstream.add(first * width),
                        b_panel: PANEL,
                        b_row: width,
                        c: self.of_values,
                        c_row: width,
                        rows: columns,
                        columns: width,
                        depth: queries.len(),
                        adds: true,
                    };
                    product.run(level);
                    let product = Product {
                        a: self.head.gradients,
                        a_row: 1,
                        a_step: PART,
                        b: self.head.queries.add(first * features),
                        b_panel: PANEL,
                        b_row: features,
                        c: self.of_keys,
                        c_row: features,
                        rows: columns,
                        columns: features,
                        depth: queries.len(),
                        adds: true,
                    };
                    product.run(level);
                    let product = Product {
                        a: self.head.gradients,
                        a_row: PART,
                        a_step: 1,
                        b: self.keys,
                        b_panel: PANEL,
                        b_row: features,
                        c: self.of_queries,
                        c_row: features,
                        rows: queries.len(),
                        columns: features,
                        depth: columns,
                        adds: false,
                    };
                    product.run(level);
                    let results =
                        Results { from: self.of_queries, stride: features, factor: call.scale, adds: part > 0 };
                    // Later parts exclude these queries.
                    let last = Edge::new(&queries, &next, call.causal).columns == 0;
                    order.in_turn(block, part, || match sums {
                        Some(sums) if !(part == 0 && last) => {
                            sums.store(level, queries.clone(), shape.features, results);
                            if last {
                                let from: *const R = sums.row(first);
                                let results = Results { from, stride: features, factor: 1.0, adds: false };
                                target.store(level, queries, shape.features, results);
                            }
                        }
                        _ => target.store(level, queries, shape.features, results),
                    });
                }
            }
            let results = [
                (gradients.key, self.of_keys, shape.features, features, call.scale),
                (gradients.value, self.of_values, shape.width, width, call.dropout.scale),
            ];
            for (array, from, len, stride, factor) in results {
                let results = Results { from, stride, factor, adds: false };
                array.matrix(batch, key_head).store(level, keys.clone(), len, results);
            }
        }
    }
}
