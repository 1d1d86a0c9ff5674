//! The work of the process that runs the model.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;
use onnx_opt_ir::engine::{EngineError, Executor, Named, Runner};
use onnx_opt_ir::{ElementType, Tensor, import};
use onnx_opt_passes::quantize::Statistics;
use onnx_opt_passes::quantize::accuracy::{Layer, LayerMoments, Moments};
use onnx_opt_proto::read_bytes;
use serde::{Deserialize, Serialize};

use crate::child::{Task, Tell};
use crate::data::{self, Input, Sample};
use crate::engine::Engine;
use crate::verify::inputs::{InputSpec, Plan, generate, input_specs, plans};

/// What is to be run and observed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Work {
    pub model: PathBuf,
    /// Values that are observed, each with the output that shows it, in the order of the graph.
    pub outputs: Vec<(String, usize)>,
    /// Inputs that are observed.
    pub inputs: Vec<String>,
    /// Products whose operands, which are observed too, have moments.
    pub layers: Vec<Layer>,
    pub source: Source,
    pub engine: Engine,
}

/// Where samples come from.
#[derive(Serialize, Deserialize)]
pub(crate) enum Source {
    Samples(Vec<Sample>),
    Random { samples: usize, seed: u64, sizes: BTreeMap<String, usize>, shapes: BTreeMap<String, Vec<usize>> },
}

/// Why there are no statistics.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Trouble {
    /// The engine does not run the model.
    Engine(String),
    /// A sample cannot be used.
    Sample(String),
    NotANumber {
        name: String,
        sample: String,
    },
    NotFloat {
        name: String,
        ty: String,
    },
}

impl From<EngineError> for Trouble {
    fn from(error: EngineError) -> Self {
        Self::Engine(error.to_string())
    }
}

/// What was observed.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Found {
    /// By the name of the value.
    pub values: BTreeMap<String, Statistics>,
    /// By the name of the node that takes them.
    pub moments: LayerMoments,
}

impl Found {
    /// Appends what was observed later.
    fn merge(&mut self, later: &Self) {
        for (name, statistics) in &later.values {
            self.values.entry(name.clone()).or_default().merge(statistics);
        }
        for (name, moments) in &later.moments {
            let known = self
                .moments
                .entry(name.clone())
                .or_insert_with(|| moments.iter().map(|of| Moments::new(of.size())).collect());
            known.iter_mut().zip(moments).for_each(|(known, later)| known.merge(later));
        }
    }
}

impl Task for Work {
    const NAME: &'static str = "calibrate";
    type Answer = Result<Found, Trouble>;

    fn perform(self, tell: &Tell) -> anyhow::Result<Self::Answer> {
        let model = std::fs::read(&self.model)?;
        let document = read_bytes(Bytes::from(model.clone()))?;
        let specs = input_specs(document.model.graph.as_ref().unwrap_or(&Default::default()));
        let inputs = data::inputs(&import(document)?.graph);
        Ok(run(&self, &model, &inputs, &specs, tell))
    }
}

/// Samples are divided into so many shards, on every machine, so that the result does not depend on its processors.
const SHARDS: usize = 4;

/// A thread of an engine may go deep.
const STACK: usize = 64 << 20;

/// Observes all samples: with tract on several threads, each with a shard of its own at a time; onnxruntime has its own
/// threads.
fn run(
    work: &Work,
    model: &[u8],
    inputs: &[Input],
    specs: &Result<Vec<InputSpec>, String>,
    tell: &Tell,
) -> Result<Found, Trouble> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let feeds = Feeds::of(work, model, inputs, specs)?;
    let workers = match work.engine {
        Engine::Tract => processors.min(SHARDS).min(feeds.count),
        Engine::OnnxRuntime(_) => 1,
    };
    let (next, done, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let finished = || {
        let heard = tell(done.fetch_add(1, Ordering::Relaxed) + 1, feeds.count);
        // Nobody waits for an answer that nobody hears about.
        stop.fetch_or(heard.is_err(), Ordering::Relaxed);
    };
    let worker = || -> Result<Vec<(usize, Found)>, Trouble> {
        let executor = work.engine.fast(processors)?;
        let mut runner = executor.prepare(model)?;
        let mut shards = Vec::new();
        loop {
            let shard = next.fetch_add(1, Ordering::Relaxed);
            if shard >= SHARDS {
                return Ok(shards);
            }
            let range = shard * feeds.count / SHARDS..(shard + 1) * feeds.count / SHARDS;
            let mut found = Found::default();
            let observed = feeds.visit(range, &mut |sample, feed| {
                if stop.load(Ordering::Relaxed) {
                    return Ok(false);
                }
                observe(work, &mut *runner, sample, &feed, &mut found)?;
                finished();
                Ok(true)
            });
            if let Err(trouble) = observed {
                stop.store(true, Ordering::Relaxed);
                return Err(trouble);
            }
            shards.push((shard, found));
        }
    };
    let results = thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().stack_size(STACK).spawn_scoped(scope, worker);
        let threads: Vec<_> = (0..workers).map(spawn).collect();
        let join = |thread: std::io::Result<thread::ScopedJoinHandle<'_, _>>| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|_| Err(Trouble::Engine("it panicked".to_owned()))),
            Err(error) => Err(Trouble::Engine(error.to_string())),
        };
        threads.into_iter().map(join).collect::<Vec<_>>()
    });
    let mut shards = results.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    shards.sort_by_key(|(shard, _)| *shard);
    let mut total = Found::default();
    shards.iter().for_each(|(_, found)| total.merge(found));
    Ok(total)
}

/// Runs one set of inputs and takes in what is observed of it.
fn observe(
    work: &Work,
    runner: &mut dyn Runner,
    sample: &str,
    feed: &Named,
    found: &mut Found,
) -> Result<(), Trouble> {
    let mut take = |name: &String, tensor: &Tensor| {
        let numbers = numbers(tensor)
            .ok_or_else(|| Trouble::NotFloat { name: name.clone(), ty: tensor.ty().to_string() })?;
        for layer in work.layers.iter().filter(|layer| layer.value == *name) {
            let moments = found.moments.entry(layer.node.clone()).or_default();
            layer.window.observe(&numbers, tensor.shape(), moments);
        }
        let statistics = match found.values.get_mut(name) {
            Some(statistics) => statistics,
            None => found.values.entry(name.clone()).or_default(),
        };
        statistics
            .observe(&numbers)
            .map_err(|_| Trouble::NotANumber { name: name.clone(), sample: sample.to_owned() })
    };
    for (name, tensor) in feed.iter().filter(|(name, _)| work.inputs.contains(name)) {
        take(name, tensor)?;
    }
    let outputs = runner.run(feed)?;
    for (name, place) in &work.outputs {
        let (_, tensor) =
            outputs.get(*place).ok_or_else(|| Trouble::Engine(format!("it gave no value `{name}`")))?;
        take(name, tensor)?;
    }
    Ok(())
}

/// The elements of a tensor of floats.
pub(super) fn numbers(tensor: &Tensor) -> Option<Vec<f32>> {
    if tensor.element() == ElementType::Double {
        return Some(tensor.to_f64()?.into_iter().map(|value| value as f32).collect());
    }
    tensor.to_f32()
}

/// The sets of inputs of all samples in a row.
struct Feeds<'a> {
    origin: Origin<'a>,
    inputs: &'a [Input],
    count: usize,
}

enum Origin<'a> {
    /// Each with its number of sets.
    Samples(Vec<(&'a Sample, usize)>),
    Random {
        specs: &'a [InputSpec],
        plan: Plan,
        source: &'a Source,
    },
}

impl<'a> Feeds<'a> {
    fn of(
        work: &'a Work,
        model: &[u8],
        inputs: &'a [Input],
        specs: &'a Result<Vec<InputSpec>, String>,
    ) -> Result<Self, Trouble> {
        match &work.source {
            Source::Samples(samples) => {
                let count = |sample: &'a Sample| match sample.feeds(inputs) {
                    Ok(feeds) => Ok((sample, feeds.sets())),
                    Err(error) => Err(Trouble::Sample(error.to_string())),
                };
                let samples = samples.iter().map(count).collect::<Result<Vec<_>, _>>()?;
                let count = samples.iter().map(|(_, count)| count).sum();
                Ok(Self { origin: Origin::Samples(samples), inputs, count })
            }
            source @ Source::Random { samples, .. } => {
                let specs = specs.as_ref().map_err(|reason| Trouble::Sample(reason.clone()))?;
                let executor = work.engine.exact()?;
                let plan = working_plan(&*executor, model, specs, source)?;
                Ok(Self { origin: Origin::Random { specs, plan, source }, inputs, count: *samples })
            }
        }
    }

    /// Calls `visit` with the sets of a range until it says no. Each comes with a name for messages.
    fn visit(
        &self,
        range: std::ops::Range<usize>,
        visit: &mut dyn FnMut(&str, Named) -> Result<bool, Trouble>,
    ) -> Result<(), Trouble> {
        let samples = match &self.origin {
            Origin::Samples(samples) => samples,
            Origin::Random { specs, plan, source } => {
                for index in range {
                    let feed = random(specs, plan, source, index)?;
                    if !visit(&format!("random sample {index}"), feed)? {
                        return Ok(());
                    }
                }
                return Ok(());
            }
        };
        let mut first = 0;
        for &(sample, count) in samples {
            let (from, to) = (range.start.max(first), range.end.min(first + count));
            if from < to {
                let trouble = |error: data::DataError| Trouble::Sample(error.to_string());
                let feeds = sample.feeds(self.inputs).map_err(trouble)?;
                for (index, feed) in feeds.enumerate().take(to - first).skip(from - first) {
                    let name = match count {
                        1 => sample.path.display().to_string(),
                        _ => format!("{} ({} of {count})", sample.path.display(), index + 1),
                    };
                    if !visit(&name, feed.map_err(trouble)?)? {
                        return Ok(());
                    }
                }
            }
            first += count;
        }
        Ok(())
    }
}

fn random(specs: &[InputSpec], plan: &Plan, source: &Source, index: usize) -> Result<Named, Trouble> {
    let Source::Random { seed, sizes, shapes, .. } = source else { return Ok(Named::new()) };
    generate(specs, plan, seed.wrapping_add(index as u64), sizes, shapes).map_err(Trouble::Sample)
}

/// The first choice of open sizes that the model runs with.
fn working_plan(
    executor: &dyn Executor,
    model: &[u8],
    specs: &[InputSpec],
    source: &Source,
) -> Result<Plan, Trouble> {
    let mut runner = executor.prepare(model)?;
    let mut first = None;
    for plan in plans(specs) {
        match runner.run(&random(specs, &plan, source, 0)?) {
            Ok(_) => return Ok(plan),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first
        .map_or_else(|| Trouble::Engine("no sizes were found that it runs with".to_owned()), Trouble::from))
}
