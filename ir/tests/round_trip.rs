//! What goes in comes out: import and export without edits, and edits without import and export.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use bytes::Bytes;
use onnx_opt_ir::graph::Producer;
use onnx_opt_ir::random::{Random, model};
use onnx_opt_ir::{Graph, Model, NewNode, NodeId, ValueId, check, export, load};
use onnx_opt_proto::{
    AttributeProto, Document, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, ValueInfoProto, attribute_proto::AttributeType, encode, read_bytes,
    tensor_proto::DataLocation,
};

const SEEDS: u64 = 400;

fn reload(messages: &ModelProto) -> Model {
    load(read_bytes(encode(messages)).unwrap()).unwrap()
}

#[test]
fn random_models_are_legal_and_come_back_byte_for_byte() {
    for seed in 0..SEEDS {
        let model = model(seed);
        if let Err(error) = check(&model) {
            panic!("seed {seed}: {error}\n{model}");
        }
        let messages = export(&model);
        let again = load(read_bytes(encode(&messages)).unwrap());
        let again = again.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{model}"));
        assert!(again.notes.is_empty(), "seed {seed}: {:?}\n{model}", again.notes);
        assert!(encode(&export(&again)) == encode(&messages), "seed {seed}\n{model}");
    }
}

#[test]
fn random_models_vary() {
    let mut operators = std::collections::BTreeSet::new();
    let (mut nodes, mut nested) = (0, 0);
    for seed in 0..SEEDS {
        let model = model(seed);
        nodes += model.graph.node_count();
        for (_, node) in model.graph.nodes() {
            nested += usize::from(node.bodies().next().is_some());
            operators.insert(node.op_type().to_owned());
        }
    }
    assert!(operators.len() > 50 && nested > 50 && nodes > 5_000, "{nested} {nodes} {operators:?}");
}

#[test]
fn the_external_tensor_of_a_constant_comes_back_with_its_bytes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let there = std::fs::read(folder.join("external_data.bin")).unwrap();
    let entry = |key: &str, value: &str| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value.to_owned()),
    };
    let tensor = TensorProto {
        dims: vec![4],
        data_type: Some(1),
        data_location: Some(DataLocation::External as i32),
        external_data: vec![
            entry("location", "external_data.bin"),
            entry("offset", "16"),
            entry("length", "16"),
        ],
        ..TensorProto::default()
    };
    let value = AttributeProto {
        name: Some("value".to_owned()),
        r#type: Some(AttributeType::Tensor as i32),
        t: Some(Box::new(tensor)),
        ..AttributeProto::default()
    };
    let node = NodeProto {
        name: Some("node".to_owned()),
        op_type: Some("Constant".to_owned()),
        output: vec!["y".to_owned()],
        attribute: vec![value],
        ..NodeProto::default()
    };
    let output = ValueInfoProto { name: Some("y".to_owned()), ..ValueInfoProto::default() };
    let graph = GraphProto { node: vec![node], output: vec![output], ..GraphProto::default() };
    let model = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(graph),
        ..ModelProto::default()
    };
    let document = Document { folder: Some(folder), ..model.into() };
    let exported = export(&load(document).unwrap()).graph.unwrap();
    let [node] = &exported.node[..] else { panic!("{exported:?}") };
    assert_eq!((node.name(), node.op_type(), &node.output[..]), ("node", "Constant", &["y".to_owned()][..]));
    let tensor = node.attribute[0].t.as_deref().unwrap();
    assert_eq!(Bytes::from(tensor.raw_data.clone().unwrap()), there[16..32]);
    assert!(tensor.data_location.is_none() && tensor.external_data.is_empty());
}

#[test]
fn fixtures_come_back_byte_for_byte() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let external = path.ends_with("external_data.onnx");
        if path.extension().is_none_or(|extension| extension != "onnx") || external {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let model = load(read_bytes(bytes.clone().into()).unwrap()).unwrap();
        assert!(encode(&export(&model)) == bytes, "{}", path.display());
        count += 1;
    }
    assert!(count > 20);
}

/// Tries one edit at random; a refusal is as good.
fn edit(graph: &mut Graph, random: &mut Random) {
    let nodes: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    let values: Vec<ValueId> = graph.values().map(|(id, _)| id).collect();
    if nodes.is_empty() {
        return;
    }
    let (node, value) = (*random.pick(&nodes), *random.pick(&values));
    match random.below(8) {
        0 => drop(graph.remove_node(node)),
        1 => drop(graph.remove_dead([node], |_, _| {})),
        2 => drop(graph.inline_body(node, 0)),
        3 => {
            graph.lift_constant(value);
        }
        4 => graph.remove_unused_constant(value),
        5 => bypass(graph, value),
        6 => {
            let constant = constant_like(graph, value).unwrap_or(value);
            drop(graph.replace_all_uses(value, constant));
        }
        _ => {
            let result = graph.edit_bodies(node, |bodies| {
                for body in bodies.iter_mut() {
                    edit(body, random);
                }
            });
            result.unwrap();
        }
    }
}

/// Puts an `Identity` between a value and its users.
fn bypass(graph: &mut Graph, value: ValueId) {
    if graph.is_output(value) || graph.use_count(value) == 0 {
        return;
    }
    let users: Vec<_> = graph.consumers(value).collect();
    let Ok(id) = graph.add_node(NewNode::new("Identity", [value])) else { return };
    let copy = graph.node(id).output(0).unwrap();
    for user in users {
        if let onnx_opt_ir::graph::Slot::Input(index) = user.slot {
            graph.set_input(user.node, index as usize, Some(copy)).unwrap();
        }
    }
}

/// A constant of the type of a float value, if its sizes are numbers. (Other integers may be another shape, which the
/// operators behind contradict.)
fn constant_like(graph: &mut Graph, value: ValueId) -> Option<ValueId> {
    let float = graph.element(value)?.is_float();
    if !float || !matches!(graph.value(value).producer(), Producer::Node { .. }) {
        return None;
    }
    let shape: Vec<usize> = graph.fixed_shape(value)?.into_iter().map(|size| size as usize).collect();
    let count = shape.iter().product();
    let tensor = onnx_opt_ir::Tensor::from_f64(graph.element(value)?, &shape, &vec![1.0; count])?;
    Some(graph.add_constant(tensor))
}

#[test]
fn edits_leave_a_legal_graph_and_the_interface() {
    for seed in 0..SEEDS {
        let mut model = reload(&export(&model(seed)));
        let before = export(&model).graph.unwrap();
        let mut random = Random::new(seed);
        for step in 0..20 {
            let text = model.to_string();
            edit(&mut model.graph, &mut random);
            if let Err(error) = check(&model) {
                panic!("seed {seed}, step {step}: {error}\nbefore:\n{text}\nafter:\n{model}");
            }
        }
        model.graph.sort().unwrap();
        let messages = export(&model);
        let after = messages.graph.as_ref().unwrap();
        assert_eq!((&before.input, &before.output), (&after.input, &after.output), "seed {seed}");
        let again = load(read_bytes(encode(&messages)).unwrap());
        let again = again.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{model}"));
        assert!(encode(&export(&again)) == encode(&messages), "seed {seed}\n{model}");
    }
}
