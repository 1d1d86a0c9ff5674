//! Scales that change the result of an operator least (SeqMSE).

use ndarray::Array2;

use super::super::Grid;

/// Ranges that are tried, as parts of the whole one, in steps of a twentieth.
const CANDIDATES: std::ops::RangeInclusive<u32> = 7..=20;

/// The blocks of a channel are gone through so often: what is best for one depends on the others.
const SWEEPS: usize = 2;

/// Chooses the grid of each block of a channel, one block after the other, among finer ones that leave the ends of its
/// range out: the one with the least d·H·dᵀ, where d is what rounding to the nearest changes and H are second moments of
/// the operand, or the identity.
///
/// With H·d known, a block whose part of d becomes d′ changes the error by d′·H′·d′ + 2·d′·c, where H′ is the block's own
/// part of H and c what the other blocks contribute to its part of H·d.
pub(super) fn fit(weights: &[f32], grids: &mut [Grid], size: usize, second: Option<&Array2<f32>>) {
    let full = grids.to_vec();
    let mut off: Vec<f32> = weights
        .chunks(size)
        .zip(&*grids)
        .flat_map(|(block, grid)| changes(block, *grid).collect::<Vec<f32>>())
        .collect();
    let mut pull: Vec<f32> = match second {
        Some(second) => second.outer_iter().map(|row| dot(row.as_slice().unwrap_or(&[]), &off)).collect(),
        None => off.clone(),
    };
    for _ in 0..SWEEPS {
        let mut moved = false;
        for (index, block) in weights.chunks(size).enumerate() {
            let start = index * size;
            let range = start..start + block.len();
            let part = |row: usize| second.and_then(|second| second.row(row).to_slice());
            // What of H·d comes from this block itself.
            let own = |off: &[f32], place: usize| match part(start + place) {
                Some(row) => dot(&row[range.clone()], off),
                None => off[place],
            };
            let old = off[range.clone()].to_vec();
            let others: Vec<f32> =
                (0..block.len()).map(|place| pull[start + place] - own(&old, place)).collect();
            let error = |off: &[f32]| -> f64 {
                let term =
                    |place: usize| f64::from(off[place]) * f64::from(own(off, place) + 2.0 * others[place]);
                (0..block.len()).map(term).sum()
            };
            let mut best = (error(&old), grids[index], old.clone());
            for candidate in CANDIDATES {
                let grid = full[index].scaled(f64::from(candidate) / f64::from(*CANDIDATES.end()));
                let new: Vec<f32> = changes(block, grid).collect();
                let error = error(&new);
                if error < best.0 {
                    best = (error, grid, new);
                }
            }
            if best.1 == grids[index] {
                continue;
            }
            moved = true;
            grids[index] = best.1;
            let step: Vec<f32> = best.2.iter().zip(&old).map(|(new, old)| new - old).collect();
            match second {
                Some(second) => {
                    for (pull, row) in pull.iter_mut().zip(second.outer_iter()) {
                        *pull += dot(&row.to_slice().unwrap_or(&[])[range.clone()], &step);
                    }
                }
                None => pull[range.clone()].copy_from_slice(&best.2),
            }
            off[range].copy_from_slice(&best.2);
        }
        if !moved {
            break;
        }
    }
}

/// What rounding to the nearest changes.
fn changes(weights: &[f32], grid: Grid) -> impl Iterator<Item = f32> {
    weights.iter().map(move |&weight| grid.dequantize(grid.quantize(weight)) - weight)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Eight sums at a time, which the compiler makes one instruction of.
    let mut sums = [0f32; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::super::round::testing::grids;
    use super::*;

    #[test]
    fn an_outlier_gives_way_to_the_others() {
        let mut weights: Vec<f32> = (0..64).map(|index| (index as f32 * 0.7).sin() * 0.1).collect();
        weights[5] = 0.3;
        let mut chosen = grids(&weights, 64);
        let full = chosen[0];
        fit(&weights, &mut chosen, 64, None);
        let error = |grid| changes(&weights, grid).map(|off| off * off).sum::<f32>();
        assert!(chosen[0].scale < full.scale && error(chosen[0]) < error(full));
    }

    #[test]
    fn what_the_operand_lacks_does_not_count() {
        let mut weights = vec![0.01f32, 0.02, -0.015, 0.005];
        weights[3] = 1.0;
        let mut second = Array2::<f32>::eye(4);
        second[[3, 3]] = 1e-6;
        let mut chosen = grids(&weights, 4);
        let full = chosen[0];
        fit(&weights, &mut chosen, 4, Some(&second));
        assert!(chosen[0].scale < 0.5 * full.scale, "{chosen:?}");
    }
}
