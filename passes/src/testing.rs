//! Small graphs for the tests of rules and passes.

#![allow(clippy::unwrap_used)]

use onnx_opt_ir::{Context, Dim, ElementType, Graph, NewNode, Tensor, Type, ValueId};

use crate::rewrite::{Rewriter, Rule, Statistics};

/// A graph under construction.
pub(crate) struct Fixture {
    pub graph: Graph,
}

impl Fixture {
    pub fn new(opset: i64) -> Self {
        Self { graph: Graph::new(Context::with_opset(opset)) }
    }

    pub fn input(&mut self, name: &str, shape: &[i64]) -> ValueId {
        self.graph.add_input(name, Type::tensor(ElementType::Float, shape.iter().copied().map(Dim::fixed)))
    }

    pub fn scalar(&mut self, value: f64) -> ValueId {
        self.graph.add_constant(Tensor::scalar(ElementType::Float, value).unwrap())
    }

    pub fn node(&mut self, node: NewNode) -> ValueId {
        let id = self.graph.add_node(node).unwrap();
        self.graph.node(id).output(0).unwrap()
    }

    pub fn op(&mut self, op_type: &str, inputs: &[ValueId]) -> ValueId {
        self.node(NewNode::new(op_type, inputs.iter().copied()))
    }

    pub fn output(&mut self, name: &str, value: ValueId) {
        self.graph.add_output(name, value).unwrap();
    }

    pub fn result_of(&self, op_type: &str) -> ValueId {
        self.graph.nodes().find(|(_, node)| node.is(op_type)).and_then(|(_, node)| node.output(0)).unwrap()
    }

    /// The operators in order after the rules were applied.
    pub fn rewritten(mut self, rules: Vec<Box<dyn Rule>>) -> Vec<String> {
        Rewriter::new(rules.iter().map(|rule| &**rule)).run(&mut self.graph, &mut Statistics::default());
        self.operators()
    }

    pub fn operators(&self) -> Vec<String> {
        let order = self.graph.topological_order().unwrap();
        order.into_iter().map(|id| self.graph.node(id).op_type().to_owned()).collect()
    }
}
