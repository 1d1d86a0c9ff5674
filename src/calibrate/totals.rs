//! Sums of the outputs of a model over samples, found in a process of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use onnx_opt_ir::engine::Runner;
use onnx_opt_ir::{ElementType, Graph, Model, Tensor};
use onnx_opt_passes::measure::{DRAW, Total, Totals};
use serde::{Deserialize, Serialize};

use super::samples::{Set, Source, Subject, Trouble, run, shapes};
use super::{CalibrateError, CalibrateOptions, engines, handed_over, source};
use crate::child::{self, Limits, Task, Tell};
use crate::engine::Engine;
use crate::session::Listener;

/// Samples, and what runs models on them.
pub struct Measure<'a> {
    source: Source,
    samples: usize,
    /// Whether they are random.
    pub random: bool,
    options: CalibrateOptions,
    listener: &'a dyn Listener,
}

impl<'a> Measure<'a> {
    /// The samples at these places for a graph, or random ones.
    ///
    /// # Errors
    /// If there are none, or they cannot be used.
    pub fn new(
        graph: &Graph,
        data: &[PathBuf],
        options: CalibrateOptions,
        listener: &'a dyn Listener,
    ) -> Result<Self, CalibrateError> {
        let (source, samples) = source(graph, data, &options)?;
        let random = matches!(source, Source::Random { .. });
        Ok(Self { source, samples, random, options, listener })
    }

    /// Of so many samples at most, at even distances.
    #[must_use]
    pub fn at_most(mut self, limit: usize) -> Self {
        if let Source::Samples { step, .. } = &mut self.source {
            *step = self.samples.div_ceil(limit.max(1)).max(1);
            self.samples = self.samples.div_ceil(*step);
        }
        self
    }

    fn sums(&self, model: &Model, rounds: usize) -> Result<BTreeMap<String, Total>, CalibrateError> {
        let (folder, mut path) = handed_over(model)?;
        let limits =
            Limits { memory: self.options.memory_limit, time: None, silence: Some(self.options.patience) };
        let hear = |done, all| self.listener.progress(done, all);
        let draws = model.graph.inputs().iter().any(|input| model.graph.display_name(input.value) == DRAW);
        // The samples of a batch would be projected at random together, and what cancels out between them is lost.
        let source = if draws { self.source.one_by_one() } else { self.source.clone() };
        let mut reasons = Vec::new();
        for engine in engines(&self.options)? {
            let sums = folder.path().join("sums");
            let mut task = Summing { model: path, sums, draws, rounds, source: source.clone(), engine };
            let found = child::perform(&task, &limits, self.options.program.as_deref(), &hear);
            match found {
                Ok(Ok(shapes)) => return read(&task.sums, shapes),
                Ok(Err(Trouble::Engine(reason))) => reasons.push(reason),
                Ok(Err(trouble)) => return Err(CalibrateError::Sample(trouble.to_string())),
                Err(error) => reasons.push(format!("{}: {error}", task.engine.name())),
            }
            path = std::mem::take(&mut task.model);
        }
        Err(CalibrateError::Engine(reasons.join("; ")))
    }
}

impl Totals for Measure<'_> {
    fn samples(&self) -> usize {
        self.samples
    }

    fn shapes(&self, graph: &Graph) -> Result<BTreeMap<String, Vec<usize>>, String> {
        shapes(&self.source.one_by_one(), graph)
    }

    fn totals(&self, model: &Model, rounds: usize) -> Result<BTreeMap<String, Total>, String> {
        self.sums(model, rounds).map_err(|error| error.to_string())
    }
}

/// The sums in the file that the process wrote, 64-bit floats one after the other.
fn read(path: &std::path::Path, shapes: Shapes) -> Result<BTreeMap<String, Total>, CalibrateError> {
    let bytes = std::fs::read(path).map_err(|error| CalibrateError::Temporary(error.to_string()))?;
    let mut numbers = bytes.chunks_exact(8).map(|bytes| {
        let mut number = [0; 8];
        number.copy_from_slice(bytes);
        f64::from_le_bytes(number)
    });
    let mut totals = BTreeMap::new();
    for (name, shape) in shapes {
        let values = numbers.by_ref().take(shape.iter().product()).collect();
        totals.insert(name, Total { shape, values });
    }
    Ok(totals)
}

/// What is to be run and summed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Summing {
    model: PathBuf,
    /// Where the sums go.
    sums: PathBuf,
    /// Whether the model takes the number of the run.
    draws: bool,
    /// Runs of each sample.
    rounds: usize,
    source: Source,
    engine: Engine,
}

/// Names and shapes of outputs, in the order of their sums.
type Shapes = Vec<(String, Vec<usize>)>;

type Sums = Vec<(String, Total)>;

impl Task for Summing {
    const NAME: &'static str = "sum";
    type Answer = Result<Shapes, Trouble>;

    fn perform(self, tell: &Tell) -> anyhow::Result<Self::Answer> {
        let subject = Subject::read(&self.model)?;
        let take = |runner: &mut dyn Runner, set: &Set<'_>, sums: &mut Sums| self.take(runner, set, sums);
        let shards: Result<Vec<Sums>, Trouble> = run(&self.source, &self.engine, &subject, tell, &take);
        let mut total = Sums::new();
        for sums in match shards {
            Ok(shards) => shards,
            Err(trouble) => return Ok(Err(trouble)),
        } {
            for (name, sum) in sums {
                if let Err(trouble) = add(&mut total, &name, &sum.shape, &sum.values) {
                    return Ok(Err(trouble));
                }
            }
        }
        let numbers = total.iter().flat_map(|(_, sum)| &sum.values);
        std::fs::write(&self.sums, numbers.flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>())?;
        Ok(Ok(total.into_iter().map(|(name, sum)| (name, sum.shape)).collect()))
    }
}

impl Summing {
    fn take(&self, runner: &mut dyn Runner, set: &Set<'_>, sums: &mut Sums) -> Result<(), Trouble> {
        let mut feed = set.feed.clone();
        feed.retain(|(name, _)| name != DRAW);
        for round in 0..self.rounds {
            let draw = (set.index * self.rounds + round) as f64;
            let number = Tensor::scalar(ElementType::Float, draw).filter(|_| self.draws);
            feed.extend(number.map(|number| (DRAW.to_owned(), number)));
            for (name, tensor) in runner.run(&feed)? {
                let not_float = || Trouble::NotFloat { name: name.clone(), ty: tensor.ty().to_string() };
                let values = tensor.to_f64().ok_or_else(not_float)?;
                if values.iter().any(|value| value.is_nan()) {
                    return Err(Trouble::NotANumber { name, sample: set.name.to_owned() });
                }
                add(sums, &name, tensor.shape(), &values)?;
            }
            feed.retain(|(name, _)| name != DRAW);
        }
        Ok(())
    }
}

/// Adds the values of an output to their sums.
fn add(sums: &mut Sums, name: &str, shape: &[usize], values: &[f64]) -> Result<(), Trouble> {
    match sums.iter_mut().find(|(known, _)| known == name) {
        None => sums.push((name.to_owned(), Total { shape: shape.to_vec(), values: values.to_vec() })),
        Some((_, sum)) if sum.shape == shape => {
            sum.values.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        Some(_) => return Err(Trouble::Sample(format!("`{name}` is of other sizes in each sample"))),
    }
    Ok(())
}
