//! What O2 leaves of networks whose normalizations follow convolutions.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use onnx_opt::ir::{Model, import};
use onnx_opt::passes::pass::PassContext;
use onnx_opt::passes::pipeline::pipeline;
use onnx_opt::proto::read_file;

fn fixture(name: &str) -> Model {
    import(read_file(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)).unwrap()).unwrap()
}

fn count(model: &Model, op_type: &str) -> usize {
    model.graph.nodes().filter(|(_, node)| node.is(op_type)).count()
}

#[test]
fn convolutions_take_in_all_batch_normalizations() {
    for name in ["residual_block.onnx", "mnist_resnet.onnx", "digits_cnn.onnx"] {
        let mut model = fixture(name);
        let (convolutions, normalizations) = (count(&model, "Conv"), count(&model, "BatchNormalization"));
        assert!(normalizations > 0, "{name} shows nothing");
        let nodes = model.graph.node_count();
        pipeline(2).run(&mut model, &PassContext::default(), |_, _| {}).unwrap();
        assert_eq!(count(&model, "BatchNormalization"), 0, "{name}");
        assert_eq!(count(&model, "Conv"), convolutions, "{name}");
        assert!(model.graph.node_count() <= nodes - normalizations, "{name}");
    }
}
