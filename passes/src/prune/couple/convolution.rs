//! Convolutions: results are made of rows of the weight, operands meet its columns.

use onnx_opt_ir::Node;

use super::super::lanes::Axis;
use super::{Change, Kept, Reason, Rule, SPATIAL, Site, Way};

pub(super) fn rule(node: &Node) -> Option<Rule> {
    Some(match node.op_type() {
        "Conv" => Rule::sized(convolution, convolution_groups),
        "ConvTranspose" => Rule::sized(transposed, transposed_groups),
        _ => return None,
    })
}

/// Operand, weight, bias and result of a convolution, with what all kinds share: samples are samples and places stay.
fn parts(site: &mut Site<'_>) -> Result<[Vec<Axis>; 3], Reason> {
    let (x, w, y) = (site.needed(0)?, site.needed(1)?, site.output()?);
    if x.len() < 3 || x.len() != w.len() || x.len() != y.len() {
        return Err("the ranks do not fit".to_owned());
    }
    site.join(x[0], y[0]);
    for tensor in [&x, &w, &y] {
        site.bar_all(&tensor[2..], SPATIAL);
    }
    if let Some(bias) = site.operand(2)? {
        site.join_all(&bias, &y[1..2]);
    }
    Ok([x, w, y])
}

/// The lanes `number·size..` of an axis.
fn block(axis: Axis, number: usize, size: usize) -> impl Iterator<Item = u32> {
    (number * size..(number + 1) * size).filter_map(move |index| axis.lane(index))
}

/// Every lane whose number leaves `rank` when divided by `size`.
fn ranked(axis: Axis, rank: usize, size: usize) -> impl Iterator<Item = u32> {
    (rank..axis.size()).step_by(size.max(1)).filter_map(move |index| axis.lane(index))
}

/// y_m = Σ_c w_mc ∗ x_c + b_m, with x [N, C, …], w [M, C/g, …], b [M], y [N, M, …].
fn convolution(site: &mut Site<'_>) -> Result<(), Reason> {
    let [x, w, y] = parts(site)?;
    site.join(y[1], w[0]);
    grouped(site, x[1], y[1], w[1], true)
}

/// y_m = Σ_c w_cm ∗ x_c + b_m, with w [C, M/g, …].
fn transposed(site: &mut Site<'_>) -> Result<(), Reason> {
    let [x, w, y] = parts(site)?;
    site.join(x[1], w[0]);
    grouped(site, x[1], y[1], w[1], false)
}

/// The second axis of the weights counts the channels of one group: of the operand, or else of the result. Of several
/// groups, channels of the same number within each go together, or whole groups go.
fn grouped(site: &mut Site<'_>, x: Axis, y: Axis, second: Axis, of_operand: bool) -> Result<(), Reason> {
    let groups = site.count("group")?;
    if groups == 1 {
        site.join(if of_operand { x } else { y }, second);
        return Ok(());
    }
    let divide = |axis: Axis| axis.size().is_multiple_of(groups);
    if !divide(x) || !divide(y) || x == Axis::Open {
        return Err("the groups do not fit".to_owned());
    }
    let (inside, outside) = (x.size() / groups, y.size() / groups);
    let whole = Way {
        tracks: (0..groups)
            .map(|group| block(x, group, inside).chain(block(y, group, outside)).collect())
            .collect(),
        stay: vec![second],
        approximate: None,
    };
    if (if of_operand { inside } else { outside }) == 1 {
        site.choose(vec![whole]);
        return Ok(());
    }
    let track = |axis: Axis, size: usize, rank: usize, counted: bool| {
        ranked(axis, rank, size).chain(second.lane(rank).filter(|_| counted)).collect()
    };
    let ranks_inside = (0..inside).map(|rank| track(x, inside, rank, of_operand));
    let ranks_outside = (0..outside).map(|rank| track(y, outside, rank, !of_operand));
    let ranks = Way { tracks: ranks_inside.chain(ranks_outside).collect(), ..Way::default() };
    site.choose(if groups > inside { vec![whole, ranks] } else { vec![ranks, whole] });
    Ok(())
}

/// As many groups as the operand has blocks of the weight's columns.
fn convolution_groups(kept: &Kept<'_>) -> Option<Change> {
    groups(kept, *kept.operand(0)?.get(1)?)
}

/// As many groups as the result has blocks of the weight's columns.
fn transposed_groups(kept: &Kept<'_>) -> Option<Change> {
    groups(kept, *kept.result(0)?.get(1)?)
}

fn groups(kept: &Kept<'_>, channels: Axis) -> Option<Change> {
    let before = kept.node.int("group").filter(|&groups| groups > 1)?;
    let columns = kept.size(*kept.operand(1)?.get(1)?)?.max(1);
    let after = i64::try_from(kept.size(channels)? / columns).ok()?;
    (after != before).then(|| Change::attribute("group", after))
}
