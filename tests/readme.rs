//! The README shows what the program prints, times apart. `UPDATE_README=1 cargo test --test readme` rewrites it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use assert_cmd::Command;

const COMMAND: &str = "    cargo run --release -- ";

/// What a line says apart from times and rounding, which differ from run to run and from machine to machine.
fn timeless(line: &str) -> String {
    let is_number = |word: &str| word.trim_matches(['(', ')', ',']).parse::<f64>().is_ok();
    let is_unit = |word: &str| ["s", "ms"].contains(&word.trim_matches([')', ',']));
    let words = line.split_whitespace();
    let words: Vec<&str> = match line.trim_start() {
        line if line.starts_with("time:") => {
            words.filter(|word| !is_number(word) && !is_unit(word)).collect()
        }
        line if line.starts_with("verified:") => words.filter(|word| !word.contains("e-")).collect(),
        _ => words.collect(),
    };
    words.join(" ")
}

#[test]
fn the_example_is_true() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let command = readme.lines().find_map(|line| line.strip_prefix(COMMAND)).unwrap();
    let model = command.split(' ').next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("fixtures")).unwrap();
    fs::copy(root.join(model), folder.path().join(model)).unwrap();
    let run =
        Command::cargo_bin("onnx-opt").unwrap().current_dir(folder.path()).args(command.split(' ')).unwrap();
    let printed = String::from_utf8(run.stdout).unwrap();

    // The block after the command.
    let start = readme.find(command).unwrap() + command.len() + 2;
    let length = readme[start..].find("\n\n").unwrap() + 1;
    let shown = &readme[start..start + length];
    if std::env::var_os("UPDATE_README").is_some() {
        let block: String =
            printed.lines().map(|line| format!("    {line}").trim_end().to_owned() + "\n").collect();
        fs::write(root.join("README.md"), readme.replacen(shown, &block, 1)).unwrap();
        return;
    }
    let [shown, printed] = [shown, &printed].map(|text| text.lines().map(timeless).collect::<Vec<_>>());
    assert_eq!(shown, printed, "UPDATE_README=1 cargo test --test readme rewrites the README");
}
