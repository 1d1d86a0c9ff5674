//! `If` with two bodies that read values from outside.

use super::builder::{Builder, Step};
use crate::graph::{Graph, NewNode, ValueId};
use crate::tensor::Tensor;
use crate::types::ElementType;

pub(super) const STEPS: &[Step] = &[branch];

/// Bodies of bodies of bodies are enough.
const MOST_DEPTH: usize = 2;

fn branch(builder: &mut Builder, value: ValueId) -> Option<ValueId> {
    if builder.depth == MOST_DEPTH {
        return None;
    }
    let condition = match builder.random.chance(30) {
        true => {
            let known = f64::from(u8::from(builder.random.chance(50)));
            builder.constant(Tensor::scalar(ElementType::Bool, known)?)
        }
        false => builder.other(|graph, value| {
            graph.element(value) == Some(ElementType::Bool) && graph.rank(value) == Some(0)
        })?,
    };
    let mut captures = vec![value];
    captures.extend(builder.other(|_, other| other != value));
    let element = builder.element(value)?;
    let (yes, no) = (body(builder, &captures, element)?, body(builder, &captures, element)?);
    let node = NewNode::new("If", [condition]).with("then_branch", yes).with("else_branch", no);
    builder.node(NewNode { captures, ..node })
}

/// A body with one output of this element type.
fn body(outer: &mut Builder, captures: &[ValueId], element: ElementType) -> Option<Graph> {
    let mut graph = Graph::new(outer.graph.context().clone());
    let facts = outer.graph.facts(captures);
    let captured: Vec<ValueId> = (0..captures.len()).map(|index| graph.add_capture(index as u32)).collect();
    graph.learn_captures(&facts);
    let mut builder = Builder::new(graph, outer.random.clone());
    builder.depth = outer.depth + 1;
    captured.iter().for_each(|&value| builder.offer(value));
    for _ in 0..builder.random.below(5) {
        builder.step();
    }
    let last = builder.other(|graph, value| graph.element(value) == Some(element))?;
    builder.op("Identity", &[last])?;
    outer.random = builder.random.clone();
    builder.with_outputs(1)
}
