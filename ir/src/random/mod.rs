//! Random models for tests: legal, small, and such that an engine can run them on any sizes of their inputs. A seed is
//! a model.

mod body;
mod builder;
mod layers;
mod movement;
mod numbers;
mod shapes;

use onnx_opt_proto::{ModelProto, OperatorSetIdProto};

use self::builder::Builder;
pub use self::numbers::Random;
use crate::dim::Dim;
use crate::graph::{Context, Graph};
use crate::model::Model;
use crate::types::{ElementType, Type};

/// Versions of the operator set between which operators changed their form.
const OPSETS: &[i64] = &[11, 13, 17, 18, 20, 21];

/// The model of a seed. Its nodes are in order; inner values are named at export.
pub fn model(seed: u64) -> Model {
    let mut random = Random::new(seed);
    let opset = *random.pick(OPSETS);
    let mut builder = Builder::new(Graph::new(Context::with_opset(opset)), random);
    inputs(&mut builder);
    let steps = 3 + builder.random.below(25);
    for _ in 0..steps {
        builder.step();
    }
    let mut graph = builder.finish();
    // What add_node made is free of cycles.
    debug_assert!(graph.sort().is_ok(), "a node follows its operands");
    let rest = ModelProto {
        ir_version: Some(graph.context().ir_version()),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) }],
        ..ModelProto::default()
    };
    Model { graph, rest, notes: Vec::new() }
}

/// A picture, a sequence of vectors, a matrix, integers and a condition: some of them.
fn inputs(builder: &mut Builder) {
    let (n, s) = (Dim::symbol("N"), Dim::symbol("S"));
    let fixed = Dim::fixed;
    let offered: [(&str, ElementType, Vec<Dim>); 6] = [
        ("sequence", ElementType::Float, vec![n.clone(), s, fixed(6)]),
        ("picture", ElementType::Float, vec![n.clone(), fixed(3), fixed(6), fixed(6)]),
        ("matrix", ElementType::Float, vec![fixed(2), fixed(4)]),
        ("integers", ElementType::Int64, vec![n, fixed(3)]),
        ("condition", ElementType::Bool, vec![]),
        ("wide", ElementType::Double, vec![fixed(2), fixed(3)]),
    ];
    let always = builder.random.below(3);
    for (place, (name, element, shape)) in offered.into_iter().enumerate() {
        if place == always || builder.random.chance(40) {
            builder.input(name, Type::tensor(element, shape));
        }
    }
}
