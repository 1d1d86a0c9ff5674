//! The work list: rules are tried where an edit reached, and nowhere else.

use std::collections::{BTreeMap, VecDeque};

use onnx_opt_ir::{Graph, NodeId, ValueId};
use rustc_hash::FxHashMap;

use super::commit::commit;
use super::{Miss, Rule, Site};

/// How often each rule fired, and how often it was declined for which reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Applications by rule.
    pub fired: BTreeMap<&'static str, usize>,
    /// Matches that were declined, by rule and reason.
    pub declined: BTreeMap<(&'static str, String), usize>,
}

/// A set of rules by root operator.
pub struct Rewriter<'r> {
    rules: FxHashMap<&'static str, Vec<&'r dyn Rule>>,
    /// Keep the reasons of declined matches.
    explain: bool,
}

/// A pattern is at most this deep, so that an edit can complete a match at most so far downstream.
const REACH: usize = 8;
/// Nodes queued downstream of one edit, at most.
const SPREAD: usize = 96;
/// Applications per node before the engine gives up: rules that undo each other must not hang.
const FUEL_PER_NODE: usize = 16;

impl<'r> Rewriter<'r> {
    /// The rules, tried in this order at each node.
    pub fn new(rules: impl IntoIterator<Item = &'r dyn Rule>) -> Self {
        let mut by_root: FxHashMap<&'static str, Vec<&'r dyn Rule>> = FxHashMap::default();
        for rule in rules {
            for root in rule.roots() {
                by_root.entry(root).or_default().push(rule);
            }
        }
        Self { rules: by_root, explain: false }
    }

    /// Keeps the reasons of declined matches in the statistics.
    #[must_use]
    pub fn explaining(mut self, explain: bool) -> Self {
        self.explain = explain;
        self
    }

    /// Applies the rules to a graph and its bodies until none fires.
    pub fn run(&self, graph: &mut Graph, statistics: &mut Statistics) {
        let owners: Vec<NodeId> =
            graph.nodes().filter(|(_, node)| node.bodies().next().is_some()).map(|(id, _)| id).collect();
        for owner in owners {
            let edited = graph.edit_bodies(owner, |bodies| {
                for body in bodies.iter_mut() {
                    self.run(body, statistics);
                }
            });
            debug_assert!(edited.is_ok(), "owners of bodies exist");
        }

        let Ok(order) = graph.topological_order() else { return };
        let mut list = WorkList::default();
        order.into_iter().for_each(|node| list.push(node));
        let mut fuel = FUEL_PER_NODE * graph.node_count() + 1000;
        while let Some(node) = list.pop() {
            if fuel == 0 {
                return;
            }
            if let Some(touched) = self.visit(graph, node, statistics) {
                fuel -= 1;
                touched.created.iter().for_each(|&node| list.push(node));
                touched.values.iter().for_each(|&value| list.push_around(graph, value));
            }
        }
    }

    /// Tries the rules of one node; the first that fires ends the visit.
    fn visit(
        &self,
        graph: &mut Graph,
        id: NodeId,
        statistics: &mut Statistics,
    ) -> Option<super::commit::Touched> {
        let node = graph.get_node(id)?;
        if !node.is(node.op_type()) {
            return None;
        }
        let rules = self.rules.get(node.op_type())?;
        for rule in rules {
            if rule.since() > graph.opset() {
                continue;
            }
            let outcome = rule.rewrite(&Site { graph, root: id });
            let reason = match outcome {
                Ok(patch) => match commit(graph, id, patch) {
                    Ok(touched) => {
                        *statistics.fired.entry(rule.name()).or_default() += 1;
                        return Some(touched);
                    }
                    Err(error) => error.to_string(),
                },
                Err(Miss::NoMatch) => continue,
                Err(Miss::Declined(reason)) => reason,
            };
            if self.explain {
                *statistics.declined.entry((rule.name(), reason)).or_default() += 1;
            }
        }
        None
    }
}

#[derive(Default)]
struct WorkList {
    queue: VecDeque<NodeId>,
    queued: Vec<bool>,
}

impl WorkList {
    fn push(&mut self, node: NodeId) {
        if self.queued.len() <= node.index() {
            self.queued.resize(node.index() + 1, false);
        }
        if !std::mem::replace(&mut self.queued[node.index()], true) {
            self.queue.push_back(node);
        }
    }

    fn pop(&mut self) -> Option<NodeId> {
        let node = self.queue.pop_front()?;
        self.queued[node.index()] = false;
        Some(node)
    }

    /// Queues the producer of a value and, as far as a pattern reaches, the nodes downstream.
    fn push_around(&mut self, graph: &Graph, value: ValueId) {
        if let Some((producer, ..)) = graph.producer(value) {
            self.push(producer);
        }
        let mut frontier = vec![value];
        let mut budget = SPREAD;
        for _ in 0..REACH {
            let mut next = Vec::new();
            for value in frontier {
                for consumer in graph.consumers(value) {
                    if budget == 0 {
                        return;
                    }
                    budget -= 1;
                    self.push(consumer.node);
                    next.extend(graph.node(consumer.node).outputs().iter().flatten());
                }
            }
            frontier = next;
        }
    }
}
