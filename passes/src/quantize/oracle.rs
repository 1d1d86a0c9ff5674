//! What onnxruntime makes of a quantized model on the CPU: which nodes it will run on integers, and why not the others.
//!
//! It looks at each operator with the `DequantizeLinear` nodes before it and the `QuantizeLinear` nodes behind it, and
//! takes the whole for one operator on integers where number, types and scales are as its selectors say. Before, it
//! drops activations that a quantizer makes superfluous, and lets pairs of both walk through operators that only move
//! elements. This holds for version 1.32, on x86; `scripts/oracle.py` holds the prediction against what it does.

use std::collections::BTreeMap;

use onnx_opt_ir::{ElementType, Graph, NewNode, Node, NodeId, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::Serialize;

use super::Grid;
use crate::rewrite::place;
use crate::rules::clip::limits_of;

/// What becomes of one node that stands between integers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Predicted {
    /// Name of the node, or of its first result.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// The operator on integers that it becomes; its own where it runs on integers as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Why it runs on floats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What onnxruntime makes of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Prediction {
    /// Operators on integers, by name; those that run as they are have the name that they had.
    pub kernels: BTreeMap<String, usize>,
    /// `QuantizeLinear` nodes that are left.
    pub quantize: usize,
    /// `DequantizeLinear` nodes of computed values that are left.
    pub dequantize: usize,
    /// Nodes between integers, in the order of the graph.
    pub nodes: Vec<Predicted>,
}

impl Prediction {
    /// Nodes that run on floats between integers.
    pub fn floats(&self) -> impl Iterator<Item = &Predicted> {
        self.nodes.iter().filter(|node| node.kernel.is_none())
    }
}

/// Predicts what onnxruntime makes of the main graph of a model.
pub fn predict(graph: &Graph) -> Prediction {
    let mut graph = graph.clone();
    drop_activations(&mut graph);
    carry_forward(&mut graph);
    carry_back(&mut graph);
    let judge = Judge { graph: &graph };
    let mut prediction = Prediction::default();
    let mut within: FxHashSet<NodeId> = FxHashSet::default();
    // Consumers that take the integers of a DequantizeLinear.
    let mut served: FxHashMap<NodeId, FxHashSet<NodeId>> = FxHashMap::default();
    for id in graph.topological_order().unwrap_or_default() {
        let node = graph.node(id);
        if is_quantizer(node) || is_dequantizer(node) {
            continue;
        }
        let site = judge.site(id);
        if site.before.is_empty() && site.after.is_empty()
            || site.before.iter().all(|&(_, dq)| judge.is_weight(dq)) && site.after.is_empty()
        {
            continue;
        }
        let kernel = judge.kernel(node, &site);
        if let Ok(kernel) = &kernel {
            *prediction.kernels.entry(kernel.clone()).or_default() += 1;
            within.extend(&site.after);
            for &(_, dequantize) in &site.before {
                served.entry(dequantize).or_default().insert(id);
            }
        }
        let (kernel, reason) = match kernel {
            Ok(kernel) => (Some(kernel), None),
            Err(reason) => (None, Some(reason)),
        };
        let (node, operator) = (place(&graph, node), node.op_type().to_owned());
        prediction.nodes.push(Predicted { node, operator, kernel, reason });
    }
    for (id, node) in graph.nodes() {
        if is_quantizer(node) && !within.contains(&id) {
            prediction.quantize += 1;
        }
        if is_dequantizer(node) && !judge.is_weight(id) {
            let none = FxHashSet::default();
            let served = served.get(&id).unwrap_or(&none);
            let Some(value) = node.output(0) else { continue };
            // Each user gets one of its own.
            let left = graph.consumers(value).filter(|consumer| !served.contains(&consumer.node)).count();
            prediction.dequantize += left + usize::from(graph.is_output(value));
        }
    }
    prediction
}

fn is_quantizer(node: &Node) -> bool {
    node.op_type() == "QuantizeLinear" && ["", "com.microsoft"].contains(&node.domain())
}

fn is_dequantizer(node: &Node) -> bool {
    node.op_type() == "DequantizeLinear" && ["", "com.microsoft"].contains(&node.domain())
}

/// The grid of a quantizer or dequantizer, if it has one constant scale.
fn grid(graph: &Graph, node: &Node) -> Option<Grid> {
    let scale = graph.constant(node.input(1)?)?;
    let zero = graph.constant(node.input(2)?)?;
    (scale.rank() == 0 && zero.rank() == 0).then_some(())?;
    let scale = *scale.to_f32()?.first()?;
    Some(Grid { element: zero.element(), scale, zero: zero.single_i64()? })
}

/// The only use of a value, if it is one.
pub(super) fn only_consumer(graph: &Graph, value: ValueId) -> Option<NodeId> {
    let mut consumers = graph.consumers(value);
    match (consumers.next(), consumers.next()) {
        (Some(only), None) if !graph.is_output(value) => Some(only.node),
        _ => None,
    }
}

/// Takes away activations before quantizers that end where the activations do.
fn drop_activations(graph: &mut Graph) {
    for id in quantizers(graph) {
        let quantizer = graph.node(id);
        let (Some(limited), Some(grid)) = (quantizer.input(0), grid(graph, quantizer)) else { continue };
        let Some((activation_id, activation, _)) = graph.producer(limited) else { continue };
        let is_activation = activation.is("Relu") || activation.is("Clip");
        let Some(limits) = limits_of(graph, activation).filter(|_| is_activation) else { continue };
        let fits = if activation.is("Relu") {
            grid.zero == super::grid::limits(grid.element, false).0
        } else {
            grid.ends_within(limits.low, limits.high)
        };
        let Some(x) = activation.input(0).filter(|_| fits) else { continue };
        if only_consumer(graph, limited) == Some(id) && graph.set_input(id, 0, Some(x)).is_ok() {
            graph.remove_dead([activation_id], |_, _| {});
        }
    }
}

fn quantizers(graph: &Graph) -> Vec<NodeId> {
    graph.nodes().filter(|(_, node)| is_quantizer(node)).map(|(id, _)| id).collect()
}

/// Operators that pairs walk through.
const WALKED: &[&str] = &["MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"];

fn is_walked(node: &Node) -> bool {
    WALKED.iter().any(|op_type| node.is(op_type))
}

/// Where a dequantizer is followed by an operator that moves elements, a pair comes to stand behind that.
fn carry_forward(graph: &mut Graph) {
    let mut work: Vec<NodeId> =
        graph.nodes().filter(|(_, node)| is_dequantizer(node)).map(|(id, _)| id).collect();
    while let Some(id) = work.pop() {
        let node = graph.node(id);
        let (Some(result), Some(_)) = (node.output(0), grid(graph, node)) else { continue };
        let Some(next) =
            only_consumer(graph, result).map(|next| graph.node(next)).filter(|next| is_walked(next))
        else {
            continue;
        };
        let Some(moved) = next.single_output().filter(|_| next.input(0) == Some(result)) else { continue };
        let floats = graph.consumers(moved).any(|consumer| !is_quantizer(graph.node(consumer.node)));
        if (floats || graph.is_output(moved))
            && !graph.consumers(moved).any(|consumer| is_quantizer(graph.node(consumer.node)))
        {
            let parameters: Vec<ValueId> = node.inputs()[1..].iter().flatten().copied().collect();
            work.extend(pair_behind(graph, moved, &parameters).map(|pair| pair.dequantizer));
        }
    }
}

/// Where a quantizer follows an operator that moves elements, a pair comes to stand before that.
fn carry_back(graph: &mut Graph) {
    let mut work = quantizers(graph);
    while let Some(id) = work.pop() {
        let node = graph.node(id);
        let (Some(moved), Some(_)) = (node.input(0), grid(graph, node)) else { continue };
        let Some((_, mover, _)) = graph.producer(moved).filter(|(_, mover, _)| is_walked(mover)) else {
            continue;
        };
        let Some(x) = mover.input(0).filter(|_| only_consumer(graph, moved) == Some(id)) else { continue };
        let from = graph.producer(x);
        let alone = match from {
            Some((_, from, _)) => only_consumer(graph, x).is_some() && !is_dequantizer(from),
            None => graph.constant(x).is_none(),
        };
        if alone {
            let parameters: Vec<ValueId> = node.inputs()[1..].iter().flatten().copied().collect();
            let mover = graph.producer(moved).map(|(id, ..)| id);
            let pair = match (from.is_some(), mover) {
                (true, _) => pair_behind(graph, x, &parameters),
                (false, Some(mover)) => pair_before(graph, x, &parameters, mover),
                _ => None,
            };
            work.extend(pair.map(|pair| pair.quantizer));
        }
    }
}

/// A quantizer and a dequantizer in a row.
struct Pair {
    quantizer: NodeId,
    dequantizer: NodeId,
    /// What the dequantizer gives.
    floats: ValueId,
}

/// Adds a quantizer of a value and a dequantizer behind it.
fn pair(graph: &mut Graph, value: ValueId, parameters: &[ValueId]) -> Option<Pair> {
    let with = |value| [value].into_iter().chain(parameters.iter().copied());
    let quantizer = graph.add_node(NewNode::new("QuantizeLinear", with(value))).ok()?;
    let integers = graph.node(quantizer).output(0)?;
    let dequantizer = graph.add_node(NewNode::new("DequantizeLinear", with(integers))).ok()?;
    Some(Pair { quantizer, dequantizer, floats: graph.node(dequantizer).output(0)? })
}

/// Puts a pair between a value and all that uses it.
fn pair_behind(graph: &mut Graph, value: ValueId, parameters: &[ValueId]) -> Option<Pair> {
    let pair = pair(graph, value, parameters)?;
    graph.replace_all_uses(value, pair.floats).ok()?;
    graph.set_input(pair.quantizer, 0, Some(value)).ok()?;
    Some(pair)
}

/// Puts a pair before the first operand of one node.
fn pair_before(graph: &mut Graph, value: ValueId, parameters: &[ValueId], node: NodeId) -> Option<Pair> {
    let pair = pair(graph, value, parameters)?;
    graph.set_input(node, 0, Some(pair.floats)).ok()?;
    Some(pair)
}

/// So far the scale of a bias may be off.
const BIAS_TOLERANCE: f32 = 0.0125;

/// A node, the dequantizers before it by slot, and the quantizers behind it.
struct Site {
    before: Vec<(usize, NodeId)>,
    after: Vec<NodeId>,
    /// Uses of its results, as outputs of the graph too.
    uses: usize,
    /// Operands that are there.
    operands: usize,
}

struct Judge<'g> {
    graph: &'g Graph,
}

type Verdict = Result<String, String>;

fn ensure(condition: bool, reason: &str) -> Result<(), String> {
    if condition { Ok(()) } else { Err(reason.to_owned()) }
}

impl Judge<'_> {
    fn site(&self, id: NodeId) -> Site {
        let (graph, node) = (self.graph, self.graph.node(id));
        let before = node.inputs().iter().enumerate().filter_map(|(slot, value)| {
            let (id, producer, _) = graph.producer((*value)?)?;
            is_dequantizer(producer).then_some((slot, id))
        });
        let consumers = || node.outputs().iter().flatten().flat_map(|&value| graph.consumers(value));
        Site {
            before: before.collect(),
            after: consumers().map(|use_| use_.node).filter(|&id| is_quantizer(graph.node(id))).collect(),
            uses: node.outputs().iter().flatten().map(|&value| graph.use_count(value)).sum(),
            operands: node.inputs().iter().flatten().count(),
        }
    }

    /// Whether a dequantizer holds constants, which are floats when the model runs unless its user takes the integers.
    fn is_weight(&self, dequantizer: NodeId) -> bool {
        self.graph.node(dequantizer).input(0).is_some_and(|value| self.graph.constant(value).is_some())
    }

    /// Type of the integers of a dequantizer. A pair of signed integers that nothing else uses is made unsigned.
    fn element_before(&self, dequantizer: NodeId) -> Option<ElementType> {
        let node = self.graph.node(dequantizer);
        let element = self.graph.element(node.input(0)?)?;
        let quantizer = self.graph.producer(node.input(0)?);
        match quantizer {
            Some((id, quantizer, _)) if is_quantizer(quantizer) => self.element_after(id),
            _ => Some(element),
        }
    }

    /// Type of the integers of a quantizer.
    fn element_after(&self, quantizer: NodeId) -> Option<ElementType> {
        let integers = self.graph.node(quantizer).output(0)?;
        let element = self.graph.element(integers)?;
        let alone = only_consumer(self.graph, integers).is_some_and(|next| {
            let next = self.graph.node(next);
            let result = next.output(0);
            is_dequantizer(next) && result.is_some_and(|result| self.graph.use_count(result) == 1)
        });
        Some(if element == ElementType::Int8 && alone { ElementType::Uint8 } else { element })
    }

    /// The operator on integers that a node becomes, or why it stays.
    fn kernel(&self, node: &Node, site: &Site) -> Verdict {
        if !node.domain().is_empty() || node.operator().is_none() {
            return Err("it has no kernel for integers".to_owned());
        }
        let linear = || Ok(format!("QLinear{}", node.op_type()));
        match node.op_type() {
            "Conv" => {
                let element = self.product(node, site, 0)?;
                self.behind(site, element)?;
                linear()
            }
            "MatMul" => {
                ensure(site.before.len() == 2, "not both operands are integers")?;
                let element = self.product(node, site, 1)?;
                if site.after.is_empty() {
                    return Ok("MatMulIntegerToFloat".to_owned());
                }
                self.behind(site, element)?;
                linear()
            }
            "Gemm" => {
                let element = self.product(node, site, usize::from(node.int("transB") != Some(1)))?;
                ensure(
                    site.before.len() == site.operands || !site.after.is_empty(),
                    "its bias is floats, and no quantizer follows",
                )?;
                ensure(site.operands < 3 || node.float("beta") == Some(1.0), "its bias has a factor")?;
                if !site.after.is_empty() {
                    self.behind(site, element)?;
                }
                Ok("QGemm".to_owned())
            }
            "Add" | "Mul" | "Concat" | "Where" => {
                let condition = usize::from(node.is("Where"));
                ensure(site.before.len() + condition == site.operands, "not all operands are integers")?;
                let element = self.same_elements(site)?;
                self.behind(site, element)?;
                linear()
            }
            "AveragePool" | "GlobalAveragePool" | "LeakyRelu" | "Sigmoid" | "Softmax" => {
                ensure(!site.before.is_empty(), "its operand is floats")?;
                let element = self.same_elements(site)?;
                self.behind(site, element)?;
                linear()
            }
            "DepthToSpace" | "MaxPool" | "ReduceMax" | "ReduceMin" | "Resize" | "Expand" | "Flatten"
            | "Gather" | "GatherElements" | "Reshape" | "Slice" | "Squeeze" | "Tile" | "Transpose"
            | "Unsqueeze" | "Split" => {
                self.moves(node, site)?;
                Ok(node.op_type().to_owned())
            }
            _ => Err("it has no kernel for integers".to_owned()),
        }
    }

    /// What a product demands of its operand and weights; the type of the operand.
    fn product(&self, node: &Node, site: &Site, channels: usize) -> Result<ElementType, String> {
        let at = |slot: usize| site.before.iter().find(|(place, _)| *place == slot).map(|&(_, id)| id);
        let operand = at(0).ok_or("its operand is floats")?;
        let element = self.element_before(operand).ok_or("a type is not known")?;
        let narrow = [ElementType::Uint8, ElementType::Int8];
        ensure(narrow.contains(&element), "its integers are not of 8 bits")?;
        let scale =
            grid(self.graph, self.graph.node(operand)).ok_or("its operand has no single scale")?.scale;
        let Some(weights) = at(1) else {
            // Such weights it quantizes itself, by one scale, between integers.
            let takes = node.is("Conv") || node.is("Gemm");
            let constant = node.input(1).is_some_and(|value| self.graph.constant(value).is_some());
            ensure(takes && constant && !site.after.is_empty() && at(2).is_none(), "its weights are floats")?;
            ensure(element != ElementType::Int8, "its operand is signed")?;
            return Ok(element);
        };
        let weight = self.element_before(weights).ok_or("a type is not known")?;
        ensure(narrow.contains(&weight), "its integers are not of 8 bits")?;
        let is_gemm = node.is("Gemm");
        ensure(element != ElementType::Int8 || is_gemm && weight == element, "its operand is signed")?;
        let dequantize = self.graph.node(weights);
        let own = |node: &Node| node.input(1).and_then(|scale| self.graph.constant(scale)?.to_f32());
        let scales = own(dequantize).ok_or("a scale is not constant")?;
        if scales.len() > 1 {
            let rank = dequantize.input(0).and_then(|value| self.graph.rank(value)).unwrap_or(0) as i64;
            let axis = dequantize.int("axis").map(|axis| if axis < 0 { axis + rank } else { axis });
            ensure(axis == Some(channels as i64), "the scales of its weights lie along another axis")?;
        }
        if let Some(bias) = at(2).map(|bias| self.graph.node(bias)) {
            let element = bias.input(0).and_then(|value| self.graph.element(value));
            ensure(element == Some(ElementType::Int32), "its bias is not of 32 bits")?;
            let terms = own(bias).ok_or("a scale is not constant")?;
            let count = terms.len().max(scales.len());
            let fits = (0..count).all(|channel| {
                let product = scale * scales[channel % scales.len()];
                (terms[channel % terms.len()] - product).abs() <= BIAS_TOLERANCE * product
            });
            // Of a Gemm it takes the integers of the bias whatever their scale.
            ensure(
                fits || is_gemm,
                "the scale of its bias is not that of its operand times that of its weights",
            )?;
        }
        Ok(element)
    }

    fn same_elements(&self, site: &Site) -> Result<ElementType, String> {
        let mut elements = site.before.iter().map(|&(_, id)| self.element_before(id));
        let first = elements.next().flatten().ok_or("a type is not known")?;
        ensure(elements.all(|element| element == Some(first)), "the types of its operands differ")?;
        let narrow = [ElementType::Uint8, ElementType::Int8];
        ensure(narrow.contains(&first), "its integers are not of 8 bits")?;
        Ok(first)
    }

    /// One quantizer, of this type, must take the only result, and nothing else may.
    fn behind(&self, site: &Site, element: ElementType) -> Result<(), String> {
        ensure(!site.after.is_empty(), "no quantizer takes its result")?;
        ensure(site.after.len() == 1 && site.uses == 1, "its result has other users than a quantizer")?;
        let after = site.after.first().and_then(|&id| self.element_after(id));
        ensure(after == Some(element), "operand and result are of other types")
    }

    /// What an operator demands that runs on integers as it is: the same grid before and behind.
    fn moves(&self, node: &Node, site: &Site) -> Result<(), String> {
        let &[(0, before)] = &site.before[..] else { return Err("its operand is floats".to_owned()) };
        let results = node.outputs().iter().flatten().count();
        ensure(!site.after.is_empty(), "no quantizer takes its result")?;
        ensure(
            site.after.len() == results && site.uses == results,
            "its result has other users than a quantizer",
        )?;
        let own = grid(self.graph, self.graph.node(before)).ok_or("its operand has no single scale")?;
        for &after in &site.after {
            let grid = grid(self.graph, self.graph.node(after)).ok_or("its result has no single scale")?;
            let same = own.scale.to_bits() == grid.scale.to_bits()
                && own.zero == grid.zero
                && own.element == grid.element;
            ensure(same, "the scales of operand and result differ")?;
        }
        let nearest = !node.is("Resize") || node.string("mode").is_none_or(|mode| mode == "nearest");
        ensure(nearest, "it computes values between its own")?;
        if node.is("MaxPool") || node.is("Resize") {
            ensure(own.element.bits() == 8, "its integers are not of 8 bits")?;
        }
        Ok(())
    }
}
