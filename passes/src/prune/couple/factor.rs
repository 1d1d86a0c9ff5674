//! Axes taken apart and put together: Reshape, Flatten, Squeeze, Unsqueeze.
//!
//! Two shapes of as many elements fall into stretches of axes with equal products, and the axes of a stretch into
//! common factors: `[C, H, W]` and `[C·H·W]` have the factors C, H, W; `[N, g·c]` and `[N, g, c]` have N, and g, c.
//! Slices along one factor of a stretch can go, from every axis that holds it; axes that hold others stay.

use onnx_opt_ir::{Dim, Node, NodeId, Tensor};

use super::super::lanes::Axis;
use super::sizes::{Operand, rewritten, written};
use super::{Change, Kept, Reason, Rule, Site, Way};
use crate::rules::reshape::sizes_for;

pub(super) fn rule(node: &Node) -> Option<Rule> {
    Some(match node.op_type() {
        "Reshape" => Rule::sized(reshape, reshape_sizes),
        "Flatten" | "Squeeze" | "Unsqueeze" => Rule::plain(regroup),
        _ => return None,
    })
}

/// The same elements in another shape.
fn regroup(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, y) = (site.needed(0)?, site.output()?);
    let (from, to) = (shape(site, site.node.input(0))?, shape(site, site.node.output(0))?);
    if from.iter().chain(&to).any(|size| size.as_fixed() == Some(0)) {
        return Err("it has no elements".to_owned());
    }
    let swaps = is_shuffle(site);
    for (a, b) in stretches(&from, &to) {
        follow(site, &x[a], &y[b], swaps);
    }
    Ok(())
}

fn reshape(site: &mut Site<'_>) -> Result<(), Reason> {
    let (from, to) = (shape(site, site.node.input(0))?, shape(site, site.node.output(0))?);
    let operand = site.node.input(1);
    let constant = operand.is_none_or(|sizes| site.graph.constant(sizes).is_some());
    if !constant && sizes_for(&from, &to, None).is_err() {
        let entries = operand.and_then(|sizes| written(site.graph, sizes)).ok_or("its shape is computed")?;
        let y = site.output()?;
        for (&axis, entry) in y.iter().zip(entries) {
            if entry.is_none() {
                site.bar(axis, "its size is computed");
            }
        }
    }
    regroup(site)
}

fn shape(site: &Site<'_>, value: Option<onnx_opt_ir::ValueId>) -> Result<Vec<Dim>, Reason> {
    let shape = value.and_then(|value| site.graph.shape(value));
    shape.map(<[Dim]>::to_vec).ok_or_else(|| "a shape is not known".to_owned())
}

/// The stretches of axes of two shapes whose products are provably equal.
fn stretches(from: &[Dim], to: &[Dim]) -> Vec<(std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut bounds = vec![(from.len(), to.len())];
    for a in 0..from.len() {
        for b in 0..to.len() {
            let before = Dim::product(&from[..a]) == Dim::product(&to[..b]);
            let behind = || Dim::product(&from[a..]) == Dim::product(&to[b..]);
            if before || behind() {
                bounds.push((a, b));
            }
        }
    }
    bounds.sort_unstable();
    let mut stretches = Vec::new();
    let mut last = (0, 0);
    for bound in bounds {
        if bound.0 >= last.0 && bound.1 >= last.1 && bound != last {
            stretches.push((last.0..bound.0, last.1..bound.1));
            last = bound;
        }
    }
    stretches
}

/// The lanes of one stretch.
fn follow(site: &mut Site<'_>, from: &[Axis], to: &[Axis], swaps: bool) {
    let long =
        |axes: &[Axis]| -> Vec<Axis> { axes.iter().copied().filter(|&axis| axis != Axis::Single).collect() };
    let (from, to) = (long(from), long(to));
    if let ([a], [b]) = (&from[..], &to[..]) {
        site.join(*a, *b);
        return;
    }
    if from.iter().chain(&to).any(|&axis| axis == Axis::Open) {
        site.bar_all(&from, "it is reshaped with a size that is not known");
        site.bar_all(&to, "it is reshaped with a size that is not known");
        return;
    }
    let axes: Vec<(Axis, usize)> = strides(&from).into_iter().chain(strides(&to)).collect();
    let Some(mut factors) = factors(&axes) else {
        site.bar_all(&from, "its axes are cut across");
        site.bar_all(&to, "its axes are cut across");
        return;
    };
    if swaps {
        factors.sort_by_key(|factor| std::cmp::Reverse(factor.size));
    }
    let options = factors.into_iter().map(|factor| way(&axes, factor)).collect();
    site.choose(options);
}

/// Axes with the number of elements that one step along them passes.
fn strides(axes: &[Axis]) -> Vec<(Axis, usize)> {
    let mut stride = 1;
    let mut strides: Vec<(Axis, usize)> = Vec::new();
    for &axis in axes.iter().rev() {
        strides.push((axis, stride));
        stride *= axis.size();
    }
    strides.reverse();
    strides
}

/// A factor of a stretch.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Factor {
    size: usize,
    stride: usize,
}

/// The common factors of the axes of a stretch, outermost first; `None` where axes cut each other.
fn factors(axes: &[(Axis, usize)]) -> Option<Vec<Factor>> {
    let mut cuts: Vec<usize> =
        axes.iter().flat_map(|&(axis, stride)| [stride, stride * axis.size()]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut factors = Vec::new();
    for pair in cuts.windows(2) {
        if !pair[1].is_multiple_of(pair[0]) {
            return None;
        }
        factors.push(Factor { size: pair[1] / pair[0], stride: pair[0] });
    }
    factors.reverse();
    Some(factors)
}

/// Slices along one factor go.
fn way(axes: &[(Axis, usize)], factor: Factor) -> Way {
    let mut way = Way { tracks: vec![Vec::new(); factor.size], ..Way::default() };
    for &(axis, stride) in axes {
        let holds = stride <= factor.stride && factor.stride * factor.size <= stride * axis.size();
        if !holds {
            way.stay.push(axis);
            continue;
        }
        for (index, lane) in axis.lanes().enumerate() {
            way.tracks[index / (factor.stride / stride) % factor.size].push(lane);
        }
    }
    way
}

/// Whether a Reshape takes an axis apart only to have the parts change places and be one axis again, which is how
/// channels are shuffled: then the groups are as many as they were, and channels go from each.
fn is_shuffle(site: &Site<'_>) -> bool {
    let graph = site.graph;
    let next = |node: &Node| -> Option<NodeId> {
        let value = node.output(0)?;
        let mut users = graph.consumers(value);
        let first = users.next()?;
        (users.next().is_none() && !graph.is_output(value)).then_some(first.node)
    };
    let shuffles = || {
        let transpose = graph.get_node(next(site.node)?).filter(|node| node.is("Transpose"))?;
        let merge = graph.get_node(next(transpose)?).filter(|node| node.is("Reshape"))?;
        let rank = |value| graph.rank(value);
        let (before, apart, after) =
            (rank(site.node.input(0)?)?, rank(transpose.input(0)?)?, rank(merge.output(0)?)?);
        let perm = transpose.ints("perm")?;
        let moved: Vec<usize> = (0..apart).filter(|&axis| perm.get(axis) != Some(&(axis as i64))).collect();
        Some(before == after && apart == before + 1 && moved.len() == 2 && moved[0] + 1 == moved[1])
    };
    site.node.is("Reshape") && shuffles() == Some(true)
}

/// The shape that is left.
fn reshape_sizes(kept: &Kept<'_>) -> Option<Change> {
    let axes = kept.result(0)?;
    axes.iter().find_map(|&axis| kept.shrunk(axis))?;
    let new = |size: i64, axis: Axis| kept.shrunk(axis).filter(|_| size != -1).map(|left| left as i64);
    let changed = |sizes: &[i64]| -> Vec<i64> {
        sizes.iter().zip(axes).map(|(&size, &axis)| new(size, axis).unwrap_or(size)).collect()
    };
    let Some(operand) = kept.node.input(1) else {
        return Some(Change::attribute("shape", changed(kept.node.ints("shape")?)));
    };
    let (x, y) = (kept.node.input(0)?, kept.node.output(0)?);
    if kept.graph.constant(operand).is_none()
        && let Ok(sizes) = sizes_for(kept.graph.shape(x)?, kept.graph.shape(y)?, None)
    {
        let sizes = Tensor::vector_i64(&changed(&sizes));
        return Some(Change::operand(1, Operand::Constant(sizes)));
    }
    let entries = written(kept.graph, operand)?;
    let news: Vec<Option<i64>> =
        entries.iter().zip(axes).map(|(size, &axis)| size.and_then(|size| new(size, axis))).collect();
    Some(Change::operand(1, rewritten(kept.graph, operand, &news)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(sizes: &[&str]) -> Vec<Dim> {
        sizes.iter().map(|size| size.parse().map_or_else(|_| Dim::symbol(size), Dim::fixed)).collect()
    }

    fn cut(from: &[&str], to: &[&str]) -> Vec<(usize, usize)> {
        stretches(&dims(from), &dims(to)).into_iter().map(|(a, b)| (a.len(), b.len())).collect()
    }

    #[test]
    fn shapes_fall_into_stretches() {
        assert_eq!(cut(&["N", "C", "12"], &["N", "C", "3", "4"]), [(1, 1), (1, 1), (1, 2)]);
        assert_eq!(cut(&["N", "8", "4", "4"], &["N", "128"]), [(1, 1), (3, 1)]);
        assert_eq!(cut(&["B", "S", "768"], &["Q", "768"]), [(2, 1), (1, 1)]);
        assert_eq!(cut(&["2", "6"], &["4", "3"]), [(2, 2)]);
    }

    #[test]
    fn factors_are_common() {
        let axis = |size| Axis::Lanes { start: 0, size };
        let of = |from: &[u32], to: &[u32]| {
            let side = |sizes: &[u32]| strides(&sizes.iter().map(|&size| axis(size)).collect::<Vec<_>>());
            let found = factors(&[side(from), side(to)].concat());
            found.map(|factors| factors.iter().map(|factor| factor.size).collect::<Vec<_>>())
        };
        assert_eq!(of(&[8, 4, 4], &[128]), Some(vec![8, 4, 4]));
        assert_eq!(of(&[8, 4, 4], &[2, 64]), Some(vec![2, 4, 4, 4]));
        assert_eq!(of(&[2, 6], &[4, 3]), Some(vec![2, 2, 3]));
        assert_eq!(of(&[4, 3], &[3, 4]), None);
    }
}
