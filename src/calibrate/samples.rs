//! Runs of a model over all samples, in the process that runs it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;
use onnx_opt_ir::engine::{EngineError, Executor, Named, Runner};
use onnx_opt_ir::{Graph, Model, export, import};
use onnx_opt_passes::measure::DRAW;
use onnx_opt_passes::threads::processors;
use onnx_opt_proto::{ModelProto, read_bytes};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::child::Tell;
use crate::data::{self, Input, Sample};
use crate::engine::Engine;
use crate::verify::inputs::{InputSpec, Plan, generate, input_specs, plans};

/// Where samples come from.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Source {
    /// Sets of inputs in a row, of which each `step`th is taken.
    Samples {
        samples: Vec<Sample>,
        step: usize,
        /// Samples in a batch of open size, at most.
        most_rows: usize,
    },
    Random {
        samples: usize,
        seed: u64,
        sizes: BTreeMap<String, usize>,
        shapes: BTreeMap<String, Vec<usize>>,
    },
}

impl Source {
    /// The same samples, none of them in a batch with another where a batch is of open size.
    pub fn one_by_one(&self) -> Self {
        let mut source = self.clone();
        if let Self::Samples { most_rows, .. } = &mut source {
            *most_rows = 1;
        }
        source
    }
}

/// Why there are no statistics.
#[derive(Debug, Error, Serialize, Deserialize)]
pub(crate) enum Trouble {
    /// The engine does not run the model.
    #[error("{0}")]
    Engine(String),
    /// A sample cannot be used.
    #[error("{0}")]
    Sample(String),
    #[error("value `{name}` is NaN on {sample}")]
    NotANumber { name: String, sample: String },
    #[error("value `{name}` is {ty}, no tensor of floats")]
    NotFloat { name: String, ty: String },
}

impl From<EngineError> for Trouble {
    fn from(error: EngineError) -> Self {
        Self::Engine(error.to_string())
    }
}

/// A model as an engine is given it, and what it takes of samples.
pub(super) struct Subject {
    model: Vec<u8>,
    inputs: Vec<Input>,
    specs: Result<Vec<InputSpec>, String>,
}

impl Subject {
    /// A model from its file.
    pub fn read(path: &std::path::Path) -> anyhow::Result<Self> {
        let model = std::fs::read(path)?;
        let document = read_bytes(Bytes::from(model.clone()))?;
        let specs = input_specs(document.model.graph.as_ref().unwrap_or(&Default::default()));
        let mut inputs = data::inputs(&import(document)?.graph);
        // That one is no matter of samples.
        inputs.retain(|input| input.name != DRAW);
        Ok(Self { model, inputs, specs })
    }
}

/// One set of inputs.
pub(super) struct Set<'a> {
    /// Its number among all.
    pub index: usize,
    /// For messages.
    pub name: &'a str,
    pub feed: Named,
}

/// Runs one set of inputs, and takes in what is found of it.
pub(super) type Take<'a, T> = dyn Fn(&mut dyn Runner, &Set<'_>, &mut T) -> Result<(), Trouble> + Sync + 'a;

/// Samples are divided into so many shards, on every machine, so that the result does not depend on its processors.
const SHARDS: usize = 4;

/// A thread of an engine may go deep.
const STACK: usize = 64 << 20;

/// Takes all samples in, and gives what was found of each shard, on several threads, each with a shard of its own at a
/// time. Processors that are left beside these are for the threads of an engine.
pub(super) fn run<T: Default + Send>(
    source: &Source,
    engine: &Engine,
    subject: &Subject,
    tell: &Tell,
    take: &Take<'_, T>,
) -> Result<Vec<T>, Trouble> {
    let processors = processors();
    let feeds = Feeds::of(source, engine, subject)?;
    let workers = processors.min(SHARDS).min(feeds.count);
    let (next, done, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let finished = || {
        let heard = tell(done.fetch_add(1, Ordering::Relaxed) + 1, feeds.count.div_ceil(feeds.step));
        // Nobody waits for an answer that nobody hears about.
        stop.fetch_or(heard.is_err(), Ordering::Relaxed);
    };
    let worker = || -> Result<Vec<(usize, T)>, Trouble> {
        let executor = engine.fast(processors / workers)?;
        let mut runner = executor.prepare(&subject.model)?;
        let mut shards = Vec::new();
        loop {
            let shard = next.fetch_add(1, Ordering::Relaxed);
            if shard >= SHARDS {
                return Ok(shards);
            }
            let range = shard * feeds.count / SHARDS..(shard + 1) * feeds.count / SHARDS;
            let mut found = T::default();
            let observed = feeds.visit(range, &mut |set| {
                if stop.load(Ordering::Relaxed) {
                    return Ok(false);
                }
                take(&mut *runner, &set, &mut found)?;
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
    let mut shards: Vec<(usize, T)> =
        results.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    shards.sort_by_key(|(shard, _)| *shard);
    Ok(shards.into_iter().map(|(_, found)| found).collect())
}

/// The sets of inputs of all samples in a row.
struct Feeds<'a> {
    origin: Origin<'a>,
    inputs: &'a [Input],
    count: usize,
    /// Each of so many is taken.
    step: usize,
}

enum Origin<'a> {
    Samples {
        /// Each with its number of sets.
        samples: Vec<(&'a Sample, usize)>,
        most_rows: usize,
    },
    Random {
        specs: &'a [InputSpec],
        plan: Plan,
        source: &'a Source,
    },
}

impl<'a> Feeds<'a> {
    fn of(source: &'a Source, engine: &Engine, subject: &'a Subject) -> Result<Self, Trouble> {
        let inputs = &subject.inputs[..];
        match source {
            &Source::Samples { ref samples, step, most_rows } => {
                let count = |sample: &'a Sample| match sample.feeds_of(inputs, most_rows) {
                    Ok(feeds) => Ok((sample, feeds.sets())),
                    Err(error) => Err(Trouble::Sample(error.to_string())),
                };
                let samples = samples.iter().map(count).collect::<Result<Vec<_>, _>>()?;
                let count = samples.iter().map(|(_, count)| count).sum();
                Ok(Self { origin: Origin::Samples { samples, most_rows }, inputs, count, step })
            }
            source @ Source::Random { samples, .. } => {
                let specs = subject.specs.as_ref().map_err(|reason| Trouble::Sample(reason.clone()))?;
                let executor = engine.exact()?;
                let plan = working_plan(&*executor, &subject.model, specs, source)?;
                Ok(Self { origin: Origin::Random { specs, plan, source }, inputs, count: *samples, step: 1 })
            }
        }
    }

    /// Calls `visit` with the sets of a range until it says no. Each comes with a name for messages.
    fn visit(
        &self,
        range: std::ops::Range<usize>,
        visit: &mut dyn FnMut(Set<'_>) -> Result<bool, Trouble>,
    ) -> Result<(), Trouble> {
        let (samples, most_rows) = match &self.origin {
            Origin::Samples { samples, most_rows } => (samples, *most_rows),
            Origin::Random { specs, plan, source } => {
                for index in range {
                    let feed = random(specs, plan, source, index)?;
                    if !visit(Set { index, name: &format!("random sample {index}"), feed })? {
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
                let feeds = sample.feeds_of(self.inputs, most_rows).map_err(trouble)?;
                let taken = |&(index, _): &(usize, _)| (first + index) % self.step == 0;
                for (index, feed) in feeds.enumerate().take(to - first).skip(from - first).filter(taken) {
                    let name = match count {
                        1 => sample.path.display().to_string(),
                        _ => format!("{} ({} of {count})", sample.path.display(), index + 1),
                    };
                    let feed = feed.map_err(trouble)?;
                    if !visit(Set { index: (first + index) / self.step, name: &name, feed })? {
                        return Ok(());
                    }
                }
            }
            first += count;
        }
        Ok(())
    }
}

/// Sizes by the name of the input.
type Shapes = BTreeMap<String, Vec<usize>>;

/// The sizes that the inputs of a graph have in all samples; of random ones, those that are drawn first.
///
/// # Errors
/// In words, if samples cannot be read, or one has other sizes than another.
pub(super) fn shapes(source: &Source, graph: &Graph) -> Result<Shapes, String> {
    let of = |feed: &Named| -> Shapes {
        feed.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect()
    };
    let (samples, most_rows) = match source {
        Source::Samples { samples, most_rows, .. } => (samples, *most_rows),
        Source::Random { .. } => {
            let rest = ModelProto::default();
            let messages = export(&Model { graph: graph.clone(), rest, notes: Vec::new() });
            let specs = input_specs(messages.graph.as_ref().unwrap_or(&Default::default()))?;
            let plan = plans(&specs).into_iter().next().ok_or("there are no sizes to draw")?;
            return random(&specs, &plan, source, 0)
                .map(|feed| of(&feed))
                .map_err(|trouble| trouble.to_string());
        }
    };
    let inputs = data::inputs(graph);
    let mut known: Option<Shapes> = None;
    for sample in samples {
        for feed in sample.feeds_of(&inputs, most_rows).map_err(|error| error.to_string())? {
            let own = of(&feed.map_err(|error| error.to_string())?);
            let other = known
                .get_or_insert_with(|| own.clone())
                .iter()
                .find(|(name, sizes)| own.get(*name) != Some(sizes));
            if let Some((name, sizes)) = other {
                let words = format!(
                    "`{name}` is of {sizes:?} in one sample and of other sizes in {}",
                    sample.path.display()
                );
                return Err(format!("{words}; the gradients are written for one size alone"));
            }
        }
    }
    known.ok_or_else(|| "there are no samples".to_owned())
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
