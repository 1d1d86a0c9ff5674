//! What tract 0.23.9 gets wrong without an error. Each case was found by the backend test suite of the standard;
//! nodes that it holds for are refused, unless a kernel of ours or a lowering takes them first. So are quantizers that
//! it fails at with an error: an optimized model that fails would pass for a broken one.

use onnx_opt_ir::schema::canonical_domain;
use onnx_opt_ir::{AttributeValue, ElementType, Node, Tensor};

use super::tract::MOVEMENT;

/// Operators of the domain `com.microsoft` that tract has. It looks operators up by name alone, so that any other
/// domain must be kept from it.
const CONTRIBUTED: &[&str] = &[
    "BiasGelu",
    "FastGelu",
    "QuickGelu",
    "GatherBlockQuantized",
    "GroupQueryAttention",
    "MatMulNBits",
    "MultiHeadAttention",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "SimplifiedLayerNormalization",
];

/// Why tract must not run this node; `None` if nothing is known against it. `element` is the element type of an
/// operand, where known.
pub fn refusal(node: &Node, element: impl Fn(usize) -> Option<ElementType>) -> Option<String> {
    let op_type = node.op_type();
    let domain = canonical_domain(node.domain());
    if node.operator().is_none() {
        // Model-local functions have no operator either, whatever their domain.
        let name = match domain {
            "" => op_type.to_owned(),
            domain => format!("{domain}:{op_type}"),
        };
        if domain != "com.microsoft" || !CONTRIBUTED.contains(&op_type) {
            return Some(name);
        }
        return gap_of_contributed(node).map(|what| format!("{name} {what}"));
    }
    if node.is_random() {
        return Some(format!("{op_type}, which is random,"));
    }
    if !domain.is_empty() {
        return None;
    }
    silent_error(node, element).map(|what| format!("{op_type} {what}"))
}

/// The part of an operator of `com.microsoft` that tract lacks or ignores.
fn gap_of_contributed(node: &Node) -> Option<&'static str> {
    let causal = || node.int("unidirectional").is_some_and(|causal| causal != 0);
    match node.op_type() {
        "MultiHeadAttention" if node.inputs().iter().skip(3).any(Option::is_some) => {
            Some("with a bias, a mask or a past")
        }
        "MultiHeadAttention" if causal() => Some("that is causal"),
        _ => None,
    }
}

/// The part of the operator that tract ignores or computes wrongly.
fn silent_error(node: &Node, element: impl Fn(usize) -> Option<ElementType>) -> Option<&'static str> {
    let written = |name: &str| node.attributes().get(name).is_some();
    let since = node.operator().map_or(0, |operator| operator.since_version);
    match node.op_type() {
        "GRU" | "LSTM" | "RNN" if node.string("direction") == Some("reverse") => {
            Some("with direction reverse")
        }
        "GRU" | "LSTM" | "RNN" if written("clip") => Some("with clip"),
        "LSTM" if node.int("input_forget").is_some_and(|coupled| coupled != 0) => Some("with input_forget"),
        "Swish" if node.float("alpha").is_some_and(|alpha| alpha != 1.0) => Some("with alpha other than 1"),
        "BitShift" => Some("past the width of the type"),
        "Celu" if element(0) != Some(ElementType::Float) => Some("of other than single precision"),
        "Celu" if node.float("alpha").is_some_and(|alpha| alpha != 1.0) => Some("with alpha other than 1"),
        "Einsum" if node.string("equation").is_some_and(|text| text.trim_end().ends_with("->")) => {
            Some("to a scalar")
        }
        "Attention" if since >= 24 => Some("of opset 24"),
        "Attention" if element(3) == Some(ElementType::Bool) => {
            Some("with a mask that may leave a query nothing to look at")
        }
        "SpaceToDepth" if node.string("mode").is_some_and(|mode| mode != "DCR") => Some("with mode CRD"),
        "BatchNormalization" if trains(node) => Some("in training mode"),
        "QuantizeLinear" if node.input(2).is_none() && output_code(node) > 0 => {
            Some("with output_dtype and no zero point")
        }
        "DequantizeLinear" if output_code(node) > 0 => Some("with output_dtype"),
        "QuantizeLinear" | "DequantizeLinear" => quantizer_gap(node, element),
        _ => None,
    }
}

/// Why tract must not run this node on these operands: its comparisons lose NaN, its largest and smallest elements
/// start from finite numbers, and its matrix products multiply by padding.
pub fn refusal_of_operands(node: &Node, operands: &[Option<&Tensor>]) -> Option<&'static str> {
    let op_type = node.op_type();
    let operands = || operands.iter().flatten();
    if (op_type.starts_with("Reduce") || op_type.starts_with("Arg"))
        && operands().any(|tensor| tensor.is_empty())
    {
        return Some("of no elements");
    }
    let is_irregular = |tensor: &&&Tensor| match tensor.element() {
        ElementType::Float | ElementType::Float16 => {
            tensor.to_f32().is_some_and(|values| values.iter().any(|value| !value.is_finite()))
        }
        ElementType::Double => {
            tensor.to_f64().is_some_and(|values| values.iter().any(|value| !value.is_finite()))
        }
        _ => false,
    };
    let moves = MOVEMENT.contains(&op_type) || ["IsInf", "IsNaN", "Where"].contains(&op_type);
    (!moves && operands().any(|tensor| is_irregular(&tensor))).then_some("of infinities or NaN")
}

/// tract has quantizers of 8 bits (and of 32, for biases) with a single-precision scale.
fn quantizer_gap(node: &Node, element: impl Fn(usize) -> Option<ElementType>) -> Option<&'static str> {
    let quantized = if node.op_type() == "QuantizeLinear" { 2 } else { 0 };
    let known = [ElementType::Int8, ElementType::Uint8, ElementType::Int32];
    if node.int("block_size").is_some_and(|size| size != 0) {
        return Some("by blocks");
    }
    if element(1).is_some_and(|scale| scale != ElementType::Float) {
        return Some("with a scale of other than single precision");
    }
    let gap = element(quantized).is_some_and(|element| !known.contains(&element));
    gap.then_some("of other than 8 bits")
}

fn output_code(node: &Node) -> i64 {
    node.attributes().get("output_dtype").and_then(AttributeValue::as_int).unwrap_or(0)
}

fn trains(node: &Node) -> bool {
    node.int("training_mode").is_some_and(|mode| mode != 0) || node.outputs().iter().flatten().count() > 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::{Context, Graph, NewNode, Type};

    use super::*;

    /// The refusal of a node with these attributes and two operands of this type.
    fn verdict(
        opset: i64,
        op_type: &str,
        operands: usize,
        element: ElementType,
        attributes: &[(&str, AttributeValue)],
    ) -> Option<String> {
        let mut graph = Graph::new(Context::with_opset(opset));
        let inputs: Vec<_> = (0..operands)
            .map(|index| graph.add_input(&format!("x{index}"), Type::unranked(element)))
            .collect();
        let mut new = NewNode::new(op_type, inputs);
        for (name, value) in attributes {
            new = new.with(name, value.clone());
        }
        let node = graph.add_node(new).unwrap();
        refusal(graph.node(node), |index| (index < operands).then_some(element))
    }

    fn float(opset: i64, op_type: &str, operands: usize, attributes: &[(&str, AttributeValue)]) -> bool {
        verdict(opset, op_type, operands, ElementType::Float, attributes).is_some()
    }

    #[test]
    fn recurrences() {
        assert!(float(14, "GRU", 3, &[("direction", "reverse".into()), ("hidden_size", 4.into())]));
        assert!(float(14, "LSTM", 3, &[("clip", 1f32.into()), ("hidden_size", 4.into())]));
        assert!(float(14, "LSTM", 3, &[("input_forget", 1.into()), ("hidden_size", 4.into())]));
        assert!(!float(14, "LSTM", 3, &[("direction", "bidirectional".into()), ("hidden_size", 4.into())]));
    }

    #[test]
    fn activations() {
        assert!(float(24, "Swish", 1, &[("alpha", 0.5f32.into())]));
        assert!(!float(24, "Swish", 1, &[]));
        assert!(verdict(12, "Celu", 1, ElementType::Float16, &[]).is_some());
        assert!(!float(12, "Celu", 1, &[]));
        assert!(float(12, "Celu", 1, &[("alpha", 1.5f32.into())]));
    }

    #[test]
    fn the_rest_of_the_table() {
        assert!(verdict(11, "BitShift", 2, ElementType::Uint8, &[("direction", "LEFT".into())]).is_some());
        assert!(float(24, "Attention", 3, &[]));
        assert!(!float(23, "Attention", 3, &[]));
        assert!(float(15, "BatchNormalization", 5, &[("training_mode", 1.into())]));
        assert!(!float(15, "BatchNormalization", 5, &[]));
        let int8 = i64::from(ElementType::Int8.code());
        assert!(float(21, "QuantizeLinear", 2, &[("output_dtype", int8.into())]));
        assert!(!float(21, "QuantizeLinear", 2, &[]));
        assert!(float(21, "DequantizeLinear", 2, &[("block_size", 2.into())]));
        assert!(verdict(21, "DequantizeLinear", 1, ElementType::Int16, &[]).is_some());
        assert!(float(22, "RandomNormalLike", 1, &[]));
        assert!(verdict(23, "Attention", 4, ElementType::Bool, &[]).is_some());
        assert!(float(12, "Einsum", 1, &[("equation", "ij ->".into())]));
        assert!(!float(12, "Einsum", 1, &[("equation", "ij -> i".into())]));
    }

    #[test]
    fn operands_that_confuse_it() {
        let mut graph = Graph::new(Context::with_opset(17));
        let x = graph.add_input("x", Type::unranked(ElementType::Float));
        let mut verdict = |op_type: &str, values: &[f32]| {
            let node = graph.add_node(NewNode::new(op_type, [x])).unwrap();
            let tensor = Tensor::from_f32(&[values.len()], values).unwrap();
            refusal_of_operands(graph.node(node), &[Some(&tensor)]).is_some()
        };
        assert!(verdict("ReduceMax", &[f32::NEG_INFINITY]) && verdict("ReduceMax", &[]));
        assert!(verdict("Relu", &[f32::NAN]) && !verdict("Relu", &[1.0]));
        assert!(!verdict("Transpose", &[f32::NAN]) && !verdict("Relu", &[]));
    }

    #[test]
    fn foreign_operators() {
        let mut graph = Graph::new(Context::new(
            10,
            [(String::new(), 17), ("com.microsoft".into(), 1), ("mine".into(), 1)],
            [],
        ));
        let x = graph.add_input("x", Type::unranked(ElementType::Float));
        let mut verdict = |domain: &str, op_type: &str| {
            let new = NewNode { domain: domain.into(), ..NewNode::new(op_type, [x]) };
            let node = graph.add_node(new).unwrap();
            refusal(graph.node(node), |_| None)
        };
        assert_eq!(verdict("mine", "Relu").as_deref(), Some("mine:Relu"));
        assert_eq!(verdict("com.microsoft", "FusedConv").as_deref(), Some("com.microsoft:FusedConv"));
        assert_eq!(verdict("com.microsoft", "QuickGelu"), None);
        assert_eq!(verdict("com.microsoft", "MultiHeadAttention"), None);
    }

    #[test]
    fn attention_of_another_domain() {
        let imports = [(String::new(), 17), ("com.microsoft".into(), 1)];
        let mut graph = Graph::new(Context::new(8, imports, []));
        let x = graph.add_input("x", Type::unranked(ElementType::Float));
        let mut verdict = |operands: usize, causal: i64| {
            let inputs = vec![x; operands];
            let new = NewNode::new("MultiHeadAttention", inputs).with("unidirectional", causal);
            let node = graph.add_node(NewNode { domain: "com.microsoft".into(), ..new }).unwrap();
            refusal(graph.node(node), |_| None)
        };
        assert_eq!(verdict(3, 0), None);
        assert_eq!(verdict(3, 1).as_deref(), Some("com.microsoft:MultiHeadAttention that is causal"));
        let more = verdict(6, 0);
        assert_eq!(more.as_deref(), Some("com.microsoft:MultiHeadAttention with a bias, a mask or a past"));
    }
}
