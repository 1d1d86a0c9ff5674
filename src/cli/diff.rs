//! What two models do not share.

use std::collections::BTreeMap;
use std::path::Path;

use onnx_opt::ir::{Graph, Model, Tensor};
use onnx_opt::report::{Summary, for_each_constant, operator_name};
use onnx_opt::session::{self, Error};
use serde::Serialize;

use super::arguments::source;
use super::format::numbers;
use super::optimize::comparison;
use super::output::{Stream, TITLE};

#[derive(Serialize)]
struct Difference {
    a: Summary,
    b: Summary,
    nodes: Vec<Change>,
    weights: Vec<Change>,
}

/// Something that only one model has, or that differs.
#[derive(Serialize)]
struct Change {
    name: String,
    /// As it is in the first model.
    a: Option<String>,
    /// As it is in the second model.
    b: Option<String>,
}

/// Prints what two models do not share. Nodes are known by their first result, weights by name.
pub fn run(a: &Path, b: &Path, json: bool) -> Result<(), Error> {
    let (a, b) = (source(a), source(b));
    let (first, second) = (session::load(&a)?, session::load(&b)?);
    let difference = Difference {
        nodes: changes(&nodes(&first.model), &nodes(&second.model)),
        weights: weights(&first.model, &second.model),
        a: Summary::of(&first.model, first.bytes),
        b: Summary::of(&second.model, second.bytes),
    };
    if json {
        return Stream::Out.print_json(&difference);
    }
    let title = |text: String| Stream::Out.paint(TITLE, &text) + "\n";
    let mut text = title(format!("{} -> {}", a.name(), b.name()));
    text += &numbers(Some(&["", "first", "second", "change"]), comparison(&difference.a, &difference.b));
    for (name, changes) in [("nodes", &difference.nodes), ("weights", &difference.weights)] {
        text += &title(format!("{name}: {} differ", changes.len()));
        for change in changes {
            for (sign, side) in [('-', &change.a), ('+', &change.b)] {
                if let Some(side) = side {
                    text += &format!(" {sign} {}: {side}\n", change.name);
                }
            }
        }
    }
    Stream::Out.print(&text)
}

fn changes(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<Change> {
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    names
        .into_iter()
        .filter(|name| a.get(*name) != b.get(*name))
        .map(|name| Change { name: name.clone(), a: a.get(name).cloned(), b: b.get(name).cloned() })
        .collect()
}

/// Text of each node by its first result; nodes of bodies behind the result of their owner.
fn nodes(model: &Model) -> BTreeMap<String, String> {
    let mut nodes = BTreeMap::new();
    add_nodes(&model.graph, "", &mut nodes);
    nodes
}

fn add_nodes(graph: &Graph, prefix: &str, nodes: &mut BTreeMap<String, String>) {
    for (_, node) in graph.nodes() {
        let name = |value: &Option<_>| value.map(|value| graph.display_name(value)).unwrap_or_default();
        let first = node.outputs().iter().flatten().next();
        let key = format!("{prefix}{}", first.map(|&value| graph.display_name(value)).unwrap_or_default());
        let inputs: Vec<String> = node.inputs().iter().map(name).collect();
        let attributes: Vec<String> = node
            .attributes()
            .iter()
            .filter(|attribute| attribute.value.graphs().is_empty())
            .map(|attribute| format!("{}={:?}", attribute.name, attribute.value))
            .collect();
        nodes.insert(
            key.clone(),
            format!("{}({}) {}", operator_name(node), inputs.join(", "), attributes.join(" "))
                .trim_end()
                .to_owned(),
        );
        for body in node.bodies() {
            add_nodes(body, &format!("{key}/"), nodes);
        }
    }
}

fn weights(a: &Model, b: &Model) -> Vec<Change> {
    let collect = |model| {
        let mut weights: BTreeMap<String, &Tensor> = BTreeMap::new();
        let model: &Model = model;
        for_each_constant(&model.graph, &mut |name, tensor, _| {
            weights.insert(name.to_owned(), tensor);
        });
        weights
    };
    let (a, b) = (collect(a), collect(b));
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    names
        .into_iter()
        .filter(|name| a.get(*name) != b.get(*name))
        .map(|name| {
            let (a, b) = (a.get(name).copied(), b.get(name).copied());
            let mut text = b.map(|tensor| tensor.ty().to_string());
            if let (Some(a), Some(b), Some(text)) = (a, b, &mut text)
                && let Some(distance) = distance(a, b)
            {
                *text += &format!(", largest difference {distance:.3e}");
            }
            Change { name: name.clone(), a: a.map(|tensor| tensor.ty().to_string()), b: text }
        })
        .collect()
}

/// Largest absolute difference of two tensors of numbers of one shape.
fn distance(a: &Tensor, b: &Tensor) -> Option<f64> {
    if a.shape() != b.shape() {
        return None;
    }
    let (a, b) = (a.to_f64()?, b.to_f64()?);
    Some(a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max))
}
