//! What a model of gradients has.

use onnx_opt_passes::gradient::Differentiated;
use serde::Serialize;

/// What was differentiated, and by what.
#[derive(Clone, Debug, Serialize)]
pub struct GradientReport {
    /// Where the model came from.
    pub input: String,
    /// Where the model of its gradients went.
    pub output: String,
    /// Name of the output that holds the loss.
    pub loss: String,
    /// Names of the inputs that the loss needs beside those of the model.
    pub added_inputs: Vec<String>,
    /// By what.
    pub gradients: Vec<ParameterReport>,
    /// Operators of the model.
    pub nodes_before: usize,
    /// Operators of the model of its gradients.
    pub nodes_after: usize,
    /// Bytes of the result.
    pub bytes: u64,
}

/// One of the values that a model was differentiated by.
#[derive(Clone, Debug, Serialize)]
pub struct ParameterReport {
    /// Its name.
    pub of: String,
    /// Name of the output that holds its gradient.
    pub output: String,
    /// Whether the loss does not depend on it.
    pub is_zero: bool,
}

impl GradientReport {
    /// The report of a model with so many operators, before and after, and bytes.
    pub fn new(
        input: String,
        output: String,
        found: Differentiated,
        nodes: (usize, usize),
        bytes: u64,
    ) -> Self {
        let gradients = found.parameters.into_iter().map(|parameter| ParameterReport {
            of: parameter.name,
            output: parameter.gradient,
            is_zero: parameter.is_zero,
        });
        Self {
            input,
            output,
            loss: found.loss,
            added_inputs: found.companions,
            gradients: gradients.collect(),
            nodes_before: nodes.0,
            nodes_after: nodes.1,
            bytes,
        }
    }
}
