//! Every fixture is accepted or refused as its folder says.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use onnx_opt_ir::{Model, load};

fn models(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(folder);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "onnx"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

fn read(path: &Path) -> Result<Model, String> {
    let document = onnx_opt_proto::read_file(path).map_err(|error| error.to_string())?;
    load(document).map_err(|error| error.to_string())
}

/// Files that only inference can refuse.
const NEEDS_INFERENCE: &[&str] = &[
    "axis_out_of_range",
    "inner_sizes_differ",
    "perm_not_a_permutation",
    "reshape_impossible",
    "shapes_do_not_broadcast",
];

#[test]
fn valid_models_are_accepted_and_print() {
    for path in models("") {
        let model = read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(model.to_string(), read(&path).unwrap().to_string(), "{}", path.display());
    }
}

#[test]
fn malformed_models_are_refused() {
    let mut accepted = Vec::new();
    for path in models("malformed") {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        match read(&path) {
            Ok(_) if !NEEDS_INFERENCE.contains(&&*name) => accepted.push(name),
            Ok(_) => {}
            Err(message) => assert!(!message.is_empty(), "{name}"),
        }
    }
    assert!(accepted.is_empty(), "accepted: {accepted:?}");
}
