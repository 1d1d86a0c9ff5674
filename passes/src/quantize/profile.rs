//! How a runtime computes with integers: the table `[quantize]` of a target's profile.

use std::collections::{BTreeMap, BTreeSet};

use onnx_opt_ir::ElementType;
use serde::{Deserialize, Deserializer, de};

use super::Range;

/// How a runtime computes with integers, and what that costs. Costs are nanoseconds of one thread.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Element type of activations.
    #[serde(deserialize_with = "integer")]
    pub activations: ElementType,
    /// Whether zero is the middle of the integers of an activation, rather than where the range puts it.
    #[serde(default)]
    pub symmetric: bool,
    /// Element type of weights, which are symmetric always: of 8 bits, from -127 to 127.
    #[serde(deserialize_with = "integer")]
    pub weights: ElementType,
    /// The largest sum of the magnitudes of two integers of one sign among the weights of a channel, where more
    /// overflows. Convolutions with weights of their own for each channel are free of that.
    #[serde(default)]
    pub pair_limit: Option<i64>,
    /// Operators whose weights have a scale for each channel of the result.
    #[serde(default)]
    pub per_channel: BTreeSet<String>,
    /// What becomes of a bias.
    pub bias: Bias,
    /// Where integers lie.
    pub placement: Placement,
    /// Whether the operands of a Concat must share their scale with its result.
    #[serde(default)]
    pub one_scale_in_concat: bool,
    /// Operators with constant weights, by multiply-accumulate.
    #[serde(default)]
    pub products: BTreeMap<String, Cost>,
    /// A convolution that has its own weights for each channel, by multiply-accumulate.
    pub depthwise: Cost,
    /// Operators all of whose floating-point operands must be quantized, by element of the result; a MatMul here is one
    /// without constant weights, by multiply-accumulate.
    #[serde(default)]
    pub elementwise: BTreeMap<String, Cost>,
    /// Operators that move integers about or choose among them, in and out by the same scale.
    #[serde(default)]
    pub moves: BTreeMap<String, Cost>,
    /// Those of them that cost more, by element of the result, where no integers come to them. The runtime brings
    /// integers to them itself where their result becomes integers, so that they are never on floats alone.
    #[serde(default)]
    pub moves_alone: BTreeMap<String, f64>,
    /// Activations that vanish behind an operator where the integers end at its limits.
    #[serde(default)]
    pub absorbs: BTreeSet<String>,
    /// Operators whose results may stay floats.
    #[serde(default)]
    pub open: BTreeSet<String>,
    /// Operators whose constant weights the runtime itself quantizes, by one scale, where it finds integers before and
    /// behind them; what is to compute with floats there must be kept from it.
    #[serde(default)]
    pub seizes: BTreeSet<String>,
    /// Operators that multiply by weights behind a DequantizeLinear as they are, on the right of a matrix product.
    #[serde(default)]
    pub weights_only: BTreeSet<String>,
    /// Operators that are taken apart, since their parts have integer kernels.
    #[serde(default)]
    pub decompose: BTreeSet<String>,
    /// Ranges that results of operators have whatever calibration saw.
    #[serde(default)]
    pub ranges: BTreeMap<String, [f32; 2]>,
    /// QuantizeLinear, by element.
    pub quantize: f64,
    /// DequantizeLinear, by element.
    pub dequantize: f64,
    /// What either costs beside its elements, with all that comes with it.
    pub node: f64,
    /// What a product with integers costs more than one with floats, beside what its operations cost.
    #[serde(default)]
    pub product: f64,
}

/// What becomes of the bias of a quantized operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// 32-bit integers, whose scale is that of the operand times that of the weights.
    Int32,
    /// It stays as it is.
    Float,
}

/// Where integers lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// Every result of a quantized operator is quantized.
    Results,
    /// Every operand of a quantized operator is quantized, no other value.
    Operands,
    /// As `operands`, but of the operands of an Add those are left alone that a product gives to it alone: the runtime
    /// adds before it quantizes.
    ResidualOperands,
}

/// What an operator costs with floats and with integers.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// With floats.
    pub float: f64,
    /// With integers.
    pub integer: f64,
}

impl Profile {
    /// The operators that it may quantize.
    pub fn operators(&self) -> impl Iterator<Item = &str> {
        let tables = [&self.products, &self.elementwise, &self.moves];
        tables.into_iter().flat_map(BTreeMap::keys).map(String::as_str)
    }

    /// The first opset with the operators that this profile writes.
    pub fn opset(&self) -> i64 {
        let narrow = |element: ElementType| element.bits() == 8;
        if narrow(self.activations) && narrow(self.weights) { 13 } else { 21 }
    }

    /// The same without what a node costs beside its elements: what pays then pays in large models.
    pub(super) fn for_large_models(&self) -> Self {
        Self { node: 0.0, product: 0.0, ..self.clone() }
    }

    /// The range that results of an operator have whatever calibration saw.
    pub(super) fn fixed_range(&self, op_type: &str) -> Option<Range> {
        let &[low, high] = self.ranges.get(op_type)?;
        Range::new(low, high)
    }

    /// What is wrong with it.
    pub(crate) fn complaint(&self) -> Option<String> {
        let tables = [&self.products, &self.elementwise, &self.moves];
        let costs = tables.into_iter().flatten().map(|(_, cost)| cost).chain([&self.depthwise]);
        let numbers = costs.flat_map(|cost| [cost.float, cost.integer]);
        if numbers
            .chain(self.moves_alone.values().copied())
            .chain([self.quantize, self.dequantize, self.node, self.product])
            .any(|cost| cost.is_nan() || cost < 0.0)
        {
            return Some("a cost is negative or not a number".to_owned());
        }
        let named = tables.into_iter().flat_map(BTreeMap::keys);
        let named = named
            .chain(self.moves_alone.keys())
            .chain(&self.per_channel)
            .chain(&self.absorbs)
            .chain(&self.open)
            .chain(&self.seizes)
            .chain(&self.weights_only)
            .chain(&self.decompose);
        let mut named = named.chain(self.ranges.keys());
        let unknown = named.find(|name| onnx_opt_ir::schema::versions("", name).is_empty());
        if let Some(name) = unknown {
            return Some(format!("`{name}` is no operator of the standard"));
        }
        if self.pair_limit.is_some_and(|limit| limit < 2) {
            return Some("no weights keep below that `pair_limit`".to_owned());
        }
        let wrong = self.ranges.iter().find(|&(_, &[low, high])| Range::new(low, high).is_none());
        wrong.map(|(name, _)| format!("the range of `{name}` is none"))
    }
}

/// An integer type of 8 or 16 bits by its name.
fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ElementType, D::Error> {
    let name = String::deserialize(deserializer)?;
    let known = [ElementType::Uint8, ElementType::Int8, ElementType::Uint16, ElementType::Int16];
    let found = known.into_iter().find(|element| element.name() == name);
    found.ok_or_else(|| de::Error::custom(format!("`{name}` is not one of uint8, int8, uint16, int16")))
}
