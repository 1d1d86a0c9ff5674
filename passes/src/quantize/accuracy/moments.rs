//! What is known of the operand of a product: its mean and its second moments.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Serialize};

/// The moments of vectors x: E[x] and E[x·xᵀ]. Memory does not grow with the number of vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Moments {
    count: u64,
    sums: Vec<f64>,
    products: Array2<f64>,
}

/// Moments as they are handed over: of the products, which are symmetric, the lower triangle.
#[derive(Serialize, Deserialize)]
struct Stored {
    count: u64,
    sums: Vec<f64>,
    lower: Vec<f64>,
}

impl From<Moments> for Stored {
    fn from(moments: Moments) -> Self {
        let rows = moments.products.rows().into_iter().enumerate();
        let lower = rows.flat_map(|(place, row)| row.to_vec().into_iter().take(place + 1)).collect();
        Self { count: moments.count, sums: moments.sums, lower }
    }
}

impl TryFrom<Stored> for Moments {
    type Error = &'static str;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        let size = stored.sums.len();
        if stored.lower.len() != size * (size + 1) / 2 {
            return Err("the products are not those of the sums");
        }
        let products = Array2::from_shape_fn((size, size), |(row, column)| {
            let (row, column) = (row.max(column), row.min(column));
            stored.lower[row * (row + 1) / 2 + column]
        });
        Ok(Self { count: stored.count, sums: stored.sums, products })
    }
}

/// Moments by the name of the node that multiplies: one for each group of a convolution, else one. The vectors are what
/// the weights of a channel are multiplied with, in their order: rows of a matrix, windows of an image.
pub type LayerMoments = BTreeMap<String, Vec<Moments>>;

impl Moments {
    /// Of no vectors of this size.
    pub fn new(size: usize) -> Self {
        Self { count: 0, sums: vec![0.0; size], products: Array2::zeros((size, size)) }
    }

    /// Elements of a vector.
    pub fn size(&self) -> usize {
        self.sums.len()
    }

    /// Number of vectors.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes in vectors, the rows of a row-major matrix. A row that is not whole is left out.
    pub fn observe(&mut self, rows: &[f32]) {
        // The products of so many rows are summed up in single precision.
        const ROWS: usize = 256;
        let size = self.size().max(1);
        for part in rows.chunks(ROWS * size) {
            let count = part.len() / size;
            let Ok(matrix) = ArrayView2::from_shape((count, size), &part[..count * size]) else { return };
            for row in matrix.rows() {
                self.sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            }
            let products = matrix.t().dot(&matrix);
            self.products.zip_mut_with(&products, |sum, &value| *sum += f64::from(value));
            self.count += count as u64;
        }
    }

    /// Takes in what other moments saw. Moments of another size are left out.
    pub fn merge(&mut self, other: &Self) {
        if other.size() != self.size() {
            return;
        }
        self.count += other.count;
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, value)| *sum += value);
        self.products += &other.products;
    }

    /// E[x].
    pub fn mean(&self) -> Vec<f64> {
        let count = self.count.max(1) as f64;
        self.sums.iter().map(|sum| sum / count).collect()
    }

    /// E[x·xᵀ], with a hundredth of the mean of its diagonal added to that: directions that were never seen count
    /// a little.
    pub(super) fn damped(&self) -> Array2<f64> {
        let mut second = &self.products / self.count.max(1) as f64;
        let mean = second.diag().mean().unwrap_or(0.0);
        let damping = if mean > 0.0 { 0.01 * mean } else { 1.0 };
        second.diag_mut().iter_mut().for_each(|value| *value += damping);
        second
    }

    /// E[x²] of each element.
    pub fn squares(&self) -> Vec<f64> {
        let count = self.count.max(1) as f64;
        self.products.diag().iter().map(|sum| sum / count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_means_of_products() {
        let mut all = Moments::new(2);
        all.observe(&[1.0, 2.0, 3.0, -4.0]);
        assert_eq!((all.count(), all.mean(), all.squares()), (2, vec![2.0, -1.0], vec![5.0, 10.0]));
        let damped = all.damped();
        assert_eq!((damped[[0, 1]], damped[[1, 0]]), (-5.0, -5.0));
        assert!((damped[[0, 0]] - 5.075).abs() < 1e-12);
        let mut parts = Moments::new(2);
        parts.observe(&[1.0, 2.0]);
        let mut last = Moments::new(2);
        last.observe(&[3.0, -4.0]);
        parts.merge(&last);
        assert_eq!(parts, all);
        parts.merge(&Moments::new(3));
        assert_eq!(parts, all);
    }
}
