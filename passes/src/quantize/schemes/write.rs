//! Compressed weights as constants and the operators that make floats of them.

use bytes::Bytes;
use onnx_opt_ir::{ElementType, Graph, GraphError, NewNode, Tensor, ValueId};

use super::super::QuantizeError;
use super::codebook::Coded;
use super::find::Taken;
use super::integers::Integers;
use super::layout::Blocks;

/// Writes one weight, and counts the bytes of its constants.
pub(super) struct Writer<'g> {
    graph: &'g mut Graph,
    taken: Taken,
    /// Sizes of the weight.
    shape: Vec<usize>,
    /// Bytes of all constants that were added.
    pub bytes: usize,
}

impl<'g> Writer<'g> {
    pub fn new(graph: &'g mut Graph, taken: Taken, shape: &[usize]) -> Self {
        Self { graph, taken, shape: shape.to_vec(), bytes: 0 }
    }

    /// Integers as `DequantizeLinear` takes them; `None` where their scales lie along more than one axis.
    pub fn dequantized(
        &mut self,
        integers: &Integers,
        blocks: Blocks,
    ) -> Result<Option<ValueId>, QuantizeError> {
        let whole = blocks.per_channel() == 1;
        let axis = if whole { self.taken.channels } else { self.taken.summed };
        let Some(axis) = axis else { return Ok(None) };
        let shape = match whole {
            true => vec![blocks.count()],
            false => {
                let mut shape = self.shape.clone();
                shape[axis] = blocks.per_channel();
                shape
            }
        };
        let weight = self.shape.clone();
        let codes = self.codes(integers.element, &weight, &integers.codes)?;
        let scales = self.floats(&shape, &integers.scales)?;
        let mut operands = vec![codes, scales];
        if let Some(zeros) = &integers.zeros {
            operands.push(self.codes(integers.element, &shape, zeros)?);
        }
        let mut new = NewNode::new("DequantizeLinear", operands).with("axis", axis as i64);
        if !whole {
            new = new.with("block_size", blocks.size as i64);
        }
        self.node(new).map(Some)
    }

    /// Integers by `Cast`, `Sub` and `Mul`, which runtimes compute as they load the model.
    pub fn multiplied(&mut self, integers: &Integers, blocks: Blocks) -> Result<ValueId, QuantizeError> {
        let (wide, narrow) = self.shapes(blocks);
        let codes = self.codes(integers.element, &wide, &integers.codes)?;
        let mut value = self.cast(codes, ElementType::Float)?;
        if let Some(zeros) = &integers.zeros {
            let zeros = self.codes(integers.element, &narrow, zeros)?;
            let zeros = self.cast(zeros, ElementType::Float)?;
            value = self.node(NewNode::new("Sub", [value, zeros]))?;
        }
        self.scaled(value, &integers.scales, &wide, &narrow)
    }

    /// Levels by `Gather` from their table.
    pub fn looked_up(&mut self, coded: &Coded, blocks: Blocks) -> Result<ValueId, QuantizeError> {
        let (wide, narrow) = self.shapes(blocks);
        let element = if coded.table.len() > 16 { ElementType::Uint8 } else { ElementType::Uint4 };
        let codes = self.codes(element, &wide, &coded.codes)?;
        let indices = self.cast(codes, ElementType::Int32)?;
        let table = self.floats(&[coded.table.len()], &coded.table)?;
        let value = self.node(NewNode::new("Gather", [table, indices]))?;
        self.scaled(value, &coded.scales, &wide, &narrow)
    }

    /// A tensor of narrower floats as single precision.
    pub fn widened(&mut self, tensor: Tensor) -> Result<ValueId, QuantizeError> {
        let value = self.constant(tensor);
        self.cast(value, ElementType::Float)
    }

    fn scaled(
        &mut self,
        value: ValueId,
        scales: &[f32],
        wide: &[usize],
        narrow: &[usize],
    ) -> Result<ValueId, QuantizeError> {
        let scales = self.floats(narrow, scales)?;
        let value = self.node(NewNode::new("Mul", [value, scales]))?;
        if wide == self.shape {
            return Ok(value);
        }
        let shape: Vec<i64> = self.shape.iter().map(|&size| size as i64).collect();
        let shape = self.constant(Tensor::vector_i64(&shape));
        self.node(NewNode::new("Reshape", [value, shape]))
    }

    /// Shapes of codes and of scales such that they multiply: those of the weight itself where channels have one scale.
    fn shapes(&self, blocks: Blocks) -> (Vec<usize>, Vec<usize>) {
        match self.taken.channels {
            Some(axis) if blocks.per_channel() == 1 => {
                let narrow = (0..self.shape.len()).map(|at| if at == axis { self.shape[at] } else { 1 });
                (self.shape.clone(), narrow.collect())
            }
            _ => {
                let layout = blocks.layout;
                let of = |size| vec![layout.outer, blocks.per_channel(), size, layout.inner];
                (of(blocks.size), of(1))
            }
        }
    }

    fn cast(&mut self, value: ValueId, to: ElementType) -> Result<ValueId, QuantizeError> {
        self.node(NewNode::new("Cast", [value]).with("to", i64::from(to.code())))
    }

    fn codes(
        &mut self,
        element: ElementType,
        shape: &[usize],
        codes: &[u8],
    ) -> Result<ValueId, QuantizeError> {
        let raw: Vec<u8> = match element.bits() {
            4 => codes.chunks(2).map(|pair| pair[0] & 15 | pair.get(1).map_or(0, |high| high << 4)).collect(),
            _ => codes.to_vec(),
        };
        Ok(self.constant(Tensor::from_raw(element, shape, raw.into())?))
    }

    fn floats(&mut self, shape: &[usize], values: &[f32]) -> Result<ValueId, QuantizeError> {
        let raw: Bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Ok(self.constant(Tensor::from_raw(ElementType::Float, shape, raw)?))
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.bytes += tensor.byte_len();
        self.graph.add_constant(tensor)
    }

    fn node(&mut self, new: NewNode) -> Result<ValueId, QuantizeError> {
        let node = self.graph.add_node(new)?;
        Ok(self.graph.node(node).output(0).ok_or(GraphError::NoSuchNode(node))?)
    }
}
