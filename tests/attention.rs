//! Attention as a Rust developer uses it: against all weights stored, on slices and on views, with its mistakes.

use fastdrop::{Attention, Bias, Error, Key, Mask, Tensor, TensorMut};

/// Numbers in [-2, 2], which look random.
fn numbers(len: usize, seed: u64) -> Vec<f64> {
    let mixed = |i: usize| (i as u64 + 1 + (seed << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..len)
        .map(|i| ((mixed(i) ^ mixed(i) >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f64 / 2e6 / 4.2)
        .collect()
}

const BATCH: usize = 2;
const HEADS: usize = 4;
const KEY_HEADS: usize = 2;
const QUERIES: usize = 70;
const KEYS: usize = 150;
const FEATURES: usize = 5;
const WIDTH: usize = 18;
const P: f64 = 0.3;

const Q: [usize; 4] = [BATCH, HEADS, QUERIES, FEATURES];
const K: [usize; 4] = [BATCH, KEY_HEADS, KEYS, FEATURES];
const V: [usize; 4] = [BATCH, KEY_HEADS, KEYS, WIDTH];
const Y: [usize; 4] = [BATCH, HEADS, QUERIES, WIDTH];
const ROWS: [usize; 3] = [BATCH, HEADS, QUERIES];
/// The shape of a bias that batches and heads share.
const BIAS: [usize; 2] = [QUERIES, KEYS];

fn size(shape: &[usize]) -> usize {
    shape.iter().product()
}

fn weights(p: f64) -> Mask {
    Mask::new(&[BATCH, HEADS, QUERIES, KEYS].map(|len| len as u64), p, Key::from_seed(1)).unwrap()
}

/// y, lse, and the gradients of queries, keys, values and biases.
type Results = [Vec<f64>; 6];

/// From all weights, one query at a time.
#[allow(clippy::many_single_char_names, reason = "the letters of the formula")]
fn stored([q, k, v, dy, bias]: [&[f64]; 5], scale: f64, causal: isize) -> Results {
    let mut keep = vec![false; size(&Q[..3]) * KEYS];
    weights(P).to_bools(&mut keep).unwrap();
    let mut results: Results =
        [size(&Y), size(&ROWS), size(&Q), size(&K), size(&V), size(&BIAS)].map(|len| vec![0.0; len]);
    let [y, lse, dq, dk, dv, dbias] = &mut results;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for row in 0..size(&ROWS) {
        let (head, query) = (row / QUERIES, row % QUERIES);
        let first = (head / HEADS * KEY_HEADS + head % HEADS / (HEADS / KEY_HEADS)) * KEYS;
        let seen = 0..KEYS.min((query as isize + causal + 1).max(0) as usize);
        let q = &q[row * FEATURES..][..FEATURES];
        let of = |array: &[f64], key: usize, width: usize| array[(first + key) * width..][..width].to_vec();
        let score = |key: usize| scale * dot(q, &of(k, key, FEATURES)) + bias[query * KEYS + key];
        let sum: f64 = seen.clone().map(|key| score(key).exp()).sum();
        lse[row] = sum.ln();
        let weight = |key: usize| score(key).exp() / sum;
        let factor = |key: usize| if keep[row * KEYS + key] { 1.0 / (1.0 - P) } else { 0.0 };
        let y = &mut y[row * WIDTH..][..WIDTH];
        for key in seen.clone() {
            let v = of(v, key, WIDTH);
            y.iter_mut().zip(v).for_each(|(y, v)| *y += weight(key) * factor(key) * v);
        }
        let dy = &dy[row * WIDTH..][..WIDTH];
        for key in seen {
            let gradient = weight(key) * (factor(key) * dot(dy, &of(v, key, WIDTH)) - dot(dy, y));
            dbias[query * KEYS + key] += gradient;
            for i in 0..FEATURES {
                dq[row * FEATURES + i] += scale * gradient * of(k, key, FEATURES)[i];
                dk[(first + key) * FEATURES + i] += scale * gradient * q[i];
            }
            for i in 0..WIDTH {
                dv[(first + key) * WIDTH + i] += weight(key) * factor(key) * dy[i];
            }
        }
    }
    results
}

/// The arrays of a call: queries, keys, values, the gradient of the result, and biases.
fn arrays() -> [Vec<f64>; 5] {
    let mut seed = 0;
    [&Q[..], &K, &V, &Y, &BIAS].map(|shape| {
        seed += 1;
        numbers(size(shape), seed)
    })
}

fn attention<'a>(mask: &'a Mask, [q, k, v]: [&'a [f64]; 3]) -> Attention<'a, f64> {
    let [q, k, v] = [(q, Q), (k, K), (v, V)].map(|(array, shape)| Tensor::new(array, &shape).unwrap());
    Attention::new(mask, q, k, v)
}

/// What the crate computes.
fn computed(attention: &Attention<'_, f64>, dy: &[f64]) -> Results {
    let mut results: Results =
        [size(&Y), size(&ROWS), size(&Q), size(&K), size(&V), size(&BIAS)].map(|len| vec![0.0; len]);
    let [y, lse, dq, dk, dv, dbias] = &mut results;
    let written = TensorMut::new(y, &Y).unwrap();
    attention.forward(written, Some(TensorMut::new(lse, &ROWS).unwrap())).unwrap();
    let upstream = || [Tensor::new(dy, &Y).unwrap(), Tensor::new(y, &Y).unwrap()];
    let rows = || Tensor::new(lse, &ROWS).unwrap();
    let gradients = [(dq, Q), (dk, K), (dv, V)].map(|(array, shape)| TensorMut::new(array, &shape).unwrap());
    let [given, result] = upstream();
    attention.backward(given, result, rows(), gradients).unwrap();
    if let Some(Bias::Added(_)) = attention.bias {
        let [given, result] = upstream();
        attention.bias_gradient(given, result, rows(), TensorMut::new(dbias, &BIAS).unwrap()).unwrap();
    }
    results
}

#[test]
fn results_and_gradients_are_those_of_stored_weights() {
    let [q, k, v, dy, bias] = arrays();
    let mask = weights(P);
    let causal = (KEYS - QUERIES) as isize;
    let whole = isize::MAX;
    for (scale, causal) in [(None, None), (Some(0.3), Some(causal)), (Some(-0.2), Some(whole))] {
        let mut attention = Attention { scale, causal, ..attention(&mask, [&q, &k, &v]) };
        attention.bias = Some(Bias::Added(Tensor::new(&bias, &BIAS).unwrap()));
        let scale = scale.unwrap_or(1.0 / (FEATURES as f64).sqrt());
        let offset = causal.map_or(KEYS as isize, |offset| offset.min(KEYS as isize));
        let expected = stored([&q, &k, &v, &dy, &bias], scale, offset);
        for (which, (computed, expected)) in computed(&attention, &dy).iter().zip(&expected).enumerate() {
            for (at, (one, other)) in computed.iter().zip(expected).enumerate() {
                assert!((one - other).abs() < 1e-11, "{which} at {at}: {one} {other}");
            }
        }
    }
}

#[test]
fn a_key_that_is_not_seen_is_one_whose_bias_is_minus_infinity() {
    let [q, k, v, dy, _] = arrays();
    let mask = weights(P);
    let seen: Vec<bool> = (0..KEYS).map(|key| key % 3 != 1).collect();
    let bias: Vec<f64> = seen.iter().map(|seen| if *seen { 0.0 } else { f64::NEG_INFINITY }).collect();
    let mut one = attention(&mask, [&q, &k, &v]);
    let mut other = one.clone();
    one.bias = Some(Bias::Seen(Tensor::new(&seen, &[KEYS]).unwrap()));
    other.bias = Some(Bias::Added(Tensor::new(&bias, &[1, KEYS]).unwrap()));
    let (one, other) = (computed(&one, &dy), {
        let mut results = computed(&Attention { bias: None, ..other.clone() }, &dy);
        let [y, lse, ..] = &mut results;
        other.forward(TensorMut::new(y, &Y).unwrap(), Some(TensorMut::new(lse, &ROWS).unwrap())).unwrap();
        results
    });
    assert!(one[..2] == other[..2]);
}

/// Also where they are NaN. A factor of infinity would make NaN of them.
#[test]
fn p_1_gives_zeros_whatever_the_numbers_are() {
    let mask = weights(1.0);
    let nan = |shape: &[usize]| vec![f64::NAN; size(shape)];
    let (q, k, v, dy) = (nan(&Q), nan(&K), nan(&V), nan(&Y));
    let [y, _, dq, dk, dv, _] = computed(&attention(&mask, [&q, &k, &v]), &dy);
    for zeros in [y, dq, dk, dv] {
        assert!(zeros.iter().all(|zero| zero.to_bits() == 0));
    }
}

#[test]
fn a_bias_gradient_is_added_to_what_is_there() {
    let [q, k, v, dy, bias] = arrays();
    let mask = weights(P);
    let mut attention = attention(&mask, [&q, &k, &v]);
    attention.bias = Some(Bias::Added(Tensor::new(&bias, &BIAS).unwrap()));
    let [y, lse, _, _, _, expected] = computed(&attention, &dy);
    let mut sums = vec![1.0; size(&BIAS)];
    let [given, result] = [&dy, &y].map(|array| Tensor::new(array, &Y).unwrap());
    let target = TensorMut::new(&mut sums, &BIAS).unwrap();
    attention.bias_gradient(given, result, Tensor::new(&lse, &ROWS).unwrap(), target).unwrap();
    assert!(sums.iter().zip(&expected).all(|(sum, gradient)| (sum - 1.0 - gradient).abs() < 1e-14));
}

#[test]
fn a_mistake_is_named_before_anything_is_written() {
    let [q, k, v, dy, bias] = arrays();
    let (mask, other) = (weights(P), Mask::new(&[3, 4], 0.5, Key::from_seed(1)).unwrap());
    let whole = || attention(&mask, [&q, &k, &v]);
    let mut y = vec![7.0; size(&Y)];
    let mut forward = |attention: &Attention<'_, f64>, shape: &[usize]| {
        attention.forward(TensorMut::new(&mut y, shape)?, None).map_err(|error| error.to_string())?;
        Ok::<(), Box<dyn std::error::Error>>(())
    };
    let tensor = |array: &'static [f64], shape: &[usize]| Tensor::new(array, shape).unwrap();
    let few: &'static [f64] = &[0.0; 12];
    for (attention, message) in [
        (
            Attention { k: tensor(few, &[1, 1, 2, 6]), ..whole() },
            "k must have the shape (2, heads, keys, 5), got (1, 1, 2, 6)",
        ),
        (
            Attention { q: tensor(few, &[3, 4]), ..whole() },
            "q must have the shape (batch, heads, queries, features), or one without the batch, got (3, 4)",
        ),
        (Attention { mask: &other, ..whole() }, "mask must be of shape (2, 4, 70, 150), got (3, 4)"),
        (Attention { scale: Some(f64::NAN), ..whole() }, "scale must be a finite number, got NaN"),
        (
            Attention { bias: Some(Bias::Added(tensor(few, &[3, 4]))), ..whole() },
            "bias must broadcast to shape (2, 4, 70, 150), got (3, 4)",
        ),
    ] {
        assert_eq!(forward(&attention, &Y).unwrap_err().to_string(), message);
    }
    let wrong = forward(&whole(), &[BATCH, HEADS, WIDTH, QUERIES]).unwrap_err();
    assert_eq!(wrong.to_string(), "y must have the shape (2, 4, 70, 18), got (2, 4, 18, 70)");
    assert!(y.iter().all(|y| *y == 7.0));
    let wrong = Tensor::new(&bias, &[3, 4]).unwrap_err();
    assert_eq!(wrong.to_string(), "the slice must have as many elements as the shape (3, 4), got 10500");
    assert!(matches!(Tensor::new(&bias, &[usize::MAX, 2]), Err(Error::Operand { .. })));
    let lse = vec![0.0; size(&ROWS)];
    let [given, result] = [&dy, &dy].map(|array| Tensor::new(array, &Y).unwrap());
    let mut gradient = vec![0.0; size(&BIAS)];
    let target = TensorMut::new(&mut gradient, &BIAS).unwrap();
    let wrong = whole().bias_gradient(given, result, Tensor::new(&lse, &ROWS).unwrap(), target).unwrap_err();
    assert_eq!(wrong.to_string(), "bias must be numbers that are added, to have a gradient, got none");
}

#[cfg(feature = "ndarray")]
#[test]
fn layouts_change_no_bit() {
    use ndarray::{Array4, ArrayView};
    let [q, k, v, dy, _] = arrays();
    let mask = weights(P);
    let [y, lse, dq, dk, dv, _] = computed(&attention(&mask, [&q, &k, &v]), &dy);
    // Heads inside queries, and features backwards.
    let laid_out = |array: &[f64], shape: [usize; 4]| {
        let [batch, heads, rows, columns] = shape;
        let mut room = Array4::from_elem((batch, rows, heads, columns), 0.0);
        let mut view = room.view_mut().permuted_axes([0, 2, 1, 3]);
        view.invert_axis(ndarray::Axis(3));
        view.assign(&ArrayView::from_shape(shape, array).unwrap());
        room
    };
    macro_rules! view {
        ($room:ident.$view:ident()) => {{
            let mut view = $room.$view().permuted_axes([0, 2, 1, 3]);
            view.invert_axis(ndarray::Axis(3));
            view
        }};
    }
    let [q_room, k_room, v_room, dy_room] =
        [(&q, Q), (&k, K), (&v, V), (&dy, Y)].map(|(array, shape)| laid_out(array, shape));
    let mut rooms =
        [(&y, Y), (&dq, Q), (&dk, K), (&dv, V)].map(|(array, shape)| laid_out(&vec![7.0; array.len()], shape));
    let [y_room, dq_room, dk_room, dv_room] = &mut rooms;
    let attention =
        Attention::new(&mask, view!(q_room.view()).into(), view!(k_room.view()).into(), view!(v_room.view()).into());
    attention.forward(view!(y_room.view_mut()).into(), None).unwrap();
    let gradients =
        [view!(dq_room.view_mut()).into(), view!(dk_room.view_mut()).into(), view!(dv_room.view_mut()).into()];
    let (given, result) = (view!(dy_room.view()).into(), view!(y_room.view()).into());
    attention.backward(given, result, Tensor::new(&lse, &ROWS).unwrap(), gradients).unwrap();
    for (room, expected) in rooms.iter().zip([y, dq, dk, dv]) {
        assert!(view!(room.view()).iter().eq(&expected));
    }
}
