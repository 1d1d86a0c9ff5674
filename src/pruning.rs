//! Structured pruning as a user asks for it: what to take out, and the report of what came of it.

use std::cell::RefCell;
use std::path::PathBuf;

use onnx_opt_ir::{Graph, Model};
use onnx_opt_passes::measure::{MeasureError, Totals};
use onnx_opt_passes::prune::group::{Group, Member, Stays};
use onnx_opt_passes::prune::importance::Scores;
use onnx_opt_passes::prune::plan::name;
use onnx_opt_passes::prune::{
    Criterion, Given, Groups, Importance, Limits, Measured, Norm, Normalization, Options, Outcome,
    PruneError, Ranking, Recovered, Target, couple, prune, recover,
};
use regex::Regex;
use serde::Serialize;

use crate::verify::VerifyReport;

/// What units are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// By their weights alone.
    Norm(Norm),
    /// By what samples tell.
    Measured(Criterion),
}

/// How far to prune.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// By what can be counted.
    Counted(Target),
    /// Until a run takes this share less time than before.
    Latency(f64),
}

/// What is to be pruned, and by what.
#[derive(Clone, Debug)]
pub struct Pruning {
    /// How far.
    pub goal: Goal,
    /// What units are worth.
    pub worth: Worth,
    /// How scores of several groups are made comparable.
    pub normalization: Normalization,
    /// Which units are held against each other.
    pub ranking: Ranking,
    /// What must be left.
    pub limits: Limits,
    /// In how many steps, with what is left looked at anew after each.
    pub steps: usize,
    /// Whether what is left is fitted to what there was.
    pub recover: bool,
    /// Files and folders of samples to measure and recover on; random ones where there are none.
    pub data: Vec<PathBuf>,
    /// Weights and nodes whose names match one of these stay as they are.
    pub excluded: Vec<Regex>,
    /// Whether groups stay whose removal changes more than that slices are zero.
    pub exact: bool,
}

/// What runs models for pruning.
pub struct Runs<'a> {
    /// Sums over samples.
    pub totals: Option<&'a dyn Totals>,
    /// The time of a run of the second model as a share of that of the first.
    pub time: &'a dyn Fn(&Model, &Model) -> Result<f64, String>,
}

impl Pruning {
    /// With a goal, and everything else as it is when nothing is said.
    pub fn new(goal: Goal) -> Self {
        Self {
            goal,
            worth: Worth::Norm(Norm::L2),
            normalization: Normalization::default(),
            ranking: Ranking::default(),
            limits: Limits::default(),
            steps: 1,
            recover: false,
            data: Vec::new(),
            excluded: Vec::new(),
            exact: false,
        }
    }

    /// Whether samples are needed.
    pub fn is_measured(&self) -> bool {
        self.recover || matches!(self.worth, Worth::Measured(_))
    }

    /// Prunes a model.
    ///
    /// # Errors
    /// If nothing can be pruned, or something cannot be measured; the model is then as it was.
    pub fn apply(&self, model: &mut Model, runs: &Runs<'_>) -> Result<Pruned, PruneError> {
        let base = Model { graph: Graph::new(model.graph.context().clone()), ..model.clone() };
        match self.worth {
            Worth::Norm(norm) => self.reach(model, &norm, runs),
            Worth::Measured(criterion) => {
                let totals = runs.totals.ok_or_else(no_samples)?;
                let recovers = self.recover;
                self.reach(model, &Measured { criterion, base: &base, totals, recovers }, runs)
            }
        }
    }

    fn reach(
        &self,
        model: &mut Model,
        importance: &dyn Importance,
        runs: &Runs<'_>,
    ) -> Result<Pruned, PruneError> {
        let share = match self.goal {
            Goal::Counted(target) => {
                let outcome = self.prune(model, target, importance)?;
                return Ok(Pruned { outcome, time: None });
            }
            Goal::Latency(share) => share,
        };
        // What units are worth does not change with how far it goes.
        let once = Once { importance, known: RefCell::new(None) };
        let importance: &dyn Importance = if self.steps > 1 { importance } else { &once };
        let (mut low, mut high, mut middle) = (0.0, 1.0, share);
        let mut best: Option<(f64, Model, Pruned)> = None;
        for _ in 0..TRIALS {
            let mut result = model.clone();
            let outcome = self.prune(&mut result, Target::Macs(middle), importance)?;
            let time = (runs.time)(model, &result)
                .map_err(|reason| PruneError::Score(MeasureError::Running(reason)))?;
            let miss = time - (1.0 - share);
            if best.as_ref().is_none_or(|(other, ..)| miss.abs() < other.abs()) {
                best = Some((miss, result, Pruned { outcome, time: Some(time) }));
            }
            if miss.abs() < NEAR {
                break;
            }
            if miss > 0.0 {
                low = middle
            } else {
                high = middle
            }
            middle = (low + high) / 2.0;
        }
        let (_, result, pruned) = best.ok_or_else(no_samples)?;
        *model = result;
        Ok(pruned)
    }

    fn prune(
        &self,
        model: &mut Model,
        target: Target,
        importance: &dyn Importance,
    ) -> Result<Outcome, PruneError> {
        let excluded = |name: &str| self.excluded.iter().any(|pattern| pattern.is_match(name));
        let options = Options {
            importance,
            normalization: self.normalization,
            ranking: self.ranking,
            limits: self.limits,
            excluded: &excluded,
            approximate: !self.exact,
            steps: self.steps,
            ..Options::new(target)
        };
        prune(model, &options)
    }

    /// Fits what is left to what there was, if that is asked for.
    ///
    /// # Errors
    /// If it cannot be measured.
    pub fn recover(
        &self,
        model: &mut Model,
        whole: &Graph,
        outcome: &Outcome,
        runs: &Runs<'_>,
    ) -> Result<Option<Recovered>, PruneError> {
        let given = match (self.recover, self.worth) {
            (true, _) => Given::Recovered,
            // A surgeon mends what it cuts.
            (false, Worth::Measured(Criterion::Reconstruction)) => Given::Original,
            _ => return Ok(None),
        };
        let totals = runs.totals.ok_or_else(no_samples)?;
        Ok(Some(recover(model, whole, &outcome.kept, given, totals)?))
    }

    /// What is to be gone, in words.
    pub fn title(&self) -> String {
        let (share, what) = match self.goal {
            Goal::Counted(Target::Units(share)) => (share, "units"),
            Goal::Counted(Target::Macs(share)) => (share, "MACs"),
            Goal::Counted(Target::Bytes(share)) => (share, "bytes of the weights"),
            Goal::Latency(share) => (share, "time"),
        };
        let worth = match self.worth {
            Worth::Norm(norm) => norm.name(),
            Worth::Measured(criterion) => criterion.name(),
        };
        format!("{:.0} % of the {what}, by {worth}", share * 100.0)
    }
}

/// Models that are timed until one is near the goal.
const TRIALS: usize = 8;

/// So near is near enough.
const NEAR: f64 = 0.02;

fn no_samples() -> PruneError {
    PruneError::Score(MeasureError::Running("there are no samples".to_owned()))
}

/// An importance that is found once.
struct Once<'a> {
    importance: &'a dyn Importance,
    known: RefCell<Option<Scores>>,
}

impl Importance for Once<'_> {
    fn name(&self) -> &'static str {
        self.importance.name()
    }

    fn scores(&self, graph: &Graph, groups: &Groups) -> Result<Scores, MeasureError> {
        let mut known = self.known.borrow_mut();
        match &*known {
            Some(scores) => Ok(scores.clone()),
            None => Ok(known.insert(self.importance.scores(graph, groups)?).clone()),
        }
    }

    fn of_bodies(&self) -> &dyn Importance {
        self.importance.of_bodies()
    }
}

/// What was pruned, and the time of a run as a share of what it was, where that was measured.
pub struct Pruned {
    /// What came of it.
    pub outcome: Outcome,
    /// The time.
    pub time: Option<f64>,
}

/// What was pruned.
#[derive(Clone, Debug, Serialize)]
pub struct PruneReport {
    /// What was asked for, in words.
    pub title: String,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The time of a run as a share of what it was, before the last passes, where that was the goal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<f64>,
    /// What it was measured and recovered on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<Samples>,
    /// What was fitted to the original.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<Recovered>,
    /// The result held against the original with the removed slices set to zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masked: Option<VerifyReport>,
    /// How far the outputs are from those of the original.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<VerifyReport>,
}

/// What pruning was told by.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Samples {
    /// How many.
    pub count: usize,
    /// Whether they were random.
    pub random: bool,
}

/// What of a model could be pruned, and what not and why.
#[derive(Clone, Debug, Serialize)]
pub struct GroupsReport {
    /// Groups of units, of which any may go.
    pub groups: Vec<GroupDescription>,
    /// Axes of weights that stay, wholly or in part.
    pub barriers: Vec<Stays>,
}

/// A group.
#[derive(Clone, Debug, Serialize)]
pub struct GroupDescription {
    /// The weight that makes its channels.
    pub name: String,
    /// Number of units.
    pub units: usize,
    /// Channels of a unit.
    pub block: usize,
    /// Slices of weights.
    pub weights: Vec<Slices>,
    /// Slices of computed values.
    pub activations: Vec<Slices>,
    /// Why the rest computes something else when units go, if it does.
    pub approximate: Vec<String>,
}

/// Slices of one axis.
#[derive(Clone, Debug, Serialize)]
pub struct Slices {
    /// The tensor.
    pub name: String,
    /// The axis.
    pub axis: usize,
    /// By unit: indices along the axis.
    pub indices: Vec<Vec<u32>>,
}

impl GroupsReport {
    /// The groups of a graph and of its bodies.
    pub fn of(graph: &Graph) -> Self {
        let found = Groups::of(graph, &couple(graph));
        let groups = found.groups.iter().map(|group| describe(graph, group)).collect();
        let mut report = Self { groups, barriers: found.barriers };
        for body in graph.nodes().flat_map(|(_, node)| node.bodies()) {
            let inner = Self::of(body);
            report.groups.extend(inner.groups);
            report.barriers.extend(inner.barriers);
        }
        report
    }
}

fn describe(graph: &Graph, group: &Group) -> GroupDescription {
    let slices = |member: &Member| Slices {
        name: graph.display_name(member.value),
        axis: member.axis,
        indices: (0..group.len()).map(|unit| member.of_unit(unit).to_vec()).collect(),
    };
    GroupDescription {
        name: name(graph, group),
        units: group.len(),
        block: group.block(),
        weights: group.weights.iter().map(slices).collect(),
        activations: group.activations.iter().map(slices).collect(),
        approximate: group.approximate.clone(),
    }
}
