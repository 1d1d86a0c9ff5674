//! The way of a model through the program, in memory and without an engine, with what must hold on it: for tests that
//! try many models, and for fuzzing.

#![allow(clippy::missing_panics_doc, reason = "panics are how it tells")]

use std::collections::BTreeSet;

use onnx_opt_ir::{Model, check, export, load};
use onnx_opt_proto::{ModelProto, TensorProto, encode, read_bytes};

use crate::{PassContext, pipeline};

/// The model of these messages, by way of bytes.
///
/// # Errors
/// If they are refused, why.
pub fn reload(messages: &ModelProto) -> Result<Model, String> {
    let document = read_bytes(encode(messages)).map_err(|error| error.to_string())?;
    load(document).map_err(|error| error.to_string())
}

/// The messages of a model after the pipeline of a level.
pub fn optimized(model: &Model, level: u8) -> ModelProto {
    let mut model = model.clone();
    pipeline(level)
        .run(&mut model, &PassContext::default(), |_, _| {})
        .unwrap_or_else(|error| panic!("level {level}: {error}"));
    if let Err(error) = check(&model) {
        panic!("level {level} made an illegal model: {error}\n{model}");
    }
    export(&model)
}

/// Sends bytes all the way. Those that are no model must be refused with a message; a model must come out as it went
/// in, and each level must keep its interface and leave a model that is accepted. Returns whether it is a model.
pub fn exercise(bytes: &[u8]) -> bool {
    let Ok(document) = read_bytes(bytes.to_vec().into()) else { return false };
    let read = document.model.clone();
    let Ok(model) = load(document) else { return false };
    let _ = model.to_string();
    assert!(encode(&export(&model)) == encode(&read), "the export differs from what was read");
    if !model.rest.training_info.is_empty() {
        return true;
    }
    for level in 1..=2 {
        let result = optimized(&model, level);
        assert_same_interface(&read, &result);
        if let Err(error) = reload(&result) {
            panic!("what level {level} made is refused: {error}\n{model}");
        }
    }
    true
}

/// Names, types and order of inputs and outputs are the same. Before IR version 4 initializers are listed as inputs
/// but are none.
pub fn assert_same_interface(before: &ModelProto, after: &ModelProto) {
    let constants: BTreeSet<&str> = match (before.ir_version(), &before.graph) {
        (..=3, Some(graph)) => graph.initializer.iter().map(TensorProto::name).collect(),
        _ => BTreeSet::new(),
    };
    let interface = |model: &ModelProto| {
        let mut graph = model.graph.clone().unwrap_or_default();
        graph.input.retain(|input| !constants.contains(input.name()));
        (graph.input, graph.output)
    };
    assert_eq!(interface(before), interface(after), "the interface changed");
    let version = before.ir_version.map(|version| version.max(4));
    assert!([before.ir_version, version].contains(&after.ir_version), "another IR version");
    let standard = |model: &ModelProto| {
        model.opset_import.iter().find(|import| import.domain().is_empty()).map(|import| import.version())
    };
    assert_eq!(standard(before), standard(after), "another opset");
    // As bytes, since a number that is none differs from itself. Functions come and go with the domains of their
    // operators.
    let rest = |model: &ModelProto| {
        encode(&ModelProto {
            graph: None,
            ir_version: None,
            opset_import: Vec::new(),
            functions: Vec::new(),
            ..model.clone()
        })
    };
    assert!(rest(before) == rest(after), "what surrounds the graph changed");
}
