//! What becomes of each fixture at -O2, as text. `INSTA_UPDATE=always cargo test --test snapshots` writes the files
//! anew: read the difference before you commit it.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use onnx_opt::ir::Model;
use onnx_opt::report::Report;
use onnx_opt::session::{Destination, Effort, Listener, Options, Source, load, optimize};

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

#[test]
fn fixtures_at_level_2() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { level: 2, effort: Effort::Off, ..Options::default() };
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for fixture in fixtures() {
            let result = folder.path().join(fixture.file_name().unwrap());
            let report = optimize(
                &Source::File(fixture.clone()),
                &Destination::File(result.clone()),
                &options,
                &Silent,
            )
            .unwrap();
            let model = load(&Source::File(result)).unwrap().model;
            let name = fixture.file_stem().unwrap().to_str().unwrap();
            insta::assert_snapshot!(name, text(&report, &model));
        }
    });
}
