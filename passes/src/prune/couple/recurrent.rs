//! Recurrent layers: a hidden unit is a row of every gate, a column of the recurrent weights, and a lane of the states.

use onnx_opt_ir::Node;

use super::super::lanes::Axis;
use super::{Change, Kept, Reason, Rule, Site};

pub(super) fn rule(node: &Node) -> Option<Rule> {
    matches!(node.op_type(), "LSTM" | "GRU" | "RNN").then_some(Rule::sized(follow, hidden_size))
}

/// Numbers of gates in W and R, and of peepholes.
fn gates(node: &Node) -> (usize, usize) {
    match node.op_type() {
        "LSTM" => (4, 3),
        "GRU" => (3, 0),
        _ => (1, 0),
    }
}

/// h_t = f(W·x_t + R·h_{t−1} + b), with x [S, B, I], W [D, G·H, I], R [D, G·H, H], B [D, 2·G·H], states [D, B, H],
/// P [D, 3·H], Y [S, D, B, H]. Both directions have as many units.
fn follow(site: &mut Site<'_>) -> Result<(), Reason> {
    let (x, w, r) = (site.needed(0)?, site.needed(1)?, site.needed(2)?);
    let hidden = site.count("hidden_size")?;
    let (gates, peepholes) = gates(site.node);
    if x.len() != 3 || w.len() != 3 || r.len() != 3 || w[1].length() != gates * hidden {
        return Err("the weights do not fit".to_owned());
    }
    site.join(x[2], w[2]);
    site.bar_all(&[x[0], x[1], w[0], r[0]], "steps, samples or directions");
    let units = r[2];
    each(site, units, w[1], gates);
    each(site, units, r[1], gates);
    for (index, count) in [(3, 2 * gates), (7, peepholes)] {
        if let Some(parameter) = site.operand(index)? {
            site.bar(*parameter.first().ok_or("the weights do not fit")?, "directions");
            each(site, units, *parameter.last().ok_or("the weights do not fit")?, count);
        }
    }
    let states = [site.operand(5)?, site.operand(6)?, site.result(1)?, site.result(2)?];
    for state in states.into_iter().flatten() {
        let [directions, samples, unit] = state[..] else { return Err("a state does not fit".to_owned()) };
        site.bar_all(&[directions, samples], "samples or directions");
        site.join(unit, units);
    }
    if let Some(y) = site.result(0)? {
        let [a, b, c, unit] = y[..] else { return Err("the result does not fit".to_owned()) };
        site.bar_all(&[a, b, c], "steps, samples or directions");
        site.join(unit, units);
    }
    Ok(())
}

/// Every `hidden`-th lane of an axis belongs to one unit.
fn each(site: &mut Site<'_>, units: Axis, axis: Axis, count: usize) {
    let hidden = units.size();
    if hidden == 0 || axis.size() != hidden * count {
        site.bar_all(&[units, axis], "the weights do not fit");
        return;
    }
    for (index, lane) in axis.lanes().enumerate() {
        if let Some(unit) = units.lane(index % hidden) {
            site.lanes.join(unit, lane);
        }
    }
}

/// The units that are left.
fn hidden_size(kept: &Kept<'_>) -> Option<Change> {
    let left = kept.shrunk(*kept.operand(2)?.get(2)?)?;
    Some(Change::attribute("hidden_size", i64::try_from(left).ok()?))
}
