//! The program from outside: exit codes, messages, files, streams.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use predicates::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The program in an empty folder with copies of these fixtures.
struct Place(TempDir);

impl Place {
    fn with(fixtures: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in fixtures {
            fs::copy(fixture(name), folder.path().join(Path::new(name).file_name().unwrap())).unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("onnx-opt").unwrap();
        command.current_dir(self.0.path()).env_remove("ORT_DYLIB_PATH").args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Names in the folder, in order.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_model_alone_is_optimized_beside_itself() {
    let place = Place::with(&["mnist_resnet.onnx"]);
    let said = place.command(&["mnist_resnet.onnx"]).assert().success();
    let said = said.stdout(predicate::str::contains("mnist_resnet.onnx -> mnist_resnet.opt.onnx (O2)"));
    let said = said.stdout(predicate::str::is_match(r"operators +\d+ +\d+ +-").unwrap());
    said.stdout(predicate::str::contains("verified: ")).stderr("");
    assert_eq!(place.names(), ["mnist_resnet.onnx", "mnist_resnet.opt.onnx"]);
    assert_eq!(
        fs::read(place.path("mnist_resnet.onnx")).unwrap(),
        fs::read(fixture("mnist_resnet.onnx")).unwrap()
    );
}

#[test]
fn level_zero_gives_the_same_bytes_and_other_levels_settle() {
    for name in ["residual_block.onnx", "transformer_block.onnx", "if_dynamic.onnx", "decorated.onnx"] {
        let place = Place::with(&[name]);
        place.command(&[name, "-O0", "-q", "-o", "same.onnx"]).assert().success().stdout("");
        assert_eq!(fs::read(place.path("same.onnx")).unwrap(), fs::read(fixture(name)).unwrap(), "{name}");
        place.command(&[name, "-q", "--no-verify", "-o", "once.onnx"]).assert().success();
        place.command(&["once.onnx", "-q", "--no-verify", "-o", "twice.onnx"]).assert().success();
        let bytes = ["once.onnx", "twice.onnx"].map(|file| fs::read(place.path(file)).unwrap());
        assert_eq!(bytes[0], bytes[1], "{name}");
        assert!(bytes[0].len() as u64 <= fs::metadata(fixture(name)).unwrap().len(), "{name}");
    }
}

#[test]
fn malformed_models_are_refused_in_a_line_and_leave_nothing() {
    for entry in fs::read_dir(fixture("malformed")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let place = Place::with(&[&format!("malformed/{name}")]);
        let output = place.command(&[name]).timeout(std::time::Duration::from_secs(60)).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines[0].starts_with("error: ") && lines[0].contains(name), "{name}: {said}");
        assert!(
            lines.len() <= 2 && lines[1..].iter().all(|line| line.starts_with("help: ")),
            "{name}: {said}"
        );
        assert!(!said.contains("internal error"), "{name}: {said}");
        assert_eq!(place.names(), [name]);
        assert_eq!(fs::read(place.path(name)).unwrap(), fs::read(&path).unwrap());
    }
}

#[test]
fn the_input_is_never_overwritten() {
    let place = Place::with(&["ir3.onnx", "external_data.onnx", "external_data.bin"]);
    fs::hard_link(place.path("ir3.onnx"), place.path("hard.onnx")).unwrap();
    let mut outputs = vec!["ir3.onnx", "./ir3.onnx", "hard.onnx"];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("ir3.onnx", place.path("soft.onnx")).unwrap();
        outputs.push("soft.onnx");
    }
    for output in outputs {
        let said = place.command(&["ir3.onnx", "-o", output]).assert().code(2);
        said.stderr(predicate::str::contains("help: name another file with -o"));
    }
    place.command(&["external_data.onnx", "-o", "external_data.bin"]).assert().code(2);
    for name in ["ir3.onnx", "external_data.bin"] {
        assert_eq!(fs::read(place.path(name)).unwrap(), fs::read(fixture(name)).unwrap());
    }
}

#[test]
fn what_cannot_be_written_fails_and_leaves_nothing() {
    let place = Place::with(&["ir3.onnx"]);
    fs::create_dir(place.path("folder.onnx")).unwrap();
    for output in ["absent/a.onnx", "folder.onnx"] {
        let said = place.command(&["ir3.onnx", "-o", output]).assert().code(1);
        said.stderr(predicate::str::contains(output)).stderr(predicate::str::contains("help: "));
    }
    assert_eq!(place.names(), ["folder.onnx", "ir3.onnx"]);
}

#[test]
fn streams_carry_models_and_the_table_steps_aside() {
    let place = Place::with(&["ir3.onnx"]);
    let model = fs::read(fixture("ir3.onnx")).unwrap();
    place.command(&["ir3.onnx", "-q", "-o", "file.onnx"]).assert().success();
    let expected = fs::read(place.path("file.onnx")).unwrap();
    for arguments in [&["-"][..], &["-", "-o", "-"], &["ir3.onnx", "-o", "-"]] {
        let output = place.command(arguments).write_stdin(model.clone()).output().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, expected, "{arguments:?}");
        assert!(text(&output.stderr).contains("operators"));
    }
    let said = place.command(&["-", "-o", "-", "--external-data"]).write_stdin(model).assert().code(2);
    said.stderr(predicate::str::contains("help: "));
    place.command(&["-"]).write_stdin("no model").assert().code(1);
}

#[test]
fn external_data_gets_a_file_of_its_own() {
    let place = Place::with(&["mnist_resnet.onnx"]);
    place.command(&["mnist_resnet.onnx", "-q", "--external-data", "-o", "a.onnx"]).assert().success();
    assert_eq!(place.names(), ["a.onnx", "a.onnx.data", "mnist_resnet.onnx"]);
    // A model with external data gives one with external data.
    place.command(&["a.onnx", "-q", "-O1", "-o", "b.onnx"]).assert().success();
    assert!(place.path("b.onnx.data").exists());
    place.command(&["verify", "mnist_resnet.onnx", "b.onnx"]).assert().success();
}

#[test]
fn reports_and_errors_are_json_where_asked() {
    let place = Place::with(&["mnist_resnet.onnx"]);
    let output = place.run(&["mnist_resnet.onnx", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["level"], 2);
    assert!(report["before"]["nodes"].as_u64() > report["after"]["nodes"].as_u64());
    assert!(report["before"]["operators"]["Conv"].as_u64() > Some(0));
    assert!(report["after"]["macs"]["count"].as_u64() > Some(0));
    assert_eq!(report["verification"]["status"], "verified");
    assert!(report["stages"].as_array().unwrap().iter().all(|stage| stage["seconds"].is_number()));
    assert!(report["passes"][0]["applied"].is_object());

    for (arguments, code) in [(&["absent.onnx", "--json"][..], 1), (&["--json", "--nonsense"], 2)] {
        let output = place.run(arguments);
        assert_eq!(output.status.code(), Some(code));
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(error["error"].is_string() && error["exit_code"] == code);
    }
}

#[test]
fn wrong_usage_is_told_from_failure() {
    let place = Place::with(&["ir3.onnx"]);
    for arguments in [
        &[][..],
        &["ir3.onnx", "-O4"],
        &["ir3.onnx", "--skip", "no_such_rule"],
        &["ir3.onnx", "--print-after", "no_such_pass"],
        &["ir3.onnx", "--verify", "0"],
        &["ir3.onnx", "--verify", "2", "--no-verify"],
        &["ir3.onnx", "--input", "nowhere=1x3"],
        &["rules", "no_such_rule"],
    ] {
        let output = place.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty());
    }
    assert_eq!(place.names(), ["ir3.onnx"]);
    place
        .command(&["absent.onnx"])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("absent.onnx: no such file"));
}

#[test]
fn what_was_demanded_and_cannot_be_verified_is_not_written() {
    let place = Place::with(&["custom_domain.onnx"]);
    place.command(&["custom_domain.onnx", "--verify", "2", "-o", "a.onnx"]).assert().code(3);
    assert_eq!(place.names(), ["custom_domain.onnx"]);
    let said = place.command(&["custom_domain.onnx", "-o", "a.onnx"]).assert().success();
    said.stdout(predicate::str::contains("not verified: ")).stdout(predicate::str::contains("Mystery"));
}

#[test]
fn two_models_are_compared_on_data() {
    let place =
        Place::with(&["mnist_resnet.onnx", "mnist_resnet.feed.npz", "digits_cnn.onnx", "ir3.feed.npz"]);
    let same = ["verify", "mnist_resnet.onnx", "mnist_resnet.onnx", "--data", "mnist_resnet.feed.npz"];
    place.command(&same).assert().success().stdout(predicate::str::contains("verified"));
    place.command(&["verify", "mnist_resnet.onnx", "digits_cnn.onnx"]).assert().code(3);
    let wrong = ["verify", "mnist_resnet.onnx", "mnist_resnet.onnx", "--data", "ir3.feed.npz"];
    place.command(&wrong).assert().code(1).stderr(predicate::str::contains("there is no input `x`"));
}

#[test]
fn a_model_named_like_a_command_is_reachable() {
    let place = Place::with(&["ir3.onnx"]);
    fs::rename(place.path("ir3.onnx"), place.path("inspect")).unwrap();
    place.command(&["./inspect", "-q"]).assert().success();
    assert_eq!(place.names(), ["inspect", "inspect.opt.onnx"]);
}

#[test]
fn models_are_inspected() {
    let place = Place::with(&["mnist_resnet.onnx"]);
    let said = place.command(&["inspect", "mnist_resnet.onnx"]).assert().success();
    said.stdout(predicate::str::contains("Conv")).stdout(predicate::str::contains("largest weights"));
    let output = place.run(&["inspect", "mnist_resnet.onnx", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["inputs"][0]["name"], "input");
    assert!(found["summary"]["parameters"].as_u64() > Some(0));
    let said = place.command(&["inspect", "mnist_resnet.onnx", "--text"]).assert().success();
    said.stdout(predicate::str::contains("Conv("));
}

#[test]
fn what_two_models_do_not_share_is_told_by_operator_node_and_weight() {
    let place = Place::with(&["mnist_resnet.onnx"]);
    let model = "mnist_resnet.onnx";
    let diff = |b: &str| -> Value {
        serde_json::from_slice(&place.run(&["diff", model, b, "--json"]).stdout).unwrap()
    };
    let kinds = ["added", "removed", "changed"];
    let counts = |found: &Value, what: &str| kinds.map(|kind| found[what][kind].as_object().unwrap().len());
    let same = diff(model);
    assert_eq!((counts(&same, "nodes"), counts(&same, "weights")), ([0; 3], [0; 3]));
    assert_eq!(same["operators"], Value::Array(vec![]));

    place.command(&[model, "-q", "--no-verify", "-o", "b.onnx"]).assert().success();
    let found = diff("b.onnx");
    let folded = &found["operators"].as_array().unwrap()[0];
    assert_eq!((&folded["operator"], &folded["b"]), (&Value::from("BatchNormalization"), &Value::from(0)));
    let [added, removed, _] = counts(&found, "nodes");
    assert!(removed > added, "{added} {removed}");
    let weight = found["weights"]["removed"].as_object().unwrap().values().next().unwrap();
    assert_eq!(weight["type"], "float");
    assert!(weight["shape"].is_array() && weight["hash"].as_str().unwrap().len() == 16);
    let changed = found["weights"]["changed"].as_object().unwrap();
    assert!(changed.values().all(|change| change["a"]["hash"] != change["b"]["hash"]));
    let said = place.command(&["diff", model, "b.onnx"]).assert().success();
    let said = said.stdout(predicate::str::is_match("nodes: [0-9]+ added, [1-9][0-9]* removed").unwrap());
    said.stdout(predicate::str::is_match("weights: [0-9]+ added, [1-9][0-9]* removed").unwrap());
}

#[test]
fn rules_tell_where_they_applied_and_where_not() {
    let place = Place::with(&["transformer_block.onnx"]);
    let model = "transformer_block.onnx";
    let report = |more: &[&str]| -> Value {
        let arguments = [&[model, "--json", "--no-verify", "-o", "out.onnx"], more].concat();
        serde_json::from_slice(&place.run(&arguments).stdout).unwrap()
    };
    let rule = |report: &Value, name: &str| -> Value {
        let rules = report["rules"].as_array().unwrap();
        rules.iter().find(|rule| rule["rule"] == name).cloned().unwrap_or_default()
    };
    let plain = rule(&report(&[]), "layer_normalization");
    assert!(plain["fired"].as_u64() > Some(0) && plain.get("at").is_none());
    let explained = report(&["--explain"]);
    let told = rule(&explained, "layer_normalization");
    assert_eq!((&told["fired"], &told["at"]["count"]), (&plain["fired"], &plain["fired"]));
    assert!(!told["at"]["first"].as_array().unwrap().is_empty());
    // Fixtures are of opset 17: Gelu came with 20.
    let gelu = rule(&explained, "gelu_erf");
    assert_eq!(gelu["fired"], 0);
    let reason = gelu["declined"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("opset"), "{reason}");
    let said = place.command(&[model, "--explain", "--no-verify", "-o", "out.onnx"]).assert().success();
    let said = said.stdout(predicate::str::contains("layer_normalization applied "));
    said.stdout(predicate::str::is_match("gelu_erf did not .*opset").unwrap());
}

#[test]
fn a_target_leaves_out_what_is_slow_there() {
    let place = Place::with(&["mnist_resnet.onnx"]);
    let model = "mnist_resnet.onnx";
    let fired = |profile: &str, more: &[&str]| {
        let profile = format!("name = \"mine\"\nhighest_opset = 18\n{profile}");
        fs::write(place.path("mine.toml"), profile).unwrap();
        let names = applied(&place, &[&[model, "--json", "--target", "mine.toml"], more].concat());
        names.contains_key("convolution_batch_normalization")
    };
    assert!(fired("", &[]));
    let avoids = "avoid = [\"convolution_batch_normalization\"]";
    assert!(!fired(avoids, &[]));
    assert!(fired(avoids, &["--only", "convolution_batch_normalization"]));
    for (profile, said) in
        [("avoid = [\"no_such_rule\"]", "no_such_rule"), ("costs.Nothing = 1.0", "Nothing"), ("x = 1", "x")]
    {
        fs::write(place.path("bad.toml"), format!("name = \"bad\"\nhighest_opset = 18\n{profile}")).unwrap();
        let refused = place.command(&[model, "--target", "bad.toml"]).assert().code(2);
        refused.stderr(predicate::str::contains(said));
    }
    place.command(&[model, "--target", "abacus"]).assert().code(2);
    for name in ["onnx", "onnxruntime", "tensorrt", "openvino", "tract"] {
        let report: Value =
            serde_json::from_slice(&place.run(&[model, "--json", "--target", name]).stdout).unwrap();
        assert_eq!(report["target"], name);
    }
    fs::write(place.path("old.toml"), "name = \"old\"\nhighest_opset = 9").unwrap();
    let said = place.command(&[model, "--target", "old.toml"]).assert().success();
    said.stdout(predicate::str::contains("note: old runs operator sets up to 9"));
}

#[test]
fn a_model_is_pruned_as_far_as_asked() {
    let place = Place::with(&["mnist_resnet.onnx"]);
    let report = |arguments: &[&str]| -> Value {
        let output = place.run(&[&["mnist_resnet.onnx", "--json", "-o", "small.onnx"], arguments].concat());
        assert!(output.status.success(), "{}", text(&output.stdout));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let pruning = &report(&["--prune", "0.5"])["pruning"];
    let number = |value: &Value| value.as_f64().unwrap();
    let share = |of: &str, pruning: &Value| number(&pruning["after"][of]) / number(&pruning["before"][of]);
    assert!(share("parameters", pruning) < 0.3 && share("joules", pruning) < 0.3);
    assert_eq!(pruning["masked"]["status"], "verified");
    assert!(number(&pruning["error"]["outputs"][0]["max_abs"]) > 0.0);
    for gone in [0.3, 0.5, 0.7] {
        let pruning = &report(&["--prune-macs", &gone.to_string()])["pruning"];
        assert!((share("macs", pruning) - (1.0 - gone)).abs() < 0.03, "{gone}: {}", share("macs", pruning));
        let pruning = &report(&["--prune-bytes", &gone.to_string(), "--prune-among", "all"])["pruning"];
        assert!((share("bytes", pruning) - (1.0 - gone)).abs() < 0.03, "{gone}: {}", share("bytes", pruning));
    }
    let rounded = &report(&["--prune", "0.6", "--round-to", "8", "--prune-floor", "16"])["pruning"];
    for group in rounded["groups"].as_array().unwrap() {
        let left = group["after"].as_u64().unwrap();
        assert!(left.is_multiple_of(8) && left >= 16 || left == group["before"], "{group}");
    }

    place.command(&["mnist_resnet.onnx", "--prune", "1.5"]).assert().code(2);
    place.command(&["mnist_resnet.onnx", "--round-to", "8"]).assert().code(2);
    let nothing = ["mnist_resnet.onnx", "--prune", "0.5", "--prune-exclude", "."];
    place.command(&nothing).assert().code(1).stderr(predicate::str::contains("nothing can be pruned"));
}

#[test]
fn groups_and_what_stays_are_shown() {
    let place = Place::with(&["mnist_resnet.onnx", "if_dynamic.onnx"]);
    let shown = place.command(&["prune", "mnist_resnet.onnx", "--groups"]).assert().success();
    shown.stdout(predicate::str::contains("units").and(predicate::str::contains("an output of the graph")));
    let output = place.run(&["prune", "mnist_resnet.onnx", "--json"]);
    let groups: Value = serde_json::from_slice(&output.stdout).unwrap();
    let first = &groups["groups"][0];
    assert_eq!(first["units"], first["weights"][0]["indices"].as_array().unwrap().len());
    place.command(&["prune", "if_dynamic.onnx"]).assert().success();
}

#[test]
fn the_catalogue_and_the_completions_are_printed() {
    let place = Place::with(&[]);
    let rules: Value = serde_json::from_slice(&place.run(&["rules", "--json"]).stdout).unwrap();
    let first = rules[0]["name"].as_str().unwrap();
    place.command(&["rules", first]).assert().success().stdout(predicate::str::contains(first));
    place.command(&["passes", "-O1"]).assert().success().stdout(predicate::str::contains("dead_code"));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        place.command(&["completions", shell]).assert().success().stdout(predicate::str::contains("inspect"));
    }
    place.command(&["--help"]).assert().success().stdout(predicate::str::contains("Examples:"));
}

#[test]
fn the_graph_is_printed_after_a_pass() {
    let place = Place::with(&["ir3.onnx"]);
    let said = place.command(&["ir3.onnx", "-q", "--print-after", "dead_code"]).assert().success();
    said.stderr(predicate::str::contains("// after dead_code")).stdout("");
}

/// Nobody reads: no panic, no noise.
#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_panic() {
    let place = Place::with(&["ir3.onnx"]);
    for arguments in ["ir3.onnx", "ir3.onnx -o -", "inspect ir3.onnx", "rules"] {
        let program = assert_cmd::cargo::cargo_bin("onnx-opt");
        let script = format!("'{}' {arguments} | true", program.display());
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .current_dir(place.0.path())
            .output()
            .unwrap();
        assert!(!text(&output.stderr).contains("internal error"), "{}", text(&output.stderr));
    }
}

/// Interrupted while the engines run, the program takes its temporary files along.
#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing() {
    use std::os::unix::process::CommandExt;
    use std::time::{Duration, Instant};

    let place = Place::with(&["mnist_resnet.onnx"]);
    let temporary = tempfile::tempdir().unwrap();
    let count = || fs::read_dir(temporary.path()).unwrap().count();
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("onnx-opt"));
    command
        .args(["mnist_resnet.onnx", "-q", "--verify", "1000"])
        .current_dir(place.0.path())
        .env("TMPDIR", temporary.path());
    // SAFETY: `signal` may be called between fork and exec. Tests in the background inherit that it is ignored.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    while count() == 0 && start.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(count() > 0);
    // SAFETY: the process is a child that was not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(count(), 0);
    assert_eq!(place.names(), ["mnist_resnet.onnx"]);
}

#[test]
fn misspelled_names_are_recognized() {
    let place = Place::with(&["ir3.onnx"]);
    for arguments in
        [&["ir3.onnx", "--skip", "gelu_ref"][..], &["ir3.onnx", "--only", "geluerf"], &["rules", "gelu-erf"]]
    {
        place
            .command(arguments)
            .assert()
            .code(2)
            .stderr(predicate::str::contains("did you mean `gelu_erf`?"));
    }
    let said = place.command(&["ir3.onnx", "--opset", "30"]).assert().code(2);
    said.stderr(predicate::str::contains("a number from 1 to 25"));
}

/// Names and numbers of what was applied.
fn applied(place: &Place, arguments: &[&str]) -> std::collections::BTreeMap<String, u64> {
    let report: Value = serde_json::from_slice(&place.run(arguments).stdout).unwrap();
    let passes = report["passes"].as_array().unwrap().iter();
    let applied = passes.flat_map(|pass| pass["applied"].as_object().unwrap());
    applied.map(|(name, count)| (name.clone(), count.as_u64().unwrap())).collect()
}

#[test]
fn rules_are_left_out_or_alone_applied() {
    let place = Place::with(&["mnist_resnet.onnx", "duplicates.onnx"]);
    let names = |model: &str, more: &[&str]| -> Vec<String> {
        applied(&place, &[&[model, "--json"], more].concat()).into_keys().collect()
    };
    let none: [String; 0] = [];
    let rule = "identity".to_owned();
    assert!(names("mnist_resnet.onnx", &[]).contains(&rule));
    assert!(!names("mnist_resnet.onnx", &["--skip", "identity"]).contains(&rule));
    assert_eq!(names("mnist_resnet.onnx", &["--only", "identity"]), [rule]);
    assert_eq!(names("mnist_resnet.onnx", &["--only", "identity", "--skip", "rules"]), none);
    assert_eq!(names("mnist_resnet.onnx", &["--only", "not_not,neg_neg"]), none);
    assert_eq!(names("duplicates.onnx", &["--only", "dead_code"]), ["dead_code"]);
    let rest = names("duplicates.onnx", &["--skip", "dead_code"]);
    assert!(rest.contains(&"common_subexpressions".to_owned()) && !rest.contains(&"dead_code".to_owned()));
}

#[test]
fn sizes_of_an_input_are_fixed_or_named() {
    let place = Place::with(&["mnist_resnet.onnx"]);
    let ports = |file: &str| -> [String; 2] {
        let found: Value = serde_json::from_slice(&place.run(&["inspect", file, "--json"]).stdout).unwrap();
        ["inputs", "outputs"].map(|side| found[side][0]["type"].as_str().unwrap().to_owned())
    };
    let [input, output] = ports("mnist_resnet.onnx");
    assert!(input.contains('N') || input.contains("batch"), "{input} {output}");
    for level in ["-O0", "-O2"] {
        let fixed = ["mnist_resnet.onnx", level, "--input", "input=4x1x28x28", "-o", "fixed.onnx"];
        place.command(&fixed).assert().success();
        let [input, output] = ports("fixed.onnx");
        assert!(input.contains("[4, 1, 28, 28]") && output.contains("[4, 10]"), "{input} {output}");
    }
    place
        .command(&["mnist_resnet.onnx", "-q", "--input", "input=images,1,28,28", "-o", "named.onnx"])
        .assert()
        .success();
    let [input, output] = ports("named.onnx");
    assert!(input.contains("images") && output.contains("images"), "{input} {output}");
    for (given, said) in [
        ("input=1x3x28x28", "has size 1 on axis 1, which cannot become 3"),
        ("input=1x28x28", "has 4 axes, not 3"),
        ("inputs=1x1x28x28", "there is no input `inputs`"),
    ] {
        let refused =
            place.command(&["mnist_resnet.onnx", "--input", given, "-o", "no.onnx"]).assert().code(2);
        refused.stderr(predicate::str::contains(said));
    }
    assert!(!place.path("no.onnx").exists());
}

#[test]
fn inner_types_are_declared_on_demand() {
    use onnx_opt::proto::{GraphProto, ModelProto, ValueInfoProto};
    use prost::Message;

    fn results(graph: &GraphProto) -> BTreeSet<String> {
        graph.node.iter().flat_map(|node| &node.output).filter(|name| !name.is_empty()).cloned().collect()
    }
    let place = Place::with(&["transformer_block.onnx", "loop_capture.onnx"]);
    for model in ["transformer_block.onnx", "loop_capture.onnx"] {
        for level in ["-O0", "-O2"] {
            place.command(&[model, level, "-q", "--no-verify", "-o", "plain.onnx"]).assert().success();
            place.command(&[model, level, "-q", "--value-info", "-o", "told.onnx"]).assert().success();
            let read = |file: &str| ModelProto::decode(&fs::read(place.path(file)).unwrap()[..]).unwrap();
            let (plain, mut told) = (read("plain.onnx"), read("told.onnx"));
            let graph = told.graph.as_mut().unwrap();
            let names = |values: &[ValueInfoProto]| -> BTreeSet<String> {
                values.iter().map(|value| value.name().to_owned()).collect()
            };
            assert_eq!(&names(&graph.value_info) | &names(&graph.output), results(graph), "{model} {level}");
            for body in graph.node.iter().flat_map(|node| &node.attribute).filter_map(|a| a.g.as_deref()) {
                assert_eq!(&names(&body.value_info) | &names(&body.output), results(body), "{model} {level}");
            }
            // Declared once, and nothing else changed.
            place.command(&["told.onnx", "-O0", "-q", "--value-info", "-o", "again.onnx"]).assert().success();
            assert_eq!(
                fs::read(place.path("again.onnx")).unwrap(),
                fs::read(place.path("told.onnx")).unwrap()
            );
            fn bare(mut graph: GraphProto) -> GraphProto {
                graph.value_info.clear();
                for body in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
                    body.g = body.g.take().map(|body| Box::new(bare(*body)));
                }
                graph
            }
            assert_eq!(bare(told.graph.unwrap()), bare(plain.graph.unwrap()), "{model} {level}");
        }
    }
}

#[test]
fn random_inputs_are_steered() {
    let place = Place::with(&["mnist_resnet.onnx"]);
    let model = "mnist_resnet.onnx";
    place.command(&[model, "-q", "--seed", "7", "--size", "batch=3"]).assert().success();
    let said = place.command(&[model, "--size", "hight=3"]).assert().code(2);
    said.stderr(predicate::str::contains("(the names are batch)"));
}

/// What tract cannot run, onnxruntime can. Runs where `ORT_DYLIB_PATH` names its library.
#[test]
fn onnxruntime_verifies_what_tract_cannot() {
    let Some(library) = std::env::var("ORT_DYLIB_PATH").ok().filter(|path| !path.is_empty()) else {
        eprintln!("skipped: ORT_DYLIB_PATH is not set");
        return;
    };
    let place = Place::with(&["mnist_resnet.onnx", "loop_capture.onnx", "digits_cnn.onnx"]);
    let ort = ["--engine", "onnxruntime", "--ort-lib", &library];
    let by = |engine: &str| predicate::str::is_match(format!(r"verified: .* by {engine}")).unwrap();
    let run = |arguments: &[&str], more: &[&str]| place.command(&[arguments, more].concat()).assert();
    run(&["mnist_resnet.onnx"], &[]).success().stdout(by("tract"));
    run(&["mnist_resnet.onnx"], &ort).success().stdout(by("onnxruntime"));
    // The same function in another file.
    run(&["loop_capture.onnx", "-q", "-O0", "--input", "x=rows", "-o", "same.onnx"], &[]).success();
    let pair = ["verify", "loop_capture.onnx", "same.onnx"];
    run(&pair, &["--engine", "tract"]).code(3).stderr(predicate::str::contains("Loop"));
    run(&pair, &ort).success().stdout(by("onnxruntime"));
    run(&pair, &ort[2..]).success().stdout(by("onnxruntime"));
    run(&["verify", "mnist_resnet.onnx", "digits_cnn.onnx"], &ort).code(3);
    let nowhere = ["--engine", "onnxruntime", "--ort-lib", "nowhere.so"];
    run(&["mnist_resnet.onnx", "--verify", "1"], &nowhere)
        .code(3)
        .stderr(predicate::str::contains("nowhere.so"));
}

#[test]
fn the_operator_set_is_raised_where_asked_and_never_lowered() {
    let place = Place::with(&["ir3.onnx", "transformer_block.onnx"]);
    let opset_of = |arguments: &[&str]| {
        place.command(arguments).assert().success();
        let shown: Value =
            serde_json::from_slice(&place.run(&["inspect", "out.onnx", "--json"]).stdout).unwrap();
        shown["opsets"][""].as_i64().unwrap()
    };
    assert_eq!(opset_of(&["ir3.onnx", "-O0", "--opset", "21", "-o", "out.onnx"]), 21);
    assert_eq!(opset_of(&["ir3.onnx", "-O3", "-o", "out.onnx"]), 7);
    assert_eq!(opset_of(&["transformer_block.onnx", "-o", "out.onnx"]), 17);
    assert_eq!(opset_of(&["transformer_block.onnx", "-O3", "-o", "out.onnx"]), 20);
    assert_eq!(opset_of(&["transformer_block.onnx", "-O3", "--opset", "keep", "-o", "out.onnx"]), 17);
    // A runtime may lack later versions of single operators.
    let profile = "name = \"mine\"\nhighest_opset = 21\nonly_up_to = { MatMul = 19 }\n";
    fs::write(place.path("mine.toml"), profile).unwrap();
    let limited = ["transformer_block.onnx", "-O3", "--target", "mine.toml", "-o", "out.onnx"];
    assert_eq!(opset_of(&limited), 17);
    let lower = place.command(&["transformer_block.onnx", "--opset", "13", "-o", "no.onnx"]).assert().code(1);
    lower.stderr(predicate::str::contains("not converted down to opset 13"));
    assert!(!place.names().contains(&"no.onnx".to_owned()));
}

#[test]
fn gradients_are_written_beside_the_model() {
    let place = Place::with(&["digits_cnn.onnx", "loop_capture.onnx"]);
    let said =
        place.command(&["grad", "digits_cnn.onnx", "--loss", "kl", "--temperature", "2"]).assert().success();
    said.stdout(predicate::str::contains("digits_cnn.onnx -> digits_cnn.grad.onnx"))
        .stdout(predicate::str::contains(".teacher"));
    assert_eq!(place.names(), ["digits_cnn.grad.onnx", "digits_cnn.onnx", "loop_capture.onnx"]);
    let output = place.run(&["grad", "digits_cnn.onnx", "--json", "--wrt", "inputs", "-o", "x.onnx"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = report["gradients"][0]["of"].as_str().unwrap();
    assert_eq!(report["gradients"][0]["output"], format!("{name}.grad"));
    assert_eq!(report["loss"], "loss");
    // The result is a model like any other.
    place.command(&["x.onnx", "-q", "-o", "small.onnx"]).assert().success();

    let said =
        place.command(&["grad", "loop_capture.onnx", "--wrt", "inputs", "-o", "y.onnx"]).assert().code(1);
    said.stderr(predicate::str::contains("no gradient for Loop (node \""));
    let said =
        place.command(&["grad", "digits_cnn.onnx", "--wrt", "nothing", "-o", "y.onnx"]).assert().code(2);
    said.stderr(predicate::str::contains("no value of the graph is called `nothing`"));
    place.command(&["grad", "digits_cnn.onnx", "--temperature", "0"]).assert().code(2);
    place.command(&["grad", "digits_cnn.onnx", "-o", "digits_cnn.onnx"]).assert().code(2);
    assert!(!place.path("y.onnx").exists());
}

/// Files that the standard forbids, or warns of, and whose meaning is plain.
mod irregular {
    use onnx_opt::proto::{
        GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
        ValueInfoProto,
        tensor_shape_proto::{Dimension, dimension},
        type_proto,
    };
    use prost::Message;

    use super::*;

    fn formal(name: &str) -> ValueInfoProto {
        let size = Dimension { value: Some(dimension::Value::DimValue(2)), ..Dimension::default() };
        let shape = Some(TensorShapeProto { dim: vec![size] });
        let tensor = type_proto::Tensor { elem_type: Some(1), shape };
        let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
        ValueInfoProto { name: Some(name.to_owned()), r#type: Some(r#type), ..ValueInfoProto::default() }
    }

    fn weight() -> TensorProto {
        TensorProto {
            name: Some("w".to_owned()),
            dims: vec![2],
            data_type: Some(1),
            float_data: vec![1.0, 2.0],
            ..TensorProto::default()
        }
    }

    /// A node; operands and results are words.
    fn node(op_type: &str, inputs: &str, outputs: &str) -> NodeProto {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        NodeProto {
            op_type: Some(op_type.to_owned()),
            input: words(inputs),
            output: words(outputs),
            ..NodeProto::default()
        }
    }

    fn named(name: &str, node: NodeProto) -> NodeProto {
        NodeProto { name: Some(name.to_owned()), ..node }
    }

    /// A model from x to y.
    fn model(ir_version: i64, opset: i64, nodes: Vec<NodeProto>) -> ModelProto {
        let graph = GraphProto {
            name: Some("g".to_owned()),
            node: nodes,
            input: vec![formal("x")],
            output: vec![formal("y")],
            ..GraphProto::default()
        };
        ModelProto {
            ir_version: Some(ir_version),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(opset) }],
            graph: Some(graph),
            ..ModelProto::default()
        }
    }

    /// The result at -O1, which is verified, and what is told of it.
    fn cleaned(place: &Place, model: &ModelProto) -> (ModelProto, String) {
        fs::write(place.path("m.onnx"), model.encode_to_vec()).unwrap();
        place.command(&["m.onnx", "-O0", "-q", "-o", "same.onnx"]).assert().success();
        assert_eq!(fs::read(place.path("same.onnx")).unwrap(), model.encode_to_vec());
        let output = place.run(&["m.onnx", "-O1", "-o", "clean.onnx"]);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{said}");
        let clean = fs::read(place.path("clean.onnx")).unwrap();
        // What is clean stays as it is.
        place.command(&["clean.onnx", "-O1", "-q", "--no-verify", "-o", "again.onnx"]).assert().success();
        assert_eq!(fs::read(place.path("again.onnx")).unwrap(), clean);
        (ModelProto::decode(&clean[..]).unwrap(), said)
    }

    fn inputs(model: &ModelProto) -> Vec<&str> {
        model.graph.as_ref().unwrap().input.iter().map(ValueInfoProto::name).collect()
    }

    fn nodes(model: &ModelProto) -> &[NodeProto] {
        &model.graph.as_ref().unwrap().node
    }

    #[test]
    fn initializers_of_old_models_are_no_inputs() {
        let place = Place::with(&[]);
        let mut old = model(3, 9, vec![node("Add", "x w", "y")]);
        let graph = old.graph.as_mut().unwrap();
        graph.input.push(formal("w"));
        graph.initializer.push(weight());
        let (clean, said) = cleaned(&place, &old);
        assert_eq!((clean.ir_version(), inputs(&clean)), (4, vec!["x"]));
        assert!(said.contains("note: an initializer is listed among the inputs"), "{said}");
    }

    #[test]
    fn overridable_initializers_stay_inputs() {
        let place = Place::with(&[]);
        let mut model = model(8, 17, vec![node("Add", "x w", "a"), node("Relu", "a", "y")]);
        let graph = model.graph.as_mut().unwrap();
        graph.input.push(formal("w"));
        graph.initializer.push(weight());
        let (clean, said) = cleaned(&place, &model);
        assert_eq!(inputs(&clean), ["x", "w"]);
        assert_eq!(clean.graph.as_ref().unwrap().initializer.len(), 1);
        assert!(
            said.contains("note: an initializer is an input that callers may give another value"),
            "{said}"
        );
    }

    #[test]
    fn nodes_get_into_order_and_have_their_own_names() {
        let place = Place::with(&[]);
        let mixed = vec![named("n", node("Relu", "a", "y")), named("n", node("Sigmoid", "x", "a"))];
        let (clean, said) = cleaned(&place, &model(8, 17, mixed));
        let found: Vec<_> = nodes(&clean).iter().map(|node| (node.op_type(), node.name())).collect();
        assert_eq!(found, [("Sigmoid", "n_1"), ("Relu", "n")]);
        assert!(said.contains("note: nodes stand before those whose results they read"), "{said}");
        assert!(said.contains("note: a node bears the name of another one"), "{said}");
    }

    #[test]
    fn domains_are_imported_once() {
        let place = Place::with(&[]);
        let mut scaled = node("Scaler", "x", "y");
        scaled.domain = Some("ai.onnx.ml".to_owned());
        let mut sloppy = model(8, 17, vec![scaled]);
        let again = OperatorSetIdProto { domain: Some("ai.onnx".to_owned()), version: Some(17) };
        sloppy.opset_import.push(again);
        let (clean, said) = cleaned(&place, &sloppy);
        let imports: Vec<_> =
            clean.opset_import.iter().map(|import| (import.domain(), import.version())).collect();
        assert_eq!(imports, [("", 17), ("ai.onnx.ml", 1)]);
        assert!(said.contains("note: a domain is imported twice"), "{said}");
        assert!(said.contains("note: domain `ai.onnx.ml` is used and not imported: version 1"), "{said}");

        // Of the default domain there are many versions.
        let mut mute = model(8, 17, vec![node("Relu", "x", "y")]);
        mute.opset_import.clear();
        fs::write(place.path("mute.onnx"), mute.encode_to_vec()).unwrap();
        let refused = place.command(&["mute.onnx"]).assert().code(1);
        refused.stderr(predicate::str::contains("the model imports no opset for domain `ai.onnx`"));
        // The first models did not say theirs: there was one.
        mute.ir_version = Some(2);
        let (clean, said) = cleaned(&place, &mute);
        assert_eq!((clean.ir_version(), clean.opset_import[0].version()), (4, 1), "{said}");
    }

    #[test]
    fn results_that_nothing_uses_are_left_out() {
        let place = Place::with(&[]);
        let dropout = NodeProto {
            attribute: vec![onnx_opt::proto::AttributeProto {
                name: Some("ratio".to_owned()),
                r#type: Some(1),
                f: Some(0.5),
                ..Default::default()
            }],
            ..node("Dropout", "x", "a mask")
        };
        let split = vec![node("Unique", "x", "y indices inverse counts")];
        let mut unique = model(8, 17, split);
        unique.graph.as_mut().unwrap().output[0].r#type = None;
        let (clean, _) = cleaned(&place, &unique);
        assert_eq!(nodes(&clean)[0].output, ["y"]);
        let (clean, _) = cleaned(&place, &model(8, 11, vec![dropout, node("Relu", "a", "y")]));
        assert_eq!(nodes(&clean).iter().map(NodeProto::op_type).collect::<Vec<_>>(), ["Relu"]);
    }

    #[test]
    fn an_initializer_may_be_written_twice() {
        let place = Place::with(&[]);
        let mut twice = model(8, 17, vec![node("Add", "x w", "y")]);
        twice.graph.as_mut().unwrap().initializer = vec![weight(), weight()];
        fs::write(place.path("m.onnx"), twice.encode_to_vec()).unwrap();
        let said = place.command(&["m.onnx", "-O1", "-o", "clean.onnx"]).assert().success();
        said.stdout(predicate::str::contains("note: initializer `w` is written twice with the same content"));
        let clean = ModelProto::decode(&fs::read(place.path("clean.onnx")).unwrap()[..]).unwrap();
        assert_eq!(clean.graph.unwrap().initializer.len(), 1);
    }
}
