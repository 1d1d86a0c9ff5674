//! What takes the units of a group, and what it can make up for when some go.
//!
//! Of what a weight takes, H = E xxᵀ, with a last column of ones for the bias. ([H⁻¹]_GG)⁻¹ is what of the columns G is
//! left when all others have told what they can of it. Units go one after the other, the one that is worth least first:
//! one that has gone tells nothing of the next.

use std::collections::{BTreeMap, BTreeSet};

use onnx_opt_ir::{Graph, Model, ValueId};

use super::group::{Group, Groups, Member};
use super::importance::worth_after;
use super::linear::Cholesky;
use super::product::Product;
use crate::gradient::Writer;
use crate::measure::{MeasureError, Total, Totals, prepared, sums};

/// The products that take units of groups.
pub(super) struct Takers {
    by_weight: BTreeMap<ValueId, Taker>,
}

/// A weight and the moments of what it takes.
struct Taker {
    /// The axis of the weight that units are on.
    axis: usize,
    /// tr(W·C·Wᵀ) with the covariance C of what it takes.
    energy: f64,
    /// The variance of each column.
    variances: Vec<f64>,
    /// Before anything goes.
    fitted: Fitted,
}

/// What is lost with a unit, as one of its takers is: by its number, with its columns there.
type Loss<'a> = dyn Fn(usize, &Taker, &Fitted, &[usize]) -> f64 + 'a;

impl Takers {
    /// Those of some groups, by what they take of samples.
    ///
    /// # Errors
    /// If the moments cannot be written or run.
    pub fn of(
        graph: &Graph,
        groups: &Groups,
        base: &Model,
        totals: &dyn Totals,
    ) -> Result<Self, MeasureError> {
        let mut model = prepared(graph, base)?;
        let members = groups.groups.iter().flat_map(|group| &group.weights);
        let cut: BTreeSet<(ValueId, usize)> = members.map(|member| (member.value, member.axis)).collect();
        let products: Vec<(Product, usize)> = graph
            .nodes()
            .filter_map(|(id, _)| Product::of(&model.graph, id, totals.samples()))
            .filter_map(|product| Some((product.operand_axis()?, product)))
            .filter(|(axis, product)| cut.contains(&(product.weight, *axis)))
            .map(|(axis, product)| (product, axis))
            .collect();
        let mut outputs = Vec::new();
        let mut w = Writer::new(&mut model.graph);
        for (number, (product, _)) in products.iter().enumerate() {
            let rows = product.operand(&mut w, product.x, true)?;
            outputs.push((number.to_string(), product.moments(&mut w, rows, rows)?));
        }
        let totals = sums(&mut model, outputs, totals, 1)?;
        let taker = |(number, (product, axis)): (usize, &(Product, usize))| {
            Some((product.weight, Taker::of(graph, product, *axis, totals.get(&number.to_string())?)?))
        };
        Ok(Self { by_weight: products.iter().enumerate().filter_map(taker).collect() })
    }

    /// For each unit of a group the error when it has gone too and the others make up for it; `None` if nothing is known
    /// to take them.
    pub fn errors(&self, group: &Group) -> Option<Vec<f64>> {
        let error = |_, taker: &Taker, fitted: &Fitted, columns: &[usize]| taker.error(fitted, columns);
        self.eliminate(group, &error, &|errors| errors.iter().sum())
    }

    /// What units are worth, as far as the others cannot make up for it.
    pub fn left(&self, group: &Group, worth: Vec<f64>) -> Vec<f64> {
        let share = |unit: usize, taker: &Taker, fitted: &Fitted, columns: &[usize]| {
            worth[unit] * taker.share(fitted, columns)
        };
        let mean = |parts: &[f64]| parts.iter().sum::<f64>() / parts.len() as f64;
        self.eliminate(group, &share, &mean).unwrap_or(worth)
    }

    /// Units of a group one after the other, that of the least loss first: what each is worth when those before have gone.
    fn eliminate(
        &self,
        group: &Group,
        loss: &Loss<'_>,
        over_takers: &dyn Fn(&[f64]) -> f64,
    ) -> Option<Vec<f64>> {
        let taken = |member: &Member| {
            let taker = self.by_weight.get(&member.value).filter(|taker| taker.axis == member.axis)?;
            let columns = (0..group.len()).map(|unit| taker.fitted.columns(member.of_unit(unit)));
            Some((taker, columns.collect::<Vec<_>>(), taker.fitted.clone()))
        };
        let mut takers: Vec<_> = group.weights.iter().filter_map(taken).collect();
        if takers.is_empty() {
            return None;
        }
        let mut losses = vec![0.0; group.len()];
        let mut left: Vec<usize> = (0..group.len()).collect();
        let mut most: f64 = 0.0;
        while !left.is_empty() {
            let now = |&unit: &usize| -> f64 {
                let parts =
                    takers.iter().map(|(taker, columns, fitted)| loss(unit, taker, fitted, &columns[unit]));
                over_takers(&parts.collect::<Vec<f64>>())
            };
            let all: Vec<f64> = left.iter().map(now).collect();
            let least = (0..left.len()).min_by(|&a, &b| all[a].total_cmp(&all[b]))?;
            most = worth_after(most, all[least]);
            let unit = left.remove(least);
            losses[unit] = most;
            takers.iter_mut().for_each(|(_, columns, fitted)| fitted.remove(&columns[unit]));
        }
        Some(losses)
    }
}

impl Taker {
    fn of(graph: &Graph, product: &Product, axis: usize, total: &Total) -> Option<Self> {
        let width = product.columns() + 1;
        if product.groups != 1 || total.values.len() != width * width {
            return None;
        }
        let moments = &total.values;
        let count = moments[width * width - 1].max(1.0);
        let mean = (0..width - 1).map(|i| moments[i * width + i]).sum::<f64>() / (width - 1) as f64;
        let mut damped = moments.clone();
        for i in 0..width {
            damped[i * width + i] += if i < width - 1 { 0.01 * mean } else { 1e-9 * count };
        }
        let inverse = Cholesky::of(damped, width)?.inverse();
        let weight = product.matrix(graph.constant(product.weight)?)?;
        let covariance = |i: usize, j: usize| {
            moments[i * width + j] - moments[i * width + width - 1] * moments[j * width + width - 1] / count
        };
        let mut energy = 0.0;
        for row in weight.chunks(width - 1) {
            for (i, a) in row.iter().enumerate() {
                for (j, b) in row.iter().enumerate() {
                    energy += a * b * covariance(i, j);
                }
            }
        }
        let variances = (0..width - 1).map(|i| covariance(i, i)).collect();
        let fitted = Fitted { inverse, weight, width, taps: product.taps() };
        Some(Self { axis, energy, variances, fitted })
    }

    /// ½ tr(W_G·S·W_Gᵀ) with what is left, S, as a share of all that the weight gives.
    fn error(&self, fitted: &Fitted, columns: &[usize]) -> f64 {
        let Some(left) = fitted.left(columns) else { return 0.0 };
        let part = |row: &[f64]| columns.iter().map(|&column| row[column]).collect::<Vec<f64>>();
        let error: f64 = fitted.weight.chunks(fitted.width - 1).map(|row| left.energy(&part(row))).sum();
        0.5 * error / self.energy.max(f64::MIN_POSITIVE)
    }

    /// tr S / tr C_GG: the share of these columns that is left.
    fn share(&self, fitted: &Fitted, columns: &[usize]) -> f64 {
        let all: f64 = columns.iter().map(|&column| self.variances[column]).sum();
        let left = fitted.left(columns).map_or(0.0, |left| left.trace());
        if all > 0.0 { (left / all).min(1.0) } else { 0.0 }
    }
}

/// What is left when columns have gone, the others being fitted to do without them: their own are zero.
#[derive(Clone)]
struct Fitted {
    /// H⁻¹ in rows.
    inverse: Vec<f64>,
    /// W in rows, without the column of the bias.
    weight: Vec<f64>,
    /// Columns, with that of the bias.
    width: usize,
    /// Columns of one channel.
    taps: usize,
}

impl Fitted {
    /// The columns of these channels.
    fn columns(&self, channels: &[u32]) -> Vec<usize> {
        let taps = |&channel: &u32| (0..self.taps).map(move |tap| channel as usize * self.taps + tap);
        channels.iter().flat_map(taps).filter(|&column| column < self.width - 1).collect()
    }

    /// [H⁻¹]_GG
    fn block(&self, columns: &[usize]) -> Option<Cholesky> {
        let row = |&i: &usize| columns.iter().map(move |&j| self.inverse[i * self.width + j]);
        Cholesky::of(columns.iter().flat_map(row).collect(), columns.len())
    }

    /// What is left of some columns when the others have told what they can.
    fn left(&self, columns: &[usize]) -> Option<Block> {
        Some(Block { rows: self.block(columns)?.inverse(), size: columns.len() })
    }

    /// Takes columns G out: H⁻¹ − [H⁻¹]_:G·([H⁻¹]_GG)⁻¹·[H⁻¹]_G: is the inverse without them, and
    /// W − W_:G·([H⁻¹]_GG)⁻¹·[H⁻¹]_G: makes up for them.
    fn remove(&mut self, columns: &[usize]) {
        let Some(block) = self.block(columns) else { return };
        let width = self.width;
        let gone: Vec<f64> =
            columns.iter().flat_map(|&i| self.inverse[i * width..(i + 1) * width].to_vec()).collect();
        for row in self.inverse.chunks_mut(width).chain(self.weight.chunks_mut(width - 1)) {
            let mut factors: Vec<f64> = columns.iter().map(|&column| row[column]).collect();
            if factors.iter().all(|&factor| factor == 0.0) {
                continue;
            }
            block.solve(&mut factors);
            for (factor, other) in factors.iter().zip(gone.chunks(width)) {
                row.iter_mut().zip(other).for_each(|(value, other)| *value -= factor * other);
            }
            columns.iter().for_each(|&column| row[column] = 0.0);
        }
        columns.iter().for_each(|&i| self.inverse[i * width..(i + 1) * width].fill(0.0));
    }
}

/// A small symmetric matrix.
struct Block {
    rows: Vec<f64>,
    size: usize,
}

impl Block {
    fn trace(&self) -> f64 {
        (0..self.size).map(|i| self.rows[i * self.size + i]).sum()
    }

    /// vᵀ·S·v
    fn energy(&self, v: &[f64]) -> f64 {
        let product = |row: &[f64]| row.iter().zip(v).map(|(a, b)| a * b).sum::<f64>();
        self.rows.chunks(self.size.max(1)).zip(v).map(|(row, a)| a * product(row)).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// H = diag(1, 2, 4) with 0.5 beside the diagonal of the first two.
    #[test]
    fn what_is_left_is_what_others_do_not_tell() {
        let rows = vec![1.0, 0.5, 0.0, 0.5, 2.0, 0.0, 0.0, 0.0, 4.0];
        let inverse = Cholesky::of(rows, 3).unwrap().inverse();
        let mut fitted = Fitted { inverse, weight: vec![3.0, 1.0], width: 3, taps: 1 };
        let left = |fitted: &Fitted, column| fitted.left(&[column]).unwrap().trace();
        // 1 - 0.5² / 2
        assert!((left(&fitted, 0) - 0.875).abs() < 1e-12);
        fitted.remove(&[1]);
        // Nobody is left to tell, and half of the second is in the first.
        assert!((left(&fitted, 0) - 1.0).abs() < 1e-12);
        assert!((fitted.weight[0] - 3.5).abs() < 1e-12 && fitted.weight[1] == 0.0, "{:?}", fitted.weight);
        assert!((fitted.inverse[8] - 0.25).abs() < 1e-12 && fitted.inverse[4] == 0.0);
    }
}
