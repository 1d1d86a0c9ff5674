//! Operators that move elements about: other shapes of the same elements, repetitions, parts and joins.

use super::elements::{Elements, fill, is_size, is_small, size};
use super::shape_values::asked_shape;
use super::{Fact, Facts, Inference, InferenceError, Rule};
use crate::dim::Dim;
use crate::types::Shape;

type Answer = Result<Facts, InferenceError>;

pub(super) fn rule(op_type: &str) -> Option<Rule> {
    Some(match op_type {
        "Reshape" => reshape,
        "Flatten" => flatten,
        "Squeeze" => squeeze,
        "Unsqueeze" => unsqueeze,
        "Transpose" => transpose,
        "Expand" => expand,
        "Tile" => tile,
        "Concat" => concat,
        "Split" => split,
        "Pad" => pad,
        "DepthToSpace" => depth_to_space,
        "SpaceToDepth" => space_to_depth,
        "ReverseSequence" => |cx| cx.one(Fact::ranked(cx.element(0), cx.shape(0).map(Shape::from))),
        "CenterCropPad" => center_crop_pad,
        _ => return None,
    })
}

/// The first operand in another shape, its elements in the same order.
fn reshaped(cx: &Inference<'_>, shape: Shape) -> Answer {
    let elements =
        cx.elements(0).filter(|elements| Dim::fixed_product(&shape) == i64::try_from(elements.len()).ok());
    cx.one(Fact::tensor(cx.element(0), shape).with_elements(elements))
}

/// A tensor of which at most the rank is known.
fn only_rank(cx: &Inference<'_>, rank: Option<usize>) -> Answer {
    cx.one(Fact::ranked(cx.element(0), rank.map(|rank| cx.fresh_shape(rank))))
}

/// The number of elements of a vector of axes, sizes or the like; a scalar counts as one.
fn list_len(cx: &Inference<'_>, index: usize) -> Option<usize> {
    match cx.shape(index)? {
        [] => Some(1),
        // No tensor has more axes than this, and a longer list would only ask for memory.
        [count] => usize::try_from(count.as_fixed()?).ok().filter(|&count| count <= MAX_RANK),
        _ => None,
    }
}

/// Longer lists of axes are taken for damage.
const MAX_RANK: usize = 256;

/// A 0 keeps the size (unless `allowzero`), and one -1 stands for what the others leave of the number of elements.
///
/// A symbolic size counts as itself, like a divisor that is not zero: a run where it were 0 would either keep an
/// axis of the same size or leave the numbers of elements unequal.
fn reshape(cx: &Inference<'_>) -> Answer {
    let asked = match cx.node().ints("shape") {
        Some(sizes) => Some(sizes.iter().copied().map(Dim::fixed).collect()),
        None => cx.elements(1),
    };
    let input = cx.shape(0);
    let asked = match asked {
        Some(asked) => asked,
        // One axis takes all elements.
        None => match (list_len(cx, 1), input) {
            (Some(1), Some(input)) => return reshaped(cx, Shape::from_iter([Dim::product(input)])),
            (rank, _) => return only_rank(cx, rank),
        },
    };
    let keeps_zero = cx.node().int("allowzero").unwrap_or(0) != 0;
    let mut rest = None;
    let mut sizes = Vec::with_capacity(asked.len());
    for (axis, asked) in asked.into_iter().enumerate() {
        sizes.push(match asked.as_fixed() {
            Some(-1) if rest.is_some() => return Err(cx.error("two sizes are -1")),
            Some(-1) => {
                rest = Some(axis);
                None
            }
            Some(0) if !keeps_zero => match input {
                Some(input) => Some(
                    input
                        .get(axis)
                        .cloned()
                        .ok_or_else(|| cx.error(format!("there is no axis {axis} to keep")))?,
                ),
                None => None,
            },
            Some(size) if size < 0 => return Err(cx.error(format!("size {size} is negative"))),
            _ => Some(asked).filter(is_size),
        });
    }
    if let Some(input) = input {
        complete(cx, input, &mut sizes, rest)?;
    }
    reshaped(cx, sizes.into_iter().map(|size| size.unwrap_or_else(|| cx.fresh())).collect())
}

/// Derives the one size that is open from the number of elements; `rest` is the axis of the -1.
fn complete(
    cx: &Inference<'_>,
    input: &[Dim],
    sizes: &mut [Option<Dim>],
    rest: Option<usize>,
) -> Result<(), InferenceError> {
    let mut open = sizes.iter().enumerate().filter(|(_, size)| size.is_none()).map(|(axis, _)| axis);
    let unequal = |total: &Dim| cx.error(format!("{total} elements do not fill the shape"));
    match (open.next(), open.next()) {
        (None, _) => match (Dim::fixed_product(input), Dim::fixed_product(sizes.iter().flatten())) {
            (Some(total), Some(known)) if total != known => Err(unequal(&Dim::fixed(total))),
            _ => Ok(()),
        },
        (Some(axis), None) => {
            let (total, known) = (Dim::product(input), Dim::product(sizes.iter().flatten()));
            if known == Dim::fixed(0) {
                return Ok(());
            }
            sizes[axis] = match total.exact_div(&known) {
                Some(size) => Some(size),
                None if rest != Some(axis) => None,
                None if total.is_fixed() && known.is_fixed() => return Err(unequal(&total)),
                None => Some(total.floor_div(&known)),
            };
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Two axes: the product of the sizes before `axis`, and of the rest.
fn flatten(cx: &Inference<'_>) -> Answer {
    let Some(shape) = cx.shape(0) else { return only_rank(cx, Some(2)) };
    let axis = cx.node().int("axis").unwrap_or(1);
    // One more place than axes: the end counts.
    let axis = if axis == shape.len() as i64 { shape.len() } else { cx.axis(axis, shape.len())? };
    let (outer, inner) = shape.split_at(axis);
    reshaped(cx, Shape::from_iter([Dim::product(outer), Dim::product(inner)]))
}

/// Without axes, every axis of size 1 goes.
fn squeeze(cx: &Inference<'_>) -> Answer {
    let Some(shape) = cx.shape(0) else { return only_rank(cx, None) };
    let one = Dim::fixed(1);
    let squeezed = match cx.ints_or_input("axes", 1) {
        Ok(Some(axes)) if !axes.is_empty() => marked(cx, &axes, shape.len())?,
        // An empty list means no axis to some runtimes and all to others: told where both are the same.
        Ok(Some(_)) if shape.iter().any(|size| !size.proves_ne(&one)) => return only_rank(cx, None),
        Ok(_) if shape.iter().all(|size| size.is_fixed() || size.proves_ne(&one)) => {
            shape.iter().map(|size| *size == one).collect()
        }
        Ok(_) => return only_rank(cx, None),
        Err(()) => {
            let rank = list_len(cx, 1).and_then(|count| shape.len().checked_sub(count));
            return only_rank(cx, rank);
        }
    };
    let mut kept = Shape::new();
    for (size, squeezed) in shape.iter().zip(squeezed) {
        match size.as_fixed() {
            _ if !squeezed => kept.push(size.clone()),
            Some(number) if number != 1 => {
                return Err(cx.error(format!("an axis of size {number} cannot be squeezed")));
            }
            _ => {}
        }
    }
    reshaped(cx, kept)
}

/// Which of `rank` axes a list names.
///
/// # Errors
/// If one is out of range.
fn marked(cx: &Inference<'_>, axes: &[i64], rank: usize) -> Result<Vec<bool>, InferenceError> {
    let mut marked = vec![false; rank];
    for &axis in axes {
        marked[cx.axis(axis, rank)?] = true;
    }
    Ok(marked)
}

/// The axes are counted in the result.
fn unsqueeze(cx: &Inference<'_>) -> Answer {
    let Some(shape) = cx.shape(0) else { return only_rank(cx, None) };
    let axes = match cx.ints_or_input("axes", 1) {
        Ok(axes) => axes.unwrap_or_default(),
        Err(()) => return only_rank(cx, list_len(cx, 1).map(|count| shape.len() + count)),
    };
    let inserted = marked(cx, &axes, shape.len() + axes.len())?;
    if inserted.iter().filter(|inserted| **inserted).count() != axes.len() {
        return Err(cx.error("an axis is named twice"));
    }
    let mut kept = shape.iter().cloned();
    let size = |inserted| if inserted { Some(Dim::fixed(1)) } else { kept.next() };
    reshaped(cx, inserted.into_iter().filter_map(size).collect())
}

/// Without `perm` the axes are reversed.
fn transpose(cx: &Inference<'_>) -> Answer {
    let permutation = cx.node().ints("perm");
    let Some(shape) = cx.shape(0) else { return only_rank(cx, permutation.map(<[i64]>::len)) };
    let rank = shape.len();
    let permutation: Vec<usize> = match permutation {
        Some(axes) => axes.iter().map(|&axis| cx.axis(axis, rank)).collect::<Result<_, _>>()?,
        None => (0..rank).rev().collect(),
    };
    let mut sorted = permutation.clone();
    sorted.sort_unstable();
    if sorted.into_iter().ne(0..rank) {
        return Err(cx.error(format!("perm is no permutation of {rank} axes")));
    }
    let result: Shape = permutation.iter().map(|&axis| shape[axis].clone()).collect();
    let elements = Elements::of(cx, 0).and_then(|source| {
        fill(&result, |at| {
            let mut from = vec![0; rank];
            for (&axis, &at) in permutation.iter().zip(at) {
                from[axis] = at;
            }
            source.at(&from).cloned()
        })
    });
    cx.one(Fact::tensor(cx.element(0), result).with_elements(elements))
}

/// Both ways: a size of 1 in either yields to the other.
fn expand(cx: &Inference<'_>) -> Answer {
    let Some(shape) = cx.shape(0) else { return only_rank(cx, None) };
    let asked = match cx.elements(1) {
        Some(asked) => asked.iter().map(|asked| size(cx, asked)).collect(),
        None => match list_len(cx, 1) {
            Some(count) => cx.fresh_shape(count),
            None => return only_rank(cx, None),
        },
    };
    let result = cx.broadcast(shape, &asked)?;
    let elements =
        Elements::of(cx, 0).and_then(|source| fill(&result, |at| source.broadcast_at(at).cloned()));
    cx.one(Fact::tensor(cx.element(0), result).with_elements(elements))
}

/// Version 1 repeats along one axis, `tiles` times; later ones along every axis.
fn tile(cx: &Inference<'_>) -> Answer {
    let Some(shape) = cx.shape(0) else {
        return only_rank(cx, list_len(cx, 1).filter(|_| cx.version() >= 6));
    };
    let rank = shape.len();
    let repeats = if cx.version() < 6 {
        match (cx.elements(1), cx.integers(2)) {
            (Some(tiles), Some(axis)) if tiles.len() == 1 && axis.len() == 1 => {
                let axis = cx.axis(axis[0], rank)?;
                (0..rank).map(|at| if at == axis { tiles[0].clone() } else { Dim::fixed(1) }).collect()
            }
            _ => return only_rank(cx, Some(rank)),
        }
    } else {
        match cx.elements(1) {
            Some(repeats) => repeats,
            None => return only_rank(cx, Some(rank)),
        }
    };
    if repeats.len() != rank {
        return Err(cx.error(format!("{} repetitions for {rank} axes", repeats.len())));
    }
    if repeats.iter().any(|count| count.as_fixed().is_some_and(|count| count < 0)) {
        return Err(cx.error("a number of repetitions is negative"));
    }
    let result: Shape =
        shape.iter().zip(&repeats).map(|(length, repeat)| length * size(cx, repeat)).collect();
    let elements = Elements::of(cx, 0).and_then(|source| {
        fill(&result, |at| {
            let from: Option<Vec<usize>> = at
                .iter()
                .zip(shape)
                .map(|(&at, size)| at.checked_rem(usize::try_from(size.as_fixed()?).ok()?))
                .collect();
            source.at(&from?).cloned()
        })
    });
    cx.one(Fact::tensor(cx.element(0), result).with_elements(elements))
}

/// The sizes add up along the axis and agree along the others. An operand of unknown shape leaves the others known.
fn concat(cx: &Inference<'_>) -> Answer {
    let operands = 0..cx.input_count();
    let element = operands.clone().find_map(|index| cx.element(index));
    let Some(mut result) = operands.clone().find_map(|index| cx.shape(index)).map(Shape::from) else {
        return cx.one(Fact::ranked(element, None));
    };
    let axis = cx.axis(cx.node().int("axis").unwrap_or(1), result.len())?;
    let mut length = Some(Dim::fixed(0));
    for index in operands {
        let Some(shape) = cx.shape(index) else {
            length = None;
            continue;
        };
        if shape.len() != result.len() {
            return Err(cx.error(format!("ranks {} and {} differ", result.len(), shape.len())));
        }
        length = length.map(|length| length + &shape[axis]);
        for (at, (known, other)) in result.iter_mut().zip(shape).enumerate().filter(|(at, _)| *at != axis) {
            match (known.as_fixed(), other.as_fixed()) {
                (Some(a), Some(b)) if a != b => {
                    return Err(cx.error(format!("sizes {a} and {b} of axis {at} differ")));
                }
                (None, Some(_)) => *known = other.clone(),
                (None, None) if known.has_anonymous() && !other.has_anonymous() => *known = other.clone(),
                _ => {}
            }
        }
    }
    result[axis] = length.unwrap_or_else(|| cx.fresh());
    let elements = joined(cx, &result, axis);
    cx.one(Fact::tensor(element, result).with_elements(elements))
}

/// The elements of operands joined along an axis, if those of one at least are known.
fn joined(cx: &Inference<'_>, result: &[Dim], axis: usize) -> Option<Vec<Dim>> {
    let operands = 0..cx.input_count();
    // The size is looked at first: no work is done for large tensors.
    if !is_small(result) || !operands.clone().any(|index| cx.elements(index).is_some()) {
        return None;
    }
    let parts: Vec<(usize, Elements)> = operands
        .map(|index| {
            let length = usize::try_from(cx.shape(index)?.get(axis)?.as_fixed()?).ok()?;
            Some((length, Elements::of_or_unknown(cx, index)?))
        })
        .collect::<Option<_>>()?;
    if axis == 0 {
        return Some(parts.into_iter().flat_map(|(_, part)| part.elements).collect());
    }
    fill(result, |at| {
        let mut at = at.to_vec();
        for (length, part) in &parts {
            if at[axis] < *length {
                return part.at(&at).cloned();
            }
            at[axis] -= length;
        }
        None
    })
}

/// The lengths are an attribute before version 13 and an operand since. Without them the parts are equal; since
/// version 18 the last may be shorter.
fn split(cx: &Inference<'_>) -> Answer {
    let count = cx.output_count();
    let unranked = || Ok((0..count).map(|_| Fact::ranked(cx.element(0), None)).collect());
    let Some(shape) = cx.shape(0) else { return unranked() };
    let axis = cx.axis(cx.node().int("axis").unwrap_or(0), shape.len())?;
    let whole = &shape[axis];
    let lengths: Vec<Dim> = match (cx.node().ints("split"), cx.input(1)) {
        (Some(lengths), _) => lengths.iter().copied().map(Dim::fixed).collect(),
        (None, Some(_)) => match cx.elements(1) {
            Some(lengths) => lengths,
            None => cx.fresh_shape(count).into_vec(),
        },
        (None, None) => equal_parts(cx, whole)?,
    };
    if lengths.len() < count
        || lengths.iter().any(|length| length.as_fixed().is_some_and(|length| length < 0))
    {
        return Err(cx.error("the lengths of the parts do not suit the results"));
    }
    let sum = Dim::sum(&lengths);
    if sum.is_fixed() && whole.is_fixed() && sum != *whole {
        return Err(cx.error(format!("parts of {sum} in all from a size of {whole}")));
    }
    let source = Elements::of(cx, 0);
    let mut offset = Some(0usize);
    Ok(lengths
        .iter()
        .take(count)
        .map(|length| {
            let mut part = Shape::from(shape);
            part[axis] = size(cx, length);
            let elements = source.as_ref().zip(offset).and_then(|(source, offset)| {
                fill(&part, |at| {
                    let mut from = at.to_vec();
                    from[axis] = from[axis].checked_add(offset)?;
                    source.at(&from).cloned()
                })
            });
            let length = length.as_fixed().and_then(|length| usize::try_from(length).ok());
            offset = offset.zip(length).and_then(|(offset, length)| offset.checked_add(length));
            Fact::tensor(cx.element(0), part).with_elements(elements)
        })
        .collect())
}

/// The lengths of the results when a size is split evenly.
fn equal_parts(cx: &Inference<'_>, whole: &Dim) -> Result<Vec<Dim>, InferenceError> {
    let count = cx.output_count();
    let uneven = cx.version() >= 18;
    let parts = match cx.node().int("num_outputs").filter(|_| uneven) {
        Some(parts) => parts,
        None => count as i64,
    };
    if parts < 1 || parts < count as i64 {
        return Err(cx.error(format!("{parts} parts for {count} results")));
    }
    let divisor = Dim::fixed(parts);
    let mut lengths = match whole.exact_div(&divisor) {
        Some(length) => return Ok(vec![length; count]),
        None if uneven => vec![whole.ceil_div(&divisor); count],
        None if whole.is_fixed() => {
            return Err(cx.error(format!("{whole} does not split into {parts} parts")));
        }
        None => return Ok(vec![whole.floor_div(&divisor); count]),
    };
    if let Some(last) = lengths.last_mut().filter(|_| count as i64 == parts) {
        let rest = whole - &*last * Dim::fixed(parts - 1);
        // Where rounding up leaves less than nothing, runtimes disagree.
        *last = if is_size(&rest) { rest } else { cx.fresh() };
    }
    Ok(lengths)
}

/// Attribute `paddings` in version 1, `pads` before 11, then an operand, since 18 for the axes of another.
fn pad(cx: &Inference<'_>) -> Answer {
    let Some(shape) = cx.shape(0) else { return only_rank(cx, None) };
    let rank = shape.len();
    let attribute = cx.node().ints(if cx.version() < 2 { "paddings" } else { "pads" });
    let pads = match attribute {
        Some(pads) => Some(pads.iter().copied().map(Dim::fixed).collect()),
        None => cx.elements(1),
    };
    let axes: Option<Vec<usize>> = match (cx.input(3), cx.integers(3)) {
        (None, _) => Some((0..rank).collect()),
        (Some(_), Some(axes)) => {
            Some(axes.iter().map(|&axis| cx.axis(axis, rank)).collect::<Result<_, _>>()?)
        }
        (Some(_), None) => None,
    };
    let (Some(pads), Some(axes)) = (pads, axes) else { return only_rank(cx, Some(rank)) };
    if pads.len() != 2 * axes.len() {
        return Err(cx.error(format!("{} pads for {} axes", pads.len(), axes.len())));
    }
    let mut result = Shape::from(shape);
    let (begins, ends) = pads.split_at(axes.len());
    for ((&axis, begin), end) in axes.iter().zip(begins).zip(ends) {
        let padded = &result[axis] + begin + end;
        if padded.as_fixed().is_some_and(|size| size < 0) {
            return Err(cx.error(format!("the pads leave {padded} of axis {axis}")));
        }
        result[axis] = padded;
    }
    cx.one(Fact::tensor(cx.element(0), result))
}

/// Batch, channels and two more axes, and the size of a block.
///
/// # Errors
/// If it is no such tensor or the size is not positive.
fn blocks<'a>(cx: &Inference<'a>) -> Result<Option<([&'a Dim; 4], Dim)>, InferenceError> {
    let Some(block) = cx.node().int("blocksize") else { return Ok(None) };
    if block < 1 {
        return Err(cx.error(format!("blocksize {block} is not positive")));
    }
    match cx.shape(0) {
        Some([batch, channels, height, width]) => {
            Ok(Some(([batch, channels, height, width], Dim::fixed(block))))
        }
        Some(shape) => Err(cx.error(format!("rank {} is not 4", shape.len()))),
        None => Ok(None),
    }
}

/// A size in blocks.
///
/// # Errors
/// If they do not fill it.
fn in_blocks(cx: &Inference<'_>, size: &Dim, block: &Dim) -> Result<Dim, InferenceError> {
    match size.exact_div(block) {
        Some(count) => Ok(count),
        None if size.is_fixed() && block.is_fixed() => {
            Err(cx.error(format!("{size} is no multiple of {block}")))
        }
        None => Ok(size.floor_div(block)),
    }
}

fn depth_to_space(cx: &Inference<'_>) -> Answer {
    let Some(([batch, channels, height, width], block)) = blocks(cx)? else { return only_rank(cx, Some(4)) };
    let channels = in_blocks(cx, channels, &(&block * &block))?;
    cx.one(Fact::tensor(cx.element(0), [batch.clone(), channels, height * &block, width * &block]))
}

fn space_to_depth(cx: &Inference<'_>) -> Answer {
    let Some(([batch, channels, height, width], block)) = blocks(cx)? else { return only_rank(cx, Some(4)) };
    let (height, width) = (in_blocks(cx, height, &block)?, in_blocks(cx, width, &block)?);
    cx.one(Fact::tensor(cx.element(0), [batch.clone(), channels * &block * &block, height, width]))
}

/// The axes, or all of them, get the sizes of the operand.
fn center_crop_pad(cx: &Inference<'_>) -> Answer {
    let Some(shape) = cx.shape(0) else { return only_rank(cx, None) };
    let rank = shape.len();
    let axes: Vec<usize> = match cx.node().ints("axes") {
        Some(axes) => axes.iter().map(|&axis| cx.axis(axis, rank)).collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    let asked = asked_shape(cx, 1)?.unwrap_or_else(|| cx.fresh_shape(axes.len()));
    if asked.len() != axes.len() {
        return Err(cx.error(format!("{} sizes for {} axes", asked.len(), axes.len())));
    }
    let mut result = Shape::from(shape);
    for (axis, size) in axes.into_iter().zip(asked) {
        result[axis] = size;
    }
    cx.one(Fact::tensor(cx.element(0), result))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::infer::testing::{Operand, elements, int64, ints, shaped, ty, types};
    use crate::types::ElementType;

    fn float(shape: &str) -> Operand {
        shaped(ElementType::Float, shape)
    }

    /// The shape of the first result on a float operand and a vector of sizes.
    fn moved(opset: i64, op_type: &str, shape: &str, vector: &str) -> Option<String> {
        let ty = ty(opset, op_type, vec![float(shape), int64(vector)], &[]).ok()?;
        Some(ty.strip_prefix("float[")?.strip_suffix(']')?.to_owned())
    }

    #[test]
    fn reshape_derives_the_open_size() {
        for (shape, asked, expected) in [
            ("N S 768", "N S 12 64", "N, S, 12, 64"),
            ("N S 768", "0 0 12 -1", "N, S, 12, 64"),
            ("N S 768", "-1 768", "N*S, 768"),
            ("N S 768", "N -1", "N, 768*S"),
            ("N 6", "-1 4", "N + floor(N/2), 4"),
            ("2 3", "3 -1", "3, 2"),
            ("", "1", "1"),
        ] {
            assert_eq!(moved(13, "Reshape", shape, asked).unwrap(), expected, "{shape} -> {asked}");
        }
        for (shape, asked) in [("2 3", "4 -1"), ("2 3", "7"), ("2 3", "-1 -1"), ("2", "1 2 0"), ("2", "-2")] {
            assert_eq!(moved(13, "Reshape", shape, asked), None, "{shape} -> {asked}");
        }
    }

    #[test]
    fn reshape_versions_and_unknown_sizes() {
        assert_eq!(ty(1, "Reshape", vec![float("2 3")], &[("shape", vec![-1].into())]).unwrap(), "float[6]");
        let empty = || vec![float("0 3"), int64("7 0")];
        assert_eq!(ty(14, "Reshape", empty(), &[("allowzero", 1.into())]).unwrap(), "float[7, 0]");
        let unknown = |count| vec![float("N 3"), shaped(ElementType::Int64, count)];
        assert_eq!(ty(13, "Reshape", unknown("1"), &[]).unwrap(), "float[3*N]");
        assert_eq!(ty(13, "Reshape", unknown("2"), &[]).unwrap().matches('?').count(), 2);
        assert_eq!(ty(13, "Reshape", unknown("K"), &[]).unwrap(), "float[...]");
        assert_eq!(ty(13, "Reshape", unknown("99999999999"), &[]).unwrap(), "float[...]");
        // N - 1 may be -1.
        let asked = vec![Dim::symbol("N") - Dim::fixed(1), Dim::symbol("M")];
        let asked = (crate::types::Type::tensor(ElementType::Int64, [Dim::fixed(2)]), Some(asked));
        assert_eq!(ty(13, "Reshape", vec![float("N M"), asked.into()], &[]).unwrap(), "float[N, M]");
    }

    #[test]
    fn axes_come_and_go() {
        for (opset, op_type, axes, expected) in [
            (11, "Flatten", vec![("axis", 2.into())], "float[N, 3*S]"),
            (11, "Flatten", vec![("axis", 4.into())], "float[3*N*S, 1]"),
            (11, "Squeeze", vec![("axes", vec![-3].into())], "float[N, 3, S]"),
            (11, "Squeeze", vec![], "float[...]"),
            (11, "Unsqueeze", vec![("axes", vec![-1, 0].into())], "float[1, N, 1, 3, S, 1]"),
            (11, "Transpose", vec![], "float[S, 3, 1, N]"),
            (11, "Transpose", vec![("perm", vec![0, 2, 1, 3].into())], "float[N, 3, 1, S]"),
        ] {
            assert_eq!(ty(opset, op_type, vec![float("N 1 3 S")], &axes).unwrap(), expected, "{op_type}");
        }
        for (op_type, attribute, value) in [
            ("Flatten", "axis", 5.into()),
            ("Squeeze", "axes", vec![2].into()),
            ("Squeeze", "axes", vec![i64::MIN].into()),
            ("Unsqueeze", "axes", vec![0, 0].into()),
            ("Transpose", "perm", vec![0, 0, 1, 2].into()),
            ("Transpose", "perm", vec![0].into()),
        ] {
            assert!(ty(11, op_type, vec![float("N 1 3 S")], &[(attribute, value)]).is_err(), "{op_type}");
        }
        assert_eq!(moved(13, "Squeeze", "1 N 1", "0 -1").unwrap(), "N");
        assert_eq!(moved(13, "Unsqueeze", "N", "0").unwrap(), "1, N");
        let unknown = vec![float("N 1"), shaped(ElementType::Int64, "1")];
        assert_eq!(ty(13, "Squeeze", unknown, &[]).unwrap().matches('?').count(), 1);
    }

    #[test]
    fn repetitions() {
        assert_eq!(moved(13, "Expand", "N 1 3", "S 1").unwrap(), "N, S, 3");
        assert_eq!(moved(13, "Expand", "3", "2"), None);
        assert_eq!(moved(13, "Tile", "N 3", "2 M").unwrap(), "2*N, 3*M");
        assert_eq!(moved(13, "Tile", "N 3", "2"), None);
        assert_eq!(moved(13, "Tile", "N 3", "2 -1"), None);
        let tiled = vec![float("N 3"), ints(&[2]), ints(&[1])];
        assert_eq!(ty(1, "Tile", tiled, &[]).unwrap(), "float[N, 6]");
        let twice = elements(13, "Tile", vec![int64("N 3"), ints(&[2])], &[]).unwrap();
        assert_eq!(twice.unwrap(), "N, 3, N, 3");
    }

    #[test]
    fn joins() {
        let axis = |axis: i64| [("axis", axis.into())];
        let three = || vec![float("N 2 H"), float("N 3 H"), float("M C 7")];
        assert_eq!(ty(13, "Concat", three(), &axis(1)).unwrap(), "float[N, C + 5, 7]");
        assert!(ty(13, "Concat", three(), &axis(3)).is_err());
        assert!(ty(13, "Concat", vec![float("2 2"), float("2 3")], &axis(0)).is_err());
        let sizes = || vec![int64("N 3"), ints(&[-1])];
        assert_eq!(elements(13, "Concat", sizes(), &axis(0)).unwrap().unwrap(), "N, 3, -1");
        let partly = vec![int64("N"), shaped(ElementType::Int64, "1")];
        assert!(elements(13, "Concat", partly, &axis(0)).unwrap().unwrap().starts_with("N, "));
    }

    #[test]
    fn parts() {
        let split = |opset, shape, lengths: Option<&[i64]>, attributes: &[_], outputs| {
            let mut operands = vec![float(shape)];
            operands.extend(lengths.map(ints));
            types(opset, "Split", operands, attributes, outputs).map(|types| types.join(" "))
        };
        assert_eq!(
            split(13, "N 6", Some(&[2, 4]), &[("axis", 1.into())], 2).unwrap(),
            "float[N, 2] float[N, 4]"
        );
        assert_eq!(split(2, "6", None, &[("split", vec![2, 4].into())], 2).unwrap(), "float[2] float[4]");
        assert_eq!(split(13, "4", None, &[], 2).unwrap(), "float[2] float[2]");
        assert_eq!(split(13, "N", None, &[], 2).unwrap(), "float[floor(N/2)] float[floor(N/2)]");
        assert_eq!(
            split(18, "7", None, &[("num_outputs", 3.into())], 3).unwrap(),
            "float[3] float[3] float[1]"
        );
        assert!(split(13, "5", None, &[], 2).is_err());
        assert!(split(13, "5", Some(&[2, 4]), &[], 2).is_err());
        assert!(split(18, "5", None, &[("num_outputs", i64::MIN.into())], 1).is_err());
    }

    #[test]
    fn pads() {
        assert_eq!(moved(13, "Pad", "N 3", "1 0 1 -2").unwrap(), "N + 2, 1");
        assert_eq!(moved(13, "Pad", "N 3", "0 -2 0 -2"), None);
        assert_eq!(moved(13, "Pad", "N 3", "1 0 1"), None);
        let axes = vec![float("N 3"), ints(&[1, 1]), Operand::Absent, ints(&[-1])];
        assert_eq!(ty(18, "Pad", axes, &[]).unwrap(), "float[N, 5]");
        let attribute = [("pads", vec![0, 1, 0, 1].into())];
        assert_eq!(ty(2, "Pad", vec![float("N 3")], &attribute).unwrap(), "float[N, 5]");
        let attribute = [("pads", vec![i64::MAX, 0, i64::MAX, 0].into())];
        assert!(ty(2, "Pad", vec![float("N 3")], &attribute).unwrap().starts_with("float[opaque"));
    }

    #[test]
    fn blocks_of_pixels() {
        let block = |size: i64| [("blocksize", size.into())];
        assert_eq!(
            ty(13, "DepthToSpace", vec![float("N 8 H W")], &block(2)).unwrap(),
            "float[N, 2, 2*H, 2*W]"
        );
        assert_eq!(ty(13, "SpaceToDepth", vec![float("N C 4 6")], &block(2)).unwrap(), "float[N, 4*C, 2, 3]");
        assert!(ty(13, "DepthToSpace", vec![float("1 6 2 2")], &block(2)).is_err());
        assert!(ty(13, "DepthToSpace", vec![float("1 6 2 2")], &block(i64::MIN)).is_err());
    }

    #[test]
    fn crops() {
        let asked = vec![float("N 8 9"), int64("5 K")];
        let axes = [("axes", vec![-1, 0].into())];
        assert_eq!(ty(18, "CenterCropPad", asked, &axes).unwrap(), "float[K, 8, 5]");
    }
}
