//! What a user may ask of quantization, and what it tells.

use std::collections::{BTreeMap, BTreeSet};

use onnx_opt_ir::Node;
use serde::Serialize;

use super::accuracy::WeightRounding;

/// Which nodes may compute with integers. A node is named as [`crate::rewrite::place`] names it.
#[derive(Clone, Debug, Default)]
pub struct QuantizeOptions {
    /// These alone, where given.
    pub nodes: Option<BTreeSet<String>>,
    /// Those of these operators alone, where given.
    pub operators: Option<BTreeSet<String>>,
    /// Not these.
    pub exclude: BTreeSet<String>,
    /// Whether they do though it would not pay.
    pub regardless: bool,
    /// Elements that values have in a run, on average over samples, by name: what costs are counted by where types leave
    /// sizes open.
    pub elements: BTreeMap<String, f64>,
    /// How static quantization rounds weights.
    pub weights: WeightRounding,
}

impl QuantizeOptions {
    /// Why a node must not compute with integers.
    pub(super) fn refusal(&self, node: &Node, place: &str) -> Option<&'static str> {
        if self.exclude.contains(place) {
            return Some("it is excluded");
        }
        if self.operators.as_ref().is_some_and(|operators| !operators.contains(node.op_type())) {
            return Some("its operator is not among those asked for");
        }
        let named = self.nodes.as_ref().is_none_or(|nodes| nodes.contains(place));
        (!named).then_some("it is not among the nodes asked for")
    }
}

/// How a node computes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Placed {
    /// Name of the node, or of its first result.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// Why it computes with floats; with integers where absent. Where weights alone are compressed: why its are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub float: Option<String>,
    /// How well its weights are kept, signal over noise in decibels, where weights alone are compressed and not exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_sqnr: Option<f64>,
}

/// What quantization did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct QuantizeReport {
    /// Nodes that compute with integers, by operator. Where weights alone are compressed, or floats are narrower, those
    /// that this holds for.
    pub quantized: BTreeMap<String, usize>,
    /// Nodes that could have and do not, by operator.
    pub float: BTreeMap<String, usize>,
    /// Connected parts of the graph that compute with integers.
    pub regions: usize,
    /// Whether that is expected to be faster than floats: a small model may only be smaller.
    pub faster: bool,
    /// Values that are quantized, constants aside.
    pub values: usize,
    /// Constants that became integers, and their bytes before and after.
    pub weights: usize,
    /// Bytes of those constants before.
    pub weight_bytes_before: u64,
    /// Bytes of those constants after, scales included.
    pub weight_bytes_after: u64,
    /// Nodes that the target multiplies by compressed weights as they are, by operator; for others it makes floats of
    /// the weights when it loads the model.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub native: BTreeMap<String, usize>,
    /// How well all weights are kept that were compressed, signal over noise in decibels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_sqnr: Option<f64>,
    /// Every node that the profile knows, in the order of the graph.
    pub nodes: Vec<Placed>,
}

impl QuantizeReport {
    /// Notes that a node was changed, and how well its weights are kept, in decibels.
    pub(super) fn change(&mut self, node: String, operator: String, weight_sqnr: Option<f64>) {
        *self.quantized.entry(operator.clone()).or_default() += 1;
        self.nodes.push(Placed { node, operator, float: None, weight_sqnr });
    }

    /// Notes that a node was left as it is, and why.
    pub(super) fn leave(&mut self, node: String, operator: String, reason: String) {
        *self.float.entry(operator.clone()).or_default() += 1;
        self.nodes.push(Placed { node, operator, float: Some(reason), weight_sqnr: None });
    }
}
