//! Activations: functions of one tensor, and of one along an axis.

use onnx_opt_ir::ValueId;

use super::Rule;
use super::elementwise::unary;
use super::step::{Gradients, Step};
use super::writer::Written;

pub(super) const RULES: &[(&str, Rule)] = &[
    ("Celu", |s| {
        exponential(s, |s, y| {
            let alpha = s.float("alpha")?;
            let quotient = s.times(y, 1.0 / alpha)?;
            Ok((1.0, s.plus(quotient, 1.0)?))
        })
    }),
    ("Clip", clip),
    ("Elu", |s| {
        exponential(s, |s, y| {
            let alpha = s.float("alpha")?;
            Ok((1.0, s.plus(y, alpha)?))
        })
    }),
    ("Gelu", gelu),
    ("HardSigmoid", hard_sigmoid),
    ("HardSwish", hard_swish),
    ("LeakyRelu", leaky_relu),
    ("LogSoftmax", log_softmax),
    ("Mish", mish),
    ("PRelu", prelu),
    ("Relu", |s| {
        unary(s, |s, g, _, y| {
            let positive = s.above(y, 0.0)?;
            s.where_only(positive, g)
        })
    }),
    ("Selu", |s| {
        exponential(s, |s, y| {
            let (alpha, gamma) = (s.float("alpha")?, s.float("gamma")?);
            Ok((gamma, s.plus(y, alpha * gamma)?))
        })
    }),
    ("Shrink", shrink),
    ("Sigmoid", |s| {
        unary(s, |s, g, _, y| {
            let rest = s.minus_from(1.0, y)?;
            let derivative = s.mul(y, rest)?;
            s.mul(g, derivative)
        })
    }),
    ("Softmax", softmax),
    ("Softplus", |s| {
        unary(s, |s, g, x, _| {
            let derivative = s.op("Sigmoid", &[x])?;
            s.mul(g, derivative)
        })
    }),
    ("Softsign", |s| {
        unary(s, |s, g, x, _| {
            let size = s.op("Abs", &[x])?;
            let sum = s.plus(size, 1.0)?;
            let square = s.square(sum)?;
            s.div(g, square)
        })
    }),
    ("Swish", swish),
    ("Tanh", |s| {
        unary(s, |s, g, _, y| {
            let square = s.square(y)?;
            let derivative = s.minus_from(1.0, square)?;
            s.mul(g, derivative)
        })
    }),
    ("ThresholdedRelu", |s| {
        unary(s, |s, g, x, _| {
            let alpha = s.float("alpha")?;
            let passes = s.above(x, alpha)?;
            s.where_only(passes, g)
        })
    }),
];

/// A line above zero, an exponential below: slope·g, and g times the derivative there, both from y.
fn exponential<'w, 'g>(
    s: &mut Step<'w, 'g>,
    derive: impl FnOnce(&mut Step<'w, 'g>, ValueId) -> Written<(f64, ValueId)>,
) -> Gradients {
    unary(s, |s, g, x, y| {
        let (slope, derivative) = derive(s, y)?;
        let positive = s.above(x, 0.0)?;
        let slope = s.number(g, slope)?;
        let factor = s.op("Where", &[positive, slope, derivative])?;
        s.mul(g, factor)
    })
}

/// g where x is between the bounds; a bound has what is outside of it.
fn clip(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x) = (s.gradient()?, s.input(0)?);
    let mut gradients = Vec::new();
    let mut outside: Option<ValueId> = None;
    for (index, comparison) in [(1, "Less"), (2, "Greater")] {
        let Some(bound) = s.node.input(index) else {
            gradients.push(None);
            continue;
        };
        let past = s.op(comparison, &[x, bound])?;
        gradients.push(s.broadcast_operand(index, |s| s.where_only(past, g))?);
        outside = Some(match outside {
            None => past,
            Some(other) => s.op("Or", &[other, past])?,
        });
    }
    let inside = match outside {
        None => g,
        Some(outside) => s.where_not(outside, g)?,
    };
    gradients.insert(0, Some(inside));
    Ok(gradients)
}

/// α·g where the result is between 0 and 1.
fn hard_sigmoid(s: &mut Step<'_, '_>) -> Gradients {
    unary(s, |s, g, _, y| {
        let alpha = s.float("alpha")?;
        let inside = between(s, y, 0.0, 1.0)?;
        let slope = s.times(g, alpha)?;
        s.where_only(inside, slope)
    })
}

fn between(s: &mut Step<'_, '_>, x: ValueId, low: f64, high: f64) -> Written {
    let (above, below) = (s.above(x, low)?, s.below(x, high)?);
    s.op("And", &[above, below])
}

/// x·min(max(x/6 + 1/2, 0), 1): g·(x/3 + 1/2) between -3 and 3, g above, 0 below.
fn hard_swish(s: &mut Step<'_, '_>) -> Gradients {
    unary(s, |s, g, x, _| {
        let third = s.times(x, 1.0 / 3.0)?;
        let slope = s.plus(third, 0.5)?;
        let curved = s.below(x, 3.0)?;
        let one = s.number(x, 1.0)?;
        let slope = s.op("Where", &[curved, slope, one])?;
        let alive = s.above(x, -3.0)?;
        let product = s.mul(g, slope)?;
        s.where_only(alive, product)
    })
}

fn leaky_relu(s: &mut Step<'_, '_>) -> Gradients {
    unary(s, |s, g, x, _| {
        let alpha = s.float("alpha")?;
        let positive = s.above(x, 0.0)?;
        let small = s.times(g, alpha)?;
        s.op("Where", &[positive, g, small])
    })
}

/// x or slope·x: g or slope·g; the slope has g·x where x is not positive.
fn prelu(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x, slope) = (s.gradient()?, s.input(0)?, s.input(1)?);
    let positive = s.above(x, 0.0)?;
    let of_x = s.broadcast_operand(0, |s| {
        let small = s.mul(g, slope)?;
        s.op("Where", &[positive, g, small])
    })?;
    let of_slope = s.broadcast_operand(1, |s| {
        let product = s.mul(g, x)?;
        s.where_not(positive, product)
    })?;
    Ok(vec![of_x, of_slope])
}

/// g outside of -λ..λ.
fn shrink(s: &mut Step<'_, '_>) -> Gradients {
    unary(s, |s, g, x, _| {
        let lambd = s.float("lambd")?;
        let (above, below) = (s.above(x, lambd)?, s.below(x, -lambd)?);
        let outside = s.op("Or", &[above, below])?;
        s.where_only(outside, g)
    })
}

/// x·Φ(x): Φ + x·φ with the normal density φ; and what stands for it by tanh:
/// ½x(1 + t), t = tanh u, u = √(2/π)(x + 0.044715x³): ½(1 + t) + ½x(1 − t²)u′.
fn gelu(s: &mut Step<'_, '_>) -> Gradients {
    const CUBIC: f64 = 0.044_715;
    let by_tanh = s.string("approximate") == "tanh";
    unary(s, |s, g, x, _| {
        let square = s.square(x)?;
        let (level, slope) = if by_tanh {
            let root = (2.0 / std::f64::consts::PI).sqrt();
            let quadratic = s.times(square, CUBIC * root)?;
            let factor = s.plus(quadratic, root)?;
            let u = s.mul(x, factor)?;
            let t = s.op("Tanh", &[u])?;
            let derivative = s.times(square, 3.0 * CUBIC * root)?;
            let derivative = s.plus(derivative, root)?;
            let t_square = s.square(t)?;
            let rest = s.minus_from(1.0, t_square)?;
            let slope = s.mul(rest, derivative)?;
            (t, s.times(slope, 0.5)?)
        } else {
            let scaled = s.times(x, std::f64::consts::FRAC_1_SQRT_2)?;
            let level = s.op("Erf", &[scaled])?;
            let exponent = s.times(square, -0.5)?;
            let power = s.op("Exp", &[exponent])?;
            (level, s.times(power, (0.5 / std::f64::consts::PI).sqrt())?)
        };
        let half = s.times(level, 0.5)?;
        let level = s.plus(half, 0.5)?;
        let product = s.mul(x, slope)?;
        let derivative = s.add(level, product)?;
        s.mul(g, derivative)
    })
}

/// x·tanh(s), s = ln(1 + eˣ): t + x(1 − t²)σ(x).
fn mish(s: &mut Step<'_, '_>) -> Gradients {
    unary(s, |s, g, x, _| {
        let soft = s.op("Softplus", &[x])?;
        let t = s.op("Tanh", &[soft])?;
        let square = s.square(t)?;
        let rest = s.minus_from(1.0, square)?;
        let sigmoid = s.op("Sigmoid", &[x])?;
        let slope = s.mul(rest, sigmoid)?;
        let product = s.mul(x, slope)?;
        let derivative = s.add(t, product)?;
        s.mul(g, derivative)
    })
}

/// x·σ(αx): σ·(1 + αx(1 − σ)).
fn swish(s: &mut Step<'_, '_>) -> Gradients {
    unary(s, |s, g, x, _| {
        let alpha = s.float("alpha")?;
        let scaled = s.times(x, alpha)?;
        let sigmoid = s.op("Sigmoid", &[scaled])?;
        let rest = s.minus_from(1.0, sigmoid)?;
        let product = s.mul(scaled, rest)?;
        let factor = s.plus(product, 1.0)?;
        let derivative = s.mul(sigmoid, factor)?;
        s.mul(g, derivative)
    })
}

/// y·(g − Σ g·y)
fn softmax(s: &mut Step<'_, '_>) -> Gradients {
    unary(s, |s, g, x, y| {
        let axis = s.axis_of("axis", x)?;
        let product = s.mul(g, y)?;
        let sum = s.sum(product, &[axis], true)?;
        let difference = s.sub(g, sum)?;
        s.mul(y, difference)
    })
}

/// g − eʸ·Σ g
fn log_softmax(s: &mut Step<'_, '_>) -> Gradients {
    unary(s, |s, g, x, y| {
        let axis = s.axis_of("axis", x)?;
        let sum = s.sum(g, &[axis], true)?;
        let softmax = s.op("Exp", &[y])?;
        let product = s.mul(softmax, sum)?;
        s.sub(g, product)
    })
}

/// Graphs on which these rules are tried.
#[cfg(any(test, feature = "testing"))]
pub(super) fn examples() -> Vec<super::example::Example> {
    use onnx_opt_ir::{AttributeValue, NewNode};

    use super::example::Example;

    let mut examples = Vec::new();
    let float = |value: f32| Some(AttributeValue::Float(value));
    for (op_type, opset, words, attribute, value) in [
        ("Celu", 18, "alpha", "alpha", float(1.5)),
        ("Elu", 18, "alpha", "alpha", float(0.7)),
        ("Gelu", 20, "exact", "approximate", Some("none".into())),
        ("Gelu", 20, "by tanh", "approximate", Some("tanh".into())),
        ("HardSigmoid", 18, "default", "alpha", None),
        ("HardSigmoid", 18, "a steep one", "alpha", float(0.5)),
        ("HardSwish", 18, "default", "", None),
        ("LeakyRelu", 18, "alpha", "alpha", float(0.2)),
        ("LogSoftmax", 18, "the last axis", "axis", None),
        ("LogSoftmax", 18, "the first axis", "axis", Some(0i64.into())),
        ("Mish", 18, "default", "", None),
        ("Relu", 18, "default", "", None),
        ("Selu", 18, "default", "", None),
        ("Shrink", 18, "default", "lambd", float(0.5)),
        ("Sigmoid", 18, "default", "", None),
        ("Softmax", 18, "the last axis", "axis", None),
        ("Softmax", 18, "the first axis", "axis", Some(0i64.into())),
        ("Softplus", 18, "default", "", None),
        ("Softsign", 18, "default", "", None),
        ("Swish", 24, "default", "alpha", None),
        ("Swish", 24, "alpha", "alpha", float(1.7)),
        ("Tanh", 18, "default", "", None),
        ("ThresholdedRelu", 18, "default", "alpha", float(0.8)),
    ] {
        examples.push(Example::new(op_type, words, opset, move |t| {
            let x = t.input("x", &[3, 4], -3.9, 4.0);
            let mut node = NewNode::new(op_type, [x]);
            if let Some(value) = &value {
                node.attributes.set(attribute, value.clone());
            }
            t.node(node)
        }));
    }
    for (words, slope) in [("a slope for each channel", &[3, 1, 1][..]), ("one slope", &[1])] {
        examples.push(Example::new("PRelu", words, 18, move |t| {
            let x = t.input("x", &[2, 3, 2, 2], -2.0, 2.0);
            let slope = t.input("slope", slope, 0.1, 0.5);
            t.op("PRelu", &[x, slope])
        }));
    }
    examples.push(Example::new("Clip", "both bounds", 18, |t| {
        let x = t.input("x", &[3, 4], -2.0, 2.0);
        let low = t.input("low", &[], -0.71, -0.71);
        let high = t.input("high", &[], 0.64, 0.64);
        t.op("Clip", &[x, low, high])
    }));
    examples.push(Example::new("Clip", "a lower bound", 18, |t| {
        let x = t.input("x", &[3, 4], -2.0, 2.0);
        let low = t.scalar(-0.5);
        t.op("Clip", &[x, low])
    }));
    examples.push(Example::new("Clip", "an upper bound", 18, |t| {
        let x = t.input("x", &[3, 4], -2.0, 2.0);
        let high = t.scalar(0.5);
        t.node(NewNode { inputs: vec![Some(x), None, Some(high)], ..NewNode::new("Clip", []) })
    }));
    examples
}
