//! Importance that is measured on samples: gradients, activations, reconstruction.
//!
//! Gradients are of random projections of the outputs: with v of independent entries ±1, E (v·Δy)² = ‖Δy‖², so that no
//! labels are needed. Each sample is projected by itself: a sum over a batch would be one estimate, of which the deviation
//! is √2 of what it tells.

use std::collections::BTreeMap;

use onnx_opt_ir::graph::Slot;
use onnx_opt_ir::{Dim, ElementType, Graph, Model, Type, ValueId};

use super::group::{Group, Groups, Member, is_weight};
use super::importance::{Importance, Norm, Scores};
use super::joint;
use super::remove::scales;
use super::takers::Takers;
use crate::gradient::{Size, Writer, Written, backward};
use crate::measure::{MeasureError, Totals, draw, noise, prepared, sums};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Criterion {
    /// E‖Σ w·∂y/∂w‖² over the weights that take a unit: how far the outputs y move without it, to first order. Molchanov et al.,
    /// "Importance estimation for neural network pruning", 2019, with the outputs in place of a loss.
    Taylor,
    /// Σ over the weights of the slices of E|∂(v·y)/∂w|.
    Sensitivity,
    /// E (Σ w·∂ln p/∂w)² over classes drawn by what the model itself says of them: to second order, twice the divergence
    /// of what it says without the unit. Liu et al., "Group Fisher pruning", 2021.
    Fisher,
    /// E|a| of the channels that go, where weights take them.
    Activation,
    /// ½ tr(W_G·([H⁻¹]_GG)⁻¹·W_Gᵀ) of the columns G of a unit, over the weights that take it, with H = E xxᵀ of what they
    /// take of the units that are left: the error when all other columns make up for those that go, as a share of what the
    /// weight gives. Hassibi and Stork, "Second order derivatives for network pruning: optimal brain surgeon", 1993.
    Reconstruction,
}

impl Criterion {
    /// Name for reports and the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Taylor => "taylor",
            Self::Sensitivity => "sensitivity",
            Self::Fisher => "fisher",
            Self::Activation => "activation",
            Self::Reconstruction => "obs",
        }
    }
}

/// Units of a group, at most, of which is measured what is lost with several at once: moments of more take too much. What is
/// made up for afterwards is measured of each by itself.
const MOST_JOINT: usize = 1024;

/// Runs of each sample for one estimate by random projections.
const ROUNDS: usize = 4;

/// A criterion with what it needs.
pub struct Measured<'a> {
    /// What is measured.
    pub criterion: Criterion,
    /// A model with what surrounds the graph.
    pub base: &'a Model,
    /// Sums over samples.
    pub totals: &'a dyn Totals,
    /// Whether what takes a unit will be fitted to do without it: then only what the others cannot make up for counts.
    pub recovers: bool,
}

impl Importance for Measured<'_> {
    fn name(&self) -> &'static str {
        self.criterion.name()
    }

    fn of_bodies(&self) -> &dyn Importance {
        &Norm::L2
    }

    fn scores(&self, graph: &Graph, groups: &Groups) -> Result<Scores, MeasureError> {
        if groups.groups.is_empty() {
            return Ok(Vec::new());
        }
        if self.criterion == Criterion::Reconstruction {
            let takers = Takers::of(graph, groups, self.base, self.totals)?;
            let plain = Norm::L2.scores(graph, groups)?;
            let score = |(group, plain)| takers.errors(group).unwrap_or(plain);
            return Ok(groups.groups.iter().zip(plain).map(score).collect());
        }
        let (mut model, outputs) = self.written(graph, groups)?;
        let rounds = if self.criterion == Criterion::Activation { 1 } else { ROUNDS };
        let totals = sums(&mut model, outputs, self.totals, rounds)?;
        let scores = |(number, group): (usize, &Group)| match totals.get(&number.to_string()) {
            Some(total) if total.shape.len() == 2 => joint::losses(&total.values, group.len()),
            Some(total) if total.values.len() == group.len() => total.values.clone(),
            _ => vec![0.0; group.len()],
        };
        let scores: Scores = groups.groups.iter().enumerate().map(scores).collect();
        if !self.recovers {
            return Ok(scores);
        }
        let takers = Takers::of(graph, groups, self.base, self.totals)?;
        Ok(groups.groups.iter().zip(scores).map(|(group, own)| takers.left(group, own)).collect())
    }
}

/// Gives the inputs of a graph the sizes that they have in the samples. Tells whether any was not known.
fn fix_sizes(graph: &mut Graph, totals: &dyn Totals) -> Result<bool, MeasureError> {
    let open = |graph: &Graph, value: ValueId| graph.fixed_shape(value).is_none();
    if !graph.inputs().iter().any(|input| open(graph, input.value)) {
        return Ok(false);
    }
    let shapes = totals.shapes(graph).map_err(MeasureError::Running)?;
    for index in 0..graph.inputs().len() {
        let value = graph.inputs()[index].value;
        let Some(sizes) = shapes.get(&graph.display_name(value)) else { continue };
        let Some(element) = graph.element(value).filter(|_| open(graph, value)) else { continue };
        let sizes = sizes.iter().map(|&size| Dim::fixed(size as i64));
        graph.set_input_type(index, Type::tensor(element, sizes))?;
    }
    Ok(true)
}

type Outputs = Vec<(String, ValueId)>;

impl Measured<'_> {
    /// A model in which what is measured is written, and the outputs that tell it.
    fn written(&self, graph: &Graph, groups: &Groups) -> Result<(Model, Outputs), MeasureError> {
        let mut model = prepared(graph, self.base)?;
        if self.criterion == Criterion::Activation {
            let outputs = activations(&mut model.graph, groups)?;
            return Ok((model, outputs));
        }
        let refused = match self.gradients(&mut model.graph, groups) {
            Ok(outputs) => return Ok((model, outputs?)),
            Err(refused) => refused,
        };
        // Gradients of some layers, recurrent ones among them, are written for one size alone.
        let mut model = prepared(graph, self.base)?;
        if !fix_sizes(&mut model.graph, self.totals)? {
            return Err(refused);
        }
        let outputs = self.gradients(&mut model.graph, groups)??;
        Ok((model, outputs))
    }

    /// A vector of scores for each group, by gradients.
    fn gradients(&self, graph: &mut Graph, groups: &Groups) -> Result<Written<Outputs>, MeasureError> {
        let counted: Vec<_> =
            groups.groups.iter().map(|group| counted(graph, group, self.criterion)).collect();
        let mut weights: Vec<ValueId> = Vec::new();
        for member in counted.iter().flatten() {
            let constant = graph.constant(member.value).is_some_and(|tensor| tensor.element().is_float());
            if constant && !weights.contains(&member.value) {
                weights.push(member.value);
            }
        }
        let seeds = match self.seeds(graph) {
            Ok(seeds) => seeds,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let found = backward(graph, &seeds, &weights)?;
        let gradients: BTreeMap<ValueId, ValueId> =
            weights.iter().zip(found).filter_map(|(&weight, gradient)| Some((weight, gradient?))).collect();
        Ok(self.contracted(graph, groups, &counted, &gradients))
    }

    /// The outputs and their random projections.
    fn seeds(&self, graph: &mut Graph) -> Written<Vec<(ValueId, ValueId)>> {
        let outputs: Vec<ValueId> = graph.outputs().iter().map(|output| output.value).collect();
        let mut w = Writer::new(graph);
        let draw = draw(&mut w);
        let mut seeds: Vec<(ValueId, ValueId)> = Vec::new();
        for output in outputs {
            let (y, classes) = logits(w.graph, output);
            if !w.graph.element(y).is_some_and(ElementType::is_float)
                || seeds.iter().any(|(known, _)| *known == y)
            {
                continue;
            }
            let noise = noise(&mut w, draw, y)?;
            let seed = match classes {
                Some(axis) if self.criterion == Criterion::Fisher => drawn_class(&mut w, y, noise, axis)?,
                _ => {
                    let centred = w.plus(noise, -0.5)?;
                    w.op("Sign", &[centred])?
                }
            };
            seeds.push((y, seed));
        }
        Ok(seeds)
    }

    /// For each group what its weights and their gradients say of each unit.
    fn contracted(
        &self,
        graph: &mut Graph,
        groups: &Groups,
        counted: &[Vec<&Member>],
        gradients: &BTreeMap<ValueId, ValueId>,
    ) -> Written<Outputs> {
        let mut w = Writer::new(graph);
        let mut outputs = Vec::new();
        let mut along: BTreeMap<(ValueId, usize), ValueId> = BTreeMap::new();
        for (number, members) in counted.iter().enumerate() {
            let mut parts = Vec::new();
            for member in members {
                let Some(&gradient) = gradients.get(&member.value) else { continue };
                let key = (member.value, member.axis);
                let sums = match along.get(&key) {
                    Some(&known) => known,
                    None => {
                        let terms = match self.criterion {
                            Criterion::Sensitivity => w.op("Abs", &[gradient])?,
                            _ => w.mul(member.value, gradient)?,
                        };
                        let sums = all_but(&mut w, terms, member.axis)?;
                        *along.entry(key).or_insert(sums)
                    }
                };
                parts.push(by_unit(&mut w, sums, member)?);
            }
            if parts.is_empty() {
                continue;
            }
            let total = w.total(&parts)?;
            let score = match self.criterion {
                Criterion::Sensitivity => total,
                _ if self.recovers || groups.groups[number].len() > MOST_JOINT => w.square(total)?,
                _ => {
                    let column = w.reshape_to(total, &[Size::Fixed(-1), Size::Fixed(1)])?;
                    w.mul(column, total)?
                }
            };
            outputs.push((number.to_string(), score));
        }
        Ok(outputs)
    }
}

/// The logits that an output is the softmax of, or itself; and the axis of its classes, if they are any.
fn logits(graph: &Graph, output: ValueId) -> (ValueId, Option<i64>) {
    let softmax = graph
        .producer(output)
        .map(|(_, node, _)| node)
        .filter(|node| node.is("Softmax") || node.is("LogSoftmax"));
    if let Some((x, node)) = softmax.and_then(|node| Some((node.input(0)?, node))) {
        return (x, node.int("axis"));
    }
    let Some(shape) = graph.shape(output).filter(|shape| shape.len() > 1) else { return (output, None) };
    let axis = if shape.len() == 4 { 1 } else { shape.len() - 1 };
    // One number is no choice between classes.
    (output, (shape[axis].as_fixed() != Some(1)).then_some(axis as i64))
}

/// e_c − softmax(y) with a class c that is drawn by the softmax: the largest of y + Gumbel noise.
fn drawn_class(w: &mut Writer<'_>, y: ValueId, noise: ValueId, axis: i64) -> Written {
    let (low, high) = (w.number(noise, 1e-6)?, w.number(noise, 1.0 - 1e-6)?);
    let inner = w.op("Clip", &[noise, low, high])?;
    let logarithm = w.op("Log", &[inner])?;
    let positive = w.neg(logarithm)?;
    let gumbel = w.op("Log", &[positive])?;
    let perturbed = w.sub(y, gumbel)?;
    let axes = w.integers(&[axis]);
    let largest = w.op("ReduceMax", &[perturbed, axes])?;
    let equal = w.op("Equal", &[perturbed, largest])?;
    let drawn = w.op("CastLike", &[equal, y])?;
    let expected = w.op_with("Softmax", &[y], "axis", axis)?;
    w.sub(drawn, expected)
}

/// The members that count. For the sensitivity of single elements vectors beside weights do not. What the outputs lose
/// with a unit is what is taken of it, Σ w·∂y/∂w of the weights that take it: those that make it would tell the same once
/// more, but for biases that are only partly its own. Where nothing takes it, as the queries of attention, what makes it
/// counts, without what divides.
fn counted<'g>(graph: &Graph, group: &'g Group, criterion: Criterion) -> Vec<&'g Member> {
    let large = |member: &&Member| graph.constant(member.value).is_some_and(|tensor| is_weight(tensor));
    if criterion == Criterion::Sensitivity {
        return group.weights.iter().filter(large).collect();
    }
    let taking: Vec<&Member> = group.weights.iter().filter(|member| takes(graph, member)).collect();
    if !taking.is_empty() {
        return taking;
    }
    group.weights.iter().filter(|member| !scales(graph, member.place)).collect()
}

/// Whether the axis of a weight is the one that runs along what it is multiplied with.
fn takes(graph: &Graph, member: &Member) -> bool {
    let rank = graph.constant(member.value).map_or(0, |tensor| tensor.shape().len());
    graph.consumers(member.value).any(|consumer| {
        let Some(node) = graph.get_node(consumer.node) else { return false };
        let axis = match (node.op_type(), consumer.slot) {
            ("Conv", Slot::Input(1)) => 1,
            ("ConvTranspose", Slot::Input(1)) => 0,
            ("Gemm", Slot::Input(1)) => usize::from(node.int("transB") == Some(1)),
            ("MatMul", Slot::Input(1)) if rank > 1 => rank - 2,
            ("GRU" | "LSTM" | "RNN", Slot::Input(1 | 2)) => 2,
            _ => return false,
        };
        axis == member.axis
    })
}

/// The sums over all axes but one.
fn all_but(w: &mut Writer<'_>, x: ValueId, axis: usize) -> Written {
    let others: Vec<usize> = (0..w.rank(x)?).filter(|&other| other != axis).collect();
    w.sum(x, &others, false)
}

/// From a number for each index along an axis one for each unit.
fn by_unit(w: &mut Writer<'_>, sums: ValueId, member: &Member) -> Written {
    let indices: Vec<i64> = member.indices.iter().map(|&index| i64::from(index)).collect();
    let indices = w.integers(&indices);
    let picked = w.op_with("Gather", &[sums, indices], "axis", 0i64)?;
    let block = member.block as i64;
    if block == 1 {
        return Ok(picked);
    }
    let rows = w.reshape_to(picked, &[Size::Fixed(-1), Size::Fixed(block)])?;
    w.sum(rows, &[1], false)
}

/// Σ|a| of what weights take, for each unit.
fn activations(graph: &mut Graph, groups: &Groups) -> Written<Outputs> {
    let mut w = Writer::new(graph);
    let mut outputs = Vec::new();
    for (number, group) in groups.groups.iter().enumerate() {
        let float = |member: &&Member| w.graph.element(member.value).is_some_and(ElementType::is_float);
        let weighed = |member: &&Member| {
            w.graph.consumers(member.value).filter_map(|consumer| w.graph.get_node(consumer.node)).any(
                |node| {
                    let operands = || node.operands().filter_map(|operand| w.graph.constant(operand));
                    operands().any(|tensor| is_weight(tensor))
                },
            )
        };
        let all: Vec<&Member> = group.activations.iter().filter(float).collect();
        let taken: Vec<&Member> = all.iter().copied().filter(|member| weighed(member)).collect();
        let mut parts = Vec::new();
        for member in if taken.is_empty() { all } else { taken } {
            let size = w.op("Abs", &[member.value])?;
            let sums = all_but(&mut w, size, member.axis)?;
            let sums = by_unit(&mut w, sums, member)?;
            // The elements of a channel, so that large planes weigh no more than small ones.
            let (whole, units) = (w.op("Size", &[member.value])?, w.op("Size", &[sums])?);
            let each = w.div(whole, units)?;
            let each = w.op("CastLike", &[each, sums])?;
            parts.push(w.div(sums, each)?);
        }
        if !parts.is_empty() {
            outputs.push((number.to_string(), w.total(&parts)?));
        }
    }
    Ok(outputs)
}
