//! Layouts: Transposes move to where there are fewer of them.
//!
//! Exporters put Transposes around each operator that wants its axes in another order than their framework has. What
//! lies between two such operators could do with the axes as they are. For each Transpose the pass looks at the region
//! of operators on either side of it that could take their axes in another order, and moves those of them for which the
//! Transposes at the border become fewer, or else move fewer elements. Every change strictly lowers this cost, so that
//! the pass ends and finds nothing in its own result.

mod apply;
mod carry;
#[cfg(any(test, feature = "testing"))]
pub mod examples;
pub(crate) mod permutation;
mod region;

use onnx_opt_ir::{Graph, ValueId};
use rustc_hash::FxHashSet;

use crate::pass::{Pass, PassContext, for_each_graph};
use crate::rewrite::{ErrorClass, Statistics};
use permutation::Permutation;
use region::Region;

/// Moves Transposes through operators where that leaves fewer of them.
pub struct Layout {
    /// How results may differ: sums over axes that lie elsewhere may be rounded otherwise.
    pub class: ErrorClass,
}

const NAME: &str = "layout";

/// Operators looked at for each node of the graph, at most.
const VISITS_PER_NODE: usize = 16;

impl Pass for Layout {
    fn name(&self) -> &'static str {
        NAME
    }

    fn doc(&self) -> &'static str {
        "Moves Transposes through other operators to where there are fewer of them"
    }

    fn run(&self, graph: &mut Graph, _: &PassContext<'_>, statistics: &mut Statistics) {
        for_each_graph(graph, &mut |graph| {
            let moved = self.run_graph(graph);
            if moved > 0 {
                *statistics.fired.entry(NAME).or_default() += moved;
            }
        });
    }
}

impl Layout {
    /// How many regions changed.
    fn run_graph(&self, graph: &mut Graph) -> usize {
        // What each Transpose takes and makes, which a region may start from.
        let mut seeds: Vec<(ValueId, Permutation)> = Vec::new();
        for (_, node) in graph.nodes().filter(|(_, node)| node.is("Transpose")) {
            let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { continue };
            if let Some(permutation) = Permutation::of(graph, node) {
                seeds.push((y, permutation.inverse()));
                seeds.push((x, permutation));
            }
        }
        let mut budget = VISITS_PER_NODE * graph.node_count() + 1000;
        let mut seen: FxHashSet<(ValueId, Permutation)> = FxHashSet::default();
        let mut moved = 0;
        for (value, order) in seeds {
            if graph.rank(value) != Some(order.rank()) || seen.contains(&(value, order.clone())) {
                continue;
            }
            let region = Region::around(graph, value, order, self.class, &mut budget);
            if !region.nodes.is_empty()
                && let Some(nodes) = region.best_sides(graph)
                && apply::apply(graph, &region, &nodes).is_some()
            {
                moved += 1;
            }
            seen.extend(region.orders);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::examples::examples;
    use super::*;

    fn sorted(operators: impl IntoIterator<Item = impl ToString>) -> Vec<String> {
        let mut operators: Vec<String> = operators.into_iter().map(|name| name.to_string()).collect();
        operators.sort_unstable();
        operators
    }

    #[test]
    fn transposes_move_and_then_stay() {
        let mut wrong = Vec::new();
        for mut example in examples() {
            let layout = Layout { class: ErrorClass::Rounding };
            let graph = &mut example.graph.graph;
            layout.run(graph, &PassContext::default(), &mut Statistics::default());
            assert!(onnx_opt_ir::check_graph(graph).is_ok(), "{}", example.name);
            if sorted(example.graph.operators()) != sorted(example.left) {
                wrong.push(format!("{}: {:?}", example.name, example.graph.operators()));
            }
            let mut again = Statistics::default();
            layout.run(&mut example.graph.graph, &PassContext::default(), &mut again);
            assert_eq!(again, Statistics::default(), "{} moves again", example.name);
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn what_may_round_stays_where_bits_count() {
        let products = examples().into_iter().filter(|example| example.left.contains(&"MatMul"));
        for mut example in products {
            let before = example.graph.operators();
            let layout = Layout { class: ErrorClass::Exact };
            layout.run(&mut example.graph.graph, &PassContext::default(), &mut Statistics::default());
            assert_eq!(example.graph.operators(), before, "{}", example.name);
        }
    }
}
