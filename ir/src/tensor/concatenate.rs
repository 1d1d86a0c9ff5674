//! Tensors one after the other along an axis.

use onnx_opt_proto::{Payload, Recipe};

use super::{Tensor, element_count};

impl Tensor {
    /// Tensors one after the other along `axis`, which has the size of theirs together. `None` if they differ in another
    /// axis or in their elements, and for elements smaller than a byte.
    pub fn concatenated(parts: &[&Self], axis: usize) -> Option<Self> {
        let first = *parts.first()?;
        let mut shape = first.shape().to_vec();
        *shape.get_mut(axis)? =
            parts.iter().try_fold(0usize, |sum, part| sum.checked_add(*part.shape().get(axis)?))?;
        let alike = |part: &&Self| {
            part.element() == first.element()
                && part.rank() == first.rank()
                && (0..first.rank()).all(|other| other == axis || part.shape()[other] == shape[other])
        };
        if !parts.iter().all(alike) {
            return None;
        }
        let rows = element_count(&shape[..axis])?;
        if let Some(strings) = parts.iter().map(|part| part.strings()).collect::<Option<Vec<_>>>() {
            let strings = in_turns(&strings, rows, element_count(&shape)?);
            return Self::from_strings(&shape, strings).ok();
        }
        let parts = parts.iter().map(|part| part.payload()).collect();
        Self::deferred(first.element(), &shape, Concatenated { parts, rows }).ok()
    }
}

/// What lies in turns a row of each part.
struct Concatenated {
    parts: Vec<Payload>,
    rows: usize,
}

/// Bytes of rows that are filled in together: the cache of a processor holds them.
const TOGETHER: usize = 1 << 18;

impl Recipe for Concatenated {
    fn fill(&self, start: usize, part: &mut [u8]) {
        if part.is_empty() {
            return;
        }
        let row: usize = self.parts.iter().map(|part| part.len() / self.rows).sum();
        let (mut start, mut rest) = (start, part);
        while !rest.is_empty() {
            let (index, within) = (start / row, start % row);
            let rows = rest.len().min(TOGETHER) / row;
            let several = within == 0 && rows > 1;
            let count = if several { rows * row } else { rest.len().min(row - within) };
            let (part, after) = rest.split_at_mut(count);
            match several {
                true => self.fill_rows(index, part, row),
                false => self.fill_part_of_row(index, within, part),
            }
            (start, rest) = (start + count, after);
        }
    }
}

impl Concatenated {
    /// Fills `out` with what row `index` has from `within` on.
    fn fill_part_of_row(&self, index: usize, mut within: usize, mut out: &mut [u8]) {
        for part in &self.parts {
            let length = part.len() / self.rows;
            let count = length.saturating_sub(within).min(out.len());
            let (here, after) = out.split_at_mut(count);
            if count > 0 {
                part.fill(index * length + within, here);
            }
            within = within.saturating_sub(length);
            out = after;
        }
    }

    /// Fills `out` with whole rows of `row` bytes, from row `first` on: of each part several at once, which may take less
    /// than one by one.
    fn fill_rows(&self, first: usize, out: &mut [u8], row: usize) {
        let (mut room, mut column) = (Vec::new(), 0);
        for part in &self.parts {
            let length = part.len() / self.rows;
            let lines = part.part(first * length, out.len() / row * length, &mut room);
            for (to, from) in out.chunks_exact_mut(row).zip(lines.chunks_exact(length.max(1))) {
                to[column..column + length].copy_from_slice(from);
            }
            column += length;
        }
    }
}

/// A row of each part, and so on, `count` items.
fn in_turns<T: Clone>(parts: &[&[T]], rows: usize, count: usize) -> Vec<T> {
    let mut all = Vec::with_capacity(count);
    for row in 0..rows {
        for part in parts {
            let length = part.len() / rows;
            all.extend_from_slice(&part[row * length..(row + 1) * length]);
        }
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::ElementType;

    fn numbers(shape: &[usize], first: usize) -> Tensor {
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (first..first + count).map(|value| value as f32).collect();
        Tensor::from_f32(shape, &values).unwrap()
    }

    #[test]
    fn rows_lie_in_turns() {
        let (a, b) = (numbers(&[2, 1], 0), numbers(&[2, 2], 10));
        let joined = Tensor::concatenated(&[&a, &b], 1).unwrap();
        assert_eq!(
            (joined.shape(), joined.to_f32().unwrap()),
            (&[2, 3][..], vec![0., 10., 11., 1., 12., 13.])
        );
        assert_eq!(Tensor::concatenated(&[&a, &a], 0).unwrap().to_f32().unwrap(), [0., 1., 0., 1.]);
    }

    #[test]
    fn without_rows_or_columns_there_is_nothing() {
        for (a, b, axis, shape) in
            [([0, 2], [0, 3], 1, [0, 5]), ([2, 0], [2, 0], 1, [2, 0]), ([0, 2], [1, 2], 0, [1, 2])]
        {
            let joined = Tensor::concatenated(&[&numbers(&a, 0), &numbers(&b, 0)], axis).unwrap();
            assert_eq!((joined.shape(), joined.raw().len()), (&shape[..], 4 * shape[0] * shape[1]));
        }
    }

    #[test]
    fn texts_lie_in_turns() {
        let texts = |texts: [&'static str; 2]| {
            let bytes = texts.map(|text| Bytes::from_static(text.as_bytes()));
            Tensor::from_strings(&[2, 1], bytes.to_vec()).unwrap()
        };
        let joined = Tensor::concatenated(&[&texts(["a", "b"]), &texts(["c", "d"])], 1).unwrap();
        assert_eq!(joined.strings().unwrap(), ["a", "c", "b", "d"]);
    }

    #[test]
    fn what_differs_elsewhere_does_not_fit() {
        let a = numbers(&[2, 2], 0);
        let none: [&Tensor; 0] = [];
        let bytes = Tensor::from_integers(ElementType::Int8, &[2, 2], &[0; 4]).unwrap();
        assert_eq!(Tensor::concatenated(&none, 0), None);
        assert_eq!(Tensor::concatenated(&[&a, &numbers(&[2, 3], 0)], 0), None);
        assert_eq!(Tensor::concatenated(&[&a, &numbers(&[4], 0)], 0), None);
        assert_eq!(Tensor::concatenated(&[&a, &bytes], 0), None);
        assert_eq!(Tensor::concatenated(&[&a], 2), None);
    }

    #[test]
    fn large_parts_that_are_deferred_themselves() {
        let (a, b) = (numbers(&[300, 400], 0), numbers(&[200, 400], 7));
        let turned = [&a, &b].map(|part| part.transposed(&[1, 0]).unwrap());
        assert!(turned.iter().all(|part| part.payload().is_deferred()));
        let joined = Tensor::concatenated(&[&turned[0], &turned[1]], 1).unwrap();
        let expected = Tensor::concatenated(&[&a, &b], 0).unwrap().transposed(&[1, 0]).unwrap();
        assert!(joined.payload().is_deferred() && joined == expected);
    }

    #[test]
    fn a_part_is_what_the_whole_has_there() {
        let parts = [numbers(&[7, 3, 5], 0), numbers(&[7, 1, 5], 1000), numbers(&[7, 4, 5], 2000)];
        let recipe = Concatenated { parts: parts.iter().map(Tensor::payload).collect(), rows: 7 };
        let slices: Vec<Bytes> = parts.iter().map(Tensor::to_raw).collect();
        let slices: Vec<&[u8]> = slices.iter().map(|part| &part[..]).collect();
        let whole = in_turns(&slices, 7, 7 * 8 * 5 * 4);
        for start in (0..whole.len()).step_by(4) {
            for end in (start..=whole.len()).step_by(4) {
                let mut part = vec![0; end - start];
                recipe.fill(start, &mut part);
                assert_eq!(part, whole[start..end], "{start} {end}");
            }
        }
    }
}
