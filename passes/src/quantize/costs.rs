//! What a unit costs with floats and with integers.

use onnx_opt_ir::Graph;

use super::sizes::Sizes;
use super::unit::{Kind, Unit};
use super::{Cost, Profile};

/// Nanoseconds of a unit, floats and integers.
pub(super) fn cost(sizes: &Sizes<'_>, profile: &Profile, unit: &Unit) -> Cost {
    let graph = sizes.graph;
    let node = graph.node(unit.node);
    let op_type = node.op_type();
    let results: f64 = unit.results.iter().map(|&value| sizes.elements(value)).sum();
    let (each, count) = match unit.kind {
        // The number goes into the scale, while floats must be multiplied.
        Kind::Rescale(_) => return Cost { float: profile.node + results * profile.dequantize, integer: 0.0 },
        Kind::Move => (profile.moves.get(op_type), results),
        Kind::Elementwise if op_type == "MatMul" => {
            (profile.elementwise.get(op_type), results * inner(graph, unit))
        }
        // What is read is what a mean costs.
        Kind::Elementwise => {
            let operands = unit.operands.iter().map(|&(_, value)| sizes.elements(value)).fold(0.0, f64::max);
            (profile.elementwise.get(op_type), results.max(operands))
        }
        Kind::Product { channels } => {
            let weights = node.input(1).and_then(|value| graph.constant(value));
            let weights = weights.map(|tensor| tensor.shape().to_vec()).unwrap_or_default();
            let depthwise = op_type == "Conv" && weights.get(1) == Some(&1) && node.int("group") != Some(1);
            let each = if depthwise { Some(&profile.depthwise) } else { profile.products.get(op_type) };
            // Each element of the result meets the weights of its channel; transposed, each of the operand does those
            // of its own.
            let all: usize = weights.iter().product();
            let own = all as f64 / weights.get(channels).map_or(1.0, |&count| count.max(1) as f64);
            let places = match op_type {
                "ConvTranspose" => {
                    let operand = unit.operands.iter().map(|&(_, value)| sizes.elements(value)).sum::<f64>();
                    let own = all as f64 / weights.first().map_or(1.0, |&count| count.max(1) as f64);
                    return scaled(each.copied(), operand * own).with(profile.product);
                }
                _ => results,
            };
            return scaled(each.copied(), places * own).with(profile.product);
        }
    };
    scaled(each.copied(), count)
}

impl Cost {
    /// With integers so much more.
    fn with(self, more: f64) -> Self {
        Self { integer: self.integer + more, ..self }
    }
}

fn scaled(each: Option<Cost>, count: f64) -> Cost {
    let each = each.unwrap_or(Cost { float: 0.0, integer: 0.0 });
    Cost { float: each.float * count, integer: each.integer * count }
}

/// Length of the axis that a matrix product sums over.
fn inner(graph: &Graph, unit: &Unit) -> f64 {
    let shape = unit.operands.first().and_then(|&(_, value)| graph.shape(value));
    shape.and_then(|shape| shape.last()?.as_fixed()).map_or(64.0, |size| size as f64)
}
