//! Elements in another order of axes, moved in blocks that the caches of a processor hold.

use onnx_opt_proto::{Payload, Recipe};
use smallvec::SmallVec;

/// An axis of the result: its size, and how far apart its elements lie in the operand and in the result, in elements.
#[derive(Clone, Copy)]
struct Axis {
    size: usize,
    from: usize,
    to: usize,
}

/// Side of a square of elements that is moved at once: both its rows and its columns stay in the nearest cache.
const BLOCK: usize = 16;

/// The dense elements of a tensor in another order of axes.
pub(super) struct Transposed {
    raw: Payload,
    width: usize,
    axes: Axes,
}

type Axes = SmallVec<[Axis; 4]>;

impl Transposed {
    /// The elements of a tensor of this `shape`, `width` bytes each, with axis `i` of the result being axis
    /// `permutation[i]`. `permutation` is one of all axes. `None` for widths that no element type has, and where bytes
    /// and shape do not fit.
    pub(super) fn new(raw: Payload, width: usize, shape: &[usize], permutation: &[usize]) -> Option<Self> {
        let count = super::element_count(shape)?;
        let fits = matches!(width, 1 | 2 | 4 | 8 | 16) && raw.len() == count.checked_mul(width)?;
        fits.then(|| Self { raw, width, axes: merged(shape, permutation) })
    }
}

impl Recipe for Transposed {
    fn fill(&self, start: usize, part: &mut [u8]) {
        if part.is_empty() {
            return;
        }
        // Kept, as any part of the result may take elements of all the operand.
        let raw = self.raw.bytes();
        let end = start + part.len();
        match self.width {
            1 => Boxes::<1>::new(raw, part).fill(&self.axes, 0, start, end),
            2 => Boxes::<2>::new(raw, part).fill(&self.axes, 0, start / 2, end / 2),
            4 => Boxes::<4>::new(raw, part).fill(&self.axes, 0, start / 4, end / 4),
            8 => Boxes::<8>::new(raw, part).fill(&self.axes, 0, start / 8, end / 8),
            _ => Boxes::<16>::new(raw, part).fill(&self.axes, 0, start / 16, end / 16),
        }
    }
}

/// Elements of a result that are put in place box by box, each of which has whole axes behind its first one.
struct Boxes<'a, const WIDTH: usize> {
    operand: &'a [[u8; WIDTH]],
    /// What is still to be filled.
    result: &'a mut [[u8; WIDTH]],
}

impl<'a, const WIDTH: usize> Boxes<'a, WIDTH> {
    fn new(operand: &'a [u8], result: &'a mut [u8]) -> Self {
        Self { operand: operand.as_chunks().0, result: result.as_chunks_mut().0 }
    }

    /// Fills in what `axes` have between two places, of the operand from `base` on.
    fn fill(&mut self, axes: &[Axis], base: usize, start: usize, end: usize) {
        let Some((first, inner)) = axes.split_first() else {
            return self.fill_box(&[], base, end - start);
        };
        let (index, within) = (start / first.to, start % first.to);
        let last = end / first.to;
        if within > 0 && end.div_ceil(first.to) == index + 1 {
            return self.fill(inner, base + index * first.from, within, within + end - start);
        }
        if within > 0 {
            self.fill(inner, base + index * first.from, within, first.to);
        }
        let whole = start.div_ceil(first.to);
        if whole < last {
            let mut axes = Axes::from_slice(axes);
            axes[0].size = last - whole;
            self.fill_box(&axes, base + whole * first.from, (last - whole) * first.to);
        }
        if end > last * first.to {
            self.fill(inner, base + last * first.from, 0, end - last * first.to);
        }
    }

    fn fill_box(&mut self, axes: &[Axis], base: usize, count: usize) {
        let result = std::mem::take(&mut self.result);
        let (result, rest) = result.split_at_mut(count);
        self.result = rest;
        let operand = &self.operand[base..];
        match axes {
            [.., Axis { from: 1, .. }] => by_rows(operand, axes, result),
            _ => by_blocks(operand, axes, result),
        }
    }
}

/// The axes of the result, without those of size 1, and those that stay side by side as one.
fn merged(shape: &[usize], permutation: &[usize]) -> Axes {
    let strides = super::row_major_strides(shape);
    let mut axes = Axes::new();
    for &axis in permutation.iter().filter(|&&axis| shape[axis] != 1) {
        let (size, from) = (shape[axis], strides[axis]);
        match axes.last_mut() {
            Some(last) if last.from == from.wrapping_mul(size) => {
                *last = Axis { size: last.size * size, from, to: 1 }
            }
            _ => axes.push(Axis { size, from, to: 1 }),
        }
    }
    for index in (1..axes.len()).rev() {
        axes[index - 1].to = axes[index].to.wrapping_mul(axes[index].size);
    }
    axes
}

/// Calls `visit` with the offsets in operand and result of every index of these axes, the last one fastest.
fn each_index(axes: &[Axis], visit: &mut dyn FnMut(usize, usize)) {
    if axes.iter().any(|axis| axis.size == 0) {
        return;
    }
    let mut index = vec![0; axes.len()];
    let (mut from, mut to) = (0, 0);
    loop {
        visit(from, to);
        let mut place = axes.len();
        loop {
            let Some(before) = place.checked_sub(1) else { return };
            place = before;
            let axis = axes[place];
            index[place] += 1;
            from += axis.from;
            to += axis.to;
            if index[place] < axis.size {
                break;
            }
            from -= axis.from * axis.size;
            to -= axis.to * axis.size;
            index[place] = 0;
        }
    }
}

/// Runs of the last axis lie together in both.
fn by_rows<T: Copy>(operand: &[T], axes: &[Axis], result: &mut [T]) {
    let Some((row, outer)) = axes.split_last() else { return };
    each_index(outer, &mut |from, to| {
        result[to..to + row.size].copy_from_slice(&operand[from..from + row.size]);
    });
}

/// Squares over the last axis of the result and that along which the operand lies, for every index of the others.
fn by_blocks<T: Copy>(operand: &[T], axes: &[Axis], result: &mut [T]) {
    /// Of an element alone, and of a line across the operand.
    const ONE: Axis = Axis { size: 1, from: 1, to: 1 };
    let (&row, rest) = axes.split_last().unwrap_or((&ONE, &[]));
    let along = rest.iter().position(|axis| axis.from == 1);
    let mut outer = rest.to_vec();
    let column = along.map_or(ONE, |along| outer.remove(along));
    let (width, height) = (BLOCK.min(row.size), BLOCK.min(column.size));
    each_index(&outer, &mut |from, to| {
        // Along the lines of the operand, whose next elements a processor fetches ahead.
        for left in begins(row.size) {
            for top in begins(column.size) {
                let operand = &operand[from + top + left * row.from..];
                let result = &mut result[to + top * column.to + left..];
                match [width, height] {
                    [BLOCK, BLOCK] => square(operand, row.from, result, column.to),
                    _ => part(operand, row.from, result, column.to, width, height),
                }
            }
        }
    });
}

/// Where blocks begin that cover an axis of this size. The last one covers some of the one before again, so that it is
/// whole too.
fn begins(size: usize) -> impl Iterator<Item = usize> {
    (0..size.div_ceil(BLOCK)).map(move |block| (block * BLOCK).min(size.saturating_sub(BLOCK)))
}

/// Puts lines of [`BLOCK`] elements of the operand, which are `from` apart, in place as columns of the result, whose
/// lines are `to` apart.
fn square<T: Copy>(operand: &[T], from: usize, result: &mut [T], to: usize) {
    // Lines that are far apart may displace each other from a cache: each of them is touched once.
    let square: [[T; BLOCK]; BLOCK] = std::array::from_fn(|x| {
        let line = &operand[x * from..][..BLOCK];
        std::array::from_fn(|y| line[y])
    });
    for y in 0..BLOCK {
        let line: [_; BLOCK] = std::array::from_fn(|x| square[x][y]);
        result[y * to..][..BLOCK].copy_from_slice(&line);
    }
}

/// The same for `width` lines of `height` elements, where an axis is shorter than a square. Apart from squares, whose
/// sizes the compiler knows.
#[inline(never)]
fn part<T: Copy>(operand: &[T], from: usize, result: &mut [T], to: usize, width: usize, height: usize) {
    for y in 0..height {
        for x in 0..width {
            result[y * to + x] = operand[x * from + y];
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Element by element, from the definition.
    fn expected(raw: &[u8], width: usize, shape: &[usize], permutation: &[usize]) -> Vec<u8> {
        let strides = crate::tensor::row_major_strides(shape);
        let mut out = Vec::new();
        for place in 0..shape.iter().product() {
            let (mut rest, mut from) = (place, 0);
            for &axis in permutation.iter().rev() {
                from += rest % shape[axis] * strides[axis];
                rest /= shape[axis];
            }
            out.extend_from_slice(&raw[from * width..(from + 1) * width]);
        }
        out
    }

    fn transposed(raw: &[u8], width: usize, shape: &[usize], permutation: &[usize]) -> Transposed {
        Transposed::new(raw.to_vec().into(), width, shape, permutation).unwrap()
    }

    /// What the recipe has between two elements.
    fn filled(recipe: &Transposed, start: usize, end: usize) -> Vec<u8> {
        let mut part = vec![0; (end - start) * recipe.width];
        recipe.fill(start * recipe.width, &mut part);
        part
    }

    proptest! {
        #[test]
        fn every_order_of_axes(
            (shape, permutation) in prop::collection::vec(0usize..20, 0..4)
                .prop_flat_map(|shape| (Just((0..shape.len()).collect::<Vec<_>>()).prop_shuffle(), Just(shape)))
                .prop_map(|(permutation, shape)| (shape, permutation)),
            width in prop::sample::select(vec![1usize, 2, 4, 8, 16]),
            ends in [0.0..=1.0, 0.0..=1.0],
        ) {
            let count: usize = shape.iter().product();
            let raw: Vec<u8> = (0..count * width).map(|i| (i * 131 % 251) as u8).collect();
            let recipe = transposed(&raw, width, &shape, &permutation);
            let expected = expected(&raw, width, &shape, &permutation);
            prop_assert_eq!(&filled(&recipe, 0, count), &expected);
            let mut ends = ends.map(|end: f64| (end * count as f64) as usize);
            ends.sort_unstable();
            let [start, end] = ends;
            prop_assert_eq!(&filled(&recipe, start, end), &expected[start * width..end * width]);
        }
    }

    #[test]
    fn whole_squares_and_parts_of_them() {
        for shape in [[16, 16], [16, 40], [50, 33], [3, 64]] {
            for width in [1, 2, 4, 8, 16] {
                let raw: Vec<u8> = (0..shape[0] * shape[1] * width).map(|i| (i * 131 % 251) as u8).collect();
                let result = filled(&transposed(&raw, width, &shape, &[1, 0]), 0, shape[0] * shape[1]);
                assert_eq!(result, expected(&raw, width, &shape, &[1, 0]), "{shape:?} {width}");
            }
        }
    }

    #[test]
    fn every_part_of_a_result() {
        let (shape, permutation) = ([3, 4, 5], [1, 2, 0]);
        let raw: Vec<u8> = (0..60 * 2).collect();
        let recipe = transposed(&raw, 2, &shape, &permutation);
        let expected = expected(&raw, 2, &shape, &permutation);
        for start in 0..60 {
            for end in start..=60 {
                assert_eq!(filled(&recipe, start, end), expected[start * 2..end * 2], "{start} {end}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Transposed::new(vec![0; 12].into(), 3, &[2, 2], &[1, 0]).is_none());
        assert!(Transposed::new(vec![0; 12].into(), 4, &[2, 2], &[1, 0]).is_none());
    }
}
