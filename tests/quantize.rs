//! Quantized models run, and compute nearly what they did.

#![allow(clippy::unwrap_used)]

use onnx_opt::ir::{Dim, ElementType, Model, NewNode, ValueId, check, export};
use onnx_opt::passes::Target;
use onnx_opt::passes::quantize::QuantizeOptions;
use onnx_opt::passes::quantize::accuracy::{Equalization, LayerMoments, equalize};
use onnx_opt::passes::quantize::schemes::{Scheme, SchemeOptions, compress};
use onnx_opt::passes::testing::Fixture;
use onnx_opt::verify::{Status, VerifyOptions, VerifyReport, verify};

/// Convolutions of every kind and a matrix product.
fn images() -> Model {
    let mut f = Fixture::new(13);
    let x = f.input("x", &[1, 8, 12, 12]);
    let conv = |f: &mut Fixture, x: ValueId, shape: &[usize], group: i64| {
        let (weights, bias) = (f.weights(shape), f.weights(&shape[..1]));
        let node = NewNode::new("Conv", [x, weights, bias]).with("pads", vec![1i64; 4]);
        let t = f.node(node.with("group", group));
        f.op("Relu", &[t])
    };
    let t = conv(&mut f, x, &[24, 8, 3, 3], 1);
    let t = conv(&mut f, t, &[24, 1, 3, 3], 24);
    let t = conv(&mut f, t, &[32, 12, 3, 3], 2);
    let weights = f.weights(&[32, 16, 2, 2]);
    let t = f.node(NewNode::new("ConvTranspose", [t, weights]).with("strides", vec![2i64; 2]));
    let t = f.op("GlobalAveragePool", &[t]);
    let t = f.op("Flatten", &[t]);
    let (weights, bias) = (f.weights(&[40, 16]), f.weights(&[40]));
    let y = f.node(NewNode::new("Gemm", [t, weights, bias]).with("transB", 1));
    f.with_output(y).into_model()
}

/// Rows of a table, matrix products and a recurrent layer.
fn words() -> Model {
    let mut f = Fixture::new(17);
    let ids = f.typed_input("ids", ElementType::Int64, [Dim::fixed(6), Dim::fixed(1)]);
    let table = f.weights(&[50, 32]);
    let t = f.op("Gather", &[table, ids]);
    let (scale, bias) = (f.weights(&[32]), f.weights(&[32]));
    let t = f.node(NewNode::new("LayerNormalization", [t, scale, bias]));
    let (first, second) = (f.weights(&[32, 48]), f.weights(&[48, 32]));
    // As trained networks have it, sums stay where activations are not flat.
    let small = f.scalar(0.15);
    let t = f.op("MatMul", &[t, first]);
    let t = f.op("Mul", &[t, small]);
    let t = f.op("Tanh", &[t]);
    let t = f.op("MatMul", &[t, second]);
    let t = f.op("Mul", &[t, small]);
    let (input, recurrence) = (f.weights(&[1, 64, 32]), f.weights(&[1, 64, 16]));
    let y = f.node(NewNode::new("LSTM", [t, input, recurrence]).with("hidden_size", 16));
    f.with_output(y).into_model()
}

/// How far a model is from another. Where tract lacks an operator, onnxruntime runs both if `ORT_DYLIB_PATH` names it.
fn distance(original: &Model, result: &Model) -> VerifyReport {
    let options = VerifyOptions {
        tolerance: Some(f64::INFINITY),
        program: Some(assert_cmd::cargo::cargo_bin!("onnx-opt").to_path_buf()),
        ..VerifyOptions::default()
    };
    verify(&export(original), &export(result), &options)
}

/// The least signal over noise of the outputs, in decibels; `None` where they are the same.
fn decibels(report: &VerifyReport) -> Option<f64> {
    report.outputs.iter().filter_map(|output| output.sqnr_db).reduce(f64::min)
}

#[test]
fn every_scheme_runs_and_is_close() {
    // By the bits of a weight: six decibels each, less what depth and scales by channel or block cost.
    let cases = [
        (Scheme::Int8Weights, 28.0),
        (Scheme::Int4Weights, 8.0),
        (Scheme::Int8Dynamic, 20.0),
        (Scheme::Float16, 45.0),
        (Scheme::Bfloat16, 34.0),
        (Scheme::Codebook4, 8.0),
        (Scheme::Codebook8, 28.0),
        (Scheme::Nf4, 6.0),
        (Scheme::PowersOfTwo, 2.0),
    ];
    assert_eq!(cases.len(), Scheme::NAMES.len());
    let choice = QuantizeOptions {
        operators: Some(
            ["Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "LSTM"].map(str::to_owned).into(),
        ),
        ..QuantizeOptions::default()
    };
    let mut wrong = Vec::new();
    for (name, original) in [("images", images()), ("words", words())] {
        for (scheme, least) in cases {
            // All of them, those too that are slow with integers.
            let options = SchemeOptions { choice: choice.clone(), ..SchemeOptions::default() };
            let options = if scheme == Scheme::Float16 { SchemeOptions::default() } else { options };
            let mut model = original.clone();
            let target = Target::named("tract").unwrap();
            let report = compress(&mut model, scheme, &options, &target, &LayerMoments::new()).unwrap();
            check(&model).unwrap();
            assert!(report.weights > 1, "{name} {scheme:?}: {report:?}");
            let found = distance(&original, &model);
            let close = decibels(&found).is_none_or(|decibels| decibels > least);
            if found.status != Status::Verified || !close {
                wrong.push(format!("{name} {scheme:?}: {found:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn samples_make_four_bits_closer() {
    let folder = tempfile::tempdir().unwrap();
    let (net, out) = (folder.path().join("net.onnx"), folder.path().join("out.onnx"));
    let original = images();
    std::fs::write(&net, onnx_opt::proto::encode(&export(&original))).unwrap();
    // Few kinds of images, as real ones have much in common.
    let samples: Vec<std::path::PathBuf> = (0..6)
        .map(|index| {
            let path = folder.path().join(format!("{index}.npy"));
            std::fs::write(&path, image(index)).unwrap();
            path
        })
        .collect();
    let fit = |rounding: &str| {
        let mut command = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("onnx-opt"));
        command.arg(&net).arg("-o").arg(&out).args([
            "--quantize",
            "int4-weights",
            "--rounding",
            rounding,
            "--json",
        ]);
        samples.iter().for_each(|path| {
            command.arg("--calibrate").arg(path).arg("--data").arg(path);
        });
        let output = command.assert().success().get_output().stdout.clone();
        let report: serde_json::Value = serde_json::from_slice(&output).unwrap();
        report["quantization"]["error"]["outputs"][0]["sqnr_db"].as_f64().unwrap()
    };
    let [nearest, searched, successive] = ["nearest", "seqmse", "gptq"].map(fit);
    assert!(searched > nearest && successive > nearest + 2.0, "{nearest} {searched} {successive}");
}

/// An array of [1, 8, 12, 12] floats: waves whose lengths go by the index.
fn image(index: usize) -> Vec<u8> {
    let mut header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 8, 12, 12), }".to_owned();
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    for place in 0..8 * 144 {
        let (channel, row, column) = (place / 144, place / 12 % 12, place % 12);
        let wave = ((row * (index + 1) + column * (channel + 1)) as f32 * 0.2).sin();
        file.extend((wave + 0.5 * channel as f32).to_le_bytes());
    }
    file
}

#[test]
fn ways_that_need_samples_ask_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let net = folder.path().join("net.onnx");
    std::fs::write(&net, onnx_opt::proto::encode(&export(&images()))).unwrap();
    let mut command = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("onnx-opt"));
    let command = command.arg(&net).args(["--quantize", "int4-weights", "--rounding", "gptq"]);
    let output = command.assert().failure().get_output().stderr.clone();
    let text = String::from_utf8(output).unwrap();
    assert!(text.contains("no samples") && text.contains("--calibrate"), "{text}");
}

#[test]
fn equalization_keeps_the_function() {
    let original = images();
    let mut model = original.clone();
    assert_eq!(equalize(&mut model.graph, Equalization::EVERYWHERE).unwrap(), 2);
    let found = distance(&original, &model);
    assert_eq!(found.status, Status::Verified);
    assert!(decibels(&found).is_none_or(|decibels| decibels > 100.0), "{found:?}");
}
