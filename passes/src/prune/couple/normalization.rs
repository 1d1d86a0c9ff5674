//! Normalizations: parameters are those of a channel. Where statistics run over channels, they change when some go.

use onnx_opt_ir::Node;

use super::super::lanes::Axis;
use super::{Change, Kept, Reason, Rule, Site, Way};

pub(super) fn rule(node: &Node) -> Option<Rule> {
    Some(match node.op_type() {
        "BatchNormalization" => Rule::plain(batch),
        "InstanceNormalization" => Rule::plain(instance),
        "LayerNormalization" | "RMSNormalization" => Rule::plain(layer),
        "GroupNormalization" => Rule::sized(group, group_count),
        _ => return None,
    })
}

/// y_c = s_c·(x_c − μ_c)/√(σ²_c + ε) + b_c, with x [N, C, …].
fn batch(site: &mut Site<'_>) -> Result<(), Reason> {
    let single = site.node.outputs().iter().skip(1).flatten().next().is_none();
    if !single || site.int("training_mode") == Some(1) || site.int("spatial") == Some(0) {
        return Err("it is not that of inference".to_owned());
    }
    let (x, y) = (site.needed(0)?, site.output()?);
    let channels = *x.get(1).ok_or("there are no channels")?;
    site.join_all(&x, &y);
    for index in 1..5 {
        let parameter = site.needed(index)?;
        site.join_all(&parameter, &[channels]);
    }
    Ok(())
}

/// y_nc = s_c·(x_nc − mean x_nc)/√(var x_nc + ε) + b_c: statistics of one channel.
fn instance(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, y) = (site.needed(0)?, site.output()?);
    let channels = *x.get(1).ok_or("there are no channels")?;
    site.join_all(&x, &y);
    for index in 1..3 {
        let parameter = site.needed(index)?;
        site.join_all(&parameter, &[channels]);
    }
    site.bar_all(&x[2..], "its statistics run over these");
    Ok(())
}

/// y = s·(x − mean x)/√(var x + ε) + b, with statistics over all axes from `axis` on.
fn layer(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, y) = (site.needed(0)?, site.output()?);
    let first = site.axis(site.int("axis").unwrap_or(-1), x.len())?;
    site.join_all(&x, &y);
    for index in 1..3 {
        if let Some(parameter) = site.operand(index)? {
            site.spread(&parameter, &y);
        }
    }
    for index in 1..3 {
        if let Some(statistic) = site.result(index)? {
            site.join_all(&x[..first], &statistic);
        }
    }
    let reason = format!("{} has statistics over them", super::title(site.graph, site.id));
    for axis in &x[first..] {
        site.lanes.mark_approximate(axis.lanes(), &reason);
    }
    Ok(())
}

/// Statistics of `num_groups` blocks of channels of a sample: whole groups go, or as many channels from each.
fn group(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, y, scale, bias) = (site.needed(0)?, site.output()?, site.needed(1)?, site.needed(2)?);
    let groups = site.count("num_groups")?;
    let channels = *x.get(1).ok_or("there are no channels")?;
    if channels.size() == 0 || channels.size() % groups != 0 || scale.len() != 1 || bias.len() != 1 {
        return Err("the groups do not fit".to_owned());
    }
    site.join_all(&x, &y);
    site.bar_all(&x[2..], "its statistics run over these");
    let size = channels.size() / groups;
    // Before opset 21 there was one parameter for each group.
    let by_channel = scale[0].size() == channels.size() && bias[0].size() == channels.size();
    let parameters = [scale[0], bias[0]];
    let lanes = |index: usize, step: usize| {
        let own =
            parameters.into_iter().filter_map(move |axis| axis.lane(if by_channel { index } else { step }));
        channels.lane(index).into_iter().chain(own)
    };
    let whole = Way {
        tracks: (0..groups)
            .map(|group| (0..size).flat_map(|rank| lanes(group * size + rank, group)).collect())
            .collect(),
        ..Way::default()
    };
    let approximate = Some(format!("{} has statistics over them", super::title(site.graph, site.id)));
    let stay = if by_channel { Vec::new() } else { parameters.to_vec() };
    let own = |index: usize| {
        let own = parameters.into_iter().filter_map(move |axis| axis.lane(index)).filter(|_| by_channel);
        channels.lane(index).into_iter().chain(own)
    };
    let ranks = Way {
        tracks: (0..size)
            .map(|rank| (0..groups).flat_map(|group| own(group * size + rank)).collect())
            .collect(),
        stay,
        approximate,
    };
    site.choose(if size == 1 { vec![whole] } else { vec![whole, ranks] });
    Ok(())
}

/// Groups of which a channel is left: all, or those of whole blocks.
fn group_count(kept: &Kept<'_>) -> Option<Change> {
    let before = kept.node.int("num_groups")?;
    let groups = usize::try_from(before).ok().filter(|&groups| groups > 0)?;
    let channels: Axis = *kept.operand(0)?.get(1)?;
    let size = channels.size() / groups;
    let left =
        (0..groups).filter(|group| kept.within(channels, group * size..(group + 1) * size) > 0).count();
    let after = i64::try_from(left).ok()?;
    (after != before).then(|| Change::attribute("num_groups", after))
}
