//! The work list: rules are tried where an edit reached, and nowhere else.

use std::collections::{BTreeMap, VecDeque};

use onnx_opt_ir::schema::latest_opset;
use onnx_opt_ir::{Graph, Node, NodeId, ValueId};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::admit::admit;
use super::commit::{Touched, commit};
use super::patch::PatchNode;
use super::{Miss, Patch, Rule, Site};
use crate::target::Target;
use crate::threads::side_by_side;

/// How often each rule fired, and, where explanations are wanted, where it did and where it nearly did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Applications by rule.
    pub fired: BTreeMap<&'static str, usize>,
    /// Where it did, by rule.
    pub places: BTreeMap<&'static str, Vec<String>>,
    /// Why it did not, by rule and place.
    pub declined: BTreeMap<(&'static str, String), String>,
}

/// A rule that may be kept from firing.
struct Candidate<'r> {
    rule: &'r dyn Rule,
    /// Why it must not fire, if it must not: it is only tried where explanations are wanted.
    veto: Option<String>,
}

/// A set of rules by root operator.
pub struct Rewriter<'r> {
    rules: FxHashMap<&'static str, Vec<Candidate<'r>>>,
    /// What must take the replacements.
    target: Option<&'r Target>,
    /// Keep the reasons of declined matches.
    explain: bool,
}

/// A pattern is at most this deep, so that an edit can complete a match at most so far downstream.
const REACH: usize = 8;
/// Nodes queued downstream of one edit, at most.
const SPREAD: usize = 96;
/// Nodes from which on a graph is looked through on several threads, and how many of them at first.
const LARGE: usize = 4_000;
const AHEAD: usize = 512;
/// Applications per node before the engine gives up: rules that undo each other must not hang.
const FUEL_PER_NODE: usize = 16;

impl<'r> Rewriter<'r> {
    /// The rules, tried in this order at each node.
    pub fn new(rules: impl IntoIterator<Item = &'r dyn Rule>) -> Self {
        Self::with_vetoes(rules.into_iter().map(|rule| (rule, None)))
    }

    /// The rules, tried in this order at each node, and why one must not fire.
    pub fn with_vetoes(rules: impl IntoIterator<Item = (&'r dyn Rule, Option<String>)>) -> Self {
        let mut by_root: FxHashMap<&'static str, Vec<Candidate<'r>>> = FxHashMap::default();
        for (rule, veto) in rules {
            for root in rule.roots() {
                by_root.entry(root).or_default().push(Candidate { rule, veto: veto.clone() });
            }
        }
        Self { rules: by_root, target: None, explain: false }
    }

    /// Declines replacements that the target does not have or that cost more there.
    #[must_use]
    pub fn for_target(mut self, target: &'r Target) -> Self {
        self.target = Some(target);
        self
    }

    /// Keeps places, and the reasons of declined matches, in the statistics.
    #[must_use]
    pub fn explaining(mut self, explain: bool) -> Self {
        self.explain = explain;
        self
    }

    /// Applies the rules to a graph and its bodies until none fires.
    pub fn run(&self, graph: &mut Graph, statistics: &mut Statistics) {
        for owner in graph.owners() {
            let edited = graph.edit_bodies(owner, |bodies| {
                for body in bodies.iter_mut() {
                    self.run(body, statistics);
                }
            });
            debug_assert!(edited.is_ok(), "owners of bodies exist");
        }

        let Ok(order) = graph.topological_order() else { return };
        let idle = if self.explain { 0 } else { self.idle_before(graph, &order) };
        let mut list = WorkList::of(&order[idle..], graph.node_bound());
        let mut fuel = FUEL_PER_NODE * graph.node_count() + 1000;
        while let Some(node) = list.pop() {
            if fuel == 0 {
                return;
            }
            if let Some(touched) = self.visit(graph, node, statistics) {
                fuel -= 1;
                touched.created.iter().for_each(|&node| list.push_new(node));
                list.push_around(graph, &touched.values);
            }
        }
    }

    /// How many nodes stand before the first at which a rule fires, looked for on several threads: all, as a rule, when
    /// the rules are applied again. Small graphs are not looked at, as threads take longer to begin.
    fn idle_before(&self, graph: &Graph, order: &[NodeId]) -> usize {
        let mut idle = 0;
        let mut ahead = AHEAD;
        while order.len() >= LARGE && idle < order.len() {
            let window = &order[idle..order.len().min(idle + ahead)];
            let fires = side_by_side(window.len(), &|place| self.fires(graph, window[place]));
            match fires.into_iter().position(|fires| fires) {
                Some(first) => return idle + first,
                None => idle += window.len(),
            }
            ahead *= 2;
        }
        idle
    }

    /// Whether a rule has a replacement for a node that the target takes.
    fn fires(&self, graph: &Graph, id: NodeId) -> bool {
        let site = Site::new(graph, id);
        let mut candidates = self.candidates(graph, graph.node(id)).iter();
        candidates.any(|Candidate { rule, veto }| {
            let may_fire = veto.is_none() && rule.since() <= graph.opset();
            may_fire && rule.rewrite(&site).is_ok_and(|patch| self.accept(graph, &patch).is_ok())
        })
    }

    /// The rules that may have a replacement for a node.
    fn candidates(&self, graph: &Graph, node: &Node) -> &[Candidate<'r>] {
        if !is_operator(graph, node) {
            return &[];
        }
        let candidates = match node.domain() {
            "" => self.rules.get(node.op_type()),
            domain => self.rules.get(&*format!("{domain}:{}", node.op_type())),
        };
        candidates.map_or(&[], Vec::as_slice)
    }

    /// Tries the rules of one node; the first that fires ends the visit.
    fn visit(&self, graph: &mut Graph, id: NodeId, statistics: &mut Statistics) -> Option<Touched> {
        let candidates = self.candidates(graph, graph.get_node(id)?);
        if candidates.is_empty() {
            return None;
        }
        let opset = graph.opset();
        let kinds = Site::new(graph, id).kinds;
        for Candidate { rule, veto } in candidates {
            let newer = rule.since() > opset;
            let may_fire = !newer && veto.is_none();
            if !may_fire && !self.explain {
                continue;
            }
            let reason = match rule.rewrite(&Site { graph, root: id, kinds }) {
                Ok(_) if newer => {
                    format!("opset {} has it first, the model is of {opset}", rule.since())
                }
                Ok(_) if !may_fire => veto.clone().unwrap_or_default(),
                Ok(patch) => {
                    let place = self.explain.then(|| place(graph, graph.node(id)));
                    match self.try_commit(graph, id, patch) {
                        Ok(touched) => {
                            *statistics.fired.entry(rule.name()).or_default() += 1;
                            if let Some(place) = place {
                                statistics.declined.remove(&(rule.name(), place.clone()));
                                statistics.places.entry(rule.name()).or_default().push(place);
                            }
                            return Some(touched);
                        }
                        Err(reason) => reason,
                    }
                }
                Err(Miss::NoMatch) => continue,
                Err(Miss::Declined(reason)) => reason,
            };
            if self.explain {
                let place = place(graph, graph.node(id));
                statistics.declined.insert((rule.name(), place), reason);
            }
        }
        None
    }

    fn try_commit(&self, graph: &mut Graph, root: NodeId, patch: Patch) -> Result<Touched, String> {
        self.accept(graph, &patch)?;
        commit(graph, root, patch).map_err(|error| error.to_string())
    }

    /// Whether the target has a replacement and takes it, and the model calls nothing else by its names.
    fn accept(&self, graph: &Graph, patch: &Patch) -> Result<(), String> {
        if let Some(target) = self.target {
            admit(target, graph, patch)?;
        }
        let is_function = |node: &&PatchNode| graph.context().is_function(&node.domain, &node.op_type);
        if let Some(node) = patch.nodes.iter().find(is_function) {
            return Err(format!("{} is a function of the model", node.op_type));
        }
        Ok(())
    }
}

/// Whether a node is what its name says: no function of the model, and of a version that the standard has where it has
/// the domain.
fn is_operator(graph: &Graph, node: &Node) -> bool {
    node.operator().is_some()
        || latest_opset(node.domain()).is_none()
            && !graph.context().is_function(node.domain(), node.op_type())
}

/// What a node is called in explanations: its name, or that of its first result.
pub fn place(graph: &Graph, node: &Node) -> String {
    let first = || node.outputs().iter().flatten().next().map(|&value| graph.display_name(value));
    match node.name() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => first().unwrap_or_default(),
    }
}

/// Whether a node waits for its visit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    No,
    /// Since the start, when nodes were queued in topological order: so does all that lies behind it.
    SinceStart,
    SinceEdit,
}

struct WorkList {
    queue: VecDeque<NodeId>,
    /// By node.
    waiting: Vec<Waiting>,
    /// Number of the present edit.
    edit: usize,
    /// By node, the last edit that reached it, and how much further the pattern may go from there.
    spread: Vec<(usize, usize)>,
}

impl WorkList {
    /// The list of these nodes, which are in topological order and have indices below `bound`.
    fn of(order: &[NodeId], bound: usize) -> Self {
        let mut waiting = vec![Waiting::No; bound];
        order.iter().for_each(|node| waiting[node.index()] = Waiting::SinceStart);
        Self { queue: order.iter().copied().collect(), waiting, edit: 0, spread: Vec::new() }
    }

    fn push(&mut self, node: NodeId) {
        if self.waiting.len() <= node.index() {
            self.waiting.resize(node.index() + 1, Waiting::No);
        }
        let waiting = &mut self.waiting[node.index()];
        if *waiting == Waiting::No {
            *waiting = Waiting::SinceEdit;
            self.queue.push_back(node);
        }
    }

    /// Queues a node that was not there at the start, though one with its index may have been.
    fn push_new(&mut self, node: NodeId) {
        self.push(node);
        self.waiting[node.index()] = Waiting::SinceEdit;
    }

    fn pop(&mut self) -> Option<NodeId> {
        let node = self.queue.pop_front()?;
        self.waiting[node.index()] = Waiting::No;
        Some(node)
    }

    /// Queues the producers of values and, as far as a pattern reaches, the nodes downstream that do not wait yet.
    fn push_around(&mut self, graph: &Graph, values: &[ValueId]) {
        self.edit += 1;
        self.spread.resize(graph.node_bound(), (0, 0));
        for &value in values {
            if let Some((producer, ..)) = graph.producer(value) {
                self.push(producer);
            }
            self.push_behind(graph, value);
        }
    }

    /// Queues nodes downstream of a value that are not as near to one that came before.
    fn push_behind(&mut self, graph: &Graph, value: ValueId) {
        let mut frontier: SmallVec<[ValueId; 16]> = SmallVec::from_slice(&[value]);
        let mut budget = SPREAD;
        for reach in (1..=REACH).rev() {
            let mut next = SmallVec::new();
            for value in frontier {
                for consumer in graph.consumers(value) {
                    if self.waiting.get(consumer.node.index()) == Some(&Waiting::SinceStart) {
                        continue;
                    }
                    let known = &mut self.spread[consumer.node.index()];
                    if *known >= (self.edit, reach) {
                        continue;
                    }
                    if budget == 0 {
                        return;
                    }
                    budget -= 1;
                    *known = (self.edit, reach);
                    self.push(consumer.node);
                    next.extend(graph.node(consumer.node).outputs().iter().flatten().copied());
                }
            }
            frontier = next;
        }
    }
}
