//! Small graphs on which rules are tried: by the tests beside them, by the registry test that every rule must pass,
//! and by the numeric check that runs them in an engine.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "builders of tests say where they fail")]

use onnx_opt_ir::{Context, Dim, ElementType, Graph, Model, NewNode, Tensor, Type, ValueId};
use onnx_opt_proto::{ModelProto, OperatorSetIdProto};

use crate::rewrite::{Rewriter, Rule, Statistics};

/// What every rule brings: a graph on which it fires, and one that nearly matches and must stay as it is.
pub struct Example {
    /// Name of the rule.
    pub rule: &'static str,
    /// Fires here.
    pub fires: Fixture,
    /// Does not fire here.
    pub near_miss: Fixture,
}

impl Example {
    /// An example from a builder that is told whether to build the graph that fires.
    pub fn new(rule: &'static str, build: impl Fn(bool) -> Fixture) -> Self {
        Self { rule, fires: build(true), near_miss: build(false) }
    }
}

/// A graph under construction.
#[derive(Clone)]
pub struct Fixture {
    /// The graph.
    pub graph: Graph,
}

impl Fixture {
    /// An empty graph of this version of the default operator set.
    pub fn new(opset: i64) -> Self {
        Self { graph: Graph::new(Context::with_opset(opset)) }
    }

    /// An empty graph that imports this version of another domain's operator set too.
    pub fn importing(domain: &str, version: i64) -> Self {
        let opsets = [(String::new(), 21), (domain.to_owned(), version)];
        Self { graph: Graph::new(Context::new(10, opsets, [])) }
    }

    /// A single-precision input of fixed sizes.
    pub fn input(&mut self, name: &str, shape: &[i64]) -> ValueId {
        self.typed_input(name, ElementType::Float, shape.iter().copied().map(Dim::fixed))
    }

    /// An input whose sizes are numbers or names: `["batch", "3"]`.
    pub fn symbolic_input(&mut self, name: &str, shape: &[&str]) -> ValueId {
        let dim = |text: &&str| text.parse().map_or_else(|_| Dim::symbol(text), Dim::fixed);
        self.typed_input(name, ElementType::Float, shape.iter().map(dim))
    }

    /// An input of any element type.
    pub fn typed_input(
        &mut self,
        name: &str,
        element: ElementType,
        shape: impl IntoIterator<Item = Dim>,
    ) -> ValueId {
        self.graph.add_input(name, Type::tensor(element, shape))
    }

    /// A single-precision scalar constant.
    pub fn scalar(&mut self, value: f64) -> ValueId {
        self.graph.add_constant(Tensor::scalar(ElementType::Float, value).unwrap())
    }

    /// A single-precision constant.
    pub fn floats(&mut self, shape: &[usize], values: &[f32]) -> ValueId {
        self.graph.add_constant(Tensor::from_f32(shape, values).unwrap())
    }

    /// A single-precision constant of this shape with varied, repeatable values between -1 and 1.
    pub fn weights(&mut self, shape: &[usize]) -> ValueId {
        let count: usize = shape.iter().product();
        let mut state = 0x2545_f491_u32.wrapping_add(count as u32);
        let values: Vec<f32> = (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect();
        self.floats(shape, &values)
    }

    /// A 64-bit integer.
    pub fn integer(&mut self, value: i64) -> ValueId {
        self.graph.add_constant(Tensor::from_i64(&[], &[value]).unwrap())
    }

    /// A vector of 64-bit integers.
    pub fn integers(&mut self, values: &[i64]) -> ValueId {
        self.graph.add_constant(Tensor::vector_i64(values))
    }

    /// Adds a node and gives its first result.
    pub fn node(&mut self, node: NewNode) -> ValueId {
        let id = self.graph.add_node(node).unwrap();
        self.graph.node(id).output(0).unwrap()
    }

    /// Adds a node without attributes and gives its first result.
    pub fn op(&mut self, op_type: &str, inputs: &[ValueId]) -> ValueId {
        self.node(NewNode::new(op_type, inputs.iter().copied()))
    }

    /// Makes a value an output.
    pub fn output(&mut self, name: &str, value: ValueId) {
        self.graph.add_output(name, value).unwrap();
    }

    /// With one output named `y`.
    #[must_use]
    pub fn with_output(mut self, value: ValueId) -> Self {
        self.output("y", value);
        self
    }

    /// First result of the first node of an operator.
    pub fn result_of(&self, op_type: &str) -> ValueId {
        self.graph.nodes().find(|(_, node)| node.is(op_type)).and_then(|(_, node)| node.output(0)).unwrap()
    }

    /// Applies rules until none fires.
    pub fn rewrite<'r>(&mut self, rules: impl IntoIterator<Item = &'r dyn Rule>) -> Statistics {
        let mut statistics = Statistics::default();
        Rewriter::new(rules).explaining(true).run(&mut self.graph, &mut statistics);
        onnx_opt_ir::check_graph(&self.graph).unwrap();
        statistics
    }

    /// The operators in order after these rules were applied.
    pub fn rewritten(mut self, rules: Vec<Box<dyn Rule>>) -> Vec<String> {
        self.rewrite(rules.iter().map(|rule| &**rule));
        self.operators()
    }

    /// The operators in topological order.
    pub fn operators(&self) -> Vec<String> {
        let order = self.graph.topological_order().unwrap();
        order.into_iter().map(|id| self.graph.node(id).op_type().to_owned()).collect()
    }

    /// A model of this graph.
    pub fn into_model(mut self) -> Model {
        self.graph.sort().unwrap();
        let context = self.graph.context();
        let import = |(domain, version): (&str, i64)| OperatorSetIdProto {
            domain: Some(domain.to_owned()),
            version: Some(version),
        };
        let rest = ModelProto {
            ir_version: Some(context.ir_version()),
            opset_import: context.opsets().map(import).collect(),
            ..ModelProto::default()
        };
        let mut model = Model { graph: self.graph, rest, notes: Vec::new() };
        model.import_used();
        model
    }
}
