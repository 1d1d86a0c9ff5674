//! One test for each thing that the checker can say.

#![allow(clippy::unwrap_used)]

use onnx_opt_proto::{
    AttributeProto, ModelProto, OperatorSetIdProto, TensorShapeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_shape_proto::{Dimension, dimension},
};

use super::*;
use crate::dim::Dim;
use crate::graph::{Context, NewNode};
use crate::import::import;
use crate::types::Type;

/// Operator, operands and results; `_` for one that is left out.
fn node(op_type: &str, inputs: &str, outputs: &str) -> NodeProto {
    let names = |text: &str| text.split_whitespace().map(|name| name.replace('_', "")).collect();
    let (domain, op_type) = op_type.rsplit_once(':').unwrap_or(("", op_type));
    NodeProto {
        op_type: Some(op_type.to_owned()),
        domain: Some(domain.to_owned()),
        input: names(inputs),
        output: names(outputs),
        ..NodeProto::default()
    }
}

fn with(mut node: NodeProto, name: &str, attribute: AttributeProto) -> NodeProto {
    node.attribute.push(AttributeProto { name: Some(name.to_owned()), ..attribute });
    node
}

fn int(value: i64) -> AttributeProto {
    let kind = Some(AttributeType::Int as i32);
    AttributeProto { r#type: kind, i: Some(value), ..AttributeProto::default() }
}

fn float(value: f32) -> AttributeProto {
    let kind = Some(AttributeType::Float as i32);
    AttributeProto { r#type: kind, f: Some(value), ..AttributeProto::default() }
}

fn formal(name: &str, code: i32, shape: &[i64]) -> ValueInfoProto {
    let dim =
        |&size: &i64| Dimension { value: Some(dimension::Value::DimValue(size)), ..Dimension::default() };
    let tensor = type_proto::Tensor {
        elem_type: Some(code),
        shape: Some(TensorShapeProto { dim: shape.iter().map(dim).collect() }),
    };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(ty), ..ValueInfoProto::default() }
}

/// A body whose formal inputs and outputs have no types.
fn body(inputs: &str, nodes: Vec<NodeProto>, outputs: &str) -> AttributeProto {
    let formals = |names: &str| {
        let formal = |name: &str| ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() };
        names.split_whitespace().map(formal).collect()
    };
    let graph =
        GraphProto { node: nodes, input: formals(inputs), output: formals(outputs), ..GraphProto::default() };
    let kind = Some(AttributeType::Graph as i32);
    AttributeProto { r#type: kind, g: Some(Box::new(graph)), ..AttributeProto::default() }
}

/// Inputs `x`: float[2], `i`: int64[2], `n`: int64[] and `flag`: bool[].
fn model(opset: i64, nodes: Vec<NodeProto>, outputs: Vec<ValueInfoProto>) -> ModelProto {
    let graph = GraphProto {
        node: nodes,
        input: vec![formal("x", 1, &[2]), formal("i", 7, &[2]), formal("n", 7, &[]), formal("flag", 9, &[])],
        output: outputs,
        ..GraphProto::default()
    };
    let import = |domain: &str, version| OperatorSetIdProto {
        domain: Some(domain.to_owned()),
        version: Some(version),
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![import("", opset), import("local", 1)],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn verdict(model: ModelProto) -> Result<(), CheckError> {
    check(&import(model.into()).unwrap())
}

/// What is wrong with a node.
fn reason(opset: i64, node: NodeProto) -> String {
    match verdict(model(opset, vec![node], Vec::new())) {
        Err(CheckError::Node { reason, .. }) => reason,
        other => format!("{other:?}"),
    }
}

#[test]
fn operators_that_an_opset_has_not() {
    assert_eq!(reason(10, node("Upsample", "x x", "y")), "the operator was withdrawn in opset 10");
    assert_eq!(reason(17, node("Gelu", "x", "y")), "opset 17 has no such operator");
    assert_eq!(
        reason(17, node("ai.onnx.ml:LabelEncoder", "x", "y")),
        "the model imports no opset for domain `ai.onnx.ml`"
    );
    assert_eq!(reason(17, node("other:Anything", "x", "y")), "Ok(())");
}

#[test]
fn counts() {
    for (node, expected) in [
        (node("Add", "x", "y"), "1 operands, at least 2 needed"),
        (node("Relu", "x x", "y"), "2 operands, at most 1 allowed"),
        (node("Add", "_ x", "y"), "`A` is left out but required"),
        (node("Relu", "x", ""), "0 results, at least 1 needed"),
        (node("Relu", "x", "y z"), "2 results, at most 1 allowed"),
        (node("Relu", "x", "_"), "`Y` is left out but required"),
        (node("Clip", "x _ _", "y"), "Ok(())"),
    ] {
        assert_eq!(reason(17, node), expected);
    }
}

#[test]
fn attributes() {
    let leaky = || node("LeakyRelu", "x", "y");
    for (node, expected) in [
        (with(leaky(), "beta", float(1.0)), "the operator has no attribute `beta`"),
        (with(leaky(), "__beta__", float(1.0)), "Ok(())"),
        (with(leaky(), "alpha", AttributeProto::default()), "attribute `alpha` holds no value"),
        (with(leaky(), "alpha", int(1)), "attribute `alpha` is INT, not Float"),
        (with(with(leaky(), "alpha", float(1.0)), "alpha", float(1.0)), "attribute `alpha` is given twice"),
        (node("Cast", "x", "y"), "attribute `to` is required"),
    ] {
        assert_eq!(reason(17, node), expected);
    }
}

#[test]
fn types() {
    assert_eq!(reason(17, node("Relu", "flag", "y")), "`flag` is bool[], which `X` does not allow");
    assert_eq!(reason(17, node("Add", "x i", "y")), "`i` is int64[2], `x` is float[2]: the types must agree");
}

#[test]
fn branches() {
    let identity = |from: &str, outputs: &str| body("", vec![node("Identity", from, "t")], outputs);
    let branches = |yes: AttributeProto, no: AttributeProto| {
        let node = with(node("If", "flag", "y"), "then_branch", yes);
        reason(17, with(node, "else_branch", no))
    };
    assert_eq!(branches(identity("x", "t"), identity("x", "t")), "Ok(())");
    assert_eq!(
        branches(body("a", vec![node("Identity", "x", "t")], "t"), identity("x", "t")),
        "the body has 1 inputs, the node needs 0"
    );
    assert_eq!(
        branches(identity("x", "t"), identity("x", "t t")),
        "the body has 2 outputs, the node needs 1"
    );
    assert_eq!(branches(identity("x", "t"), identity("i", "t")), "one branch gives float, the other int64");
}

#[test]
fn loops() {
    let looping = |outputs: &str, body: AttributeProto| {
        reason(17, with(node("Loop", "n flag x", outputs), "body", body))
    };
    let step = || vec![node("Identity", "go", "on"), node("Abs", "state", "next")];
    assert_eq!(looping("y", body("k go state", step(), "on next")), "Ok(())");
    assert_eq!(looping("y", body("go state", step(), "on next")), "the body has 2 inputs, the node needs 3");
    assert_eq!(looping("y", body("k go state", step(), "")), "the body gives no condition");
    assert_eq!(looping("y", body("k go state", step(), "on")), "the body gives 0 values, 1 are carried");
    assert_eq!(looping("y z", body("k go state", step(), "on next")), "2 results, at most 1 allowed");
}

#[test]
fn scans() {
    let scan = |count: i64, outputs: &str, body: AttributeProto| {
        let node = with(node("Scan", "x i", outputs), "num_scan_inputs", int(count));
        reason(17, with(node, "body", body))
    };
    let step = || vec![node("Abs", "state", "next"), node("Abs", "element", "out")];
    assert_eq!(scan(1, "y z", body("state element", step(), "next out")), "Ok(())");
    assert_eq!(
        scan(1, "y", body("state element more", step(), "next")),
        "the body has 3 inputs, the node needs 2"
    );
    for count in [-1, 0, 3] {
        let found = scan(count, "y", body("state element", step(), "next"));
        assert_eq!(found, "num_scan_inputs does not fit the operands");
    }
    assert_eq!(
        scan(1, "y", body("state element", step(), "")),
        "the body gives fewer values than are carried"
    );
    assert_eq!(scan(1, "y z", body("state element", step(), "next")), "2 results, at most 1 allowed");
}

/// `local:NAME` of one operand and one result, which computes by this operator.
fn function(name: &str, op_type: &str) -> FunctionProto {
    FunctionProto {
        name: Some(name.to_owned()),
        domain: Some("local".to_owned()),
        input: vec!["a".to_owned()],
        output: vec!["b".to_owned()],
        node: vec![node(op_type, "a", "b")],
        ..FunctionProto::default()
    }
}

#[test]
fn functions() {
    let verdict = |call: NodeProto, functions: Vec<FunctionProto>| {
        verdict(ModelProto { functions, ..model(17, vec![call], Vec::new()) })
            .map_err(|error| error.to_string())
    };
    let refused = |text: &str| Err(text.to_owned());
    let call = || node("local:F", "x", "y");
    let simple = || vec![function("F", "Relu")];
    assert_eq!(verdict(call(), simple()), Ok(()));
    assert_eq!(
        verdict(node("local:F", "x x", "y"), simple()),
        refused("F `y`: 2 operands, at most 1 allowed")
    );
    assert_eq!(
        verdict(node("local:F", "x", "y z"), simple()),
        refused("F `y`: 2 results, at most 1 allowed")
    );
    assert_eq!(
        verdict(call(), vec![function("F", "Relu"), function("F", "Abs")]),
        refused("function `F` is defined twice")
    );
    assert_eq!(
        verdict(call(), vec![function("G", "local:F"), function("F", "local:G")]),
        refused("function `G` calls itself")
    );
}

#[test]
fn the_interface() {
    let relu = || vec![node("Relu", "x", "y")];
    assert_eq!(verdict(model(17, relu(), vec![formal("y", 1, &[2])])), Ok(()));
    assert_eq!(
        verdict(model(17, relu(), vec![formal("y", 7, &[2])])),
        Err(CheckError::Declaration {
            value: "y".to_owned(),
            declared: ElementType::Int64,
            actual: ElementType::Float
        })
    );
    assert_eq!(
        verdict(model(17, relu(), vec![formal("y", 99, &[2])])),
        Err(CheckError::UnknownElementType { value: "y".to_owned(), code: 99 })
    );
    let mut graph = Graph::new(Context::with_opset(17));
    let x = graph.add_input("x", vector());
    graph.push_output(x, formal("y", 1, &[2])).unwrap();
    let renamed = CheckError::Renamed { formal: "y".to_owned(), value: "x".to_owned() };
    assert_eq!(check_graph(&graph), Err(renamed));
}

fn vector() -> Type {
    Type::tensor(ElementType::Float, [Dim::fixed(2)])
}

#[test]
fn names_of_values() {
    let inputs = |names: [&str; 2]| {
        let mut graph = Graph::new(Context::with_opset(17));
        names.into_iter().for_each(|name| {
            graph.add_input(name, vector());
        });
        check_graph(&graph)
    };
    assert_eq!(inputs(["a", "b"]), Ok(()));
    assert_eq!(inputs(["a", "a"]), Err(CheckError::DuplicateName("a".to_owned())));
    assert_eq!(inputs(["a", ""]), Err(CheckError::Unnamed));
}

/// A branch that reads `x` once or twice from outside, and one of whose own values has this name.
fn reading(twice: bool, name: &str) -> Result<(), CheckError> {
    let mut graph = Graph::new(Context::with_opset(17));
    let condition = graph.add_input("flag", Type::tensor(ElementType::Bool, []));
    let x = graph.add_input("x", vector());
    let branch = || {
        let mut body = Graph::new(graph.context().clone());
        let (a, b) = (body.add_capture(0), body.add_capture(u32::from(twice)));
        let node = body.add_node(NewNode::new("Add", [a, b])).unwrap();
        body.add_output(name, body.node(node).output(0).unwrap()).unwrap();
        body
    };
    let node = NewNode::new("If", [condition]).with("then_branch", branch()).with("else_branch", branch());
    let captures = if twice { vec![x, x] } else { vec![x] };
    graph.add_node(NewNode { captures, ..node }).unwrap();
    check_graph(&graph)
}

#[test]
fn names_of_captured_values() {
    // Twice under two indices and twice under one is the same value of the same name.
    assert_eq!(reading(true, "t"), Ok(()));
    assert_eq!(reading(false, "t"), Ok(()));
    assert_eq!(reading(true, "x"), Err(CheckError::DuplicateName("x".to_owned())));
    // What the body does not read may have the name.
    assert_eq!(reading(true, "flag"), Ok(()));
}

#[test]
fn parts_out_of_step() {
    let mut graph = Graph::new(Context::with_opset(17));
    let x = graph.add_input("x", vector());
    let node = graph.add_node(NewNode::new("Relu", [x])).unwrap();
    assert_eq!(check_graph(&graph), Ok(()));
    let gone = graph.node(node).output(0).unwrap();
    graph.remove_node(node).unwrap();
    graph.pin(gone);
    assert!(matches!(check_graph(&graph), Err(CheckError::Inconsistent(_))));
}

#[test]
fn a_cycle() {
    let mut graph = Graph::new(Context::with_opset(17));
    let x = graph.add_input("x", vector());
    let [first, second] = ["Relu", "Abs"].map(|op_type| graph.add_node(NewNode::new(op_type, [x])).unwrap());
    let results = [first, second].map(|node| graph.node(node).output(0).unwrap());
    graph.set_inputs(second, &[Some(results[0])]).unwrap();
    assert_eq!(check_graph(&graph), Ok(()));
    graph.set_inputs(first, &[Some(results[1])]).unwrap();
    assert!(matches!(check_graph(&graph), Err(CheckError::Cycle { .. })));
}
