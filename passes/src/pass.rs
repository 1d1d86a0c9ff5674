//! Passes and the manager that runs them in order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use onnx_opt_ir::engine::ConstEval;
use onnx_opt_ir::{CheckError, Graph, Model, check};
use thiserror::Error;

use crate::rewrite::Statistics;
use crate::target::Target;

/// What the user asked of the passes, and what they may use.
#[derive(Clone, Default)]
pub struct PassContext<'a> {
    /// Names of passes and rules to leave out.
    pub skip: BTreeSet<String>,
    /// Names of the only passes and rules to apply; empty for all.
    pub only: BTreeSet<String>,
    /// Where the model will run.
    pub target: Target,
    /// Keep the reasons of declined matches.
    pub explain: bool,
    /// Folds constants through operators that the built-in evaluator does not know.
    pub const_eval: Option<&'a dyn ConstEval>,
    /// What folding may cost.
    pub fold: FoldBudget,
}

/// What folding of constants may cost in one run of its pass. Counted, not timed, so that the result is the same on
/// every machine.
#[derive(Clone, Copy, Debug)]
pub struct FoldBudget {
    /// Bytes that one fold may add to the file.
    pub growth: usize,
    /// Bytes of all tensors that folding computes.
    pub bytes: usize,
    /// Operations on elements.
    pub operations: u64,
}

impl Default for FoldBudget {
    /// As good as no growth, and seconds.
    fn default() -> Self {
        Self { growth: 64, bytes: 2 << 30, operations: 4_000_000_000 }
    }
}

impl PassContext<'_> {
    /// Whether a pass or rule of this name is to be applied. One that the user names is, whatever the target avoids.
    pub fn allows(&self, name: &str) -> bool {
        let wanted = match self.only.is_empty() {
            true => !self.target.avoid.contains(name),
            false => self.only.contains(name),
        };
        wanted && !self.skip.contains(name)
    }
}

/// A transformation of a graph and its bodies.
pub trait Pass: Send + Sync {
    /// Name for the command line, in snake case.
    fn name(&self) -> &'static str;
    /// What it does, in a line.
    fn doc(&self) -> &'static str;
    /// Names of the rules that it applies, which `only` and `skip` reach one by one; none for a pass that is a whole.
    fn rules(&self) -> Vec<&'static str> {
        Vec::new()
    }
    /// Changes the graph, counting what it applied under its own name or those of its rules. A pass whose matter is
    /// more than the graph has [`Pass::run_model`] instead.
    fn run(&self, _graph: &mut Graph, _context: &PassContext<'_>, _statistics: &mut Statistics) {}

    /// Changes the model: its graph, if the pass has nothing else to say.
    fn run_model(&self, model: &mut Model, context: &PassContext<'_>, statistics: &mut Statistics) {
        self.run(&mut model.graph, context, statistics);
    }
}

/// What one pass did.
#[derive(Clone, Debug)]
pub struct PassReport {
    /// The pass.
    pub pass: &'static str,
    /// Time it took.
    pub seconds: f64,
    /// Nodes before, bodies not counted.
    pub nodes_before: usize,
    /// Nodes after.
    pub nodes_after: usize,
    /// What it applied.
    pub statistics: Statistics,
}

/// Why the passes were not run.
#[derive(Debug, Error)]
pub enum PassError {
    /// Training information names values of the graph.
    #[error("the model carries training information, whose names no pass may touch; use -O0")]
    TrainingInfo,
    /// The graph cannot be put in order.
    #[error("the graph has a cycle")]
    Cycle,
    /// A pass went wrong. Only debug builds look.
    #[error("`{pass}` left a graph that is not legal: {source}")]
    Illegal {
        /// The pass.
        pass: &'static str,
        /// What is not legal.
        source: CheckError,
    },
}

/// What the passes of a run did so far.
#[derive(Default)]
struct History {
    reports: Vec<PassReport>,
    /// How many of them changed the model.
    changes: usize,
    /// By pass, how many had when it last found nothing to change.
    idle: BTreeMap<&'static str, usize>,
}

/// The pipeline runs again while it finds something, so that optimizing a result again changes nothing; at most so
/// often.
const MAX_ROUNDS: usize = 8;

/// Debug builds check models of at most so many nodes after every pass; larger ones would take too long.
const MAX_CHECKED_NODES: usize = 4_000;

/// Passes in order.
pub struct PassManager {
    passes: Vec<Box<dyn Pass>>,
}

impl PassManager {
    /// A manager of these passes.
    pub fn new(passes: Vec<Box<dyn Pass>>) -> Self {
        Self { passes }
    }

    /// With one more pass, after the others.
    #[must_use]
    pub fn with(mut self, pass: Box<dyn Pass>) -> Self {
        self.passes.push(pass);
        self
    }

    /// The passes in order.
    pub fn passes(&self) -> impl Iterator<Item = &dyn Pass> {
        self.passes.iter().map(|pass| &**pass)
    }

    /// Names of the passes and of their rules.
    pub fn names(&self) -> BTreeSet<&'static str> {
        self.passes().flat_map(|pass| pass.rules().into_iter().chain([pass.name()])).collect()
    }

    /// Runs the passes in order and puts the nodes in order. `observe` sees the model after each pass.
    ///
    /// # Errors
    /// If the model rules the passes out, and is then unchanged, or its nodes cannot be put in order.
    pub fn run(
        &self,
        model: &mut Model,
        context: &PassContext<'_>,
        mut observe: impl FnMut(&PassReport, &Model),
    ) -> Result<Vec<PassReport>, PassError> {
        if self.passes.is_empty() {
            return Ok(Vec::new());
        }
        if !model.rest.training_info.is_empty() {
            return Err(PassError::TrainingInfo);
        }
        let mut history = History::default();
        for round in 0..MAX_ROUNDS {
            let before = history.changes;
            self.round(model, context, round, &mut observe, &mut history)?;
            if history.changes == before {
                break;
            }
        }
        model.graph.sort().map_err(|_| PassError::Cycle)?;
        Ok(history.reports)
    }

    /// Runs the passes once. Only the first round reports idle passes; after it one that was idle is left out until
    /// another has changed anything.
    fn round(
        &self,
        model: &mut Model,
        context: &PassContext<'_>,
        round: usize,
        observe: &mut impl FnMut(&PassReport, &Model),
        history: &mut History,
    ) -> Result<(), PassError> {
        // A model that nobody checked may be illegal from the start, which no pass can help.
        let checked =
            cfg!(debug_assertions) && model.graph.node_count() <= MAX_CHECKED_NODES && check(model).is_ok();
        for pass in &self.passes {
            let selected = if pass.rules().is_empty() {
                context.allows(pass.name())
            } else {
                !context.skip.contains(pass.name()) && !context.target.avoid.contains(pass.name())
            };
            let idle = round > 0 && history.idle.get(pass.name()) == Some(&history.changes);
            if !selected || idle {
                continue;
            }
            let start = Instant::now();
            let nodes_before = model.graph.node_count();
            let mut statistics = Statistics::default();
            pass.run_model(model, context, &mut statistics);
            let report = PassReport {
                pass: pass.name(),
                seconds: start.elapsed().as_secs_f64(),
                nodes_before,
                nodes_after: model.graph.node_count(),
                statistics,
            };
            let fired = !report.statistics.fired.is_empty();
            match fired {
                true => history.changes += 1,
                false => drop(history.idle.insert(pass.name(), history.changes)),
            }
            if checked {
                check(model).map_err(|source| PassError::Illegal { pass: pass.name(), source })?;
            }
            if fired || round == 0 {
                observe(&report, model);
                history.reports.push(report);
            }
        }
        Ok(())
    }
}

/// Visits a graph and its bodies, innermost first.
pub(crate) fn for_each_graph(graph: &mut Graph, visit: &mut dyn FnMut(&mut Graph)) {
    for owner in graph.owners() {
        let edited = graph.edit_bodies(owner, |bodies| {
            for body in bodies.iter_mut() {
                for_each_graph(body, visit);
            }
        });
        debug_assert!(edited.is_ok(), "owners of bodies exist");
    }
    visit(graph);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::testing::Fixture;

    /// Writes down when it runs, and says that it changed something in these of its runs.
    struct Noted {
        name: &'static str,
        changes: &'static [usize],
        runs: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Pass for Noted {
        fn name(&self) -> &'static str {
            self.name
        }

        fn doc(&self) -> &'static str {
            "Notes its runs"
        }

        fn run(&self, _: &mut Graph, _: &PassContext<'_>, statistics: &mut Statistics) {
            let mut runs = self.runs.lock().unwrap();
            let before = runs.iter().filter(|name| **name == self.name).count();
            runs.push(self.name);
            if self.changes.contains(&before) {
                statistics.fired.insert(self.name, 1);
            }
        }
    }

    /// The passes that ran, in order, where these say in these of their runs that they changed something.
    fn order_of(passes: &[(&'static str, &'static [usize])]) -> String {
        let runs = Arc::default();
        let pass = |&(name, changes)| -> Box<dyn Pass> {
            Box::new(Noted { name, changes, runs: Arc::clone(&runs) })
        };
        let manager = PassManager::new(passes.iter().map(pass).collect());
        let mut f = Fixture::new(13);
        let x = f.input("x", &[1]);
        let y = f.op("Relu", &[x]);
        let mut model = f.with_output(y).into_model();
        let reports = manager.run(&mut model, &PassContext::default(), |_, _| {}).unwrap();
        assert!(passes.iter().all(|(name, _)| reports.iter().any(|report| report.pass == *name)));
        runs.lock().unwrap().join(" ")
    }

    #[test]
    fn a_pass_runs_again_after_a_change_alone() {
        // Nothing changes: one round.
        assert_eq!(order_of(&[("a", &[]), ("b", &[])]), "a b");
        // What comes after the last change was idle then, and stays so.
        assert_eq!(order_of(&[("a", &[]), ("b", &[0]), ("c", &[])]), "a b c a b");
        // A change in the second round calls all before it again, and itself.
        assert_eq!(order_of(&[("a", &[]), ("b", &[0]), ("a", &[])]), "a b a b");
        assert_eq!(order_of(&[("a", &[1]), ("b", &[0]), ("c", &[])]), "a b c a b c a");
    }
}
