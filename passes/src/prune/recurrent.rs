//! What recurrent layers weigh, as matrix products: what a step takes, W·x, and the state before it, R·h.

use onnx_opt_ir::{Graph, NodeId, Tensor, ValueId};

use super::plan::Kept;
use super::product::{WIDEST, with_ones};
use super::recover::improve;
use super::remove::take;
use crate::gradient::{Refusal, Size, Writer, Written};
use crate::measure::{MeasureError, Total};

/// One of the two products of a recurrent layer.
pub(super) struct Recurrent {
    node: NodeId,
    /// x [S, B, I], or all states [S, D, B, H].
    pub value: ValueId,
    /// W [D, G·H, I], or R [D, G·H, H].
    weight: ValueId,
    /// Whether it is R.
    pub is_state: bool,
    /// Rows of a direction that are products of what is weighed: all, but for the gate of a GRU that weighs a part of
    /// the state.
    rows: usize,
}

impl Recurrent {
    /// Both products of a node.
    pub fn parts(graph: &Graph, id: NodeId) -> Vec<Self> {
        let Some(node) = graph.get_node(id) else { return Vec::new() };
        let odd = node.int("layout").unwrap_or(0) != 0 || node.input(4).is_some();
        if odd || !matches!(node.op_type(), "GRU" | "LSTM" | "RNN") {
            return Vec::new();
        }
        let part = |value: Option<ValueId>, slot: usize| {
            let (value, weight) = (value?, node.input(slot)?);
            let tensor = graph.constant(weight).filter(|tensor| tensor.element().is_float())?;
            let &[_, all, columns] = tensor.shape() else { return None };
            let is_state = slot == 2;
            let resets = is_state && node.is("GRU") && node.int("linear_before_reset").unwrap_or(0) == 0;
            let rows = if resets { all / 3 * 2 } else { all };
            let proper = graph.use_count(weight) == 1 && graph.constant(value).is_none() && columns <= WIDEST;
            proper.then_some(Self { node: id, value, weight, is_state, rows })
        };
        [part(node.input(0), 1), part(node.output(0), 2)].into_iter().flatten().collect()
    }

    /// Whether it weighs fewer than it did.
    pub fn has_lost(&self, graph: &Graph, whole: &Graph) -> bool {
        graph.constant(self.weight) != whole.constant(self.weight)
    }

    /// XᵀX and XᵀT, with X what is weighed now, and T what the whole layer made of what it weighed.
    pub fn moments(
        &self,
        w: &mut Writer<'_>,
        now: ValueId,
        before: ValueId,
        whole: &Graph,
        kept: &Kept,
    ) -> Written<Vec<ValueId>> {
        let none = || Refusal("a recurrent layer has no weights".to_owned());
        let tensor = whole.constant(self.weight).ok_or_else(none)?;
        let all: Vec<u32> = (0u32..).take(tensor.shape()[1]).collect();
        let left = kept.get(&(self.weight, 1)).unwrap_or(&all);
        let rows = self.rows.min(left.len());
        let left: Vec<usize> = left[..rows].iter().map(|&row| row as usize).collect();
        let matrix =
            take(tensor, 1, &left).and_then(|tensor| tensor.transposed(&[0, 2, 1])).ok_or_else(none)?;
        let columns = tensor.shape()[2];
        let matrix = w.graph.add_constant(matrix);
        let before = self.in_rows(w, before, columns)?;
        let mut targets = w.op("MatMul", &[before, matrix])?;
        if let Some(bias) = whole.get_node(self.node).and_then(|node| whole.constant(node.input(3)?)) {
            let from = if self.is_state { all.len() } else { 0 };
            let places: Vec<usize> = left.iter().map(|&row| from + row).collect();
            let bias = take(bias, 1, &places).and_then(|bias| bias.reshaped(&[bias.shape()[0], 1, rows]));
            let bias = w.graph.add_constant(bias.ok_or_else(none)?);
            targets = w.add(targets, bias)?;
        }
        let now_columns = w.graph.constant(self.weight).ok_or_else(none)?.shape()[2];
        let now = self.in_rows(w, now, now_columns)?;
        let now = with_ones(w, now)?;
        let turned = w.transpose(now, &[0, 2, 1])?;
        Ok(vec![w.op("MatMul", &[turned, now])?, w.op("MatMul", &[turned, targets])?])
    }

    /// Steps and samples in rows: [1 or D, rows, columns].
    fn in_rows(&self, w: &mut Writer<'_>, value: ValueId, columns: usize) -> Written {
        let columns = Size::Fixed(columns as i64);
        if !self.is_state {
            return w.reshape_to(value, &[Size::Fixed(1), Size::Fixed(-1), columns]);
        }
        let directions = Size::Fixed(w.fixed_axis(value, 1).ok_or("the directions are not known")?);
        let turned = w.transpose(value, &[1, 0, 2, 3])?;
        w.reshape_to(turned, &[directions, Size::Fixed(-1), columns])
    }

    /// The weight that gives most nearly what the whole layer gave. Tells whether there is one.
    ///
    /// # Errors
    /// If an edit is refused.
    pub fn refit(&self, graph: &mut Graph, found: &[Total]) -> Result<bool, MeasureError> {
        let [moments, targets] = found else { return Ok(false) };
        let Some(tensor) = graph.constant(self.weight).cloned() else { return Ok(false) };
        let &[directions, all, columns] = tensor.shape() else { return Ok(false) };
        let (width, rows) = (columns + 1, self.rows.min(all));
        let shared = moments.values.len() == width * width;
        if !(shared || moments.values.len() == directions * width * width)
            || targets.values.len() != directions * width * rows
        {
            return Ok(false);
        }
        let bias = graph.node(self.node).input(3);
        let given = bias.and_then(|bias| graph.constant(bias)).cloned();
        let mut weights = tensor.to_f64().unwrap_or_default();
        let mut biases = given.as_ref().and_then(|given| given.to_f64());
        for direction in 0..directions {
            let group = if shared { 0 } else { direction };
            let own = &mut weights[direction * all * columns..][..rows * columns];
            let from = (2 * direction + usize::from(self.is_state)) * all;
            let fits = improve(
                &moments.values[group * width * width..][..width * width],
                &targets.values[direction * width * rows..][..width * rows],
                own,
                biases.as_mut().and_then(|biases| biases.get_mut(from..from + rows)),
            );
            if !fits {
                return Ok(false);
            }
        }
        let Some(new) = Tensor::from_f64(tensor.element(), tensor.shape(), &weights) else {
            return Ok(false);
        };
        graph.set_constant(self.weight, new)?;
        if let (Some(given), Some(biases)) = (given, biases)
            && let Some(new) = Tensor::from_f64(given.element(), given.shape(), &biases)
        {
            let new = graph.add_constant(new);
            graph.set_input(self.node, 3, Some(new))?;
            bias.into_iter().for_each(|bias| graph.remove_unused_constant(bias));
        }
        Ok(true)
    }
}
