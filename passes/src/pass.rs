//! Passes and the manager that runs them in order.

use std::collections::BTreeSet;
use std::time::Instant;

use onnx_opt_ir::engine::ConstEval;
use onnx_opt_ir::{CheckError, Graph, Model, NodeId, check};
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
        let mut reports = Vec::new();
        for round in 0..MAX_ROUNDS {
            if !self.round(model, context, round, &mut observe, &mut reports)? {
                break;
            }
        }
        model.graph.sort().map_err(|_| PassError::Cycle)?;
        Ok(reports)
    }

    /// Runs the passes once and tells whether one changed anything. Only the first round reports idle passes.
    fn round(
        &self,
        model: &mut Model,
        context: &PassContext<'_>,
        round: usize,
        observe: &mut impl FnMut(&PassReport, &Model),
        reports: &mut Vec<PassReport>,
    ) -> Result<bool, PassError> {
        let mut news = false;
        // A model that nobody checked may be illegal from the start, which no pass can help.
        let checked =
            cfg!(debug_assertions) && model.graph.node_count() <= MAX_CHECKED_NODES && check(model).is_ok();
        for pass in &self.passes {
            let selected = if pass.rules().is_empty() {
                context.allows(pass.name())
            } else {
                !context.skip.contains(pass.name()) && !context.target.avoid.contains(pass.name())
            };
            if !selected {
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
            news |= fired;
            if checked {
                check(model).map_err(|source| PassError::Illegal { pass: pass.name(), source })?;
            }
            if fired || round == 0 {
                observe(&report, model);
                reports.push(report);
            }
        }
        Ok(news)
    }
}

/// Visits a graph and its bodies, innermost first.
pub(crate) fn for_each_graph(graph: &mut Graph, visit: &mut dyn FnMut(&mut Graph)) {
    let owners: Vec<NodeId> =
        graph.nodes().filter(|(_, node)| node.bodies().next().is_some()).map(|(id, _)| id).collect();
    for owner in owners {
        let edited = graph.edit_bodies(owner, |bodies| {
            for body in bodies.iter_mut() {
                for_each_graph(body, visit);
            }
        });
        debug_assert!(edited.is_ok(), "owners of bodies exist");
    }
    visit(graph);
}
