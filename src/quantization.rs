//! Quantization as a user asks for it: the scheme, and the report of what came of it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use onnx_opt_ir::{Graph, Model};
use onnx_opt_passes::Target;
use onnx_opt_passes::quantize::accuracy::{LayerMoments, Rounding};
use onnx_opt_passes::quantize::schemes::{Scheme, SchemeOptions, compress};
use onnx_opt_passes::quantize::{QuantizeError, QuantizeReport};
use onnx_opt_passes::rewrite::place;
use serde::Serialize;

use crate::verify::VerifyReport;

/// What is to be quantized, and how.
#[derive(Clone, Debug)]
pub struct Quantization {
    /// The scheme.
    pub scheme: Scheme,
    /// Which nodes, in which blocks, rounded how.
    pub options: SchemeOptions,
    /// Files and folders of samples that the operands of products are known by; none where that is not wanted.
    pub samples: Vec<PathBuf>,
}

impl Quantization {
    /// Quantizes a model, whose products have operands of these moments as far as they are known.
    ///
    /// # Errors
    /// If the model cannot have the operator set that the scheme needs.
    pub fn apply(
        &self,
        model: &mut Model,
        target: &Target,
        moments: &LayerMoments,
    ) -> Result<QuantizeReport, QuantizeError> {
        compress(model, self.scheme, &self.options, target, moments)
    }

    /// The first node that the user names and that is not there, with the names that are.
    pub(crate) fn unknown_node(&self, graph: &Graph) -> Option<(&str, BTreeSet<String>)> {
        let choice = &self.options.choice;
        let mut named = choice.nodes.iter().flatten().chain(&choice.exclude).peekable();
        named.peek()?;
        let mut known = BTreeSet::new();
        names(graph, &mut known);
        let unknown = named.find(|name| !known.contains(*name))?;
        Some((unknown, known))
    }

    /// What is done, in words.
    pub fn title(&self) -> String {
        let mut title = self.scheme.name().to_owned();
        if let Some(size) = self.options.block_size {
            title += &format!(", blocks of {size}");
        }
        if self.options.rounding != Rounding::Nearest {
            title += &format!(", rounded by {}", self.options.rounding.name());
        }
        title
    }
}

fn names(graph: &Graph, known: &mut BTreeSet<String>) {
    for (_, node) in graph.nodes() {
        known.insert(place(graph, node));
        node.bodies().for_each(|body| names(body, known));
    }
}

/// What was quantized.
#[derive(Clone, Debug, Serialize)]
pub struct QuantizationReport {
    /// What was asked for, in words.
    pub title: String,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: QuantizeReport,
    /// How far the outputs are from those of the original.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<VerifyReport>,
}
