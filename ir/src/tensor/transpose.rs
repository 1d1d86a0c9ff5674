//! Elements in another order of axes, moved in blocks that the caches of a processor hold.

use std::mem::MaybeUninit;

/// An axis of the result: its size, and how far apart its elements lie in the operand and in the result, in elements.
#[derive(Clone, Copy)]
struct Axis {
    size: usize,
    from: usize,
    to: usize,
}

/// Side of a square of elements that is moved at once: both its rows and its columns stay in the nearest cache.
const BLOCK: usize = 16;

/// The dense elements of a tensor, `width` bytes each, with axis `i` of the result being axis `permutation[i]` of
/// `shape`. `permutation` is one of all axes. `None` for widths that no element type has.
pub(super) fn transpose(raw: &[u8], width: usize, shape: &[usize], permutation: &[usize]) -> Option<Vec<u8>> {
    let axes = merged(shape, permutation);
    match axes.as_slice() {
        _ if raw.is_empty() => Some(Vec::new()),
        [] | [.., Axis { from: 1, .. }] => Some(by_rows(raw, width, &axes)),
        _ => match width {
            1 => by_blocks::<1>(raw, &axes),
            2 => by_blocks::<2>(raw, &axes),
            4 => by_blocks::<4>(raw, &axes),
            8 => by_blocks::<8>(raw, &axes),
            16 => by_blocks::<16>(raw, &axes),
            _ => None,
        },
    }
}

/// The axes of the result, without those of size 1, and those that stay side by side as one.
fn merged(shape: &[usize], permutation: &[usize]) -> Vec<Axis> {
    let strides = super::row_major_strides(shape);
    let mut axes: Vec<Axis> = Vec::new();
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
fn by_rows(raw: &[u8], width: usize, axes: &[Axis]) -> Vec<u8> {
    let Some((row, outer)) = axes.split_last() else { return raw.to_vec() };
    let mut out = Vec::with_capacity(raw.len());
    each_index(outer, &mut |from, _| out.extend_from_slice(&raw[from * width..(from + row.size) * width]));
    out
}

/// The last axis of the operand is an earlier one of the result: squares over these two, for every index of the others.
fn by_blocks<const WIDTH: usize>(raw: &[u8], axes: &[Axis]) -> Option<Vec<u8>> {
    let (row, rest) = axes.split_last()?;
    let column = rest.iter().position(|axis| axis.from == 1)?;
    let mut outer = rest.to_vec();
    let column = outer.remove(column);
    let (operand, _) = raw.as_chunks::<WIDTH>();
    if axes.iter().map(|axis| axis.size).product::<usize>() != operand.len() {
        return None;
    }
    let mut out = Vec::with_capacity(operand.len());
    let result = &mut out.spare_capacity_mut()[..operand.len()];
    each_index(&outer, &mut |from, to| {
        // Along the lines of the operand, whose next elements a processor fetches ahead.
        for left in (0..row.size).step_by(BLOCK) {
            let width = BLOCK.min(row.size - left);
            for top in (0..column.size).step_by(BLOCK) {
                let height = BLOCK.min(column.size - top);
                let operand = &operand[from + top + left * row.from..];
                let result = &mut result[to + top * column.to + left..];
                match [width, height] {
                    [BLOCK, BLOCK] => square(operand, row.from, result, column.to),
                    _ => part(operand, row.from, result, column.to, width, height),
                }
            }
        }
    });
    // SAFETY: there are as many places as the axes have indices, which lead to one each, and all have been filled.
    unsafe { out.set_len(operand.len()) };
    Some(out.into_flattened())
}

/// Puts lines of [`BLOCK`] elements of the operand, which are `from` apart, in place as columns of the result, whose
/// lines are `to` apart.
fn square<T: Copy>(operand: &[T], from: usize, result: &mut [MaybeUninit<T>], to: usize) {
    // Lines that are far apart may displace each other from a cache: each of them is touched once.
    let mut square = [[operand[0]; BLOCK]; BLOCK];
    for (x, line) in square.iter_mut().enumerate() {
        line.copy_from_slice(&operand[x * from..][..BLOCK]);
    }
    for y in 0..BLOCK {
        let line: [_; BLOCK] = std::array::from_fn(|x| MaybeUninit::new(square[x][y]));
        result[y * to..][..BLOCK].copy_from_slice(&line);
    }
}

/// The same for lines of `height` elements, `width` of them. Apart from whole squares, whose sizes the compiler knows.
#[inline(never)]
fn part<T: Copy>(
    operand: &[T],
    from: usize,
    result: &mut [MaybeUninit<T>],
    to: usize,
    width: usize,
    height: usize,
) {
    for y in 0..height {
        for x in 0..width {
            result[y * to + x].write(operand[x * from + y]);
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

    proptest! {
        #[test]
        fn every_order_of_axes(
            (shape, permutation) in prop::collection::vec(0usize..20, 0..4)
                .prop_flat_map(|shape| (Just((0..shape.len()).collect::<Vec<_>>()).prop_shuffle(), Just(shape)))
                .prop_map(|(permutation, shape)| (shape, permutation)),
            width in prop::sample::select(vec![1usize, 2, 4, 8, 16]),
        ) {
            let count: usize = shape.iter().product();
            let raw: Vec<u8> = (0..count * width).map(|i| (i * 131 % 251) as u8).collect();
            let result = transpose(&raw, width, &shape, &permutation).unwrap();
            prop_assert_eq!(result, expected(&raw, width, &shape, &permutation));
        }
    }

    #[test]
    fn whole_squares_and_parts_of_them() {
        for shape in [[16, 16], [16, 40], [50, 33], [3, 64]] {
            for width in [1, 2, 4, 8, 16] {
                let raw: Vec<u8> = (0..shape[0] * shape[1] * width).map(|i| (i * 131 % 251) as u8).collect();
                let result = transpose(&raw, width, &shape, &[1, 0]).unwrap();
                assert_eq!(result, expected(&raw, width, &shape, &[1, 0]), "{shape:?} {width}");
            }
        }
    }

    #[test]
    fn no_element_is_three_bytes_wide() {
        assert_eq!(transpose(&[0; 12], 3, &[2, 2], &[1, 0]), None);
    }
}
