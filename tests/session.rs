//! The way of a model through the library, with passes that are wrong on purpose.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use onnx_opt::ir::{Context, Dim, ElementType, Graph, Model, NewNode, Tensor, Type, ValueId, export};
use onnx_opt::passes::dead_code::DeadCode;
use onnx_opt::passes::pipeline::Rules;
use onnx_opt::passes::prune::Target as Share;
use onnx_opt::passes::rewrite::{ErrorClass, Patch, Rewrite, Rule, Site, Statistics};
use onnx_opt::passes::{Pass, PassContext, PassManager, Target, rules};
use onnx_opt::proto::{ModelProto, OperatorSetIdProto, encode};
use onnx_opt::pruning::{Goal, Pruning};
use onnx_opt::report::{Report, Summary, Verification};
use onnx_opt::session::{
    Destination, Effort, Error, Listener, Options, Source, Trial, optimize, optimize_with,
};
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
            let new = graph.add_node(NewNode::new("Sub", [a, b])).unwrap();
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

/// A model `y = f(x)` of floats `[n, 4]`, on disk.
fn written(path: &Path, opset: i64, build: impl Fn(&mut Graph, ValueId) -> ValueId) {
    let mut graph = Graph::new(Context::with_opset(opset));
    let x = graph.add_input("x", Type::tensor(ElementType::Float, [Dim::symbol("n"), Dim::fixed(4)]));
    let y = build(&mut graph, x);
    graph.add_output("y", y).unwrap();
    let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(opset) }];
    let rest = ModelProto { ir_version: Some(8), opset_import, ..ModelProto::default() };
    std::fs::write(path, encode(&export(&Model { graph, rest, notes: Vec::new() }))).unwrap();
}

fn apply<const N: usize>(graph: &mut Graph, op_type: &str, inputs: [ValueId; N]) -> ValueId {
    let node = graph.add_node(NewNode::new(op_type, inputs)).unwrap();
    graph.node(node).output(0).unwrap()
}

fn scalar(graph: &mut Graph, value: f32) -> ValueId {
    graph.add_constant(Tensor::from_f32(&[], &[value]).unwrap())
}

/// Optimizes a file at the highest level, and again, which must change nothing.
fn highest(path: &Path, target: &str) -> Report {
    let program = Some(PathBuf::from(env!("CARGO_BIN_EXE_onnx-opt")));
    let options = Options {
        level: 3,
        trial: Trial { program, ..Trial::default() },
        target: Target::parse(target).unwrap(),
        ..Options::default()
    };
    let [once, twice] = ["once", "twice"].map(|name| path.with_extension(name));
    let run = |from: &Path, to: &Path| {
        optimize(&Source::File(from.to_owned()), &Destination::File(to.to_owned()), &options, &Silent)
            .unwrap()
    };
    let report = run(path, &once);
    assert_eq!(status(&report), &Status::Verified);
    run(&once, &twice);
    assert_eq!(std::fs::read(once).unwrap(), std::fs::read(twice).unwrap());
    report
}

const PLAIN: &str = "name = \"plain\"\nhighest_opset = 20";

/// 6 in the quotient is a part of HardSwish, which opset 14 has, and a factor like the one behind it.
#[test]
fn what_a_later_operator_stands_for_is_not_broken_up_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    written(&path, 12, |graph, x| {
        let [three, zero, six, half] = [3.0, 0.0, 6.0, 0.25].map(|value| scalar(graph, value));
        let sum = apply(graph, "Add", [x, three]);
        let gate = apply(graph, "Clip", [sum, zero, six]);
        let product = apply(graph, "Mul", [x, gate]);
        let quotient = apply(graph, "Div", [product, six]);
        apply(graph, "Mul", [quotient, half])
    });
    let operators = highest(&path, PLAIN).after.operators;
    assert_eq!(
        operators.into_iter().collect::<Vec<_>>(),
        [("HardSwish".to_owned(), 1), ("Mul".to_owned(), 1)]
    );
}

/// Scale and shift of a HardSigmoid may go into the convolution before it instead, which leaves a Clip. Costs tell which
/// is kept.
#[test]
fn a_rule_is_held_back_where_that_costs_less() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    written(&path, 14, |graph, x| {
        let axes = graph.add_constant(Tensor::vector_i64(&[2, 3]));
        let x = apply(graph, "Unsqueeze", [x, axes]);
        let weight = graph.add_constant(Tensor::from_f32(&[2, 4, 1, 1], &[0.5; 8]).unwrap());
        let bias = graph.add_constant(Tensor::from_f32(&[2], &[0.5, 0.25]).unwrap());
        let x = apply(graph, "Conv", [x, weight, bias]);
        let [slope, shift, zero, one] = [0.2, 0.5, 0.0, 1.0].map(|value| scalar(graph, value));
        let product = apply(graph, "Mul", [x, slope]);
        let sum = apply(graph, "Add", [product, shift]);
        apply(graph, "Clip", [sum, zero, one])
    });
    let report = highest(&path, &format!("{PLAIN}\ncosts.Clip = 3.0"));
    assert_eq!(report.after.operators.get("HardSigmoid"), Some(&1));
    let note = "`convolution_scale` was held back until the others were done: 3 nodes instead of 3";
    assert_eq!(report.notes, [note]);
    // Not if the result costs as much.
    let report = highest(&path, PLAIN);
    assert_eq!((report.after.operators.get("HardSigmoid"), report.notes.len()), (None, 0));
}

/// Pruning looks into attention written with standard operators, and finds the heads that it finds without a target.
#[test]
fn operators_of_a_target_come_after_pruning() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/decoder_step.onnx");
    let pruned = |target: &str| {
        let trial =
            Trial { program: Some(PathBuf::from(env!("CARGO_BIN_EXE_onnx-opt"))), ..Trial::default() };
        let options = Options {
            level: 2,
            target: Target::named(target).unwrap(),
            pruning: Some(Pruning::new(Goal::Counted(Share::Units(0.5)))),
            trial,
            ..Options::default()
        };
        let output = Destination::File(folder.path().join(target));
        let report = optimize(&Source::File(fixture.clone()), &output, &options, &Silent).unwrap();
        let judged = report.pruning.as_ref().and_then(|pruning| pruning.masked.as_ref());
        assert_eq!(judged.map(|judged| &judged.status), Some(&Status::Verified));
        report.after
    };
    let (plain, own) = (pruned("onnx"), pruned("onnxruntime"));
    assert_eq!(plain.macs.count, own.macs.count);
    let attention = |summary: &Summary| summary.operators.get("com.microsoft:MultiHeadAttention").copied();
    assert_eq!((attention(&plain), attention(&own)), (None, Some(2)));
}
