//! Schemes that need no calibration: compressed weights, narrower floats, and activations that are quantized as they
//! come. All of them are written with standard operators.

mod codebook;
mod dynamic;
mod error;
mod find;
mod integers;
mod layout;
mod narrow;
#[cfg(test)]
mod tests;
mod write;

use onnx_opt_ir::{ElementType, Graph, Model, NodeId, ValueId};

use self::codebook::{Levels, coded};
use self::dynamic::Dynamic;
use self::error::SquaredError;
use self::find::{Weight, find};
use self::integers::integers;
use self::layout::Blocks;
use self::write::Writer;
use super::accuracy::{LayerMoments, Moments, Rounding};
use super::{Profile, QuantizeError, QuantizeOptions, QuantizeReport};
use crate::opset::raise;
use crate::pass::for_each_graph;
use crate::rewrite::place;
use crate::target::Target;

/// A scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Weights of 8 bits with a scale for each channel.
    Int8Weights,
    /// Weights of 4 bits with a scale and a zero point for each block.
    Int4Weights,
    /// Weights of 8 bits, and activations of 8 bits whose range is found in each run.
    Int8Dynamic,
    /// Half precision, with casts at inputs and outputs.
    Float16,
    /// Single precision without the lower 16 bits, with casts at inputs and outputs.
    Bfloat16,
    /// Weights out of 16 levels that are learned for each tensor, with a scale for each block.
    Codebook4,
    /// Weights out of 256 levels that are learned for each tensor, with a scale for each channel.
    Codebook8,
    /// Weights out of 16 quantiles of the normal distribution, with a scale for each block.
    Nf4,
    /// Weights out of zero and powers of two of 4 bits, with a power of two as scale for each block.
    PowersOfTwo,
}

impl Scheme {
    /// Names for the command line.
    pub const NAMES: [(&'static str, Self); 9] = [
        ("int8-weights", Self::Int8Weights),
        ("int4-weights", Self::Int4Weights),
        ("int8-dynamic", Self::Int8Dynamic),
        ("fp16", Self::Float16),
        ("bf16", Self::Bfloat16),
        ("codebook4", Self::Codebook4),
        ("codebook8", Self::Codebook8),
        ("nf4", Self::Nf4),
        ("pow2", Self::PowersOfTwo),
    ];

    /// Its name for the command line.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, scheme)| *scheme == self).map_or("", |(name, _)| name)
    }

    /// The first opset that has what it writes.
    fn opset(self) -> i64 {
        match self {
            Self::Int4Weights | Self::Codebook4 | Self::Nf4 | Self::PowersOfTwo => 21,
            Self::Int8Weights | Self::Bfloat16 => 13,
            Self::Int8Dynamic => 11,
            Self::Codebook8 | Self::Float16 => 7,
        }
    }

    /// Numbers in a block with one scale, unless the user wants another size; `None` for one scale for each channel.
    fn block_size(self) -> Option<usize> {
        match self {
            Self::Int4Weights => Some(32),
            Self::Codebook4 | Self::Nf4 | Self::PowersOfTwo => Some(64),
            _ => None,
        }
    }
}

/// What a user may ask of a scheme.
#[derive(Clone, Debug, Default)]
pub struct SchemeOptions {
    /// The nodes that it may touch.
    pub choice: QuantizeOptions,
    /// Numbers in a block with one scale.
    pub block_size: Option<usize>,
    /// How weights become integers.
    pub rounding: Rounding,
}

/// A weight that saves fewer bytes than the nodes take that make floats of it stays.
const LEAST_SAVING: usize = 256;

/// Compresses a model by a scheme. `moments` are those of the operands, where they are known.
///
/// # Errors
/// If the operator set cannot be raised as far as the scheme needs, or the graph refuses an edit.
pub fn compress(
    model: &mut Model,
    scheme: Scheme,
    options: &SchemeOptions,
    target: &Target,
    moments: &LayerMoments,
) -> Result<QuantizeReport, QuantizeError> {
    if model.graph.opset() < scheme.opset() {
        raise(model, scheme.opset())?;
    }
    let profile = target.quantization();
    let mut compressor = Compressor {
        scheme,
        options,
        profile: profile.as_ref(),
        target,
        moments,
        report: QuantizeReport::default(),
        error: SquaredError::default(),
    };
    let mut result = Ok(());
    for_each_graph(&mut model.graph, &mut |graph| {
        if result.is_ok() {
            result = compressor.graph(graph);
        }
    });
    result?;
    let Compressor { mut report, error, .. } = compressor;
    report.weight_sqnr = error.decibels();
    model.graph.sort().map_err(|_| QuantizeError::Cycle)?;
    Ok(report)
}

struct Compressor<'a> {
    scheme: Scheme,
    options: &'a SchemeOptions,
    profile: Option<&'a Profile>,
    target: &'a Target,
    moments: &'a LayerMoments,
    report: QuantizeReport,
    error: SquaredError,
}

/// What became of a weight.
struct Compressed {
    error: SquaredError,
    bytes: usize,
    /// Whether the target multiplies by it as it is.
    native: bool,
}

impl Compressor<'_> {
    fn graph(&mut self, graph: &mut Graph) -> Result<(), QuantizeError> {
        match self.scheme {
            Scheme::Float16 => self.narrow(graph, ElementType::Float16),
            Scheme::Bfloat16 if self.target.narrow_floats.contains("bfloat16") => {
                self.narrow(graph, ElementType::Bfloat16)
            }
            _ => self.weights(graph),
        }
    }

    fn narrow(&mut self, graph: &mut Graph, element: ElementType) -> Result<(), QuantizeError> {
        let made = narrow::narrow(graph, element, &self.options.choice)?;
        self.error += made.error;
        let report = &mut self.report;
        report.weights += made.weights;
        report.weight_bytes_before += made.bytes[0];
        report.weight_bytes_after += made.bytes[1];
        for (node, operator, error) in made.nodes {
            report.change(node, operator, error.decibels());
        }
        for (node, operator, reason) in made.kept {
            report.leave(node, operator, reason);
        }
        Ok(())
    }

    fn weights(&mut self, graph: &mut Graph) -> Result<(), QuantizeError> {
        if matches!(self.scheme, Scheme::Int8Weights | Scheme::Int4Weights | Scheme::Int8Dynamic) {
            self.turn(graph)?;
        }
        let (weights, refused) = find(graph, &self.options.choice);
        for (id, reason) in refused {
            self.keep(graph, id, reason);
        }
        let mut activations = Default::default();
        for weight in &weights {
            let users: Vec<(String, String)> = weight
                .users
                .iter()
                .map(|&id| (place(graph, graph.node(id)), graph.node(id).op_type().to_owned()))
                .collect();
            let made = match self.scheme {
                Scheme::Int8Dynamic => self.dynamic(graph, weight, &mut activations)?,
                _ => self.weight(graph, weight)?,
            };
            match made {
                Ok(made) => {
                    self.error += made.error;
                    let report = &mut self.report;
                    report.weights += 1;
                    report.weight_bytes_before += weight.tensor.byte_len() as u64;
                    report.weight_bytes_after += made.bytes as u64;
                    for (node, operator) in users {
                        if made.native {
                            *report.native.entry(operator.clone()).or_default() += 1;
                        }
                        report.change(node, operator, made.error.decibels());
                    }
                }
                Err(reason) => {
                    for (node, operator) in users {
                        self.report.leave(node, operator, reason.clone());
                    }
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, graph: &Graph, id: NodeId, reason: String) {
        let node = graph.node(id);
        self.report.leave(place(graph, node), node.op_type().to_owned(), reason);
    }

    /// Puts the weights of a Gemm as a MatMul has them where the target multiplies by compressed weights in that form.
    fn turn(&self, graph: &mut Graph) -> Result<(), QuantizeError> {
        let wanted = self.profile.is_some_and(|profile| profile.weights_only.contains("Gemm"));
        if !wanted && self.scheme != Scheme::Int8Dynamic {
            return Ok(());
        }
        let turned: Vec<(NodeId, ValueId)> = graph
            .nodes()
            .filter(|(_, node)| node.is("Gemm") && node.int("transB") == Some(1))
            .filter_map(|(id, node)| Some((id, node.input(1)?)))
            .filter(|&(id, value)| {
                graph.is_inner(value)
                    && self.options.choice.refusal(graph.node(id), &place(graph, graph.node(id))).is_none()
            })
            .collect();
        for (id, value) in turned {
            let Some(tensor) = graph.constant(value).and_then(|tensor| tensor.transposed(&[1, 0])) else {
                continue;
            };
            let new = graph.add_constant(tensor);
            let node = graph.node(id);
            let (mut inputs, mut attributes) = (node.inputs().to_vec(), node.attributes().clone());
            inputs[1] = Some(new);
            attributes.remove("transB");
            graph.restate_node(id, "Gemm", &inputs, attributes)?;
            graph.remove_unused_constant(value);
        }
        Ok(())
    }

    /// The moments of the operand of the one node that takes a weight.
    fn moments(&self, graph: &Graph, weight: &Weight) -> Option<&[Moments]> {
        let [id] = weight.users[..] else { return None };
        self.moments.get(&place(graph, graph.node(id))).map(Vec::as_slice)
    }

    /// Compresses a weight, or tells why it stays.
    fn weight(
        &self,
        graph: &mut Graph,
        weight: &Weight,
    ) -> Result<Result<Compressed, String>, QuantizeError> {
        let before = weight.tensor.byte_len();
        let Some(values) = weight.tensor.to_f32() else {
            return Ok(Err("its weights are no floats".to_owned()));
        };
        let layout = weight.taken.layout;
        let native = weight.is_right_matrix
            && self.profile.is_some_and(|profile| {
                weight.users.iter().all(|&id| profile.weights_only.contains(graph.node(id).op_type()))
            });
        let size = self.options.block_size.or(self.scheme.block_size());
        let blocks = match size {
            None => Blocks::whole(layout),
            Some(size) if native && self.scheme == Scheme::Int4Weights => Blocks::of(layout, size),
            Some(size) => Blocks::equal(layout, size),
        };
        let least = before / 8 + blocks.count() * 4;
        if least + LEAST_SAVING > before {
            return Ok(Err("its weights would hardly be smaller".to_owned()));
        }
        let moments = self.moments(graph, weight);
        let mut writer = Writer::new(graph, weight.taken, weight.tensor.shape());
        let (value, error, native) = match self.scheme {
            Scheme::Int8Weights | Scheme::Int4Weights => {
                let element = match self.scheme {
                    Scheme::Int8Weights => ElementType::Int8,
                    _ => ElementType::Uint4,
                };
                let made = match integers(&values, blocks, element, self.options.rounding, moments) {
                    Ok(made) => made,
                    Err(reason) => return Ok(Err(reason)),
                };
                let dequantized = if native { writer.dequantized(&made, blocks)? } else { None };
                match dequantized {
                    Some(value) => (value, made.error, true),
                    None => (writer.multiplied(&made, blocks)?, made.error, false),
                }
            }
            Scheme::Bfloat16 => match narrow::rounded(&weight.tensor, ElementType::Bfloat16) {
                Some((tensor, error)) => (writer.widened(tensor)?, error, false),
                None => return Ok(Err("its weights are no floats".to_owned())),
            },
            _ => {
                let levels = match self.scheme {
                    Scheme::Codebook4 => Levels::Learned(16),
                    Scheme::Nf4 => Levels::NormalFloat,
                    Scheme::PowersOfTwo => Levels::PowersOfTwo,
                    _ => Levels::Learned(256),
                };
                let squares: Vec<Vec<f64>> =
                    moments.unwrap_or_default().iter().map(Moments::squares).collect();
                let importance = |channel: usize, place: usize| {
                    let group = channel * squares.len() / layout.channels();
                    squares
                        .get(group)
                        .and_then(|squares| squares.get(place))
                        .map_or(1.0, |square| square.max(1e-12))
                };
                match coded(&values, blocks, levels, &importance) {
                    Ok(made) => (writer.looked_up(&made, blocks)?, made.error, false),
                    Err(reason) => return Ok(Err(reason)),
                }
            }
        };
        let bytes = writer.bytes;
        graph.replace_all_uses(weight.value, value)?;
        graph.remove_unused_constant(weight.value);
        Ok(Ok(Compressed { error, bytes, native }))
    }

    fn dynamic(
        &self,
        graph: &mut Graph,
        weight: &Weight,
        activations: &mut dynamic::Activations,
    ) -> Result<Result<Compressed, String>, QuantizeError> {
        for &id in &weight.users {
            if let Some(reason) = Dynamic::refusal(graph, id, weight) {
                return Ok(Err(reason.to_owned()));
            }
            let choice = &self.options.choice;
            let asked = choice.operators.is_some() || choice.nodes.is_some();
            if graph.node(id).is("Conv") && !asked {
                return Ok(Err(
                    "runtimes convolve such integers slower than floats; name it to have it".to_owned()
                ));
            }
        }
        let made = Dynamic::new(graph, activations).write(weight)?;
        Ok(made.map(|made| Compressed { error: made.integers.error, bytes: made.bytes, native: true }))
    }
}
