//! Activations, and what exporters write for them in elementwise arithmetic.

// Patterns spell constants the way models do.
#![allow(clippy::approx_constant)]

use onnx_opt_ir::{Attributes, Graph, Node, NodeId, ValueId};

use super::clip::limits_of;
use super::product::{Polynomial, Product, polynomial, products, scaled};
use super::support::{close, enclosed, supports};
use crate::rewrite::{Miss, Patch, Rewrite, Site, ensure, found, language::finish};

rules! {
    /// Relu(Relu(x)) = Relu(x).
    relu_relu [exact, shared]: Relu(Relu(x) as y) => y;

    /// |Relu(x)| = Relu(x).
    abs_of_relu [exact, shared]: Abs(Relu(x) as y) => y;

    /// 0.5·x·(1 + erf(x/√2)) = Gelu(x), constants anywhere among the factors.
    gelu_erf [rounding, since 20, shared]: Mul(a, b) | Div(a, b)
        => do |site| { gelu(site, "Erf", [0.0, 0.5_f64.sqrt(), 0.0, 0.0], "none") };

    /// 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))) = Gelu(x), constants anywhere, the cube in any spelling.
    gelu_tanh [rounding, since 20, shared]: Mul(a, b) | Div(a, b) => do |site| {
        let slope = std::f64::consts::FRAC_2_PI.sqrt();
        gelu(site, "Tanh", [0.0, slope, 0.0, 0.044715 * slope], "tanh")
    };

    /// x·σ(α·x) = Swish(x).
    swish [rounding, since 24, shared]: Mul(a, b) | Div(a, b) => do |site| { swish_of(site) };

    /// x·clip(x + 3, 0, 6)/6 = HardSwish(x), constants anywhere; so is x·HardSigmoid(x) with slope 1/6.
    hard_swish [rounding, since 14, shared]: Mul(a, b) | Div(a, b) => do |site| { hard_swish_of(site) };

    /// clip(a·x + b, 0, c)/c = HardSigmoid(x).
    hard_sigmoid [rounding, since 6, shared]: Mul(a, ..rest) | Div(a, ..rest) | Clip(a, low?, high?)
        => do |site| { hard_sigmoid_of(site) };

    /// x·tanh(ln(1 + eˣ)) = Mish(x).
    mish [rounding, since 18]: Mul(x, Tanh(Softplus(x))) => Mish(x) where |site| supports(site, "Mish", x);

    /// x·tanh(ln(1 + eˣ)) = Mish(x) with the logarithm written out; where that overflows, tanh is 1 all the same.
    mish_of_log [rounding, since 18]: Mul(x, Tanh(Log(Add(Exp(x), 1.0)))) => Mish(x)
        where |site| supports(site, "Mish", x);

    /// 1/(1 + e⁻ˣ) = σ(x).
    sigmoid_of_exp [rounding, since 6]:
        Reciprocal(Add(Exp(Neg(x)), 1.0))
        | Reciprocal(Add(Exp(Mul(x, -1.0)), 1.0))
        | Div(1.0, Add(Exp(Neg(x)), 1.0))
        | Div(1.0, Add(Exp(Mul(x, -1.0)), 1.0))
        => Sigmoid(x) where |site| supports(site, "Sigmoid", x);

    /// x/(1 + e⁻ˣ) = x·σ(x).
    swish_of_exp [rounding, since 7]:
        Div(x, Add(Exp(Neg(x)), 1.0))
        | Div(x, Add(Exp(Mul(x, -1.0)), 1.0))
        => Mul(x, Sigmoid(x)) where |site| supports(site, "Sigmoid", x);

    /// ln(1 + eˣ) = Softplus(x), which does not overflow.
    softplus [approximate]: Log(Add(Exp(x), 1.0)) => Softplus(x) where |site| supports(site, "Softplus", x);

    /// x/(1 + |x|) = Softsign(x).
    softsign [rounding]: Div(x, Add(Abs(x), 1.0)) => Softsign(x) where |site| supports(site, "Softsign", x);

    /// max(x, a·x) = LeakyRelu(x) for 0 < a < 1.
    leaky_relu_of_max [exact, since 6]: Max(x, Mul(x, const slope)) => do |site| {
        let slope = constant_slope(site.graph, slope, x)?;
        ensure(slope > 0.0 && slope < 1.0, "the slope is not between 0 and 1")?;
        leaky_relu(site, x, slope)
    };

    /// x where x > 0, else a·x, = LeakyRelu(x).
    leaky_relu_of_where [exact, since 9]:
        Where(Greater(x, 0.0), x, Mul(x, const slope))
        | Where(GreaterOrEqual(x, 0.0), x, Mul(x, const slope))
        | Where(Less(x, 0.0), Mul(x, const slope), x)
        => do |site| { leaky_relu(site, x, constant_slope(site.graph, slope, x)?) };

    /// PRelu with one slope for all elements is a LeakyRelu.
    prelu_of_one_slope [exact, since 6]: PRelu(x, const slopes) => do |site| {
        let slope = site.graph.constant(slopes).and_then(|slopes| slopes.uniform());
        leaky_relu(site, x, slope.ok_or("the slopes differ")?)
    };
}

fn constant_slope(graph: &Graph, slope: ValueId, x: ValueId) -> Result<f64, Miss> {
    super::support::scalar(graph, slope, x).ok_or_else(|| "the slope is no scalar".into())
}

fn leaky_relu(site: &Site<'_>, x: ValueId, slope: f64) -> Rewrite {
    supports(site, "LeakyRelu", x)?;
    ensure(f64::from(slope as f32) == slope, "the slope is no number of single precision")?;
    replaced(site, "LeakyRelu", x, Attributes::from_pairs([("alpha", (slope as f32).into())]))
}

/// The root's result by one operator over `x`.
fn replaced(site: &Site<'_>, op_type: &str, x: ValueId, attributes: Attributes) -> Rewrite {
    let mut patch = Patch::new();
    let new = patch.node(op_type, [x], attributes);
    finish(site, patch, new)
}

/// The way to read the root as a product with a gate, for which `gate` tells the attributes of the activation and adds
/// its operators to the list.
fn gated(
    site: &Site<'_>,
    op_type: &str,
    gate: impl Fn(&Product, &mut Vec<NodeId>) -> Option<Attributes>,
) -> Rewrite {
    let output = site.output()?;
    let mut miss = Miss::NoMatch;
    for product in products(site.graph, output) {
        let mut nodes = product.nodes.clone();
        let Some(attributes) = gate(&product, &mut nodes) else { continue };
        match enclosed(site.graph, &nodes, output) {
            Ok(()) => {
                supports(site, op_type, product.x)?;
                return replaced(site, op_type, product.x, attributes);
            }
            Err(reason) => miss = reason,
        }
    }
    Err(miss)
}

/// Whether two polynomials are the same within rounding.
fn same(graph: &Graph, found: &Polynomial, meant: &Polynomial, x: ValueId) -> bool {
    found.iter().zip(meant).all(|(&found, &meant)| close(found, meant, graph.element(x)))
}

/// The first operator `op_type` on the way up through operators with constants.
pub(super) fn through_constants<'g>(
    graph: &'g Graph,
    value: ValueId,
    op_type: &str,
) -> Option<(NodeId, &'g Node)> {
    let mut value = value;
    // A factor and a term.
    for _ in 0..3 {
        let (id, node, _) = graph.producer(value)?;
        if node.is(op_type) {
            return Some((id, node));
        }
        let (a, b) = (node.input(0)?, node.input(1)?);
        value = match (graph.constant(a).is_some(), graph.constant(b).is_some()) {
            (true, false) => b,
            (false, true) => a,
            _ => return None,
        };
    }
    None
}

/// `factor`·x·(c + d·f(`argument` of x)), where `factor`·c = `factor`·d = 1/2.
fn gelu(site: &Site<'_>, function: &str, argument: Polynomial, approximate: &str) -> Rewrite {
    let graph = site.graph;
    gated(site, "Gelu", |product, nodes| {
        let (id, node) = through_constants(graph, product.gate, function)?;
        let outer = polynomial(graph, product.gate, node.output(0)?, nodes)?;
        let outer = outer.map(|coefficient| coefficient * product.factor);
        let inner = polynomial(graph, node.input(0)?, product.x, nodes)?;
        nodes.push(id);
        if !same(graph, &outer, &[0.5, 0.5, 0.0, 0.0], product.x)
            || !same(graph, &inner, &argument, product.x)
        {
            return None;
        }
        let attributes = if approximate == "none" { None } else { Some(("approximate", approximate.into())) };
        Some(Attributes::from_pairs(attributes))
    })
}

fn swish_of(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    gated(site, "Swish", |product, nodes| {
        let (id, node) = graph.producer_of(product.gate, "Sigmoid")?;
        let [zero, alpha, ..] = polynomial(graph, node.input(0)?, product.x, nodes)
            .filter(|[zero, _, square, cube]| [zero, square, cube].iter().all(|&&other| other == 0.0))?;
        nodes.push(id);
        let whole = zero == 0.0 && alpha != 0.0 && close(product.factor, 1.0, None);
        whole.then(|| match alpha {
            1.0 => Attributes::new(),
            alpha => Attributes::from_pairs([("alpha", (alpha as f32).into())]),
        })
    })
}

fn hard_swish_of(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    gated(site, "HardSwish", |product, nodes| {
        let element = graph.element(product.x);
        let (id, node, _) = graph.producer(product.gate)?;
        nodes.push(id);
        if node.is("HardSigmoid") {
            let (slope, offset) = (node.float("alpha")?, node.float("beta")?);
            let fits = node.input(0) == Some(product.x)
                && close(slope.into(), 1.0 / 6.0, None)
                && close(offset.into(), 0.5, None);
            return (fits && close(product.factor, 1.0, None)).then(Attributes::new);
        }
        let limits = if node.is("Clip") { limits_of(graph, node)? } else { return None };
        let argument = polynomial(graph, node.input(0)?, product.x, nodes)?;
        let fits = (limits.low, limits.high) == (0.0, 6.0)
            && argument == [3.0, 1.0, 0.0, 0.0]
            && close(product.factor, 1.0 / 6.0, element);
        fits.then(Attributes::new)
    })
}

fn hard_sigmoid_of(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let output = site.output()?;
    for way in scaled(graph, output) {
        let Some((id, node)) = graph.producer_of(way.value, "Clip") else { continue };
        let limits = found(limits_of(graph, node))?;
        let element = graph.element(output);
        found((limits.low == 0.0 && close(way.factor * limits.high, 1.0, element)).then_some(()))?;
        let argument = found(node.input(0))?;
        let is_scaled = !way.nodes.is_empty();
        let mut nodes = way.nodes;
        nodes.push(id);
        let mut inner = nodes.clone();
        let (x, line) = match line(graph, argument, &mut inner) {
            Some(line) if enclosed(graph, &inner, output).is_ok() => line,
            // What was added is part of an operator before, or has other users.
            _ if is_scaled => {
                enclosed(graph, &nodes, output)?;
                (argument, [0.0, 1.0, 0.0, 0.0])
            }
            _ => return Err(Miss::NoMatch),
        };
        supports(site, "HardSigmoid", x)?;
        let [offset, slope, ..] = line.map(|coefficient| coefficient * way.factor);
        ensure(slope.is_finite() && slope != 0.0, "the slope is no number")?;
        let attributes = [("alpha", (slope as f32).into()), ("beta", (offset as f32).into())];
        return replaced(site, "HardSigmoid", x, Attributes::from_pairs(attributes));
    }
    Err(Miss::NoMatch)
}

/// A value as a sum of a constant and, scaled or not, another value.
fn line(graph: &Graph, value: ValueId, nodes: &mut Vec<NodeId>) -> Option<(ValueId, Polynomial)> {
    let (_, node, _) = graph.producer(value)?;
    let mut term = value;
    if node.is("Add") || node.is("Sub") {
        let (a, b) = (node.input(0)?, node.input(1)?);
        term = if graph.constant(a).is_some() { b } else { a };
    }
    let x = scaled(graph, term).pop().map(|way| way.value).filter(|&x| x != value)?;
    Some((x, polynomial(graph, value, x, nodes)?))
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use crate::testing::{Example, Fixture};

    /// One input `x`, and what `build` makes of it.
    fn example(
        rule: &'static str,
        opset: i64,
        build: impl Fn(&mut Fixture, ValueId, bool) -> ValueId,
    ) -> Example {
        Example::new(rule, |fires| {
            let mut f = Fixture::new(opset);
            let x = f.input("x", &[2, 3]);
            let y = build(&mut f, x, fires);
            f.with_output(y)
        })
    }
    fn with(f: &mut Fixture, op_type: &str, x: ValueId, c: f64) -> ValueId {
        let c = f.scalar(c);
        f.op(op_type, &[x, c])
    }
    fn clip(f: &mut Fixture, x: ValueId, low: f64, high: f64) -> ValueId {
        let (low, high) = (f.scalar(low), f.scalar(high));
        f.op("Clip", &[x, low, high])
    }
    fn one_plus_exp_of_minus(f: &mut Fixture, x: ValueId) -> ValueId {
        let t = f.op("Neg", &[x]);
        let t = f.op("Exp", &[t]);
        with(f, "Add", t, 1.0)
    }
    let cube = |f: &mut Fixture, x, power| {
        let c = with(f, "Pow", x, power);
        let t = with(f, "Mul", c, 0.044715);
        let t = f.op("Add", &[x, t]);
        let t = with(f, "Mul", t, 0.797_884_56);
        f.op("Tanh", &[t])
    };

    vec![
        example("relu_relu", 13, |f, x, fires| {
            let t = f.op(if fires { "Relu" } else { "Neg" }, &[x]);
            f.op("Relu", &[t])
        }),
        example("abs_of_relu", 13, |f, x, fires| {
            let t = f.op(if fires { "Relu" } else { "Neg" }, &[x]);
            f.op("Abs", &[t])
        }),
        // The half last.
        example("gelu_erf", 20, |f, x, fires| {
            let t = with(f, "Div", x, if fires { std::f64::consts::SQRT_2 } else { 1.5 });
            let t = f.op("Erf", &[t]);
            let one = f.scalar(1.0);
            let t = f.op("Add", &[one, t]);
            let t = f.op("Mul", &[t, x]);
            with(f, "Mul", t, 0.5)
        }),
        // The half first; an inner result that leaves the graph must stay.
        example("gelu_erf", 20, |f, x, fires| {
            let t = with(f, "Mul", x, 0.707_106_78);
            let erf = f.op("Erf", &[t]);
            if !fires {
                f.output("erf", erf);
            }
            let t = with(f, "Add", erf, 1.0);
            let half = with(f, "Mul", x, 0.5);
            f.op("Mul", &[half, t])
        }),
        // The half at the function; x itself a product with a constant.
        example("gelu_erf", 20, |f, x, fires| {
            let x = with(f, "Mul", x, 3.0);
            let t = with(f, "Div", x, 1.414_213_5);
            let t = f.op("Erf", &[t]);
            let t = with(f, "Mul", t, 0.5);
            let t = with(f, "Add", t, if fires { 0.5 } else { 1.0 });
            f.op("Mul", &[x, t])
        }),
        // Divided by two; not of integers, which have no Erf at all, but of an opset that lacks Gelu.
        Example::new("gelu_erf", |fires| {
            let mut f = Fixture::new(if fires { 20 } else { 19 });
            let x = f.input("x", &[2, 3]);
            let t = with(&mut f, "Div", x, 1.414_213_5);
            let t = f.op("Erf", &[t]);
            let t = with(&mut f, "Add", t, 1.0);
            let t = with(&mut f, "Div", t, 2.0);
            let y = f.op("Mul", &[t, x]);
            f.with_output(y)
        }),
        example("gelu_tanh", 20, |f, x, fires| {
            let t = cube(f, x, if fires { 3.0 } else { 2.0 });
            let t = with(f, "Add", t, 1.0);
            let t = f.op("Mul", &[x, t]);
            with(f, "Mul", t, 0.5)
        }),
        example("gelu_tanh", 20, |f, x, fires| {
            let t = cube(f, x, 3.0);
            let t = with(f, "Add", t, if fires { 1.0 } else { -1.0 });
            let half = with(f, "Mul", x, 0.5);
            f.op("Mul", &[half, t])
        }),
        // √(2/π)·x·(1 + 0.044715·x·x).
        example("gelu_tanh", 20, |f, x, fires| {
            let a = with(f, "Mul", x, 0.797_884_56);
            let b = with(f, "Mul", x, if fires { 0.044715 } else { 0.05 });
            let b = f.op("Mul", &[b, x]);
            let b = with(f, "Add", b, 1.0);
            let t = f.op("Mul", &[a, b]);
            let t = f.op("Tanh", &[t]);
            let t = with(f, "Add", t, 1.0);
            let t = with(f, "Mul", t, 0.5);
            f.op("Mul", &[x, t])
        }),
        example("swish", 24, |f, x, fires| {
            let other = f.input("other", &[2, 3]);
            let t = f.op("Sigmoid", &[if fires { x } else { other }]);
            f.op("Mul", &[t, x])
        }),
        example("swish", 24, |f, x, fires| {
            let t = with(f, "Mul", x, 1.702);
            let t = if fires { t } else { with(f, "Add", t, 1.0) };
            let t = f.op("Sigmoid", &[t]);
            f.op("Mul", &[x, t])
        }),
        example("hard_swish", 14, |f, x, fires| {
            let t = with(f, "Add", x, 3.0);
            let t = clip(f, t, 0.0, if fires { 6.0 } else { 5.0 });
            let t = f.op("Mul", &[x, t]);
            with(f, "Div", t, 6.0)
        }),
        example("hard_swish", 14, |f, x, fires| {
            let t = with(f, "Add", x, 3.0);
            let t = clip(f, t, 0.0, 6.0);
            let t = with(f, "Mul", t, if fires { 1.0 / 6.0 } else { 0.15 });
            f.op("Mul", &[x, t])
        }),
        example("hard_swish", 14, |f, x, fires| {
            let slope = if fires { 1.0_f32 / 6.0 } else { 0.2 };
            let t = f.node(onnx_opt_ir::NewNode::new("HardSigmoid", [x]).with("alpha", slope));
            f.op("Mul", &[x, t])
        }),
        example("hard_sigmoid", 13, |f, x, fires| {
            let t = with(f, "Add", x, 3.0);
            let t = clip(f, t, 0.0, 6.0);
            with(f, "Div", t, if fires { 6.0 } else { 5.0 })
        }),
        // The sum is part of what comes before.
        example("hard_sigmoid", 13, |f, x, fires| {
            let t = f.op("Exp", &[x]);
            let t = clip(f, t, 0.0, 6.0);
            if fires { with(f, "Div", t, 6.0) } else { f.op("Relu", &[t]) }
        }),
        example("hard_sigmoid", 13, |f, x, fires| {
            let t = with(f, "Mul", x, 0.2);
            let t = with(f, "Add", t, 0.5);
            clip(f, t, if fires { 0.0 } else { 0.1 }, 1.0)
        }),
        example("mish", 18, |f, x, fires| {
            let other = f.input("other", &[2, 3]);
            let t = f.op("Softplus", &[if fires { x } else { other }]);
            let t = f.op("Tanh", &[t]);
            f.op("Mul", &[x, t])
        }),
        example("mish_of_log", 18, |f, x, fires| {
            let t = f.op("Exp", &[x]);
            let t = with(f, "Add", t, if fires { 1.0 } else { 1.5 });
            let t = f.op("Log", &[t]);
            let t = f.op("Tanh", &[t]);
            f.op("Mul", &[t, x])
        }),
        example("sigmoid_of_exp", 13, |f, x, fires| {
            let t = one_plus_exp_of_minus(f, x);
            if fires { f.op("Reciprocal", &[t]) } else { f.op("Log", &[t]) }
        }),
        example("sigmoid_of_exp", 13, |f, x, fires| {
            let t = one_plus_exp_of_minus(f, x);
            let one = f.scalar(if fires { 1.0 } else { 2.0 });
            f.op("Div", &[one, t])
        }),
        example("swish_of_exp", 13, |f, x, fires| {
            let other = f.input("other", &[2, 3]);
            let t = one_plus_exp_of_minus(f, if fires { x } else { other });
            f.op("Div", &[x, t])
        }),
        example("softplus", 13, |f, x, fires| {
            let t = f.op("Exp", &[x]);
            let t = with(f, "Add", t, if fires { 1.0 } else { 2.0 });
            f.op("Log", &[t])
        }),
        example("softsign", 13, |f, x, fires| {
            let t = f.op("Abs", &[x]);
            let t = with(f, "Add", t, if fires { 1.0 } else { 2.0 });
            f.op("Div", &[x, t])
        }),
        example("leaky_relu_of_max", 13, |f, x, fires| {
            let t = with(f, "Mul", x, if fires { 0.25 } else { 1.5 });
            f.op("Max", &[t, x])
        }),
        example("leaky_relu_of_where", 13, |f, x, fires| {
            let c = with(f, "Greater", x, if fires { 0.0 } else { 0.5 });
            let t = with(f, "Mul", x, 0.125);
            f.op("Where", &[c, x, t])
        }),
        example("leaky_relu_of_where", 13, |f, x, fires| {
            let c = with(f, "Less", x, 0.0);
            let t = with(f, "Mul", x, 3.0);
            let sides = if fires { [c, t, x] } else { [c, x, t] };
            f.op("Where", &sides)
        }),
        example("prelu_of_one_slope", 13, |f, x, fires| {
            let slopes = f.floats(&[3], &[0.25, 0.25, if fires { 0.25 } else { 0.5 }]);
            f.op("PRelu", &[x, slopes])
        }),
    ]
}
