//! The way of a model through the library, with passes that are wrong on purpose.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use onnx_opt::ir::{Graph, Model};
use onnx_opt::passes::dead_code::DeadCode;
use onnx_opt::passes::pipeline::Rules;
use onnx_opt::passes::rewrite::{ErrorClass, Patch, Rewrite, Rule, Site, Statistics};
use onnx_opt::passes::{Pass, PassContext, PassManager, rules};
use onnx_opt::report::{Report, Verification};
use onnx_opt::session::{Destination, Effort, Error, Listener, Options, Source, Trial, optimize_with};
use onnx_opt::verify::Status;

struct Silent;

impl Listener for Silent {
    fn stage(&self, _: &'static str) {}
    fn after_pass(&self, _: &str, _: &Model) {}
}

/// Takes an operator away, which is no algebra at all.
struct Drops(&'static str, &'static str);

impl Rule for Drops {
    fn name(&self) -> &'static str {
        self.0
    }
    fn doc(&self) -> &'static str {
        "f(x) = x, wrongly"
    }
    fn class(&self) -> ErrorClass {
        ErrorClass::Exact
    }
    fn roots(&self) -> Vec<&'static str> {
        vec![self.1]
    }
    fn rewrite(&self, site: &Site<'_>) -> Rewrite {
        Ok(Patch::replacing(site.output()?, site.input(0)?))
    }
}

/// A pass without rules that turns every Add around into a Sub.
struct Subtracts;

impl Pass for Subtracts {
    fn name(&self) -> &'static str {
        "subtracts"
    }
    fn doc(&self) -> &'static str {
        "a + b = a - b, wrongly"
    }
    fn run(&self, graph: &mut Graph, _: &PassContext<'_>, statistics: &mut Statistics) {
        let adds: Vec<_> = graph.nodes().filter(|(_, node)| node.is("Add")).map(|(id, _)| id).collect();
        for id in adds {
            let node = graph.node(id);
            let (a, b, old) = (node.input(0).unwrap(), node.input(1).unwrap(), node.output(0).unwrap());
            let new = graph.add_node(onnx_opt::ir::NewNode::new("Sub", [a, b])).unwrap();
            let new = graph.node(new).output(0).unwrap();
            graph.replace_all_uses(old, new).unwrap();
            graph.remove_dead([id], |_, _| {});
            *statistics.fired.entry("subtracts").or_default() += 1;
        }
    }
}

/// The true rules and these, and these passes.
fn passes(wrong_rules: &[(&'static str, &'static str)], wrong_pass: bool) -> PassManager {
    let mut all = rules::all();
    all.extend(wrong_rules.iter().map(|(name, root)| Box::new(Drops(name, root)) as Box<dyn Rule>));
    let mut passes: Vec<Box<dyn Pass>> = vec![Box::new(Rules::new(ErrorClass::Rounding, all))];
    if wrong_pass {
        passes.push(Box::new(Subtracts));
    }
    passes.push(Box::new(DeadCode));
    PassManager::new(passes)
}

fn optimized(output: &Path, effort: Effort, pipeline: &dyn Fn(u8) -> PassManager) -> Result<Report, Error> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/mnist_resnet.onnx");
    let program = Some(PathBuf::from(env!("CARGO_BIN_EXE_onnx-opt")));
    let options =
        Options { level: 2, effort, trial: Trial { program, ..Trial::default() }, ..Options::default() };
    optimize_with(&Source::File(fixture), &Destination::File(output.to_owned()), &options, &Silent, pipeline)
}

fn status(report: &Report) -> &Status {
    match &report.verification {
        Verification::Done(report) => &report.status,
        Verification::Skipped(_) => panic!("not verified"),
    }
}

#[test]
fn a_wrong_rule_is_named_and_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.onnx");
    let report = optimized(&output, Effort::Auto, &|_| passes(&[("drops_relu", "Relu")], false)).unwrap();
    assert_eq!(report.left_out.iter().collect::<Vec<_>>(), ["drops_relu"]);
    assert_eq!(status(&report), &Status::Verified);
    // The right rules still did their work.
    assert_eq!(report.after.operators.get("Identity"), None);
    assert_eq!(report.after.operators["Relu"], report.before.operators["Relu"]);
    assert!(output.exists());
}

#[test]
fn a_wrong_rule_and_a_wrong_pass_are_both_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.onnx");
    let report = optimized(&output, Effort::Auto, &|_| passes(&[("drops_relu", "Relu")], true)).unwrap();
    assert_eq!(report.left_out.iter().collect::<Vec<_>>(), ["drops_relu", "subtracts"]);
    assert_eq!(status(&report), &Status::Verified);
    assert_eq!(report.after.operators["Add"], report.before.operators["Add"]);
}

/// It says of what it does that nothing does it, so that leaving everything out by name is no cure.
struct Untraceable;

impl Pass for Untraceable {
    fn name(&self) -> &'static str {
        "untraceable"
    }
    fn doc(&self) -> &'static str {
        "wrong under another name"
    }
    fn run(&self, graph: &mut Graph, context: &PassContext<'_>, statistics: &mut Statistics) {
        Subtracts.run(graph, context, &mut Statistics::default());
        statistics.fired.insert("nobody", 1);
    }
}

#[test]
fn what_no_omission_cures_is_refused_and_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.onnx");
    let error = optimized(&output, Effort::Auto, &|_| PassManager::new(vec![Box::new(Untraceable)]));
    let error = error.err().unwrap();
    assert!(matches!(&error, Error::Refused { .. }), "{error}");
    assert_eq!(error.exit_code(), 3);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn without_verification_nobody_notices() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.onnx");
    let report = optimized(&output, Effort::Off, &|_| passes(&[("drops_relu", "Relu")], false)).unwrap();
    assert_eq!(report.after.operators.get("Relu"), None);
    assert!(report.left_out.is_empty());
}
