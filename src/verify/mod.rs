//! Whether the optimized model computes what the original does.
//!
//! Both run on the same inputs in a child process with limits. What cannot be run is said to be not verifiable, with
//! the operator or the limit that stands in the way.

mod bisect;
pub mod compare;
pub mod inputs;
mod judge;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use onnx_opt_proto::{GraphProto, ModelProto, NodeProto, temporary_folder, write_stream};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

pub use bisect::bisect;
pub use compare::OutputReport;
pub use inputs::InputSet;
pub(crate) use judge::Request;
use judge::{Verdict, encode_set};

pub use crate::child::serve;
use crate::child::{self, Limits};
use crate::engine::OrtExecutor;
pub use crate::engine::{Engine, EngineChoice};

/// Beyond these, tract would take more than about ten seconds: reading a model takes time by the square of its nodes.
const TRACT_NODES: usize = 4_000;
const TRACT_BYTES: usize = 300 << 20;
/// onnxruntime reads models of a buffer up to the limit of protobuf.
const ORT_BYTES: usize = 1_900 << 20;

/// Where a model quantizes, rounding that differs in the last bit may move a value by a step: four of 255 are allowed.
const QUANTIZED_TOLERANCE: f64 = 4.0 / 255.0;

/// How to verify.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Engines.
    pub engine: EngineChoice,
    /// Path of the library of onnxruntime; else that of the environment variable `ORT_DYLIB_PATH`.
    pub library: Option<PathBuf>,
    /// Random input sets to compare on.
    pub seeds: usize,
    /// What the first of them is drawn by; the others by the numbers after it.
    pub seed: u64,
    /// Input sets to compare on instead.
    pub data: Vec<InputSet>,
    /// Sizes by the name of the symbol.
    pub sizes: BTreeMap<String, usize>,
    /// Shapes by the name of the input.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// Largest difference relative to the range of an output. Where absent, it goes by element type (see
    /// [`compare::default_tolerance`]), and is four quantization steps where the original quantizes. Infinity measures
    /// without judging.
    pub tolerance: Option<f64>,
    /// Time for each engine.
    pub time_limit: Duration,
    /// Address space of the child in bytes, 0 for no limit.
    pub memory_limit: u64,
    /// Whether to try models, too, whose cost is predicted to be past [`VerifyOptions::time_limit`].
    pub large: bool,
    /// The program that runs as the child, `onnx-opt` or any that calls [`serve`]; the running one where absent.
    pub program: Option<PathBuf>,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            engine: EngineChoice::Auto,
            library: None,
            seeds: 2,
            seed: 0,
            data: Vec::new(),
            sizes: BTreeMap::new(),
            shapes: BTreeMap::new(),
            tolerance: None,
            time_limit: Duration::from_secs(20),
            memory_limit: 8 << 30,
            large: false,
            program: None,
        }
    }
}

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum Status {
    /// All outputs agree within their tolerance.
    #[default]
    Verified,
    /// Nobody knows.
    NotVerifiable {
        /// Why.
        reason: String,
    },
    /// The optimized model computes something else, or nothing.
    Failed {
        /// What differs.
        reason: String,
    },
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// The result.
    #[serde(flatten)]
    pub status: Status,
    /// Differences by output, in the order of the model; empty where nothing was compared.
    pub outputs: Vec<OutputReport>,
    /// The engine that ran the models; empty where none did.
    pub engine: String,
    /// Input sets compared on.
    pub runs: usize,
    /// Seconds of wall time.
    pub seconds: f64,
}

/// Compares two models. Their tensors must hold their data themselves (as an exported model does), not in other
/// files. Never fails: trouble of any kind is [`Status::NotVerifiable`].
pub fn verify(original: &ModelProto, optimized: &ModelProto, options: &VerifyOptions) -> VerifyReport {
    let begin = Instant::now();
    let mut report = VerifyReport::default();
    if original != optimized {
        match attempt(original, optimized, options, &mut report) {
            Ok(status) => report.status = status,
            Err(error) => report.status = Status::NotVerifiable { reason: format!("{error:#}") },
        }
    }
    report.seconds = begin.elapsed().as_secs_f64();
    report
}

/// Holds onnxruntime, with its fastest kernels, against tract on one model; `None` where one of them is not to be asked.
/// What differs by less than [`VerifyOptions::tolerance`] agrees. Never fails, as [`verify`].
pub fn agreement(model: &ModelProto, options: &VerifyOptions) -> Option<VerifyReport> {
    let begin = Instant::now();
    let (engines, _) = engines(model, model, options);
    let [Engine::Tract, other] = &engines[..] else { return None };
    let mut report = VerifyReport::default();
    let mut compared = || -> anyhow::Result<Status> {
        let (_folder, mut request) = request(model, model, options)?;
        request.other_engine = Some(other.clone());
        Ok(match ask(&request, options) {
            Verdict::Compared { outputs, runs, condition } => {
                report.outputs = outputs;
                report.engine = format!("{} and {}", request.engine.name(), other.name());
                report.runs = runs;
                status_of(&report.outputs, condition)
            }
            Verdict::Cannot(reason) => Status::NotVerifiable { reason },
            Verdict::Broken(reason) => Status::Failed { reason },
        })
    };
    let status = compared();
    report.status = status.unwrap_or_else(|error| Status::NotVerifiable { reason: format!("{error:#}") });
    report.seconds = begin.elapsed().as_secs_f64();
    Some(report)
}

fn attempt(
    original: &ModelProto,
    optimized: &ModelProto,
    options: &VerifyOptions,
    report: &mut VerifyReport,
) -> anyhow::Result<Status> {
    let (engines, mut reasons) = engines(original, optimized, options);
    if engines.is_empty() {
        return Ok(Status::NotVerifiable { reason: reasons.join("; ") });
    }
    let (_folder, mut request) = request(original, optimized, options)?;
    let mut broken = None;
    for engine in engines {
        request.engine = engine;
        let name = request.engine.name();
        match ask(&request, options) {
            Verdict::Compared { outputs, runs, condition } => {
                report.outputs = outputs;
                report.engine = name.to_owned();
                report.runs = runs;
                return Ok(status_of(&report.outputs, condition));
            }
            Verdict::Cannot(reason) => reasons.push(reason),
            Verdict::Broken(reason) => {
                broken.get_or_insert((name, reason));
            }
        }
    }
    Ok(match broken {
        Some((name, reason)) => {
            report.engine = name.to_owned();
            Status::Failed { reason: format!("the original runs, the optimized model does not: {reason}") }
        }
        None => Status::NotVerifiable { reason: reasons.join("; ") },
    })
}

/// A request to tract about two models, which lie with the data in a folder that goes when dropped.
fn request(
    original: &ModelProto,
    optimized: &ModelProto,
    options: &VerifyOptions,
) -> anyhow::Result<(TempDir, Request)> {
    let folder = temporary_folder()?;
    let mut request = Request {
        original: folder.path().join("original.onnx"),
        optimized: folder.path().join("optimized.onnx"),
        data: Vec::new(),
        engine: Engine::Tract,
        other_engine: None,
        seeds: options.seeds,
        seed: options.seed,
        sizes: options.sizes.clone(),
        shapes: options.shapes.clone(),
        tolerance: options
            .tolerance
            .or(quantizes(original).then_some(QUANTIZED_TOLERANCE))
            .map(|tolerance| tolerance.min(f64::MAX)),
        seconds: options.time_limit.as_secs().max(1),
    };
    for (model, path) in [(original, &request.original), (optimized, &request.optimized)] {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        write_stream(model, &mut file)?;
        file.flush()?;
    }
    for (index, set) in options.data.iter().enumerate() {
        let path = folder.path().join(format!("data_{index}.pb"));
        std::fs::write(&path, encode_set(set))?;
        request.data.push(path);
    }
    Ok((folder, request))
}

fn status_of(outputs: &[OutputReport], condition: Option<String>) -> Status {
    let Some(worst) = outputs
        .iter()
        .filter(|output| !output.within())
        .max_by(|a, b| a.max_relative_to_range.total_cmp(&b.max_relative_to_range))
    else {
        return Status::Verified;
    };
    if let Some(reason) = condition {
        return Status::NotVerifiable { reason };
    }
    let difference = match &worst.mismatch {
        Some(mismatch) => mismatch.clone(),
        None => format!(
            "differs by {:.3e}, {:.3e} of its range (tolerance {:.0e})",
            worst.max_abs, worst.max_relative_to_range, worst.tolerance
        ),
    };
    Status::Failed { reason: format!("output `{}`: {difference}", worst.name) }
}

/// The engines to try in order, and why others are not tried.
fn engines(
    original: &ModelProto,
    optimized: &ModelProto,
    options: &VerifyOptions,
) -> (Vec<Engine>, Vec<String>) {
    let library = OrtExecutor::library(options.library.as_deref());
    let (mut engines, mut reasons) = (Vec::new(), Vec::new());
    let nodes = node_count(original).max(node_count(optimized));
    let bytes = original.encoded_len().max(optimized.encoded_len());
    let too_large = |engine: &str| {
        let (megabytes, seconds) = (bytes >> 20, options.time_limit.as_secs());
        format!("too large for {engine} to verify within {seconds} s ({nodes} nodes, {megabytes} MiB)")
    };
    if options.engine != EngineChoice::OnnxRuntime {
        if options.large || (nodes <= TRACT_NODES && bytes <= TRACT_BYTES) {
            engines.push(Engine::Tract);
        } else {
            reasons.push(too_large("tract"));
        }
    }
    if options.engine != EngineChoice::Tract {
        match library {
            Some(library) if bytes <= ORT_BYTES => engines.push(Engine::OnnxRuntime(library)),
            Some(_) => reasons.push(too_large("onnxruntime")),
            None if options.engine == EngineChoice::OnnxRuntime => {
                reasons.push("the path of the library of onnxruntime is not known".to_owned());
            }
            None => {}
        }
    }
    (engines, reasons)
}

/// Calls `visit` on every node of a model, bodies included.
fn for_each_node(model: &ModelProto, mut visit: impl FnMut(&NodeProto)) {
    let mut graphs: Vec<&GraphProto> = model.graph.iter().collect();
    while let Some(graph) = graphs.pop() {
        for node in &graph.node {
            visit(node);
            for attribute in &node.attribute {
                graphs.extend(attribute.g.as_deref().into_iter().chain(&attribute.graphs));
            }
        }
    }
}

fn node_count(model: &ModelProto) -> usize {
    let mut count = 0;
    for_each_node(model, |_| count += 1);
    count
}

/// Whether values are rounded to a grid on the way.
fn quantizes(model: &ModelProto) -> bool {
    let mut found = false;
    for_each_node(model, |node| {
        found |= node.op_type().contains("QuantizeLinear") && !node.op_type().starts_with("Dequantize")
            || node.op_type().starts_with("QLinear");
    });
    found
}

/// Runs the judge in a process of its own.
fn ask(request: &Request, options: &VerifyOptions) -> Verdict {
    let time = Some(options.time_limit.max(Duration::from_secs(1)));
    let limits = Limits { memory: options.memory_limit, time, silence: None };
    child::perform(request, &limits, options.program.as_deref(), &|_, _| {})
        .unwrap_or_else(|error| Verdict::Cannot(error.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::{Context, Dim, ElementType, Graph, Model, NewNode, Tensor, Type, export};
    use onnx_opt_proto::{OperatorSetIdProto, encode};

    use super::*;

    /// `y = x · factor` with an open size.
    fn model(factor: f32, op_type: &str) -> ModelProto {
        let mut graph = Graph::new(Context::with_opset(17));
        let x = graph.add_input("x", Type::tensor(ElementType::Float, [Dim::symbol("N"), Dim::fixed(3)]));
        let factor = graph.add_constant(Tensor::from_f32(&[], &[factor]).unwrap());
        let node = graph.add_node(NewNode::new(op_type, [x, factor])).unwrap();
        let output = graph.node(node).output(0).unwrap();
        graph.add_output("y", output).unwrap();
        finished(graph)
    }

    fn finished(graph: Graph) -> ModelProto {
        let rest = ModelProto {
            ir_version: Some(10),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
            ..ModelProto::default()
        };
        export(&Model { graph, rest, notes: vec![] })
    }

    fn request() -> Request {
        Request {
            original: PathBuf::new(),
            optimized: PathBuf::new(),
            data: vec![],
            engine: Engine::Tract,
            other_engine: None,
            seeds: 3,
            seed: 0,
            sizes: BTreeMap::new(),
            shapes: BTreeMap::new(),
            tolerance: None,
            seconds: 60,
        }
    }

    fn verdict(a: &ModelProto, b: &ModelProto, data: &[InputSet]) -> Verdict {
        judge::judge(&request(), &encode(a), &encode(b), data)
    }

    fn judged(a: &ModelProto, b: &ModelProto) -> Status {
        match verdict(a, b, &[]) {
            Verdict::Compared { outputs, condition, runs: 3 } => status_of(&outputs, condition),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn equal_up_to_rounding_or_not() {
        assert_eq!(judged(&model(2.0, "Mul"), &model(0.5, "Div")), Status::Verified);
        assert_eq!(judged(&model(2.0, "Mul"), &model(2.0001, "Mul")), Status::Verified);
        let wrong = judged(&model(2.0, "Mul"), &model(2.1, "Mul"));
        assert!(matches!(&wrong, Status::Failed { reason } if reason.contains("`y`")), "{wrong:?}");
    }

    #[test]
    fn the_users_data_is_used() {
        let set = vec![("x".to_owned(), Tensor::from_f32(&[1, 3], &[0.0, 0.0, 0.0]).unwrap())];
        // On zeros nothing differs, whatever the factor.
        let Verdict::Compared { outputs, runs: 1, .. } =
            verdict(&model(2.0, "Mul"), &model(3.0, "Mul"), &[set])
        else {
            panic!("not compared")
        };
        assert!(outputs[0].within());
    }

    #[test]
    fn ill_conditioned_is_no_failure() {
        // Sin of numbers of size 1e7 turns rounding of x into noise.
        let chaotic = |factor: f32| {
            let mut proto = model(factor, "Mul");
            let graph = proto.graph.as_mut().unwrap();
            graph.node[0].output[0] = "t".into();
            let mut sine = graph.node[0].clone();
            (sine.op_type, sine.input, sine.output) =
                (Some("Sin".into()), vec!["t".into()], vec!["y".into()]);
            graph.node.push(sine);
            proto
        };
        let status = judged(&chaotic(1e7), &chaotic(1.000_001e7));
        assert!(
            matches!(&status, Status::NotVerifiable { reason } if reason.contains("ill-cond")),
            "{status:?}"
        );
    }

    #[test]
    fn what_tract_lacks_is_named() {
        let mut other = model(2.0, "Mul");
        other.graph.as_mut().unwrap().node[0].op_type = Some("Bernoulli".into());
        other.graph.as_mut().unwrap().node[0].input.pop();
        let verdict = verdict(&other, &other, &[]);
        assert!(matches!(&verdict, Verdict::Cannot(reason) if reason.contains("Bernoulli")), "{verdict:?}");
    }

    #[test]
    fn a_model_that_breaks_is_told_from_one_that_is_unknown() {
        let mut broken = model(2.0, "Mul");
        let tensor = &mut broken.graph.as_mut().unwrap().initializer[0];
        (tensor.dims, tensor.raw_data) = (vec![2], Some(vec![0; 8].into()));
        let verdict = verdict(&model(2.0, "Mul"), &broken, &[]);
        assert!(matches!(verdict, Verdict::Broken(_)), "{verdict:?}");
    }

    #[test]
    fn a_gap_of_the_engine_is_no_fault_of_the_result() {
        // tract reads indices of Gather as they come and fails past the end, which is legal for inference.
        let gathers = |index: i64| {
            let mut graph = Graph::new(Context::with_opset(17));
            let x = graph.add_input("x", Type::tensor(ElementType::Float, [Dim::symbol("N"), Dim::fixed(3)]));
            let index = graph.add_constant(Tensor::vector_i64(&[index]));
            let node = graph.add_node(NewNode::new("Gather", [x, index])).unwrap();
            let output = graph.node(node).output(0).unwrap();
            graph.add_output("y", output).unwrap();
            finished(graph)
        };
        let verdict = verdict(&gathers(0), &gathers(1000), &[]);
        let Verdict::Cannot(reason) = &verdict else { panic!("{verdict:?}") };
        assert!(
            reason.starts_with("the original runs, but not the result, where tract failed: "),
            "{reason}"
        );
        assert_eq!(reason.lines().count(), 1);
    }

    /// A program that answers to nothing is ended.
    #[cfg(unix)]
    #[test]
    fn a_child_is_killed_at_the_limit() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let (program, pid) = (folder.path().join("sleeper"), folder.path().join("pid"));
        std::fs::write(&program, format!("#!/bin/sh\necho $$ > '{}'\nexec sleep 600\n", pid.display()))
            .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let options = VerifyOptions {
            engine: EngineChoice::Tract,
            time_limit: Duration::from_secs(2),
            program: Some(program),
            ..VerifyOptions::default()
        };
        let report = verify(&model(2.0, "Mul"), &model(3.0, "Mul"), &options);
        assert_eq!(report.status, Status::NotVerifiable { reason: "no result within 2 s".into() });
        assert!(report.seconds < 60.0);
        let pid: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        // SAFETY: signal 0 only asks whether the process exists.
        assert_eq!(unsafe { libc::kill(pid, 0) }, -1);
    }

    #[test]
    fn a_program_that_does_not_serve_is_not_started() {
        let options = VerifyOptions { engine: EngineChoice::Tract, ..VerifyOptions::default() };
        let report = verify(&model(2.0, "Mul"), &model(3.0, "Mul"), &options);
        let Status::NotVerifiable { reason } = report.status else { panic!() };
        assert!(reason.contains("no program is known"), "{reason}");
    }

    #[test]
    fn rounding_to_a_grid_is_seen() {
        let mut model = model(2.0, "Mul");
        assert!(!quantizes(&model));
        model.graph.as_mut().unwrap().node[0].op_type = Some("DequantizeLinear".into());
        assert!(!quantizes(&model));
        model.graph.as_mut().unwrap().node[0].op_type = Some("DynamicQuantizeLinear".into());
        assert!(quantizes(&model));
    }

    #[test]
    fn cost_is_predicted() {
        let mut large = model(2.0, "Mul");
        let graph = large.graph.as_mut().unwrap();
        graph.node = vec![graph.node[0].clone(); TRACT_NODES + 1];
        let options = VerifyOptions { engine: EngineChoice::Tract, ..VerifyOptions::default() };
        let (engines, reasons) = engines(&large, &large, &options);
        assert!(engines.is_empty() && reasons[0].contains("4001 nodes"), "{reasons:?}");
    }
}
