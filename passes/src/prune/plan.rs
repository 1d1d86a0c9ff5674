//! How far pruning goes, and what came of it.

use std::collections::{BTreeMap, BTreeSet};

use onnx_opt_ir::graph::Slot;
use onnx_opt_ir::{Graph, Model, NodeId, ValueId};
use serde::Serialize;
use thiserror::Error;

use super::cost::{Cost, Left};
use super::couple::couple;
use super::group::{Group, Groups, Stays};
use super::importance::{Importance, Norm, Normalization};
use super::lanes::{Lanes, Place};
use super::order::{Limits, Ranking, Step, steps};
use super::remove::{self, RemovalError, masked};
use crate::measure::MeasureError;
use crate::threads::side_by_side;

/// What is to be gone, as a share between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Of the units of every group, or of all together where they are ranked together.
    Units(f64),
    /// Of the multiply-accumulates.
    Macs(f64),
    /// Of the bytes of the weights.
    Bytes(f64),
}

impl Target {
    /// The share.
    pub fn share(self) -> f64 {
        let (Self::Units(share) | Self::Macs(share) | Self::Bytes(share)) = self;
        share
    }

    /// What of the costs is to fall.
    fn measure(self, left: &Left<'_>) -> f64 {
        let measure = match self {
            Self::Bytes(_) => left.weight_bytes(),
            Self::Units(_) | Self::Macs(_) => left.total_macs(),
        };
        measure as f64
    }

    /// Another share of the same.
    #[must_use]
    pub fn of(self, share: f64) -> Self {
        match self {
            Self::Units(_) => Self::Units(share),
            Self::Macs(_) => Self::Macs(share),
            Self::Bytes(_) => Self::Bytes(share),
        }
    }
}

/// How to prune.
pub struct Options<'a> {
    /// How far.
    pub target: Target,
    /// What units are worth.
    pub importance: &'a dyn Importance,
    /// How scores of several groups are made comparable.
    pub normalization: Normalization,
    /// Which units are held against each other.
    pub ranking: Ranking,
    /// What must be left.
    pub limits: Limits,
    /// Whether a weight of this name, or a node of this name, stays as it is.
    pub excluded: &'a dyn Fn(&str) -> bool,
    /// Whether groups may go although the result is then no masked original.
    pub approximate: bool,
    /// In how many steps: what is left is looked at anew after each.
    pub steps: usize,
}

impl Options<'_> {
    /// With a target, and everything else as it is when nothing is said.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            importance: &Norm::L2,
            normalization: Normalization::default(),
            ranking: Ranking::default(),
            limits: Limits::default(),
            excluded: &|_| false,
            approximate: true,
            steps: 1,
        }
    }
}

/// Why nothing was pruned.
#[derive(Debug, Error)]
pub enum PruneError {
    /// There is nothing to take.
    #[error("nothing can be pruned{0}")]
    Nothing(String),
    /// There is no measure of how far it goes.
    #[error("its multiply-accumulates are not known; name a share of the units, or of the bytes")]
    Unmeasured,
    /// A step went wrong.
    #[error(transparent)]
    Removal(#[from] RemovalError),
    /// What units are worth could not be told.
    #[error(transparent)]
    Score(#[from] MeasureError),
}

/// A layer and what is left of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    /// Name of the node.
    pub name: String,
    /// Its operator.
    pub op_type: String,
    /// Sizes of its weight before.
    pub before: Vec<u64>,
    /// And after.
    pub after: Vec<u64>,
    /// Multiply-accumulates before.
    pub macs_before: u64,
    /// And after.
    pub macs_after: u64,
}

/// What was removed of a group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupReport {
    /// The weight that makes its channels.
    pub weight: String,
    /// Units before.
    pub before: usize,
    /// Units after.
    pub after: usize,
    /// Channels of a unit.
    pub block: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Costs before.
    pub before: Cost,
    /// Costs after.
    pub after: Cost,
    /// Layers with weights, before and after.
    pub layers: Vec<Layer>,
    /// Groups and how many of their units are left.
    pub groups: Vec<GroupReport>,
    /// What stays, and why.
    pub barriers: Vec<Stays>,
    /// Why the result is not the original with slices set to zero, where it is not.
    pub approximate: Vec<String>,
    /// The original with the removed slices set to zero, if the result computes the same.
    #[serde(skip)]
    pub masked: Option<Graph>,
    /// What is left of the values of the main graph.
    #[serde(skip)]
    pub kept: Kept,
}

/// Indices that are left, by value and axis, of the axes that have lost some.
pub type Kept = BTreeMap<(ValueId, usize), Vec<u32>>;

/// Takes the least important units out of a model, and of each body in it.
///
/// # Errors
/// If nothing can be pruned, or what is left does not fit together; the model is then unchanged.
pub fn prune(model: &mut Model, options: &Options<'_>) -> Result<Outcome, PruneError> {
    model.raise_ir_version();
    let mut outcome = Outcome::default();
    let (mut result, mut masked) = (model.graph.clone(), model.graph.clone());
    prune_graph(&mut result, &mut masked, options, options.importance, &mut outcome)?;
    let unmeasured = outcome.before.macs == 0 && matches!(options.target, Target::Macs(_));
    if unmeasured && !outcome.groups.is_empty() {
        return Err(PruneError::Unmeasured);
    }
    if outcome.groups.iter().all(|group| group.before == group.after) {
        return Err(PruneError::Nothing(match (outcome.groups.is_empty(), outcome.barriers.first()) {
            (false, _) => " within the limits".to_owned(),
            (true, Some(stays)) => {
                format!(
                    ": axis {} of `{}` stays, by {} ({})",
                    stays.axis, stays.weight, stays.at, stays.reason
                )
            }
            (true, None) => ": there are no weights".to_owned(),
        }));
    }
    if outcome.approximate.is_empty() {
        outcome.masked = Some(masked);
    }
    model.graph = result;
    Ok(outcome)
}

/// Prunes the bodies of a graph, then itself; does to `reference` what sets the same slices to zero.
fn prune_graph(
    graph: &mut Graph,
    reference: &mut Graph,
    options: &Options<'_>,
    importance: &dyn Importance,
    outcome: &mut Outcome,
) -> Result<(), PruneError> {
    for owner in graph.owners() {
        let edited = graph.edit_bodies(owner, |bodies| {
            reference.edit_bodies(owner, |others| {
                let mut pairs = bodies.iter_mut().zip(others.iter_mut());
                let importance = importance.of_bodies();
                pairs.try_for_each(|(body, other)| prune_graph(body, other, options, importance, outcome))
            })
        });
        edited.map_err(RemovalError::from)?.map_err(RemovalError::from)??;
    }
    let lanes = couple(graph);
    let mut groups = Groups::of(graph, &lanes);
    groups.groups.retain(|group| is_wanted(graph, group, options));
    let gone = chosen(graph, &lanes, &groups, options, importance)?;

    let before = Left::all(graph, &lanes);
    let left = before.without(&gone);
    outcome.before += before.cost();
    outcome.after += left.cost();
    outcome.layers.extend(layers(graph, &before, &left));
    outcome.groups.extend(group_reports(graph, &groups, &gone));
    outcome.barriers.extend(groups.barriers.iter().cloned());
    outcome.kept = kept(&lanes, &gone);
    let touched = groups.groups.iter().filter(|group| group.classes.iter().any(|class| gone.contains(class)));
    for reason in touched.flat_map(|group| &group.approximate) {
        if !outcome.approximate.contains(reason) {
            outcome.approximate.push(reason.clone());
        }
    }
    *reference = masked(reference, &lanes, &gone)?;
    Ok(remove::remove(graph, &lanes, &gone)?)
}

/// The classes that go: in each step the least important of those that are left, up to its part of the target.
fn chosen(
    graph: &Graph,
    lanes: &Lanes,
    groups: &Groups,
    options: &Options<'_>,
    importance: &dyn Importance,
) -> Result<BTreeSet<u32>, PruneError> {
    let before: Vec<usize> = groups.groups.iter().map(Group::len).collect();
    let whole = Left::all(graph, lanes);
    let mut gone = BTreeSet::new();
    let mut left = groups.clone();
    let all = options.steps.max(1);
    for number in 1..=all {
        let scores = match gone.is_empty() {
            true => importance.scores(graph, &left)?,
            false => importance.scores(&masked(graph, lanes, &gone)?, &left)?,
        };
        let share = options.target.share() * number as f64 / all as f64;
        let reached = Reached { all: &whole, groups: &left, gone: &gone, before: &before };
        let target = options.target.of(share);
        let mut more = BTreeSet::new();
        for &multiple in options.limits.multiple.tries(target) {
            let limits = Limits { multiple, ..options.limits };
            let (normalization, ranking) = (options.normalization, options.ranking);
            let order = steps(graph, &left, &before, &scores, normalization, ranking, limits);
            more = reached.by(&order, target, ranking);
            if !reached.misses(&more, target) {
                break;
            }
        }
        for group in &mut left.groups {
            *group = group.without(&more);
        }
        gone.extend(more);
    }
    Ok(gone)
}

/// Indices that are left of each axis of a value that loses some.
fn kept(lanes: &Lanes, gone: &BTreeSet<u32>) -> Kept {
    let mut kept = Kept::new();
    for (place, axes) in lanes.places() {
        let Place::Value(value) = place else { continue };
        for (index, axis) in axes.iter().enumerate() {
            let left: Vec<u32> = (0u32..)
                .zip(axis.lanes())
                .filter(|(_, lane)| !gone.contains(&lanes.class(*lane)))
                .map(|(at, _)| at)
                .collect();
            if left.len() < axis.size() {
                kept.insert((value, index), left);
            }
        }
    }
    kept
}

fn is_wanted(graph: &Graph, group: &Group, options: &Options<'_>) -> bool {
    let named = |value: ValueId| {
        let users = graph
            .consumers(value)
            .filter_map(|consumer| graph.get_node(consumer.node)?.name().map(str::to_owned));
        let mut names = users.chain([graph.display_name(value)]);
        names.any(|name| (options.excluded)(&name))
    };
    group.len() > 1
        && (options.approximate || group.approximate.is_empty())
        && !group.weights.iter().any(|member| named(member.value))
}

fn classes_of(groups: &Groups, steps: &[Step]) -> BTreeSet<u32> {
    let units = steps.iter().filter_map(|step| Some((groups.groups.get(step.group)?, &step.units)));
    units
        .flat_map(|(group, units)| units.iter().filter_map(|&unit| group.classes.get(unit).copied()))
        .collect()
}

/// The first step of each group but this one.
fn of_each_other<'a>(
    steps: impl Iterator<Item = &'a Step>,
    group: Option<usize>,
) -> impl Iterator<Item = &'a Step> {
    let mut seen: BTreeSet<usize> = group.into_iter().collect();
    steps.filter(move |step| seen.insert(step.group))
}

/// What is gone already, and what may go next.
struct Reached<'a> {
    /// The graph as it was.
    all: &'a Left<'a>,
    /// What is left of the groups.
    groups: &'a Groups,
    gone: &'a BTreeSet<u32>,
    /// Units that groups had once.
    before: &'a [usize],
}

impl Reached<'_> {
    /// What goes to reach a target.
    fn by(&self, steps: &[Step], target: Target, ranking: Ranking) -> BTreeSet<u32> {
        /// Shares are sums of fractions.
        const SLACK: f64 = 1e-9;
        let share = target.share();
        let count = match (target, ranking) {
            (Target::Macs(_) | Target::Bytes(_), _) => {
                return self.worthwhile(self.nearest(steps, target), target);
            }
            (Target::Units(_), Ranking::Local | Ranking::Isomorphic) => {
                steps.iter().take_while(|step| step.key <= share + SLACK).count()
            }
            (Target::Units(_), Ranking::Global) => {
                let all: usize = self.before.iter().sum();
                let mut gone = all.saturating_sub(self.groups.units());
                let within = |step: &&Step| {
                    gone += step.units.len();
                    gone as f64 <= share * all as f64 + SLACK
                };
                steps.iter().take_while(within).count()
            }
        };
        classes_of(self.groups, &steps[..count])
    }

    /// The steps up to the first that is past a goal, these without the last of another group, those up to the one before,
    /// or these and the next of another group: what comes nearest.
    fn nearest(&self, steps: &[Step], target: Target) -> BTreeSet<u32> {
        let up_to = |count: usize| classes_of(self.groups, &steps[..count]);
        let goal = self.goal(target);
        // Costs fall with every step.
        let (mut low, mut high) = (0, steps.len());
        while low < high {
            let middle = (low + high) / 2;
            if self.cost(target, &up_to(middle)) <= goal { high = middle } else { low = middle + 1 }
        }
        let crossing = low.saturating_sub(1);
        let (before, past) = (up_to(crossing), up_to(low));
        let classes = |step| classes_of(self.groups, std::slice::from_ref(step));
        let group = steps.get(crossing).map(|step| step.group);
        let instead = of_each_other(steps[low..].iter(), group).map(|step| &before | &classes(step));
        let without = of_each_other(steps[..low].iter().rev(), group).map(|step| &past - &classes(step));
        let mut ways: Vec<_> =
            [past.clone(), before.clone()].into_iter().chain(instead).chain(without).collect();
        let miss = |way: usize| (self.cost(target, &ways[way]) - goal).abs();
        let misses = side_by_side(ways.len(), &miss);
        let best = (0..ways.len()).min_by(|&a, &b| misses[a].total_cmp(&misses[b])).unwrap_or(0);
        ways.swap_remove(best)
    }

    /// These classes without those of groups that bring next to nothing: a share of their units for no share of the target.
    fn worthwhile(&self, mut classes: BTreeSet<u32>, target: Target) -> BTreeSet<u32> {
        /// As a share of all.
        const LITTLE: f64 = 0.005;
        let reached = self.cost(target, &classes);
        let own = |group: &Group| -> BTreeSet<u32> {
            group.classes.iter().copied().filter(|class| classes.contains(class)).collect()
        };
        let owns: Vec<_> = self.groups.groups.iter().map(own).filter(|own| !own.is_empty()).collect();
        let brings = |group: usize| self.cost(target, &(&classes - &owns[group])) - reached;
        let brought = side_by_side(owns.len(), &brings);
        let mut brought: Vec<(f64, BTreeSet<u32>)> = brought.into_iter().zip(owns).collect();
        brought.sort_by(|a, b| a.0.total_cmp(&b.0));
        let whole = self.whole(target);
        for (_, own) in brought.into_iter().take_while(|(brought, _)| *brought <= LITTLE * whole) {
            let fewer = &classes - &own;
            if !self.misses(&fewer, target) {
                classes = fewer;
            }
        }
        classes
    }

    /// What is to fall, as it is when more classes are gone.
    fn cost(&self, target: Target, more: &BTreeSet<u32>) -> f64 {
        target.measure(&self.all.without(&(self.gone | more)))
    }

    /// What is to fall, as it was.
    fn whole(&self, target: Target) -> f64 {
        target.measure(self.all)
    }

    fn goal(&self, target: Target) -> f64 {
        self.whole(target) * (1.0 - target.share())
    }

    /// Whether a target that is counted is far off when these classes are gone.
    fn misses(&self, more: &BTreeSet<u32>, target: Target) -> bool {
        /// As a share of all.
        const NEAR: f64 = 0.025;
        !matches!(target, Target::Units(_))
            && (self.cost(target, more) - self.goal(target)).abs() > NEAR * self.whole(target)
    }
}

/// Operators that weigh what they take.
const LAYERS: &[&str] =
    &["Conv", "ConvTranspose", "Einsum", "GRU", "Gather", "Gemm", "LSTM", "MatMul", "RNN"];

/// The nodes with weights.
fn layers(graph: &Graph, before: &Left<'_>, left: &Left<'_>) -> Vec<Layer> {
    let mut nodes: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    nodes.sort_by_key(|&id| graph.node(id).position());
    let layer = |id: NodeId| {
        let node = graph.node(id);
        let (slot, value) = node.inputs().iter().enumerate().find_map(|(slot, &value)| {
            let value = value?;
            graph.constant(value).filter(|tensor| super::group::is_weight(tensor)).map(|_| (slot, value))
        })?;
        if !LAYERS.contains(&node.op_type()) {
            return None;
        }
        let place = super::lanes::place(graph, id, slot)?;
        let sizes: Vec<u64> = graph.constant(value)?.shape().iter().map(|&size| size as u64).collect();
        let after =
            sizes.iter().enumerate().map(|(axis, &size)| left.at(place, axis).unwrap_or(size)).collect();
        let name = node.name().filter(|name| !name.is_empty()).map(str::to_owned);
        Some(Layer {
            name: name.unwrap_or_else(|| graph.display_name(value)),
            op_type: node.op_type().to_owned(),
            before: sizes,
            after,
            macs_before: before.macs(id),
            macs_after: left.macs(id),
        })
    };
    nodes.into_iter().filter_map(layer).collect()
}

fn group_reports(graph: &Graph, groups: &Groups, gone: &BTreeSet<u32>) -> Vec<GroupReport> {
    let report = |group: &Group| GroupReport {
        weight: name(graph, group),
        before: group.len(),
        after: group.without(gone).len(),
        block: group.block(),
    };
    groups.groups.iter().map(report).collect()
}

/// A group goes by the weight that makes its channels.
pub fn name(graph: &Graph, group: &Group) -> String {
    let Some(member) = group
        .weights
        .iter()
        .find(|member| graph.constant(member.value).is_some_and(|w| super::group::is_weight(w)))
    else {
        return String::new();
    };
    let value = graph.get_value(member.value).and_then(|value| value.name());
    let user = || {
        let consumer =
            graph.consumers(member.value).find(|consumer| matches!(consumer.slot, Slot::Input(_)))?;
        Some(super::couple::title(graph, consumer.node))
    };
    value.map(str::to_owned).or_else(user).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::NewNode;

    use super::*;
    use crate::prune::Multiple;
    use crate::testing::Fixture;

    /// Three layers in a row, the middle ones of 32 and 48 units; weights have names.
    fn model() -> Model {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[1, 16]);
        let mut h = x;
        for (index, shape) in [[16, 32], [32, 48], [48, 4]].iter().enumerate() {
            let w = f.weights(shape);
            let node = NewNode {
                name: Some(format!("layer{index}").as_str().into()),
                ..NewNode::new("MatMul", [h, w])
            };
            h = f.node(node);
            if index < 2 {
                h = f.op("Relu", &[h]);
            }
        }
        f.with_output(h).into_model()
    }

    #[test]
    fn targets_are_met() {
        for share in [0.3, 0.5, 0.7] {
            for target in [Target::Macs(share), Target::Bytes(share)] {
                let outcome = prune(&mut model(), &Options::new(target)).unwrap();
                let left = outcome.after.macs as f64 / outcome.before.macs as f64;
                assert!((left - (1.0 - share)).abs() < 0.03, "{target:?}: {left}");
                assert!(outcome.masked.is_some() && outcome.after.joules < outcome.before.joules);
            }
        }
    }

    /// The smallest block, 4 of 48 units, is 6 % of them.
    #[test]
    fn targets_are_met_where_kernels_would_have_more() {
        for (share, whole_blocks) in [(0.5, true), (0.03, false)] {
            let limits = Limits { multiple: Multiple::Kernels, floor: 1 };
            let options = Options { limits, ..Options::new(Target::Macs(share)) };
            let outcome = prune(&mut model(), &options).unwrap();
            let left = outcome.after.macs as f64 / outcome.before.macs as f64;
            assert!((left - (1.0 - share)).abs() < 0.03, "{share}: {left}");
            let blocks = outcome.groups.iter().all(|group| group.after.is_multiple_of(4));
            assert_eq!(blocks, whole_blocks, "{:?}", outcome.groups);
        }
    }

    #[test]
    fn blocks_past_the_goal_are_given_back() {
        // 16 of 32 and 16 of 48 units are 60 %, the 16 of 32 alone 46 %.
        let limits = Limits { multiple: Multiple::Of(16), floor: 1 };
        let options = Options { limits, ..Options::new(Target::Macs(0.45)) };
        let outcome = prune(&mut model(), &options).unwrap();
        let left: Vec<usize> = outcome.groups.iter().map(|group| group.after).collect();
        assert_eq!(left, [16, 48], "{:?}", outcome.after);
    }

    #[test]
    fn groups_that_bring_next_to_nothing_stay() {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[1, 160]);
        let weights = [[160, 320], [320, 480], [480, 4], [160, 2], [2, 4]].map(|shape| f.weights(&shape));
        let layer = |f: &mut Fixture, x, w| {
            let h = f.op("MatMul", &[x, w]);
            f.op("Relu", &[h])
        };
        let h = layer(&mut f, x, weights[0]);
        let h = layer(&mut f, h, weights[1]);
        let main = f.op("MatMul", &[h, weights[2]]);
        let h = layer(&mut f, x, weights[3]);
        let side = f.op("MatMul", &[h, weights[4]]);
        let y = f.op("Add", &[main, side]);
        let mut model = f.with_output(y).into_model();
        let outcome = prune(&mut model, &Options::new(Target::Macs(0.8))).unwrap();
        let of_two = outcome.groups.iter().find(|group| group.before == 2).unwrap();
        assert_eq!(of_two.after, 2, "{:?}", outcome.groups);
        assert!((outcome.after.macs as f64 / outcome.before.macs as f64 - 0.2).abs() < 0.01);
    }

    #[test]
    fn planes_of_unknown_sizes_do_not_vanish() {
        let mut f = Fixture::new(17);
        let mut h = f.symbolic_input("x", &["batch", "3", "height", "width"]);
        for shape in [[16, 3, 5, 5], [16, 16, 5, 5], [4, 16, 3, 3]] {
            let w = f.weights(&shape);
            h = f.op("Conv", &[h, w]);
        }
        let mut model = f.with_output(h).into_model();
        let outcome = prune(&mut model, &Options::new(Target::Macs(0.5))).unwrap();
        // 16 is the least power of two that leaves something behind all three.
        assert_eq!(outcome.before.macs, 16 * (144 * 16 * 75 + 64 * 16 * 400 + 36 * 4 * 144));
        let left = outcome.after.macs as f64 / outcome.before.macs as f64;
        assert!((left - 0.5).abs() < 0.03, "{left}");
    }

    #[test]
    fn costs_told_before_are_those_found_after() {
        let mut model = model();
        let outcome = prune(&mut model, &Options::new(Target::Units(0.25))).unwrap();
        let again = couple(&model.graph);
        assert_eq!(Left::all(&model.graph, &again).cost(), outcome.after);
        let left: Vec<&[u64]> = outcome.layers.iter().map(|layer| &layer.after[..]).collect();
        assert_eq!(left, [[16, 24], [24, 36], [36, 4]]);
    }

    #[test]
    fn what_is_excluded_stays() {
        let excluded = |name: &str| name == "layer1";
        let options = Options { excluded: &excluded, ..Options::new(Target::Units(0.5)) };
        let error = prune(&mut model(), &options).unwrap_err().to_string();
        assert!(error.contains("nothing can be pruned"), "{error}");
        let excluded = |name: &str| name == "layer0";
        let options = Options { excluded: &excluded, ..Options::new(Target::Units(0.5)) };
        let outcome = prune(&mut model(), &options).unwrap();
        assert_eq!(outcome.groups.iter().map(|group| group.after).collect::<Vec<_>>(), [24]);
    }
}
