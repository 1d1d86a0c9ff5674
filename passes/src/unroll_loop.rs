//! `Loop` that always runs the same few times: its iterations one after the other.

use onnx_opt_ir::graph::Producer;
use onnx_opt_ir::{ElementType, Graph, GraphError, NewNode, Node, NodeId, Tensor, Type, ValueId};

use crate::fold_constants::FoldConstants;
use crate::inline_if::known_integer;
use crate::pass::{Pass, PassContext, for_each_graph};
use crate::rewrite::{ErrorClass, Statistics};

/// Nodes that a file holds in the bytes that a Loop itself takes: it, its body's formal operands and results, and their
/// types. So many more than in the body may take its place.
const NODES_OF_LOOP: usize = 4;

/// Replaces a `Loop` of known trip count by its iterations, where the file does not grow by that.
///
/// A runtime then plans and fuses them like all others, and needs no control flow; what depends on the number of the
/// iteration alone is constant.
pub struct UnrollLoop {
    /// How exact what then becomes constant must be.
    pub class: ErrorClass,
}

impl Pass for UnrollLoop {
    fn name(&self) -> &'static str {
        "unroll_loop"
    }

    fn doc(&self) -> &'static str {
        "Replaces a Loop of few known iterations by these"
    }

    fn run(&self, graph: &mut Graph, context: &PassContext<'_>, statistics: &mut Statistics) {
        let mut total = 0;
        for_each_graph(graph, &mut |graph| total += unroll_known(graph));
        if total > 0 {
            *statistics.fired.entry("unroll_loop").or_default() += total;
            FoldConstants { class: self.class }.run(graph, context, statistics);
        }
    }
}

/// Unrolls each `Loop` of the graph itself that allows it, and tells how many.
fn unroll_known(graph: &mut Graph) -> usize {
    let loops: Vec<NodeId> = graph.nodes().filter(|(_, node)| node.is("Loop")).map(|(id, _)| id).collect();
    let mut unrolled = 0;
    for id in loops {
        let Some(iterations) = iterations(graph, id) else { continue };
        unrolled += usize::from(graph.inline_graph(id, &iterations).is_ok());
    }
    unrolled
}

/// A graph that takes what a Loop takes and computes what it computes, if its trip count is known and small.
fn iterations(graph: &Graph, id: NodeId) -> Option<Graph> {
    let node = graph.get_node(id).filter(|node| node.is("Loop"))?;
    let trips = usize::try_from(known_integer(graph, node.input(0)?)?).ok()?;
    let runs = node.input(1).is_none_or(|condition| known_integer(graph, condition) == Some(1));
    let body = node.bodies().next()?;
    let count = body.node_count();
    let few = trips <= count.max(1) + NODES_OF_LOOP && trips.checked_mul(count)? <= count + NODES_OF_LOOP;
    if !runs || !few || !goes_on(graph, node, body) {
        return None;
    }
    unrolled(graph, node, body, trips).ok().flatten()
}

/// Whether the condition that the body computes is always true.
fn goes_on(graph: &Graph, node: &Node, body: &Graph) -> bool {
    let Some(output) = body.outputs().first() else { return false };
    let mut condition = output.value;
    while let Some((_, identity)) = body.producer_of(condition, "Identity") {
        let Some(inner) = identity.input(0) else { return false };
        condition = inner;
    }
    if let Some(Producer::Captured { index, .. }) = body.get_value(condition).map(|value| value.producer()) {
        let outer = node.captures().get(*index as usize);
        return outer.is_some_and(|&outer| known_integer(graph, outer) == Some(1));
    }
    // What goes in is what the iteration before decided, and first the condition of the Loop.
    body.inputs().get(1).is_some_and(|input| input.value == condition)
        || known_integer(body, condition) == Some(1)
}

/// The iterations of a body in a row, as a graph with the operands and results of its Loop; `None` if it has others than
/// those of a Loop, or a type is not known.
fn unrolled(graph: &Graph, node: &Node, body: &Graph, trips: usize) -> Result<Option<Graph>, GraphError> {
    let mut result = Graph::new(body.context().clone());
    // The trip count and the condition are known; the rest is what an iteration hands on.
    let mut carried = Vec::new();
    for (index, operand) in node.inputs().iter().enumerate() {
        let ty = match (index, operand.and_then(|operand| graph.ty(operand))) {
            (_, Some(ty)) => ty.clone(),
            (1, None) => Type::tensor(ElementType::Bool, []),
            _ => return Ok(None),
        };
        carried.push(result.add_input(&format!("operand {index}"), ty));
    }
    let carried = &mut carried[2..];
    let captures: Vec<ValueId> = (0..node.captures().len())
        .filter_map(|index| Some(result.add_capture(u32::try_from(index).ok()?)))
        .collect();
    let outputs = body.outputs().len();
    let Some(scans) = outputs.checked_sub(1 + carried.len()) else { return Ok(None) };
    if body.inputs().len() != 2 + carried.len() || (scans > 0 && trips == 0) {
        return Ok(None);
    }
    let mut parts = vec![Vec::with_capacity(trips); scans];
    for trip in 0..trips {
        let scalar = |value: usize, element, input: usize| {
            let one = body.rank(body.inputs()[input].value) == Some(1);
            let shape: &[usize] = if one { &[1] } else { &[] };
            Tensor::from_f64(element, shape, &[value as f64])
        };
        let (Some(number), Some(go)) = (scalar(trip, ElementType::Int64, 0), scalar(1, ElementType::Bool, 1))
        else {
            return Ok(None);
        };
        let mut inputs = vec![result.add_constant(number), result.add_constant(go)];
        inputs.extend_from_slice(carried);
        let name = Some(trip.to_string().into());
        let iteration =
            NewNode { name, outputs, captures: captures.clone(), ..NewNode::new("Iteration", inputs) };
        let iteration = result.add_node(iteration)?;
        // An Identity each keeps what the iteration gives in reach once its nodes stand in its place.
        let given: Vec<ValueId> =
            result.node(iteration).outputs().iter().copied().flatten().skip(1).collect();
        let mut kept = Vec::with_capacity(given.len());
        for value in given {
            kept.push(added(&mut result, NewNode::new("Identity", [value]))?);
        }
        result.inline_graph(iteration, body)?;
        carried.copy_from_slice(&kept[..carried.len()]);
        for (parts, &value) in parts.iter_mut().zip(&kept[carried.len()..]) {
            parts.push(stacked(&mut result, value)?);
        }
    }
    for (index, &value) in carried.iter().enumerate() {
        result.add_output(&format!("carried {index}"), value)?;
    }
    for (index, parts) in parts.into_iter().enumerate() {
        let all = added(&mut result, NewNode::new("Concat", parts).with("axis", 0))?;
        result.add_output(&format!("scan {index}"), all)?;
    }
    Ok(Some(result))
}

/// A value with a first axis of size one.
fn stacked(graph: &mut Graph, value: ValueId) -> Result<ValueId, GraphError> {
    let node = if graph.opset() < 13 {
        NewNode::new("Unsqueeze", [value]).with("axes", vec![0])
    } else {
        let axes = graph.add_constant(Tensor::vector_i64(&[0]));
        NewNode::new("Unsqueeze", [value, axes])
    };
    added(graph, node)
}

/// The one result of a new node.
fn added(graph: &mut Graph, node: NewNode) -> Result<ValueId, GraphError> {
    let name = node.op_type.clone();
    let id = graph.add_node(node)?;
    graph.node(id).output(0).ok_or(GraphError::NotInlinable(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use onnx_opt_ir::{Attributes, Context, Dim};

    use super::*;
    use crate::testing::Fixture;

    /// What the condition of an iteration is.
    #[derive(Clone, Copy, PartialEq)]
    enum Condition {
        HandedOn,
        True,
        Computed,
    }

    /// A Loop over a state of two integers: adds the number of the iteration, multiplies by a captured value, and keeps each
    /// state.
    fn looping(trips: Option<i64>, condition: Condition) -> Fixture {
        let mut f = Fixture::new(16);
        let mut body = Graph::new(Context::with_opset(16));
        let number = body.add_input("i", Type::tensor(ElementType::Int64, []));
        let go = body.add_input("go", Type::tensor(ElementType::Bool, []));
        let state = body.add_input("state", Type::tensor(ElementType::Int64, [Dim::fixed(2)]));
        let captured = body.add_capture(0);
        let mut op = |node: NewNode| added(&mut body, node).unwrap();
        let sum = op(NewNode::new("Add", [state, number]));
        let sum = op(NewNode::new("Mul", [sum, captured]));
        let next = match condition {
            Condition::HandedOn => op(NewNode::new("Identity", [go])),
            Condition::True => body.add_constant(Tensor::scalar(ElementType::Bool, 1.0).unwrap()),
            Condition::Computed => op(NewNode::new("Not", [go])),
        };
        body.add_output("next", next).unwrap();
        body.add_output("sum", sum).unwrap();
        let copy = added(&mut body, NewNode::new("Identity", [sum])).unwrap();
        body.add_output("each", copy).unwrap();

        let x = f.typed_input("x", ElementType::Int64, [Dim::fixed(2)]);
        let z = f.typed_input("z", ElementType::Int64, [Dim::fixed(2)]);
        let trips = match trips {
            Some(trips) => f.graph.add_constant(Tensor::from_i64(&[], &[trips]).unwrap()),
            None => f.typed_input("trips", ElementType::Int64, []),
        };
        let go = f.graph.add_constant(Tensor::scalar(ElementType::Bool, 1.0).unwrap());
        let attributes = Attributes::from_pairs([("body", body.into())]);
        let node =
            NewNode { attributes, captures: vec![z], outputs: 2, ..NewNode::new("Loop", [trips, go, x]) };
        let id = f.graph.add_node(node).unwrap();
        let results: Vec<ValueId> = f.graph.node(id).outputs().iter().copied().flatten().collect();
        f.output("last", results[0]);
        f.output("all", results[1]);
        f
    }

    fn unroll(f: &mut Fixture) -> Vec<String> {
        let pass = UnrollLoop { class: ErrorClass::Rounding };
        pass.run(&mut f.graph, &PassContext::default(), &mut Statistics::default());
        f.operators()
    }

    #[test]
    fn iterations_follow_each_other() {
        for condition in [Condition::HandedOn, Condition::True] {
            let mut f = looping(Some(2), condition);
            let operators = unroll(&mut f);
            let count = |op_type: &str| operators.iter().filter(|name| *name == op_type).count();
            assert_eq!((count("Loop"), count("Add"), count("Mul"), count("Concat")), (0, 2, 2, 1));
            let [last, all] = [0, 1].map(|index| f.graph.outputs()[index].value);
            assert_eq!(f.graph.fixed_shape(last).as_deref(), Some(&[2][..]));
            assert_eq!(f.graph.fixed_shape(all).as_deref(), Some(&[2, 2][..]));
            assert_eq!(f.graph.display_name(all), "all");
            // The second Add takes what the first Mul gives.
            let adds: Vec<_> = f.graph.nodes().filter(|(_, node)| node.is("Add")).collect();
            let follows = adds.iter().filter(|(_, add)| {
                let mut value = add.input(0).unwrap();
                while let Some((_, node)) = f.graph.producer_of(value, "Identity") {
                    value = node.input(0).unwrap();
                }
                f.graph.producer_of(value, "Mul").is_some()
            });
            assert_eq!(follows.count(), 1);
        }
    }

    #[test]
    fn what_is_long_or_open_stays() {
        for (trips, condition) in [
            (None, Condition::HandedOn),
            (Some(3), Condition::HandedOn),
            (Some(1000), Condition::HandedOn),
            (Some(-1), Condition::HandedOn),
            (Some(2), Condition::Computed),
            // No iteration tells of which size the second result is.
            (Some(0), Condition::HandedOn),
        ] {
            assert_eq!(unroll(&mut looping(trips, condition)), ["Loop"], "{trips:?}");
        }
    }
}
