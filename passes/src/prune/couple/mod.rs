//! Which lanes go together: a rule for each operator says which lanes of its operands and results are one, what it
//! cannot follow is a barrier.
//!
//! Where an axis is taken apart or put together, as in a Reshape of `[H·D]` to `[H, D]`, slices along one factor alone
//! can go: every such place is a choice, made after all else is joined.

mod attention;
mod convolution;
mod elementwise;
mod factor;
mod indexing;
mod movement;
mod normalization;
mod product;
mod quantization;
mod recurrent;
mod reduction;
mod sizes;
mod spatial;

use std::collections::{BTreeMap, BTreeSet};

use onnx_opt_ir::graph::Producer;
use onnx_opt_ir::{Attribute, Graph, Node, NodeId, Tensor, ValueId};

use super::lanes::{Axis, Barrier, Lanes, Place, place};
pub(super) use sizes::Operand;

/// Why axes of images and of kernels stay: nobody would look for channels there.
pub const SPATIAL: &str = "places, not channels";

/// Why a node cannot be followed.
pub(super) type Reason = String;

/// Joins the lanes of a node.
type Follow = fn(&mut Site<'_>) -> Result<(), Reason>;

/// Changes what a node says of sizes to what is left of them.
type Adapt = fn(&Kept<'_>) -> Option<Change>;

/// What is known of an operator.
#[derive(Clone, Copy)]
struct Rule {
    follow: Follow,
    adapt: Option<Adapt>,
}

impl Rule {
    /// Of an operator that says nothing of sizes.
    const fn plain(follow: Follow) -> Self {
        Self { follow, adapt: None }
    }

    /// Of an operator that has to be told other sizes.
    const fn sized(follow: Follow, adapt: Adapt) -> Self {
        Self { follow, adapt: Some(adapt) }
    }
}

/// The families, each of which knows the rules of its operators.
const FAMILIES: &[fn(&Node) -> Option<Rule>] = &[
    elementwise::rule,
    convolution::rule,
    product::rule,
    normalization::rule,
    movement::rule,
    factor::rule,
    indexing::rule,
    spatial::rule,
    reduction::rule,
    attention::rule,
    recurrent::rule,
    quantization::rule,
];

fn rule(node: &Node) -> Option<Rule> {
    if node.operator().is_none() || !node.domain().is_empty() || node.bodies().next().is_some() {
        return None;
    }
    FAMILIES.iter().find_map(|family| family(node))
}

/// The lanes of a graph, joined. Holds until the graph is edited.
pub fn couple(graph: &Graph) -> Lanes {
    let mut lanes = Lanes::of(graph);
    let mut choices = Vec::new();
    bar_interface(graph, &mut lanes);
    let Ok(order) = graph.topological_order() else { return lanes };
    for id in order {
        let node = graph.node(id);
        let mut site =
            Site { graph, id, node, lanes: &mut lanes, choices: &mut choices, seen: BTreeSet::new() };
        match rule(node) {
            Some(rule) => {
                if let Err(reason) = (rule.follow)(&mut site) {
                    site.seen.clear();
                    site.bar_unseen(&reason);
                } else {
                    site.bar_unseen("it works by these elements");
                }
            }
            None => site.bar_unseen("the operator is not followed"),
        }
    }
    for choice in choices {
        choice.make(&mut lanes);
    }
    lanes
}

/// What a caller sees stays: inputs, outputs, and values that are named elsewhere.
fn bar_interface(graph: &Graph, lanes: &mut Lanes) {
    let listed: BTreeSet<ValueId> = graph.inputs().iter().map(|input| input.value).collect();
    for (id, value) in graph.values() {
        let odd = |tensor: &Tensor| tensor.element().bits() < 8;
        let reason = match value.producer() {
            Producer::Input { .. } => Some("an input of the graph"),
            Producer::Sparse(_) => Some("a sparse weight"),
            Producer::Captured { .. } => Some("a value of the surrounding graph"),
            Producer::Constant(_) if listed.contains(&id) => Some("an input of the graph"),
            Producer::Constant(constant) if odd(&constant.tensor) => {
                Some("elements that have no bytes of their own")
            }
            _ if graph.is_output(id) => Some("an output of the graph"),
            _ if graph.is_pinned(id) => Some("a quantization annotation names it"),
            _ => None,
        };
        let Some(reason) = reason else { continue };
        let barrier = Barrier { at: graph.display_name(id), reason: reason.to_owned() };
        let mut places = vec![Place::Value(id)];
        places.extend(graph.consumers(id).filter_map(|consumer| match consumer.slot {
            onnx_opt_ir::graph::Slot::Input(slot) => place(graph, consumer.node, slot as usize),
            onnx_opt_ir::graph::Slot::Capture(_) => None,
        }));
        for place in places {
            let axes = lanes.axes(place).map(<[Axis]>::to_vec).unwrap_or_default();
            for axis in axes {
                lanes.bar(axis.lanes(), &barrier);
            }
        }
    }
}

/// A node whose lanes are being joined.
struct Site<'a> {
    graph: &'a Graph,
    id: NodeId,
    node: &'a Node,
    lanes: &'a mut Lanes,
    choices: &'a mut Vec<Choice>,
    /// Operands and results that the rule asked for.
    seen: BTreeSet<(bool, usize)>,
}

impl Site<'_> {
    /// The axes of operand `index`; none if it is left out.
    ///
    /// # Errors
    /// If its rank is not known.
    fn operand(&mut self, index: usize) -> Result<Option<Vec<Axis>>, Reason> {
        self.seen.insert((false, index));
        if self.node.input(index).is_none() {
            return Ok(None);
        }
        let axes = self.lanes.operand(self.graph, self.id, index);
        axes.map(|axes| Some(axes.to_vec())).ok_or_else(|| "the rank of an operand is not known".to_owned())
    }

    /// The axes of operand `index`, which must be there.
    fn needed(&mut self, index: usize) -> Result<Vec<Axis>, Reason> {
        self.operand(index)?.ok_or_else(|| "an operand is missing".to_owned())
    }

    /// The axes of result `index`; none if it is left out.
    fn result(&mut self, index: usize) -> Result<Option<Vec<Axis>>, Reason> {
        self.seen.insert((true, index));
        let Some(value) = self.node.output(index) else { return Ok(None) };
        let axes = self.lanes.axes(Place::Value(value));
        axes.map(|axes| Some(axes.to_vec())).ok_or_else(|| "the rank of a result is not known".to_owned())
    }

    /// The axes of the first result.
    fn output(&mut self) -> Result<Vec<Axis>, Reason> {
        self.result(0)?.ok_or_else(|| "the first result is left out".to_owned())
    }

    /// Axis `axis` of the first operand and of the first result, counted from the front.
    fn axis(&self, axis: i64, rank: usize) -> Result<usize, Reason> {
        crate::rules::facts::axis(axis, rank).map_err(|_| "an axis is out of range".to_owned())
    }

    fn barrier(&self, reason: &str) -> Barrier {
        Barrier { at: title(self.graph, self.id), reason: reason.to_owned() }
    }

    /// Keeps the lanes of an axis.
    fn bar(&mut self, axis: Axis, reason: &str) {
        let barrier = self.barrier(reason);
        self.lanes.bar(axis.lanes(), &barrier);
    }

    fn bar_all(&mut self, axes: &[Axis], reason: &str) {
        axes.iter().for_each(|&axis| self.bar(axis, reason));
    }

    /// Two axes are one: lane by lane if both have as many, and neither goes otherwise.
    fn join(&mut self, a: Axis, b: Axis) {
        if a.size() == b.size() {
            a.lanes().zip(b.lanes()).for_each(|(a, b)| self.lanes.join(a, b));
        } else {
            self.bar_all(&[a, b], "a size is not known");
        }
    }

    /// Axes in the same order are one.
    fn join_all(&mut self, a: &[Axis], b: &[Axis]) {
        a.iter().zip(b).for_each(|(&a, &b)| self.join(a, b));
    }

    /// The axes of an operand, counted from the last, are spread over those of a result.
    fn spread(&mut self, operand: &[Axis], result: &[Axis]) {
        for (&axis, &over) in operand.iter().rev().zip(result.iter().rev()) {
            if axis != Axis::Single {
                self.join(axis, over);
            }
        }
    }

    /// Lanes `from..` of `whole` are those of `part`, one after the other. What has no lanes of its own stays.
    fn join_part(&mut self, whole: Axis, from: usize, part: Axis, length: usize) {
        for index in 0..length {
            self.join_or_bar(whole.lane(from + index), part.lane(index), "a part of one element");
        }
    }

    /// Two lanes are one; what has no partner stays.
    fn join_or_bar(&mut self, a: Option<u32>, b: Option<u32>, reason: &str) {
        match (a, b) {
            (Some(a), Some(b)) => self.lanes.join(a, b),
            (a, b) => {
                let barrier = self.barrier(reason);
                self.lanes.bar(a.into_iter().chain(b), &barrier);
            }
        }
    }

    /// Keeps what the rule did not ask for.
    fn bar_unseen(&mut self, reason: &str) {
        let barrier = self.barrier(reason);
        let (graph, node) = (self.graph, self.node);
        let operands = (0..node.inputs().len()).filter(|&index| !self.seen.contains(&(false, index)));
        let mut places: Vec<Place> = operands.filter_map(|index| place(graph, self.id, index)).collect();
        let results = (0..node.outputs().len()).filter(|&index| !self.seen.contains(&(true, index)));
        places.extend(results.filter_map(|index| node.output(index)).map(Place::Value));
        places.extend(node.captures().iter().map(|&value| Place::Value(value)));
        for place in places {
            let axes = self.lanes.axes(place).map(<[Axis]>::to_vec).unwrap_or_default();
            axes.into_iter().for_each(|axis| self.lanes.bar(axis.lanes(), &barrier));
        }
    }

    /// Leaves open which of these ways is gone.
    fn choose(&mut self, options: Vec<Way>) {
        let barrier = self.barrier("no slices can go from here and there at once");
        self.choices.push(Choice { barrier, options });
    }

    fn int(&self, name: &str) -> Option<i64> {
        self.node.int(name)
    }

    /// A positive integer attribute.
    fn count(&self, name: &str) -> Result<usize, Reason> {
        let count = self.int(name).and_then(|count| usize::try_from(count).ok()).filter(|&count| count > 0);
        count.ok_or_else(|| format!("`{name}` is not known"))
    }
}

/// One way to take slices out.
#[derive(Default)]
struct Way {
    /// Lanes that go together.
    tracks: Vec<Vec<u32>>,
    /// Axes that stay then.
    stay: Vec<Axis>,
    /// What changes in the others.
    approximate: Option<String>,
}

/// Ways of which one is possible at a time; the first that leaves something to choose from is taken.
struct Choice {
    barrier: Barrier,
    options: Vec<Way>,
}

impl Choice {
    fn make(self, lanes: &mut Lanes) {
        let chosen = self.options.iter().position(|way| way.count(lanes) > 1);
        match chosen {
            Some(index) => {
                let way = &self.options[index];
                for track in &way.tracks {
                    track.windows(2).for_each(|pair| lanes.join(pair[0], pair[1]));
                    if let Some(reason) = &way.approximate {
                        lanes.mark_approximate(track.iter().copied(), reason);
                    }
                }
                let barrier = Barrier { reason: "other slices go from here".to_owned(), ..self.barrier };
                way.stay.iter().for_each(|axis| lanes.bar(axis.lanes(), &barrier));
            }
            None => {
                // What stood in the way before says more.
                let all = || self.options.iter().flat_map(|way| way.tracks.iter().flatten().copied());
                let known = all().find_map(|lane| lanes.barrier(lane)).cloned();
                let barrier = known.unwrap_or(self.barrier.clone());
                lanes.bar(all(), &barrier);
                let stay = self.options.iter().flat_map(|way| &way.stay);
                stay.for_each(|axis| lanes.bar(axis.lanes(), &barrier));
            }
        }
    }
}

impl Way {
    /// How many slices there would be to choose from.
    fn count(&self, lanes: &Lanes) -> usize {
        // Tracks that share a class are one.
        let mut leads: BTreeMap<u32, u32> = BTreeMap::new();
        fn lead(leads: &BTreeMap<u32, u32>, class: u32) -> u32 {
            let mut class = class;
            while let Some(&next) = leads.get(&class).filter(|&&next| next != class) {
                class = next;
            }
            class
        }
        let mut barred = BTreeSet::new();
        for track in &self.tracks {
            let Some(&first) = track.first() else { continue };
            let mut a = lead(&leads, lanes.class(first));
            leads.entry(a).or_insert(a);
            for &lane in track {
                let b = lead(&leads, lanes.class(lane));
                let (low, high) = (a.min(b), a.max(b));
                leads.insert(high, low);
                leads.entry(low).or_insert(low);
                a = low;
                if lanes.barrier(lane).is_some() {
                    barred.insert(lanes.class(lane));
                }
            }
        }
        let stay: BTreeSet<u32> =
            self.stay.iter().flat_map(|axis| axis.lanes()).map(|lane| lanes.class(lane)).collect();
        let closed: BTreeSet<u32> = barred.iter().chain(&stay).map(|&class| lead(&leads, class)).collect();
        let classes: BTreeSet<u32> = leads.keys().map(|&class| lead(&leads, class)).collect();
        classes.difference(&closed).count()
    }
}

/// A node in words.
pub(super) fn title(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    format!("{} `{}`", node.op_type(), crate::rewrite::place(graph, node))
}

/// What is left of the lanes, as a node sees it.
pub(super) struct Kept<'a> {
    pub(super) graph: &'a Graph,
    pub(super) id: NodeId,
    pub(super) node: &'a Node,
    pub(super) lanes: &'a Lanes,
    /// Whether a class goes.
    pub(super) goes: &'a dyn Fn(u32) -> bool,
}

/// What a node is told.
#[derive(Default)]
pub(super) struct Change {
    /// Attributes and their new values.
    pub attributes: Vec<Attribute>,
    /// Attributes that go.
    pub dropped: Vec<&'static str>,
    /// Operands and what takes their place.
    pub operands: Vec<(usize, Operand)>,
}

impl Change {
    fn attribute(name: &str, value: impl Into<onnx_opt_ir::AttributeValue>) -> Self {
        Self { attributes: vec![Attribute::new(name, value)], ..Self::default() }
    }

    /// A list that is an attribute in old versions of an operator and operand `index` in new ones.
    fn list(kept: &Kept<'_>, attribute: &str, index: usize, values: &[i64]) -> Option<Self> {
        if kept.node.attributes().get(attribute).is_some() {
            return Some(Self::attribute(attribute, values.to_vec()));
        }
        let element = kept.graph.element(kept.node.input(index)?)?;
        let tensor = Tensor::from_integers(element, &[values.len()], values)?;
        Some(Self::operand(index, Operand::Constant(tensor)))
    }

    fn operand(index: usize, operand: Operand) -> Self {
        Self { operands: vec![(index, operand)], ..Self::default() }
    }
}

impl Kept<'_> {
    /// What the node has to be told, if anything.
    pub(super) fn change(&self) -> Option<Change> {
        rule(self.node)?.adapt?(self)
    }

    fn operand(&self, index: usize) -> Option<&[Axis]> {
        self.lanes.operand(self.graph, self.id, index)
    }

    fn result(&self, index: usize) -> Option<&[Axis]> {
        self.lanes.axes(Place::Value(self.node.output(index)?))
    }

    /// Whether lane `index` of an axis stays.
    fn stays(&self, axis: Axis, index: usize) -> bool {
        axis.lane(index).is_none_or(|lane| !(self.goes)(self.lanes.class(lane)))
    }

    /// What is left of an axis, from `range` of its lanes.
    fn within(&self, axis: Axis, range: std::ops::Range<usize>) -> usize {
        range.filter(|&index| self.stays(axis, index)).count()
    }

    /// The new size of an axis if it has lost something.
    fn shrunk(&self, axis: Axis) -> Option<usize> {
        let left = self.within(axis, 0..axis.size());
        (left < axis.size()).then_some(left)
    }

    /// The new size of an axis that has lanes, or is of size 1.
    fn size(&self, axis: Axis) -> Option<usize> {
        match axis {
            Axis::Single => Some(1),
            Axis::Lanes { .. } => Some(self.within(axis, 0..axis.size())),
            Axis::Open => None,
        }
    }
}
