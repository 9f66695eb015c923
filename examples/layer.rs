//! A dropout layer in a few lines: train and eval modes, and a backward pass that needs no stored
//! mask.
//!
//! `cargo run --release --example layer`

use fastdrop::{Error, Key, Mask};

/// A dropout layer. Training call i draws with child i of the layer's key.
struct Dropout {
    p: f64,
    key: Key,
    calls: u64,
    training: bool,
    last: Option<Mask>,
}

impl Dropout {
    fn forward(&mut self, x: &[f32]) -> Result<Vec<f32>, Error> {
        if !self.training {
            self.last = None;
            return Ok(x.to_vec());
        }
        let mask = Mask::new(&[x.len() as u64], self.p, self.key.fold_in(self.calls))?;
        let mut y = vec![0.0; x.len()];
        mask.apply(x, &mut y, None)?;
        self.calls += 1;
        self.last = Some(mask);
        Ok(y)
    }

    /// The gradient of the last `forward`: the same mask, drawn again.
    fn backward(&self, dy: &[f32]) -> Result<Vec<f32>, Error> {
        let mut dx = dy.to_vec();
        if let Some(mask) = &self.last {
            mask.apply_in_place(&mut dx, None)?;
        }
        Ok(dx)
    }
}

fn main() -> Result<(), Error> {
    let mut layer = Dropout { p: 0.5, key: Key::from_seed(2), calls: 0, training: true, last: None };
    let x: Vec<f32> = (1..=8).map(|i| i as f32).collect();
    println!("x        {x:?}");
    println!("training {:?}", layer.forward(&x)?);
    println!("gradient {:?}", layer.backward(&[1.0; 8])?);
    println!("again    {:?}", layer.forward(&x)?);
    layer.training = false;
    println!("eval     {:?}", layer.forward(&x)?);
    Ok(())
}
