//! Operators that change nothing.

use onnx_opt_ir::{Node, ValueId};

use super::facts::{list, same_shape, uniform};
use crate::rewrite::{Miss, Site, ensure};

rules! {
    /// Identity(x) = x.
    identity [exact, shared]: Identity(x) => x;

    /// Dropout(x) = x outside training.
    dropout [exact, shared]: Dropout(x, ratio?, training?) => x
        where |site| ensure(is_quiet_dropout(site, training), "Dropout may be in training mode");

    /// −(−x) = x.
    neg_neg [exact, shared]: Neg(Neg(x)) => x
        where |site| ensure(site.graph.element(x).is_some(), "the element type is not known");

    /// ¬¬x = x.
    not_not [exact, shared]: Not(Not(x)) => x;

    /// A choice by ¬c is the opposite choice by c.
    where_not [exact, shared]: Where(Not(c), x, y) => Where(c, y, x);

    /// ||x|| = |x|.
    abs_abs [exact, shared]: Abs(Abs(x) as y) => y;

    /// |−x| = |x|.
    abs_neg [exact, shared]: Abs(Neg(x)) => Abs(x);

    /// sign(sign(x)) = sign(x).
    sign_sign [exact, shared]: Sign(Sign(x) as y) => y;

    /// A whole number rounds to itself, whichever way.
    round_rounded [exact, shared]:
        Floor(Floor(x) as y) | Floor(Ceil(x) as y) | Floor(Round(x) as y)
        | Ceil(Ceil(x) as y) | Ceil(Floor(x) as y) | Ceil(Round(x) as y)
        | Round(Round(x) as y) | Round(Floor(x) as y) | Round(Ceil(x) as y)
        => y;

    /// The sum, mean, maximum or minimum of one operand.
    variadic_of_one [exact, shared]: Sum(x) | Mean(x) | Max(x) | Min(x) => x;

    /// A reduction along axes of size 1 that stay.
    reduce_unit_axes [exact, shared]:
        ReduceSum(x, axes?) | ReduceMean(x, axes?) | ReduceMax(x, axes?) | ReduceMin(x, axes?)
        | ReduceProd(x, axes?)
        => x where |site| reduces_nothing(site, x);

    /// Padding by nothing.
    pad_nothing [exact, shared]: Pad(x, pads?, value?, axes?) => x
        where |site| match list(site.graph, site.node(), "pads", 1)? {
            Some(pads) => ensure(pads.iter().all(|&pad| pad == 0), "it pads"),
            None => Err(Miss::NoMatch),
        };

    /// A forward slice as long as its operand takes all of it.
    slice_everything [exact, shared]: Slice(x, starts?, ends?, axes?, steps?) as y => x
        where |site| {
            let steps = list(site.graph, site.node(), "steps", 4)?;
            ensure(steps.is_none_or(|steps| steps.iter().all(|&step| step > 0)), "it runs backwards")
                .and_then(|()| same_shape(site.graph, x, y))
        };

    /// Expand to the shape that the operand has.
    expand_to_same [exact, shared]: Expand(x, shape) as y => x where |site| same_shape(site.graph, x, y);

    /// One repetition.
    tile_once [exact, shared]: Tile(x, repeats) as y => x
        where |site| match list(site.graph, site.node(), "repeats", 1) {
            Ok(Some(repeats)) if repeats.iter().all(|&count| count == 1) => Ok(()),
            _ => same_shape(site.graph, x, y),
        };

    /// Concat of one operand.
    concat_one [exact, shared]: Concat(x) => x;

    /// Split into one part.
    split_into_one [exact, shared]: Split(x, sizes?) => x
        where |site| ensure(site.node().outputs().len() == 1, "there are several parts");

    /// Flatten, Squeeze and Unsqueeze that keep every axis.
    reshape_nothing [exact, shared]: Flatten(x) as y | Squeeze(x, axes?) as y | Unsqueeze(x, axes?) as y => x
        where |site| same_shape(site.graph, x, y);

    /// Reshape to the shape that the operand has.
    reshape_to_same [exact, shared]: Reshape(x, shape) as y => x where |site| same_shape(site.graph, x, y);

    /// Reshape or Expand to the shape of the operand itself, whatever it is.
    reshape_to_own_shape [exact, shared]: Reshape(x, Shape(x) as shape) | Expand(x, Shape(x) as shape) => x
        where |site| match site.graph.producer(shape) {
            Some((_, node, _)) => ensure(takes_all_axes(node), "a part of the shape is meant"),
            None => Err(Miss::NoMatch),
        };

    /// Resize to the size that the operand has.
    resize_to_same [exact, shared]: Resize(x, a?, b?, c?) as y | Upsample(x, a?, b?, c?) as y => x
        where |site| scales_nothing(site, x).and_then(|()| same_shape(site.graph, x, y));

    /// A choice between equals.
    where_equal [exact, shared]: Where(c, x, x) as y => x where |site| same_shape(site.graph, x, y);
}

/// Whether a Dropout passes its operand on: by attribute before opset 7, by operand since 12.
fn is_quiet_dropout(site: &Site<'_>, training: Option<ValueId>) -> bool {
    match training {
        _ if site.graph.opset() < 7 => site.node().int("is_test") == Some(1),
        Some(training) => uniform(site.graph, training) == Some(0.0),
        None => true,
    }
}

/// Whether a `Shape` gives all sizes.
pub(super) fn takes_all_axes(shape: &Node) -> bool {
    shape.int("start").unwrap_or(0) == 0 && shape.int("end").is_none()
}

/// Whether a reduction keeps its axes, all of size 1.
fn reduces_nothing(site: &Site<'_>, x: ValueId) -> Result<(), Miss> {
    let node = site.node();
    ensure(node.int("keepdims") == Some(1), "axes disappear")?;
    let axes = list(site.graph, node, "axes", 1)?.unwrap_or_default();
    if axes.is_empty() && node.int("noop_with_empty_axes") == Some(1) {
        return Ok(());
    }
    let shape = super::facts::shape(site.graph, x)?;
    let is_unit = |size: &onnx_opt_ir::Dim| size.as_fixed() == Some(1);
    let all_unit = if axes.is_empty() {
        shape.iter().all(is_unit)
    } else {
        let at = |&axis: &i64| super::facts::axis(axis, shape.len()).map(|axis| &shape[axis]);
        axes.iter().map(at).collect::<Result<Vec<_>, _>>()?.into_iter().all(is_unit)
    };
    ensure(all_unit, "an axis of another size is reduced")
}

/// Whether a Resize keeps every element in place: scales of 1, or sizes to which the operand need not be stretched.
fn scales_nothing(site: &Site<'_>, x: ValueId) -> Result<(), Miss> {
    let (graph, node) = (site.graph, site.node());
    ensure(
        node.string("coordinate_transformation_mode") != Some("tf_crop_and_resize"),
        "the operand may be cropped",
    )?;
    if let Some(scales) = node.floats("scales") {
        return ensure(scales.iter().all(|&scale| scale == 1.0), "it scales");
    }
    // Version 10, and Upsample: scales; later versions: region, scales, sizes.
    let (scales, sizes) =
        if graph.opset() < 11 { (node.input(1), None) } else { (node.input(2), node.input(3)) };
    if sizes.is_some() {
        // By the other policies the scale is not the quotient of the sizes.
        return ensure(
            node.string("keep_aspect_ratio_policy").is_none_or(|policy| policy == "stretch"),
            "it scales",
        )
        .and_then(|()| ensure(graph.shape(x).is_some(), "a shape is not known"));
    }
    let all_ones = scales.and_then(|scales| uniform(graph, scales)) == Some(1.0);
    ensure(all_ones, "it scales")
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::{ElementType, NewNode, Type};

    use crate::testing::{Example, Fixture};

    // `node(Sigmoid(x))` and a Relu behind it.
    let between = |opset: i64, shape: &[&str], node: &dyn Fn(&mut Fixture, ValueId) -> ValueId| {
        let mut f = Fixture::new(opset);
        let x = f.symbolic_input("x", shape);
        let t = f.op("Sigmoid", &[x]);
        let t = node(&mut f, t);
        let y = f.op("Relu", &[t]);
        f.with_output(y)
    };
    // Two operators in a row: the pair that fires, and one that does not.
    let pair = |rule: &'static str, fires: [&'static str; 2], misses: [&'static str; 2]| {
        Example::new(rule, move |does| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let [inner, outer] = if does { fires } else { misses };
            let t = f.op(inner, &[x]);
            let t = f.op(outer, &[t]);
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        })
    };
    let reduction = |op_type: &'static str, keepdims: i64| {
        Example::new("reduce_unit_axes", move |fires| {
            between(11, if fires { &["N", "1", "3"] } else { &["N", "2", "3"] }, &|f, t| {
                let node = NewNode::new(op_type, [t]).with("axes", vec![-2]).with("keepdims", keepdims);
                f.node(node)
            })
        })
    };
    let mut examples = vec![
        Example::new("identity", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            // An input that is an output needs a node of its own.
            let t = if fires { f.op("Relu", &[x]) } else { x };
            let y = f.op("Identity", &[t]);
            f.with_output(y)
        }),
        Example::new("dropout", |fires| {
            between(13, &["4"], &|f, t| {
                let mut node = NewNode::new("Dropout", [t]);
                if !fires {
                    let ratio = f.scalar(0.5);
                    let training = f.graph.add_input("training", Type::tensor(ElementType::Bool, []));
                    node.inputs.extend([Some(ratio), Some(training)]);
                }
                f.node(node)
            })
        }),
        pair("neg_neg", ["Neg", "Neg"], ["Neg", "Abs"]),
        Example::new("not_not", |fires| {
            let mut f = Fixture::new(13);
            let (x, z) = (f.input("x", &[4]), f.input("z", &[4]));
            let t = f.op("Less", &[x, z]);
            let t = if fires { f.op("Not", &[t]) } else { t };
            let t = f.op("Not", &[t]);
            let y = f.op("Where", &[t, x, z]);
            f.with_output(y)
        }),
        Example::new("where_not", |fires| {
            let mut f = Fixture::new(13);
            let (x, z) = (f.input("x", &[4]), f.input("z", &[4]));
            let t = f.op("Less", &[x, z]);
            let t = if fires { f.op("Not", &[t]) } else { t };
            let y = f.op("Where", &[t, x, z]);
            f.with_output(y)
        }),
        pair("abs_abs", ["Abs", "Abs"], ["Abs", "Neg"]),
        pair("abs_neg", ["Neg", "Abs"], ["Abs", "Neg"]),
        pair("sign_sign", ["Sign", "Sign"], ["Sign", "Abs"]),
        pair("round_rounded", ["Floor", "Floor"], ["Floor", "Sqrt"]),
        pair("round_rounded", ["Ceil", "Round"], ["Relu", "Ceil"]),
        Example::new("variadic_of_one", |fires| {
            between(13, &["4"], &|f, t| f.op("Max", &[t, t][usize::from(fires)..]))
        }),
        Example::new("variadic_of_one", |fires| {
            between(8, &["4"], &|f, t| f.op("Mean", &[t, t][usize::from(fires)..]))
        }),
        reduction("ReduceMax", 1),
        reduction("ReduceMean", 1),
        Example::new("reduce_unit_axes", |fires| {
            between(13, &["N", "1", "3"], &|f, t| {
                let axes = f.integers(&[1]);
                f.node(NewNode::new("ReduceSum", [t, axes]).with("keepdims", i64::from(fires)))
            })
        }),
        // No axes mean all of them, unless the node says otherwise.
        Example::new("reduce_unit_axes", |fires| {
            between(18, &["N", "3"], &|f, t| {
                f.node(NewNode::new("ReduceSum", [t]).with("noop_with_empty_axes", i64::from(fires)))
            })
        }),
        Example::new("pad_nothing", |fires| {
            between(13, &["N", "3"], &|f, t| {
                let pads = f.integers(if fires { &[0, 0, 0, 0] } else { &[0, 1, 0, -1] });
                f.op("Pad", &[t, pads])
            })
        }),
        Example::new("pad_nothing", |fires| {
            let pads = if fires { vec![0, 0, 0, 0] } else { vec![0, 0, 0, 1] };
            between(2, &["N", "3"], &|f, t| f.node(NewNode::new("Pad", [t]).with("pads", pads.clone())))
        }),
        Example::new("slice_everything", |fires| {
            between(13, &["N", "3"], &|f, t| {
                let (starts, ends) =
                    (f.integers(&[0, 0]), f.integers(&[i64::MAX, if fires { 3 } else { 2 }]));
                f.op("Slice", &[t, starts, ends])
            })
        }),
        // Backwards, a slice has the size of its operand, too.
        Example::new("slice_everything", |fires| {
            between(13, &["5"], &|f, t| {
                let (starts, ends) = if fires { (0, i64::MAX) } else { (-1, i64::MIN) };
                let operands =
                    [starts, ends, 0, if fires { 1 } else { -1 }].map(|value| f.integers(&[value]));
                f.op("Slice", &[&[t][..], &operands].concat())
            })
        }),
        Example::new("slice_everything", |fires| {
            between(9, &["N", "5"], &|f, t| {
                let node = NewNode::new("Slice", [t]).with("axes", vec![1]).with("starts", vec![-5]);
                f.node(node.with("ends", vec![if fires { 5 } else { -1 }]))
            })
        }),
        Example::new("expand_to_same", |fires| {
            between(13, &["N", "3"], &|f, t| {
                let shape = f.integers(if fires { &[1, 3] } else { &[1, 1, 1] });
                f.op("Expand", &[t, shape])
            })
        }),
        Example::new("tile_once", |fires| {
            between(13, &["N", "3"], &|f, t| {
                let repeats = f.integers(&[1, if fires { 1 } else { 2 }]);
                f.op("Tile", &[t, repeats])
            })
        }),
        Example::new("concat_one", |fires| {
            between(13, &["N", "3"], &|f, t| {
                let operands: &[ValueId] = if fires { &[t] } else { &[t, t] };
                f.node(NewNode::new("Concat", operands.iter().copied()).with("axis", 1))
            })
        }),
        Example::new("split_into_one", |fires| {
            between(13, &["N", "4"], &|f, t| {
                let outputs = if fires { 1 } else { 2 };
                f.node(NewNode { outputs, ..NewNode::new("Split", [t]).with("axis", 1) })
            })
        }),
        Example::new("reshape_nothing", |fires| {
            between(13, &["N", "4"], &|f, t| {
                f.node(NewNode::new("Flatten", [t]).with("axis", i64::from(fires)))
            })
        }),
        Example::new("reshape_nothing", |fires| {
            between(13, if fires { &["2", "4"] } else { &["1", "4"] }, &|f, t| f.op("Squeeze", &[t]))
        }),
        Example::new("reshape_to_same", |fires| {
            between(13, &["2", "N", "4"], &|f, t| {
                let shape = f.integers(if fires { &[2, -1, 4] } else { &[2, 4, -1] });
                f.op("Reshape", &[t, shape])
            })
        }),
        Example::new("reshape_to_own_shape", |fires| {
            between(15, &["2", "N"], &|f, t| {
                let shape = NewNode::new("Shape", [t]);
                let shape = if fires { shape } else { shape.with("start", 1) };
                let shape = f.node(shape);
                f.op("Expand", &[t, shape])
            })
        }),
        Example::new("where_equal", |fires| {
            let mut f = Fixture::new(13);
            let (x, z) = (f.input("x", &[4]), f.input("z", if fires { &[1] } else { &[3, 1] }));
            let zero = f.scalar(0.0);
            let t = f.op("Less", &[z, zero]);
            let t = f.op("Where", &[t, x, x]);
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        }),
    ];
    // Scales near 1 may give the same size, but not the same elements.
    let resize = |opset: i64, mode: &'static str| {
        Example::new("resize_to_same", move |fires| {
            between(opset, &["1", "1", "4", "4"], &|f, t| {
                let scale = if fires { 1.0 } else { 1.2 };
                let scales = f.floats(&[4], &[1.0, 1.0, scale, scale]);
                let mut node = NewNode::new("Resize", [t]).with("mode", mode);
                if opset > 10 {
                    node.inputs.push(None);
                }
                node.inputs.push(Some(scales));
                f.node(node)
            })
        })
    };
    examples.extend([resize(13, "linear"), resize(10, "nearest")]);
    examples
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use onnx_opt_ir::{ElementType, Tensor};

    use crate::testing::Fixture;

    /// No example, since engines take every Dropout with this operand for one in training.
    #[test]
    fn dropout_with_a_training_mode_that_is_off() {
        let dropout = |training: f64| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let ratio = f.scalar(0.5);
            let training = f.graph.add_constant(Tensor::scalar(ElementType::Bool, training).unwrap());
            let t = f.op("Dropout", &[x, ratio, training]);
            let y = f.op("Relu", &[t]);
            f.with_output(y).rewritten(super::rules())
        };
        assert_eq!(dropout(0.0), ["Relu"]);
        assert_eq!(dropout(1.0), ["Dropout", "Relu"]);
    }
}
