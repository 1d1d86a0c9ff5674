//! Products of integers whose activations are quantized as they come: `DynamicQuantizeLinear`, and a product of integers
//! behind it.
//!
//! x·W + b ≈ float((q_x − z_x)·(Q − z))·(s_x·s) + b, with a scale s for each channel of W.

use onnx_opt_ir::{ElementType, Graph, GraphError, NewNode, NodeId, Tensor, ValueId};
use rustc_hash::FxHashMap;

use super::super::QuantizeError;
use super::super::accuracy::Rounding;
use super::find::Weight;
use super::integers::{Integers, integers};
use super::layout::Blocks;

/// Integers, scale and zero point by the value that they stand for.
pub(super) type Activations = FxHashMap<ValueId, [ValueId; 3]>;

/// Gives products integers.
pub(super) struct Dynamic<'g> {
    graph: &'g mut Graph,
    activations: &'g mut Activations,
}

/// A product that takes integers.
#[derive(Clone, Copy, PartialEq)]
enum Product {
    Matrix,
    Convolution,
}

/// What was made of a weight.
pub(super) struct Made {
    pub integers: Integers,
    pub bytes: usize,
}

impl<'g> Dynamic<'g> {
    pub fn new(graph: &'g mut Graph, activations: &'g mut Activations) -> Self {
        Self { graph, activations }
    }

    /// Why a node cannot take integers.
    pub fn refusal(graph: &Graph, id: NodeId, weight: &Weight) -> Option<&'static str> {
        let node = graph.node(id);
        let Some(x) = node.input(0) else { return Some("it has no operand") };
        if graph.constant(x).is_some() || graph.element(x) != Some(ElementType::Float) {
            return Some("its operand is constant, or no single-precision float");
        }
        match node.op_type() {
            "Conv" if graph.rank(x) == Some(4) => None,
            "Conv" => Some("only images are convolved with integers"),
            "MatMul" | "Gemm" if !weight.is_right_matrix => {
                Some("its weights are not on the right, no matrix, or used elsewhere")
            }
            "MatMul" => None,
            "Gemm" if node.int("transA") == Some(1) => Some("it transposes its operand"),
            "Gemm" if [node.float("alpha"), node.float("beta")].iter().flatten().any(|&f| f != 1.0) => {
                Some("it has a factor")
            }
            "Gemm" => None,
            _ => Some("there is no such operator on integers"),
        }
    }

    /// Gives all users of a weight the product of integers, or tells why not.
    pub fn write(&mut self, weight: &Weight) -> Result<Result<Made, String>, QuantizeError> {
        let Some(values) = weight.tensor.to_f32() else {
            return Ok(Err("its weights are no floats".to_owned()));
        };
        let blocks = Blocks::whole(weight.taken.layout);
        let made = integers(&values, blocks, ElementType::Int8, Rounding::Nearest, None);
        let integers = match made {
            Ok(integers) => integers,
            Err(reason) => return Ok(Err(reason)),
        };
        let (shape, channels) = (weight.tensor.shape(), blocks.count());
        let kind = |graph: &Graph, id: NodeId| match graph.node(id).is("Conv") {
            true => Product::Convolution,
            false => Product::Matrix,
        };
        let mut bytes = 0;
        let mut add = |graph: &mut Graph, tensor: Tensor| {
            bytes += tensor.byte_len();
            graph.add_constant(tensor)
        };
        let mut operands: Vec<(Product, [ValueId; 3])> = Vec::new();
        for &id in &weight.users {
            let product = kind(self.graph, id);
            let known = operands.iter().find(|(known, _)| *known == product).map(|(_, operands)| *operands);
            let constants = match known {
                Some(constants) => constants,
                None => {
                    // Not every runtime convolves signed weights.
                    let (element, zero) = match product {
                        Product::Matrix => (ElementType::Int8, 0u8),
                        Product::Convolution => (ElementType::Uint8, 128),
                    };
                    let codes: Vec<u8> = integers.codes.iter().map(|code| code.wrapping_add(zero)).collect();
                    let mut scales = vec![channels];
                    if product == Product::Convolution {
                        scales.extend(vec![1; shape.len() - 2]);
                    }
                    let raw: Vec<u8> = integers.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
                    let constants = [
                        Tensor::from_raw(element, shape, codes.into())?,
                        Tensor::from_raw(element, &[], vec![zero].into())?,
                        Tensor::from_raw(ElementType::Float, &scales, raw.into())?,
                    ];
                    let constants = constants.map(|tensor| add(self.graph, tensor));
                    operands.push((product, constants));
                    constants
                }
            };
            self.product(id, product, constants)?;
        }
        self.graph.remove_unused_constant(weight.value);
        Ok(Ok(Made { integers, bytes }))
    }

    fn product(
        &mut self,
        id: NodeId,
        product: Product,
        [codes, zero, scales]: [ValueId; 3],
    ) -> Result<(), QuantizeError> {
        let node = self.graph.node(id);
        let (Some(x), Some(result)) = (node.input(0), node.output(0)) else { return Ok(()) };
        let (bias, position) = (node.input(2), node.position());
        let attributes = match product {
            Product::Convolution => node.attributes().clone(),
            Product::Matrix => Default::default(),
        };
        let [integers, x_scale, x_zero] = self.activation(x, position)?;
        let op_type = if product == Product::Convolution { "ConvInteger" } else { "MatMulInteger" };
        let operands = [integers, codes, x_zero, zero];
        let sums = self.node(NewNode { attributes, ..NewNode::new(op_type, operands) }, position)?;
        let float = i64::from(ElementType::Float.code());
        let sums = self.node(NewNode::new("Cast", [sums]).with("to", float), position)?;
        let scale = self.node(NewNode::new("Mul", [x_scale, scales]), position)?;
        let mut new = self.node(NewNode::new("Mul", [sums, scale]), position)?;
        if let Some(bias) = bias {
            let bias = match product {
                Product::Matrix => bias,
                Product::Convolution => self.by_channel(bias, position)?,
            };
            new = self.node(NewNode::new("Add", [new, bias]), position)?;
        }
        self.graph.replace_all_uses(result, new)?;
        self.graph.remove_dead([id], |_, _| {});
        Ok(())
    }

    /// The bias of a convolution of images, [M], as [M, 1, 1].
    fn by_channel(&mut self, bias: ValueId, position: u32) -> Result<ValueId, QuantizeError> {
        if let Some(tensor) = self.graph.constant(bias)
            && let Some(tensor) = tensor.reshaped(&[tensor.len(), 1, 1])
        {
            return Ok(self.graph.add_constant(tensor));
        }
        let shape = self.graph.add_constant(Tensor::vector_i64(&[-1, 1, 1]));
        self.node(NewNode::new("Reshape", [bias, shape]), position)
    }

    fn activation(&mut self, x: ValueId, position: u32) -> Result<[ValueId; 3], QuantizeError> {
        if let Some(&known) = self.activations.get(&x) {
            return Ok(known);
        }
        let new = NewNode { outputs: 3, position, ..NewNode::new("DynamicQuantizeLinear", [x]) };
        let id = self.graph.add_node(new)?;
        let node = self.graph.node(id);
        let [Some(integers), Some(scale), Some(zero)] = node.outputs() else {
            return Err(GraphError::NoSuchNode(id).into());
        };
        let made = [*integers, *scale, *zero];
        self.activations.insert(x, made);
        Ok(made)
    }

    fn node(&mut self, new: NewNode, position: u32) -> Result<ValueId, QuantizeError> {
        let id = self.graph.add_node(NewNode { position, ..new })?;
        Ok(self.graph.node(id).output(0).ok_or(GraphError::NoSuchNode(id))?)
    }
}
