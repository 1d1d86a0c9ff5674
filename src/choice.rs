//! Which of several results is kept where the order of rewrites decides what comes out: the one that costs least.
//!
//! A rule may take from another what that one needs: a factor that goes into the weights of a convolution is missing
//! from the activation before it, a part of a LayerNormalization becomes an RMSNormalization. No order of rules is right
//! for all models, so each rule that applied is held back once, until the others are done.

use std::collections::BTreeSet;

use onnx_opt_ir::{Graph, Model, export};
use onnx_opt_passes::Target;
use prost::Message;

use crate::report::{Pass, for_each_node};

/// A model and what was done to it.
pub(crate) struct Outcome {
    pub model: Model,
    pub passes: Vec<Pass>,
}

/// What a model costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Nodes, bodies included, each as dear as the target says.
    pub nodes: f64,
    /// Bytes of the file.
    pub bytes: usize,
}

impl Cost {
    pub fn of(model: &Model, target: &Target) -> Self {
        Self { nodes: nodes(&model.graph, target), bytes: export(model).encoded_len() }
    }

    /// Whether the nodes cost less, and the file takes no more bytes than it may.
    pub fn beats(self, other: Self, bytes: usize) -> bool {
        self.nodes < other.nodes && self.bytes <= bytes
    }
}

/// What an operator that the target does not have counts as: more than any number of others.
const ABSENT: f64 = 1e6;

fn nodes(graph: &Graph, target: &Target) -> f64 {
    let mut sum = 0.0;
    for_each_node(graph, &mut |_, node| {
        sum += target.listed_cost(node.domain(), node.op_type()).unwrap_or(1.0).min(ABSENT);
    });
    sum
}

/// Larger models have one way only.
const MAX_NODES: usize = 5_000;
/// Nodes of all models together that rules are held back on.
const MAX_WORK: usize = 20_000;

/// Whether a model is small enough for more than one way.
pub(crate) fn has_choice(model: &Model) -> bool {
    let mut count = 0;
    for_each_node(&model.graph, &mut |_, _| count += 1);
    count <= MAX_NODES
}

/// Applies all rules but those of these names.
pub(crate) type Run<'r, E> = &'r dyn Fn(&mut Model, &BTreeSet<String>) -> Result<Vec<Pass>, E>;

/// A result of holding rules back.
pub(crate) struct Choice {
    pub outcome: Outcome,
    /// Names of the rules that were held back.
    pub held: BTreeSet<String>,
}

/// The cheapest result where some rules are held back until the others are done; `None` if `plain`, the result of all
/// rules at once, costs no more.
///
/// `start` is the model before any rule, `rules` are the names of all, and `run` applies those that it is not told to
/// hold back. In the end all are applied until none fires, so that there is no choice left in a result.
pub(crate) fn hold_back<E>(
    start: &Model,
    plain: &Outcome,
    target: &Target,
    rules: &BTreeSet<&'static str>,
    run: Run<'_, E>,
) -> Result<Option<Choice>, E> {
    let mut least = Cost::of(&plain.model, target);
    let bytes = least.bytes.max(export(start).encoded_len());
    let mut best = None;
    let mut held = BTreeSet::new();
    let applied = plain.passes.iter().flat_map(|pass| pass.applied.keys());
    let applied: BTreeSet<&str> = applied.copied().filter(|name| rules.contains(name)).collect();
    for name in applied.into_iter().take(MAX_WORK / (start.graph.node_count() + 1)) {
        let mut others = held.clone();
        others.insert(name.to_owned());
        let mut model = start.clone();
        let mut passes = run(&mut model, &others)?;
        passes.extend(run(&mut model, &BTreeSet::new())?);
        let cost = Cost::of(&model, target);
        if cost.beats(least, bytes) {
            (best, least, held) = (Some(Outcome { model, passes }), cost, others);
        }
    }
    Ok(best.map(|outcome| Choice { outcome, held }))
}
