//! Inference over a whole graph: once after import, and again when types of its inputs change.

use super::InferenceError;
use crate::graph::{Graph, NodeId};

/// Infers every node in topological order, bodies included, and returns what contradicts itself. A node behind a
/// contradiction stays unknown.
pub fn infer_graph(graph: &mut Graph) -> Vec<InferenceError> {
    let mut errors = Vec::new();
    let Ok(order) = graph.topological_order() else { return errors };
    for node in order {
        infer_bodies(graph, node, &mut errors);
        if let Err(error) = graph.infer_node(node) {
            errors.push(error);
        }
    }
    errors
}

/// Tells the bodies of a node what is known of the values they capture, and infers them.
fn infer_bodies(graph: &mut Graph, node: NodeId, errors: &mut Vec<InferenceError>) {
    if graph.node(node).bodies().next().is_none() {
        return;
    }
    let facts = graph.capture_facts(node);
    for body in graph.bodies_mut(node) {
        body.learn_captures(&facts);
        errors.extend(infer_graph(body));
    }
}
