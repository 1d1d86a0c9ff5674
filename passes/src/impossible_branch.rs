//! `If` with a branch after which the model could not run.

use onnx_opt_ir::infer::{contradiction, infer};
use onnx_opt_ir::{Dim, Graph, Node, NodeId, Type, ValueId};

use crate::inline_if::inline_known;
use crate::pass::{Pass, PassContext, for_each_graph};
use crate::rewrite::Statistics;

/// Replaces an `If` by one of its branches where the other gives results of another rank, and with those some later
/// node of the same graph could not run whatever the input.
///
/// Exporters that do not know a rank leave it to the model to look: `If(Shape(x)[-1] == 1)` squeezes an axis or leaves
/// it, and an LSTM that follows takes one of the two. Every node of a graph runs when the graph does, so that a run
/// that takes the other branch is a run that fails.
pub struct ImpossibleBranch;

/// Trials in one run of the pass: each costs a copy of the graph and its inference.
const MAX_TRIALS: usize = 16;

/// No trials in larger graphs.
const MAX_NODES: usize = 10_000;

impl Pass for ImpossibleBranch {
    fn name(&self) -> &'static str {
        "impossible_branch"
    }

    fn doc(&self) -> &'static str {
        "Replaces an If by one branch where no run can survive the other"
    }

    fn run(&self, graph: &mut Graph, _: &PassContext<'_>, statistics: &mut Statistics) {
        let mut trials = MAX_TRIALS;
        for_each_graph(graph, &mut |graph| {
            if graph.node_count() > MAX_NODES {
                return;
            }
            let nodes = graph.owners();
            // A graph that cannot run as it is survives neither branch.
            if !nodes.iter().any(|&id| ranks_differ(graph, id)) || contradiction(graph).is_some() {
                return;
            }
            for id in nodes {
                // Indices of removed nodes are used again: look before each step.
                if trials < 2 || !ranks_differ(graph, id) {
                    continue;
                }
                trials -= 2;
                let taken = match [0, 1].map(|branch| survives(graph, id, branch)) {
                    [true, false] => 0,
                    [false, true] => 1,
                    _ => continue,
                };
                if graph.inline_body(id, taken).is_ok() {
                    *statistics.fired.entry("impossible_branch").or_default() += 1;
                }
            }
        });
    }
}

/// Whether a node is an `If` whose branches give results of ranks that are known and not the same.
fn ranks_differ(graph: &Graph, id: NodeId) -> bool {
    let Some(node) = graph.get_node(id).filter(|node| node.is("If")) else { return false };
    let branches: Vec<&Graph> = node.bodies().collect();
    let [first, second] = branches.as_slice() else { return false };
    let ranks = |branch: &Graph, index: usize| branch.outputs().get(index).and_then(|o| branch.rank(o.value));
    (0..node.outputs().len())
        .any(|index| matches!((ranks(first, index), ranks(second, index)), (Some(a), Some(b)) if a != b))
}

/// Whether inference finds nothing against the nodes of a graph, against which it finds nothing as it is, when the `If`
/// takes this branch.
fn survives(graph: &Graph, id: NodeId, branch: usize) -> bool {
    let mut trial = graph.clone();
    if trial.inline_body(id, branch).is_err() {
        return true;
    }
    while inline_known(&mut trial) > 0 {}
    let mut changed = trial.nodes().filter(|(id, node)| !is_as_in(graph, &trial, *id, node));
    changed.all(|(id, _)| infer(&trial, id).is_ok())
}

/// Whether a node of a copy is the one that it was in the graph, by its results, which are never others, and all that is
/// known of its operands is what it was.
fn is_as_in(graph: &Graph, copy: &Graph, id: NodeId, node: &Node) -> bool {
    fn known(graph: &Graph, value: ValueId) -> Option<(Option<&Type>, Option<&[Dim]>)> {
        graph.get_value(value).map(|value| (value.ty(), value.elements()))
    }
    let before = graph.get_node(id).filter(|before| {
        before.output(0).is_some() && before.outputs() == node.outputs() && before.inputs() == node.inputs()
    });
    before.is_some() && node.operands().all(|value| known(graph, value) == known(copy, value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::{Attributes, Context, NewNode, Tensor, ValueId};

    use super::*;
    use crate::testing::Fixture;

    fn branch(op_type: &str) -> Graph {
        let mut body = Graph::new(Context::with_opset(16));
        let mut inputs = vec![body.add_capture(0)];
        if op_type != "Identity" {
            inputs.push(body.add_constant(Tensor::vector_i64(&[0])));
        }
        let node = body.add_node(NewNode::new(op_type, inputs)).unwrap();
        let result = body.node(node).output(0).unwrap();
        body.add_output("result", result).unwrap();
        body
    }

    fn choose(f: &mut Fixture, condition: ValueId, x: ValueId, then: &str) -> ValueId {
        let attributes = Attributes::from_pairs([
            ("else_branch", branch("Identity").into()),
            ("then_branch", branch(then).into()),
        ]);
        f.node(NewNode { attributes, captures: vec![x], ..NewNode::new("If", [condition]) })
    }

    /// `x [a, b, 8]`, squeezed where its first axis is 1.
    fn squeezed(f: &mut Fixture) -> ValueId {
        let x = f.symbolic_input("x", &["a", "b", "8"]);
        let shape = f.op("Shape", &[x]);
        let first = f.integers(&[0]);
        let size = f.op("Gather", &[shape, first]);
        let one = f.integers(&[1]);
        let condition = f.op("Equal", &[size, one]);
        choose(f, condition, x, "Squeeze")
    }

    /// Puts an axis back where only one is left of `x`, and one in front.
    fn unsqueezed(f: &mut Fixture, x: ValueId) -> ValueId {
        let shape = f.op("Shape", &[x]);
        let rank = f.op("Size", &[shape]);
        let one = f.graph.add_constant(Tensor::scalar(onnx_opt_ir::ElementType::Int64, 1.0).unwrap());
        let condition = f.op("Equal", &[rank, one]);
        let matrix = choose(f, condition, x, "Unsqueeze");
        let axis = f.integers(&[0]);
        f.op("Unsqueeze", &[matrix, axis])
    }

    fn lstm(f: &mut Fixture, x: ValueId) {
        let w = f.weights(&[1, 32, 8]);
        let r = f.weights(&[1, 32, 8]);
        let h = f.node(NewNode::new("LSTM", [x, w, r]).with("hidden_size", 8));
        f.output("h", h);
    }

    fn run(f: &mut Fixture) -> Vec<String> {
        let mut statistics = Statistics::default();
        ImpossibleBranch.run(&mut f.graph, &PassContext::default(), &mut statistics);
        onnx_opt_ir::check_graph(&f.graph).unwrap();
        f.operators().into_iter().filter(|op| ["If", "LSTM", "Squeeze"].contains(&op.as_str())).collect()
    }

    #[test]
    fn only_one_branch_lets_the_lstm_run() {
        let mut f = Fixture::new(16);
        let x = squeezed(&mut f);
        let x = unsqueezed(&mut f, x);
        lstm(&mut f, x);
        assert_eq!(run(&mut f), ["Squeeze", "LSTM"]);
    }

    #[test]
    fn both_branches_may_be_taken() {
        let mut f = Fixture::new(16);
        let x = squeezed(&mut f);
        let x = unsqueezed(&mut f, x);
        f.output("y", x);
        assert_eq!(run(&mut f), ["If", "If"]);
    }

    #[test]
    fn a_model_that_cannot_run_at_all_is_left_alone() {
        let mut f = Fixture::new(16);
        let x = squeezed(&mut f);
        let axes = f.integers(&[0, 1]);
        let x = f.op("Unsqueeze", &[x, axes]);
        lstm(&mut f, x);
        assert_eq!(run(&mut f), ["If", "LSTM"]);
    }
}
