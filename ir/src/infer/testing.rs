//! One node on given operands, for tests of rules.

use crate::attributes::AttributeValue;
use crate::dim::Dim;
use crate::graph::{Context, Graph, GraphError, NewNode, NodeId};
use crate::infer::Fact;
use crate::tensor::Tensor;
use crate::types::{ElementType, Type};

/// An operand: what is known of an input of the graph, a constant, or nothing at all.
pub(super) enum Operand {
    Input(Fact),
    Constant(Tensor),
    Absent,
}

impl From<Type> for Operand {
    fn from(ty: Type) -> Self {
        Self::Input(ty.into())
    }
}

impl From<(Type, Option<Vec<Dim>>)> for Operand {
    fn from((ty, elements): (Type, Option<Vec<Dim>>)) -> Self {
        Self::Input(Fact::from(ty).with_elements(elements))
    }
}

/// Numbers and names of symbols, separated by spaces.
pub(super) fn dims(text: &str) -> Vec<Dim> {
    text.split_whitespace().map(|word| word.parse().map_or_else(|_| Dim::symbol(word), Dim::fixed)).collect()
}

/// A tensor of this shape.
pub(super) fn shaped(element: ElementType, shape: &str) -> Operand {
    Type::tensor(element, dims(shape)).into()
}

/// A vector of these elements, known by inference.
pub(super) fn int64(elements: &str) -> Operand {
    let elements = dims(elements);
    (Type::tensor(ElementType::Int64, [Dim::fixed(elements.len() as i64)]), Some(elements)).into()
}

/// A constant vector.
pub(super) fn ints(values: &[i64]) -> Operand {
    Operand::Constant(Tensor::vector_i64(values))
}

/// A constant.
pub(super) fn constant(tensor: Tensor) -> Operand {
    Operand::Constant(tensor)
}

/// The node on its operands; the operator may have its domain before it, as in `ai.onnx.ml:Scaler`.
fn build(
    opset: i64,
    op_type: &str,
    operands: Vec<Operand>,
    attributes: &[(&str, AttributeValue)],
    outputs: usize,
) -> Result<(Graph, NodeId), GraphError> {
    let (domain, op_type) = op_type.split_once(':').unwrap_or(("", op_type));
    let mut graph = Graph::new(Context::new(8, [(domain.to_owned(), opset)], []));
    let mut inputs = Vec::new();
    for (index, operand) in operands.into_iter().enumerate() {
        inputs.push(match operand {
            Operand::Absent => None,
            Operand::Constant(tensor) => Some(graph.add_constant(tensor)),
            Operand::Input(fact) => {
                let ty = fact.ty.clone().unwrap_or(Type::Optional(None));
                let value = graph.add_input(&format!("operand{index}"), ty);
                graph.learn(value, fact);
                Some(value)
            }
        });
    }
    let mut new = NewNode { domain: domain.to_owned(), ..NewNode::new(op_type, []) };
    new.inputs = inputs;
    new.outputs = outputs;
    for (name, value) in attributes {
        new = new.with(name, value.clone());
    }
    let node = graph.add_node(new)?;
    Ok((graph, node))
}

/// The types of the results, as text.
pub(super) fn types(
    opset: i64,
    op_type: &str,
    operands: Vec<Operand>,
    attributes: &[(&str, AttributeValue)],
    outputs: usize,
) -> Result<Vec<String>, GraphError> {
    let (graph, node) = build(opset, op_type, operands, attributes, outputs)?;
    let text = |output| graph.ty(output).map_or_else(|| "?".to_owned(), Type::to_string);
    Ok(graph.node(node).outputs().iter().flatten().map(|&output| text(output)).collect())
}

/// The type of the first result, as text.
pub(super) fn ty(
    opset: i64,
    op_type: &str,
    operands: Vec<Operand>,
    attributes: &[(&str, AttributeValue)],
) -> Result<String, GraphError> {
    Ok(types(opset, op_type, operands, attributes, 1)?.remove(0))
}

/// The elements of the first result, as text.
pub(super) fn elements(
    opset: i64,
    op_type: &str,
    operands: Vec<Operand>,
    attributes: &[(&str, AttributeValue)],
) -> Result<Option<String>, GraphError> {
    let (graph, node) = build(opset, op_type, operands, attributes, 1)?;
    let elements = graph.node(node).single_output().and_then(|output| graph.elements(output));
    Ok(elements.map(|elements| elements.iter().map(Dim::to_string).collect::<Vec<_>>().join(", ")))
}
