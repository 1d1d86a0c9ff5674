//! Arithmetic element by element.

use onnx_opt_ir::ValueId;

use super::Rule;
use super::step::{Gradients, Step};
use super::writer::Written;

pub(super) const RULES: &[(&str, Rule)] = &[
    ("Abs", |s| {
        unary(s, |s, g, x, _| {
            let sign = s.op("Sign", &[x])?;
            s.mul(g, sign)
        })
    }),
    ("Acos", |s| {
        unary(s, |s, g, x, _| {
            let derivative = one_over_root(s, 1.0, -1.0, x)?;
            let quotient = s.mul(g, derivative)?;
            s.neg(quotient)
        })
    }),
    ("Acosh", |s| {
        unary(s, |s, g, x, _| {
            let derivative = one_over_root(s, -1.0, 1.0, x)?;
            s.mul(g, derivative)
        })
    }),
    ("Add", |s| binary(s, |_, g| Ok(g), |_, g| Ok(g))),
    ("Asin", |s| {
        unary(s, |s, g, x, _| {
            let derivative = one_over_root(s, 1.0, -1.0, x)?;
            s.mul(g, derivative)
        })
    }),
    ("Asinh", |s| {
        unary(s, |s, g, x, _| {
            let derivative = one_over_root(s, 1.0, 1.0, x)?;
            s.mul(g, derivative)
        })
    }),
    ("Atan", |s| {
        unary(s, |s, g, x, _| {
            let square = s.square(x)?;
            let sum = s.plus(square, 1.0)?;
            s.div(g, sum)
        })
    }),
    ("Atanh", |s| {
        unary(s, |s, g, x, _| {
            let square = s.square(x)?;
            let difference = s.minus_from(1.0, square)?;
            s.div(g, difference)
        })
    }),
    ("Cast", cast),
    ("CastLike", cast),
    ("Cos", |s| {
        unary(s, |s, g, x, _| {
            let sine = s.op("Sin", &[x])?;
            let product = s.mul(g, sine)?;
            s.neg(product)
        })
    }),
    ("Cosh", |s| {
        unary(s, |s, g, x, _| {
            let sine = s.op("Sinh", &[x])?;
            s.mul(g, sine)
        })
    }),
    ("Div", div),
    ("Dropout", dropout),
    ("Erf", |s| {
        unary(s, |s, g, x, _| {
            let square = s.square(x)?;
            let exponent = s.neg(square)?;
            let power = s.op("Exp", &[exponent])?;
            let derivative = s.times(power, std::f64::consts::FRAC_2_SQRT_PI)?;
            s.mul(g, derivative)
        })
    }),
    ("Exp", |s| unary(s, |s, g, _, y| s.mul(g, y))),
    ("Identity", |s| unary(s, |_, g, _, _| Ok(g))),
    ("Log", |s| unary(s, |s, g, x, _| s.div(g, x))),
    ("Max", extremum),
    ("Mean", mean),
    ("Min", extremum),
    ("Mul", mul),
    ("Neg", |s| unary(s, |s, g, _, _| s.neg(g))),
    ("Pow", pow),
    ("Reciprocal", |s| {
        unary(s, |s, g, _, y| {
            let square = s.square(y)?;
            let product = s.mul(g, square)?;
            s.neg(product)
        })
    }),
    ("Sin", |s| {
        unary(s, |s, g, x, _| {
            let cosine = s.op("Cos", &[x])?;
            s.mul(g, cosine)
        })
    }),
    ("Sinh", |s| {
        unary(s, |s, g, x, _| {
            let cosine = s.op("Cosh", &[x])?;
            s.mul(g, cosine)
        })
    }),
    ("Sqrt", |s| {
        unary(s, |s, g, _, y| {
            let half = s.times(g, 0.5)?;
            s.div(half, y)
        })
    }),
    ("Sub", |s| binary(s, |_, g| Ok(g), |s, g| s.neg(g))),
    ("Sum", sum),
    ("Tan", |s| {
        unary(s, |s, g, _, y| {
            let square = s.square(y)?;
            let derivative = s.plus(square, 1.0)?;
            s.mul(g, derivative)
        })
    }),
    ("Where", choice),
];

/// The gradient of an operator of one operand, from g, x and y.
pub(super) fn unary<'w, 'g>(
    s: &mut Step<'w, 'g>,
    derive: impl FnOnce(&mut Step<'w, 'g>, ValueId, ValueId, ValueId) -> Written,
) -> Gradients {
    let (g, x, y) = (s.gradient()?, s.input(0)?, s.output(0)?);
    let gradient = derive(s, g, x, y)?;
    s.first(gradient)
}

/// The gradients of an operator of two broadcast operands, each from g.
fn binary<'w, 'g>(
    s: &mut Step<'w, 'g>,
    left: impl FnOnce(&mut Step<'w, 'g>, ValueId) -> Written,
    right: impl FnOnce(&mut Step<'w, 'g>, ValueId) -> Written,
) -> Gradients {
    let g = s.gradient()?;
    Ok(vec![s.broadcast_operand(0, |s| left(s, g))?, s.broadcast_operand(1, |s| right(s, g))?])
}

/// 1/√(a + b·x²)
fn one_over_root(s: &mut Step<'_, '_>, a: f64, b: f64, x: ValueId) -> Written {
    let square = s.square(x)?;
    let term = s.times(square, b)?;
    let sum = s.plus(term, a)?;
    let root = s.op("Sqrt", &[sum])?;
    s.op("Reciprocal", &[root])
}

/// a·b: g·b, g·a.
fn mul(s: &mut Step<'_, '_>) -> Gradients {
    let (a, b) = (s.input(0)?, s.input(1)?);
    binary(s, |s, g| s.mul(g, b), |s, g| s.mul(g, a))
}

/// a/b: g/b, −g·y/b.
fn div(s: &mut Step<'_, '_>) -> Gradients {
    let (b, y) = (s.input(1)?, s.output(0)?);
    binary(
        s,
        |s, g| s.div(g, b),
        |s, g| {
            let product = s.mul(g, y)?;
            let quotient = s.div(product, b)?;
            s.neg(quotient)
        },
    )
}

/// xᵖ: g·p·xᵖ⁻¹, g·y·ln x. The exponent has no gradient where x is not positive.
fn pow(s: &mut Step<'_, '_>) -> Gradients {
    let (x, p, y) = (s.input(0)?, s.input(1)?, s.output(0)?);
    let constant = s.graph.constant(p).and_then(|p| p.uniform());
    let power = |s: &mut Step<'_, '_>| match s.graph.element(p) == s.graph.element(x) {
        true => Ok(p),
        false => s.op("CastLike", &[p, x]),
    };
    binary(
        s,
        |s, g| {
            if constant == Some(2.0) {
                let double = s.add(x, x)?;
                return s.mul(g, double);
            }
            let p = power(s)?;
            let less = s.plus(p, -1.0)?;
            let lower = s.op("Pow", &[x, less])?;
            let derivative = s.mul(p, lower)?;
            s.mul(g, derivative)
        },
        |s, g| {
            let logarithm = s.op("Log", &[x])?;
            let positive = s.above(x, 0.0)?;
            let logarithm = s.where_only(positive, logarithm)?;
            let derivative = s.mul(y, logarithm)?;
            s.mul(g, derivative)
        },
    )
}

/// A cast between floats: g cast back.
fn cast(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x) = (s.gradient()?, s.input(0)?);
    let element = s.element(0)?;
    let back = match s.graph.element(g) == Some(element) {
        true => g,
        false => s.op_with("Cast", &[g], "to", i64::from(element.code()))?,
    };
    // The gradient of a quantized value is no integer.
    if !element.is_float() {
        return Err(format!("`{}` holds integers", s.name(x)).into());
    }
    s.first(back)
}

/// Outside of training, y is x.
fn dropout(s: &mut Step<'_, '_>) -> Gradients {
    let g = s.gradient()?;
    let training = s.node.input(2).map(|mode| s.graph.constant(mode).and_then(|mode| mode.single_i64()));
    match training {
        None | Some(Some(0)) => s.first(g),
        _ => Err("it may be in training mode, which is random".into()),
    }
}

/// The operands that are equal to the result share g.
fn extremum(s: &mut Step<'_, '_>) -> Gradients {
    let (g, y) = (s.gradient()?, s.output(0)?);
    let operands: Vec<ValueId> = s.node.inputs().iter().flatten().copied().collect();
    if operands.len() == 1 {
        return s.first(g);
    }
    let mut shares = Vec::new();
    for &operand in &operands {
        let equal = s.op("Equal", &[operand, y])?;
        shares.push(like(s, equal, y)?);
    }
    let count = s.total(&shares)?;
    let part = s.div(g, count)?;
    (0..operands.len()).map(|index| s.broadcast_operand(index, |s| s.mul(part, shares[index]))).collect()
}

/// Cast to the element type of another value.
pub(super) fn like(s: &mut Step<'_, '_>, x: ValueId, other: ValueId) -> Written {
    match s.graph.element(other) {
        Some(element) => s.op_with("Cast", &[x], "to", i64::from(element.code())),
        None => s.op("CastLike", &[x, other]),
    }
}

/// Each operand has g.
fn sum(s: &mut Step<'_, '_>) -> Gradients {
    let g = s.gradient()?;
    (0..s.node.inputs().len()).map(|index| s.broadcast_operand(index, |_| Ok(g))).collect()
}

/// Each of n operands has g/n.
fn mean(s: &mut Step<'_, '_>) -> Gradients {
    let (g, count) = (s.gradient()?, s.node.inputs().len());
    let part = s.times(g, 1.0 / count as f64)?;
    (0..count).map(|index| s.broadcast_operand(index, |_| Ok(part))).collect()
}

/// Each operand has g where it was chosen.
fn choice(s: &mut Step<'_, '_>) -> Gradients {
    let (g, condition) = (s.gradient()?, s.input(0)?);
    Ok(vec![
        None,
        s.broadcast_operand(1, |s| s.where_only(condition, g))?,
        s.broadcast_operand(2, |s| s.where_not(condition, g))?,
    ])
}

/// Graphs on which these rules are tried.
#[cfg(any(test, feature = "testing"))]
pub(super) fn examples() -> Vec<super::example::Example> {
    use onnx_opt_ir::{ElementType, NewNode};

    use super::example::Example;

    let mut examples = Vec::new();
    for (op_type, low, high) in [
        ("Abs", -2.0, 2.0),
        ("Acos", -0.9, 0.9),
        ("Acosh", 1.2, 3.0),
        ("Asin", -0.9, 0.9),
        ("Asinh", -2.0, 2.0),
        ("Atan", -2.0, 2.0),
        ("Atanh", -0.9, 0.9),
        ("Cos", -3.0, 3.0),
        ("Cosh", -2.0, 2.0),
        ("Dropout", -2.0, 2.0),
        ("Erf", -2.0, 2.0),
        ("Exp", -2.0, 2.0),
        ("Identity", -2.0, 2.0),
        ("Log", 0.3, 3.0),
        ("Neg", -2.0, 2.0),
        ("Reciprocal", 0.4, 3.0),
        ("Sin", -3.0, 3.0),
        ("Sinh", -2.0, 2.0),
        ("Sqrt", 0.3, 3.0),
        ("Tan", -1.2, 1.2),
    ] {
        examples.push(Example::new(op_type, "one operand", 18, move |t| {
            let x = t.input("x", &[2, 5], low, high);
            t.op(op_type, &[x])
        }));
    }
    for op_type in ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean"] {
        for (words, a, b) in [
            ("equal shapes", &[2, 3][..], &[2, 3][..]),
            ("a row and a column", &[3, 1], &[4]),
            ("a scalar", &[], &[2, 3]),
            ("a channel", &[2, 3, 2, 2], &[3, 1, 1]),
        ] {
            examples.push(Example::new(op_type, words, 18, move |t| {
                let a = t.input("a", a, 0.4, 2.0);
                let b = t.input("b", b, 0.5, 2.1);
                t.op(op_type, &[a, b])
            }));
        }
    }
    for op_type in ["Max", "Min", "Sum", "Mean"] {
        examples.push(Example::new(op_type, "three operands", 18, move |t| {
            let a = t.input("a", &[2, 3], -2.0, 2.0);
            let b = t.input("b", &[3], -1.9, 1.8);
            let c = t.input("c", &[2, 1], -1.0, 1.1);
            t.op(op_type, &[a, b, c])
        }));
    }
    examples.push(Example::new("Mul", "a value by itself", 18, |t| {
        let x = t.input("x", &[2, 3], -2.0, 2.0);
        t.op("Mul", &[x, x])
    }));
    examples.push(Example::new("Add", "sizes that have names", 18, |t| {
        let a = t.symbolic_input("a", &["n", "3"], &[2, 3], -2.0, 2.0);
        let b = t.symbolic_input("b", &["m", "3"], &[1, 3], -2.0, 2.0);
        let sum = t.op("Add", &[a, b]);
        t.op("Sin", &[sum])
    }));
    for (words, exponent) in [("2", 2.0), ("3", 3.0), ("one and a half", 1.5), ("-1", -1.0)] {
        examples.push(Example::new("Pow", words, 18, move |t| {
            let x = t.input("x", &[2, 3], if exponent == 3.0 { -2.0 } else { 0.3 }, 2.0);
            let p = t.scalar(exponent);
            t.op("Pow", &[x, p])
        }));
    }
    examples.push(Example::new("Pow", "both operands", 18, |t| {
        let x = t.input("x", &[2, 3], 0.3, 2.0);
        let p = t.input("p", &[3], -2.0, 2.0);
        t.op("Pow", &[x, p])
    }));
    examples.push(Example::new("Pow", "an integer exponent", 18, |t| {
        let x = t.input("x", &[2, 3], -2.0, 2.0);
        let p = t.integers(&[3]);
        t.op("Pow", &[x, p])
    }));
    examples.push(Example::new("Cast", "to single precision", 18, |t| {
        let x = t.input("x", &[2, 3], -2.0, 2.0);
        let other = if t.element == ElementType::Double { ElementType::Float } else { ElementType::Double };
        // Through a wider type, so that nothing is rounded where differences are taken.
        let wide = ElementType::Double;
        let to = if t.element == wide { wide } else { other };
        let y = t.node(NewNode::new("Cast", [x]).with("to", i64::from(to.code())));
        let back = i64::from(t.element.code());
        t.node(NewNode::new("Cast", [y]).with("to", back))
    }));
    examples.push(Example::new("CastLike", "to its own type", 18, |t| {
        let x = t.input("x", &[2, 3], -2.0, 2.0);
        let one = t.scalar(1.0);
        t.op("CastLike", &[x, one])
    }));
    examples.push(Example::new("Where", "both operands", 18, |t| {
        let a = t.input("a", &[2, 3], -2.0, 2.0);
        let b = t.input("b", &[3], -2.0, 2.0);
        let zero = t.scalar(0.0);
        let condition = t.op("Greater", &[a, zero]);
        t.op("Where", &[condition, a, b])
    }));
    examples
}
