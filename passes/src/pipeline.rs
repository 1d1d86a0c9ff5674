//! The ordered pipelines of O0 to O3.

use onnx_opt_ir::{Graph, Model};

use crate::cse::CommonSubexpressions;
use crate::dead_code::DeadCode;
use crate::fold::FoldShapes;
use crate::fold_constants::FoldConstants;
use crate::impossible_branch::ImpossibleBranch;
use crate::inline_functions::InlineFunctions;
use crate::inline_if::InlineIf;
use crate::layout::Layout;
use crate::lift_constants::LiftConstants;
use crate::pass::{Pass, PassContext, PassManager};
use crate::raise_ir_version::RaiseIrVersion;
use crate::regularize::Regularize;
use crate::rewrite::{ErrorClass, Rewriter, Rule, Statistics};
use crate::rules;
use crate::unroll_loop::UnrollLoop;

/// The pipeline of a level: 0 changes nothing, 1 applies what is bit-identical, 2 and 3 also what rounds otherwise.
pub fn pipeline(level: u8) -> PassManager {
    let class = match level {
        0 => return PassManager::new(Vec::new()),
        1 => ErrorClass::Exact,
        _ => ErrorClass::Rounding,
    };
    let mut passes: Vec<Box<dyn Pass>> = vec![
        // First: what reads imports finds them all.
        Box::new(Regularize),
        // Early: from version 4 on constants may be added, and an input is what a caller gives.
        Box::new(RaiseIrVersion),
    ];
    if class > ErrorClass::Exact {
        // Exact, but no shorter: here since no pass sees into a call.
        passes.push(Box::new(InlineFunctions));
    }
    passes.extend::<Vec<Box<dyn Pass>>>(vec![
        // Early: constants in one form, so that every later pass meets initializers only.
        Box::new(LiftConstants),
        // Early: what nothing uses should cost no later pass any time.
        Box::new(DeadCode),
        // Before the rules: shape arithmetic that inference solved gives them constants to match.
        Box::new(FoldShapes),
        // With shapes folded, what they were the last unknown of is constant too.
        Box::new(FoldConstants { class }),
        // With conditions folded; the branches then count as ordinary nodes.
        Box::new(InlineIf),
        // With trip counts folded, and branches in place: a body is then as small as it gets.
        Box::new(UnrollLoop { class }),
        // Only of what InlineIf leaves: it tries what it does on copies.
        Box::new(ImpossibleBranch),
        // Before the rules: a value with two twins looks shared, which blocks fusions.
        Box::new(CommonSubexpressions),
        // Before the rules: Transposes lie between the operators that they merge.
        Box::new(Layout { class }),
        Box::new(Rules::new(class, rules::all())),
        // Again: the rules leave equal constants and equal nodes behind.
        Box::new(CommonSubexpressions),
        Box::new(DeadCode),
    ]);
    PassManager::new(passes)
}

/// The local rewrites.
pub struct Rules {
    class: ErrorClass,
    rules: Vec<Box<dyn Rule>>,
}

impl Rules {
    /// Those of `rules` that are as exact as `class`, or asked for by name.
    pub fn new(class: ErrorClass, rules: Vec<Box<dyn Rule>>) -> Self {
        Self { class, rules }
    }

    /// Why a rule must not fire, unless the user names it.
    fn veto(&self, rule: &dyn Rule, context: &PassContext<'_>) -> Option<String> {
        if context.only.contains(rule.name()) {
            return None;
        }
        if !context.allows(rule.name()) {
            return Some(format!("{} avoids it", context.target.name));
        }
        match rule.class() {
            class if class <= self.class => None,
            ErrorClass::Approximate => {
                Some("it is approximate, and applies only where --only names it".to_owned())
            }
            class => Some(format!("this level is {} and it is {class}", self.class)),
        }
    }
}

impl Pass for Rules {
    fn name(&self) -> &'static str {
        "rules"
    }

    fn doc(&self) -> &'static str {
        "Applies the rewrite rules until none fires"
    }

    fn rules(&self) -> Vec<&'static str> {
        self.rules.iter().map(|rule| rule.name()).collect()
    }

    fn run(&self, graph: &mut Graph, context: &PassContext<'_>, statistics: &mut Statistics) {
        let wanted = |rule: &&dyn Rule| {
            let named = context.only.is_empty() || context.only.contains(rule.name());
            named && !context.skip.contains(rule.name())
        };
        let rules = self.rules.iter().map(|rule| &**rule).filter(wanted);
        Rewriter::with_vetoes(rules.map(|rule| (rule, self.veto(rule, context))))
            .for_target(&context.target)
            .explaining(context.explain)
            .run(graph, statistics);
    }

    fn run_model(&self, model: &mut Model, context: &PassContext<'_>, statistics: &mut Statistics) {
        self.run(&mut model.graph, context, statistics);
        if !statistics.fired.is_empty() {
            model.import_used();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::rewrite::{Patch, Rewrite, Site};
    use crate::testing::Fixture;

    /// Sigmoid(x) = x, of some class.
    struct Drops(ErrorClass);

    impl Rule for Drops {
        fn name(&self) -> &'static str {
            "drops"
        }
        fn doc(&self) -> &'static str {
            "Sigmoid(x) = x"
        }
        fn class(&self) -> ErrorClass {
            self.0
        }
        fn roots(&self) -> Vec<&'static str> {
            vec!["Sigmoid"]
        }
        fn rewrite(&self, site: &Site<'_>) -> Rewrite {
            Ok(Patch::replacing(site.output()?, site.input(0)?))
        }
    }

    /// Whether a rule of one class fires in a pass of another.
    fn fires(rule: ErrorClass, pass: ErrorClass, only: &[&str]) -> bool {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[4]);
        let t = f.op("Sigmoid", &[x]);
        let y = f.op("Relu", &[t]);
        let mut model = f.with_output(y).into_model();
        let context = PassContext {
            only: only.iter().map(|&name| name.to_owned()).collect(),
            ..PassContext::default()
        };
        let manager = PassManager::new(vec![Box::new(Rules::new(pass, vec![Box::new(Drops(rule))]))]);
        assert!(manager.names().contains("drops"));
        manager.run(&mut model, &context, |_, _| {}).unwrap();
        model.graph.node_count() == 1
    }

    #[test]
    fn rules_apply_by_class_or_by_name() {
        use ErrorClass::{Approximate, Exact, Rounding};
        assert!(fires(Exact, Exact, &[]) && fires(Exact, Rounding, &[]) && fires(Rounding, Rounding, &[]));
        assert!(!fires(Rounding, Exact, &[]) && !fires(Approximate, Rounding, &[]));
        assert!(fires(Approximate, Exact, &["drops"]) && !fires(Exact, Exact, &["rules"]));
    }
}
