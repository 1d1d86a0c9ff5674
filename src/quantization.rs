//! Quantization as a user asks for it: the scheme, and the report of what came of it.

use std::path::PathBuf;

use onnx_opt_ir::{Graph, Model};
use onnx_opt_passes::Target;
use onnx_opt_passes::quantize::accuracy::{LayerMoments, Rounding};
use onnx_opt_passes::quantize::schemes::{Scheme, SchemeOptions, compress};
use onnx_opt_passes::quantize::{QuantizeError, QuantizeReport};
use serde::Serialize;

use crate::nodes::{NoSuchNode, matching};
use crate::verify::VerifyReport;

/// What is to be quantized, and how.
#[derive(Clone, Debug)]
pub struct Quantization {
    /// The scheme.
    pub scheme: Scheme,
    /// Which nodes, by name or regular expression, in which blocks, rounded how.
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

    /// With the names of the nodes that the choice names, in place of expressions that match them.
    ///
    /// # Errors
    /// The first that names none.
    pub(crate) fn for_nodes_of(&self, graph: &Graph) -> Result<Self, NoSuchNode> {
        let mut found = self.clone();
        let choice = &mut found.options.choice;
        choice.exclude = matching(graph, &choice.exclude)?;
        choice.nodes = choice.nodes.as_ref().map(|nodes| matching(graph, nodes)).transpose()?;
        Ok(found)
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
