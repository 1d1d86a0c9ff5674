//! Products of constant matrices, in double precision.

use multiversion::multiversion;

use crate::threads::rows_side_by_side;

/// Multiply-accumulates that a product may take where it is computed ahead: a fraction of a second.
pub(crate) const MAX_PRODUCT: usize = 1 << 28;
/// Those that take longer than it takes to start threads.
const LONG: usize = 1 << 20;

/// Rows and columns of the result that are summed up together: they stay in the cache for all rows of `right`.
const ROWS: usize = 32;
const COLUMNS: usize = 128;

/// Rows of numbers, where lines of the cache begin.
#[repr(align(64))]
struct Aligned<T>(T);

/// The product of two row-major matrices, `left` of `[rows, inner]` elements and `right` of `[inner, columns]`, each of
/// which is the number that `number` makes of it. Sums are taken in the same order on every processor.
///
/// # Panics
/// If a matrix has fewer elements.
pub(crate) fn product<T: Copy + Sync>(
    left: &[T],
    right: &[T],
    number: impl Fn(T) -> f64 + Copy + Sync,
    [rows, inner, columns]: [usize; 3],
) -> Vec<f64> {
    let mut result = vec![0.0; rows * columns];
    if result.is_empty() || inner == 0 {
        return result;
    }
    let right = &right[..inner * columns];
    let block = |place: usize, sums: &mut [f64]| {
        add_product(sums, &left[place * ROWS * inner..], right, number, inner);
    };
    match rows * columns * inner < LONG {
        true => result.chunks_mut(ROWS * columns).enumerate().for_each(|(place, sums)| block(place, sums)),
        false => rows_side_by_side(&mut result, ROWS * columns, &block),
    }
    result
}

/// Adds the product of the first rows of `left` and of `right` to as many rows of `sums`.
#[multiversion(targets("x86_64+avx2"))]
fn add_product<T: Copy>(
    sums: &mut [f64],
    left: &[T],
    right: &[T],
    number: impl Fn(T) -> f64 + Copy,
    inner: usize,
) {
    let columns = right.len() / inner;
    // Four rows at a time become numbers once, and the sums are loaded and stored once for the four.
    let Aligned(numbers) = &mut Aligned([[0.0; COLUMNS]; 4]);
    for start in (0..columns).step_by(COLUMNS) {
        let width = COLUMNS.min(columns - start);
        for (place, rows) in right.chunks(4 * columns).enumerate() {
            for (numbers, row) in numbers.iter_mut().zip(rows.chunks_exact(columns)) {
                numbers.iter_mut().zip(&row[start..][..width]).for_each(|(to, &from)| *to = number(from));
            }
            let [w, x, y, z] = &*numbers;
            for (sums, left) in sums.chunks_exact_mut(columns).zip(left.chunks_exact(inner)) {
                let sums = &mut sums[start..][..width];
                match left[4 * place..] {
                    [a, b, c, d, ..] => {
                        let [a, b, c, d] = [a, b, c, d].map(number);
                        for (sum, ((w, x), (y, z))) in
                            sums.iter_mut().zip(w.iter().zip(x).zip(y.iter().zip(z)))
                        {
                            *sum += a * w + b * x + c * y + d * z;
                        }
                    }
                    ref rest => {
                        for (&factor, row) in rest.iter().zip(&*numbers) {
                            let factor = number(factor);
                            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += factor * value);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_all_sizes() {
        for (rows, inner, columns) in
            [(0, 2, 3), (2, 0, 3), (2, 3, 0), (1, 1, 1), (3, 5, 7), (4, 3, 8), (9, 4, 19), (65, 130, 150)]
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
            assert_eq!(
                product(&left, &right, |number| number, [rows, inner, columns]),
                expected,
                "{rows} {inner} {columns}"
            );
        }
    }
}
