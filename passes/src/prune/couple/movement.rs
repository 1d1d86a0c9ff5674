//! Operators that move elements: axes in another order, put behind each other, repeated.

use onnx_opt_ir::{Node, Tensor};

use super::super::lanes::Axis;
use super::sizes::{Operand, rewritten, written};
use super::{Change, Kept, Reason, Rule, SPATIAL, Site};
use crate::rules::facts::list;

pub(super) fn rule(node: &Node) -> Option<Rule> {
    Some(match node.op_type() {
        "Transpose" => Rule::plain(transpose),
        "Concat" => Rule::plain(concat),
        "Split" => Rule::sized(split, split_sizes),
        "Expand" => Rule::sized(expand, expand_sizes),
        "ConstantOfShape" => Rule::sized(filled, filled_sizes),
        "Tile" => Rule::plain(tile),
        "DepthToSpace" => Rule::plain(depth_to_space),
        "SpaceToDepth" => Rule::plain(space_to_depth),
        _ => return None,
    })
}

/// Axis i of the result is axis `perm[i]` of the operand.
fn transpose(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, y) = (site.needed(0)?, site.output()?);
    for (index, &axis) in y.iter().enumerate() {
        let from = match site.node.ints("perm") {
            Some(perm) => perm.get(index).and_then(|&from| usize::try_from(from).ok()),
            None => x.len().checked_sub(index + 1),
        };
        let from = from.and_then(|from| x.get(from)).ok_or("the order of axes is not one")?;
        site.join(*from, axis);
    }
    Ok(())
}

/// The operands behind each other along `axis`.
fn concat(site: &mut Site<'_>) -> Result<(), Reason> {
    let y = site.output()?;
    let along = site.axis(site.int("axis").unwrap_or(1), y.len())?;
    let mut from = 0;
    for index in 0..site.node.inputs().len() {
        let x = site.needed(index)?;
        for (at, (&a, &b)) in x.iter().zip(&y).enumerate() {
            if at != along {
                site.join(a, b);
            }
        }
        let part = *x.get(along).ok_or("the ranks do not fit")?;
        if y[along] == Axis::Open {
            site.bar(part, "a size is not known");
            continue;
        }
        site.join_part(y[along], from, part, part.length());
        from += part.length();
    }
    // An empty or unknown part would have moved the others.
    if from < y[along].size() {
        return Err("a size is not known".to_owned());
    }
    Ok(())
}

/// The parts of the operand along `axis`.
fn split(site: &mut Site<'_>) -> Result<(), Reason> {
    let x = site.needed(0)?;
    let along = site.axis(site.int("axis").unwrap_or(0), x.len())?;
    let mut from = 0;
    for index in 0..site.node.outputs().len() {
        let Some(y) = site.result(index)? else { return Err("a result is left out".to_owned()) };
        for (at, (&a, &b)) in x.iter().zip(&y).enumerate() {
            if at != along {
                site.join(a, b);
            }
        }
        let part = *y.get(along).ok_or("the ranks do not fit")?;
        site.join_part(x[along], from, part, part.length());
        from += part.length();
    }
    if from != x[along].size() {
        return Err("a size is not known".to_owned());
    }
    Ok(())
}

/// Parts of other sizes are written one by one.
fn split_sizes(kept: &Kept<'_>) -> Option<Change> {
    let x = kept.operand(0)?;
    let along = crate::rules::facts::axis(kept.node.int("axis").unwrap_or(0), x.len()).ok()?;
    kept.shrunk(x[along])?;
    let sizes: Option<Vec<i64>> = (0..kept.node.outputs().len())
        .map(|index| i64::try_from(kept.size(*kept.result(index)?.get(along)?)?).ok())
        .collect();
    let sizes = sizes?;
    if kept.graph.opset() < 13 {
        return Some(Change::attribute("split", sizes));
    }
    let sizes = Operand::Constant(Tensor::vector_i64(&sizes));
    Some(Change { dropped: vec!["num_outputs"], ..Change::operand(1, sizes) })
}

/// The operand, broadcast with a shape.
fn expand(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, y) = (site.needed(0)?, site.output()?);
    site.spread(&x, &y);
    bar_computed(site, 1, &y)
}

/// A tensor of one number.
fn filled(site: &mut Site<'_>) -> Result<(), Reason> {
    let y = site.output()?;
    bar_computed(site, 0, &y)
}

/// Keeps the axes of a result whose sizes are not written in operand `index`.
fn bar_computed(site: &mut Site<'_>, index: usize, y: &[Axis]) -> Result<(), Reason> {
    let sizes = site.node.input(index).ok_or("the shape is missing")?;
    let entries = written(site.graph, sizes).ok_or("its shape is computed")?;
    for (&axis, entry) in y.iter().rev().zip(entries.iter().rev()) {
        if entry.is_none() {
            site.bar(axis, "its size is computed");
        }
    }
    Ok(())
}

/// The shape that is left.
fn expand_sizes(kept: &Kept<'_>) -> Option<Change> {
    left(kept, 1)
}

/// The shape that is left.
fn filled_sizes(kept: &Kept<'_>) -> Option<Change> {
    left(kept, 0)
}

fn left(kept: &Kept<'_>, index: usize) -> Option<Change> {
    let sizes = kept.node.input(index)?;
    let entries = written(kept.graph, sizes)?;
    let mut news = vec![None; entries.len()];
    for ((new, entry), &axis) in news.iter_mut().zip(entries).rev().zip(kept.result(0)?.iter().rev()) {
        if entry.is_some_and(|size| size != 1) {
            *new = kept.shrunk(axis).and_then(|left| i64::try_from(left).ok());
        }
    }
    news.iter().find_map(|new| *new)?;
    Some(Change::operand(index, rewritten(kept.graph, sizes, &news)?))
}

/// Each axis `repeats` times behind itself.
fn tile(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, y) = (site.needed(0)?, site.output()?);
    let repeats = match list(site.graph, site.node, "repeats", 1) {
        Ok(Some(repeats)) if repeats.len() == x.len() && y.len() == x.len() => repeats,
        _ => return Err("how often it repeats is computed".to_owned()),
    };
    for ((&a, &b), times) in x.iter().zip(&y).zip(repeats) {
        if times == 1 {
            site.join(a, b);
        } else if a.size() > 0 && b.size() % a.size() == 0 {
            for index in 0..b.size() {
                if let (Some(from), Some(to)) = (a.lane(index % a.size()), b.lane(index)) {
                    site.lanes.join(from, to);
                }
            }
        } else {
            site.bar_all(&[a, b], "what it repeats is one element, or not known");
        }
    }
    Ok(())
}

/// The places of a block and the sizes of both sides, where all are known.
fn blocks(site: &mut Site<'_>) -> Result<(Vec<Axis>, Vec<Axis>, usize), Reason> {
    let (x, y) = (site.needed(0)?, site.output()?);
    let size = site.count("blocksize")?;
    if x.len() != 4 || y.len() != 4 {
        return Err("the ranks do not fit".to_owned());
    }
    site.join(x[0], y[0]);
    site.bar_all(&x[2..], SPATIAL);
    site.bar_all(&y[2..], SPATIAL);
    Ok((x, y, size * size))
}

/// Channel c of the result is made of channels k·C + c (`DCR`) or c·b² + k (`CRD`) of the operand, k < b².
fn depth_to_space(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, y, places) = blocks(site)?;
    let channels = x[1].size() / places.max(1);
    if y[1].size() != channels {
        site.bar(x[1], "one channel is left");
        site.bar(y[1], "a size is not known");
        return Ok(());
    }
    let by_column = site.node.string("mode") == Some("CRD");
    for channel in 0..channels {
        for place in 0..places {
            let from = if by_column { channel * places + place } else { place * channels + channel };
            if let (Some(from), Some(to)) = (x[1].lane(from), y[1].lane(channel)) {
                site.lanes.join(from, to);
            }
        }
    }
    Ok(())
}

/// Channel c of the operand goes to channels k·C + c of the result.
fn space_to_depth(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, y, places) = blocks(site)?;
    let channels = x[1].size();
    if channels == 0 || y[1].size() != channels * places {
        site.bar(y[1], "one channel is spread");
        site.bar(x[1], "a size is not known");
        return Ok(());
    }
    for channel in 0..channels {
        for place in 0..places {
            if let (Some(from), Some(to)) = (x[1].lane(channel), y[1].lane(place * channels + channel)) {
                site.lanes.join(from, to);
            }
        }
    }
    Ok(())
}
