//! Weights as numbers of levels in a table, times a scale for each channel or block: w ≈ table[code]·s.

use super::error::SquaredError;
use super::layout::Blocks;

/// Which levels there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Levels {
    /// So many, wherever they serve the weights best.
    Learned(usize),
    /// The 16 quantiles of a normal distribution (Dettmers et al., 2023).
    NormalFloat,
    /// Zero and powers of two of both signs: a product is a shift.
    PowersOfTwo,
}

/// The quantiles of NF4.
const NORMAL_FLOAT: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A weight as levels.
pub(super) struct Coded {
    /// In the order of the weight.
    pub codes: Vec<u8>,
    /// Ascending.
    pub table: Vec<f32>,
    /// By block.
    pub scales: Vec<f32>,
    pub error: SquaredError,
}

/// Levels are learned from about so many weights at most.
const SAMPLE: usize = 1 << 18;

/// Levels and scales are fitted to each other so often.
const ROUNDS: usize = 6;

/// The levels of a weight, or why there are none. `importance` tells how much the square of an error counts, by channel
/// and place in the sum.
pub(super) fn coded(
    values: &[f32],
    blocks: Blocks,
    levels: Levels,
    importance: &dyn Fn(usize, usize) -> f64,
) -> Result<Coded, String> {
    if values.iter().any(|value| !value.is_finite()) {
        return Err("its weights are not finite".to_owned());
    }
    let weight = Weighted { values, blocks, importance };
    let mut scales = weight.largest();
    let mut table = match levels {
        Levels::NormalFloat => NORMAL_FLOAT.to_vec(),
        Levels::PowersOfTwo => {
            let powers = |lowest: i32| (lowest..=0).map(|power| 2f32.powi(power));
            powers(-6).map(|power| -power).chain([0.0]).chain(powers(-7)).collect()
        }
        Levels::Learned(count) => {
            let step = 2.0 / (count.max(2) - 1) as f32;
            (0..count).map(|index| index as f32 * step - 1.0).collect()
        }
    };
    table.sort_by(f32::total_cmp);
    match levels {
        Levels::NormalFloat => {}
        Levels::PowersOfTwo => weight.to_powers_of_two(&mut scales, &table),
        Levels::Learned(_) => {
            for round in 0..ROUNDS {
                let points = weight.points(&scales);
                let begun = (round == 0).then(|| quantiles(&points, table.len()));
                let from_table = clustered(&points, table.clone());
                table = match begun.map(|begun| clustered(&points, begun)) {
                    Some(other) if points.error(&other) < points.error(&from_table) => other,
                    _ => from_table,
                };
                if round + 1 < ROUNDS {
                    weight.fit_scales(&mut scales, &table);
                }
            }
        }
    }
    Ok(weight.coded(table, scales))
}

/// A number of a weight.
struct Number {
    index: usize,
    value: f32,
    /// How much the square of an error counts.
    importance: f64,
}

struct Weighted<'a> {
    values: &'a [f32],
    blocks: Blocks,
    importance: &'a dyn Fn(usize, usize) -> f64,
}

impl Weighted<'_> {
    /// Calls `visit` with each block: its index, and its numbers with their importance.
    fn for_each_block(&self, visit: &mut dyn FnMut(usize, &[Number])) {
        let Blocks { layout, size } = self.blocks;
        let mut block = Vec::with_capacity(size);
        for channel in 0..layout.channels() {
            for (number, start) in (0..layout.length).step_by(size).enumerate() {
                block.clear();
                block.extend((start..(start + size).min(layout.length)).map(|place| {
                    let index = layout.index(channel, place);
                    Number { index, value: self.values[index], importance: (self.importance)(channel, place) }
                }));
                visit(self.blocks.index(channel, number), &block);
            }
        }
    }

    /// The largest magnitude of each block, 1 where all are zero.
    fn largest(&self) -> Vec<f32> {
        let mut scales = vec![1.0; self.blocks.count()];
        self.for_each_block(&mut |index, block| {
            let largest = block.iter().map(|number| number.value.abs()).fold(0f32, f32::max);
            // Less leaves the normal numbers when it is divided by.
            if largest > 1e-30 {
                scales[index] = largest;
            }
        });
        scales
    }

    /// Each scale to the power of two that leaves the smaller error.
    fn to_powers_of_two(&self, scales: &mut [f32], table: &[f32]) {
        let ends = middles(table);
        self.for_each_block(&mut |index, block| {
            let above = scales[index].log2().ceil();
            let error = |scale: &f32| -> f64 {
                let off = |&Number { value, importance, .. }: &Number| {
                    let level = table[nearest(&ends, value / scale)] * scale;
                    importance * f64::from(level - value).powi(2)
                };
                block.iter().map(off).sum()
            };
            let candidates = [above.exp2(), (above - 1.0).exp2()];
            scales[index] =
                candidates.into_iter().min_by(|a, b| error(a).total_cmp(&error(b))).unwrap_or(1.0);
        });
    }

    /// The scale of each block that serves its levels best, by least squares.
    fn fit_scales(&self, scales: &mut [f32], table: &[f32]) {
        let ends = middles(table);
        self.for_each_block(&mut |index, block| {
            let (mut product, mut square) = (0.0, 0.0);
            for &Number { value, importance, .. } in block {
                let level = f64::from(table[nearest(&ends, value / scales[index])]);
                product += importance * level * f64::from(value);
                square += importance * level * level;
            }
            let scale = (product / square) as f32;
            if scale.is_finite() && scale > 1e-30 {
                scales[index] = scale;
            }
        });
    }

    /// The numbers over their scales, ascending. An error counts as the square of the scale times its importance.
    fn points(&self, scales: &[f32]) -> Points {
        let stride = self.values.len().div_ceil(SAMPLE).max(1);
        let mut points = Vec::with_capacity(self.values.len() / stride + 1);
        let mut count = 0usize;
        self.for_each_block(&mut |index, block| {
            for &Number { value, importance, .. } in block {
                if count.is_multiple_of(stride) {
                    let scale = scales[index];
                    points.push((value / scale, importance * f64::from(scale).powi(2)));
                }
                count += 1;
            }
        });
        Points::of(points)
    }

    fn coded(&self, table: Vec<f32>, scales: Vec<f32>) -> Coded {
        let ends = middles(&table);
        let mut made =
            Coded { codes: vec![0; self.values.len()], table, scales, error: SquaredError::default() };
        self.for_each_block(&mut |index, block| {
            let scale = made.scales[index];
            for &Number { index: place, value, .. } in block {
                let code = nearest(&ends, value / scale);
                made.codes[place] = code as u8;
                made.error.add(value, made.table[code] * scale);
            }
        });
        made
    }
}

/// Where one level gives way to the next.
fn middles(table: &[f32]) -> Vec<f32> {
    table.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect()
}

/// The level nearest to a number, given the [`middles`] of all.
fn nearest(ends: &[f32], value: f32) -> usize {
    ends.partition_point(|&end| end < value)
}

/// Numbers in ascending order, with running sums of how much they count, times them and times their squares.
struct Points {
    numbers: Vec<f32>,
    sums: Vec<[f64; 3]>,
}

impl Points {
    fn of(mut points: Vec<(f32, f64)>) -> Self {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut sums = vec![[0.0; 3]];
        let mut sum = [0.0; 3];
        for &(number, weight) in &points {
            let number = f64::from(number);
            let terms = [weight, weight * number, weight * number * number];
            sum.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
            sums.push(sum);
        }
        Self { numbers: points.into_iter().map(|(number, _)| number).collect(), sums }
    }

    /// For each level of a table the sums over the numbers nearest to it.
    fn parts(&self, table: &[f32]) -> Vec<[f64; 3]> {
        let ends =
            middles(table).into_iter().map(|end| self.numbers.partition_point(|&number| number <= end));
        let mut start = 0;
        ends.chain([self.numbers.len()])
            .map(|end| {
                let part = std::array::from_fn(|index| self.sums[end][index] - self.sums[start][index]);
                start = end;
                part
            })
            .collect()
    }

    /// The weighted sum of squares of distances to the nearest level.
    fn error(&self, table: &[f32]) -> f64 {
        let parts = self.parts(table);
        let off = |(&level, [weight, first, second]): (&f32, [f64; 3])| {
            let level = f64::from(level);
            second - 2.0 * level * first + level * level * weight
        };
        table.iter().zip(parts).map(off).sum()
    }
}

/// Levels each of which has the same share of the points.
fn quantiles(points: &Points, count: usize) -> Vec<f32> {
    let total = points.sums.last().map_or(0.0, |sum| sum[0]);
    let level = |index: usize| {
        let share = total * (index as f64 + 0.5) / count as f64;
        let place = points.sums.partition_point(|sum| sum[0] < share).saturating_sub(1);
        points.numbers.get(place).copied().unwrap_or(0.0)
    };
    (0..count).map(level).collect()
}

/// Lloyd's algorithm in one dimension: each level goes to the mean of the numbers nearest to it, until none moves. A
/// level that no number is nearest to stays.
fn clustered(points: &Points, mut table: Vec<f32>) -> Vec<f32> {
    const STEPS: usize = 60;
    for _ in 0..STEPS {
        let mut moved = false;
        let parts = points.parts(&table);
        for (level, [weight, sum, _]) in table.iter_mut().zip(parts) {
            let mean = (sum / weight) as f32;
            if weight > 0.0 && mean.is_finite() && mean != *level {
                *level = mean;
                moved = true;
            }
        }
        if !moved {
            break;
        }
        // Means of neighbours may differ by rounding alone.
        table.sort_by(f32::total_cmp);
    }
    table
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::layout::Layout;
    use super::*;

    fn row(length: usize) -> Blocks {
        Blocks::whole(Layout { outer: 1, length, inner: 1 })
    }

    fn of(values: &[f32], blocks: Blocks, levels: Levels) -> Coded {
        let made = coded(values, blocks, levels, &|_, _| 1.0).unwrap();
        assert!(made.table.is_sorted());
        made
    }

    #[test]
    fn as_many_numbers_as_levels_are_exact() {
        let values: Vec<f32> = (0..64).map(|index| [-0.3, 0.01, 0.5, 4.0][index % 4]).collect();
        let made = of(&values, row(64), Levels::Learned(4));
        assert!(made.error.decibels().is_none_or(|decibels| decibels > 120.0), "{:?}", made.error);
    }

    #[test]
    fn powers_of_two_are_exact_at_any_scale() {
        let values: Vec<f32> =
            (0..7).flat_map(|power| [0.375f32, -0.375].map(|value| value * 2f32.powi(-power))).collect();
        let scaled: Vec<f32> = values.iter().map(|value| value / 0.375 * 8.0).chain([0.0]).collect();
        assert_eq!(of(&scaled, row(15), Levels::PowersOfTwo).error.noise, 0.0);
        let made = of(&values, row(14), Levels::PowersOfTwo);
        assert!(made.scales.iter().all(|scale| scale.log2().fract() == 0.0));
        assert_eq!(made.table.len(), 16);
    }

    #[test]
    fn blocks_have_scales_of_their_own() {
        let values = [1.0, -1.0, 0.0, 0.0, 100.0, 0.0, -100.0, 100.0];
        let blocks = Blocks::of(Layout { outer: 1, length: 8, inner: 1 }, 4);
        let made = of(&values, blocks, Levels::NormalFloat);
        assert_eq!((made.scales, made.error.noise), (vec![1.0, 100.0], 0.0));
    }

    #[test]
    fn what_counts_more_is_closer() {
        let values: Vec<f32> = (0..200).map(|index| (index as f32 * 0.37).sin()).collect();
        let upper =
            |channel: usize, place: usize| if values[channel * 200 + place] > 0.0 { 100.0 } else { 1.0 };
        let noise = |importance: &dyn Fn(usize, usize) -> f64| -> f64 {
            let made = coded(&values, row(200), Levels::Learned(8), importance).unwrap();
            let level = |index: usize| made.table[usize::from(made.codes[index])] * made.scales[0];
            let off = |index: usize| f64::from(level(index) - values[index]).powi(2);
            (0..200).filter(|&index| values[index] > 0.0).map(off).sum()
        };
        assert!(noise(&upper) < 0.6 * noise(&|_, _| 1.0));
    }

    #[test]
    fn what_is_not_finite_has_no_levels() {
        assert!(coded(&[1.0, f32::NAN], row(2), Levels::Learned(2), &|_, _| 1.0).is_err());
    }
}
