//! Inference over a whole graph: once after import, and again when types of its inputs change.

use std::collections::BTreeSet;

use super::InferenceError;
use super::control_flow::{Formals, formals};
use super::join::{collect_symbols, join_with, outline};
use crate::dim::{Dim, Symbol};
use crate::graph::{Context, Graph, NodeId};
use crate::types::Type;

/// How often a body is inferred until the sizes of its states stay.
const MAX_ROUNDS: usize = 4;

/// Bodies nested deeper than this are inferred once, with states of unknown rank: rounds multiply with depth.
const MAX_PRECISE_DEPTH: usize = 3;

/// Infers every node in topological order, bodies included, and returns what contradicts itself. A node behind a
/// contradiction stays unknown.
pub fn infer_graph(graph: &mut Graph) -> Vec<InferenceError> {
    infer_at(graph, 0)
}

/// What says that no run of the graph can succeed: the first of its own nodes, in no order, whose operands contradict
/// each other. Its bodies are not looked into, since they may never run.
pub fn contradiction(graph: &Graph) -> Option<InferenceError> {
    graph.nodes().find_map(|(id, _)| super::infer(graph, id).err())
}

fn infer_at(graph: &mut Graph, depth: usize) -> Vec<InferenceError> {
    let mut errors = Vec::new();
    let Ok(order) = graph.topological_order() else { return errors };
    for node in order {
        errors.extend(infer_bodies(graph, node, depth));
        if let Err(error) = graph.infer_node(node) {
            errors.push(error);
        }
    }
    errors
}

/// Tells the bodies of a node what is known of the values they capture and of their formal inputs, and infers them
/// anew. `depth` is that of `graph`.
pub(crate) fn infer_bodies(graph: &mut Graph, node: NodeId, depth: usize) -> Vec<InferenceError> {
    if graph.node(node).bodies().next().is_none() {
        return Vec::new();
    }
    let captures = graph.capture_facts(node);
    let formals = formals(graph, graph.node(node));
    let context = graph.context().clone();
    let mut errors = Vec::new();
    for body in graph.bodies_mut(node) {
        errors.extend(settle(&context, formals.clone(), depth, &mut |types| {
            body.forget_types();
            body.learn_captures(&captures);
            body.set_input_types(types);
            let errors = infer_at(body, depth + 1);
            let results =
                body.outputs().iter().map(|output| body.ty(output.value).cloned()).collect::<Vec<_>>();
            (results, errors)
        }));
    }
    errors
}

/// The types of the outputs of a body after it was inferred, and what contradicts itself in it.
type Round = (Vec<Option<Type>>, Vec<InferenceError>);

/// Infers a body by `infer` until what its formal inputs are said to be holds in every iteration: a size of a state
/// that the body changes becomes a symbol of its own.
fn settle(
    context: &Context,
    mut formals: Formals,
    depth: usize,
    infer: &mut dyn FnMut(&[Option<Type>]) -> Round,
) -> Vec<InferenceError> {
    let mut initial = BTreeSet::new();
    for ty in formals.types.iter().flatten() {
        collect_symbols(ty, &mut initial);
    }
    let rounds = if depth < MAX_PRECISE_DEPTH { MAX_ROUNDS } else { 1 };
    for _ in 1..rounds {
        let (results, errors) = infer(&formals.types);
        let mut stable = true;
        for &(input, output) in &formals.states {
            let Some(Some(formal)) = formals.types.get_mut(input) else { continue };
            let next = results.get(output).and_then(Option::as_ref);
            let joined = next
                .and_then(|next| generalize(context, &initial, formal, next))
                .unwrap_or_else(|| outline(formal));
            if joined != *formal {
                *formal = joined;
                stable = false;
            }
        }
        if stable {
            return errors;
        }
    }
    for &(input, _) in &formals.states {
        if let Some(Some(formal)) = formals.types.get_mut(input) {
            *formal = outline(formal);
        }
    }
    infer(&formals.types).1
}

/// The type of a state that is `formal` before an iteration and `next` after it. A size that is a symbol of the body
/// alone stands for any.
fn generalize(context: &Context, initial: &BTreeSet<Symbol>, formal: &Type, next: &Type) -> Option<Type> {
    let is_free = |size: &Dim| match size.as_symbol() {
        Some(symbol @ Symbol::Anonymous(_)) => !initial.contains(symbol),
        _ => false,
    };
    join_with(formal, next, &|formal, next| {
        if formal == next || is_free(formal) { formal.clone() } else { context.fresh_dim() }
    })
}
