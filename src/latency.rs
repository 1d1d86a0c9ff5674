//! How long models take, measured in a process of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use onnx_opt_ir::Model;
use onnx_opt_ir::engine::{EngineError, Named};
use onnx_opt_proto::read_bytes;
use serde::{Deserialize, Serialize};

use crate::calibrate::{CalibrateError, CalibrateOptions, engines, handed_over};
use crate::child::{self, Limits, Task, Tell};
use crate::engine::Engine;
use crate::verify::inputs::{InputSpec, generate, input_specs, plans};

/// Seconds of the fastest run of each of some models with the same inputs, on one thread, on random inputs.
///
/// # Errors
/// If no engine runs them.
pub fn latency(models: &[&Model], options: &CalibrateOptions) -> Result<Vec<f64>, CalibrateError> {
    let handed = models.iter().map(|model| handed_over(model)).collect::<Result<Vec<_>, _>>()?;
    let limits = Limits { memory: options.memory_limit, time: Some(options.patience), silence: None };
    let mut reasons = Vec::new();
    for engine in engines(options)? {
        let task = Timing {
            models: handed.iter().map(|(_, path)| path.clone()).collect(),
            engine,
            seed: options.seed,
            sizes: options.sizes.clone(),
            shapes: options.shapes.clone(),
        };
        match child::perform(&task, &limits, options.program.as_deref(), &|_, _| {}) {
            Ok(Ok(times)) => return Ok(times),
            Ok(Err(reason)) => reasons.push(reason),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(CalibrateError::Engine(reasons.join("; ")))
}

/// Models with the same inputs, of which the times of a run are wanted.
#[derive(Serialize, Deserialize)]
pub(crate) struct Timing {
    pub models: Vec<PathBuf>,
    pub engine: Engine,
    pub seed: u64,
    pub sizes: BTreeMap<String, usize>,
    pub shapes: BTreeMap<String, Vec<usize>>,
}

/// Runs go on for so long, at least.
const PATIENCE: Duration = Duration::from_millis(1500);

/// And are at least so many.
const ROUNDS: usize = 9;

impl Task for Timing {
    const NAME: &'static str = "time";
    /// Seconds of the fastest run of each, on one thread; or why they do not run.
    type Answer = Result<Vec<f64>, String>;

    fn perform(self, _: &Tell) -> anyhow::Result<Self::Answer> {
        let models = self.models.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = models.first() else { return Ok(Ok(Vec::new())) };
        let document = read_bytes(Bytes::from(first.clone()))?;
        let specs = match input_specs(document.model.graph.as_ref().unwrap_or(&Default::default())) {
            Ok(specs) => specs,
            Err(reason) => return Ok(Err(reason)),
        };
        Ok(self.times(&models, &specs))
    }
}

impl Timing {
    fn times(&self, models: &[Vec<u8>], specs: &[InputSpec]) -> Result<Vec<f64>, String> {
        let words = |error: EngineError| error.to_string();
        let executor = self.engine.fast(1).map_err(words)?;
        let mut runners = Vec::new();
        for model in models {
            runners.push(executor.prepare(model).map_err(words)?);
        }
        let mut reason = "no sizes were found that it runs with".to_owned();
        for plan in plans(specs) {
            let feed = generate(specs, &plan, self.seed, &self.sizes, &self.shapes)?;
            let tried: Result<Vec<Named>, EngineError> =
                runners.iter_mut().map(|runner| runner.run(&feed)).collect();
            if let Err(error) = tried {
                reason = error.to_string();
                continue;
            }
            // One after the other in each round, so that what else the machine does meets all of them.
            let mut best = vec![f64::INFINITY; runners.len()];
            let begin = Instant::now();
            let mut rounds = 0;
            while rounds < ROUNDS || begin.elapsed() < PATIENCE {
                for (runner, best) in runners.iter_mut().zip(&mut best) {
                    let start = Instant::now();
                    runner.run(&feed).map_err(words)?;
                    *best = best.min(start.elapsed().as_secs_f64());
                }
                rounds += 1;
            }
            return Ok(best);
        }
        Err(reason)
    }
}
