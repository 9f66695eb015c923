//! Dropout with a key for candle, whose random numbers on CPUs have no seed: an operation with a backward pass, and a
//! network that learns with it. The losses are the same in each run, for any number of threads.
//!
//! `cargo run --release --manifest-path examples/candle/Cargo.toml`

use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Error, Layout, Result, Shape, Tensor, Var, bail};
use fastdrop::{Float, Key, Mask, set_num_threads};

/// Drops the elements of `x` with probability p, and scales the others by 1 / (1 - p).
fn dropout(x: &Tensor, p: f64, key: Key) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Dropout { p, key })
}

/// The operation. It keeps no mask: the key draws it again in the backward pass.
#[derive(Clone)]
struct Dropout {
    p: f64,
    key: Key,
}

impl Dropout {
    fn apply<T: Float>(&self, x: &[T], layout: &Layout) -> Result<Vec<T>> {
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("dropout needs a contiguous tensor") };
        let dims: Vec<u64> = layout.dims().iter().map(|len| *len as u64).collect();
        let mut y = x[start..end].to_vec();
        Mask::new(&dims, self.p, self.key).and_then(|mask| mask.apply_in_place(&mut y, None)).map_err(Error::wrap)?;
        Ok(y)
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "fastdrop"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = match storage {
            CpuStorage::F32(x) => CpuStorage::F32(self.apply(x, layout)?),
            CpuStorage::F64(x) => CpuStorage::F64(self.apply(x, layout)?),
            CpuStorage::F16(x) => CpuStorage::F16(self.apply(x, layout)?),
            CpuStorage::BF16(x) => CpuStorage::BF16(self.apply(x, layout)?),
            _ => bail!("dropout needs floating-point numbers"),
        };
        Ok((y, layout.shape().clone()))
    }

    /// Dropout is linear, so the gradient is the same operation, and has a gradient itself.
    fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        dy.contiguous()?.apply_op1(self.clone()).map(Some)
    }
}

/// Normal numbers from a key.
fn normals(shape: (usize, usize), key: Key) -> Result<Tensor> {
    let mut numbers = vec![0.0f32; shape.0 * shape.1];
    key.normals(0, &mut numbers).map_err(Error::wrap)?;
    Tensor::from_vec(numbers, shape, &Device::Cpu)
}

/// Mean cross-entropy of two arms of a spiral, after each of the steps, and the share of points in the right arm.
fn train(key: Key, steps: u64) -> Result<(Vec<f32>, f32)> {
    const POINTS: usize = 512;
    const HIDDEN: usize = 256;
    const RATE: f64 = 0.3;
    let [weights, masks] = [key.fold_in(0), key.fold_in(1)];

    let (mut points, mut arms) = (Vec::new(), Vec::new());
    for i in 0..POINTS {
        let (radius, arm) = (i as f32 / POINTS as f32, (i % 2) as u32);
        let angle = 5.0 * radius + std::f32::consts::PI * arm as f32;
        points.extend([2.0 * radius * angle.cos(), 2.0 * radius * angle.sin(), 1.0]);
        arms.push(arm);
    }
    let x = Tensor::from_vec(points, (POINTS, 3), &Device::Cpu)?;
    let arms = Tensor::from_vec(arms, POINTS, &Device::Cpu)?;

    let shapes = [(3, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 2)];
    let layers = shapes.into_iter().enumerate().map(|(layer, shape)| {
        let scale = (2.0 / shape.0 as f64).sqrt();
        Var::from_tensor(&(normals(shape, weights.fold_in(layer as u64))? * scale)?)
    });
    let layers = layers.collect::<Result<Vec<_>>>()?;

    // The key of a mask follows from the step and the layer.
    let logits = |step: Option<u64>| -> Result<Tensor> {
        let mut h = x.clone();
        for (layer, weight) in layers.iter().enumerate() {
            if layer > 0 {
                h = h.relu()?;
                if let Some(step) = step {
                    h = dropout(&h, 0.25, masks.fold_in(step).fold_in(layer as u64))?;
                }
            }
            h = h.matmul(weight)?;
        }
        Ok(h)
    };

    let mut losses = Vec::new();
    for step in 0..steps {
        let z = logits(Some(step))?;
        let largest = z.max_keepdim(D::Minus1)?.detach();
        let z = z.broadcast_sub(&largest)?;
        let of_all = z.exp()?.sum_keepdim(D::Minus1)?.log()?;
        let of_arm = z.gather(&arms.unsqueeze(1)?, 1)?;
        let loss = (of_all - of_arm)?.mean_all()?;
        let gradients = loss.backward()?;
        for weight in &layers {
            if let Some(gradient) = gradients.get(weight) {
                weight.set(&(weight.as_tensor() - (gradient * RATE)?)?)?;
            }
        }
        losses.push(loss.to_scalar()?);
    }
    let right = logits(None)?.argmax(D::Minus1)?.eq(&arms)?.to_dtype(DType::F32)?.mean_all()?;
    Ok((losses, right.to_scalar()?))
}

fn main() -> Result<()> {
    let key = Key::from_seed(0);

    // The backward pass drops the elements that the forward pass dropped, in a transposed tensor too.
    let x = Var::from_tensor(&normals((64, 96), key)?)?;
    let y = dropout(&x.t()?, 0.5, key)?;
    let gradient = y.sum_all()?.backward()?.remove(&x).expect("x takes part");
    assert_eq!(y.to_vec2::<f32>()?, (x.t()? * gradient.t()?)?.to_vec2::<f32>()?);

    let steps = 200;
    let mut runs = Vec::new();
    for threads in [1, 2, 4] {
        set_num_threads(threads).map_err(Error::wrap)?;
        let (losses, right) = train(key, steps)?;
        println!(
            "{threads} threads: loss {:.6} -> {:.6}, {:.1} % right",
            losses[0],
            losses[losses.len() - 1],
            100.0 * right
        );
        assert!(right > 0.95, "the network learns the spiral");
        runs.push(losses);
    }
    assert!(runs.iter().all(|losses| *losses == runs[0]), "the losses do not depend on the number of threads");
    Ok(())
}
