//! Operators that move elements and compute nothing: gradients move back.

use onnx_opt_ir::{NewNode, ValueId};

use super::Rule;
use super::gather::scatter_along;
use super::step::{Gradients, Step};
use super::writer::{Size, Written};

pub(super) const RULES: &[(&str, Rule)] = &[
    ("Concat", concat),
    ("DepthToSpace", depth_to_space),
    ("Expand", expand),
    ("Flatten", reshape),
    ("Pad", pad),
    ("Reshape", reshape),
    ("Slice", slice),
    ("SpaceToDepth", space_to_depth),
    ("Split", split),
    ("Squeeze", reshape),
    ("Tile", tile),
    ("Transpose", transpose),
    ("Trilu", trilu),
    ("Unsqueeze", reshape),
];

/// The same elements under another shape: g under that of x.
fn reshape(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x) = (s.gradient()?, s.input(0)?);
    let gradient = s.reshape_as(g, x)?;
    s.first(gradient)
}

/// The inverse permutation.
fn transpose(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x) = (s.gradient()?, s.input(0)?);
    let order: Vec<usize> = match s.node.ints("perm") {
        Some(order) => order.iter().filter_map(|&axis| usize::try_from(axis).ok()).collect(),
        None => (0..s.rank(x)?).rev().collect(),
    };
    let mut inverse = vec![0; order.len()];
    for (place, &axis) in order.iter().enumerate() {
        *inverse.get_mut(axis).ok_or("`perm` is no permutation")? = place;
    }
    let gradient = s.transpose(g, &inverse)?;
    s.first(gradient)
}

/// What was repeated is summed.
fn expand(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x) = (s.gradient()?, s.input(0)?);
    let gradient = s.unbroadcast(g, x)?;
    s.first(gradient)
}

/// The part of each operand.
fn concat(s: &mut Step<'_, '_>) -> Gradients {
    let (g, operands) = (s.gradient()?, s.node.inputs().to_vec());
    if operands.len() == 1 {
        return s.first(g);
    }
    let axis = s.axis_of("axis", g)?;
    let mut sizes = Vec::new();
    for operand in operands.iter().flatten() {
        sizes.push(Size::Of(*operand, axis));
    }
    let fixed =
        operands.iter().flatten().map(|&operand| s.fixed_axis(operand, axis)).collect::<Option<Vec<_>>>();
    let sizes = match fixed {
        Some(fixed) => s.integers(&fixed),
        None => {
            let mut parts = Vec::new();
            for operand in operands.iter().flatten() {
                parts.push(s.size_of(*operand, axis)?);
            }
            s.concat(&parts, 0)?
        }
    };
    let node = NewNode { outputs: operands.len(), ..NewNode::new("Split", [g, sizes]) };
    let parts = s.results(node.with("axis", axis as i64))?;
    Ok(parts.into_iter().map(Some).collect())
}

/// The parts joined; zeros for one that has no gradient.
fn split(s: &mut Step<'_, '_>) -> Gradients {
    let x = s.input(0)?;
    let axis = s.axis_of("axis", x)?;
    let some = s.gradients.iter().flatten().next().copied().ok_or("no result has a gradient")?;
    let mut parts = Vec::new();
    for index in 0..s.gradients.len() {
        let part = match s.gradients[index] {
            Some(gradient) => gradient,
            None => {
                let output = s.node.output(index).ok_or("a result is left out")?;
                s.zeros(output, some)?
            }
        };
        parts.push(part);
    }
    let gradient = s.concat(&parts, axis as i64)?;
    s.first(gradient)
}

/// Zeros where nothing was taken. Where places are numbers and steps are 1 that is a `Pad`; else the places of the
/// elements are sliced as the elements were, and tell where each gradient belongs.
fn slice(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x) = (s.gradient()?, s.input(0)?);
    if let Some(pads) = slice_pads(s, x) {
        let gradient = padded(s, g, &pads)?;
        return s.first(gradient);
    }
    let size = s.op("Size", &[x])?;
    let (zero, one) = (s.integer(0)?, s.integer(1)?);
    let places = s.op("Range", &[zero, size, one])?;
    let places = s.reshape_as(places, x)?;
    let mut operands = s.node.inputs().to_vec();
    operands[0] = Some(places);
    let taken = s.node(NewNode { inputs: operands, ..NewNode::new("Slice", []) })?;
    let (taken, g) = (s.reshape(taken, &[-1])?, s.reshape(g, &[-1])?);
    let zeros = s.zeros(places, g)?;
    let flat = s.reshape(zeros, &[-1])?;
    let node = NewNode::new("ScatterElements", [flat, taken, g]).with("axis", 0i64).with("reduction", "add");
    let gradient = s.node(node)?;
    let gradient = s.reshape_as(gradient, x)?;
    s.first(gradient)
}

/// How many elements of each axis lie before and after a slice of step 1.
fn slice_pads(s: &Step<'_, '_>, x: ValueId) -> Option<Vec<(i64, i64)>> {
    let rank = s.graph.rank(x)?;
    let fixed = |index: usize| -> Option<Option<Vec<i64>>> {
        let Some(operand) = s.node.input(index) else { return Some(None) };
        let elements = s.graph.elements(operand)?;
        elements.iter().map(onnx_opt_ir::Dim::as_fixed).collect::<Option<Vec<i64>>>().map(Some)
    };
    let (starts, ends) = (fixed(1)??, fixed(2)??);
    let axes = fixed(3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    if fixed(4)?.is_some_and(|steps| steps.iter().any(|&step| step != 1)) {
        return None;
    }
    let mut pads = vec![(0, 0); rank];
    for ((&start, &end), &axis) in starts.iter().zip(&ends).zip(&axes) {
        let axis = s.axis(axis, rank).ok()?;
        let size = s.fixed_axis(x, axis)?;
        let place = |place: i64| (if place < 0 { place.saturating_add(size) } else { place }).clamp(0, size);
        let (start, end) = (place(start), place(end));
        pads[axis] = (start, size - end.max(start));
    }
    Some(pads)
}

/// With zeros around, so many before and after on each axis; where it is less than none, elements go.
pub(super) fn padded(s: &mut Step<'_, '_>, x: ValueId, pads: &[(i64, i64)]) -> Written {
    let mut x = x;
    if pads.iter().any(|&(before, after)| before < 0 || after < 0) {
        let cut: Vec<(usize, i64, i64)> = pads
            .iter()
            .enumerate()
            .filter(|(_, (before, after))| *before < 0 || *after < 0)
            .map(|(axis, &(before, after))| (axis, -before.min(0), if after < 0 { after } else { i64::MAX }))
            .collect();
        let axes: Vec<i64> = cut.iter().map(|(axis, ..)| *axis as i64).collect();
        let starts: Vec<i64> = cut.iter().map(|(_, start, _)| *start).collect();
        let ends: Vec<i64> = cut.iter().map(|(.., end)| *end).collect();
        x = s.slice(x, &axes, &starts, &ends)?;
    }
    if pads.iter().all(|&(before, after)| before <= 0 && after <= 0) {
        return Ok(x);
    }
    let before = pads.iter().map(|&(before, _)| before.max(0));
    let all: Vec<i64> = before.chain(pads.iter().map(|&(_, after)| after.max(0))).collect();
    let pads = s.integers(&all);
    s.op("Pad", &[x, pads])
}

/// Of constants around x: what lies inside. Of copies of x around it: each copy's gradient goes where it came from.
fn pad(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x, pads) = (s.gradient()?, s.input(0)?, s.input(1)?);
    if s.wants(2) {
        return Err("the constant that it pads with has a gradient".into());
    }
    let rank = s.rank(x)?;
    let mode = s.string("mode");
    let Some(given) = s.list("pads", 1)? else { return Err("`pads` is missing".into()) };
    let axes: Vec<usize> = match s.list("axes", 3)? {
        None => (0..rank).collect(),
        Some(axes) => axes.iter().map(|&axis| s.axis(axis, rank)).collect::<Written<_>>()?,
    };
    let _ = pads;
    if given.len() != 2 * axes.len() {
        return Err("`pads` is not of two for each axis".into());
    }
    let mut all = vec![(0, 0); rank];
    for (place, &axis) in axes.iter().enumerate() {
        all[axis] = (given[place], given[axes.len() + place]);
    }
    if mode.is_empty() || mode == "constant" {
        let inverse: Vec<(i64, i64)> = all.iter().map(|&(before, after)| (-before, -after)).collect();
        let gradient = padded(s, g, &inverse)?;
        return s.first(gradient);
    }
    let mut gradient = g;
    for (axis, &(before, after)) in all.iter().enumerate().filter(|(_, pads)| **pads != (0, 0)) {
        let size = s.fixed_axis(x, axis).ok_or_else(|| format!("size {axis} of its operand is not known"))?;
        let sources: Option<Vec<i64>> =
            (-before..size + after).map(|place| source(&mode, place, size)).collect();
        let sources = sources.ok_or_else(|| format!("no padding by mode {mode}"))?;
        let indices = s.integers(&sources);
        gradient = scatter_along(s, gradient, indices, axis, Size::Fixed(size))?;
    }
    s.first(gradient)
}

/// The element that a padded place shows.
fn source(mode: &str, place: i64, size: i64) -> Option<i64> {
    if size < 1 {
        return None;
    }
    match mode {
        "edge" => Some(place.clamp(0, size - 1)),
        "wrap" => Some(place.rem_euclid(size)),
        "reflect" if size == 1 => Some(0),
        "reflect" => {
            let period = 2 * (size - 1);
            let place = place.rem_euclid(period);
            Some(place.min(period - place))
        }
        _ => None,
    }
}

/// The repeats, each an axis of its own, summed.
fn tile(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x, repeats) = (s.gradient()?, s.input(0)?, s.input(1)?);
    let rank = s.rank(x)?;
    let axes: Vec<usize> = (0..rank).map(|axis| 2 * axis).collect();
    let known = s.list("repeats", 1).ok().flatten();
    let shape = match (known, s.fixed(x)) {
        (Some(repeats), Ok(sizes)) => {
            let pairs: Vec<i64> = repeats.iter().zip(&sizes).flat_map(|(&n, &size)| [n, size]).collect();
            s.integers(&pairs)
        }
        _ => {
            let sizes = s.op("Shape", &[x])?;
            let (repeats, sizes) = (s.unsqueeze(repeats, &[1])?, s.unsqueeze(sizes, &[1])?);
            let pairs = s.concat(&[repeats, sizes], 1)?;
            s.reshape(pairs, &[-1])?
        }
    };
    let parts = s.op("Reshape", &[g, shape])?;
    let sum = s.sum(parts, &axes, false)?;
    let gradient = s.reshape_as(sum, x)?;
    s.first(gradient)
}

/// The part that was kept.
fn trilu(s: &mut Step<'_, '_>) -> Gradients {
    let g = s.gradient()?;
    let upper = s.int("upper")?;
    let mut inputs = vec![Some(g)];
    inputs.extend(s.node.input(1).map(Some));
    let gradient = s.node(NewNode { inputs, ..NewNode::new("Trilu", []) }.with("upper", upper))?;
    s.first(gradient)
}

/// `SpaceToDepth`; where depth comes first, blocks are moved by hand.
fn depth_to_space(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x) = (s.gradient()?, s.input(0)?);
    let block = s.int("blocksize")?;
    if s.string("mode") != "CRD" {
        let gradient = s.op_with("SpaceToDepth", &[g], "blocksize", block)?;
        return s.first(gradient);
    }
    let depth = s.fixed_axis(g, 1).ok_or("the number of channels is not known")?;
    let spatial = [Size::Of(x, 2), Size::Fixed(block), Size::Of(x, 3), Size::Fixed(block)];
    let sizes = [&[Size::Of(x, 0), Size::Fixed(depth)], &spatial[..]].concat();
    let blocks = s.reshape_to(g, &sizes)?;
    let moved = s.transpose(blocks, &[0, 1, 3, 5, 2, 4])?;
    let gradient = s.reshape_as(moved, x)?;
    s.first(gradient)
}

fn space_to_depth(s: &mut Step<'_, '_>) -> Gradients {
    let g = s.gradient()?;
    if s.string("mode") == "CRD" {
        return Err("mode CRD".into());
    }
    let block = s.int("blocksize")?;
    let gradient = s.op_with("DepthToSpace", &[g], "blocksize", block)?;
    s.first(gradient)
}

/// Graphs on which these rules are tried.
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used)]
pub(super) fn examples() -> Vec<super::example::Example> {
    use onnx_opt_ir::{ElementType, Tensor};

    use super::example::Example;

    let mut examples = vec![
        Example::new("Reshape", "two axes of three", 18, |t| {
            let x = t.input("x", &[2, 3, 2], -2.0, 2.0);
            let shape = t.integers(&[3, -1]);
            t.op("Reshape", &[x, shape])
        }),
        Example::new("Reshape", "sizes that have names", 18, |t| {
            let x = t.symbolic_input("x", &["n", "m", "2"], &[2, 3, 2], -2.0, 2.0);
            let shape = t.integers(&[0, -1]);
            let y = t.op("Reshape", &[x, shape]);
            t.op("Mul", &[y, y])
        }),
        Example::new("Flatten", "two axes of three", 18, |t| {
            let x = t.input("x", &[2, 3, 2], -2.0, 2.0);
            t.node(NewNode::new("Flatten", [x]).with("axis", 2i64))
        }),
        Example::new("Squeeze", "an axis", 18, |t| {
            let x = t.input("x", &[2, 1, 3], -2.0, 2.0);
            let axes = t.integers(&[1]);
            t.op("Squeeze", &[x, axes])
        }),
        Example::new("Unsqueeze", "two axes", 18, |t| {
            let x = t.input("x", &[2, 3], -2.0, 2.0);
            let axes = t.integers(&[0, -1]);
            t.op("Unsqueeze", &[x, axes])
        }),
        Example::new("Transpose", "an order", 18, |t| {
            let x = t.input("x", &[2, 3, 4], -2.0, 2.0);
            t.node(NewNode::new("Transpose", [x]).with("perm", vec![2i64, 0, 1]))
        }),
        Example::new("Transpose", "the default", 18, |t| {
            let x = t.input("x", &[2, 3, 4], -2.0, 2.0);
            t.op("Transpose", &[x])
        }),
        Example::new("Expand", "a row to a batch", 18, |t| {
            let x = t.input("x", &[3, 1], -2.0, 2.0);
            let shape = t.integers(&[2, 1, 4]);
            t.op("Expand", &[x, shape])
        }),
        Example::new("Concat", "three parts", 18, |t| {
            let a = t.input("a", &[2, 1, 2], -2.0, 2.0);
            let b = t.input("b", &[2, 3, 2], -2.0, 2.0);
            let c = t.input("c", &[2, 2, 2], -2.0, 2.0);
            t.node(NewNode::new("Concat", [a, b, c]).with("axis", -2i64))
        }),
        Example::new("Split", "three parts, one of them unused", 18, |t| {
            let x = t.input("x", &[2, 6], -2.0, 2.0);
            let sizes = t.integers(&[1, 3, 2]);
            let node = NewNode { outputs: 3, ..NewNode::new("Split", [x, sizes]) };
            let parts = t.results(node.with("axis", 1i64));
            let square = t.op("Mul", &[parts[0], parts[0]]);
            t.op("Mul", &[square, parts[2]])
        }),
        Example::new("Slice", "step 1", 18, |t| {
            let x = t.input("x", &[3, 5], -2.0, 2.0);
            let (starts, ends, axes) = (t.integers(&[1, -4]), t.integers(&[9, -1]), t.integers(&[0, 1]));
            t.op("Slice", &[x, starts, ends, axes])
        }),
        Example::new("Slice", "steps 2 and -1", 18, |t| {
            let x = t.input("x", &[3, 5], -2.0, 2.0);
            let (starts, ends) = (t.integers(&[2, 0]), t.integers(&[-9, 5]));
            let (axes, steps) = (t.integers(&[0, 1]), t.integers(&[-1, 2]));
            t.op("Slice", &[x, starts, ends, axes, steps])
        }),
        Example::new("Pad", "constant, also less", 18, |t| {
            let x = t.input("x", &[3, 4], -2.0, 2.0);
            let (pads, value) = (t.integers(&[1, -1, 2, 0]), t.scalar(0.5));
            t.op("Pad", &[x, pads, value])
        }),
        Example::new("Pad", "constant along an axis", 18, |t| {
            let x = t.input("x", &[3, 4], -2.0, 2.0);
            let (pads, value, axes) = (t.integers(&[2, 1]), t.scalar(0.0), t.integers(&[-1]));
            t.op("Pad", &[x, pads, value, axes])
        }),
        Example::new("Tile", "both axes", 18, |t| {
            let x = t.input("x", &[2, 3], -2.0, 2.0);
            let repeats = t.integers(&[2, 3]);
            t.op("Tile", &[x, repeats])
        }),
        Example::new("SpaceToDepth", "blocks of two", 18, |t| {
            let x = t.input("x", &[1, 2, 4, 6], -2.0, 2.0);
            t.node(NewNode::new("SpaceToDepth", [x]).with("blocksize", 2i64))
        }),
    ];
    for mode in ["reflect", "edge"] {
        examples.push(Example::new("Pad", mode, 18, move |t| {
            let x = t.input("x", &[3, 4], -2.0, 2.0);
            let pads = t.integers(&[1, 2, 2, 3]);
            t.node(NewNode::new("Pad", [x, pads]).with("mode", mode))
        }));
    }
    examples.push(Example::new("Pad", "wrap", 19, |t| {
        let x = t.input("x", &[3, 4], -2.0, 2.0);
        let pads = t.integers(&[1, 2, 2, 3]);
        t.node(NewNode::new("Pad", [x, pads]).with("mode", "wrap"))
    }));
    for mode in ["DCR", "CRD"] {
        examples.push(Example::new("DepthToSpace", mode, 18, move |t| {
            let x = t.input("x", &[1, 8, 2, 3], -2.0, 2.0);
            t.node(NewNode::new("DepthToSpace", [x]).with("blocksize", 2i64).with("mode", mode))
        }));
    }
    for (words, upper, k) in [("the upper part", 1i64, 1i64), ("the lower part", 0, -1)] {
        examples.push(Example::new("Trilu", words, 18, move |t| {
            let x = t.input("x", &[2, 3, 4], -2.0, 2.0);
            let k = t.tensor_constant(Tensor::scalar(ElementType::Int64, k as f64).unwrap());
            t.node(NewNode::new("Trilu", [x, k]).with("upper", upper))
        }));
    }
    examples
}
