#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use onnx_opt_ir::engine::ConstEval as _;
use onnx_opt_ir::{Attributes, Context, NewNode, Tensor, check};

use super::*;
use crate::evaluate::BuiltIn;
use crate::testing::Fixture;

fn compressed(
    fixture: Fixture,
    scheme: Scheme,
    options: &SchemeOptions,
    target: &str,
) -> (Model, QuantizeReport) {
    let mut model = fixture.into_model();
    let target = Target::named(target).unwrap();
    let report = compress(&mut model, scheme, options, &target, &LayerMoments::new()).unwrap();
    check(&model).unwrap();
    (model, report)
}

fn by_default(fixture: Fixture, scheme: Scheme) -> (Model, QuantizeReport) {
    compressed(fixture, scheme, &SchemeOptions::default(), "onnx")
}

/// The operators in order, separated by spaces.
fn operators(model: &Model) -> String {
    let order = model.graph.topological_order().unwrap();
    let names: Vec<&str> = order.into_iter().map(|id| model.graph.node(id).op_type()).collect();
    names.join(" ")
}

/// x, [1, 128], times weights, [128, 48].
fn product(opset: i64) -> Fixture {
    let mut f = Fixture::new(opset);
    let x = f.input("x", &[1, 128]);
    let weights = f.weights(&[128, 48]);
    let y = f.op("MatMul", &[x, weights]);
    f.with_output(y)
}

/// A convolution of x, [1, 16, 8, 8], to 24 channels.
fn convolution(opset: i64) -> Fixture {
    let mut f = Fixture::new(opset);
    let x = f.input("x", &[1, 16, 8, 8]);
    let (weights, bias) = (f.weights(&[24, 16, 3, 3]), f.weights(&[24]));
    let y = f.node(NewNode::new("Conv", [x, weights, bias]).with("pads", vec![1i64; 4]));
    f.with_output(y)
}

/// What the constant operand `slot` of the first node of an operator comes to, computed from constants.
fn weights_of(model: &Model, op_type: &str, slot: usize) -> Tensor {
    let graph = &model.graph;
    let (_, node) = graph.nodes().find(|(_, node)| node.is(op_type)).unwrap();
    value_of(graph, node.input(slot).unwrap())
}

/// A value that constants alone decide.
fn value_of(graph: &Graph, value: ValueId) -> Tensor {
    if let Some(tensor) = graph.constant(value) {
        return Tensor::clone(tensor);
    }
    let (_, node, _) = graph.producer(value).unwrap();
    let operands: Vec<Tensor> = node.operands().map(|value| value_of(graph, value)).collect();
    match node.op_type() {
        "DequantizeLinear" => dequantized(node, &operands),
        // Indices and codes of few bits are beyond the evaluator.
        "Cast" if operands[0].element().bits() < 8 => {
            let to = ElementType::from_code(node.int("to").unwrap() as i32).unwrap();
            Tensor::from_f64(to, operands[0].shape(), &operands[0].to_f64().unwrap()).unwrap()
        }
        _ => {
            let operands: Vec<Option<Arc<Tensor>>> =
                operands.into_iter().map(|tensor| Some(Arc::new(tensor))).collect();
            let context = Context::with_opset(graph.opset());
            BuiltIn.evaluate(&context, node, &operands).unwrap().remove(0).unwrap()
        }
    }
}

/// (q − z)·s as the standard says it: by the scale of the place on an axis, or of the block along it.
fn dequantized(node: &onnx_opt_ir::Node, operands: &[Tensor]) -> Tensor {
    let (codes, scales) = (&operands[0], operands[1].to_f64().unwrap());
    let zeros = operands.get(2).map(|zeros| zeros.to_f64().unwrap());
    let axis = node.int("axis").unwrap() as usize;
    let shape = codes.shape();
    let inner: usize = shape[axis + 1..].iter().product();
    let size = node.int("block_size").unwrap_or(0) as usize;
    let value = |index: usize| {
        let place = index / inner % shape[axis];
        let scale = match size {
            0 => place,
            size => {
                let blocks = shape[axis].div_ceil(size);
                (index / inner / shape[axis] * blocks + place / size) * inner + index % inner
            }
        };
        let zero = zeros.as_ref().map_or(0.0, |zeros| zeros[scale]);
        (codes.f64_at(index).unwrap() - zero) * scales[scale]
    };
    let values: Vec<f64> = (0..codes.len()).map(value).collect();
    Tensor::from_f64(ElementType::Float, shape, &values).unwrap()
}

/// How well a weight is kept, in decibels.
fn kept(original: &Tensor, model: &Model, op_type: &str) -> f64 {
    let new = weights_of(model, op_type, 1);
    assert_eq!(new.shape(), original.shape());
    let error = SquaredError::between(&original.to_f32().unwrap(), &new.to_f32().unwrap());
    error.decibels().unwrap()
}

fn original(fixture: &Fixture, op_type: &str) -> Tensor {
    let (_, node) = fixture.graph.nodes().find(|(_, node)| node.is(op_type)).unwrap();
    Tensor::clone(fixture.graph.constant(node.input(1).unwrap()).unwrap())
}

#[test]
fn weights_are_written_in_standard_operators_and_close_to_what_they_were() {
    // The least signal over noise of uniform numbers: 6 dB for each bit, less what scales by block or channel leave.
    let cases = [
        (Scheme::Int8Weights, "DequantizeLinear MatMul", "Cast Mul Conv", 46.0),
        (Scheme::Int4Weights, "DequantizeLinear MatMul", "Cast Cast Sub Mul Reshape Conv", 22.0),
        (Scheme::Codebook4, "Cast Gather Mul Reshape MatMul", "Cast Gather Mul Reshape Conv", 22.0),
        (Scheme::Codebook8, "Cast Gather Mul MatMul", "Cast Gather Mul Conv", 45.0),
        (Scheme::Nf4, "Cast Gather Mul Reshape MatMul", "Cast Gather Mul Reshape Conv", 19.0),
        (Scheme::PowersOfTwo, "Cast Gather Mul Reshape MatMul", "Cast Gather Mul Reshape Conv", 12.0),
        (Scheme::Bfloat16, "Cast MatMul", "Cast Conv", 50.0),
    ];
    for (scheme, matrix, convolved, least) in cases {
        for (fixture, op_type, expected) in
            [(product(13), "MatMul", matrix), (convolution(13), "Conv", convolved)]
        {
            let before = original(&fixture, op_type);
            let (model, report) = by_default(fixture, scheme);
            assert_eq!(operators(&model), expected, "{scheme:?}");
            let decibels = kept(&before, &model, op_type);
            assert!(decibels > least, "{scheme:?} {op_type}: {decibels}");
            assert!((report.weight_sqnr.unwrap() - decibels).abs() < 0.01, "{scheme:?}: {report:?}");
            assert_eq!((report.weights, report.quantized.get(op_type)), (1, Some(&1)));
            assert!(report.weight_bytes_after * 19 < report.weight_bytes_before * 10);
            let native = scheme == Scheme::Int8Weights || scheme == Scheme::Int4Weights;
            assert_eq!(report.native.contains_key("MatMul"), native && op_type == "MatMul");
        }
    }
}

#[test]
fn the_bytes_are_those_of_the_constants() {
    for (_, scheme) in Scheme::NAMES {
        let (model, report) = by_default(product(13), scheme);
        let constants = |graph: &Graph| -> u64 {
            let tensors = graph.values().filter_map(|(value, _)| graph.constant(value));
            tensors.map(|tensor| tensor.byte_len() as u64).sum()
        };
        assert_eq!(constants(&model.graph), report.weight_bytes_after, "{scheme:?}");
    }
}

#[test]
fn a_scale_serves_a_block_even_if_the_last_is_short() {
    let mut f = Fixture::new(21);
    let x = f.input("x", &[1, 70]);
    let weights = f.weights(&[70, 48]);
    let y = f.op("MatMul", &[x, weights]);
    let fixture = f.with_output(y);
    let before = original(&fixture, "MatMul");
    let (model, _) = by_default(fixture, Scheme::Int4Weights);
    assert_eq!(operators(&model), "DequantizeLinear MatMul");
    assert!(kept(&before, &model, "MatMul") > 22.0);
}

#[test]
fn a_smaller_block_is_closer_and_larger() {
    let fit = |size| {
        let options = SchemeOptions { block_size: Some(size), ..SchemeOptions::default() };
        let (_, report) = compressed(product(21), Scheme::Int4Weights, &options, "onnx");
        (report.weight_sqnr.unwrap(), report.weight_bytes_after)
    };
    let (small, large) = (fit(16), fit(64));
    assert!(small.0 > large.0 && small.1 > large.1, "{small:?} {large:?}");
}

#[test]
fn a_codebook_is_closer_than_uniform_integers_at_no_more_bytes() {
    // Few weights are far from the others, as after training.
    let values: Vec<f32> =
        (0..128 * 160).map(|index| (index as f32 * 0.618_034).fract() * 2.0 - 1.0).collect();
    let values: Vec<f32> = values.iter().map(|value| value.powi(5) + 0.1 * value).collect();
    let build = || {
        let mut f = Fixture::new(21);
        let x = f.input("x", &[1, 128]);
        let weights = f.floats(&[128, 160], &values);
        let y = f.op("MatMul", &[x, weights]);
        f.with_output(y)
    };
    for size in [32, 64, 128] {
        let options = SchemeOptions { block_size: Some(size), ..SchemeOptions::default() };
        let fit = |scheme| compressed(build(), scheme, &options, "onnx").1;
        let (uniform, learned) = (fit(Scheme::Int4Weights), fit(Scheme::Codebook4));
        assert!(learned.weight_bytes_after <= uniform.weight_bytes_after, "{size}");
        let [uniform, learned] = [uniform, learned].map(|report| report.weight_sqnr.unwrap());
        assert!(learned > uniform + 1.0, "{size}: {learned} against {uniform}");
    }
}

#[test]
fn weights_of_a_gemm_are_turned_for_who_multiplies_by_them_as_they_are() {
    let build = || {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[1, 64]);
        let (weights, bias) = (f.weights(&[48, 64]), f.weights(&[48]));
        let y = f.node(NewNode::new("Gemm", [x, weights, bias]).with("transB", 1));
        f.with_output(y)
    };
    let before = original(&build(), "Gemm").transposed(&[1, 0]).unwrap();
    let (model, report) = by_default(build(), Scheme::Int8Weights);
    assert_eq!((operators(&model).as_str(), report.native.get("Gemm")), ("DequantizeLinear Gemm", Some(&1)));
    assert!(kept(&before, &model, "Gemm") > 46.0);
    let (model, report) = compressed(build(), Scheme::Int8Weights, &SchemeOptions::default(), "tract");
    assert_eq!((operators(&model).as_str(), report.native.len()), ("Cast Mul Gemm", 0));
}

#[test]
fn activations_are_quantized_once_for_all_products() {
    let mut f = Fixture::new(13);
    let x = f.input("x", &[2, 64]);
    let (first, second, bias) = (f.weights(&[64, 48]), f.weights(&[40, 64]), f.weights(&[40]));
    let a = f.op("MatMul", &[x, first]);
    let b = f.node(NewNode::new("Gemm", [x, second, bias]).with("transB", 1));
    f.output("a", a);
    f.output("b", b);
    let (model, report) = by_default(f, Scheme::Int8Dynamic);
    let names = operators(&model);
    let count = |name| names.split(' ').filter(|other| *other == name).count();
    assert_eq!((count("DynamicQuantizeLinear"), count("MatMulInteger"), count("Add")), (1, 2, 1), "{names}");
    assert_eq!((count("MatMul"), count("Gemm"), report.weights), (0, 0, 2));
    assert_eq!(model.graph.outputs().len(), 2);
}

#[test]
fn convolutions_are_dynamic_where_they_are_asked_for() {
    let (model, report) = by_default(convolution(13), Scheme::Int8Dynamic);
    assert_eq!((operators(&model).as_str(), report.weights), ("Conv", 0));
    assert!(report.nodes[0].float.is_some());
    let choice =
        QuantizeOptions { operators: Some(["Conv".to_owned()].into()), ..QuantizeOptions::default() };
    let options = SchemeOptions { choice, ..SchemeOptions::default() };
    let (model, _) = compressed(convolution(13), Scheme::Int8Dynamic, &options, "onnx");
    assert_eq!(operators(&model), "DynamicQuantizeLinear ConvInteger Cast Mul Mul Add");
}

#[test]
fn what_is_not_worth_it_or_not_wanted_stays() {
    let mut f = Fixture::new(13);
    let x = f.input("x", &[4, 4]);
    let weights = f.weights(&[4, 4]);
    let t = f.op("MatMul", &[x, weights]);
    let y = f.op("MatMul", &[t, t]);
    let mut small = f.with_output(t);
    small.output("z", y);
    for (_, scheme) in Scheme::NAMES {
        if matches!(scheme, Scheme::Float16 | Scheme::Int8Dynamic) {
            continue;
        }
        let (model, report) = by_default(small.clone(), scheme);
        assert_eq!((operators(&model).as_str(), report.weights), ("MatMul MatMul", 0), "{scheme:?}");
        assert_eq!(report.nodes.len(), 1, "the product of activations has no weights");
        assert!(report.nodes[0].float.as_deref().is_some_and(|reason| reason.contains("smaller")));
    }
    let choice = QuantizeOptions { exclude: ["y".to_owned()].into(), ..QuantizeOptions::default() };
    let options = SchemeOptions { choice, ..SchemeOptions::default() };
    let (model, report) = compressed(product(13), Scheme::Int8Weights, &options, "onnx");
    assert_eq!(operators(&model), "MatMul");
    assert_eq!(report.nodes[0].float.as_deref(), Some("it is excluded"));
}

#[test]
fn weights_that_are_not_finite_stay() {
    let mut f = Fixture::new(21);
    let x = f.input("x", &[1, 64]);
    let mut values = vec![0.5; 64 * 48];
    values[17] = f32::INFINITY;
    let weights = f.floats(&[64, 48], &values);
    let y = f.op("MatMul", &[x, weights]);
    let fixture = f.with_output(y);
    for scheme in [Scheme::Int8Weights, Scheme::Int4Weights, Scheme::Codebook4, Scheme::Int8Dynamic] {
        let (model, report) = by_default(fixture.clone(), scheme);
        assert_eq!(operators(&model), "MatMul");
        assert_eq!(report.nodes[0].float.as_deref(), Some("its weights are not finite"));
    }
}

#[test]
fn shared_weights_are_written_once() {
    let mut f = Fixture::new(13);
    let x = f.input("x", &[1, 64]);
    let weights = f.weights(&[64, 64]);
    let t = f.op("MatMul", &[x, weights]);
    let y = f.op("MatMul", &[t, weights]);
    let (model, report) = by_default(f.with_output(y), Scheme::Int8Weights);
    assert_eq!(operators(&model), "DequantizeLinear MatMul MatMul");
    assert_eq!((report.weights, report.quantized["MatMul"]), (1, 2));
}

#[test]
fn half_precision_is_cast_at_the_interface_and_around_what_is_not_safe() {
    let mut f = Fixture::new(13);
    let x = f.input("x", &[1, 64]);
    let weights = f.weights(&[64, 48]);
    let t = f.op("MatMul", &[x, weights]);
    let t = f.op("Relu", &[t]);
    let t = f.op("Exp", &[t]);
    let y = f.op("Neg", &[t]);
    let (model, report) = by_default(f.with_output(y), Scheme::Float16);
    assert_eq!(operators(&model), "Cast MatMul Relu Cast Exp Cast Neg Cast");
    let interface = |value| model.graph.element(value);
    assert_eq!(interface(model.graph.outputs()[0].value), Some(ElementType::Float));
    assert_eq!(interface(model.graph.inputs()[0].value), Some(ElementType::Float));
    assert_eq!((report.weight_bytes_before, report.weight_bytes_after), (64 * 48 * 4, 64 * 48 * 2));
    assert!(report.weight_sqnr.unwrap() > 65.0);
    assert_eq!(report.float["Exp"], 1);
}

#[test]
fn tables_are_narrow_and_what_is_constant_is_not_computed() {
    let mut f = Fixture::new(13);
    let ids = f.typed_input("ids", ElementType::Int64, [onnx_opt_ir::Dim::fixed(3)]);
    let (table, constant) = (f.weights(&[10, 4]), f.weights(&[3, 4]));
    let rows = f.op("Gather", &[table, ids]);
    let same = f.op("Identity", &[constant]);
    let y = f.op("Add", &[rows, same]);
    let (model, report) = by_default(f.with_output(y), Scheme::Float16);
    assert_eq!((report.quantized.get("Gather"), report.float.get("Identity")), (Some(&1), Some(&1)));
    assert_eq!(operators(&model), "Gather Identity Cast Add Cast");
}

#[test]
fn constants_past_half_precision_keep_their_node_and_stay_a_mask() {
    let mut f = Fixture::new(13);
    let (x, mask) = (f.input("x", &[2, 4]), f.input("mask", &[2, 4]));
    let large = f.scalar(-3.4e38);
    let large = f.op("Mul", &[mask, large]);
    let t = f.op("Add", &[x, large]);
    let y = f.node(NewNode::new("Softmax", [t]).with("axis", 1));
    let (model, report) = by_default(f.with_output(y), Scheme::Float16);
    assert_eq!(report.float["Mul"], 1);
    let (_, clip) = model.graph.nodes().find(|(_, node)| node.is("Clip")).unwrap();
    let limit = model.graph.constant(clip.input(1).unwrap()).unwrap().single_f64();
    assert_eq!(limit, Some(-65504.0));
    let tiny = |value: f64| {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[2, 4]);
        let epsilon = f.scalar(value);
        let y = f.op("Add", &[x, epsilon]);
        operators(&by_default(f.with_output(y), Scheme::Float16).0)
    };
    assert_eq!((tiny(1e-12).as_str(), tiny(1e-3).as_str()), ("Add", "Cast Add Cast"));
}

#[test]
fn narrow_floats_go_into_no_body_and_keep_what_bodies_read() {
    let mut f = Fixture::new(16);
    let x = f.input("x", &[4]);
    let condition = f.typed_input("condition", ElementType::Bool, []);
    let t = f.op("Relu", &[x]);
    let mut body = Graph::new(f.graph.context().clone());
    let outer = body.add_capture(0);
    let inner = body.add_node(NewNode::new("Neg", [outer])).unwrap();
    let inner = body.node(inner).output(0).unwrap();
    body.add_output("inner", inner).unwrap();
    let attributes =
        Attributes::from_pairs([("then_branch", body.clone().into()), ("else_branch", body.into())]);
    let y = f.node(NewNode { attributes, captures: vec![t], ..NewNode::new("If", [condition]) });
    let (model, report) = by_default(f.with_output(y), Scheme::Float16);
    assert_eq!(report.float["If"], 1);
    assert_eq!(operators(&model).split(' ').next_back(), Some("If"));
}

#[test]
fn narrow_floats_are_computed_with_where_the_target_can() {
    let (model, _) = compressed(product(13), Scheme::Bfloat16, &SchemeOptions::default(), "tensorrt");
    assert_eq!(operators(&model), "Cast MatMul Cast");
    let (_, node) = model.graph.nodes().find(|(_, node)| node.is("MatMul")).unwrap();
    assert_eq!(model.graph.element(node.output(0).unwrap()), Some(ElementType::Bfloat16));
}

#[test]
fn schemes_have_names_of_their_own() {
    let names: std::collections::BTreeSet<&str> = Scheme::NAMES.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), Scheme::NAMES.len());
}
