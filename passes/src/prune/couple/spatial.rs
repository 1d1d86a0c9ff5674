//! Operators that work on places and leave channels alone: pooling and resizing.

use onnx_opt_ir::{Dim, Node, Tensor};

use super::super::lanes::Axis;
use super::sizes::Operand;
use super::{Change, Kept, Reason, Rule, SPATIAL, Site};

pub(super) fn rule(node: &Node) -> Option<Rule> {
    Some(match node.op_type() {
        "AveragePool" | "GlobalAveragePool" | "GlobalLpPool" | "GlobalMaxPool" | "LpPool" | "MaxPool" => {
            Rule::plain(pool)
        }
        "Resize" | "Upsample" => Rule::sized(resize, resize_sizes),
        _ => return None,
    })
}

/// y_nc = f(x_nc).
fn pool(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, y) = (site.needed(0)?, site.output()?);
    if site.node.outputs().iter().skip(1).flatten().next().is_some() {
        return Err("its indices count channels".to_owned());
    }
    if x.len() < 2 || x.len() != y.len() {
        return Err("the ranks do not fit".to_owned());
    }
    site.join_all(&x[..2], &y[..2]);
    site.bar_all(&x[2..], SPATIAL);
    site.bar_all(&y[2..], SPATIAL);
    Ok(())
}

/// The operands of a Resize that hold factors and sizes.
fn lists(site: &onnx_opt_ir::Graph, node: &Node) -> (usize, usize) {
    if node.is("Upsample") || site.opset() < 11 { (1, usize::MAX) } else { (2, 3) }
}

/// Interpolation along some axes; the others are as they were.
fn resize(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, y) = (site.needed(0)?, site.output()?);
    let (from, to) = (site.node.input(0), site.node.output(0));
    let shape = |value: Option<onnx_opt_ir::ValueId>| value.and_then(|value| site.graph.shape(value));
    let (Some(from), Some(to)) = (shape(from), shape(to)) else {
        return Err("a shape is not known".to_owned());
    };
    if site.node.string("coordinate_transformation_mode") == Some("tf_crop_and_resize") {
        return Err("it crops".to_owned());
    }
    let (scales, sizes) = lists(site.graph, site.node);
    let filled = |index: usize| {
        let value = site.node.input(index)?;
        let empty = site.graph.shape(value).is_some_and(|shape| shape.contains(&Dim::fixed(0)));
        (!empty).then_some(value)
    };
    let listed = site.node.ints("axes").map(<[i64]>::to_vec);
    let attribute = site.node.floats("scales").map(<[f32]>::to_vec);
    let factors = match (filled(scales), attribute) {
        (_, Some(factors)) => Some(factors),
        (Some(value), None) => {
            let factors = site.graph.constant(value).and_then(|tensor| tensor.to_f32());
            Some(factors.ok_or("its factors are computed")?)
        }
        (None, None) => None,
    };
    if factors.is_none() && filled(sizes).is_none_or(|value| site.graph.constant(value).is_none()) {
        return Err("its sizes are computed".to_owned());
    }
    let entry = |at: usize| match &listed {
        Some(axes) => axes.iter().position(|&name| site.axis(name, x.len()) == Ok(at)),
        None => Some(at),
    };
    let stays: Vec<bool> = (0..x.len())
        .map(|at| {
            let factor = entry(at).and_then(|entry| factors.as_ref()?.get(entry).copied());
            from.get(at) == to.get(at) && factor.is_none_or(|factor| factor == 1.0)
        })
        .collect();
    for (at, stays) in stays.into_iter().enumerate() {
        match (x.get(at), y.get(at), stays) {
            (Some(&a), Some(&b), true) => site.join(a, b),
            (a, b, _) => {
                site.bar_all(&a.into_iter().chain(b).copied().collect::<Vec<Axis>>(), "it is resized")
            }
        }
    }
    Ok(())
}

/// The sizes that are left.
fn resize_sizes(kept: &Kept<'_>) -> Option<Change> {
    let (_, operand) = lists(kept.graph, kept.node);
    let tensor = kept.graph.constant(kept.node.input(operand)?)?;
    let mut sizes = tensor.to_i64().filter(|sizes| !sizes.is_empty())?;
    let y = kept.result(0)?;
    let axes: Vec<usize> = match kept.node.ints("axes") {
        Some(axes) => {
            axes.iter().map(|&name| crate::rules::facts::axis(name, y.len()).ok()).collect::<Option<_>>()?
        }
        None => (0..y.len()).collect(),
    };
    let mut news = false;
    for (size, axis) in sizes.iter_mut().zip(axes) {
        if let Some(left) = kept.shrunk(*y.get(axis)?) {
            *size = i64::try_from(left).ok()?;
            news = true;
        }
    }
    let sizes = Tensor::vector_i64(&sizes);
    news.then(|| Change::operand(operand, Operand::Constant(sizes)))
}
