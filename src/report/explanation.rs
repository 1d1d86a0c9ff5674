//! Where rules fired, and where they nearly did and why not.

use std::collections::{BTreeMap, BTreeSet};

use onnx_opt_ir::Graph;
use onnx_opt_passes::rewrite::place;
use serde::Serialize;

use super::{Pass, for_each_node};

/// So many places are named.
const NAMED: usize = 5;
/// So many reasons are told.
const REASONS: usize = 5;

/// Nodes by name; of many, the first ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Places {
    /// How many there are.
    pub count: usize,
    /// Names of the first ones.
    pub first: Vec<String>,
}

impl Places {
    fn of<'a>(places: impl IntoIterator<Item = &'a String>) -> Self {
        let mut places = places.into_iter();
        let first: Vec<String> = places.by_ref().take(NAMED).cloned().collect();
        Self { count: first.len() + places.count(), first }
    }
}

/// A reason why a rule did not fire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Declined {
    /// The reason.
    pub reason: String,
    /// Where it held: nodes of the result, or functions.
    pub at: Places,
}

/// What a rule did and nearly did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleReport {
    /// The rule.
    pub rule: &'static str,
    /// How often it fired.
    pub fired: usize,
    /// Where it did, if that was asked for. The nodes may be those of other rules' results.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Places>,
    /// Why it did not where its operators stand, if that was asked for, the most frequent reasons first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub declined: Vec<Declined>,
}

/// What each rule did to become `result`, those that did most first.
pub fn explain(passes: &[Pass], result: &Graph) -> Vec<RuleReport> {
    let mut fired: BTreeMap<&'static str, (usize, Vec<&String>)> = BTreeMap::new();
    let mut declined: BTreeMap<(&'static str, &String), &String> = BTreeMap::new();
    for pass in passes {
        for (rule, count) in pass.applied.iter().filter(|(rule, _)| **rule != pass.name) {
            let entry = fired.entry(rule).or_default();
            entry.0 += count;
            let places = pass.places.get(rule);
            entry.1.extend(places.into_iter().flatten());
            for place in places.into_iter().flatten() {
                declined.remove(&(*rule, place));
            }
        }
        declined.extend(pass.declined.iter().map(|((rule, place), reason)| ((*rule, place), reason)));
    }

    let mut present = BTreeSet::new();
    if !declined.is_empty() {
        for_each_node(result, &mut |graph, node| {
            present.insert(place(graph, node));
        });
    }
    let mut reasons: BTreeMap<&'static str, BTreeMap<&String, Vec<&String>>> = BTreeMap::new();
    let is_pass = |rule: &str| passes.iter().any(|pass| pass.name == rule);
    for ((rule, place), reason) in
        declined.into_iter().filter(|((rule, place), _)| present.contains(*place) || is_pass(rule))
    {
        reasons.entry(rule).or_default().entry(reason).or_default().push(place);
    }

    let rules: BTreeSet<&'static str> = fired.keys().chain(reasons.keys()).copied().collect();
    let mut reports: Vec<RuleReport> = rules
        .into_iter()
        .map(|rule| {
            let (count, places) = fired.remove(rule).unwrap_or_default();
            let reasons = reasons.remove(rule).unwrap_or_default().into_iter();
            let declined =
                reasons.map(|(reason, at)| Declined { reason: reason.clone(), at: Places::of(at) });
            let mut declined: Vec<Declined> = declined.collect();
            declined.sort_by_key(|declined| std::cmp::Reverse(declined.at.count));
            declined.truncate(REASONS);
            let at = (!places.is_empty()).then(|| Places::of(places));
            RuleReport { rule, fired: count, at, declined }
        })
        .collect();
    reports.sort_by_key(|report| std::cmp::Reverse(report.fired));
    reports
}

#[cfg(test)]
mod tests {
    use onnx_opt_ir::{Context, ElementType, NewNode, Type};

    use super::*;

    fn pass(
        applied: BTreeMap<&'static str, usize>,
        places: BTreeMap<&'static str, Vec<String>>,
        declined: BTreeMap<(&'static str, String), String>,
    ) -> Pass {
        Pass { name: "rules", seconds: 0.0, nodes_before: 0, nodes_after: 0, applied, places, declined }
    }

    #[test]
    fn only_what_is_still_there_and_did_not_fire_was_declined() {
        let mut graph = Graph::new(Context::with_opset(13));
        let x = graph.add_input("x", Type::tensor(ElementType::Float, []));
        for name in ["a", "b"] {
            let node = NewNode { name: Some(name.into()), ..NewNode::new("Relu", [x]) };
            assert!(graph.add_node(node).is_ok());
        }
        let text = |text: &str| text.to_owned();
        let because = |place: &str| (("r", text(place)), text("a reason"));
        let first = pass(
            [("s", 7)].into(),
            [("s", (0..7).map(|n| n.to_string()).collect())].into(),
            [because("a"), because("b"), because("gone")].into(),
        );
        let second = pass([("r", 1), ("rules", 1)].into(), [("r", vec![text("b")])].into(), BTreeMap::new());
        let found = explain(&[first, second], &graph);
        assert_eq!(
            found.iter().map(|report| (report.rule, report.fired)).collect::<Vec<_>>(),
            [("s", 7), ("r", 1)]
        );
        assert_eq!(found[0].at.as_ref().map(|at| (at.count, at.first.len())), Some((7, NAMED)));
        let at = Places { count: 1, first: vec![text("a")] };
        assert_eq!(found[1].declined, [Declined { reason: text("a reason"), at }]);
    }
}
