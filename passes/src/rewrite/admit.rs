//! Whether a target has what a patch builds, at no more than what it replaces costs there.

use std::collections::BTreeSet;

use onnx_opt_ir::{Graph, NodeId};
use rustc_hash::FxHashSet;

use super::patch::{Operand, Patch};
use crate::target::Target;

/// What is not listed costs as much as an elementwise operator.
const ELEMENTWISE: f64 = 1.0;

/// `Ok` if the target takes the patch, else the reason why not.
pub(super) fn admit(target: &Target, graph: &Graph, patch: &Patch) -> Result<(), String> {
    if let Some(node) = patch.nodes.iter().find(|node| !target.has(&node.domain, &node.op_type)) {
        return Err(format!("{} may not have {}:{}", target.name, node.domain, node.op_type));
    }
    let listed = |node: &super::patch::PatchNode| target.listed_cost(&node.domain, &node.op_type);
    let dearest = patch.nodes.iter().filter_map(|node| Some((listed(node)?, node)));
    let Some((_, dearest)) = dearest.max_by(|(a, _), (b, _)| a.total_cmp(b)) else { return Ok(()) };
    let new: f64 = patch.nodes.iter().map(|node| listed(node).unwrap_or(ELEMENTWISE)).sum();
    let cost = |id: NodeId| {
        let node = graph.node(id);
        target.listed_cost(node.domain(), node.op_type()).unwrap_or(ELEMENTWISE)
    };
    let old: f64 = replaced(graph, patch).into_iter().map(cost).sum();
    if new <= old {
        return Ok(());
    }
    Err(match new.is_infinite() {
        true => format!("{} does not have {}", target.name, dearest.op_type),
        false => format!("{} costs {} more than it replaces", dearest.op_type, target.name),
    })
}

/// The nodes that nothing uses once the patch is committed.
fn replaced(graph: &Graph, patch: &Patch) -> BTreeSet<NodeId> {
    let given_up: FxHashSet<_> = patch.replacements.iter().map(|&(old, _)| old).collect();
    let operands = patch.nodes.iter().flat_map(|node| &node.inputs);
    let kept: FxHashSet<_> = operands
        .chain(patch.replacements.iter().map(|(_, new)| new))
        .filter_map(|operand| match operand {
            Operand::Value(value) => Some(*value),
            _ => None,
        })
        .collect();
    let mut gone = BTreeSet::new();
    let mut candidates: Vec<NodeId> =
        given_up.iter().filter_map(|&old| graph.producer(old).map(|(node, ..)| node)).collect();
    // A node comes up again with each of its consumers that goes.
    while let Some(id) = candidates.pop() {
        let node = graph.node(id);
        let unused = node.outputs().iter().flatten().all(|value| {
            given_up.contains(value)
                || !kept.contains(value)
                    && !graph.is_output(*value)
                    && !graph.is_pinned(*value)
                    && graph.consumers(*value).all(|consumer| gone.contains(&consumer.node))
        });
        if unused && gone.insert(id) {
            candidates
                .extend(node.operands().filter_map(|value| graph.producer(value)).map(|(node, ..)| node));
        }
    }
    gone
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::rewrite::{Rewrite, Rewriter, Rule, Site, Statistics};
    use crate::rules;
    use crate::testing::Fixture;

    fn target(rest: &str) -> Target {
        Target::parse(&format!("name = \"mine\"\nhighest_opset = 24\n{rest}")).unwrap()
    }

    /// x·σ(x), and σ(x) for others where asked.
    fn product(shared: bool) -> Fixture {
        let mut f = Fixture::new(24);
        let x = f.input("x", &[4]);
        let s = f.op("Sigmoid", &[x]);
        let y = f.op("Mul", &[x, s]);
        if shared {
            f.output("s", s);
        }
        f.with_output(y)
    }

    fn run(target: &Target, mut f: Fixture, rules: &[Box<dyn Rule>]) -> (Vec<String>, Vec<String>) {
        let mut statistics = Statistics::default();
        let rewriter = Rewriter::new(rules.iter().map(|rule| &**rule));
        rewriter.for_target(target).explaining(true).run(&mut f.graph, &mut statistics);
        (f.operators(), statistics.declined.into_values().collect())
    }

    #[test]
    fn what_costs_more_is_declined() {
        let swish = |rest: &str| run(&target(rest), product(false), &rules::activation::rules());
        for rest in ["", "costs.Swish = 2.0", "costs = { Swish = 3.0, Sigmoid = 2.0 }"] {
            assert_eq!(swish(rest).0, ["Swish"], "{rest}");
        }
        let (operators, reasons) = swish("costs.Swish = 2.5");
        assert_eq!(operators, ["Sigmoid", "Mul"]);
        assert_eq!(reasons, ["Swish costs mine more than it replaces"]);
        let (operators, reasons) = swish("costs.Swish = inf");
        assert_eq!((operators.len(), &reasons[0][..]), (2, "mine does not have Swish"));
    }

    /// Only what the rewrite makes useless counts.
    #[test]
    fn what_stays_is_not_replaced() {
        let f = product(true);
        let root = f.graph.producer(f.graph.outputs()[1].value).unwrap().0;
        let patch = Patch::replacing(f.graph.outputs()[1].value, f.graph.inputs()[0].value);
        assert_eq!(replaced(&f.graph, &patch), [root].into());
        let f = product(false);
        let patch = Patch::replacing(f.graph.outputs()[0].value, f.graph.inputs()[0].value);
        assert_eq!(replaced(&f.graph, &patch).len(), 2);
    }

    /// σ(x) by an operator of another domain, wrongly.
    struct Foreign;

    impl Rule for Foreign {
        fn name(&self) -> &'static str {
            "foreign"
        }
        fn doc(&self) -> &'static str {
            "Sigmoid(x) by another operator."
        }
        fn class(&self) -> crate::rewrite::ErrorClass {
            crate::rewrite::ErrorClass::Exact
        }
        fn roots(&self) -> Vec<&'static str> {
            vec!["Sigmoid"]
        }
        fn rewrite(&self, site: &Site<'_>) -> Rewrite {
            let mut patch = Patch::new();
            let attributes = onnx_opt_ir::Attributes::default();
            let new = patch.node_of("com.microsoft", "QuickGelu", [site.input(0)?], attributes, 1);
            patch.replace(site.output()?, new[0]);
            Ok(patch)
        }
    }

    #[test]
    fn operators_of_other_domains_need_leave() {
        let (operators, reasons) = run(&target(""), product(false), &[Box::new(Foreign)]);
        assert_eq!(operators, ["Sigmoid", "Mul"]);
        assert_eq!(reasons, ["mine may not have com.microsoft:QuickGelu"]);
    }

    #[test]
    fn functions_of_the_model_are_no_operators() {
        use onnx_opt_ir::graph::{Context, FunctionId};
        let own = FunctionId { domain: "com.microsoft".to_owned(), name: "QuickGelu".to_owned() };
        for (functions, expected) in [(vec![], "QuickGelu"), (vec![own], "Sigmoid")] {
            let graph = Graph::new(Context::new(8, [(String::new(), 17)], functions));
            let mut f = Fixture { graph };
            let x = f.input("x", &[4]);
            let y = f.op("Sigmoid", &[x]);
            let mine = target("contrib = [\"com.microsoft:QuickGelu\"]");
            assert_eq!(run(&mine, f.with_output(y), &[Box::new(Foreign)]).0, [expected]);
        }
    }
}
