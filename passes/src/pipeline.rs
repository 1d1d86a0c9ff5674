//! The ordered pipelines of O0 to O3.

use std::collections::BTreeSet;

use crate::cse::CommonSubexpressions;
use crate::dead_code::DeadCode;
use crate::fold::FoldShapes;
use crate::fold_constants::FoldConstants;
use crate::inline_if::InlineIf;
use crate::lift_constants::LiftConstants;
use crate::pass::{Pass, PassContext, PassManager};
use crate::rewrite::{ErrorClass, Rewriter, Rule, Statistics};
use crate::rules;

/// The pipeline of a level: 0 changes nothing, 1 applies what is bit-identical, 2 and 3 also what rounds otherwise.
pub fn pipeline(level: u8) -> PassManager {
    let class = match level {
        0 => return PassManager::new(Vec::new()),
        1 => ErrorClass::Exact,
        _ => ErrorClass::Rounding,
    };
    PassManager::new(vec![
        // First: constants in one form, so that every later pass meets initializers only.
        Box::new(LiftConstants),
        // Early: what nothing uses should cost no later pass any time.
        Box::new(DeadCode),
        // Before the rules: shape arithmetic that inference solved gives them constants to match.
        Box::new(FoldShapes),
        // With shapes folded, what they were the last unknown of is constant too.
        Box::new(FoldConstants { class }),
        // With conditions folded; the branches then count as ordinary nodes.
        Box::new(InlineIf),
        // Before the rules: a value with two twins looks shared, which blocks fusions.
        Box::new(CommonSubexpressions),
        Box::new(Rules { class }),
        // Again: the rules leave equal constants and equal nodes behind.
        Box::new(CommonSubexpressions),
        Box::new(DeadCode),
    ])
}

/// Names of all passes and rules.
pub fn names() -> BTreeSet<&'static str> {
    let manager = pipeline(3);
    let mut names: BTreeSet<&'static str> = manager.passes().map(Pass::name).collect();
    names.extend(rules::all().iter().map(|rule| rule.name()));
    names
}

/// The local rewrites.
struct Rules {
    class: ErrorClass,
}

impl Pass for Rules {
    fn name(&self) -> &'static str {
        "rules"
    }

    fn doc(&self) -> &'static str {
        "Applies the rewrite rules until none fires"
    }

    fn has_rules(&self) -> bool {
        true
    }

    fn run(&self, graph: &mut onnx_opt_ir::Graph, context: &PassContext, statistics: &mut Statistics) {
        let rules = rules::all();
        // An approximate rule applies only where it is asked for by name.
        let applies = |rule: &&dyn Rule| {
            context.allows(rule.name()) && (rule.class() <= self.class || context.only.contains(rule.name()))
        };
        let selected = rules.iter().map(|rule| &**rule).filter(applies);
        Rewriter::new(selected).explaining(context.explain).run(graph, statistics);
    }
}
