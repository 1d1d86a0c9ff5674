//! Transposes that merge, cancel, or move no element.

use std::sync::Arc;

use onnx_opt_ir::{Attributes, Dim, Graph, Node, Tensor};

use super::chain::Chain;
use super::facts::{BINARY, axis, list, only_use, shape, with_axes};
use super::reshape::reshape_to;
use crate::layout::permutation::Permutation;
use crate::rewrite::{
    ErrorClass, FunctionRule, Miss, Operand, Patch, Rewrite, Rule, Site, ensure, found, language::finish,
};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(FunctionRule {
            name: "transpose_in_order",
            doc: "Transpose with the axes in their own order.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Transpose"],
            rewrite: |site| {
                let perm = permutation(site.graph, site.node())?;
                ensure(perm.is_identity(), "axes move")?;
                super::facts::becomes(site, site.input(0)?)
            },
        }),
        Box::new(FunctionRule {
            name: "transpose_transpose",
            doc: "One Transpose of a Transpose, or none.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Transpose"],
            rewrite: transpose_transpose,
        }),
        Box::new(FunctionRule {
            name: "transpose_elementwise_transpose",
            doc: "Elementwise operators between two Transposes: both move behind them and merge.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Transpose"],
            rewrite: through_elementwise,
        }),
        Box::new(FunctionRule {
            name: "transpose_squeeze_transpose",
            doc: "Squeeze or Unsqueeze between two Transposes needs one of them at most.",
            class: ErrorClass::Exact,
            since: 1,
            roots: &["Transpose"],
            rewrite: around_squeeze,
        }),
        Box::new(FunctionRule {
            name: "transpose_unit_axes",
            doc: "Transpose that moves axes of size 1 past others only is a Reshape.",
            class: ErrorClass::Exact,
            since: 5,
            roots: &["Transpose"],
            rewrite: unit_axes,
        }),
        Box::new(FunctionRule {
            name: "transposed_operands",
            doc: "An elementwise operator of two operands transposed alike is transposed once.",
            class: ErrorClass::Exact,
            since: 7,
            roots: BINARY,
            rewrite: transposed_operands,
        }),
    ]
}

/// The order that a Transpose asks for.
fn permutation(graph: &Graph, node: &Node) -> Result<Permutation, Miss> {
    Permutation::of(graph, node).ok_or_else(|| "the order of the axes is not known".into())
}

fn transposed(patch: &mut Patch, x: Operand, perm: &Permutation) -> Operand {
    if perm.is_identity() {
        return x;
    }
    patch.node("Transpose", [x], Attributes::from_pairs([("perm", perm.attribute().into())]))
}

/// `second` after `first`.
fn composed(first: &Permutation, second: &Permutation) -> Result<Permutation, Miss> {
    first.then(second).ok_or_else(|| "ranks differ".into())
}

fn transpose_transpose(site: &Site<'_>) -> Rewrite {
    let (_, inner) = found(site.graph.producer_of(site.input(0)?, "Transpose"))?;
    let perm = composed(&permutation(site.graph, inner)?, &permutation(site.graph, site.node())?)?;
    let x = found(inner.input(0))?;
    let mut patch = Patch::new();
    let new = transposed(&mut patch, x.into(), &perm);
    finish(site, patch, new)
}

fn through_elementwise(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let chain = Chain::up(graph, site.input(0)?, |node| node.is("Transpose"))?;
    if chain.is_empty() {
        return Err(Miss::NoMatch);
    }
    let (_, inner) = found(graph.producer_of(chain.source, "Transpose"))?;
    let first = permutation(graph, inner)?;
    let perm = composed(&first, &permutation(graph, site.node())?)?;
    let mut patch = Patch::new();
    let result =
        chain.on(graph, &mut patch, found(inner.input(0))?, |tensor| untransposed(tensor, &first))?;
    let new = transposed(&mut patch, result, &perm);
    finish(site, patch, new)
}

/// The constant that, transposed, is `tensor`; `None` for `tensor` itself.
pub(super) fn untransposed(tensor: &Arc<Tensor>, perm: &Permutation) -> Result<Option<Tensor>, Miss> {
    let missing = perm.rank().checked_sub(tensor.rank()).ok_or("a constant raises the rank")?;
    if tensor.len() == 1 {
        return Ok(None);
    }
    let mut sizes = vec![1; missing];
    sizes.extend_from_slice(tensor.shape());
    let moved = tensor.reshaped(&sizes).and_then(|tensor| tensor.transposed(perm.inverse().axes()));
    moved.map(Some).ok_or_else(|| "a constant cannot be transposed".into())
}

fn unit_axes(site: &Site<'_>) -> Rewrite {
    let x = site.input(0)?;
    let perm = permutation(site.graph, site.node())?;
    let sizes = shape(site.graph, x)?;
    let wide = |axis: &&usize| sizes.get(**axis).is_some_and(|size| *size != Dim::fixed(1));
    ensure(perm.axes().iter().filter(wide).is_sorted(), "axes of other sizes change places")?;
    reshape_to(site, x)
}

fn around_squeeze(site: &Site<'_>) -> Rewrite {
    let (graph, middle) = (site.graph, site.input(0)?);
    let (_, node, _) = found(graph.producer(middle))?;
    let squeezes = node.is("Squeeze");
    found((squeezes || node.is("Unsqueeze")).then_some(()))?;
    let before = found(node.input(0))?;
    let (_, first) = found(graph.producer_of(before, "Transpose"))?;
    let (first_order, last_order) = (permutation(graph, first)?, permutation(graph, site.node())?);
    only_use(graph, middle)?;
    only_use(graph, before)?;
    let x = found(first.input(0))?;
    let named = list(graph, node, "axes", 1)?.filter(|axes| !axes.is_empty()).ok_or("no axis is named")?;
    let rank = first_order.rank().max(last_order.rank());
    let named = named.into_iter().map(|name| axis(name, rank)).collect::<Result<Vec<usize>, Miss>>()?;
    let mut sources = first_order.axes().iter().copied();
    // The axes of the source where they lie between the Transposes, without those that go and with new ones.
    let between: Vec<Option<usize>> = if squeezes {
        sources.enumerate().filter(|(place, _)| !named.contains(place)).map(|(_, axis)| Some(axis)).collect()
    } else {
        (0..rank).map(|place| if named.contains(&place) { None } else { sources.next() }).collect()
    };
    let result = last_order.permuted(&between).ok_or("ranks differ")?;
    let kept: Vec<usize> = result.iter().copied().flatten().collect();
    let mut sorted = kept.clone();
    sorted.sort_unstable();
    let places = kept.iter().map(|axis| sorted.iter().position(|other| other == axis));
    let order = places.collect::<Option<Vec<usize>>>().and_then(Permutation::new);
    let order = order.ok_or("an axis is named twice")?;
    let mut patch = Patch::new();
    let new = if squeezes {
        let gone: Vec<i64> = (0..rank).filter(|axis| !kept.contains(axis)).map(|axis| axis as i64).collect();
        let new = with_axes(site, &mut patch, "Squeeze", x, &gone);
        transposed(&mut patch, new, &order)
    } else {
        ensure(kept.len() == first_order.rank(), "an axis is named twice")?;
        let places = result.iter().enumerate().filter(|(_, axis)| axis.is_none());
        let inserted: Vec<i64> = places.map(|(place, _)| place as i64).collect();
        let new = transposed(&mut patch, x.into(), &order);
        with_axes(site, &mut patch, "Unsqueeze", new, &inserted)
    };
    finish(site, patch, new)
}

fn transposed_operands(site: &Site<'_>) -> Rewrite {
    let (graph, root) = (site.graph, site.node());
    let (a, b) = (site.input(0)?, site.input(1)?);
    ensure(root.inputs().len() == 2, "there are more operands")?;
    let (_, first) = found(graph.producer_of(a, "Transpose"))?;
    let (_, second) = found(graph.producer_of(b, "Transpose"))?;
    let perm = permutation(graph, first)?;
    ensure(perm == permutation(graph, second)?, "the operands are transposed differently")?;
    only_use(graph, a)?;
    only_use(graph, b)?;
    let mut patch = Patch::new();
    let result = patch.node(
        root.op_type(),
        [found(first.input(0))?, found(second.input(0))?],
        root.attributes().clone(),
    );
    let new = transposed(&mut patch, result, &perm);
    finish(site, patch, new)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::{NewNode, ValueId};

    use crate::testing::{Example, Fixture};

    let transpose = |f: &mut Fixture, x: ValueId, perm: &[i64]| {
        f.node(NewNode::new("Transpose", [x]).with("perm", perm.to_vec()))
    };
    // Two Transposes of an N-2-3-4 tensor and what lies between them.
    let around = move |rule: &'static str,
                       perms: [&'static [i64]; 2],
                       between: fn(&mut Fixture, ValueId, bool) -> ValueId| {
        Example::new(rule, move |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["N", "2", "3", "4"]);
            let t = transpose(&mut f, x, perms[0]);
            let t = between(&mut f, t, fires);
            let t = transpose(&mut f, t, perms[1]);
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        })
    };
    // An axis comes or goes between two Transposes.
    let squeezed = move |opset: i64, op_type: &'static str, axes: &'static [i64], perm: &'static [i64]| {
        Example::new("transpose_squeeze_transpose", move |fires| {
            let mut f = Fixture::new(opset);
            let x = f.symbolic_input("x", &["N", "M", "1"]);
            let first = transpose(&mut f, x, &[0, 2, 1]);
            let t = if opset < 13 {
                f.node(NewNode::new(op_type, [first]).with("axes", axes.to_vec()))
            } else {
                let axes = f.integers(axes);
                f.op(op_type, &[first, axes])
            };
            if !fires {
                let t = f.op("Exp", &[first]);
                f.output("first", t);
            }
            let t = transpose(&mut f, t, perm);
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        })
    };
    let pair: [&[i64]; 2] = [&[0, 2, 3, 1], &[0, 3, 1, 2]];
    let single =
        move |rule: &'static str, fires: &'static [&'static str], misses: &'static [&'static str]| {
            Example::new(rule, move |does| {
                let mut f = Fixture::new(13);
                let x = f.symbolic_input("x", if does { fires } else { misses });
                let t = f.op("Abs", &[x]);
                let t = transpose(&mut f, t, &[0, 2, 1]);
                let y = f.op("Sqrt", &[t]);
                f.with_output(y)
            })
        };
    vec![
        Example::new("transpose_in_order", move |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[2, 3, 4]);
            let t = f.op("Abs", &[x]);
            let t = transpose(&mut f, t, if fires { &[0, 1, 2] } else { &[0, 2, 1] });
            let y = f.op("Sqrt", &[t]);
            f.with_output(y)
        }),
        Example::new("transpose_in_order", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", if fires { &[3] } else { &[2, 3] });
            let t = f.op("Abs", &[x]);
            let t = f.op("Transpose", &[t]);
            let y = f.op("Sqrt", &[t]);
            f.with_output(y)
        }),
        around("transpose_transpose", pair, |f, t, fires| if fires { t } else { f.op("Neg", &[t]) }),
        around("transpose_transpose", [&[1, 2, 0, 3], &[1, 2, 0, 3]], |f, t, fires| {
            if fires { t } else { f.op("Neg", &[t]) }
        }),
        Example::new("transpose_transpose", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[2, 3]);
            let t = f.op("Transpose", &[x]);
            let t = if fires { t } else { f.op("Neg", &[t]) };
            let t = f.op("Transpose", &[t]);
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        }),
        around("transpose_elementwise_transpose", pair, |f, t, fires| {
            let y = f.op("Relu", &[t]);
            if !fires {
                f.output("relu", y);
            }
            y
        }),
        // A bias along the last axis belongs to axis 1 before.
        around("transpose_elementwise_transpose", pair, |f, t, fires| {
            let bias = if fires { f.floats(&[2], &[0.5, -1.0]) } else { f.input("bias", &[2]) };
            let t = f.op("Add", &[bias, t]);
            let (low, high) = (f.scalar(-1.0), f.scalar(1.0));
            f.op("Clip", &[t, low, high])
        }),
        around("transpose_elementwise_transpose", [&[0, 2, 3, 1], &[0, 2, 1, 3]], |f, t, fires| {
            let bias = f.weights(&[3, 1, 2]);
            let t = f.op("Mul", &[t, bias]);
            if fires { f.op("Sigmoid", &[t]) } else { f.op("Softmax", &[t]) }
        }),
        squeezed(13, "Unsqueeze", &[-1], &[0, 3, 1, 2]),
        squeezed(11, "Unsqueeze", &[0], &[1, 3, 0, 2]),
        squeezed(13, "Squeeze", &[1], &[1, 0]),
        squeezed(11, "Squeeze", &[-2], &[0, 1]),
        single("transpose_unit_axes", &["N", "1", "3"], &["N", "M", "3"]),
        single("transpose_unit_axes", &["2", "M", "1"], &["2", "2", "3"]),
        Example::new("transposed_operands", move |fires| {
            let mut f = Fixture::new(13);
            let (x, z) =
                (f.input("x", &[2, 3, 4]), f.input("z", if fires { &[2, 3, 1] } else { &[3, 1, 2] }));
            let a = transpose(&mut f, x, &[0, 2, 1]);
            let b = transpose(&mut f, z, if fires { &[0, 2, 1] } else { &[2, 1, 0] });
            let y = f.op("Add", &[a, b]);
            f.with_output(y)
        }),
    ]
}
