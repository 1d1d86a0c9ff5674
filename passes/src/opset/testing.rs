//! What the tests of adapters share.
#![allow(clippy::unwrap_used)]

use onnx_opt_ir::{Model, NodeId};

use super::raise;
use crate::testing::Fixture;

/// A model raised to a version.
pub(super) fn raised(fixture: Fixture, target: i64) -> Model {
    let mut model = fixture.into_model();
    raise(&mut model, target).unwrap();
    model.graph.sort().unwrap();
    assert_eq!(model.graph.opset(), target);
    model
}

/// Why a model cannot be raised to a version.
pub(super) fn refusal(fixture: Fixture, target: i64) -> String {
    let mut model = fixture.into_model();
    let before = onnx_opt_ir::export(&model);
    let error = raise(&mut model, target).unwrap_err();
    assert_eq!(onnx_opt_ir::export(&model), before);
    error.to_string()
}

/// The operators of a model in order.
pub(super) fn operators(model: &Model) -> Vec<&str> {
    let order = model.graph.topological_order().unwrap();
    order.into_iter().map(|id| model.graph.node(id).op_type()).collect()
}

/// The last node of an operator.
pub(super) fn last(model: &Model, op_type: &str) -> NodeId {
    model.graph.nodes().filter(|(_, node)| node.is(op_type)).map(|(id, _)| id).last().unwrap()
}

/// The integers of constant operand `index` of the last node of an operator.
pub(super) fn integers(model: &Model, op_type: &str, index: usize) -> Option<Vec<i64>> {
    let value = model.graph.node(last(model, op_type)).input(index)?;
    model.graph.constant(value)?.to_i64()
}

/// The numbers of constant operand `index` of the last node of an operator.
pub(super) fn numbers(model: &Model, op_type: &str, index: usize) -> Option<Vec<f64>> {
    let value = model.graph.node(last(model, op_type)).input(index)?;
    model.graph.constant(value)?.to_f64()
}
