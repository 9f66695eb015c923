//! What the crate can do, in one program: `docs/rust.md` shows its parts.
//!
//! `cargo run --example tour --features ndarray,rand_core`

use fastdrop::{Error, Formula, Key, Mask, Numbers};

fn main() -> Result<(), Error> {
    // Keys
    let key = Key::from_seed(42); // or Key::from_entropy()?
    let of_layer = key.fold_in(3);
    let of_step = of_layer.fold_in(1000); // independent of its parent and of its siblings

    // Slices
    let mask = Mask::new(&[4, 6], 0.5, of_step)?; // a recipe: nothing is drawn yet
    let x = vec![1.0f32; 24];
    let mut y = vec![0.0; 24];
    mask.apply(&x, &mut y, None)?; // kept elements times 1 / (1 - p), +0.0 for the others
    assert!(y.iter().all(|y| *y == 0.0 || *y == 2.0));

    let mut gradient = vec![1.0f32; 24];
    mask.apply_in_place(&mut gradient, None)?; // the backward pass: the same mask, drawn again
    assert_eq!(gradient, y);

    // Parts
    let last_row = mask.region(&[3, 0], &[1, 6])?;
    let mut kept = [false; 6];
    last_row.to_bools(&mut kept)?;
    assert!(kept.iter().zip(&y[18..]).all(|(kept, y)| *kept == (*y != 0.0)));

    // Views
    let x = ndarray::Array2::<f32>::ones((4, 6));
    let mut transposed = ndarray::Array2::zeros((6, 4));
    mask.apply_view(x.view(), transposed.view_mut().reversed_axes(), None)?;
    assert_eq!(transposed.t().iter().copied().collect::<Vec<_>>(), y);

    // Fused
    let residual = vec![10.0f32; 24];
    // kept ? a + x * scale : a
    mask.fused(Formula::Add, Numbers::scale(2.0), &[&[1.0; 24], &residual], &mut y)?;
    assert!(y.iter().all(|y| *y == 10.0 || *y == 12.0));

    // Python
    let same = Key::from_bytes(*b"sixteen bytes...");
    Mask::new(&[6], 0.5, same)?.to_bools(&mut kept)?;
    assert_eq!(kept, [true, false, false, true, true, false]);

    // Generator
    use rand_core::Rng;
    let mut rng = key.rng(); // also for `rand` and `rand_distr`
    println!("{} of {} elements are kept; next bits {:016x}", mask.count()?, mask.size(), rng.next_u64());
    Ok(())
}
