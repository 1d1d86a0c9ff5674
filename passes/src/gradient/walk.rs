//! The walk from results to operands, against the order of the nodes.

use onnx_opt_ir::{ElementType, Graph, Node, NodeId, ValueId};
use rustc_hash::{FxHashMap, FxHashSet};

use super::step::Step;
use super::writer::{Writer, Written};
use super::{GradientError, is_flat, rule};

/// Gradients by value: those that its uses gave, added up when they are asked for.
#[derive(Default)]
struct Ledger(FxHashMap<ValueId, Vec<ValueId>>);

impl Ledger {
    fn give(&mut self, value: ValueId, gradient: ValueId) {
        self.0.entry(value).or_default().push(gradient);
    }

    fn has(&self, value: ValueId) -> bool {
        self.0.contains_key(&value)
    }

    fn total(&mut self, value: Option<ValueId>, writer: &mut Writer<'_>) -> Written<Option<ValueId>> {
        let Some(parts) = value.and_then(|value| self.0.get_mut(&value)) else { return Ok(None) };
        let total = writer.total(parts)?;
        *parts = vec![total];
        Ok(Some(total))
    }
}

/// Writes the gradients of `wrt` through `order`, some nodes in topological order, where the values of `seeds` have
/// these gradients.
pub(super) fn walk(
    writer: &mut Writer<'_>,
    order: &[NodeId],
    seeds: &[(ValueId, ValueId)],
    wrt: &[ValueId],
) -> Result<Vec<Option<ValueId>>, GradientError> {
    let carriers = carriers(writer.graph, order, wrt);
    let mut ledger = Ledger::default();
    for &(value, gradient) in seeds {
        ledger.give(value, gradient);
    }
    for &id in order.iter().rev() {
        let node = writer.graph.node(id);
        let reached = node.outputs().iter().flatten().any(|&output| ledger.has(output));
        let carries = node.operands().any(|operand| carriers.contains(&operand));
        if !reached || !carries || is_flat(node) {
            continue;
        }
        let node = node.clone();
        let found = through(writer, id, &node, &mut ledger, &carriers)?;
        for (operand, gradient) in found {
            ledger.give(operand, gradient);
        }
    }
    wrt.iter().map(|&value| ledger.total(Some(value), writer).map_err(GradientError::writing)).collect()
}

/// The gradients of the operands of a node.
fn through(
    writer: &mut Writer<'_>,
    id: NodeId,
    node: &Node,
    ledger: &mut Ledger,
    carriers: &FxHashSet<ValueId>,
) -> Result<Vec<(ValueId, ValueId)>, GradientError> {
    let rule = match rule(node) {
        Some(rule) if node.captures().is_empty() => rule,
        _ => return Err(GradientError::none(writer.graph, node)),
    };
    let gradients: Written<Vec<Option<ValueId>>> =
        node.outputs().iter().map(|&output| ledger.total(output, writer)).collect();
    let gradients = gradients.map_err(|refusal| GradientError::refused(writer.graph, node, refusal))?;
    let carries = |value: &ValueId| carriers.contains(value);
    let wanted = node.inputs().iter().map(|input| input.as_ref().is_some_and(carries)).collect();
    let mut step = Step { writer: &mut *writer, id, node: node.clone(), gradients, wanted };
    let found = rule(&mut step).map_err(|refusal| GradientError::refused(writer.graph, node, refusal))?;
    let mut given = Vec::new();
    for (operand, gradient) in node.inputs().iter().zip(found) {
        let (Some(operand), Some(gradient)) = (*operand, gradient) else { continue };
        if !carries(&operand) {
            continue;
        }
        if contradicts(writer.graph, operand, gradient) {
            let words = "its gradient would have another type".into();
            return Err(GradientError::refused(writer.graph, node, words));
        }
        given.push((operand, gradient));
    }
    Ok(given)
}

/// The values that depend on some others, along ways that gradients take.
fn carriers(graph: &Graph, order: &[NodeId], wrt: &[ValueId]) -> FxHashSet<ValueId> {
    let mut carriers: FxHashSet<ValueId> = wrt.iter().copied().collect();
    for &id in order {
        let node = graph.node(id);
        let mut operands = node.operands().filter(|operand| carriers.contains(operand));
        let Some(first) = operands.next() else { continue };
        // What a quantizer gave goes on as long as it stays what it is.
        let quantized = graph.element(first).filter(|element| element.is_integer());
        let carries = |output: &ValueId| match graph.element(*output) {
            None => true,
            Some(element) if element.is_float() => true,
            Some(element) => node.is("QuantizeLinear") || quantized == Some(element),
        };
        let carried: Vec<ValueId> = node.outputs().iter().flatten().copied().filter(carries).collect();
        carriers.extend(carried);
    }
    carriers
}

/// Whether a gradient cannot be that of a value. The gradient of a quantized value is a float.
fn contradicts(graph: &Graph, value: ValueId, gradient: ValueId) -> bool {
    let (Some(ty), Some(found)) = (graph.ty(value), graph.ty(gradient)) else { return false };
    let (Some(a), Some(b)) = (ty.as_tensor(), found.as_tensor()) else { return true };
    let element = |element: ElementType| if element.is_integer() { b.element } else { element };
    let expected = onnx_opt_ir::TensorType { element: element(a.element), shape: a.shape.clone() };
    onnx_opt_ir::Type::Tensor(expected).contradicts(found)
}
