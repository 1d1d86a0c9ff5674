//! Convolutions.

use onnx_opt_ir::{NewNode, ValueId};

use super::Rule;
use super::step::{Gradients, Step};
use super::window::Window;
use super::writer::Written;

pub(super) const RULES: &[(&str, Rule)] = &[("Conv", conv), ("ConvTranspose", conv_transpose)];

/// The kernel of weights of two leading axes.
fn kernel(s: &Step<'_, '_>, weights: ValueId) -> Written<Vec<i64>> {
    Ok(s.fixed(weights)?.split_off(2))
}

/// The sum over the batch and all positions.
fn bias(s: &mut Step<'_, '_>, g: ValueId) -> Written<Option<ValueId>> {
    if !s.wants(2) {
        return Ok(None);
    }
    let rank = s.rank(g)?;
    let axes: Vec<usize> = (0..rank).filter(|&axis| axis != 1).collect();
    s.sum(g, &axes, false).map(Some)
}

/// x: the transposed convolution of g. The weights: x convolved with g, where strides and dilations change places.
fn conv(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x, weights) = (s.gradient()?, s.input(0)?, s.input(1)?);
    let window = Window::of(s, kernel(s, weights)?, x, g)?;
    let group = s.int("group")?;
    let of_x = match s.wants(0) {
        true => Some(window.spread(s, g, weights, group, x)?),
        false => None,
    };
    let of_weights = if s.wants(1) { Some(window.weights(s, x, g, group)?) } else { None };
    Ok(vec![of_x, of_weights, bias(s, g)?])
}

/// x: the convolution of g. The weights: as of a convolution whose operand is the result here.
fn conv_transpose(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x, weights) = (s.gradient()?, s.input(0)?, s.input(1)?);
    let group = s.int("group")?;
    let window = transposed_window(s, kernel(s, weights)?, x, g)?;
    let of_x = if s.wants(0) {
        let node = NewNode::new("Conv", [g, weights])
            .with("strides", window.strides.clone())
            .with("dilations", window.dilations.clone())
            .with("pads", window.pads())
            .with("group", group);
        let found = s.node(node)?;
        Some(cut_to(s, found, x)?)
    } else {
        None
    };
    let of_weights = if s.wants(1) { Some(window.weights(s, g, x, group)?) } else { None };
    Ok(vec![of_x, of_weights, bias(s, g)?])
}

/// The window of a transposed convolution from x to g, whose padding its sizes tell where it is not written.
fn transposed_window(s: &Step<'_, '_>, kernel: Vec<i64>, x: ValueId, g: ValueId) -> Written<Window> {
    let auto = s.string("auto_pad");
    let written = auto.is_empty() || auto == "NOTSET" || auto == "VALID";
    let mut window = if written {
        Window::of(s, kernel, x, g)?
    } else {
        let axes = kernel.len();
        let list = |name: &str| s.node.ints(name).map_or_else(|| vec![1; axes], <[i64]>::to_vec);
        let (strides, dilations) = (list("strides"), list("dilations"));
        Window { kernel, strides, dilations, before: vec![0; axes], after: vec![0; axes] }
    };
    if written && s.node.ints("output_shape").is_none() {
        return Ok(window);
    }
    for axis in 0..window.kernel.len() {
        let sizes = (s.fixed_axis(x, axis + 2), s.fixed_axis(g, axis + 2));
        let (Some(small), Some(large)) = sizes else {
            return Err("padding by the size of the result, which is not known".into());
        };
        let more = s.node.ints("output_padding").and_then(|more| more.get(axis)).copied().unwrap_or(0);
        let total = window.strides[axis] * (small - 1) + more + window.extent(axis) - large;
        if total < 0 {
            return Err("padding below zero".into());
        }
        let half = if auto == "SAME_UPPER" { total / 2 } else { total - total / 2 };
        (window.before[axis], window.after[axis]) = (half, total - half);
    }
    Ok(window)
}

/// Without what lies past the spatial sizes of `like`.
fn cut_to(s: &mut Step<'_, '_>, x: ValueId, like: ValueId) -> Written {
    if s.same_shape(x, like) {
        return Ok(x);
    }
    let rank = s.rank(like)?;
    let starts = vec![0; rank - 2];
    let axes: Vec<i64> = (2..rank as i64).collect();
    let mut sizes = Vec::new();
    for axis in 2..rank {
        sizes.push(s.size_of(like, axis)?);
    }
    let (starts, axes, ends) = (s.integers(&starts), s.integers(&axes), s.concat(&sizes, 0)?);
    s.op("Slice", &[x, starts, ends, axes])
}

/// Graphs on which these rules are tried.
#[cfg(any(test, feature = "testing"))]
pub(super) fn examples() -> Vec<super::example::Example> {
    use super::example::Example;

    struct Case {
        words: &'static str,
        x: &'static [i64],
        w: &'static [i64],
        attributes: &'static [(&'static str, &'static [i64])],
        group: i64,
    }
    let case = |words, x, w, attributes, group| Case { words, x, w, attributes, group };
    let convs = [
        case("as it is", &[2, 3, 4, 4], &[2, 3, 3, 3], &[], 1),
        case("padded unevenly", &[1, 2, 4, 5], &[3, 2, 3, 2], &[("pads", &[1, 0, 2, 1])], 1),
        case("strides", &[1, 2, 6, 7], &[2, 2, 3, 3], &[("strides", &[2, 3]), ("pads", &[1, 1, 0, 1])], 1),
        case("strides and a rest", &[1, 1, 8], &[2, 1, 2], &[("strides", &[3])], 1),
        case("dilations", &[1, 2, 7, 6], &[2, 2, 2, 3], &[("dilations", &[3, 2])], 1),
        case(
            "dilations and strides",
            &[2, 1, 9],
            &[2, 1, 3],
            &[("dilations", &[2]), ("strides", &[2]), ("pads", &[1, 2])],
            1,
        ),
        case("groups", &[2, 4, 4, 3], &[6, 2, 2, 2], &[], 2),
        case("each channel alone", &[2, 3, 5], &[3, 1, 3], &[("pads", &[1, 1]), ("strides", &[2])], 3),
        case("each channel twice", &[1, 2, 4, 4], &[4, 1, 3, 3], &[("pads", &[1, 1, 1, 1])], 2),
        case("three axes", &[1, 2, 3, 3, 3], &[2, 2, 2, 2, 2], &[("pads", &[0, 1, 0, 0, 0, 1])], 1),
        case("points", &[2, 3, 2, 2], &[4, 3, 1, 1], &[], 1),
        case("points with strides", &[1, 2, 5, 5], &[3, 2, 1, 1], &[("strides", &[2, 2])], 1),
    ];
    let build = |op_type: &'static str, case: Case| {
        let bias = if op_type == "Conv" { case.w[0] } else { case.w[1] * case.group };
        Example::new(op_type, case.words, 18, move |t| {
            let x = t.input("x", case.x, -1.0, 1.0);
            let w = t.input("w", case.w, -1.0, 1.0);
            let b = t.input("b", &[bias], -1.0, 1.0);
            let mut node = NewNode::new(op_type, [x, w, b]).with("group", case.group);
            for (name, values) in case.attributes {
                node = node.with(name, *values);
            }
            t.node(node)
        })
    };
    let mut examples: Vec<Example> = convs.into_iter().map(|case| build("Conv", case)).collect();
    let transposed = [
        case("as it is", &[2, 3, 3, 3], &[3, 2, 3, 3], &[], 1),
        case("strides", &[1, 2, 3, 4], &[2, 2, 2, 3], &[("strides", &[2, 2]), ("pads", &[0, 1, 0, 1])], 1),
        case(
            "more at the end",
            &[1, 2, 4],
            &[2, 3, 3],
            &[("strides", &[2]), ("pads", &[1, 1]), ("output_padding", &[1])],
            1,
        ),
        case("dilations", &[1, 2, 4, 3], &[2, 1, 2, 2], &[("dilations", &[2, 1])], 1),
        case("groups", &[2, 4, 3], &[4, 2, 2], &[("strides", &[2])], 2),
        case("a size of the result", &[1, 1, 3], &[1, 1, 3], &[("strides", &[2]), ("output_shape", &[6])], 1),
    ];
    examples.extend(transposed.into_iter().map(|case| build("ConvTranspose", case)));
    for (words, mode) in
        [("the same size, more after", "SAME_UPPER"), ("the same size, more before", "SAME_LOWER")]
    {
        examples.push(Example::new("Conv", words, 18, move |t| {
            let x = t.input("x", &[1, 2, 5, 6], -1.0, 1.0);
            let w = t.input("w", &[2, 2, 2, 3], -1.0, 1.0);
            let node = NewNode::new("Conv", [x, w]).with("auto_pad", mode);
            t.node(node.with("strides", vec![2i64, 1]))
        }));
    }
    examples.push(Example::new("Conv", "sizes that have names", 18, |t| {
        let x = t.symbolic_input("x", &["n", "2", "h", "w"], &[2, 2, 6, 5], -1.0, 1.0);
        let w = t.input("w", &[2, 1, 3, 2], -1.0, 1.0);
        let node = NewNode::new("Conv", [x, w]).with("group", 2i64).with("strides", vec![2i64, 2]);
        t.node(node.with("pads", vec![1i64, 0, 0, 1]))
    }));
    examples
}
