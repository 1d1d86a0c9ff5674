//! What two models do not share: operators by number, nodes and weights by name.

use std::collections::BTreeMap;
use std::path::Path;

use onnx_opt::ir::{Graph, Model, Node, Tensor};
use onnx_opt::passes::rewrite::place;
use onnx_opt::report::{Summary, for_each_constant, operator_name};
use onnx_opt::session::{self, Error};
use serde::Serialize;

use super::arguments::source;
use super::format::{numbers, words};
use super::optimize::comparison;
use super::output::{Stream, TITLE};

/// So many nodes or weights of a kind are listed in text; JSON has them all.
const LISTED: usize = 50;

#[derive(Serialize)]
struct Difference {
    a: Summary,
    b: Summary,
    /// Operators whose number differs.
    operators: Vec<Numbers>,
    nodes: Changes<String>,
    weights: Changes<Weight>,
}

#[derive(Serialize)]
struct Numbers {
    operator: String,
    a: usize,
    b: usize,
}

/// What one model has under a name that the other does not, and what differs under one name.
#[derive(Serialize)]
struct Changes<T> {
    added: BTreeMap<String, T>,
    removed: BTreeMap<String, T>,
    changed: BTreeMap<String, Change<T>>,
}

#[derive(Serialize)]
struct Change<T> {
    a: T,
    b: T,
    /// Largest absolute difference, of weights of numbers of one shape.
    #[serde(skip_serializing_if = "Option::is_none")]
    largest_difference: Option<f64>,
}

/// A weight by what is in it.
#[derive(Serialize)]
struct Weight {
    r#type: String,
    shape: Vec<usize>,
    /// Of type, shape and elements.
    hash: String,
}

/// Prints what two models do not share. A node is known by its name, or that of its first result; one of a body by
/// that of the owner before it.
pub fn run(a: &Path, b: &Path, json: bool) -> Result<(), Error> {
    let (a, b) = (source(a), source(b));
    let (first, second) = (session::load(&a)?, session::load(&b)?);
    let difference = Difference::of(
        (&first.model, Summary::of(&first.model, first.bytes)),
        (&second.model, Summary::of(&second.model, second.bytes)),
    );
    match json {
        true => Stream::Out.print_json(&difference),
        false => Stream::Out.print(&difference.text(&a.name(), &b.name())),
    }
}

impl Difference {
    fn of((first, a): (&Model, Summary), (second, b): (&Model, Summary)) -> Self {
        let number = |summary: &Summary, name: &str| summary.operators.get(name).copied().unwrap_or(0);
        let mut names: Vec<&String> = a.operators.keys().chain(b.operators.keys()).collect();
        names.sort();
        names.dedup();
        let operators = names
            .into_iter()
            .map(|name| Numbers { operator: name.clone(), a: number(&a, name), b: number(&b, name) })
            .filter(|numbers| numbers.a != numbers.b)
            .collect();
        let nodes = changes(nodes(first), nodes(second), Clone::clone, |_, _| None);
        let weights =
            changes(weights(first), weights(second), |tensor| Weight::of(tensor), |a, b| distance(a, b));
        Self { a, b, operators, nodes, weights }
    }

    fn text(&self, a: &str, b: &str) -> String {
        let title = |text: String| Stream::Out.paint(TITLE, &text) + "\n";
        let mut text = title(format!("{a} -> {b}"));
        text += &numbers(Some(&["", "first", "second", "change"]), comparison(&self.a, &self.b));
        text += &title(self.nodes.title("nodes"));
        text += &self.nodes.text(|node| vec![node.clone()]);
        text += &title(self.weights.title("weights"));
        text += &self
            .weights
            .text(|weight| vec![format!("{}{:?}", weight.r#type, weight.shape), weight.hash.clone()]);
        text
    }
}

impl<T> Changes<T> {
    fn title(&self, what: &str) -> String {
        let (added, removed, changed) = (self.added.len(), self.removed.len(), self.changed.len());
        format!("{what}: {added} added, {removed} removed, {changed} changed")
    }

    fn text(&self, cells: impl Fn(&T) -> Vec<String>) -> String {
        let row = |sign: &str, name: &str, value: &T| {
            [vec![sign.to_owned(), name.to_owned()], cells(value)].concat()
        };
        let mut rows = Vec::new();
        let mut list = |count: usize, new: Vec<Vec<String>>| {
            rows.extend(new);
            if count > LISTED {
                rows.push(vec![String::new(), format!("and {} more, see --json", count - LISTED)]);
            }
        };
        let one_sided = |sign: &'static str, side: &BTreeMap<String, T>| -> Vec<Vec<String>> {
            side.iter().take(LISTED).map(|(name, value)| row(sign, name, value)).collect()
        };
        list(self.removed.len(), one_sided("-", &self.removed));
        list(self.added.len(), one_sided("+", &self.added));
        let changed = self.changed.iter().take(LISTED).flat_map(|(name, change)| {
            let mut after = row("~ +", name, &change.b);
            after.extend(change.largest_difference.map(|value| format!("largest difference {value:.3e}")));
            [row("~ -", name, &change.a), after]
        });
        list(self.changed.len(), changed.collect());
        words(rows)
    }
}

/// The changes from `a` to `b`, each thing shown by `show`; `distance` is that of two that differ.
fn changes<T: PartialEq, S>(
    mut a: BTreeMap<String, T>,
    b: BTreeMap<String, T>,
    show: impl Fn(&T) -> S,
    distance: impl Fn(&T, &T) -> Option<f64>,
) -> Changes<S> {
    let mut changes = Changes { added: BTreeMap::new(), removed: BTreeMap::new(), changed: BTreeMap::new() };
    for (name, after) in b {
        match a.remove(&name) {
            None => drop(changes.added.insert(name, show(&after))),
            Some(before) if before == after => {}
            Some(before) => {
                let largest_difference = distance(&before, &after);
                let change = Change { a: show(&before), b: show(&after), largest_difference };
                changes.changed.insert(name, change);
            }
        }
    }
    changes.removed = a.into_iter().map(|(name, before)| (name, show(&before))).collect();
    changes
}

/// Text of each node by its name.
fn nodes(model: &Model) -> BTreeMap<String, String> {
    let mut nodes = BTreeMap::new();
    add_nodes(&model.graph, "", &mut nodes);
    nodes
}

fn add_nodes(graph: &Graph, prefix: &str, nodes: &mut BTreeMap<String, String>) {
    for (_, node) in graph.nodes() {
        let mut key = format!("{prefix}{}", place(graph, node));
        if nodes.contains_key(&key) {
            // Names of nodes may occur twice, those of results may not.
            let first = node.outputs().iter().flatten().next();
            key += &format!(" ({})", first.map(|&value| graph.display_name(value)).unwrap_or_default());
        }
        nodes.insert(key.clone(), described(graph, node));
        for body in node.bodies() {
            add_nodes(body, &format!("{key}/"), nodes);
        }
    }
}

fn described(graph: &Graph, node: &Node) -> String {
    let name = |value: &Option<_>| value.map(|value| graph.display_name(value)).unwrap_or_default();
    let inputs: Vec<String> = node.inputs().iter().map(name).collect();
    let attributes: Vec<String> = node
        .attributes()
        .iter()
        .filter(|attribute| attribute.value.graphs().is_empty())
        .map(|attribute| format!("{}={:?}", attribute.name, attribute.value))
        .collect();
    let text = format!("{}({}) {}", operator_name(node), inputs.join(", "), attributes.join(" "));
    text.trim_end().to_owned()
}

fn weights(model: &Model) -> BTreeMap<String, &Tensor> {
    let mut weights = BTreeMap::new();
    for_each_constant(&model.graph, &mut |name, tensor, _| {
        weights.insert(name.to_owned(), &**tensor);
    });
    weights
}

impl Weight {
    fn of(tensor: &Tensor) -> Self {
        let shape = tensor.shape().to_vec();
        Self {
            r#type: tensor.element().name().to_owned(),
            shape,
            hash: format!("{:016x}", tensor.content_hash()),
        }
    }
}

/// Largest absolute difference of two tensors of numbers of one shape.
fn distance(a: &Tensor, b: &Tensor) -> Option<f64> {
    if a.shape() != b.shape() {
        return None;
    }
    let (a, b) = (a.to_f64()?, b.to_f64()?);
    Some(a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max))
}
