//! Marks what computes with integers: `QuantizeLinear` and `DequantizeLinear` around it, integers for its constants.

use onnx_opt_ir::{ElementType, Graph, GraphError, Model, NewNode, Node, NodeId, Tensor, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};
use thiserror::Error;

use super::accuracy::WeightRounding;
use super::grid::range_of;
use super::region::{Regions, choose};
use super::scales::grids;
use super::sizes::Sizes;
use super::unit::{Kind, Unit, Units, find};
use super::weights::{BiasOf, Form, quantize_weights};
use super::{Bias, Grid, Placed, Placement, Profile, QuantizeOptions, QuantizeReport, Ranges};
use crate::rewrite::place;

/// Why a model cannot be quantized.
#[derive(Debug, Error)]
pub enum QuantizeError {
    /// An operator set without the operators that quantization writes.
    #[error("opset {own} has no {what}, which opset {needed} brought")]
    Opset {
        /// The version of the model.
        own: i64,
        /// The version needed.
        needed: i64,
        /// What is missing.
        what: &'static str,
    },
    /// The model cannot be raised to the operator set that is needed.
    #[error(transparent)]
    Raise(#[from] crate::opset::RaiseError),
    /// The graph refuses an edit.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// What is measured on samples cannot be.
    #[error(transparent)]
    Measure(#[from] crate::measure::MeasureError),
    /// A constant that was made does not fit its shape.
    #[error(transparent)]
    Tensor(#[from] onnx_opt_ir::tensor::TensorError),
    /// The nodes cannot be put in order.
    #[error("the graph has a cycle")]
    Cycle,
}

/// Chooses the nodes that compute with integers and marks them, given the ranges of the values that
/// [`super::observed`] names. A node whose ranges are not there computes with floats.
///
/// # Errors
/// If the operator set of the model is older than [`Profile::opset`], or the graph refuses an edit.
pub fn insert(
    model: &mut Model,
    ranges: &Ranges,
    profile: &Profile,
    options: &QuantizeOptions,
) -> Result<QuantizeReport, QuantizeError> {
    let (own, needed) = (model.graph.opset(), profile.opset());
    if own < needed {
        let what = if needed > 13 { "integers of 16 bits" } else { "scales by channel" };
        return Err(QuantizeError::Opset { own, needed, what });
    }
    let graph = &mut model.graph;
    let (Units { units, refused }, regions) = chosen(graph, ranges, profile, options);
    let chosen: Vec<&Unit> =
        units.iter().zip(&regions.integer).filter(|(_, on)| **on).map(|(unit, _)| unit).collect();
    let mut report = account(graph, &units, &regions.integer, &refused);
    report.regions = regions.count;
    report.faster = regions.fast;
    let grids = grids(graph, profile, &chosen, ranges);
    let taken = chosen.iter().flat_map(|unit| &unit.operands).map(|&(_, value)| value).collect();
    let mut writer = Writer {
        graph,
        profile,
        rounding: &options.weights,
        grids,
        taken,
        constants: FxHashMap::default(),
        weights: FxHashMap::default(),
        dequantized: FxHashMap::default(),
        integers: FxHashMap::default(),
        report,
        stale: Vec::new(),
    };
    for unit in &chosen {
        writer.write(unit, &chosen)?;
    }
    writer.keep_floats()?;
    let Writer { stale, report, .. } = writer;
    graph.remove_dead(stale.iter().filter_map(|value| value.node), |_, _| {});
    stale
        .iter()
        .for_each(|value| value.constant.into_iter().for_each(|value| graph.remove_unused_constant(value)));
    graph.sort().map_err(|_| QuantizeError::Cycle)?;
    Ok(report)
}

/// The units of a graph, and which of them compute with integers.
pub(super) fn chosen(
    graph: &Graph,
    ranges: &Ranges,
    profile: &Profile,
    options: &QuantizeOptions,
) -> (Units, Regions) {
    let units = find(graph, profile, options, Some(ranges));
    let count = units.units.len();
    let regions = match options.regardless {
        true => Regions { integer: vec![true; count], count, fast: false },
        false => choose(&Sizes { graph, seen: &options.elements }, profile, &units.units),
    };
    (units, regions)
}

/// What computes how.
fn account(graph: &Graph, units: &[Unit], integer: &[bool], refused: &[(NodeId, String)]) -> QuantizeReport {
    let mut report = QuantizeReport::default();
    let mut placed: FxHashMap<NodeId, Option<String>> = FxHashMap::default();
    for (unit, &on) in units.iter().zip(integer) {
        let reason = (!on).then(|| "it would not pay".to_owned());
        placed.insert(unit.node, reason);
    }
    placed.extend(refused.iter().map(|(node, reason)| (*node, Some(reason.clone()))));
    for id in graph.topological_order().unwrap_or_default() {
        let (Some(float), node) = (placed.remove(&id), graph.node(id)) else { continue };
        let operator = node.op_type().to_owned();
        let counts = if float.is_some() { &mut report.float } else { &mut report.quantized };
        *counts.entry(operator.clone()).or_default() += 1;
        report.nodes.push(Placed { node: place(graph, node), operator, float, weight_sqnr: None });
    }
    report
}

/// What may be of no use any more.
struct Stale {
    node: Option<NodeId>,
    constant: Option<ValueId>,
}

struct Writer<'a> {
    graph: &'a mut Graph,
    profile: &'a Profile,
    rounding: &'a WeightRounding,
    grids: FxHashMap<ValueId, Grid>,
    /// Values that a quantized unit takes.
    taken: FxHashSet<ValueId>,
    /// Scale and zero point by grid.
    constants: FxHashMap<(ElementType, u32, i64), Vec<ValueId>>,
    /// Weights that are written, by value and scales.
    weights: FxHashMap<(ValueId, Vec<u32>), ValueId>,
    /// What stands for a value among quantized units.
    dequantized: FxHashMap<ValueId, ValueId>,
    /// The integers of a value.
    integers: FxHashMap<ValueId, ValueId>,
    report: QuantizeReport,
    stale: Vec<Stale>,
}

impl Writer<'_> {
    fn write(&mut self, unit: &Unit, chosen: &[&Unit]) -> Result<(), QuantizeError> {
        if self.profile.placement == Placement::Results {
            self.operands(unit, None)?;
            self.results(unit)?;
        } else {
            let spared = self.spared(unit, chosen);
            self.operands(unit, spared)?;
        }
        for &(slot, value) in &unit.constants {
            let new = self.constant(value)?;
            self.graph.set_input(unit.node, slot, new)?;
            self.stale.push(Stale { node: None, constant: Some(value) });
        }
        if let (Kind::Product { channels }, Some(&(_, operand))) = (unit.kind, unit.operands.first()) {
            self.product(unit.node, channels, operand)?;
        }
        Ok(())
    }

    /// Gives a unit integers for its operands, all but one.
    fn operands(&mut self, unit: &Unit, spared: Option<usize>) -> Result<(), QuantizeError> {
        for &(slot, value) in unit.operands.iter().filter(|&&(slot, _)| Some(slot) != spared) {
            let new = match self.dequantized.get(&value) {
                Some(&known) => known,
                None => self.quantize(value)?.1,
            };
            self.graph.set_input(unit.node, slot, Some(new))?;
        }
        Ok(())
    }

    /// The operand of an Add that a product gives to it alone.
    fn spared(&self, unit: &Unit, chosen: &[&Unit]) -> Option<usize> {
        let residual = self.profile.placement == Placement::ResidualOperands;
        if !residual || !self.graph.node(unit.node).is("Add") {
            return None;
        }
        let alone = |value: ValueId| {
            let product = chosen.iter().any(|other| {
                matches!(other.kind, Kind::Product { .. }) && other.results.first() == Some(&value)
            });
            product && self.graph.is_inner(value)
        };
        unit.operands.iter().find(|&&(_, value)| alone(value)).map(|&(slot, _)| slot)
    }

    fn results(&mut self, unit: &Unit) -> Result<(), QuantizeError> {
        for &result in &unit.results {
            if let (Kind::Rescale(_), Some(&(_, operand))) = (unit.kind, unit.operands.first()) {
                let (Some(&integers), Some(&grid)) = (self.integers.get(&operand), self.grids.get(&result))
                else {
                    continue;
                };
                let new = self.dequantize(integers, grid)?;
                self.integers.insert(result, integers);
                self.dequantized.insert(result, new);
                self.graph.replace_all_uses(result, new)?;
                self.stale.push(Stale { node: Some(unit.node), constant: None });
                continue;
            }
            let open = self.profile.open.contains(self.graph.node(unit.node).op_type());
            if open && !self.taken.contains(&result) {
                continue;
            }
            let (quantize, new) = self.quantize(result)?;
            // All uses, even that by the quantizer, which gets it back.
            self.graph.replace_all_uses(result, new)?;
            self.graph.set_input(quantize, 0, Some(result))?;
        }
        Ok(())
    }

    /// Quantizes a value and gives the quantizer and the value as floats again.
    fn quantize(&mut self, value: ValueId) -> Result<(NodeId, ValueId), QuantizeError> {
        // Every operand and result of a chosen unit has its range, and so its grid.
        let fallback = Grid { element: self.profile.activations, scale: 1.0, zero: 0 };
        let grid = self.grids.get(&value).copied().unwrap_or(fallback);
        let operands = [value].into_iter().chain(self.grid(grid));
        let quantize = self.graph.add_node(NewNode::new("QuantizeLinear", operands))?;
        let integers = self.graph.node(quantize).output(0).ok_or(GraphError::NoSuchNode(quantize))?;
        let new = self.dequantize(integers, grid)?;
        self.integers.insert(value, integers);
        self.dequantized.insert(value, new);
        self.report.values += 1;
        Ok((quantize, new))
    }

    fn dequantize(&mut self, integers: ValueId, grid: Grid) -> Result<ValueId, QuantizeError> {
        let operands = [integers].into_iter().chain(self.grid(grid));
        self.node(NewNode::new("DequantizeLinear", operands))
    }

    fn node(&mut self, new: NewNode) -> Result<ValueId, QuantizeError> {
        let node = self.graph.add_node(new)?;
        Ok(self.graph.node(node).output(0).ok_or(GraphError::NoSuchNode(node))?)
    }

    /// Scale and zero point of a grid, one pair of constants for each grid.
    fn grid(&mut self, grid: Grid) -> Vec<ValueId> {
        let graph = &mut *self.graph;
        let key = (grid.element, grid.scale.to_bits(), grid.zero);
        let known = self.constants.entry(key);
        known.or_insert_with(|| grid.constants().map(|tensor| graph.add_constant(tensor)).collect()).clone()
    }

    /// A constant as integers of a grid of its own; `None` if it is not one.
    fn constant(&mut self, value: ValueId) -> Result<Option<ValueId>, QuantizeError> {
        let Some(tensor) = self.graph.constant(value).cloned() else { return Ok(None) };
        let Some(values) = tensor.to_f32() else { return Ok(None) };
        let Some(range) = range_of(&values) else { return Ok(None) };
        let grid = Grid::of(range, self.profile.activations, self.profile.symmetric);
        let integers: Vec<i64> = values.iter().map(|&value| grid.quantize(value)).collect();
        let Some(integers) = Tensor::from_integers(grid.element, tensor.shape(), &integers) else {
            return Ok(None);
        };
        self.count(tensor.byte_len(), integers.byte_len() + 5);
        let integers = self.graph.add_constant(integers);
        Ok(Some(self.dequantize(integers, grid)?))
    }

    fn count(&mut self, before: usize, after: usize) {
        self.report.weights += 1;
        self.report.weight_bytes_before += before as u64;
        self.report.weight_bytes_after += after as u64;
    }

    /// Gives products that compute with floats between integers an operand with a scale for each channel, all the same:
    /// the runtime leaves those alone.
    fn keep_floats(&mut self) -> Result<(), QuantizeError> {
        let mut seized = Vec::new();
        for (id, node) in self.graph.nodes() {
            if !self.profile.seizes.contains(node.op_type()) || !self.leads_to_integers(node) {
                continue;
            }
            let weights = node.input(1).and_then(|value| self.graph.constant(value));
            let operand = node.input(0).and_then(|value| self.graph.producer_of(value, "DequantizeLinear"));
            let (Some(weights), Some((_, operand))) = (weights, operand) else { continue };
            let channels = match node.op_type() {
                "Conv" => weights.shape().get(1).map(|&size| size * node.int("group").unwrap_or(1) as usize),
                "ConvTranspose" => weights.shape().first().copied(),
                _ => weights.shape().get(usize::from(node.int("transB") == Some(1))).copied(),
            };
            if let (Some(channels), &[Some(integers), Some(scale), Some(zero)]) = (channels, operand.inputs())
            {
                seized.push((id, channels, integers, [scale, zero]));
            }
        }
        for (id, channels, integers, parameters) in seized {
            let spread = |tensor: &Tensor| {
                let raw = tensor.raw().repeat(channels);
                Tensor::from_raw(tensor.element(), &[channels], raw.into()).ok()
            };
            let operands = parameters.map(|value| spread(self.graph.constant(value)?));
            let [Some(scale), Some(zero)] = operands else { continue };
            let operands = [integers, self.graph.add_constant(scale), self.graph.add_constant(zero)];
            let new = self.node(NewNode::new("DequantizeLinear", operands).with("axis", 1))?;
            self.graph.set_input(id, 0, Some(new))?;
        }
        Ok(())
    }

    /// Whether the only user of a node's result, activations aside, is a quantizer.
    fn leads_to_integers(&self, node: &Node) -> bool {
        let mut result = node.single_output();
        while let Some(value) = result {
            let mut consumers = self.graph.consumers(value);
            let (Some(only), None) = (consumers.next(), consumers.next()) else { return false };
            let next = self.graph.node(only.node);
            if next.is("QuantizeLinear") {
                return true;
            }
            result = next.single_output().filter(|_| next.is("Relu") || next.is("Clip"));
        }
        false
    }

    /// Gives a product integers for its weights and its bias.
    fn product(&mut self, node: NodeId, channels: usize, operand: ValueId) -> Result<(), QuantizeError> {
        let product = self.graph.node(node);
        let (Some(weights), bias) = (product.input(1), product.input(2)) else { return Ok(()) };
        let channels = self.profile.per_channel.contains(product.op_type()).then_some(channels);
        let Some(tensor) = self.graph.constant(weights).cloned() else { return Ok(()) };
        let integer_bias = bias.filter(|_| self.profile.bias == Bias::Int32);
        let terms = integer_bias.and_then(|bias| self.graph.constant(bias)?.to_f32());
        let scale = self.grids.get(&operand).map_or(1.0, |grid| grid.scale);
        let of = terms.as_deref().map(|values| BiasOf { values, operand: scale });
        // Its own weights meet no others there.
        let groups = product.int("group").filter(|&groups| groups > 1 && product.is("Conv"));
        let depthwise = matches!(*tensor.shape(), [count, 1, _, _] if groups == Some(count as i64));
        let form = Form {
            element: self.profile.weights,
            channels,
            pair_limit: self.profile.pair_limit.filter(|_| !depthwise),
        };
        let name = place(self.graph, product);
        let Some(made) = quantize_weights(&tensor, form, of, self.rounding, &name) else { return Ok(()) };

        let key = (weights, made.scales.iter().map(|scale| scale.to_bits()).collect());
        let new = match self.weights.get(&key) {
            Some(&known) => known,
            None => {
                self.count(tensor.byte_len(), made.integers.byte_len() + 5 * made.scales.len());
                let new = self.by_channel(made.integers, &made.scales, channels, true)?;
                self.weights.insert(key, new);
                new
            }
        };
        self.graph.set_input(node, 1, Some(new))?;
        self.stale.push(Stale { node: None, constant: Some(weights) });
        if let (Some((integers, scales)), Some(bias)) = (made.bias, integer_bias) {
            let new = self.by_channel(integers, &scales, channels.map(|_| 0), false)?;
            self.graph.set_input(node, 2, Some(new))?;
            self.stale.push(Stale { node: None, constant: Some(bias) });
        }
        Ok(())
    }

    /// Constant integers as floats, by a scale for each place on an axis or by one.
    fn by_channel(
        &mut self,
        integers: Tensor,
        scales: &[f32],
        axis: Option<usize>,
        zero: bool,
    ) -> Result<ValueId, QuantizeError> {
        let element = integers.element();
        let shape: &[usize] = if axis.is_some() { &[scales.len()] } else { &[] };
        let integers = self.graph.add_constant(integers);
        let scale = Tensor::from_f32(shape, scales).map(|scale| self.graph.add_constant(scale));
        // Runtimes look for a zero point even where it is nothing.
        let zeros = vec![0; scales.len()];
        let zero = zero.then(|| Tensor::from_integers(element, shape, &zeros)).flatten();
        let zero = zero.map(|zero| self.graph.add_constant(zero));
        let mut new = NewNode::new("DequantizeLinear", [Some(integers), scale, zero].into_iter().flatten());
        if let Some(axis) = axis {
            new = new.with("axis", axis as i64);
        }
        self.node(new)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use onnx_opt_ir::{Dim, check};

    use super::super::profile::Cost;
    use super::super::{Range, observed, prepare};
    use super::*;
    use crate::target::Target;
    use crate::testing::Fixture;

    fn profile(name: &str) -> Profile {
        Target::named(name).unwrap().quantization().unwrap()
    }

    /// Quantizes with the same range for every value.
    fn quantized(f: Fixture, target: &str, low: f32, high: f32) -> (Model, QuantizeReport) {
        quantized_for(f, &profile(target), low, high)
    }

    fn quantized_for(f: Fixture, profile: &Profile, low: f32, high: f32) -> (Model, QuantizeReport) {
        let (mut model, options) = (f.into_model(), QuantizeOptions::default());
        prepare(&mut model, profile, 27).unwrap();
        let names = observed(&model.graph, profile, &options);
        let range = Range::new(low, high).unwrap();
        let ranges: Ranges = names.into_iter().map(|name| (name, range)).collect();
        let report = insert(&mut model, &ranges, profile, &options).unwrap();
        check(&model).unwrap();
        (model, report)
    }

    fn operators(model: &Model) -> Vec<&str> {
        let order = model.graph.topological_order().unwrap();
        order.into_iter().map(|id| model.graph.node(id).op_type()).collect()
    }

    fn conv(f: &mut Fixture, x: ValueId, from: usize, to: usize) -> ValueId {
        let (weights, bias) = (f.weights(&[to, from, 3, 3]), f.weights(&[to]));
        f.node(NewNode::new("Conv", [x, weights, bias]).with("pads", vec![1i64; 4]))
    }

    fn of<'m>(model: &'m Model, op_type: &str) -> Vec<(NodeId, &'m Node)> {
        model.graph.nodes().filter(|(_, node)| node.is(op_type)).collect()
    }

    /// The quantizers of a node's first operand and result.
    fn grids_of(model: &Model, op_type: &str) -> Vec<[Vec<Option<ValueId>>; 2]> {
        let graph = &model.graph;
        of(model, op_type)
            .into_iter()
            .map(|(_, node)| {
                let (_, before) = graph.producer_of(node.input(0).unwrap(), "DequantizeLinear").unwrap();
                let after = graph.consumers(node.output(0).unwrap()).next().unwrap().node;
                assert!(graph.node(after).is("QuantizeLinear"));
                [before.inputs()[1..].to_vec(), graph.node(after).inputs()[1..].to_vec()]
            })
            .collect()
    }

    fn pooled(f: &mut Fixture, x: ValueId) -> ValueId {
        f.node(
            NewNode::new("MaxPool", [x]).with("kernel_shape", vec![2i64, 2]).with("strides", vec![2i64, 2]),
        )
    }

    #[test]
    fn a_pool_behind_floats_stays_with_them_and_what_takes_it_too() {
        // The convolution in between gains less by integers than the first pool loses.
        let net = || {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[1, 16, 64, 64]);
            let t = f.op("Tanh", &[x]);
            let t = pooled(&mut f, t);
            let t = conv(&mut f, t, 16, 16);
            let t = f.op("Tanh", &[t]);
            f.with_output(t)
        };
        let (model, report) = quantized(net(), "onnxruntime", -1.0, 1.0);
        assert_eq!(report.regions, 0, "{:?}", operators(&model));
        // Where the runtime leaves the QuantizeLinear behind the pool, the convolution gains.
        let everywhere = Profile { moves_alone: BTreeMap::new(), ..profile("onnxruntime") };
        let (_, report) = quantized_for(net(), &everywhere, -1.0, 1.0);
        assert_eq!((report.regions, report.quantized.get("MaxPool")), (1, None));
    }

    #[test]
    fn integers_become_floats_for_each_that_takes_them() {
        let regions = |takers: &[&str]| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[1, 16, 64, 64]);
            let t = conv(&mut f, x, 16, 16);
            let taken: Vec<ValueId> = takers.iter().map(|taker| f.op(taker, &[t])).collect();
            let y = taken.into_iter().reduce(|a, b| f.op("Mul", &[a, b])).unwrap();
            quantized(f.with_output(y), "onnxruntime", -1.0, 1.0).1.faster
        };
        assert_eq!((regions(&["Tanh"]), regions(&["Tanh", "Sin", "Exp"])), (true, false));
    }

    #[test]
    fn sizes_that_types_leave_open_are_those_of_samples() {
        let net = || {
            let mut f = Fixture::new(13);
            let sizes = [Dim::fixed(1), Dim::fixed(16), Dim::symbol("h"), Dim::symbol("w")];
            let x = f.typed_input("x", ElementType::Float, sizes);
            let t = conv(&mut f, x, 16, 16);
            let t = conv(&mut f, t, 16, 16);
            f.with_output(t).into_model()
        };
        let regions = |places: f64| {
            let mut model = net();
            let mut options = QuantizeOptions::default();
            let names = observed(&model.graph, &profile("onnxruntime"), &options);
            options.elements = names.iter().map(|name| (name.clone(), 16.0 * places)).collect();
            let range = Range::new(-1.0, 1.0).unwrap();
            let ranges: Ranges = names.into_iter().map(|name| (name, range)).collect();
            insert(&mut model, &ranges, &profile("onnxruntime"), &options).unwrap().faster
        };
        assert_eq!((regions(1024.0), regions(4.0)), (true, false));
    }

    #[test]
    fn a_chain_is_one_region_between_two_quantizers() {
        let mut f = Fixture::new(11);
        let x = f.input("x", &[1, 16, 32, 32]);
        let t = conv(&mut f, x, 16, 32);
        let t = f.op("Relu", &[t]);
        let t = pooled(&mut f, t);
        let y = conv(&mut f, t, 32, 32);
        let (model, report) = quantized(f.with_output(y), "onnxruntime", -1.0, 3.0);
        assert_eq!((report.regions, report.values, report.weights), (1, 4, 2));
        assert_eq!(model.graph.opset(), 13);
        assert_eq!(of(&model, "QuantizeLinear").len(), 4);
        let [[before, after]] = &grids_of(&model, "MaxPool")[..] else { panic!() };
        assert_eq!(before, after);
        // The Relu puts zero at the end of the integers.
        let zero = model.graph.constant(before[1].unwrap()).unwrap();
        assert_eq!(zero.single_i64(), Some(0));
        let output = model.graph.outputs()[0].value;
        assert_eq!(model.graph.display_name(output), "y");
        assert!(model.graph.producer_of(output, "DequantizeLinear").is_some());
        for (_, node) in of(&model, "Conv") {
            let [weights, bias] = [1, 2].map(|slot| {
                let (_, node) =
                    model.graph.producer_of(node.input(slot).unwrap(), "DequantizeLinear").unwrap();
                assert_eq!(node.int("axis"), Some(0));
                model.graph.constant(node.input(0).unwrap()).unwrap().element()
            });
            assert_eq!((weights, bias), (ElementType::Int8, ElementType::Int32));
        }
    }

    #[test]
    fn a_residual_is_added_as_integers() {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[1, 16, 32, 32]);
        let a = conv(&mut f, x, 16, 16);
        let b = conv(&mut f, a, 16, 16);
        let t = f.op("Add", &[a, b]);
        let t = f.op("Relu", &[t]);
        let y = conv(&mut f, t, 16, 16);
        let (model, report) = quantized(f.with_output(y), "onnxruntime", -1.0, 1.0);
        assert_eq!((report.quantized["Add"], report.regions), (1, 1));
        let (_, add) = of(&model, "Add")[0];
        let both = add
            .inputs()
            .iter()
            .all(|operand| model.graph.producer_of(operand.unwrap(), "DequantizeLinear").is_some());
        assert!(both);
    }

    #[test]
    fn tensorrt_adds_what_a_convolution_gives_as_it_is() {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[1, 16, 32, 32]);
        let a = conv(&mut f, x, 16, 16);
        let b = conv(&mut f, a, 16, 16);
        let t = f.op("Add", &[a, b]);
        let y = conv(&mut f, t, 16, 16);
        let (model, _) = quantized(f.with_output(y), "tensorrt", -1.0, 1.0);
        let (_, add) = of(&model, "Add")[0];
        let quantized: Vec<bool> = add
            .inputs()
            .iter()
            .map(|operand| model.graph.producer_of(operand.unwrap(), "DequantizeLinear").is_some())
            .collect();
        assert_eq!(quantized, [true, false]);
        let (_, conv) = of(&model, "Conv")[0];
        assert!(model.graph.constant(conv.input(2).unwrap()).is_some(), "the bias stays");
    }

    #[test]
    fn the_parts_of_hard_swish_compute_with_integers() {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[1, 16, 32, 32]);
        let t = conv(&mut f, x, 16, 16);
        let t = f.op("HardSwish", &[t]);
        let y = conv(&mut f, t, 16, 16);
        let mut profile = profile("onnxruntime");
        profile.decompose.insert("HardSwish".to_owned());
        profile.elementwise.insert("Mul".to_owned(), Cost { float: 0.19, integer: 0.18 });
        let (model, report) = quantized_for(f.with_output(y), &profile, -4.0, 4.0);
        assert_eq!((report.regions, report.quantized["Mul"]), (1, 2));
        // One of the two became another scale of the same integers.
        assert_eq!(of(&model, "Mul").len(), 1);
        let (_, product) = of(&model, "Mul")[0];
        let gate = product.input(1).unwrap();
        let (_, dequantize) = model.graph.producer_of(gate, "DequantizeLinear").unwrap();
        let (_, quantize) = model.graph.producer_of(dequantize.input(0).unwrap(), "QuantizeLinear").unwrap();
        let scale = |node: &Node| model.graph.constant(node.input(1).unwrap()).unwrap().single_f64().unwrap();
        assert!((scale(quantize) / scale(dequantize) - 6.0).abs() < 1e-6);
    }

    #[test]
    fn a_product_may_give_floats_where_floats_are_wanted() {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[1, 128, 256]);
        let weights = f.weights(&[256, 256]);
        let t = f.op("MatMul", &[x, weights]);
        let y = f.op("Softmax", &[t]);
        let (model, report) = quantized(f.with_output(y), "onnxruntime", -1.0, 1.0);
        assert_eq!(report.quantized["MatMul"], 1);
        assert_eq!(
            operators(&model).into_iter().filter(|name| *name != "DequantizeLinear").collect::<Vec<_>>(),
            ["QuantizeLinear", "MatMul", "Softmax"]
        );
        let (_, product) = of(&model, "MatMul")[0];
        let (_, weights) = model.graph.producer_of(product.input(1).unwrap(), "DequantizeLinear").unwrap();
        assert_eq!(weights.int("axis"), Some(1));
    }

    #[test]
    fn what_does_not_pay_stays() {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[1, 16, 8, 8]);
        let t = f.op("Add", &[x, x]);
        let y = f.op("Sigmoid", &[t]);
        let (model, report) = quantized(f.with_output(y), "onnxruntime", -1.0, 1.0);
        assert_eq!(operators(&model), ["Add", "Sigmoid"]);
        assert!(report.quantized.is_empty() && report.float["Add"] == 1 && report.regions == 0);
    }

    #[test]
    fn a_mask_is_not_quantized() {
        let mut f = Fixture::new(17);
        let (x, mask) = (f.input("x", &[1, 16, 32, 32]), f.input("mask", &[1, 1, 32, 32]));
        let t = conv(&mut f, x, 16, 16);
        let t = f.op("Add", &[t, mask]);
        let y = conv(&mut f, t, 16, 16);
        let mut model = f.with_output(y).into_model();
        let (profile, options) = (profile("onnxruntime"), QuantizeOptions::default());
        let names = observed(&model.graph, &profile, &options);
        let range = |name: &str| {
            let low = if name == "mask" || name == model.graph.display_name(t) { f32::MIN } else { -1.0 };
            Range::new(low, 1.0).unwrap()
        };
        let ranges: Ranges = names.iter().map(|name| (name.clone(), range(name))).collect();
        let report = insert(&mut model, &ranges, &profile, &options).unwrap();
        assert_eq!(report.float["Add"], 1);
    }

    #[test]
    fn the_user_chooses_nodes() {
        let build = || {
            let mut f = Fixture::new(17);
            let x = f.input("x", &[1, 16, 32, 32]);
            let t = conv(&mut f, x, 16, 16);
            let y = conv(&mut f, t, 16, 16);
            let first = f.graph.display_name(t);
            (f.with_output(y).into_model(), first)
        };
        let run = |options: &dyn Fn(&str) -> QuantizeOptions| {
            let (mut model, first) = build();
            let (profile, options) = (profile("onnxruntime"), options(&first));
            let range = Range::new(-1.0, 1.0).unwrap();
            let ranges: Ranges =
                observed(&model.graph, &profile, &options).into_iter().map(|name| (name, range)).collect();
            insert(&mut model, &ranges, &profile, &options).unwrap().quantized.get("Conv").copied()
        };
        let set = |name: &str| [name.to_owned()].into();
        assert_eq!(run(&|_| QuantizeOptions::default()), Some(2));
        assert_eq!(run(&|first| QuantizeOptions { exclude: set(first), ..Default::default() }), Some(1));
        assert_eq!(run(&|first| QuantizeOptions { nodes: Some(set(first)), ..Default::default() }), Some(1));
        assert_eq!(run(&|_| QuantizeOptions { operators: Some(set("Gemm")), ..Default::default() }), None);
    }

    #[test]
    fn a_float_convolution_between_integers_is_kept_from_the_runtime() {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[1, 64, 32, 32]);
        let t = conv(&mut f, x, 64, 32);
        let weights = f.weights(&[32, 64, 2, 2]);
        let t = f.node(NewNode::new("ConvTranspose", [t, weights]).with("strides", vec![2i64, 2]));
        let t = f.op("Relu", &[t]);
        let y = conv(&mut f, t, 64, 64);
        let (model, report) = quantized(f.with_output(y), "onnxruntime", -1.0, 1.0);
        assert_eq!((report.quantized["Conv"], report.regions), (2, 2));
        let (_, node) = of(&model, "ConvTranspose")[0];
        let (_, operand) = model.graph.producer_of(node.input(0).unwrap(), "DequantizeLinear").unwrap();
        let scales = model.graph.constant(operand.input(1).unwrap()).unwrap();
        assert_eq!((scales.shape(), operand.int("axis")), (&[32][..], Some(1)));
        assert!(scales.uniform().is_some());
    }

    #[test]
    fn sixteen_bits_need_a_later_operator_set() {
        let mut profile = profile("qnn");
        profile.activations = ElementType::Uint16;
        let mut f = Fixture::new(17);
        let x = f.input("x", &[1, 16, 8, 8]);
        let y = conv(&mut f, x, 16, 16);
        let mut model = f.with_output(y).into_model();
        let options = QuantizeOptions::default();
        let ranges = Ranges::new();
        assert!(matches!(
            insert(&mut model, &ranges, &profile, &options),
            Err(QuantizeError::Opset { own: 17, needed: 21, .. })
        ));
        prepare(&mut model, &profile, 27).unwrap();
        let range = Range::new(-1.0, 1.0).unwrap();
        let names = observed(&model.graph, &profile, &options);
        let ranges: Ranges = names.into_iter().map(|name| (name, range)).collect();
        insert(&mut model, &ranges, &profile, &options).unwrap();
        check(&model).unwrap();
        let (_, quantize) = of(&model, "QuantizeLinear")[0];
        assert_eq!(model.graph.element(quantize.output(0).unwrap()), Some(ElementType::Uint16));
    }
}
