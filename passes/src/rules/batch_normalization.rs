//! BatchNormalization with constants that meets another operator by constants: one BatchNormalization.
//!
//! Convolutions and matrix products take it in altogether, in `convolution` and `gemm`.

use onnx_opt_ir::{Graph, Node, ValueId};

use super::facts::element;
use super::weights::{Affine, Channels, bias_values, rounded};
use crate::rewrite::{Miss, Patch, Rewrite, Site, ensure, found};

rules! {
    /// BatchNormalization(BatchNormalization(x)) is one of them.
    batch_normalization_batch_normalization [rounding]:
        BatchNormalization(
            BatchNormalization(x, const scale, const shift, const mean, const variance) as y,
            const outer_scale, const outer_shift, const outer_mean, const outer_variance)
        => do |site| { compose(site, x, y) };

    /// BatchNormalization(x)·c + d is one BatchNormalization, c and d constants of channels.
    batch_normalization_affine [rounding]:
        Mul(BatchNormalization(x, const scale, const shift, const mean, const variance) as y, const c)
        | Div(BatchNormalization(x, const scale, const shift, const mean, const variance) as y, const c)
        | Add(BatchNormalization(x, const scale, const shift, const mean, const variance) as y, const c)
        | Sub(BatchNormalization(x, const scale, const shift, const mean, const variance) as y, const c)
        | Sub(const c, BatchNormalization(x, const scale, const shift, const mean, const variance) as y)
        => do |site| { compose(site, x, y) };

    /// BatchNormalization(x·c + d) is one BatchNormalization, c and d constants of channels.
    affine_batch_normalization [rounding]:
        BatchNormalization(Mul(x, const c) as y, const scale, const shift, const mean, const variance)
        | BatchNormalization(Div(x, const c) as y, const scale, const shift, const mean, const variance)
        | BatchNormalization(Add(x, const c) as y, const scale, const shift, const mean, const variance)
        | BatchNormalization(Sub(x, const c) as y, const scale, const shift, const mean, const variance)
        | BatchNormalization(Sub(const c, x) as y, const scale, const shift, const mean, const variance)
        => do |site| { compose(site, x, y) };
}

/// A BatchNormalization that only scales and shifts, as in inference: `scale·(x − mean)/√(variance + ε) + shift`.
pub(super) struct BatchNormalization {
    scale: Vec<f64>,
    shift: Vec<f64>,
    mean: Vec<f64>,
    /// √(variance + ε).
    deviation: Vec<f64>,
}

impl BatchNormalization {
    /// Reads the constants of a node.
    ///
    /// # Errors
    /// If it trains, has statistics of places, or an operand is not constant.
    pub fn read(graph: &Graph, node: &Node) -> Result<Self, Miss> {
        let opset = graph.opset();
        let trains = match opset {
            // Before version 7 an attribute says it, before 14 the number of results.
            ..7 => node.int("is_test").unwrap_or(0) == 0,
            7..14 => false,
            _ => node.int("training_mode").unwrap_or(0) != 0,
        };
        let statistics = opset < 14 && node.outputs().iter().skip(1).any(Option::is_some);
        ensure(!trains && !statistics, "the BatchNormalization is in training mode")?;
        ensure(opset >= 9 || node.int("spatial") != Some(0), "the statistics are not of channels")?;
        let count = node.input(1).and_then(|scale| graph.constant(scale)).map_or(0, |scale| scale.len());
        let operand = |index: usize| bias_values(graph, Some(found(node.input(index))?), count);
        let epsilon = f64::from(node.float("epsilon").ok_or("epsilon is not known")?);
        Ok(Self {
            scale: operand(1)?,
            shift: operand(2)?,
            mean: operand(3)?,
            deviation: operand(4)?.iter().map(|variance| (variance + epsilon).sqrt()).collect(),
        })
    }

    /// What it does to each channel.
    pub fn affine(&self) -> Affine {
        let scale: Vec<f64> =
            self.scale.iter().zip(&self.deviation).map(|(scale, root)| scale / root).collect();
        let shift =
            scale.iter().zip(&self.shift).zip(&self.mean).map(|((scale, shift), mean)| shift - scale * mean);
        Affine { shift: shift.collect(), scale }
    }
}

/// One BatchNormalization for the root and the producer of its operand `y`, whose own operand is `x`: the statistics
/// stay, scale and shift give `scale/√(variance + ε) = s` and `shift − s·mean = t` for the composed `x ↦ s·x + t`.
fn compose(site: &Site<'_>, x: ValueId, y: ValueId) -> Rewrite {
    let graph = site.graph;
    let (outer, (_, inner, _)) = (site.node(), found(graph.producer(y))?);
    let kept = if inner.is("BatchNormalization") { inner } else { outer };
    let statistics = BatchNormalization::read(graph, kept)?;
    let channels = Channels::of(graph, x, 1, statistics.scale.len())?;
    let all = Affine::read(graph, inner, x, &channels)?.then(&Affine::read(graph, outer, y, &channels)?);
    let scale = all.scale.iter().zip(&statistics.deviation).map(|(scale, root)| scale * root);
    let mean = statistics.mean.iter();
    let shift = all.shift.iter().zip(&all.scale).zip(mean).map(|((shift, scale), mean)| shift + scale * mean);
    let operand = |index: usize| found(kept.input(index));
    let mut patch = Patch::new();
    let shape = [channels.count];
    let scale = patch.constant(rounded(element(graph, operand(1)?)?, &shape, scale)?);
    let shift = patch.constant(rounded(element(graph, operand(2)?)?, &shape, shift)?);
    let inputs = [x.into(), scale, shift, operand(3)?.into(), operand(4)?.into()];
    let new = patch.node("BatchNormalization", inputs, kept.attributes().clone());
    crate::rewrite::language::finish(site, patch, new)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    let normalize = |f: &mut Fixture, x: ValueId| batch_normalization(f, x, 3);
    let mut examples = vec![
        Example::new("batch_normalization_batch_normalization", |fires| {
            let mut f = Fixture::new(15);
            let x = f.input("x", &[2, 3, 4, 4]);
            let t = normalize(&mut f, x);
            let t = if fires { t } else { f.op("Relu", &[t]) };
            let y = normalize(&mut f, t);
            f.with_output(y)
        }),
        // In training mode the statistics are those of the batch.
        Example::new("batch_normalization_batch_normalization", |fires| {
            let mut f = Fixture::new(14);
            let x = f.input("x", &[2, 3, 4]);
            let t = normalize(&mut f, x);
            let y = if fires {
                normalize(&mut f, t)
            } else {
                let (scale, shift) = (f.weights(&[3]), f.weights(&[3]));
                let (mean, variance) = (f.weights(&[3]), f.floats(&[3], &[1.0; 3]));
                let mut node = NewNode::new("BatchNormalization", [t, scale, shift, mean, variance]);
                node.outputs = 3;
                f.node(node.with("training_mode", 1))
            };
            f.with_output(y)
        }),
    ];
    for op in ["Mul", "Div", "Add", "Sub"] {
        examples.push(Example::new("batch_normalization_affine", |fires| {
            let mut f = Fixture::new(9);
            let x = f.input("x", &[2, 3, 4, 4]);
            let t = normalize(&mut f, x);
            let c =
                f.floats(if fires { &[3, 1, 1] } else { &[3, 1, 4] }, &vec![1.5; if fires { 3 } else { 12 }]);
            let y = f.op(op, &[t, c]);
            f.with_output(y)
        }));
        examples.push(Example::new("affine_batch_normalization", |fires| {
            let mut f = Fixture::new(15);
            // Where the operand has one channel, the constant makes it three.
            let x = f.input("x", &[2, if fires { 3 } else { 1 }, 4, 4]);
            let c = f.floats(&[1, 3, 1, 1], &[0.5, 1.5, -2.0]);
            let t = f.op(op, &[x, c]);
            let y = normalize(&mut f, t);
            f.with_output(y)
        }));
    }
    examples
}

/// A BatchNormalization of this many channels.
#[cfg(any(test, feature = "testing"))]
pub(super) fn batch_normalization(f: &mut crate::testing::Fixture, x: ValueId, channels: usize) -> ValueId {
    let (scale, shift, mean) = (f.weights(&[channels]), f.weights(&[channels]), f.weights(&[channels]));
    let variances: Vec<f32> = (0..channels).map(|channel| 0.5 + channel as f32).collect();
    let variance = f.floats(&[channels], &variances);
    f.op("BatchNormalization", &[x, scale, shift, mean, variance])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use onnx_opt_ir::NewNode;

    use super::*;
    use crate::testing::Fixture;

    #[test]
    fn old_versions_say_otherwise_that_they_do_not_train() {
        let reads = |opset: i64, attributes: &[(&str, i64)], outputs: usize| {
            let mut f = Fixture::new(opset);
            let x = f.input("x", &[2, 3, 4]);
            let c = f.floats(&[3], &[1.0; 3]);
            let mut node = NewNode::new("BatchNormalization", [x, c, c, c, c]);
            node.outputs = outputs;
            for &(name, value) in attributes {
                node = node.with(name, value);
            }
            let id = f.graph.add_node(node).unwrap();
            BatchNormalization::read(&f.graph, f.graph.node(id)).is_ok()
        };
        assert!(reads(6, &[("is_test", 1)], 1) && !reads(6, &[], 1));
        assert!(!reads(6, &[("is_test", 1), ("spatial", 0)], 1));
        assert!(reads(7, &[("spatial", 1)], 1) && !reads(7, &[], 5) && !reads(8, &[("spatial", 0)], 1));
        assert!(reads(9, &[], 1));
        assert!(reads(14, &[], 1) && reads(15, &[("training_mode", 0)], 1));
        assert!(!reads(15, &[("training_mode", 1)], 3));
    }
}
