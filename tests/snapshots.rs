//! What becomes of each fixture at -O2, as text. `INSTA_UPDATE=always cargo test --test snapshots` writes the files
//! anew: read the difference before you commit it.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use onnx_opt::ir::Model;
use onnx_opt::passes::Target;
use onnx_opt::report::Report;
use onnx_opt::session::{Destination, Effort, Listener, Options, Source, Trial, compare, load, optimize};
use onnx_opt::verify::{EngineChoice, Status};

/// Longer texts nobody reviews; of these models the operators are counted.
const MOST_LINES: usize = 200;

struct Silent;

impl Listener for Silent {
    fn stage(&self, _: &'static str) {}
    fn after_pass(&self, _: &str, _: &Model) {}
}

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "onnx"))
        .collect();
    files.sort();
    files
}

/// The text of the result, after how many operators it has and had and what was noted.
fn text(report: &Report, result: &Model) -> String {
    let mut heading = format!("{} operators, {} before\n", report.after.nodes, report.before.nodes);
    report.notes.iter().for_each(|note| heading += &format!("note: {note}\n"));
    let graph = without_hashes(&result.to_string());
    if graph.lines().count() <= MOST_LINES {
        return heading + &graph;
    }
    let counts = report.after.operators.iter().map(|(operator, count)| format!("{count} {operator}\n"));
    heading + &counts.collect::<String>()
}

/// Large constants without their hashes: the engine that folds may round otherwise on another processor.
fn without_hashes(text: &str) -> String {
    let line = |line: &str| match line.split_once(" #") {
        Some((constant, _)) if constant.trim_start().starts_with("constant ") => format!("{constant} #\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// What becomes of a model, its report and its file.
fn optimized(model: &Path, folder: &Path, target: Target) -> (Report, Model, PathBuf) {
    let options = Options { level: 2, effort: Effort::Off, target, ..Options::default() };
    let result = folder.join(model.file_name().unwrap());
    let destination = Destination::File(result.clone());
    let report = optimize(&Source::File(model.to_owned()), &destination, &options, &Silent).unwrap();
    let model = load(&Source::File(result.clone())).unwrap().model;
    (report, model, result)
}

fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings
}

#[test]
fn fixtures_at_level_2() {
    let folder = tempfile::tempdir().unwrap();
    settings().bind(|| {
        for fixture in fixtures() {
            let (report, model, _) = optimized(&fixture, folder.path(), Target::default());
            let name = fixture.file_stem().unwrap().to_str().unwrap();
            let foreign = |operator: &String| operator.starts_with("com.microsoft");
            assert!(!report.after.operators.keys().any(foreign), "{name} needs onnxruntime");
            insta::assert_snapshot!(name, text(&report, &model));
        }
    });
}

/// With operators of onnxruntime's own, where its profile lists them. What comes of it is final, and computes what the
/// fixture does, in onnxruntime where `ORT_DYLIB_PATH` names its library.
#[test]
fn attention_for_onnxruntime() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/decoder_step.onnx");
    let (folder, again) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let target = || Target::named("onnxruntime").unwrap();
    let (report, model, result) = optimized(&fixture, folder.path(), target());
    settings().bind(|| insta::assert_snapshot!("decoder_step.onnxruntime", text(&report, &model)));
    let (.., unchanged) = optimized(&result, again.path(), target());
    assert_eq!(std::fs::read(&result).unwrap(), std::fs::read(unchanged).unwrap());

    let data = ["decoder_step.feed.npz", "decoder_step.feed2.npz"];
    let onnxruntime = std::env::var_os("ORT_DYLIB_PATH").map(|_| EngineChoice::OnnxRuntime);
    for engine in [Some(EngineChoice::Tract), onnxruntime].into_iter().flatten() {
        let trial = Trial {
            data: data.map(|name| fixture.with_file_name(name)).to_vec(),
            engine,
            program: Some(assert_cmd::cargo::cargo_bin!("onnx-opt").to_path_buf()),
            ..Trial::default()
        };
        let (a, b) = (Source::File(fixture.clone()), Source::File(result.clone()));
        let report = compare(&a, &b, &trial, Effort::Runs(2)).unwrap();
        assert_eq!(report.status, Status::Verified, "{engine:?}");
    }
}
