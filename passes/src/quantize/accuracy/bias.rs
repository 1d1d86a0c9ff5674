//! Biases that take back what integers shift (bias correction, Nagel et al., "Data-free quantization through weight
//! equalization and bias correction", 2019, in its empirical form).
//!
//! Rounding moves the mean of each channel that a product gives: with y what it gives in the float model and ŷ in the
//! quantized one, b + E[y] − E[ŷ] has the mean of before. From the first product to the last, each takes what those
//! before it, corrected already, make of the samples, so that no shift is taken back twice.
//!
//! What is corrected is the bias of the float model, which is quantized anew: its integers have their scales by the
//! same code as all others.

use onnx_opt_ir::{Graph, Model, NodeId, ValueId};
use rustc_hash::FxHashMap;
use serde::Serialize;

use super::super::insert::{chosen, insert};
use super::super::unit::{Kind, Unit};
use super::super::{Profile, QuantizeError, QuantizeOptions, Ranges};
use crate::bias::{added, set_bias};
use crate::gradient::Writer;
use crate::measure::{MeasureError, Totals, prepared, sums};

/// What was corrected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Corrected {
    /// Products whose bias was.
    pub biases: usize,
    /// Products on integers that have no place for a bias.
    pub without: usize,
    /// Runs over the samples.
    pub passes: usize,
}

/// Corrects the biases of the products of a float model that [`insert`] will let compute with integers, given the same
/// ranges, profile and options.
///
/// # Errors
/// If the graph refuses an edit, or a model cannot be run on the samples; the model then has the biases that were found
/// before.
pub fn correct_biases(
    model: &mut Model,
    ranges: &Ranges,
    profile: &Profile,
    options: &QuantizeOptions,
    totals: &dyn Totals,
) -> Result<Corrected, QuantizeError> {
    let (units, regions) = chosen(&model.graph, ranges, profile, options);
    let integer = units.units.iter().zip(&regions.integer).filter(|(_, on)| **on).map(|(unit, _)| unit);
    let products: Vec<&Unit> = integer.filter(|unit| matches!(unit.kind, Kind::Product { .. })).collect();
    let layers: Vec<Layer> = products.iter().filter_map(|unit| Layer::of(&model.graph, unit.node)).collect();
    let mut corrected = Corrected { biases: layers.len(), without: products.len() - layers.len(), passes: 0 };
    if layers.is_empty() {
        return Ok(corrected);
    }
    let wanted: FxHashMap<ValueId, Vec<f64>> =
        layers.iter().map(|layer| layer.y).zip(means(model, &layers, totals)?).collect();
    for level in levels(&model.graph, &layers) {
        let mut quantized = model.clone();
        insert(&mut quantized, ranges, profile, options)?;
        let found = means(&quantized, &level, totals)?;
        corrected.passes += 1;
        for (layer, found) in level.iter().zip(found) {
            if let Some(wanted) = wanted.get(&layer.y) {
                layer.shift(&mut model.graph, wanted, &found)?;
            }
        }
    }
    Ok(corrected)
}

/// A product with a place for a bias.
#[derive(Clone, Copy)]
struct Layer {
    /// The result, with its bias.
    y: ValueId,
    /// The axis of the channels in the result.
    axis: usize,
    /// Number of channels.
    channels: usize,
    /// The node and operand that the bias is, or could be.
    bias: (NodeId, usize),
    /// The weights.
    weights: ValueId,
}

impl Layer {
    fn of(graph: &Graph, id: NodeId) -> Option<Self> {
        let node = graph.node(id);
        let (weights, y) = (node.input(1)?, node.single_output()?);
        let shape = graph.constant(weights)?.shape();
        let rank = graph.rank(y)?;
        let own = |axis, channels| Self { y, axis, channels, bias: (id, 2), weights };
        Some(match node.op_type() {
            "Conv" => own(1, *shape.first()?),
            "ConvTranspose" => own(1, shape.get(1)? * usize::try_from(node.int("group").unwrap_or(1)).ok()?),
            "Gemm" => own(1, *shape.get(usize::from(node.int("transB") != Some(1)))?),
            _ => {
                let channels = *shape.last()?;
                let (_, add, slot, sum) = added(graph, y, channels)?;
                Self { y: sum, axis: rank.checked_sub(1)?, channels, bias: (add, slot), weights }
            }
        })
    }

    /// Adds to the bias what the mean of each channel lacks.
    fn shift(&self, graph: &mut Graph, wanted: &[f64], found: &[f64]) -> Result<(), MeasureError> {
        let (node, slot) = self.bias;
        let own = graph.node(node).input(slot).and_then(|bias| graph.constant(bias)).cloned();
        let Some(like) = own.clone().or_else(|| graph.constant(self.weights).cloned()) else { return Ok(()) };
        let mut bias = own.and_then(|bias| bias.to_f64()).unwrap_or_else(|| vec![0.0; self.channels]);
        for ((bias, wanted), found) in bias.iter_mut().zip(wanted).zip(found) {
            let shift = wanted - found;
            *bias += if shift.is_finite() { shift } else { 0.0 };
        }
        Ok(set_bias(graph, node, slot, &bias, &like)?)
    }
}

/// Layers in levels: each only takes from levels before.
fn levels(graph: &Graph, layers: &[Layer]) -> Vec<Vec<Layer>> {
    let at: FxHashMap<ValueId, &Layer> = layers.iter().map(|layer| (layer.y, layer)).collect();
    let mut depth: FxHashMap<ValueId, usize> = FxHashMap::default();
    let mut levels: Vec<Vec<Layer>> = Vec::new();
    for id in graph.topological_order().unwrap_or_default() {
        let node = graph.node(id);
        let mut level = node.operands().filter_map(|value| depth.get(&value).copied()).max().unwrap_or(0);
        if let Some(&&layer) = node.output(0).and_then(|y| at.get(&y)) {
            if levels.len() <= level {
                levels.resize_with(level + 1, Vec::new);
            }
            levels[level].push(layer);
            level += 1;
        }
        depth.extend(node.outputs().iter().flatten().map(|&output| (output, level)));
    }
    levels
}

/// The mean of each channel of the results of layers, over all samples.
fn means(model: &Model, layers: &[Layer], totals: &dyn Totals) -> Result<Vec<Vec<f64>>, MeasureError> {
    let mut work = prepared(&model.graph, model)?;
    let mut w = Writer::new(&mut work.graph);
    let mut outputs = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let rank = w.rank(layer.y)?;
        let others: Vec<usize> = (0..rank).filter(|&axis| axis != layer.axis).collect();
        let mean = w.mean(layer.y, &others)?;
        outputs.push((number.to_string(), w.reshape(mean, &[-1])?));
    }
    let mut found = sums(&mut work, outputs, totals, 1)?;
    let samples = totals.samples().max(1) as f64;
    let of = |number: usize| {
        let total = found.remove(&number.to_string()).unwrap_or_default();
        total.values.into_iter().map(|value| value / samples).collect()
    };
    Ok((0..layers.len()).map(of).collect())
}
