//! Small networks of every kind, pruned by half: at most 0.55 of the parameters are left, what is left runs, and it
//! computes what the original does with the removed slices set to zero, where a group does not say otherwise.

#![allow(clippy::unwrap_used)]

mod images;
mod operators;
mod sequences;

use onnx_opt::engine::EngineChoice;
use onnx_opt::ir::{ElementType, Model, NewNode, ValueId, check, export};
use onnx_opt::passes::prune::{Options, Outcome, Target, prune};
use onnx_opt::passes::testing::Fixture;
use onnx_opt::proto::ModelProto;
use onnx_opt::verify::{Status, VerifyOptions, verify};

/// What tract has no kernel for, or a wrong one.
const TRACT_LACKS: &[&str] = &["group_normalization", "attention_operator"];

/// Layers, named by what they take.
trait Layers {
    fn conv(&mut self, x: ValueId, shape: &[usize], group: i64) -> ValueId;
    fn linear(&mut self, x: ValueId, from: usize, to: usize) -> ValueId;
    fn dense(&mut self, x: ValueId, from: usize, to: usize) -> ValueId;
    fn pooled(&mut self, x: ValueId, channels: usize, classes: usize) -> ValueId;
    fn batch_norm(&mut self, x: ValueId, channels: usize) -> ValueId;
    fn positive(&mut self, count: usize) -> ValueId;
    fn reshape(&mut self, x: ValueId, sizes: &[i64]) -> ValueId;
    fn transpose(&mut self, x: ValueId, perm: &[i64]) -> ValueId;
    fn split(&mut self, x: ValueId, axis: i64, sizes: &[i64]) -> Vec<ValueId>;
    fn layer_norm(&mut self, x: ValueId, width: usize) -> ValueId;
    fn attended(&mut self, q: ValueId, k: ValueId, v: ValueId) -> ValueId;
}

impl Layers for Fixture {
    /// A convolution with weight [M, C/g, k, k], bias, and as much padding as keeps the size for odd k.
    fn conv(&mut self, x: ValueId, shape: &[usize], group: i64) -> ValueId {
        let (weight, bias) = (self.weights(shape), self.weights(&shape[..1]));
        let pad = (shape[2] / 2) as i64;
        let node = NewNode::new("Conv", [x, weight, bias]).with("pads", vec![pad; 4]);
        self.node(node.with("group", group))
    }

    /// x·w + b.
    fn linear(&mut self, x: ValueId, from: usize, to: usize) -> ValueId {
        let (weight, bias) = (self.weights(&[from, to]), self.weights(&[to]));
        let product = self.op("MatMul", &[x, weight]);
        self.op("Add", &[product, bias])
    }

    /// A Gemm with the weight as PyTorch has it.
    fn dense(&mut self, x: ValueId, from: usize, to: usize) -> ValueId {
        let (weight, bias) = (self.weights(&[to, from]), self.weights(&[to]));
        self.node(NewNode::new("Gemm", [x, weight, bias]).with("transB", 1))
    }

    fn pooled(&mut self, x: ValueId, channels: usize, classes: usize) -> ValueId {
        let mean = self.op("GlobalAveragePool", &[x]);
        let flat = self.op("Flatten", &[mean]);
        self.dense(flat, channels, classes)
    }

    fn batch_norm(&mut self, x: ValueId, channels: usize) -> ValueId {
        let (scale, bias, mean) =
            (self.weights(&[channels]), self.weights(&[channels]), self.weights(&[channels]));
        let variance = self.positive(channels);
        self.op("BatchNormalization", &[x, scale, bias, mean, variance])
    }

    fn positive(&mut self, count: usize) -> ValueId {
        let values: Vec<f32> = (0..count).map(|index| 0.5 + index as f32 / count as f32).collect();
        self.floats(&[count], &values)
    }

    fn reshape(&mut self, x: ValueId, sizes: &[i64]) -> ValueId {
        let sizes = self.integers(sizes);
        self.op("Reshape", &[x, sizes])
    }

    fn transpose(&mut self, x: ValueId, perm: &[i64]) -> ValueId {
        self.node(NewNode::new("Transpose", [x]).with("perm", perm.to_vec()))
    }

    fn split(&mut self, x: ValueId, axis: i64, sizes: &[i64]) -> Vec<ValueId> {
        let parts = self.integers(sizes);
        let node = NewNode { outputs: sizes.len(), ..NewNode::new("Split", [x, parts]).with("axis", axis) };
        let id = self.graph.add_node(node).unwrap();
        self.graph.node(id).outputs().iter().map(|output| output.unwrap()).collect()
    }

    fn layer_norm(&mut self, x: ValueId, width: usize) -> ValueId {
        let (scale, bias) = (self.positive(width), self.weights(&[width]));
        self.op("LayerNormalization", &[x, scale, bias])
    }

    /// softmax(q·kᵀ/2)·v, with q, k, v [B, H, S, D].
    fn attended(&mut self, q: ValueId, k: ValueId, v: ValueId) -> ValueId {
        let keys = self.transpose(k, &[0, 1, 3, 2]);
        let scores = self.op("MatMul", &[q, keys]);
        let two = self.scalar(2.0);
        let scaled = self.op("Div", &[scores, two]);
        let weights = self.node(NewNode::new("Softmax", [scaled]).with("axis", -1));
        self.op("MatMul", &[weights, v])
    }
}

/// Elements of all weights.
fn parameters(model: &Model) -> usize {
    let graph = &model.graph;
    graph
        .values()
        .filter_map(|(id, _)| graph.constant(id))
        .filter(|tensor| matches!(tensor.element(), ElementType::Float | ElementType::Int8))
        .map(|tensor| tensor.len())
        .sum()
}

/// Prunes a network by half and holds it against what it must be.
fn halved(name: &str, fixture: Fixture, share: f64) -> Outcome {
    let model = fixture.into_model();
    let mut pruned = model.clone();
    let outcome = prune(&mut pruned, &Options::new(Target::Units(0.5)))
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    check(&pruned).unwrap_or_else(|error| panic!("{name}: {error}\n{pruned}"));
    let (before, after) = (parameters(&model), parameters(&pruned));
    assert!(
        after as f64 <= share * before as f64,
        "{name}: {after} of {before} parameters are left\n{pruned}"
    );
    assert_eq!(
        outcome.after.parameters as i64 - outcome.before.parameters as i64,
        elements(&pruned) - elements(&model)
    );
    let reference = match &outcome.masked {
        Some(graph) => Model { graph: graph.clone(), ..model },
        None => model,
    };
    agree(name, &reference, &pruned, if outcome.masked.is_some() { 1e-5 } else { f64::INFINITY });
    outcome
}

/// A model as it is written, with names for bodies, which onnxruntime wants.
fn messages(model: &Model) -> ModelProto {
    let mut messages = export(model);
    let nodes = messages.graph.iter_mut().flat_map(|graph| &mut graph.node);
    let bodies = nodes.flat_map(|node| &mut node.attribute).filter_map(|attribute| attribute.g.as_mut());
    bodies.for_each(|body| body.name = Some("body".to_owned()));
    messages
}

/// Holds one model against another in tract, and in onnxruntime where `ORT_DYLIB_PATH` names its library.
fn agree(name: &str, reference: &Model, model: &Model, tolerance: f64) {
    let tract = Some(EngineChoice::Tract).filter(|_| !TRACT_LACKS.contains(&name));
    let onnxruntime = std::env::var_os("ORT_DYLIB_PATH").map(|_| EngineChoice::OnnxRuntime);
    for engine in tract.into_iter().chain(onnxruntime) {
        let options = VerifyOptions {
            engine,
            tolerance: Some(tolerance),
            program: Some(assert_cmd::cargo::cargo_bin!("onnx-opt").to_path_buf()),
            ..VerifyOptions::default()
        };
        let status = verify(&messages(reference), &messages(model), &options).status;
        assert_eq!(status, Status::Verified, "{name} in {engine:?}\n{model}");
    }
}

/// Elements of all constants.
fn elements(model: &Model) -> i64 {
    let graph = &model.graph;
    graph.values().filter_map(|(id, _)| graph.constant(id)).map(|tensor| tensor.len() as i64).sum()
}

/// Prunes a network whose result is a masked original.
fn exactly(name: &str, fixture: Fixture) -> Outcome {
    let outcome = halved(name, fixture, 0.55);
    assert!(outcome.masked.is_some(), "{name}: {:?}", outcome.approximate);
    outcome
}
