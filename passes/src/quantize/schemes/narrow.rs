//! A graph that computes with 16-bit floats where that is safe, and keeps its inputs and outputs.

use std::sync::Arc;

use onnx_opt_ir::schema::TypeKind;
use onnx_opt_ir::{ElementType, Graph, GraphError, NewNode, Node, NodeId, Tensor, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

use super::super::{QuantizeError, QuantizeOptions};
use super::error::SquaredError;
use crate::rewrite::place;

/// Operators that neither leave the range of half precision where their operands are within nor lose what the model
/// needs: those that move, choose or scale, products, which runtimes sum up with single precision, and normalizations,
/// which they compute with it.
const SAFE: &[&str] = &[
    "Abs",
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "Div",
    "Dropout",
    "Elu",
    "Erf",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "InstanceNormalization",
    "LayerNormalization",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Mish",
    "Mul",
    "Neg",
    "PRelu",
    "Pad",
    "Relu",
    "Reshape",
    "Selu",
    "Shape",
    "Sigmoid",
    "Size",
    "Slice",
    "Softmax",
    "Softsign",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Sub",
    "Swish",
    "Tanh",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// What was done to a graph.
#[derive(Default)]
pub(super) struct Narrowed {
    /// Nodes that compute with 16 bits now: name, operator, error of their constants.
    pub nodes: Vec<(String, String, SquaredError)>,
    /// Nodes that do not though they compute with floats, with the reason.
    pub kept: Vec<(String, String, String)>,
    /// Constants that became narrower, and their bytes before and after.
    pub weights: usize,
    pub bytes: [u64; 2],
    pub error: SquaredError,
}

/// Lets the nodes of a graph compute with a type of 16 bits, those that may. Around others there is a `Cast`.
pub(super) fn narrow(
    graph: &mut Graph,
    element: ElementType,
    options: &QuantizeOptions,
) -> Result<Narrowed, QuantizeError> {
    let mut writer = Writer { graph, element, narrow: FxHashMap::default(), large: FxHashSet::default() };
    let mut made = Narrowed::default();
    let order = writer.graph.topological_order().unwrap_or_default();
    let mut stale = Vec::new();
    for id in order {
        let node = writer.graph.node(id);
        let floats = |value: &ValueId| writer.graph.element(*value) == Some(ElementType::Float);
        if !node.operands().chain(node.outputs().iter().flatten().copied()).any(|value| floats(&value)) {
            continue;
        }
        let (name, operator) = (place(writer.graph, node), node.op_type().to_owned());
        let refusal = match options.refusal(node, &name) {
            Some(reason) => Some(reason.to_owned()),
            None => writer.refusal(node),
        };
        if let Some(reason) = refusal {
            if writer.has_large_constant(node) {
                writer.large.extend(node.outputs().iter().flatten().copied());
            }
            made.kept.push((name, operator, reason));
            continue;
        }
        let error = writer.rewrite(id, &mut made)?;
        made.error += error;
        made.nodes.push((name, operator, error));
        stale.push(id);
    }
    writer.widen()?;
    let graph = writer.graph;
    graph.remove_dead(stale.into_iter().rev(), |_, _| {});
    Ok(made)
}

struct Writer<'g> {
    graph: &'g mut Graph,
    element: ElementType,
    /// Values of 16 bits by the values of 32 that they stand for.
    narrow: FxHashMap<ValueId, ValueId>,
    /// Values that may be past the largest number of 16 bits.
    large: FxHashSet<ValueId>,
}

impl Writer<'_> {
    /// Why a node keeps its floats.
    fn refusal(&self, node: &Node) -> Option<String> {
        let Some(operator) = node.operator().filter(|_| node.domain().is_empty()) else {
            return Some("it is no standard operator".to_owned());
        };
        if node.bodies().next().is_some() {
            return Some("it has bodies".to_owned());
        }
        if !SAFE.contains(&node.op_type()) {
            return Some("it is not known to be safe with 16 bits".to_owned());
        }
        if node.is("Div") && node.input(1).is_none_or(|divisor| self.graph.constant(divisor).is_none()) {
            return Some("it divides by what may be too small for 16 bits".to_owned());
        }
        let narrow = TypeKind::Tensor(self.element);
        for (index, value) in node.outputs().iter().enumerate() {
            let Some(value) = value else { continue };
            let allowed = operator.output(index).is_some_and(|parameter| parameter.allows(narrow));
            match self.graph.element(*value) {
                Some(ElementType::Float) if !allowed => {
                    return Some("its result cannot have 16 bits".to_owned());
                }
                None => return Some("the type of its result is not known".to_owned()),
                _ => {}
            }
            // Statistics of normalizations are of single precision whatever is normalized.
            if index > 0 && node.is("LayerNormalization") {
                return Some("it gives statistics".to_owned());
            }
            if self.graph.is_pinned(*value) {
                return Some("its result has an annotation".to_owned());
            }
        }
        let operands = self.converted(node);
        if operands.is_empty() {
            return Some("it takes no floats that can have 16 bits".to_owned());
        }
        if node.operands().all(|value| self.graph.constant(value).is_some()) {
            return Some("it is constant".to_owned());
        }
        operands.into_iter().find_map(|(_, value)| {
            let tensor = self.graph.constant(value)?;
            self.unfit(tensor)
        })
    }

    /// The operands that have 16 bits if the node computes with them, by place.
    fn converted(&self, node: &Node) -> Vec<(usize, ValueId)> {
        let narrow = TypeKind::Tensor(self.element);
        let allowed = |index: usize| {
            node.operator().and_then(|operator| operator.input(index)).is_some_and(|p| p.allows(narrow))
        };
        let operands = node.inputs().iter().enumerate().filter_map(|(index, value)| Some((index, (*value)?)));
        let float = |value: ValueId| self.graph.element(value) == Some(ElementType::Float);
        operands.filter(|&(index, value)| float(value) && allowed(index)).collect()
    }

    /// Why a constant cannot have 16 bits: a number is past the largest, or the only one vanishes.
    fn unfit(&self, tensor: &Tensor) -> Option<String> {
        let values = tensor.to_f32()?;
        let largest = self.largest();
        if values.iter().any(|value| value.is_finite() && value.abs() > largest) {
            return Some(format!("a constant is past {largest}, the largest number of 16 bits"));
        }
        let smallest = if self.element == ElementType::Float16 { 6.103_515_6e-5 } else { f32::MIN_POSITIVE };
        let vanishes = values.len() == 1 && values[0] != 0.0 && values[0].abs() < smallest;
        vanishes.then(|| "a constant is too small for 16 bits".to_owned())
    }

    fn has_large_constant(&self, node: &Node) -> bool {
        let largest = self.largest();
        let constants = node.operands().filter_map(|value| self.graph.constant(value)?.to_f32());
        constants.flatten().any(|value| value.abs() > largest)
    }

    fn largest(&self) -> f32 {
        if self.element == ElementType::Float16 { 65504.0 } else { 3.389_531_4e38 }
    }

    /// Puts a node that computes with 16 bits beside the one there is.
    fn rewrite(&mut self, id: NodeId, made: &mut Narrowed) -> Result<SquaredError, QuantizeError> {
        let node = self.graph.node(id).clone();
        let mut error = SquaredError::default();
        let mut inputs = node.inputs().to_vec();
        for (index, value) in self.converted(&node) {
            inputs[index] = Some(match self.graph.constant(value).cloned() {
                Some(tensor) => self.constant(value, &tensor, made, &mut error)?,
                None => self.narrowed(value, node.position())?,
            });
        }
        let new = NewNode {
            op_type: node.op_type().to_owned(),
            name: node.name().map(Into::into),
            inputs,
            outputs: node.outputs().len(),
            attributes: node.attributes().clone(),
            position: node.position(),
            ..NewNode::default()
        };
        let new = self.graph.add_node(new)?;
        let results: Vec<(ValueId, ValueId)> = node
            .outputs()
            .iter()
            .zip(self.graph.node(new).outputs())
            .filter_map(|(old, new)| Some(((*old)?, (*new)?)))
            .collect();
        for (old, new) in results {
            if self.graph.element(old) == Some(ElementType::Float) {
                self.narrow.insert(old, new);
            } else {
                self.graph.replace_all_uses(old, new)?;
            }
        }
        Ok(error)
    }

    fn constant(
        &mut self,
        value: ValueId,
        tensor: &Arc<Tensor>,
        made: &mut Narrowed,
        error: &mut SquaredError,
    ) -> Result<ValueId, QuantizeError> {
        let Some((narrow, own)) = rounded(tensor, self.element) else {
            return Err(GraphError::NotConstant(self.graph.display_name(value)).into());
        };
        *error += own;
        if let Some(&known) = self.narrow.get(&value) {
            return Ok(known);
        }
        made.weights += 1;
        made.bytes[0] += tensor.byte_len() as u64;
        made.bytes[1] += narrow.byte_len() as u64;
        let new = self.graph.add_constant(narrow);
        self.narrow.insert(value, new);
        Ok(new)
    }

    /// The 16 bits of a value that is no constant.
    fn narrowed(&mut self, value: ValueId, position: u32) -> Result<ValueId, QuantizeError> {
        if let Some(&known) = self.narrow.get(&value) {
            return Ok(known);
        }
        let mut from = value;
        if self.large.contains(&value) && self.graph.opset() >= 11 {
            // A mask of large numbers stays one, and does not become infinite.
            let limits = [-self.largest(), self.largest()].map(|limit| {
                Tensor::scalar(ElementType::Float, limit.into()).map(|tensor| self.graph.add_constant(tensor))
            });
            if let [Some(low), Some(high)] = limits {
                from = self.node(NewNode { position, ..NewNode::new("Clip", [value, low, high]) })?;
            }
        }
        let to = i64::from(self.element.code());
        let new = self.node(NewNode { position, ..NewNode::new("Cast", [from]).with("to", to) })?;
        self.narrow.insert(value, new);
        Ok(new)
    }

    /// Gives what still takes values of 32 bits these values.
    fn widen(&mut self) -> Result<(), QuantizeError> {
        let mut pairs: Vec<(ValueId, ValueId)> = self.narrow.iter().map(|(&old, &new)| (old, new)).collect();
        pairs.sort_unstable();
        let replaced: FxHashSet<NodeId> = pairs
            .iter()
            .filter_map(|&(old, new)| {
                let (id, _, _) = self.graph.producer(old)?;
                // A value that was merely cast is still computed with 32 bits.
                let cast = self.graph.producer_of(new, "Cast").is_some_and(|(_, cast)| {
                    let from = cast.input(0);
                    from == Some(old) || from.and_then(|from| self.graph.producer_of(from, "Clip")).is_some()
                });
                (!cast).then_some(id)
            })
            .collect();
        for (old, new) in pairs {
            let Some((producer, node, _)) = self.graph.producer(old) else { continue };
            if !replaced.contains(&producer) {
                continue;
            }
            let position = node.position();
            let wanted = self.graph.is_output(old)
                || self.graph.consumers(old).any(|user| !replaced.contains(&user.node));
            if wanted {
                let to = i64::from(ElementType::Float.code());
                let wide = self.node(NewNode { position, ..NewNode::new("Cast", [new]).with("to", to) })?;
                self.graph.replace_all_uses(old, wide)?;
            }
        }
        Ok(())
    }

    fn node(&mut self, new: NewNode) -> Result<ValueId, QuantizeError> {
        let id = self.graph.add_node(new)?;
        Ok(self.graph.node(id).output(0).ok_or(GraphError::NoSuchNode(id))?)
    }
}

/// A tensor of single precision as one of 16 bits.
pub(super) fn rounded(tensor: &Tensor, element: ElementType) -> Option<(Tensor, SquaredError)> {
    let values: Vec<f64> = tensor.to_f32()?.into_iter().map(f64::from).collect();
    let narrow = Tensor::from_f64(element, tensor.shape(), &values)?;
    let mut error = SquaredError::default();
    for (value, rounded) in values.iter().zip(narrow.to_f32()?) {
        if value.is_finite() {
            error.add(*value as f32, rounded);
        }
    }
    Some((narrow, error))
}
