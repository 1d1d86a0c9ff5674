//! Attention as one operator: heads go with the key and value heads that they share.

use onnx_opt_ir::Node;

use super::super::lanes::Axis;
use super::{Change, Kept, Reason, Rule, Site, Way};

pub(super) fn rule(node: &Node) -> Option<Rule> {
    Some(match node.op_type() {
        "Attention" => Rule::sized(attention, head_counts),
        "RotaryEmbedding" => Rule::sized(rotary, rotary_heads),
        _ => return None,
    })
}

const FEATURES: &str = "the scale goes by the size of a head";

/// y = softmax(s·q·kᵀ + mask)·v for each head, with q [B, H, S, D] or [B, S, H·D]; each key head serves as many query
/// heads.
fn attention(site: &mut Site<'_>) -> Result<(), Reason> {
    let (q, k, v, y) = (site.needed(0)?, site.needed(1)?, site.needed(2)?, site.output()?);
    let more = site.node.inputs().iter().skip(4).flatten().next().is_some()
        || site.node.outputs().iter().skip(1).flatten().next().is_some();
    if more || k.len() != q.len() || v.len() != q.len() || y.len() != q.len() {
        return Err("it has a past".to_owned());
    }
    let (places, heads, key_heads) = match q.len() {
        4 => (2, q[1].size().max(1), k[1].size().max(1)),
        3 => (1, site.count("q_num_heads")?, site.count("kv_num_heads")?),
        _ => return Err("the ranks do not fit".to_owned()),
    };
    if heads % key_heads != 0 {
        return Err("the heads do not fit".to_owned());
    }
    if let Some(mask) = site.operand(3)? {
        site.bar_all(&mask, "a mask");
    }
    site.join(q[0], y[0]);
    site.bar_all(&[k[0], v[0], q[0]], "samples");
    site.bar_all(&[q[places], k[places], v[places], y[places]], "positions");
    let shared = heads / key_heads;
    let tensors: Vec<(Axis, usize)> = if q.len() == 4 {
        site.bar_all(&[q[3], k[3], v[3], y[3]], FEATURES);
        vec![(q[1], shared), (k[1], 1), (v[1], 1), (y[1], shared)]
    } else {
        let width = |axis: Axis| axis.size() / key_heads;
        vec![(q[2], width(q[2])), (k[2], width(k[2])), (v[2], width(v[2])), (y[2], width(y[2]))]
    };
    if tensors.iter().any(|&(axis, width)| axis.size() != width * key_heads) {
        return Err("the heads do not fit".to_owned());
    }
    let tracks = (0..key_heads).map(|head| {
        let lanes = |&(axis, width): &(Axis, usize)| {
            (head * width..(head + 1) * width).filter_map(move |index| axis.lane(index))
        };
        tensors.iter().flat_map(lanes).collect()
    });
    let tracks = tracks.collect();
    site.choose(vec![Way { tracks, ..Way::default() }]);
    Ok(())
}

/// As many heads as are left of the blocks of the operands.
fn head_counts(kept: &Kept<'_>) -> Option<Change> {
    let before = kept.node.int("q_num_heads")?;
    let key_before = kept.node.int("kv_num_heads")?;
    let axis = *kept.operand(1)?.get(2)?;
    let width = axis.size() / usize::try_from(key_before).ok().filter(|&heads| heads > 0)?;
    let left = i64::try_from(kept.size(axis)? / width.max(1)).ok()?;
    let mut change = Change::attribute("kv_num_heads", left);
    change.attributes.extend(Change::attribute("q_num_heads", left * (before / key_before)).attributes);
    (left != key_before).then_some(change)
}

/// Pairs of features of a position turned by an angle, with x [B, H, S, D] or [B, S, H·D]: heads are alike.
fn rotary(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, y) = (site.needed(0)?, site.output()?);
    if x.len() != y.len() {
        return Err("the ranks do not fit".to_owned());
    }
    site.join_all(&x, &y);
    match x.len() {
        4 => {
            site.bar_all(&[x[0], x[2], x[3]], "features and positions, not heads");
            Ok(())
        }
        3 => {
            let heads = site.count("num_heads")?;
            let width = x[2].size() / heads;
            site.bar_all(&x[..2], "positions, not heads");
            let block = |head: usize| {
                (head * width..(head + 1) * width).filter_map(|index| x[2].lane(index)).collect()
            };
            let tracks = (0..heads).map(block).collect();
            site.choose(vec![Way { tracks, ..Way::default() }]);
            Ok(())
        }
        _ => Err("the ranks do not fit".to_owned()),
    }
}

fn rotary_heads(kept: &Kept<'_>) -> Option<Change> {
    let x = kept.operand(0).filter(|x| x.len() == 3)?;
    let before = kept.node.int("num_heads").filter(|&heads| heads > 0)?;
    let width = x[2].size() / usize::try_from(before).ok()?;
    let left = i64::try_from(kept.size(x[2])? / width.max(1)).ok()?;
    (left != before).then(|| Change::attribute("num_heads", left))
}
