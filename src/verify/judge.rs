//! The judge: runs both models on the same inputs and compares, in a process of its own.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use onnx_opt_ir::engine::{EngineError, Executor, Named, Runner};
use onnx_opt_ir::load::load;
use onnx_opt_ir::{Tensor, ValueId};
use onnx_opt_proto::{GraphProto, ModelProto, TensorProto};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::compare::{OutputReport, compare};
use super::inputs::{InputSet, InputSpec, generate, input_specs, perturbed, plans};
use crate::child::{Task, Tell};
use crate::engine::Engine;
use crate::interface::{Size, set_sizes};

/// What the judge is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub original: PathBuf,
    pub optimized: PathBuf,
    /// Input sets as encoded graphs whose initializers are the inputs.
    pub data: Vec<PathBuf>,
    pub engine: Engine,
    /// The engine of the optimized model, with its fastest kernels; that of the original where absent.
    pub other_engine: Option<Engine>,
    pub seeds: usize,
    pub seed: u64,
    pub sizes: BTreeMap<String, usize>,
    pub shapes: BTreeMap<String, Vec<usize>>,
    pub tolerance: Option<f64>,
    pub seconds: u64,
}

/// What the judge found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// Both models ran; the outputs say how far they are apart. `condition` is set where what differs is the original's
    /// own doing: it moves as much under rounding of its inputs, or draws random numbers.
    Compared { outputs: Vec<OutputReport>, runs: usize, condition: Option<String> },
    /// The engine cannot run the models.
    Cannot(String),
    /// The original ran, the optimized model failed, and that is its own fault.
    Broken(String),
}

impl Task for Request {
    const NAME: &'static str = "verify";
    type Answer = Verdict;

    fn perform(self, _: &Tell) -> anyhow::Result<Verdict> {
        let original = std::fs::read(&self.original)?;
        let optimized = std::fs::read(&self.optimized)?;
        let data = self.data.iter().map(read_set).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(judge(&self, &original, &optimized, &data))
    }
}

/// An input set as a graph whose initializers are the inputs.
pub(super) fn encode_set(set: &InputSet) -> Vec<u8> {
    let named =
        |(name, tensor): &(String, Tensor)| TensorProto { name: Some(name.clone()), ..tensor.to_proto() };
    GraphProto { initializer: set.iter().map(named).collect(), ..GraphProto::default() }.encode_to_vec()
}

fn read_set(path: &PathBuf) -> anyhow::Result<InputSet> {
    let graph = GraphProto::decode(Bytes::from(std::fs::read(path)?))?;
    let tensor = |proto: TensorProto| Ok((proto.name().to_owned(), Tensor::from_proto(proto, None)?));
    graph.initializer.into_iter().map(tensor).collect()
}

/// Runs both models and compares.
pub(super) fn judge(request: &Request, original: &[u8], optimized: &[u8], data: &[InputSet]) -> Verdict {
    let executor = match request.engine.exact() {
        Ok(executor) => executor,
        Err(error) => return Verdict::Cannot(error.to_string()),
    };
    let other = match request.other_engine.as_ref().map(|engine| engine.fast(1)).transpose() {
        Ok(other) => other,
        Err(error) => return Verdict::Cannot(error.to_string()),
    };
    let specs = match ModelProto::decode(original) {
        Ok(model) => input_specs(&model.graph.unwrap_or_default()),
        Err(error) => Err(error.to_string()),
    };
    let specs = match specs {
        Ok(specs) => specs,
        Err(_) if !data.is_empty() => Vec::new(),
        Err(reason) => return Verdict::Cannot(reason),
    };
    let other = other.as_deref().unwrap_or(&*executor);
    let original = Subject { executor: &*executor, model: original, runner: None };
    let optimized = Subject { executor: other, model: optimized, runner: None };
    let mut judge = Judge { request, original, optimized };
    if data.is_empty() { judge.on_random(&specs) } else { judge.on_data(data) }
}

/// A model and what runs it.
struct Subject<'a> {
    executor: &'a dyn Executor,
    model: &'a [u8],
    /// The loaded model, from the first run on.
    runner: Option<Box<dyn Runner + 'a>>,
}

impl Subject<'_> {
    fn run(&mut self, set: &InputSet) -> Result<Named, EngineError> {
        let mut runner = match self.runner.take() {
            Some(runner) => runner,
            None => self.executor.prepare(self.model)?,
        };
        let outputs = runner.run(set)?;
        // One that failed is not used again.
        self.runner = Some(runner);
        Ok(outputs)
    }
}

struct Judge<'a> {
    request: &'a Request,
    original: Subject<'a>,
    optimized: Subject<'a>,
}

impl Judge<'_> {
    fn on_data(&mut self, data: &[InputSet]) -> Verdict {
        let mut tally = Tally::default();
        for set in data {
            match self.original.run(set) {
                Ok(outputs) => {
                    if let Err(verdict) = self.compare(&mut tally, set, &outputs) {
                        return verdict;
                    }
                }
                Err(error) => return Verdict::Cannot(error.to_string()),
            }
        }
        self.conclude(tally)
    }

    /// As many seeds as asked, on two choices of sizes where sizes are open and the model runs with both.
    fn on_random(&mut self, specs: &[InputSpec]) -> Verdict {
        let begin = Instant::now();
        let enough = Duration::from_secs(self.request.seconds) / 3;
        let open = |spec: &InputSpec| {
            spec.axes
                .as_ref()
                .is_none_or(|axes| axes.iter().any(|axis| !matches!(axis, super::inputs::Axis::Fixed(_))))
        };
        let open = specs.iter().any(open);
        let plans = plans(specs);
        let mut remaining = plans.iter();
        let mut plan = remaining.next();
        let mut working = None;
        let mut reason: Option<String> = None;
        let mut tally = Tally::default();
        while tally.runs < self.request.seeds.max(1) && (tally.runs == 0 || begin.elapsed() < enough) {
            let Some(current) = plan.or(working) else { break };
            let seed = self.request.seed.wrapping_add(tally.runs as u64);
            let made = generate(specs, current, seed, &self.request.sizes, &self.request.shapes);
            let set = match made {
                Ok(set) => set,
                Err(reason) => return Verdict::Cannot(reason),
            };
            let ran = self.original.run(&set);
            let empty = |outputs: &[(String, Tensor)]| {
                !outputs.is_empty() && outputs.iter().all(|(_, tensor)| tensor.is_empty())
            };
            match ran {
                Err(EngineError::Unsupported { .. }) if working.is_none() => {
                    return Verdict::Cannot(ran.err().map(|error| error.to_string()).unwrap_or_default());
                }
                Ok(outputs) if !(open && empty(&outputs)) => {
                    if let Err(verdict) = self.compare(&mut tally, &set, &outputs) {
                        return verdict;
                    }
                    working = Some(current);
                    // Sizes that are open are tried twice; then, and where they are fixed, seeds alone change.
                    plan = if open && tally.runs == 1 { remaining.next() } else { None };
                }
                // One choice that works is enough to go on with.
                _ if working.is_some() && plan.is_none() => break,
                Ok(_) => plan = if working.is_some() { None } else { remaining.next() },
                Err(error) => {
                    reason.get_or_insert_with(|| error.to_string());
                    plan = if working.is_some() { None } else { remaining.next() };
                }
            }
        }
        if tally.runs == 0 {
            return Verdict::Cannot(
                reason.unwrap_or_else(|| "no sizes were found that it runs with".to_owned()),
            );
        }
        self.conclude(tally)
    }

    fn compare(
        &mut self,
        tally: &mut Tally,
        set: &InputSet,
        expected: &[(String, Tensor)],
    ) -> Result<(), Verdict> {
        let found = match self.optimized.run(set) {
            Ok(found) => found,
            Err(error @ EngineError::Unsupported { .. }) => return Err(Verdict::Cannot(error.to_string())),
            Err(error) => return Err(self.blame(set, &error)),
        };
        let names = |outputs: &[(String, Tensor)]| {
            outputs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>().join(", ")
        };
        if names(expected) != names(&found) {
            return Err(Verdict::Broken(format!("outputs {} became {}", names(expected), names(&found))));
        }
        let reports = expected.iter().zip(&found);
        let reports: Vec<OutputReport> =
            reports.map(|((name, a), (_, b))| compare(name, a, b, self.request.tolerance)).collect();
        tally.add(set, expected, reports);
        Ok(())
    }

    /// Whose fault it is that the optimized model failed. onnxruntime is the reference. Of tract's errors, those count
    /// that our own inference confirms for the sizes of these inputs: it finds a contradiction that the original has
    /// not. Any other one may be a gap of tract that the original does not touch.
    fn blame(&self, set: &InputSet, error: &EngineError) -> Verdict {
        let engine = self.request.other_engine.as_ref().unwrap_or(&self.request.engine);
        if matches!(engine, Engine::OnnxRuntime(_)) {
            return Verdict::Broken(error.to_string());
        }
        match (contradiction(self.original.model, set), contradiction(self.optimized.model, set)) {
            (None, Some(reason)) => Verdict::Broken(reason),
            _ => Verdict::Cannot(format!("the original runs, but not the result, where {error}")),
        }
    }

    fn conclude(&mut self, mut tally: Tally) -> Verdict {
        let Some(worst) = tally.worst.take() else { return tally.compared(None) };
        let random = random_outputs(self.original.model);
        tally.outputs.retain(|report| report.within() || !random.contains(&report.name));
        if tally.outputs.is_empty() {
            return Verdict::Cannot("this model, all outputs of which are random".to_owned());
        }
        let condition = if tally.outputs.iter().all(OutputReport::within) {
            Some(format!("random outputs are not compared: {}", random.join(", ")))
        } else {
            self.condition(&worst)
        };
        tally.compared(condition)
    }

    /// Whether the original itself moves as much as the optimized model differs when its inputs are rounded.
    fn condition(&mut self, worst: &Worst) -> Option<String> {
        let moved = self.original.run(&perturbed(&worst.set)).ok()?;
        let own = worst.expected.iter().zip(&moved).map(|((name, a), (_, b))| compare(name, a, b, None));
        for (own, found) in own.zip(&worst.reports) {
            let as_much = match (&own.mismatch, &found.mismatch) {
                (Some(_), _) => true,
                (None, Some(_)) => false,
                (None, None) => 2.0 * own.max_relative_to_range >= found.max_relative_to_range,
            };
            if !found.within() && !as_much {
                return None;
            }
        }
        Some(
            "ill-conditioned: outputs of the original move as much when its inputs change by rounding"
                .to_owned(),
        )
    }
}

/// Names of the outputs that depend on a node that draws random numbers. Engines may derive its seed from its place in
/// the graph, so that runs of one model are equal, and those of a rewritten one are not.
fn random_outputs(model: &[u8]) -> Vec<String> {
    let document = onnx_opt_proto::read_bytes(Bytes::copy_from_slice(model)).ok();
    let Some(model) = document.and_then(|document| load(document).ok()) else { return Vec::new() };
    let graph = &model.graph;
    let mut random: HashSet<ValueId> = HashSet::new();
    for node in graph.topological_order().unwrap_or_default() {
        let node = graph.node(node);
        if node.is_random() || node.operands().any(|operand| random.contains(&operand)) {
            random.extend(node.outputs().iter().flatten());
        }
    }
    let outputs = graph.outputs().iter().map(|output| output.value);
    outputs.filter(|output| random.contains(output)).map(|output| graph.display_name(output)).collect()
}

/// What makes a model illegal on inputs of these sizes, as far as inference can tell.
fn contradiction(model: &[u8], set: &InputSet) -> Option<String> {
    let mut document = match onnx_opt_proto::read_bytes(Bytes::copy_from_slice(model)) {
        Ok(document) => document,
        Err(error) => return Some(error.to_string()),
    };
    let graph = document.model.graph.as_mut()?;
    let fixed = |tensor: &Tensor| tensor.shape().iter().map(|&size| Size::Fixed(size as i64)).collect();
    let given = set.iter().filter(|(name, _)| !graph.initializer.iter().any(|tensor| tensor.name() == name));
    let sizes = given.map(|(name, tensor)| (name.clone(), fixed(tensor))).collect();
    set_sizes(graph, &sizes)
        .map_err(|error| error.to_string())
        .and_then(|()| load(document).map_err(|error| error.to_string()))
        .err()
}

/// The comparison over all runs.
#[derive(Default)]
struct Tally {
    runs: usize,
    outputs: Vec<OutputReport>,
    worst: Option<Worst>,
}

/// A run whose difference is past the tolerance.
struct Worst {
    set: InputSet,
    expected: Vec<(String, Tensor)>,
    reports: Vec<OutputReport>,
}

impl Tally {
    fn compared(self, condition: Option<String>) -> Verdict {
        Verdict::Compared { outputs: self.outputs, runs: self.runs, condition }
    }

    fn add(&mut self, set: &InputSet, expected: &[(String, Tensor)], reports: Vec<OutputReport>) {
        self.runs += 1;
        if self.worst.is_none() && reports.iter().any(|report| !report.within()) {
            self.worst =
                Some(Worst { set: set.clone(), expected: expected.to_vec(), reports: reports.clone() });
        }
        if self.outputs.is_empty() {
            self.outputs = reports;
        } else {
            for (total, report) in self.outputs.iter_mut().zip(reports) {
                total.merge(report);
            }
        }
    }
}
