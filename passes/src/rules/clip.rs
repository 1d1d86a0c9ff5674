//! Limits: Clip, Relu, and minima and maxima with constants.

use onnx_opt_ir::{Attributes, ElementType, Graph, Node, Tensor, ValueId};

use super::support::{enclosed, scalar, supports};
use crate::rewrite::{Operand, Patch, Rewrite, Site, ensure, found, language::finish};

rules! {
    /// A Relu or Clip of a Relu or Clip is one Clip.
    clip_of_clip [exact, since 6, shared]: Clip(a, low?, high?) | Relu(a)
        => do |site| { merge(site, &["Clip", "Relu"]) };

    /// Clip between infinities, or of integers without limits.
    clip_without_limits [exact, since 11, shared]: Clip(x, low?, high?) => x where |site| {
        ensure(limits_of(site.graph, site.node()).is_some_and(Limits::are_none), "there are limits")
    };

    /// max(min(x, b), a) = Clip(x, a, b), at NaN maybe not.
    clip_of_min_max [rounding, since 6, shared]: Max(a, ..rest) | Min(a, ..rest) | Clip(a, low?, high?) | Relu(a)
        => do |site| { merge(site, &["Clip", "Relu", "Max", "Min"]) };

    /// max(x, 0) = Relu(x), at NaN maybe not.
    relu_of_max [rounding, since 6]: Max(x, 0.0) => Relu(x) where |site| supports(site, "Relu", x);

    /// Limits that a value keeps anyway, since it comes from a bounded activation or from other limits.
    clip_of_bounded [rounding, since 6, shared]: Clip(x, low?, high?) | Relu(x) => x where |site| {
        let limits = found(limits_of(site.graph, site.node()))?;
        let range = found(range_of(site.graph, x, DEPTH))?;
        ensure(limits.contain(range), "values may be out of the limits")
    };

    /// |x| = x where x is never negative.
    abs_of_bounded [rounding, shared]: Abs(x) => x where |site| {
        let range = found(range_of(site.graph, x, DEPTH))?;
        ensure(range.low >= 0.0, "values may be negative")
    };
}

/// Limits of a value; where there is none, infinity. Those that a Clip of floats leaves out are there: they are the
/// largest finite numbers, which keep infinities out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    /// The lower one.
    pub low: f64,
    /// The upper one.
    pub high: f64,
}

impl Limits {
    fn are_none(self) -> bool {
        self.low == f64::NEG_INFINITY && self.high == f64::INFINITY
    }

    fn contain(self, other: Self) -> bool {
        self.low <= other.low && self.high >= other.high
    }

    /// What is known of the signs alone.
    fn signs(self) -> Self {
        Self {
            low: if self.low >= 0.0 { 0.0 } else { f64::NEG_INFINITY },
            high: if self.high <= 0.0 { 0.0 } else { f64::INFINITY },
        }
    }

    fn clip(self, value: f64) -> f64 {
        value.max(self.low).min(self.high)
    }
}

/// The largest magnitude up to which a double holds every integer.
const WHOLE: f64 = 9_007_199_254_740_992.0;

/// The limits that a Clip, Relu, Max or Min with constants puts on its operand.
pub(crate) fn limits_of(graph: &Graph, node: &Node) -> Option<Limits> {
    let (low, high) = limited(graph, node)?.1;
    let integers = graph.element(node.output(0)?)?.is_integer();
    if integers && [low, high].iter().any(|limit| limit.is_finite() && limit.abs() >= WHOLE) {
        return None;
    }
    // Which of two zeros is the greater one, runtimes do not agree on.
    if [low, high].iter().any(|&limit| limit == 0.0 && limit.is_sign_negative()) {
        return None;
    }
    // A limit that is NaN is in no order with anything.
    (low <= high).then_some(Limits { low, high })
}

/// The largest number that a Clip lets pass where no upper limit is given; of integers, that is every number.
pub(super) fn largest(element: ElementType) -> Option<f64> {
    match element {
        ElementType::Float => Some(f32::MAX.into()),
        ElementType::Double => Some(f64::MAX),
        ElementType::Float16 => Some(65504.0),
        ElementType::Bfloat16 => Some(f32::from_bits(0x7f7f_0000).into()),
        element => element.is_integer().then_some(f64::INFINITY),
    }
}

/// The operand that is limited, and the limits.
fn limited(graph: &Graph, node: &Node) -> Option<(ValueId, (f64, f64))> {
    let first = node.input(0)?;
    let (none, all) = (f64::NEG_INFINITY, f64::INFINITY);
    if node.is("Relu") {
        return Some((first, (0.0, all)));
    }
    if node.is("Clip") {
        if node.operator()?.attribute("min").is_some() {
            return Some((first, (node.float("min")?.into(), node.float("max")?.into())));
        }
        let absent = largest(graph.element(first)?)?;
        let limit = |index, absent| match node.input(index) {
            None => Some(absent),
            Some(value) => graph.constant(value)?.single_f64(),
        };
        return Some((first, (limit(1, -absent)?, limit(2, absent)?)));
    }
    if !(node.is("Max") || node.is("Min")) || node.inputs().len() != 2 {
        return None;
    }
    let second = node.input(1)?;
    let (value, limit) = match scalar(graph, second, first) {
        Some(limit) => (first, limit),
        None => (second, scalar(graph, first, second)?),
    };
    Some((value, if node.is("Max") { (limit, all) } else { (none, limit) }))
}

/// Operators on the way up to what bounds a value, at most.
pub(super) const DEPTH: usize = 5;

/// The range of a value of floats that are numbers, as far as its producers tell.
pub(super) fn range_of(graph: &Graph, value: ValueId, depth: usize) -> Option<Limits> {
    let (_, node, output) = graph.producer(value)?;
    // The absolute value of the least integer is negative.
    if output != 0 || !graph.element(value)?.is_float() {
        return None;
    }
    if let Some(limits) = limits_of(graph, node).or_else(|| activation_range(node)) {
        return Some(limits);
    }
    let depth = depth.checked_sub(1)?;
    let operand = |index| range_of(graph, node.input(index)?, depth);
    match node.op_type() {
        op_type if !node.is(op_type) => None,
        // Operators that round do it in order: what is between two numbers before is so after.
        "Mul" | "Div" => {
            let (a, b) = (node.input(0)?, node.input(1)?);
            let (factor, x) = match scalar(graph, b, a) {
                Some(constant) if node.is("Div") => (constant.recip(), 0),
                Some(constant) => (constant, 0),
                None => (scalar(graph, a, b).filter(|_| node.is("Mul"))?, 1),
            };
            let range = operand(x)?;
            // Rounding and overflow leave signs as they are, nothing else.
            (factor > 0.0 && factor.is_finite()).then(|| range.signs())
        }
        "Add" => {
            let (a, b) = (operand(0)?.signs(), operand(1)?.signs());
            Some(Limits { low: a.low + b.low, high: a.high + b.high })
        }
        // Means of padding too, which is zero, and of nothing, which are no numbers.
        "AveragePool" | "GlobalAveragePool" | "ReduceMean" | "ReduceSum" => Some(operand(0)?.signs()),
        // A window that lies in padding alone has a result out of any range.
        "MaxPool" => {
            let plain = node.int("ceil_mode").unwrap_or(0) == 0
                && node.ints("dilations").unwrap_or_default().iter().all(|&step| step == 1);
            operand(0).filter(|_| plain)
        }
        "Expand" | "Flatten" | "Gather" | "Identity" | "Reshape" | "Slice" | "Squeeze" | "Tile"
        | "Transpose" | "Unsqueeze" => operand(0),
        _ => None,
    }
}

/// The range of an activation's results.
fn activation_range(node: &Node) -> Option<Limits> {
    let range = |low, high| Some(Limits { low, high });
    match node.op_type() {
        op_type if !node.is(op_type) => None,
        "Sigmoid" | "HardSigmoid" | "Softmax" => range(0.0, 1.0),
        "Tanh" | "Softsign" | "Erf" => range(-1.0, 1.0),
        "Exp" | "Softplus" | "Abs" | "ReduceL1" | "ReduceL2" => range(0.0, f64::INFINITY),
        _ => None,
    }
}

/// Limits of limits as one operator, where both are among `op_types`.
fn merge(site: &Site<'_>, op_types: &[&str]) -> Rewrite {
    let graph = site.graph;
    let (middle, _) = found(limited(graph, site.node()))?;
    let (inner_id, inner, _) = found(graph.producer(middle))?;
    found(op_types.iter().find(|op_type| inner.is(op_type)))?;
    let (x, _) = found(limited(graph, inner))?;
    let limits = |node| limits_of(graph, node).ok_or("the limits are in no order");
    let (first, second) = (limits(inner)?, limits(site.node())?);
    if second.contain(first) {
        return finish(site, Patch::new(), middle.into());
    }
    enclosed(graph, &[inner_id, site.root], site.output()?)?;
    clip(site, x, Limits { low: second.clip(first.low), high: second.clip(first.high) })
}

/// A Clip of `x`, as the opset writes it; a Relu where that is all.
fn clip(site: &Site<'_>, x: ValueId, limits: Limits) -> Rewrite {
    let mut patch = Patch::new();
    if limits == (Limits { low: 0.0, high: f64::INFINITY }) {
        supports(site, "Relu", x)?;
        let new = patch.node("Relu", [x], Attributes::new());
        return finish(site, patch, new);
    }
    supports(site, "Clip", x)?;
    let element = site.graph.element(x).ok_or("the element type is not known")?;
    let new = if site.graph.opset() < 11 {
        // As an attribute, a limit cannot be left out: without it, it is the largest number.
        ensure(limits.low.is_finite() && limits.high.is_finite(), "a limit has no end")?;
        let attributes = [("min", (limits.low as f32).into()), ("max", (limits.high as f32).into())];
        patch.node("Clip", [x], Attributes::from_pairs(attributes))
    } else {
        let absent = largest(element).ok_or("the element type has no limits")?;
        let mut limit = |limit: f64, absent: f64| match limit {
            limit if limit == absent => Some(Operand::Absent),
            limit => Some(patch.constant(exact(element, limit)?)),
        };
        let limits = [limit(limits.low, -absent), limit(limits.high, absent)];
        let [Some(low), Some(high)] = limits else { return Err("a limit is out of the type's range".into()) };
        patch.node("Clip", [x.into(), low, high], Attributes::new())
    };
    finish(site, patch, new)
}

/// A scalar that is the number exactly.
fn exact(element: ElementType, value: f64) -> Option<Tensor> {
    Tensor::scalar(element, value).filter(|tensor| tensor.single_f64() == Some(value))
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    fn clipped(f: &mut Fixture, x: ValueId, low: f64, high: f64) -> ValueId {
        if f.graph.opset() < 11 {
            return f.node(NewNode::new("Clip", [x]).with("min", low as f32).with("max", high as f32));
        }
        let (low, high) = (f.scalar(low), f.scalar(high));
        f.op("Clip", &[x, low, high])
    }
    let mut examples = vec![
        // One limit each, the lower one left out; a limit that is an input.
        Example::new("clip_of_clip", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let low = f.scalar(-0.5);
            let high = if fires { f.scalar(0.5) } else { f.input("limit", &[]) };
            let t = f.op("Clip", &[x, low]);
            let y = f.node(NewNode { inputs: vec![Some(t), None, Some(high)], ..NewNode::new("Clip", [t]) });
            f.with_output(y)
        }),
        Example::new("abs_of_bounded", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let t = clipped(&mut f, x, if fires { 0.0 } else { -0.1 }, 0.5);
            let y = f.op("Abs", &[t]);
            f.with_output(y)
        }),
        // The limits are in no order.
        Example::new("clip_of_clip", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let t = clipped(&mut f, x, -1.0, 0.5);
            let y = clipped(&mut f, t, if fires { -0.25 } else { 0.75 }, 0.7);
            f.with_output(y)
        }),
        // The inner result leaves the graph.
        Example::new("clip_of_clip", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let t = f.op("Relu", &[x]);
            let y = clipped(&mut f, t, 0.0, 0.5);
            if !fires {
                f.output("inner", t);
            }
            f.with_output(y)
        }),
        // Unlike Relu, Clip as attributes write it has an upper limit.
        Example::new("clip_of_clip", |fires| {
            let mut f = Fixture::new(9);
            let x = f.input("x", &[4]);
            let t = if fires { clipped(&mut f, x, -0.5, 0.5) } else { f.op("Abs", &[x]) };
            let y = f.op("Relu", &[t]);
            f.with_output(y)
        }),
        // One limit is an input.
        Example::new("clip_without_limits", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let low = f.scalar(f64::NEG_INFINITY);
            let high = if fires { f.scalar(f64::INFINITY) } else { f.input("limit", &[]) };
            let t = f.op("Abs", &[x]);
            let t = f.op("Clip", &[t, low, high]);
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        }),
        // The upper limit is the largest finite number.
        Example::new("clip_without_limits", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let low = f.scalar(f64::NEG_INFINITY);
            let high = f.scalar(f64::INFINITY);
            let t = f.op("Abs", &[x]);
            let t = if fires { f.op("Clip", &[t, low, high]) } else { f.op("Clip", &[t, low]) };
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        }),
        Example::new("clip_of_min_max", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[2, 4]);
            let low = f.scalar(-0.25);
            let high = if fires { f.floats(&[1], &[0.5]) } else { f.floats(&[4], &[0.5, 0.5, 0.5, 0.25]) };
            let t = f.op("Max", &[low, x]);
            let y = f.op("Min", &[t, high]);
            f.with_output(y)
        }),
        Example::new("clip_of_min_max", |fires| {
            let mut f = Fixture::new(13);
            let x = f.typed_input("x", ElementType::Int64, [onnx_opt_ir::Dim::fixed(4)]);
            let (low, high) = (f.integers(&[-2]), f.integers(if fires { &[3] } else { &[3, 3, 3, 4] }));
            let t = f.op("Max", &[x, low]);
            let y = f.op("Min", &[t, high]);
            f.with_output(y)
        }),
        Example::new("clip_of_min_max", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let six = if fires { f.scalar(6.0) } else { f.input("limit", &[]) };
            let t = f.op("Relu", &[x]);
            let y = f.op("Min", &[six, t]);
            f.with_output(y)
        }),
        // Without an upper limit, it still keeps infinity out.
        Example::new("clip_of_clip", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let t = f.op("Relu", &[x]);
            let low = f.scalar(-1.0);
            let y = if fires { f.op("Clip", &[t, low]) } else { f.op("LeakyRelu", &[t]) };
            f.with_output(y)
        }),
        // So that it is not for nothing behind what may be infinite.
        Example::new("clip_of_bounded", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let t = f.op(if fires { "Sigmoid" } else { "Exp" }, &[x]);
            let zero = f.scalar(0.0);
            let t = f.op("Clip", &[t, zero]);
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        }),
        // Through what keeps the signs.
        Example::new("clip_of_bounded", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[2, 4]);
            let t = f.op("Relu", &[x]);
            let c = f.scalar(if fires { 2.5 } else { -2.5 });
            let t = f.op("Mul", &[c, t]);
            let s = f.op("Sigmoid", &[x]);
            let t = f.op("Add", &[t, s]);
            let t = f.op("Transpose", &[t]);
            let t = f.op("Relu", &[t]);
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        }),
        Example::new("clip_of_bounded", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[1, 2, 4, 4]);
            let t = f.op("Relu", &[x]);
            let pool = NewNode::new("MaxPool", [t]).with("kernel_shape", vec![2, 2]);
            let t = f.node(pool.with("dilations", if fires { vec![1, 1] } else { vec![2, 2] }));
            let t = f.op("Relu", &[t]);
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        }),
        // A limit that is minus zero.
        Example::new("clip_of_clip", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let t = f.op("Relu", &[x]);
            let y = clipped(&mut f, t, if fires { 0.0 } else { -0.0 }, 0.5);
            f.with_output(y)
        }),
        // It would raise the rank.
        Example::new("relu_of_max", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let zero = if fires { f.floats(&[1], &[0.0]) } else { f.floats(&[1, 1], &[0.0]) };
            let y = f.op("Max", &[zero, x]);
            f.with_output(y)
        }),
    ];
    for (op_type, high) in [("Sigmoid", 0.75), ("Tanh", 0.5)] {
        examples.push(Example::new("clip_of_bounded", move |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            let t = f.op(op_type, &[x]);
            let t = clipped(&mut f, t, -1.0, if fires { 1.0 } else { high });
            let y = f.op("Neg", &[t]);
            f.with_output(y)
        }));
    }
    examples
}

#[cfg(test)]
mod tests {
    use onnx_opt_ir::Dim;

    use super::*;
    use crate::rewrite::Rule;
    use crate::testing::Fixture;

    /// Adds a limit of the element type under test.
    type Limit<'a> = &'a dyn Fn(&mut Fixture, f64) -> ValueId;

    /// The operator that is left of two, and its limits.
    fn merged(
        element: ElementType,
        build: fn(&mut Fixture, Limit<'_>, ValueId) -> ValueId,
    ) -> Option<(String, Option<f64>, Option<f64>)> {
        let mut f = Fixture::new(13);
        let x = f.typed_input("x", element, [Dim::fixed(4)]);
        let limit = |f: &mut Fixture, value: f64| {
            f.graph.add_constant(Tensor::scalar(element, value).unwrap_or_else(|| Tensor::vector_i64(&[])))
        };
        let y = build(&mut f, &limit, x);
        let mut f = f.with_output(y);
        let rules = rules();
        f.rewrite(rules.iter().map(|rule| &**rule as &dyn Rule));
        let nodes: Vec<&Node> = f.graph.nodes().map(|(_, node)| node).collect();
        let &[node] = nodes.as_slice() else { return None };
        let number = |index| f.graph.constant(node.input(index)?)?.single_f64();
        Some((node.op_type().to_owned(), number(1), number(2)))
    }

    #[test]
    fn infinities_pass_where_they_passed_before_and_nowhere_else() {
        let clip = |low, high| Some(("Clip".to_owned(), low, high));
        // An upper limit that is left out keeps infinity out, Relu and Max do not.
        let relu_first = merged(ElementType::Float, |f, limit, x| {
            let (t, low) = (f.op("Relu", &[x]), limit(f, -1.0));
            f.op("Clip", &[t, low])
        });
        assert_eq!(relu_first, clip(Some(0.0), None));
        let lower = merged(ElementType::Float16, |f, limit, x| {
            let (one, two) = (limit(f, 1.0), limit(f, 2.0));
            let t = f.op("Max", &[x, one]);
            f.op("Max", &[t, two])
        });
        assert_eq!(lower, clip(Some(2.0), Some(f64::INFINITY)));
        let written = merged(ElementType::Double, |f, limit, x| {
            let (low, high, six) = (limit(f, f64::NEG_INFINITY), limit(f, f64::INFINITY), limit(f, 6.0));
            let t = f.op("Clip", &[x, low, high]);
            f.op("Min", &[t, six])
        });
        assert_eq!(written, Some(("Min".to_owned(), Some(6.0), None)));
        let halves = merged(ElementType::Bfloat16, |f, limit, x| {
            let (low, high) = (limit(f, 0.5), limit(f, 3.0e38));
            let t = f.op("Clip", &[x, low]);
            f.op("Min", &[t, high])
        });
        assert!(halves.is_some_and(|(_, low, high)| low == Some(0.5) && high.is_some()));
        // All integers are within limits that are left out.
        let integers = merged(ElementType::Int32, |f, limit, x| {
            let (low, lower) = (limit(f, -5.0), limit(f, -7.0));
            let t = f.op("Clip", &[x, low]);
            f.op("Clip", &[t, lower])
        });
        assert_eq!(integers, clip(Some(-5.0), None));
    }
}
