//! Common subexpressions, and equal constants: computed and stored once.

use std::collections::hash_map::Entry;
use std::hash::{Hash, Hasher};

use onnx_opt_ir::graph::{Form, Producer};
use onnx_opt_ir::schema::AttributeDefault;
use onnx_opt_ir::{AttributeValue, Graph, Node, NodeId, Tensor, ValueId};
use rustc_hash::{FxHashMap, FxHasher};
use smallvec::SmallVec;

use crate::pass::{Pass, PassContext, for_each_graph};
use crate::rewrite::Statistics;

/// Merges nodes that compute the same, and initializers with the same bits (0.0 and -0.0 differ).
pub struct CommonSubexpressions;

impl Pass for CommonSubexpressions {
    fn name(&self) -> &'static str {
        "common_subexpressions"
    }

    fn doc(&self) -> &'static str {
        "Merges equal nodes and equal constants"
    }

    fn run(&self, graph: &mut Graph, _: &PassContext, statistics: &mut Statistics) {
        for_each_graph(graph, &mut |graph| {
            let merged = merge_constants(graph) + merge_nodes(graph) + merge_captures(graph);
            if merged > 0 {
                *statistics.fired.entry("common_subexpressions").or_default() += merged;
            }
        });
    }
}

/// Operators of two operands whose order does not matter, not even to the bits.
const COMMUTATIVE: &[&str] =
    &["Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Equal", "Max", "Min", "Mul", "Or", "Xor"];

fn merge_constants(graph: &mut Graph) -> usize {
    // By likeness first: a weight is read whole only where another has its type and shape and some of its bytes. Of
    // those that are alike, what must stay comes first, so that the others give way to it.
    let mut constants: Vec<(u64, bool, ValueId)> = Vec::new();
    for (id, value) in graph.values() {
        if let Producer::Constant(constant) = value.producer()
            && graph.use_count(id) > 0
        {
            let gives_way =
                matches!(constant.form, Form::Initializer) && !graph.is_output(id) && !graph.is_pinned(id);
            constants.push((likeness(&constant.tensor), gives_way, id));
        }
    }
    constants.sort_unstable();
    let groups = constants.chunk_by(|one, other| one.0 == other.0).filter(|group| group.len() > 1);
    let mut merged = 0;
    for group in groups {
        let mut by_content: FxHashMap<u64, Vec<ValueId>> = FxHashMap::default();
        for &(_, gives_way, value) in group {
            let Some(tensor) = graph.constant(value).cloned() else { continue };
            let twins = by_content.entry(tensor.content_hash()).or_default();
            match twins.iter().find(|&&twin| graph.constant(twin) == Some(&tensor)) {
                Some(&twin) if gives_way && graph.replace_all_uses(value, twin).is_ok() => {
                    graph.remove_unused_constant(value);
                    merged += 1;
                }
                Some(_) => {}
                None => twins.push(value),
            }
        }
    }
    merged
}

/// A hash of element type, shape and a sample of the content.
fn likeness(tensor: &Tensor) -> u64 {
    let mut hasher = FxHasher::default();
    (tensor.element().code(), tensor.shape(), tensor.content_sample()).hash(&mut hasher);
    hasher.finish()
}

fn merge_nodes(graph: &mut Graph) -> usize {
    let Ok(order) = graph.topological_order() else { return 0 };
    // By key the first node, and by node the next one of its key: most keys are those of one node.
    let mut first: FxHashMap<u64, NodeId> =
        FxHashMap::with_capacity_and_hasher(order.len(), Default::default());
    let mut next: FxHashMap<NodeId, NodeId> = FxHashMap::default();
    let mut merged = 0;
    for id in order {
        let node = graph.node(id);
        if node.is_random() || node.bodies().next().is_some() || node.outputs().iter().all(Option::is_none) {
            continue;
        }
        let mut twin = match first.entry(key(graph, node)) {
            Entry::Occupied(first) => *first.get(),
            Entry::Vacant(place) => {
                place.insert(id);
                continue;
            }
        };
        while !computes_the_same(graph, graph.node(twin), node) {
            match next.get(&twin) {
                Some(&other) => twin = other,
                None => {
                    next.insert(twin, id);
                    break;
                }
            }
        }
        if next.get(&twin) != Some(&id) && merge(graph, id, twin) {
            merged += 1;
        }
    }
    merged
}

/// Where a node captures a value twice, perhaps since its twins were merged, its bodies read it under the first index.
fn merge_captures(graph: &mut Graph) -> usize {
    let mut repeated: Vec<(NodeId, Vec<usize>)> = Vec::new();
    for (id, node) in graph.nodes() {
        let captures = node.captures();
        let first = |value: &ValueId| captures.iter().position(|other| other == value);
        let firsts: Vec<usize> = captures.iter().filter_map(first).collect();
        if firsts.iter().enumerate().any(|(index, first)| index != *first) {
            repeated.push((id, firsts));
        }
    }
    let mut merged = 0;
    for (id, firsts) in repeated {
        let edited = graph.edit_bodies(id, |bodies| {
            bodies.iter_mut().map(|body| merge_captured(body, &firsts)).sum::<usize>()
        });
        merged += edited.unwrap_or(0);
    }
    merged
}

/// `firsts`: for the index of a captured value, the first index under which the same value is captured.
fn merge_captured(body: &mut Graph, firsts: &[usize]) -> usize {
    let captured: Vec<(usize, ValueId)> = body
        .values()
        .filter_map(|(id, value)| match value.producer() {
            Producer::Captured { index, .. } => Some((*firsts.get(*index as usize)?, id)),
            _ => None,
        })
        .collect();
    let mut seen: FxHashMap<usize, ValueId> = FxHashMap::default();
    let mut merged = 0;
    for (first, value) in captured {
        let twin = *seen.entry(first).or_insert(value);
        if twin != value && body.use_count(value) > 0 && body.replace_all_uses(value, twin).is_ok() {
            merged += 1;
        }
    }
    merged
}

fn key(graph: &Graph, node: &Node) -> u64 {
    let mut hasher = FxHasher::default();
    node.op_type().hash(&mut hasher);
    operands(graph, node).hash(&mut hasher);
    hasher.finish()
}

/// The operands, those of a commutative operator in an order that says nothing.
fn operands(graph: &Graph, node: &Node) -> SmallVec<[Option<ValueId>; 4]> {
    let mut operands = SmallVec::from_slice(node.inputs());
    // Of 0.0 and -0.0 the larger may be either.
    let ordered = |value: ValueId| graph.element(value).is_none_or(|element| !element.is_integer());
    if operands.len() == 2
        && COMMUTATIVE.iter().any(|op_type| node.is(op_type))
        && !(["Max", "Min"].contains(&node.op_type()) && node.input(0).is_none_or(ordered))
    {
        operands.sort_unstable();
    }
    operands
}

/// Whether all attributes of `a` mean the same on `b`: one that is not written has the operator's default.
fn includes(a: &Node, b: &Node) -> bool {
    a.attributes().iter().all(|entry| match b.attributes().get(&entry.name) {
        Some(value) => *value == entry.value,
        None => is_default(a, &entry.name, &entry.value),
    })
}

fn is_default(node: &Node, name: &str, value: &AttributeValue) -> bool {
    let default = node.operator().and_then(|operator| operator.attribute(name)?.default);
    match (default, value) {
        (Some(AttributeDefault::Float(a)), AttributeValue::Float(b)) => a.to_bits() == b.to_bits(),
        (Some(AttributeDefault::Int(a)), AttributeValue::Int(b)) => a == *b,
        (Some(AttributeDefault::Ints(a)), AttributeValue::Ints(b)) => a == b.as_slice(),
        (Some(AttributeDefault::String(a)), AttributeValue::String(b)) => a.as_bytes() == b,
        (Some(AttributeDefault::Strings(a)), AttributeValue::Strings(b)) => {
            a.iter().map(|text| text.as_bytes()).eq(b.iter().map(|text| &text[..]))
        }
        // Windows neither pad nor skip where nothing is written, however many axes they have.
        (None, AttributeValue::Ints(b)) if node.operator().is_some() => match name {
            "pads" => b.iter().all(|&pad| pad == 0),
            "strides" | "dilations" => b.iter().all(|&step| step == 1),
            _ => false,
        },
        _ => false,
    }
}

fn computes_the_same(graph: &Graph, a: &Node, b: &Node) -> bool {
    a.op_type() == b.op_type()
        && a.domain() == b.domain()
        && operands(graph, a) == operands(graph, b)
        && a.extra().map(|extra| &extra.overload) == b.extra().map(|extra| &extra.overload)
        && b.outputs().iter().enumerate().all(|(index, output)| output.is_none() || a.output(index).is_some())
        && includes(a, b)
        && includes(b, a)
}

/// Gives the uses of one node's results to its twin, all or none.
fn merge(graph: &mut Graph, id: NodeId, twin: NodeId) -> bool {
    let pairs: Vec<(ValueId, ValueId)> = graph
        .node(id)
        .outputs()
        .iter()
        .zip(graph.node(twin).outputs())
        .filter_map(|(old, new)| Some(((*old)?, (*new)?)))
        .collect();
    if pairs.iter().any(|&(old, new)| graph.check_replacement(old, new).is_err()) {
        return false;
    }
    for (old, new) in pairs {
        if graph.replace_all_uses(old, new).is_err() {
            return false;
        }
    }
    graph.remove_dead([id], |_, _| {}) > 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use onnx_opt_ir::{ElementType, NewNode, Tensor};

    use super::*;
    use crate::testing::Fixture;

    fn run(f: &mut Fixture) -> Vec<String> {
        CommonSubexpressions.run(&mut f.graph, &PassContext::default(), &mut Statistics::default());
        onnx_opt_ir::check_graph(&f.graph).unwrap();
        f.operators()
    }

    #[test]
    fn weights_alike_at_sampled_places_are_told_apart() {
        let equal = vec![1.0f32; 400];
        let mut other = equal.clone();
        other[100] = 2.0;
        let sample = |values: &[f32]| Tensor::from_f32(&[400], values).unwrap().content_sample();
        assert_eq!(sample(&equal), sample(&other));
        let mut f = Fixture::new(13);
        let x = f.input("x", &[400]);
        for (name, values) in [("a", &equal), ("b", &equal), ("c", &other)] {
            let weight = f.floats(&[400], values);
            let sum = f.op("Add", &[x, weight]);
            f.output(name, sum);
        }
        assert_eq!(merge_constants(&mut f.graph), 1);
    }

    #[test]
    fn operands_of_commutative_operators_have_no_order() {
        for (op_type, element, count) in [
            ("Add", ElementType::Float, 2),
            ("Max", ElementType::Int64, 2),
            ("Max", ElementType::Float, 3),
            ("Sub", ElementType::Float, 3),
        ] {
            let mut f = Fixture::new(17);
            let [a, b] = ["a", "b"].map(|name| f.typed_input(name, element, []));
            let pair = [f.op(op_type, &[a, b]), f.op(op_type, &[b, a])];
            let y = f.op("Div", &pair);
            f.output("y", y);
            assert_eq!(run(&mut f).len(), count, "{op_type} of {element}");
        }
    }

    #[test]
    fn a_default_is_the_same_written_or_not() {
        for (alpha, count) in [(0.01, 2), (0.02, 3)] {
            let mut f = Fixture::new(17);
            let x = f.input("x", &[2]);
            let pair = [f.op("LeakyRelu", &[x]), f.node(NewNode::new("LeakyRelu", [x]).with("alpha", alpha))];
            let y = f.op("Sub", &pair);
            f.output("y", y);
            assert_eq!(run(&mut f).len(), count);
        }
    }

    #[test]
    fn twins_that_a_body_reads_become_one() {
        let mut f = Fixture::new(17);
        let condition = f.typed_input("condition", ElementType::Bool, []);
        let x = f.input("x", &[2]);
        let captures = vec![f.op("Exp", &[x]), f.op("Exp", &[x])];
        let body = |op_type: &str| {
            let mut body = Graph::new(f.graph.context().clone());
            let captured = [body.add_capture(0), body.add_capture(1)];
            let node = body.add_node(NewNode::new(op_type, captured)).unwrap();
            body.add_output("y", body.node(node).output(0).unwrap()).unwrap();
            body
        };
        let node =
            NewNode::new("If", [condition]).with("then_branch", body("Sub")).with("else_branch", body("Add"));
        let y = f.node(NewNode { captures, ..node });
        f.output("y", y);
        assert_eq!(run(&mut f), ["Exp", "If"]);
        let (_, node) = f.graph.nodes().find(|(_, node)| node.is("If")).unwrap();
        assert_eq!(node.captures().len(), 1);
        for body in node.bodies() {
            let (_, inner) = body.nodes().next().unwrap();
            assert_eq!(inner.input(0), inner.input(1));
        }
    }

    #[test]
    fn a_constant_output_serves_its_twins() {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[2]);
        let kept = f.op("Identity", &[x]);
        f.output("kept", kept);
        let constant = Tensor::from_f32(&[2], &[1.0, 0.0]).unwrap();
        let (first, other) = (f.graph.add_constant(constant.clone()), f.floats(&[2], &[1.0, -0.0]));
        f.graph.replace_all_uses(kept, first).unwrap();
        let second = f.graph.add_constant(constant);
        let sum = f.op("Add", &[x, second]);
        let y = f.op("Add", &[sum, other]);
        f.output("y", y);
        run(&mut f);
        let constants =
            f.graph.values().filter(|(id, _)| f.graph.constant(*id).is_some() && f.graph.use_count(*id) > 0);
        assert_eq!(constants.count(), 2, "0.0 and -0.0 differ");
    }
}
