//! Softmax and its logarithm, and how they are written with exponentials.

use onnx_opt_ir::{Attributes, ValueId};

use super::reduction::{Reduction, reduction_of};
use super::support::supports;
use crate::rewrite::{Miss, Patch, Rewrite, Site, ensure, language::finish};

rules! {
    /// ln Softmax(x) = LogSoftmax(x).
    log_of_softmax [rounding]: Log(Softmax(x){axis: int axis}) => LogSoftmax(x){axis = axis}
        where |site| supports(site, "LogSoftmax", x);

    /// e/Σe of e = exp(x − max x) is Softmax(x).
    softmax_of_exp [rounding]:
        Div(Exp(Sub(x, ReduceMax(x, ..rest) as top)) as e, ReduceSum(e, ..others) as sum)
        | Mul(Exp(Sub(x, ReduceMax(x, ..rest) as top)) as e, Reciprocal(ReduceSum(e, ..others) as sum))
        => do |site| { over_axis(site, "Softmax", x, sum, Some(top)) };

    /// e/Σe of e = exp(x) is Softmax(x), which does not overflow.
    softmax_of_unshifted_exp [approximate]: Div(Exp(x) as e, ReduceSum(e, ..others) as sum)
        => do |site| { over_axis(site, "Softmax", x, sum, None) };

    /// s − ln Σeˢ of s = x − max x is LogSoftmax(x).
    log_softmax_of_exp [rounding]:
        Sub(Sub(x, ReduceMax(x, ..rest) as top) as s, Log(ReduceSum(Exp(s), ..others) as sum))
        | Sub(Sub(x, ReduceMax(x, ..rest) as top) as s, ReduceLogSum(Exp(s), ..others) as sum)
        => do |site| { over_axis(site, "LogSoftmax", x, sum, Some(top)) };

    /// x − ln Σeˣ = LogSoftmax(x).
    log_softmax_of_log_sum_exp [rounding]: Sub(x, ReduceLogSumExp(x, ..rest) as sum)
        => do |site| { over_axis(site, "LogSoftmax", x, sum, None) };
}

/// The root by `op_type` over the axis of `sum`, which `top`, if there, shares.
fn over_axis(site: &Site<'_>, op_type: &str, x: ValueId, sum: ValueId, top: Option<ValueId>) -> Rewrite {
    supports(site, op_type, x)?;
    let axis = axis(site, x, sum)?;
    if let Some(top) = top {
        ensure(self::axis(site, x, top)? == axis, "maximum and sum are over different axes")?;
    }
    // Before opset 13, the operator takes all axes from this one on for one. From then on, onnxruntime transposes for
    // other axes, and takes ten times as long as without the operator.
    let last = site.graph.rank(x).is_some_and(|rank| axis + 1 == rank);
    ensure(last, "the axis is not the last one")?;
    let mut patch = Patch::new();
    let axis = i64::try_from(axis).map_err(|_| "the axis is out of range")?;
    let new = patch.node(op_type, [x], Attributes::from_pairs([("axis", axis.into())]));
    finish(site, patch, new)
}

/// The one axis of a reduction that keeps it.
fn axis(site: &Site<'_>, x: ValueId, reduced: ValueId) -> Result<usize, Miss> {
    let graph = site.graph;
    let op_type = graph.producer(reduced).map_or("", |(_, node, _)| node.op_type());
    let reduction: Reduction = reduction_of(graph, reduced, op_type).ok_or("the axes are not constant")?;
    ensure(reduction.keepdims, "the axis does not stay")?;
    let rank = graph.rank(x).ok_or("the rank is not known")?;
    match reduction.axes_of(rank).as_deref() {
        Some(&[axis]) => Ok(axis),
        _ => Err("it is not over one axis".into()),
    }
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

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
    fn maximum(f: &mut Fixture, x: ValueId, axis: i64) -> ValueId {
        f.node(NewNode::new("ReduceMax", [x]).with("axes", vec![axis]))
    }
    fn sum(f: &mut Fixture, x: ValueId, axis: i64) -> ValueId {
        if f.graph.opset() < 13 {
            return f.node(NewNode::new("ReduceSum", [x]).with("axes", vec![axis]));
        }
        let axes = f.integers(&[axis]);
        f.op("ReduceSum", &[x, axes])
    }

    vec![
        example("log_of_softmax", 11, |f, x, fires| {
            let t = if fires {
                f.node(NewNode::new("Softmax", [x]).with("axis", 2))
            } else {
                f.op("Sigmoid", &[x])
            };
            f.op("Log", &[t])
        }),
        example("softmax_of_exp", 13, |f, x, fires| {
            let top = maximum(f, x, -1);
            let t = f.op("Sub", &[x, top]);
            let e = f.op("Exp", &[t]);
            let t = sum(f, e, if fires { 2 } else { 1 });
            f.op("Div", &[e, t])
        }),
        // Over an inner axis.
        example("softmax_of_exp", 11, |f, x, fires| {
            let axis = if fires { -1 } else { 1 };
            let top = maximum(f, x, axis);
            let t = f.op("Sub", &[x, top]);
            let e = f.op("Exp", &[t]);
            let t = sum(f, e, axis);
            let t = f.op("Reciprocal", &[t]);
            f.op("Mul", &[t, e])
        }),
        example("softmax_of_unshifted_exp", 13, |f, x, fires| {
            let e = f.op("Exp", &[x]);
            let t = sum(f, e, 2);
            if fires { f.op("Div", &[e, t]) } else { f.op("Div", &[t, e]) }
        }),
        example("log_softmax_of_exp", 13, |f, x, fires| {
            let top = maximum(f, x, -1);
            let s = f.op("Sub", &[x, top]);
            let e = f.op(if fires { "Exp" } else { "Abs" }, &[s]);
            let t = sum(f, e, 2);
            let t = f.op("Log", &[t]);
            f.op("Sub", &[s, t])
        }),
        example("log_softmax_of_log_sum_exp", 13, |f, x, fires| {
            let node =
                NewNode::new("ReduceLogSumExp", [x]).with("axes", if fires { vec![2] } else { vec![1, 2] });
            let t = f.node(node);
            f.op("Sub", &[x, t])
        }),
    ]
}
