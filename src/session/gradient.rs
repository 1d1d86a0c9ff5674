//! A model of the gradients of a model.

use onnx_opt_ir::export;
use onnx_opt_passes::gradient::{self, GradientOptions};

use super::error::Error;
use super::options::{Destination, Source};
use super::original::{Original, external_weights, into_model, refuse_overwriting, write};
use crate::interface::Sizes;
use crate::report::{GradientReport, Summary};

/// Writes a model of the loss and the gradients of a model.
///
/// # Errors
/// If the model cannot be read, the result cannot be written, or there is no gradient. Then nothing is written.
pub fn differentiate(
    source: &Source,
    destination: &Destination,
    options: &GradientOptions,
) -> Result<GradientReport, Error> {
    let as_it_is = Sizes::new();
    let mut document = Original::open(source, &as_it_is)?.read()?;
    let weights = external_weights(&mut document.model);
    refuse_overwriting(source, destination, &document, &weights)?;
    let mut model = into_model(document, source)?;
    let before = Summary::of(&model, 0);
    let result = gradient::differentiate(&mut model, options)
        .map_err(|error| Error::Gradient { file: source.name(), source: error })?;
    let after = Summary::of(&model, 0);
    let bytes = write(export(&model), destination, !weights.locations.is_empty())?;
    Ok(GradientReport::new(source.name(), destination.name(), result, (before.nodes, after.nodes), bytes))
}
