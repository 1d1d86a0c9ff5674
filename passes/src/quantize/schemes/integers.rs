//! Weights as integers with a scale for each channel or block: w ≈ (q − z)·s.

use onnx_opt_ir::ElementType;

use super::super::Grid;
use super::super::accuracy::{Moments, Rounding, round};
use super::super::grid::range_of;
use super::error::SquaredError;
use super::layout::Blocks;

/// A weight as integers.
pub(super) struct Integers {
    pub element: ElementType,
    /// In the order of the weight, two's complement.
    pub codes: Vec<u8>,
    /// By block.
    pub scales: Vec<f32>,
    /// By block; none if all are zero.
    pub zeros: Option<Vec<u8>>,
    pub error: SquaredError,
}

/// The integers of a weight, or why there are none. `moments` are those of the operand, one for each group of a
/// convolution.
pub(super) fn integers(
    values: &[f32],
    blocks: Blocks,
    element: ElementType,
    rounding: Rounding,
    moments: Option<&[Moments]>,
) -> Result<Integers, String> {
    let layout = blocks.layout;
    let symmetric = !element.is_unsigned_integer();
    let mut made = Integers {
        element,
        codes: vec![0; values.len()],
        scales: vec![0.0; blocks.count()],
        zeros: (!symmetric).then(|| vec![0; blocks.count()]),
        error: SquaredError::default(),
    };
    let moments = round::fitting(moments, layout.channels(), layout.length);
    let prepared = round::prepare(rounding, moments);
    for channel in 0..layout.channels() {
        let numbers = layout.channel(values, channel);
        let grids: Option<Vec<Grid>> = numbers
            .chunks(blocks.size)
            .map(|block| Some(Grid::of(range_of(block)?, element, symmetric)))
            .collect();
        let mut grids = grids.ok_or("its weights are not finite")?;
        let group = channel * prepared.groups() / layout.channels();
        let integers = prepared.round(group, &numbers, &mut grids, blocks.size);
        for (block, grid) in grids.iter().enumerate() {
            let index = blocks.index(channel, block);
            made.scales[index] = grid.scale;
            if let Some(zeros) = &mut made.zeros {
                zeros[index] = grid.zero as u8;
            }
        }
        for (place, (&integer, &number)) in integers.iter().zip(&numbers).enumerate() {
            made.codes[layout.index(channel, place)] = integer as u8;
            made.error.add(number, grids[place / blocks.size].dequantize(integer));
        }
    }
    Ok(made)
}
