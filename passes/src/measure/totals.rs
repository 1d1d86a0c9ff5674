//! Sums over samples: what a graph tells of data is written as outputs whose sums are wanted, so that an engine does
//! all of the work and nothing has to be kept of a sample.

use std::collections::BTreeMap;

use onnx_opt_ir::{ElementType, Graph, Model, Type, ValueId};

use crate::gradient::{Writer, Written};

/// The sum of one output over all runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Total {
    /// Sizes of the output.
    pub shape: Vec<usize>,
    /// The sums, in the order of the elements.
    pub values: Vec<f64>,
}

/// Runs models on samples of data. An engine comes to a pass as this.
pub trait Totals {
    /// Number of samples.
    fn samples(&self) -> usize;

    /// The sizes of the inputs of a graph by name, which are the same in all samples when they are run one by one.
    ///
    /// # Errors
    /// In words, if they are not the same, or not known.
    fn shapes(&self, graph: &Graph) -> Result<BTreeMap<String, Vec<usize>>, String>;

    /// The sums of all outputs of a model by name, over all samples, each run `rounds` times. The model has the inputs
    /// that the samples are for, and may have one more, a scalar named [`DRAW`], which counts the runs; samples are then
    /// run one by one where the size of a batch is open.
    ///
    /// # Errors
    /// In words, if the model cannot be run on the samples.
    fn totals(&self, model: &Model, rounds: usize) -> Result<BTreeMap<String, Total>, String>;
}

/// Name of the input that tells one run from another, for random numbers.
pub const DRAW: &str = "onnx-opt:draw";

/// Numbers between 0 and 1 in the shape of a value, other ones in each run: the fraction of a large multiple of a sine,
/// as graphics processors draw them.
pub(crate) fn noise(w: &mut Writer<'_>, draw: ValueId, like: ValueId) -> Written {
    let size = w.op("Size", &[like])?;
    let (zero, one) = (w.integer(0)?, w.integer(1)?);
    let places = w.op("Range", &[zero, size, one])?;
    let places = w.op_with("Cast", &[places], "to", i64::from(ElementType::Float.code()))?;
    let phase = w.times(places, 12.9898)?;
    let shift = w.times(draw, 78.233)?;
    let angle = w.add(phase, shift)?;
    let sine = w.op("Sin", &[angle])?;
    let large = w.times(sine, 43_758.547)?;
    let whole = w.op("Floor", &[large])?;
    let fraction = w.sub(large, whole)?;
    let shape = w.op("Shape", &[like])?;
    let shaped = w.op("Reshape", &[fraction, shape])?;
    w.op("CastLike", &[shaped, like])
}

/// The input that counts the runs.
pub(crate) fn draw(w: &mut Writer<'_>) -> ValueId {
    w.graph.add_input(DRAW, Type::tensor(ElementType::Float, []))
}
