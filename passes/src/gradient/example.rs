//! Graphs on which rules of gradients are tried, in any floating-point type: differences are taken in double precision,
//! gradients are written in single.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "builders of tests say where they fail")]

use onnx_opt_ir::{Dim, ElementType, Model, NewNode, Tensor, Type, ValueId};

use super::{
    GradientError, activation, attention, backward, convolution, einsum, elementwise, gather, matmul,
    movement, normalization, pooling, quantize, recurrent, reduction, resize,
};
use crate::dead_code::DeadCode;
use crate::pass::{Pass, PassContext};
use crate::rewrite::Statistics;
use crate::testing::Fixture;

/// Builds a graph and gives its result.
type Build = Box<dyn Fn(&mut Trial) -> ValueId>;

/// A graph of an operator.
pub struct Example {
    /// The operator that it is an example of.
    pub op_type: &'static str,
    /// What is special about it.
    pub words: String,
    opset: i64,
    build: Build,
    /// What to take differences of, where the graph itself has steps and its gradient passes straight through.
    smooth: Option<Build>,
}

/// A graph under construction whose inputs are numbers in a range.
pub struct Trial {
    /// The element type of all floating-point values.
    pub element: ElementType,
    fixture: Fixture,
    inputs: Vec<(String, Tensor)>,
}

/// The name of the input that holds the gradient of the result.
pub const SEED: &str = "seed";

impl Example {
    /// An example of an operator.
    pub fn new(
        op_type: &'static str,
        words: impl Into<String>,
        opset: i64,
        build: impl Fn(&mut Trial) -> ValueId + 'static,
    ) -> Self {
        Self { op_type, words: words.into(), opset, build: Box::new(build), smooth: None }
    }

    /// With a graph whose differences the gradient is held against.
    #[must_use]
    pub fn with_smooth(mut self, build: impl Fn(&mut Trial) -> ValueId + 'static) -> Self {
        self.smooth = Some(Box::new(build));
        self
    }

    /// Name for messages.
    pub fn name(&self) -> String {
        format!("{} ({})", self.op_type, self.words)
    }

    fn built(&self, element: ElementType, build: &Build) -> (Trial, ValueId) {
        let mut trial = Trial { element, fixture: Fixture::new(self.opset), inputs: Vec::new() };
        let result = build(&mut trial);
        (trial, result)
    }

    /// The model whose differences are taken, with the result `y`, and its inputs.
    pub fn forward(&self, element: ElementType) -> (Model, Vec<(String, Tensor)>) {
        let (mut trial, y) = self.built(element, self.smooth.as_ref().unwrap_or(&self.build));
        // The result is an inner value where the example says nothing else.
        let y = trial.op("Identity", &[y]);
        (trial.fixture.with_output(y).into_model(), trial.inputs)
    }

    /// The model of the gradients, an output for each of the floating-point inputs under its name, and its inputs:
    /// the gradient of the result among them.
    ///
    /// # Errors
    /// If there is no gradient.
    pub fn gradients(&self, element: ElementType) -> Result<(Model, Vec<(String, Tensor)>), GradientError> {
        let (mut trial, y) = self.built(element, &self.build);
        let graph = &mut trial.fixture.graph;
        let ty = Type::tensor(element, graph.shape(y).unwrap().iter().cloned());
        let seed = graph.add_input(SEED, ty);
        let inputs: Vec<ValueId> = graph.inputs().iter().map(|input| input.value).collect();
        let wrt: Vec<ValueId> = inputs
            .into_iter()
            .filter(|&input| input != seed && graph.element(input).is_some_and(ElementType::is_float))
            .collect();
        let found = backward(graph, &[(y, seed)], &wrt)?;
        for (&input, gradient) in wrt.iter().zip(found) {
            let name = format!("{}.grad", trial.fixture.graph.display_name(input));
            if let Some(gradient) = gradient {
                // A value that is an input, or an output already, cannot take the name.
                let copy = trial.fixture.op("Identity", &[gradient]);
                trial.fixture.output(&name, copy);
            }
        }
        // What gradients do not need of the operator itself.
        DeadCode.run(&mut trial.fixture.graph, &PassContext::default(), &mut Statistics::default());
        Ok((trial.fixture.into_model(), trial.inputs))
    }
}

impl Trial {
    /// An input with numbers between two others, each its own.
    pub fn input(&mut self, name: &str, shape: &[i64], low: f64, high: f64) -> ValueId {
        let sizes: Vec<usize> = shape.iter().map(|&size| size as usize).collect();
        self.inputs.push((name.to_owned(), self.tensor(&sizes, low, high)));
        self.fixture.typed_input(name, self.element, shape.iter().copied().map(Dim::fixed))
    }

    /// An input whose sizes are numbers or names, and the sizes that it is given.
    pub fn symbolic_input(
        &mut self,
        name: &str,
        shape: &[&str],
        sizes: &[usize],
        low: f64,
        high: f64,
    ) -> ValueId {
        self.inputs.push((name.to_owned(), self.tensor(sizes, low, high)));
        let dim = |text: &&str| text.parse().map_or_else(|_| Dim::symbol(text), Dim::fixed);
        self.fixture.typed_input(name, self.element, shape.iter().map(dim))
    }

    /// An input of integers.
    pub fn integer_input(&mut self, name: &str, shape: &[i64], values: &[i64]) -> ValueId {
        let sizes: Vec<usize> = shape.iter().map(|&size| size as usize).collect();
        self.inputs.push((name.to_owned(), Tensor::from_i64(&sizes, values).unwrap()));
        self.fixture.typed_input(name, ElementType::Int64, shape.iter().copied().map(Dim::fixed))
    }

    /// Evenly spaced numbers in a varied order, so that none is close to another, rounded to single precision.
    fn tensor(&self, shape: &[usize], low: f64, high: f64) -> Tensor {
        let count: usize = shape.iter().product();
        let mut places: Vec<usize> = (0..count).collect();
        let mut state = 0x2545_f491_u32.wrapping_mul(1 + self.inputs.len() as u32);
        for place in (1..count).rev() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            places.swap(place, (state >> 8) as usize % (place + 1));
        }
        let step = (high - low) / count.max(1) as f64;
        let values: Vec<f64> =
            places.iter().map(|&place| f64::from((low + step * (place as f64 + 0.43)) as f32)).collect();
        Tensor::from_f64(self.element, shape, &values).unwrap()
    }

    /// A constant with numbers between two others.
    pub fn weights(&mut self, shape: &[usize], low: f64, high: f64) -> ValueId {
        let tensor = self.tensor(shape, low, high);
        self.fixture.graph.add_constant(tensor)
    }

    /// A constant.
    pub fn constant(&mut self, shape: &[usize], values: &[f64]) -> ValueId {
        self.fixture.graph.add_constant(Tensor::from_f64(self.element, shape, values).unwrap())
    }

    /// A scalar constant.
    pub fn scalar(&mut self, value: f64) -> ValueId {
        self.constant(&[], &[value])
    }

    /// A constant vector of integers.
    pub fn integers(&mut self, values: &[i64]) -> ValueId {
        self.fixture.integers(values)
    }

    /// A constant of any type.
    pub fn tensor_constant(&mut self, tensor: Tensor) -> ValueId {
        self.fixture.graph.add_constant(tensor)
    }

    /// Adds a node and gives its first result.
    pub fn node(&mut self, node: NewNode) -> ValueId {
        self.fixture.node(node)
    }

    /// Adds a node and gives all its results.
    pub fn results(&mut self, node: NewNode) -> Vec<ValueId> {
        let id = self.fixture.graph.add_node(node).unwrap();
        self.fixture.graph.node(id).outputs().iter().map(|output| output.unwrap()).collect()
    }

    /// Adds a node without attributes and gives its first result.
    pub fn op(&mut self, op_type: &str, inputs: &[ValueId]) -> ValueId {
        self.fixture.op(op_type, inputs)
    }
}

/// The examples of every rule.
pub fn examples() -> Vec<Example> {
    let mut examples = Vec::new();
    examples.extend(activation::examples());
    examples.extend(attention::examples());
    examples.extend(convolution::examples());
    examples.extend(einsum::examples());
    examples.extend(elementwise::examples());
    examples.extend(gather::examples());
    examples.extend(matmul::examples());
    examples.extend(movement::examples());
    examples.extend(normalization::examples());
    examples.extend(pooling::examples());
    examples.extend(quantize::examples());
    examples.extend(recurrent::examples());
    examples.extend(reduction::examples());
    examples.extend(resize::examples());
    examples
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::gradient::operators;

    #[test]
    fn every_operator_has_an_example_that_gives_a_legal_graph() {
        let mut tried = BTreeSet::new();
        let mut wrong = Vec::new();
        for example in examples() {
            tried.insert(example.op_type);
            let (forward, inputs) = example.forward(ElementType::Float);
            let mut illegal = Vec::new();
            let mut judge = |model: &Model| {
                if let Err(error) = onnx_opt_ir::check(model) {
                    illegal.push(format!("{}: {error}\n{model}", example.name()));
                }
            };
            judge(&forward);
            match example.gradients(ElementType::Float) {
                Err(error) => wrong.push(format!("{}: {error}", example.name())),
                Ok((model, _)) => {
                    judge(&model);
                    let floats = inputs.iter().filter(|(_, tensor)| tensor.element().is_float()).count();
                    if model.graph.outputs().len() != floats {
                        wrong.push(format!("{}: a gradient is missing", example.name()));
                    }
                }
            }
            wrong.extend(illegal);
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let all: BTreeSet<&str> = operators().into_iter().collect();
        assert_eq!(tried, all);
        assert_eq!(all.len(), operators().len(), "an operator has two rules");
    }
}
