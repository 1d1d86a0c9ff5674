//! Products of constant matrices, in double precision.

use multiversion::multiversion;

use crate::threads::rows_side_by_side;

/// Multiply-accumulates that a product may take where it is computed ahead: a fraction of a second.
pub(crate) const MAX_PRODUCT: usize = 1 << 28;
/// Those that take longer than it takes to start threads.
const LONG: usize = 1 << 20;

/// Rows of the result that are summed up together: they stay in the cache for all rows of `right`.
const ROWS: usize = 8;

/// The product of two row-major matrices, `left` of `[rows, inner]` numbers and `right` of `[inner, columns]`. Each sum
/// is taken in the same order on every processor.
///
/// # Panics
/// If a matrix has fewer numbers.
pub(crate) fn product(left: &[f64], right: &[f64], [rows, inner, columns]: [usize; 3]) -> Vec<f64> {
    let mut result = vec![0.0; rows * columns];
    if result.is_empty() || inner == 0 {
        return result;
    }
    let right = &right[..inner * columns];
    let block = |number: usize, sums: &mut [f64]| {
        add_product(sums, &left[number * ROWS * inner..], right, inner, columns);
    };
    match rows * columns * inner < LONG {
        true => result.chunks_mut(ROWS * columns).enumerate().for_each(|(number, sums)| block(number, sums)),
        false => rows_side_by_side(&mut result, ROWS * columns, &block),
    }
    result
}

/// Adds the product of the first rows of `left` and of `right` to as many rows of `sums`.
#[multiversion(targets("x86_64+avx2"))]
fn add_product(sums: &mut [f64], left: &[f64], right: &[f64], inner: usize, columns: usize) {
    let fours = right.chunks_exact(4 * columns);
    let rest = fours.remainder();
    // The sums are loaded and stored once for four rows, and the four rows once for all sums.
    for (place, rows) in fours.enumerate() {
        let (first, second) = rows.split_at(2 * columns);
        let (first, second) = (first.split_at(columns), second.split_at(columns));
        for (sums, left) in sums.chunks_exact_mut(columns).zip(left.chunks_exact(inner)) {
            let (factors, _) = left[4 * place..].as_chunks::<4>();
            let [a, b, c, d] = factors[0];
            let terms = first.0.iter().zip(first.1).zip(second.0.iter().zip(second.1));
            for (sum, ((w, x), (y, z))) in sums.iter_mut().zip(terms) {
                *sum += a * w + b * x + c * y + d * z;
            }
        }
    }
    for (sums, left) in sums.chunks_exact_mut(columns).zip(left.chunks_exact(inner)) {
        for (row, factor) in rest.chunks_exact(columns).zip(&left[inner - inner % 4..]) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += factor * value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_all_sizes() {
        for (rows, inner, columns) in
            [(0, 2, 3), (2, 0, 3), (2, 3, 0), (1, 1, 1), (3, 5, 7), (4, 3, 8), (9, 4, 19), (65, 129, 130)]
        {
            let number = |place: usize| (place * 37 % 101) as f64 - 50.0;
            let left: Vec<f64> = (0..rows * inner).map(number).collect();
            let right: Vec<f64> = (0..inner * columns).map(number).collect();
            let expected: Vec<f64> = (0..rows * columns)
                .map(|place| {
                    let (row, column) = (place / columns, place % columns);
                    (0..inner).map(|k| left[row * inner + k] * right[k * columns + column]).sum()
                })
                .collect();
            assert_eq!(product(&left, &right, [rows, inner, columns]), expected, "{rows} {inner} {columns}");
        }
    }
}
