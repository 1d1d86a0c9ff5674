//! Normalizations.

use onnx_opt_ir::ValueId;

use super::Rule;
use super::step::{Gradients, Step};
use super::writer::{Size, Written};

pub(super) const RULES: &[(&str, Rule)] = &[
    ("BatchNormalization", batch_normalization),
    ("GroupNormalization", group_normalization),
    ("InstanceNormalization", instance_normalization),
    ("LRN", local_response),
    ("LayerNormalization", layer_normalization),
    ("LpNormalization", lp_normalization),
    ("MeanVarianceNormalization", mean_variance),
    ("RMSNormalization", rms_normalization),
];

/// A vector with a value for each channel, along axis 1 of `like`.
fn per_channel(s: &mut Step<'_, '_>, vector: ValueId, like: ValueId) -> Written {
    let spatial: Vec<i64> = (1..s.rank(like)? as i64 - 1).collect();
    s.unsqueeze(vector, &spatial)
}

/// All axes but that of the channels.
fn around_channels(s: &Step<'_, '_>, x: ValueId) -> Written<Vec<usize>> {
    Ok((0..s.rank(x)?).filter(|&axis| axis != 1).collect())
}

/// 1/√(x + ε)
fn inverse_root(s: &mut Step<'_, '_>, x: ValueId, epsilon: f64) -> Written {
    let sum = s.plus(x, epsilon)?;
    let root = s.op("Sqrt", &[sum])?;
    s.op("Reciprocal", &[root])
}

/// x − mean and 1/√(variance + ε) over some axes, which stay with size 1.
fn moments(s: &mut Step<'_, '_>, x: ValueId, axes: &[usize], epsilon: f64) -> Written<(ValueId, ValueId)> {
    let mean = s.mean(x, axes)?;
    let centred = s.sub(x, mean)?;
    let square = s.square(centred)?;
    let variance = s.mean(square, axes)?;
    Ok((centred, inverse_root(s, variance, epsilon)?))
}

/// r·(h − mean h − x̂·mean(h·x̂)): the gradient of x, where h is that of x̂ = (x − mean)·r.
fn centred_gradient(s: &mut Step<'_, '_>, h: ValueId, unit: ValueId, r: ValueId, axes: &[usize]) -> Written {
    let mean = s.mean(h, axes)?;
    let rest = s.sub(h, mean)?;
    let scaled = scaled_gradient(s, h, unit, axes)?;
    let rest = s.sub(rest, scaled)?;
    s.mul(r, rest)
}

/// x̂·mean(h·x̂)
fn scaled_gradient(s: &mut Step<'_, '_>, h: ValueId, unit: ValueId, axes: &[usize]) -> Written {
    let product = s.mul(h, unit)?;
    let mean = s.mean(product, axes)?;
    s.mul(unit, mean)
}

/// With the statistics of training, r = 1/√(var + ε): γ·r·g; γ has Σ g·(x − mean)·r, β has Σ g, the mean −γ·r·Σ g, the
/// variance −½·γ·r³·Σ g·(x − mean).
fn batch_normalization(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x, gamma) = (s.gradient()?, s.input(0)?, s.input(1)?);
    let (mean, variance) = (s.input(3)?, s.input(4)?);
    if s.int("training_mode").unwrap_or(0) != 0 {
        return Err("training mode".into());
    }
    if (1..5).any(|index| s.node.input(index).and_then(|value| s.graph.element(value)) != s.graph.element(x))
    {
        return Err("its operands differ in type".into());
    }
    let epsilon = s.float("epsilon")?;
    let axes = around_channels(s, x)?;
    let r = inverse_root(s, variance, epsilon)?;
    let factor = s.mul(gamma, r)?;
    let mut gradients = vec![None; 5];
    if s.wants(0) {
        let wide = per_channel(s, factor, x)?;
        gradients[0] = Some(s.mul(g, wide)?);
    }
    if (2..4).any(|index| s.wants(index)) {
        let sum = s.sum(g, &axes, false)?;
        gradients[2] = s.wants(2).then_some(sum);
        if s.wants(3) {
            let product = s.mul(factor, sum)?;
            gradients[3] = Some(s.neg(product)?);
        }
    }
    if s.wants(1) || s.wants(4) {
        let wide = per_channel(s, mean, x)?;
        let centred = s.sub(x, wide)?;
        let product = s.mul(g, centred)?;
        let sum = s.sum(product, &axes, false)?;
        let unit = s.mul(sum, r)?;
        gradients[1] = s.wants(1).then_some(unit);
        if s.wants(4) {
            let square = s.square(r)?;
            let product = s.mul(unit, gamma)?;
            let product = s.mul(product, square)?;
            gradients[4] = Some(s.times(product, -0.5)?);
        }
    }
    Ok(gradients)
}

/// Over the axes from `axis` on: x as above with h = g·γ; γ has Σ g·x̂, β has Σ g.
fn layer_normalization(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x, gamma) = (s.gradient()?, s.input(0)?, s.input(1)?);
    let epsilon = s.float("epsilon")?;
    let axes: Vec<usize> = (s.axis_of("axis", x)?..s.rank(x)?).collect();
    let mut gradients = vec![None; 3];
    if s.wants(0) || s.wants(1) {
        let (centred, r) = moments(s, x, &axes, epsilon)?;
        let unit = s.mul(centred, r)?;
        if s.wants(0) {
            let h = s.mul(g, gamma)?;
            gradients[0] = Some(centred_gradient(s, h, unit, r, &axes)?);
        }
        gradients[1] = s.broadcast_operand(1, |s| s.mul(g, unit))?;
    }
    gradients[2] = s.broadcast_operand(2, |_| Ok(g))?;
    Ok(gradients)
}

/// x·r·γ, r = 1/√(mean x² + ε): r·(h − x̂·mean(h·x̂)) with h = g·γ and x̂ = x·r; γ has Σ g·x̂.
fn rms_normalization(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x, gamma) = (s.gradient()?, s.input(0)?, s.input(1)?);
    if s.graph.element(gamma) != s.graph.element(x) {
        return Err("its operands differ in type".into());
    }
    let epsilon = s.float("epsilon")?;
    let axes: Vec<usize> = (s.axis_of("axis", x)?..s.rank(x)?).collect();
    let square = s.square(x)?;
    let mean = s.mean(square, &axes)?;
    let r = inverse_root(s, mean, epsilon)?;
    let unit = s.mul(x, r)?;
    let mut gradients = vec![None; 2];
    if s.wants(0) {
        let h = s.mul(g, gamma)?;
        let scaled = scaled_gradient(s, h, unit, &axes)?;
        let rest = s.sub(h, scaled)?;
        gradients[0] = Some(s.mul(r, rest)?);
    }
    gradients[1] = s.broadcast_operand(1, |s| s.mul(g, unit))?;
    Ok(gradients)
}

/// Over all spatial axes, with γ and β for each channel.
fn instance_normalization(s: &mut Step<'_, '_>) -> Gradients {
    let (g, x, gamma) = (s.gradient()?, s.input(0)?, s.input(1)?);
    let epsilon = s.float("epsilon")?;
    let axes: Vec<usize> = (2..s.rank(x)?).collect();
    let around = around_channels(s, x)?;
    let mut gradients = vec![None; 3];
    if s.wants(0) || s.wants(1) {
        let (centred, r) = moments(s, x, &axes, epsilon)?;
        let unit = s.mul(centred, r)?;
        if s.wants(0) {
            let wide = per_channel(s, gamma, x)?;
            let h = s.mul(g, wide)?;
            gradients[0] = Some(centred_gradient(s, h, unit, r, &axes)?);
        }
        if s.wants(1) {
            let product = s.mul(g, unit)?;
            gradients[1] = Some(s.sum(product, &around, false)?);
        }
    }
    if s.wants(2) {
        gradients[2] = Some(s.sum(g, &around, false)?);
    }
    Ok(gradients)
}

/// Groups of channels as one axis, normalized; then γ and β for each channel.
fn group_normalization(s: &mut Step<'_, '_>) -> Gradients {
    let (x, gamma, beta) = (s.input(0)?, s.input(1)?, s.input(2)?);
    let (groups, epsilon) = (s.int("num_groups")?, s.float("epsilon")?);
    if s.node.operator().is_none_or(|operator| operator.since_version < 21) {
        return Err("a scale for each group, as before opset 21".into());
    }
    if [gamma, beta].iter().any(|&value| s.graph.element(value) != s.graph.element(x)) {
        return Err("its operands differ in type".into());
    }
    s.by_parts(|s| {
        let grouped = s.reshape(x, &[0, groups, -1])?;
        let (centred, r) = moments(s, grouped, &[2], epsilon)?;
        let unit = s.mul(centred, r)?;
        let unit = s.reshape_as(unit, x)?;
        let (gamma, beta) = (per_channel(s, gamma, x)?, per_channel(s, beta, x)?);
        let scaled = s.mul(unit, gamma)?;
        Ok(vec![s.add(scaled, beta)?])
    })
}

/// x divided by its norm along an axis; where that is zero, so is the result.
fn lp_normalization(s: &mut Step<'_, '_>) -> Gradients {
    let x = s.input(0)?;
    let axis = s.axis_of("axis", x)?;
    let order = s.int("p")?;
    s.by_parts(|s| {
        let power = match order {
            1 => s.op("Abs", &[x])?,
            2 => s.square(x)?,
            _ => return Err("a norm that is neither of order 1 nor 2".into()),
        };
        let sum = s.sum(power, &[axis], true)?;
        let alive = s.above(sum, 0.0)?;
        let one = s.number(sum, 1.0)?;
        let sum = s.op("Where", &[alive, sum, one])?;
        let norm = if order == 2 { s.op("Sqrt", &[sum])? } else { sum };
        let quotient = s.div(x, norm)?;
        Ok(vec![s.where_only(alive, quotient)?])
    })
}

/// (x − mean)/√variance over some axes.
fn mean_variance(s: &mut Step<'_, '_>) -> Gradients {
    let x = s.input(0)?;
    let rank = s.rank(x)?;
    let axes: Written<Vec<usize>> = match s.node.ints("axes") {
        Some(axes) => axes.iter().map(|&axis| s.axis(axis, rank)).collect(),
        None => [0, 2, 3].iter().map(|&axis| s.axis(axis, rank)).collect(),
    };
    let axes = axes?;
    // As the function body in the standard has it.
    const EPSILON: f64 = 1e-9;
    s.by_parts(|s| {
        let mean = s.mean(x, &axes)?;
        let centred = s.sub(x, mean)?;
        let square = s.square(centred)?;
        let variance = s.mean(square, &axes)?;
        let root = s.op("Sqrt", &[variance])?;
        let root = s.plus(root, EPSILON)?;
        Ok(vec![s.div(centred, root)?])
    })
}

/// x·d⁻ᵝ, d = k + α/n·Σ x² over n channels around: the sum is a window over the axis of channels.
fn local_response(s: &mut Step<'_, '_>) -> Gradients {
    let x = s.input(0)?;
    let (alpha, beta, bias) = (s.float("alpha")?, s.float("beta")?, s.float("bias")?);
    let size = s.int("size")?;
    let channels = s.fixed_axis(x, 1).ok_or("the number of channels is not known")?;
    s.by_parts(|s| {
        let square = s.square(x)?;
        // Channel by channel, a matrix of ones around the diagonal.
        let before = (size - 1) / 2;
        let near = |row: i64, column: i64| column >= row - before && column < row - before + size;
        let band: Vec<f64> = (0..channels)
            .flat_map(|row| (0..channels).map(move |column| f64::from(u8::from(near(row, column)))))
            .collect();
        let band = s.numbers(x, &[channels as usize, channels as usize], &band)?;
        let columns = s.reshape(square, &[0, channels, -1])?;
        let sums = s.op("MatMul", &[band, columns])?;
        let rank = s.rank(x)?;
        let sizes: Vec<Size> = (0..rank).map(|axis| Size::Of(x, axis)).collect();
        let sums = s.reshape_to(sums, &sizes)?;
        let scaled = s.times(sums, alpha / size as f64)?;
        let divisor = s.plus(scaled, bias)?;
        let exponent = s.number(x, -beta)?;
        let power = s.op("Pow", &[divisor, exponent])?;
        Ok(vec![s.mul(x, power)?])
    })
}

/// Graphs on which these rules are tried.
#[cfg(any(test, feature = "testing"))]
pub(super) fn examples() -> Vec<super::example::Example> {
    use onnx_opt_ir::NewNode;

    use super::example::Example;

    let mut examples = vec![
        Example::new("BatchNormalization", "all operands", 18, |t| {
            let x = t.input("x", &[2, 3, 2, 2], -2.0, 2.0);
            let (gamma, beta) = (t.input("gamma", &[3], 0.5, 1.5), t.input("beta", &[3], -1.0, 1.0));
            let (mean, variance) = (t.input("mean", &[3], -0.5, 0.5), t.input("variance", &[3], 0.5, 2.0));
            t.op("BatchNormalization", &[x, gamma, beta, mean, variance])
        }),
        Example::new("BatchNormalization", "a matrix", 18, |t| {
            let x = t.input("x", &[4, 3], -2.0, 2.0);
            let (gamma, beta) = (t.weights(&[3], 0.5, 1.5), t.weights(&[3], -1.0, 1.0));
            let (mean, variance) = (t.weights(&[3], -0.5, 0.5), t.weights(&[3], 0.5, 2.0));
            t.op("BatchNormalization", &[x, gamma, beta, mean, variance])
        }),
        Example::new("InstanceNormalization", "two axes", 18, |t| {
            let x = t.input("x", &[2, 3, 2, 3], -2.0, 2.0);
            let (gamma, beta) = (t.input("gamma", &[3], 0.5, 1.5), t.input("beta", &[3], -1.0, 1.0));
            t.op("InstanceNormalization", &[x, gamma, beta])
        }),
        Example::new("LayerNormalization", "the last axis", 18, |t| {
            let x = t.input("x", &[2, 2, 5], -2.0, 2.0);
            let (gamma, beta) = (t.input("gamma", &[5], 0.5, 1.5), t.input("beta", &[5], -1.0, 1.0));
            t.op("LayerNormalization", &[x, gamma, beta])
        }),
        Example::new("LayerNormalization", "two axes, no bias", 18, |t| {
            let x = t.input("x", &[2, 3, 2], -2.0, 2.0);
            let gamma = t.input("gamma", &[3, 2], 0.5, 1.5);
            t.node(NewNode::new("LayerNormalization", [x, gamma]).with("axis", 1i64).with("epsilon", 0.1f32))
        }),
        Example::new("RMSNormalization", "the last axis", 23, |t| {
            let x = t.input("x", &[2, 2, 5], -2.0, 2.0);
            let gamma = t.input("gamma", &[5], 0.5, 1.5);
            t.op("RMSNormalization", &[x, gamma])
        }),
        Example::new("GroupNormalization", "a scale for each channel", 21, |t| {
            let x = t.input("x", &[2, 4, 2, 2], -2.0, 2.0);
            let (gamma, beta) = (t.input("gamma", &[4], 0.5, 1.5), t.input("beta", &[4], -1.0, 1.0));
            t.node(NewNode::new("GroupNormalization", [x, gamma, beta]).with("num_groups", 2i64))
        }),
        Example::new("MeanVarianceNormalization", "the default", 18, |t| {
            let x = t.input("x", &[2, 3, 2, 2], -2.0, 2.0);
            t.op("MeanVarianceNormalization", &[x])
        }),
        Example::new("LRN", "three channels around", 18, |t| {
            let x = t.input("x", &[1, 5, 2, 2], -2.0, 2.0);
            let node = NewNode::new("LRN", [x]).with("size", 3i64).with("alpha", 0.5f32);
            t.node(node.with("beta", 0.75f32).with("bias", 1.5f32))
        }),
    ];
    for p in [1i64, 2] {
        examples.push(Example::new("LpNormalization", format!("order {p}"), 18, move |t| {
            let x = t.input("x", &[2, 4], -2.0, 2.0);
            t.node(NewNode::new("LpNormalization", [x]).with("p", p).with("axis", 1i64))
        }));
    }
    examples
}
