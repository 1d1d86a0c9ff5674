//! Structured pruning as a user asks for it: what to take out, and the report of what came of it.

use onnx_opt_ir::{Graph, Model};
use onnx_opt_passes::prune::group::{Group, Member, Stays};
use onnx_opt_passes::prune::plan::name;
use onnx_opt_passes::prune::{
    Groups, Limits, Norm, Normalization, Options, Outcome, PruneError, Ranking, Target, couple, prune,
};
use regex::Regex;
use serde::Serialize;

use crate::verify::VerifyReport;

/// What is to be pruned, and by what.
#[derive(Clone, Debug)]
pub struct Pruning {
    /// How far.
    pub target: Target,
    /// What units are worth.
    pub importance: Norm,
    /// How scores of several groups are made comparable.
    pub normalization: Normalization,
    /// Which units are held against each other.
    pub ranking: Ranking,
    /// What must be left.
    pub limits: Limits,
    /// Weights and nodes whose names match one of these stay as they are.
    pub excluded: Vec<Regex>,
    /// Whether groups stay whose removal changes more than that slices are zero.
    pub exact: bool,
}

impl Pruning {
    /// With a target, and everything else as it is when nothing is said.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            importance: Norm::L2,
            normalization: Normalization::default(),
            ranking: Ranking::default(),
            limits: Limits::default(),
            excluded: Vec::new(),
            exact: false,
        }
    }

    /// Prunes a model.
    ///
    /// # Errors
    /// If nothing can be pruned; the model is then as it was.
    pub fn apply(&self, model: &mut Model) -> Result<Outcome, PruneError> {
        let excluded = |name: &str| self.excluded.iter().any(|pattern| pattern.is_match(name));
        let options = Options {
            importance: &self.importance,
            normalization: self.normalization,
            ranking: self.ranking,
            limits: self.limits,
            excluded: &excluded,
            approximate: !self.exact,
            ..Options::new(self.target)
        };
        prune(model, &options)
    }

    /// What is to be gone, in words.
    pub fn title(&self) -> String {
        use onnx_opt_passes::prune::Importance as _;
        let (share, what) = match self.target {
            Target::Units(share) => (share, "units"),
            Target::Macs(share) => (share, "MACs"),
            Target::Bytes(share) => (share, "bytes of the weights"),
        };
        format!("{:.0} % of the {what}, by {}", share * 100.0, self.importance.name())
    }
}

/// What was pruned.
#[derive(Clone, Debug, Serialize)]
pub struct PruneReport {
    /// What was asked for, in words.
    pub title: String,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The result held against the original with the removed slices set to zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masked: Option<VerifyReport>,
    /// How far the outputs are from those of the original.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<VerifyReport>,
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
