//! The order in which units go: steps of one group each, every beginning of which is a legal choice.

use onnx_opt_ir::Graph;

use super::group::Groups;
use super::importance::{Normalization, Scores};
use super::plan::Target;

/// Among which units the least important are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Ranking {
    /// Each group loses the same share.
    #[default]
    Local,
    /// All units of the graph are held against each other.
    Global,
    /// Units of groups with the same axes of the same operators are held against each other.
    Isomorphic,
}

/// What numbers of channels may be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Multiple {
    /// Multiples of so many, where they were.
    Of(usize),
    /// Multiples of 16 where there were so many or more, of 8 where there were fewer: convolutions of onnxruntime have their
    /// channels in blocks of 8, with AVX-512 of 16, and turn back before a pool what is no whole number of blocks. There, with
    /// 30 and 50 % of the multiply-accumulates gone, a network of 16 to 48 channels takes 0.85 and 0.68 of the time in
    /// multiples of 16, but 1.37 and 1.31 in those of 8.
    Blocks(usize),
    /// What kernels work on at once: multiples of 8 where there were 64 or more, of 4 where there were 16 or more. With
    /// half of the multiply-accumulates gone, a MobileNetV2 takes 0.58 of the time in onnxruntime in multiples of 4, 0.56
    /// in those of 8, and 0.87 without; networks of fewer channels take 0.6, 0.5 and 1.4.
    Kernels,
}

impl Multiple {
    /// What is tried in turn until a target is met: whole blocks wherever a number that is to fall can be met so.
    pub(super) fn tries(&self, target: Target) -> &[Self] {
        match (self, target) {
            (Self::Kernels, Target::Macs(_) | Target::Bytes(_)) => {
                &[Self::Blocks(16), Self::Blocks(64), Self::Of(8), Self::Kernels, Self::Of(1)]
            }
            _ => std::slice::from_ref(self),
        }
    }

    /// Of a group of so many channels.
    fn of(self, channels: usize) -> usize {
        match self {
            Self::Of(multiple) => multiple.max(1),
            Self::Blocks(from) if channels >= from => 16,
            Self::Blocks(_) => 8,
            Self::Kernels if channels >= 64 => 8,
            Self::Kernels if channels >= 16 => 4,
            Self::Kernels => 1,
        }
    }
}

/// What must be left of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Channels that are left.
    pub multiple: Multiple,
    /// Channels that are left, at least.
    pub floor: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { multiple: Multiple::Of(1), floor: 1 }
    }
}

/// Units of one group that go together, so that what is left is within the limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The group.
    pub group: usize,
    /// Its units.
    pub units: Vec<usize>,
    /// When: steps go by this. A share of the group for [`Ranking::Local`], else a score.
    pub key: f64,
    /// The share of its group that is gone after it.
    pub share: f64,
}

/// The steps in order. `before` tells how many units groups had once; shares and limits are of those.
pub fn steps(
    graph: &Graph,
    groups: &Groups,
    before: &[usize],
    scores: &Scores,
    normalization: Normalization,
    ranking: Ranking,
    limits: Limits,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for (number, ((group, own), &all)) in groups.groups.iter().zip(scores).zip(before).enumerate() {
        let gone = all.saturating_sub(group.len());
        let comparable = normalization.apply(own);
        let mut order: Vec<usize> = (0..group.len()).collect();
        order.sort_by(|&a, &b| comparable[a].total_cmp(&comparable[b]).then(a.cmp(&b)));
        let mut units = Vec::new();
        for (position, &unit) in order.iter().enumerate() {
            units.push(unit);
            let left = group.len() - position - 1;
            if left == 0 || left * group.block() < limits.floor {
                break;
            }
            if !fits(left, all, group.block(), limits.multiple) {
                continue;
            }
            let share = (gone + position + 1) as f64 / all.max(1) as f64;
            let mean = units.iter().map(|&unit| comparable[unit]).sum::<f64>() / units.len() as f64;
            steps.push(Step { group: number, units: std::mem::take(&mut units), key: mean, share });
        }
    }
    match ranking {
        Ranking::Local => {
            // Between groups that have lost the same share the scores decide.
            steps.sort_by(|a, b| a.share.total_cmp(&b.share).then(a.key.total_cmp(&b.key)));
            steps.iter_mut().for_each(|step| step.key = step.share);
        }
        Ranking::Global => by_score(&mut steps),
        Ranking::Isomorphic => isomorphic(graph, groups, before, &mut steps),
    }
    steps
}

/// Whether so many units may be left: a multiple of channels, or of the units where a unit is such a multiple itself.
fn fits(left: usize, all: usize, block: usize, multiple: Multiple) -> bool {
    let multiple = multiple.of(all * block);
    // A group that is no multiple itself cannot get worse.
    (left * block).is_multiple_of(multiple) || all * block < multiple
}

/// By score, the steps of each group in their order.
fn by_score(steps: &mut [Step]) {
    let mut highest: std::collections::BTreeMap<usize, f64> = std::collections::BTreeMap::new();
    for step in steps.iter_mut() {
        let before = highest.entry(step.group).or_insert(f64::NEG_INFINITY);
        step.key = step.key.max(*before);
        *before = step.key;
    }
    steps.sort_by(|a, b| {
        a.key.total_cmp(&b.key).then(a.group.cmp(&b.group)).then(a.share.total_cmp(&b.share))
    });
}

/// Each set of groups of one topology loses the same share, the least important first.
fn isomorphic(graph: &Graph, groups: &Groups, before: &[usize], steps: &mut Vec<Step>) {
    let topologies: Vec<Vec<String>> = groups.groups.iter().map(|group| group.topology(graph)).collect();
    let mut sets: std::collections::BTreeMap<&[String], Vec<Step>> = std::collections::BTreeMap::new();
    for step in steps.drain(..) {
        if let Some(topology) = topologies.get(step.group) {
            sets.entry(topology).or_default().push(step);
        }
    }
    for (topology, mut set) in sets {
        by_score(&mut set);
        let sizes = groups.groups.iter().zip(before).zip(&topologies);
        let sizes = sizes.filter(|(_, other)| other.as_slice() == topology).map(|(sizes, _)| sizes);
        let (left, all) =
            sizes.fold((0, 0), |(left, all), (group, before)| (left + group.len(), all + before));
        let mut gone = all.saturating_sub(left);
        for step in &mut set {
            gone += step.units.len();
            step.key = gone as f64 / all.max(1) as f64;
        }
        steps.extend(set);
    }
    steps.sort_by(|a, b| {
        a.key.total_cmp(&b.key).then(a.group.cmp(&b.group)).then(a.share.total_cmp(&b.share))
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::NewNode;

    use super::*;
    use crate::prune::couple;
    use crate::testing::Fixture;

    /// Two layers of 4 and 8 channels in a row, and what `steps` makes of these scores.
    fn made(ranking: Ranking, limits: Limits) -> Vec<Step> {
        let mut f = Fixture::new(17);
        let x = f.input("x", &[1, 3]);
        let (a, b, c) = (f.weights(&[3, 4]), f.weights(&[4, 8]), f.weights(&[8, 2]));
        let h = f.op("MatMul", &[x, a]);
        let h = f.op("Relu", &[h]);
        let h = f.op("MatMul", &[h, b]);
        let h = f.op("Relu", &[h]);
        let y = f.node(NewNode::new("MatMul", [h, c]));
        let graph = f.with_output(y).graph;
        let groups = Groups::of(&graph, &couple(&graph));
        assert_eq!(groups.groups.iter().map(crate::prune::Group::len).collect::<Vec<_>>(), [4, 8]);
        let scores = vec![vec![4.0, 1.0, 3.0, 2.0], (0..8).map(|unit| f64::from(unit) + 0.5).collect()];
        steps(&graph, &groups, &[4, 8], &scores, Normalization::None, ranking, limits)
    }

    fn units(steps: &[Step]) -> Vec<(usize, Vec<usize>)> {
        steps.iter().map(|step| (step.group, step.units.clone())).collect()
    }

    #[test]
    fn the_least_important_go_first_and_one_stays() {
        let steps = made(Ranking::Local, Limits::default());
        assert_eq!(
            steps.iter().filter(|step| step.group == 0).map(|step| step.units[0]).collect::<Vec<_>>(),
            [1, 3, 2]
        );
        assert_eq!(steps.iter().filter(|step| step.group == 1).count(), 7);
        assert!(steps.windows(2).all(|pair| pair[0].key <= pair[1].key));
        assert_eq!(steps.iter().take_while(|step| step.key <= 0.5).count(), 6);

        let global = made(Ranking::Global, Limits::default());
        assert_eq!(units(&global[..3]), [(1, vec![0]), (0, vec![1]), (1, vec![1])]);
        // Both layers are a MatMul behind a MatMul.
        assert_eq!(units(&made(Ranking::Isomorphic, Limits::default())), units(&global));
    }

    #[test]
    fn what_is_left_is_within_the_limits() {
        let steps = made(Ranking::Local, Limits { multiple: Multiple::Of(4), floor: 1 });
        assert_eq!(units(&steps), [(1, vec![0, 1, 2, 3])]);
        let steps = made(Ranking::Local, Limits { multiple: Multiple::Of(1), floor: 3 });
        assert_eq!((steps.len(), steps.iter().filter(|step| step.group == 0).count()), (6, 1));
    }

    #[test]
    fn kernels_work_on_more_channels_at_once_where_there_are_more() {
        let left = |all: usize| (1..all).filter(|&left| fits(left, all, 1, Multiple::Kernels)).min();
        assert_eq!([8, 15, 16, 60, 64, 200].map(left), [1, 1, 4, 4, 8, 8].map(Some));
    }
}
