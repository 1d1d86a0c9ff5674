//! Common subexpressions, and equal constants: computed and stored once.

use std::hash::{Hash, Hasher};

use onnx_opt_ir::graph::{Form, Producer};
use onnx_opt_ir::{Graph, Node, NodeId, ValueId};
use rustc_hash::{FxHashMap, FxHasher};

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
            let merged = merge_constants(graph) + merge_nodes(graph);
            if merged > 0 {
                *statistics.fired.entry("common_subexpressions").or_default() += merged;
            }
        });
    }
}

fn merge_constants(graph: &mut Graph) -> usize {
    // By type first: the bytes of a weight are read only where another has its type and shape.
    let mut by_type: FxHashMap<(i32, Vec<usize>), Vec<ValueId>> = FxHashMap::default();
    for (id, value) in graph.values() {
        if let Producer::Constant(constant) = value.producer()
            && matches!(constant.form, Form::Initializer)
            && !graph.is_output(id)
            && !graph.is_pinned(id)
        {
            let key = (constant.tensor.element().code(), constant.tensor.shape().to_vec());
            by_type.entry(key).or_default().push(id);
        }
    }
    let mut groups: Vec<Vec<ValueId>> = by_type.into_values().filter(|group| group.len() > 1).collect();
    groups.sort_unstable();
    let mut merged = 0;
    for group in groups {
        let mut by_content: FxHashMap<u64, Vec<ValueId>> = FxHashMap::default();
        for value in group {
            let Some(tensor) = graph.constant(value).cloned() else { continue };
            let twins = by_content.entry(tensor.content_hash()).or_default();
            match twins.iter().find(|&&twin| graph.constant(twin) == Some(&tensor)) {
                Some(&twin) if graph.replace_all_uses(value, twin).is_ok() => {
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

fn merge_nodes(graph: &mut Graph) -> usize {
    let Ok(order) = graph.topological_order() else { return 0 };
    let mut seen: FxHashMap<u64, Vec<NodeId>> = FxHashMap::default();
    let mut merged = 0;
    for id in order {
        let node = graph.node(id);
        if node.is_random() || node.bodies().next().is_some() || node.outputs().iter().all(Option::is_none) {
            continue;
        }
        let twins = seen.entry(key(node)).or_default();
        let twin = twins.iter().copied().find(|&twin| computes_the_same(graph.node(twin), graph.node(id)));
        match twin {
            Some(twin) if merge(graph, id, twin) => merged += 1,
            Some(_) => {}
            None => twins.push(id),
        }
    }
    merged
}

fn key(node: &Node) -> u64 {
    let mut hasher = FxHasher::default();
    node.op_type().hash(&mut hasher);
    node.inputs().hash(&mut hasher);
    hasher.finish()
}

fn computes_the_same(a: &Node, b: &Node) -> bool {
    let same_attributes = a.attributes().len() == b.attributes().len()
        && a.attributes().iter().all(|entry| b.attributes().get(&entry.name) == Some(&entry.value));
    a.op_type() == b.op_type()
        && a.domain() == b.domain()
        && a.inputs() == b.inputs()
        && a.extra().map(|extra| &extra.overload) == b.extra().map(|extra| &extra.overload)
        && b.outputs().iter().enumerate().all(|(index, output)| output.is_none() || a.output(index).is_some())
        && same_attributes
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
