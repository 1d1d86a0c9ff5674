//! Reductions: what Abs, squares, logarithms and roots around a sum say in one operator, and axes of size 1.

use onnx_opt_ir::schema;
use onnx_opt_ir::{Attributes, Dim, Graph, Node, Tensor, ValueId};

use super::clip::{largest, limits_of};
use super::support::supports;
use crate::rewrite::{Operand, Patch, Rewrite, Site, ensure, found, language::finish};

rules! {
    /// Σ|x| = ReduceL1(x).
    reduce_l1 [rounding]: ReduceSum(Abs(x), ..rest) as sum => do |site| { renamed(site, "ReduceL1", x, sum) };

    /// Σx² = ReduceSumSquare(x).
    reduce_sum_square [rounding]: ReduceSum(Mul(x, x), ..rest) as sum | ReduceSum(Pow(x, 2.0), ..rest) as sum
        => do |site| { renamed(site, "ReduceSumSquare", x, sum) };

    /// √Σx² = ReduceL2(x).
    reduce_l2 [rounding]: Sqrt(ReduceSumSquare(x, ..rest) as sum) => do |site| { renamed(site, "ReduceL2", x, sum) };

    /// ln Σeˣ = ReduceLogSumExp(x), which does not overflow.
    reduce_log_sum_exp [approximate]:
        Log(ReduceSum(Exp(x), ..rest) as sum) | ReduceLogSum(Exp(x), ..rest) as sum
        => do |site| { renamed(site, "ReduceLogSumExp", x, sum) };

    /// ln Σx = ReduceLogSum(x).
    reduce_log_sum [rounding]: Log(ReduceSum(x, ..rest) as sum)
        => do |site| { renamed(site, "ReduceLogSum", x, sum) };

    /// x/‖x‖ = LpNormalization(x), which gives 0 for 0; so does a lower limit on the norm.
    lp_normalization [approximate]:
        Div(x, ReduceL2(x, ..rest) as norm)
        | Div(x, Clip(ReduceL2(x, ..rest) as norm, ..limits))
        | Div(x, Max(ReduceL2(x, ..rest) as norm, const limit))
        | Div(x, Expand(Clip(ReduceL2(x, ..rest) as norm, ..limits), to))
        => do |site| { lp_normalization_of(site, x, norm) };

    /// A reduced axis put back as size 1 is one that was kept.
    unsqueeze_of_reduction [exact, shared]: Unsqueeze(reduced, ..rest) => do |site| { keeping(site, reduced, true) };

    /// A reduced axis taken away is one that was not kept.
    squeeze_of_reduction [exact, shared]: Squeeze(reduced, ..rest) => do |site| { keeping(site, reduced, false) };
}

/// Norms below this are limited by those who are afraid of zero only.
const TINY: f64 = 1e-6;

/// What a reduction reduces.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reduction {
    /// The operand.
    pub x: ValueId,
    /// Axes as written; `None` for all.
    pub axes: Option<Vec<i64>>,
    /// Whether they stay, of size 1.
    pub keepdims: bool,
}

impl Reduction {
    /// The axes counted from the front, ascending.
    pub(super) fn axes_of(&self, rank: usize) -> Option<Vec<usize>> {
        match &self.axes {
            Some(axes) => counted(axes, rank),
            None => Some((0..rank).collect()),
        }
    }

    /// The only axis, as written.
    pub(super) fn axis(&self) -> Option<i64> {
        match self.axes.as_deref() {
            Some(&[axis]) => Some(axis),
            _ => None,
        }
    }
}

/// Axes counted from the front, ascending; `None` if one is out of range or there twice.
fn counted(axes: &[i64], rank: usize) -> Option<Vec<usize>> {
    let size = i64::try_from(rank).ok()?;
    let front = |&axis: &i64| {
        let axis = if axis < 0 { axis.checked_add(size)? } else { axis };
        usize::try_from(axis).ok().filter(|&axis| axis < rank)
    };
    let mut axes: Vec<usize> = axes.iter().map(front).collect::<Option<_>>()?;
    axes.sort_unstable();
    axes.windows(2).all(|pair| pair[0] != pair[1]).then_some(axes)
}

/// Axes of a node, an attribute or operand 1 by version; `None` inside if they are left out.
fn axes_of(graph: &Graph, node: &Node) -> Option<Option<Vec<i64>>> {
    if let Some(axes) = node.ints("axes") {
        return Some(Some(axes.to_vec()));
    }
    let Some(axes) = node.input(1) else { return Some(None) };
    graph.elements(axes)?.iter().map(Dim::as_fixed).collect::<Option<Vec<_>>>().map(Some)
}

/// What a reduction of constant axes reduces; `None` also for one that reduces nothing.
pub(super) fn reduction(graph: &Graph, node: &Node) -> Option<Reduction> {
    if !node.is(node.op_type()) || !node.op_type().starts_with("Reduce") {
        return None;
    }
    let axes = axes_of(graph, node)?.filter(|axes| !axes.is_empty());
    if axes.is_none() && node.int("noop_with_empty_axes") == Some(1) {
        return None;
    }
    Some(Reduction { x: node.input(0)?, axes, keepdims: node.int("keepdims")? != 0 })
}

/// The reduction that produces a value.
pub(super) fn reduction_of(graph: &Graph, value: ValueId, op_type: &str) -> Option<Reduction> {
    graph.producer_of(value, op_type).and_then(|(_, node)| reduction(graph, node))
}

/// A reduction as the opset writes it.
pub(super) fn reduce(
    site: &Site<'_>,
    patch: &mut Patch,
    op_type: &str,
    reduction: &Reduction,
) -> Option<Operand> {
    let operator = schema::lookup("", op_type, site.graph.opset())?;
    let mut inputs = vec![Operand::from(reduction.x)];
    let mut attributes = Attributes::from_pairs([("keepdims", i64::from(reduction.keepdims).into())]);
    if let Some(axes) = &reduction.axes {
        if operator.attribute("axes").is_some() {
            attributes.set("axes", axes.clone());
        } else {
            inputs.push(patch.constant(Tensor::vector_i64(axes)));
        }
    }
    Some(patch.node(op_type, inputs, attributes))
}

/// The root by a reduction `op_type` of `x` over the axes of `sum`.
fn renamed(site: &Site<'_>, op_type: &str, x: ValueId, sum: ValueId) -> Rewrite {
    supports(site, op_type, x)?;
    let (_, node, _) = found(site.graph.producer(sum))?;
    let old = reduction(site.graph, node).ok_or("the axes are not constant")?;
    let mut patch = Patch::new();
    let new = found(reduce(site, &mut patch, op_type, &Reduction { x, ..old }))?;
    finish(site, patch, new)
}

/// The reduction with its axes kept or not, where the root puts back or takes away just these.
fn keeping(site: &Site<'_>, reduced: ValueId, keepdims: bool) -> Rewrite {
    let graph = site.graph;
    let (_, node, _) = found(graph.producer(reduced))?;
    let old = found(reduction(graph, node))?;
    found((old.keepdims != keepdims).then_some(()))?;
    ensure(graph.is_inner(reduced), "the reduction has other users")?;
    let axes = axes_of(graph, site.node()).flatten().ok_or("the axes are not constant")?;
    let rank = graph.rank(old.x).ok_or("the rank is not known")?;
    ensure(
        counted(&axes, rank).is_some_and(|axes| old.axes_of(rank) == Some(axes)),
        "the axes are not those that were reduced",
    )?;
    let mut patch = Patch::new();
    let new = found(reduce(site, &mut patch, node.op_type(), &Reduction { keepdims, ..old }))?;
    finish(site, patch, new)
}

fn lp_normalization_of(site: &Site<'_>, x: ValueId, norm: ValueId) -> Rewrite {
    let graph = site.graph;
    supports(site, "LpNormalization", x)?;
    let reduction = reduction_of(graph, norm, "ReduceL2").ok_or("the axes are not constant")?;
    let axis =
        reduction.axis().filter(|_| reduction.keepdims).ok_or("the norm is not over one axis that stays")?;
    for consumer in graph.consumers(norm) {
        let node = graph.node(consumer.node);
        if node.is("Clip") || node.is("Max") {
            let limits = limits_of(graph, node).ok_or("the limits are not constant")?;
            let unlimited =
                graph.element(norm).and_then(largest).is_some_and(|largest| limits.high >= largest);
            ensure(limits.low <= TINY && unlimited, "the norm is limited")?;
        }
    }
    let mut patch = Patch::new();
    let attributes = Attributes::from_pairs([("axis", axis.into()), ("p", 2_i64.into())]);
    let new = patch.node("LpNormalization", [x], attributes);
    finish(site, patch, new)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    /// A reduction over the last axis as the opset writes it.
    fn reduced(f: &mut Fixture, op_type: &str, x: ValueId, axis: i64, keepdims: bool) -> ValueId {
        let node = NewNode::new(op_type, [x]).with("keepdims", i64::from(keepdims));
        let operator = schema::lookup("", op_type, f.graph.opset());
        if operator.is_some_and(|operator| operator.attribute("axes").is_some()) {
            return f.node(node.with("axes", vec![axis]));
        }
        let axes = f.integers(&[axis]);
        let mut node = node;
        node.inputs.push(Some(axes));
        f.node(node)
    }
    fn example(
        rule: &'static str,
        opset: i64,
        build: impl Fn(&mut Fixture, ValueId, bool) -> ValueId,
    ) -> Example {
        Example::new(rule, |fires| {
            let mut f = Fixture::new(opset);
            let x = f.input("x", &[2, 3, 4]);
            let y = build(&mut f, x, fires);
            f.with_output(y)
        })
    }

    let mut examples = vec![
        example("reduce_l1", 13, |f, x, fires| {
            let t = f.op(if fires { "Abs" } else { "Neg" }, &[x]);
            reduced(f, "ReduceSum", t, -1, true)
        }),
        example("reduce_sum_square", 18, |f, x, fires| {
            let two = f.scalar(if fires { 2.0 } else { 3.0 });
            let t = f.op("Pow", &[x, two]);
            reduced(f, "ReduceSum", t, 1, false)
        }),
        example("reduce_sum_square", 11, |f, x, fires| {
            let other = f.input("other", &[2, 3, 4]);
            let t = f.op("Mul", &[x, if fires { x } else { other }]);
            reduced(f, "ReduceSum", t, 1, false)
        }),
        example("reduce_l2", 13, |f, x, fires| {
            let t = reduced(f, "ReduceSumSquare", x, 1, true);
            f.op(if fires { "Sqrt" } else { "Log" }, &[t])
        }),
        example("reduce_log_sum_exp", 13, |f, x, fires| {
            let t = f.op(if fires { "Exp" } else { "Abs" }, &[x]);
            let t = reduced(f, "ReduceSum", t, 1, true);
            f.op("Log", &[t])
        }),
        example("reduce_log_sum", 18, |f, x, fires| {
            let t = f.op("Sigmoid", &[x]);
            let t = reduced(f, if fires { "ReduceSum" } else { "ReduceMean" }, t, 1, true);
            f.op("Log", &[t])
        }),
        example("lp_normalization", 13, |f, x, fires| {
            let t = reduced(f, "ReduceL2", x, if fires { -1 } else { -3 }, fires);
            f.op("Div", &[x, t])
        }),
        // A norm that is limited for good.
        example("lp_normalization", 18, |f, x, fires| {
            let t = reduced(f, "ReduceL2", x, 1, true);
            let limit = f.scalar(if fires { 1e-12 } else { 0.5 });
            let t = f.op("Clip", &[t, limit]);
            f.op("Div", &[x, t])
        }),
    ];
    for opset in [11, 18] {
        // The axes differ.
        examples.push(example("unsqueeze_of_reduction", opset, |f, x, fires| {
            let t = reduced(f, "ReduceMean", x, -1, false);
            let axis = if fires { 2 } else { 1 };
            if f.graph.opset() < 13 {
                return f.node(NewNode::new("Unsqueeze", [t]).with("axes", vec![axis]));
            }
            let axes = f.integers(&[axis]);
            f.op("Unsqueeze", &[t, axes])
        }));
        examples.push(example("squeeze_of_reduction", opset, |f, x, fires| {
            let t = reduced(f, "ReduceMax", x, -1, true);
            if !fires {
                f.output("kept", t);
            }
            if f.graph.opset() < 13 {
                return f.node(NewNode::new("Squeeze", [t]).with("axes", vec![2]));
            }
            let axes = f.integers(&[2]);
            f.op("Squeeze", &[t, axes])
        }));
    }
    examples
}
