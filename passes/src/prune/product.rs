//! Nodes that weigh what they take, as matrix products: rows of operands, a matrix, a bias.

use std::ops::Range;

use onnx_opt_ir::{Graph, NewNode, NodeId, Tensor, ValueId};

use super::group::is_weight;
use crate::bias::added;
use crate::gradient::{Size, Writer, Written};

/// y = x·Wᵀ + b, for each of some groups, where the rows of x are patches of an operand.
#[derive(Clone, Debug)]
pub(super) struct Product {
    /// The node.
    pub node: NodeId,
    /// The operand.
    pub x: ValueId,
    /// The constant W.
    pub weight: ValueId,
    /// The bias that is there, and the node and operand that it is, or could be.
    pub bias: Option<(Option<ValueId>, NodeId, usize)>,
    /// The result, with its bias.
    pub y: ValueId,
    /// Convolutions side by side; 1 for others.
    pub groups: usize,
    /// Sizes of the weight.
    shape: Vec<usize>,
    kind: Kind,
    /// The channels of a group that are looked at.
    part: Range<usize>,
    /// Places of planes that are looked at in each sample.
    places: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// W [M, C/g, …]
    Convolution,
    /// W [M, K]
    Rows,
    /// W [K, M]
    Columns,
}

/// Wider products are looked at in parts: their moments would take too much.
pub(super) const WIDEST: usize = 2304;

/// Rows of operands for each column, at least: more of them tell little more. Where samples have more, places of planes are
/// left out.
const ROWS: usize = 16;

/// So many places of a plane are looked at in each sample, at least.
const PLACES: usize = 16;

impl Product {
    /// A node as a product that is looked at on so many samples; `None` for what is none, is no plain one, or too wide.
    pub fn of(graph: &Graph, id: NodeId, samples: usize) -> Option<Self> {
        Self::plain(graph, id, samples).filter(|product| product.columns() <= WIDEST)
    }

    /// The same, in parts of some of its columns where it is too wide.
    pub fn parts(graph: &Graph, id: NodeId, samples: usize) -> Vec<Self> {
        let Some(whole) = Self::plain(graph, id, samples) else { return Vec::new() };
        let channels = whole.part.len();
        let length = channels.div_ceil(whole.columns().div_ceil(WIDEST));
        if length < channels && whole.groups > 1 || length * whole.taps() > 2 * WIDEST {
            return Vec::new();
        }
        let starts = (0..channels).step_by(length.max(1));
        starts
            .map(|start| Self { part: start..(start + length).min(channels), ..whole.clone() })
            .map(|part| part.looked_at(samples))
            .collect()
    }

    /// With as many places as it takes on so many samples.
    fn looked_at(mut self, samples: usize) -> Self {
        self.places = (ROWS * (self.columns() + 1) / samples.max(1)).max(PLACES) as i64;
        self
    }

    fn plain(graph: &Graph, id: NodeId, samples: usize) -> Option<Self> {
        let node = graph.get_node(id)?;
        let (x, weight) = (node.input(0)?, node.input(1)?);
        let tensor =
            graph.constant(weight).filter(|tensor| is_weight(tensor) && tensor.element().is_float())?;
        if graph.constant(x).is_some() || graph.use_count(weight) != 1 {
            return None;
        }
        let shape = tensor.shape().to_vec();
        let y = node.single_output()?;
        let own = (node.input(2), id, 2);
        let constant = |bias: Option<ValueId>| bias.is_none_or(|bias| graph.constant(bias).is_some());
        let (kind, groups, bias, y) = match node.op_type() {
            "Conv" if constant(node.input(2)) && shape.len() > 2 => {
                (Kind::Convolution, usize::try_from(node.int("group")?).ok()?, Some(own), y)
            }
            "Gemm" if constant(node.input(2)) => {
                let plain = node.float("alpha") == Some(1.0) && node.float("beta") == Some(1.0);
                let results = shape[if node.int("transB") == Some(1) { 0 } else { 1 }];
                let vector = |bias: ValueId| {
                    let bias = graph.constant(bias);
                    bias.is_some_and(|bias| bias.len() == results && bias.shape().last() == Some(&results))
                };
                if !plain || node.int("transA") != Some(0) || !node.input(2).is_none_or(vector) {
                    return None;
                }
                (if node.int("transB")? == 1 { Kind::Rows } else { Kind::Columns }, 1, Some(own), y)
            }
            "MatMul" if shape.len() == 2 => match added(graph, y, shape[1]) {
                Some((bias, add, slot, sum)) => (Kind::Columns, 1, Some((Some(bias), add, slot)), sum),
                None => (Kind::Columns, 1, None, y),
            },
            _ => return None,
        };
        let part = 0..shape[usize::from(kind != Kind::Columns)];
        let product = Self { node: id, x, weight, bias, y, groups, shape, kind, part, places: 0 };
        let proper = groups > 0 && product.results() * groups == product.shape[product.result_axis()];
        proper.then(|| product.looked_at(samples))
    }

    /// Whether others of its columns are looked at apart.
    pub fn is_part(&self) -> bool {
        self.part.len() < self.shape[usize::from(self.kind != Kind::Columns)]
    }

    /// Whether it begins with the first column.
    pub fn is_first(&self) -> bool {
        self.part.start == 0
    }

    /// The axis of the weight that counts results.
    pub fn result_axis(&self) -> usize {
        usize::from(self.kind == Kind::Columns)
    }

    /// The axis of the weight that counts what it takes, if it counts channels of the operand.
    pub fn operand_axis(&self) -> Option<usize> {
        match self.kind {
            Kind::Convolution if self.groups > 1 => None,
            Kind::Convolution | Kind::Rows => Some(1),
            Kind::Columns => Some(0),
        }
    }

    /// Columns of one channel: the places of a kernel.
    pub fn taps(&self) -> usize {
        match self.kind {
            Kind::Convolution => self.shape[2..].iter().product(),
            _ => 1,
        }
    }

    /// Columns of the matrix of one group that are looked at.
    pub fn columns(&self) -> usize {
        self.part.len() * self.taps()
    }

    /// Where they are in each row.
    fn place(&self) -> Range<usize> {
        self.part.start * self.taps()..self.part.end * self.taps()
    }

    /// Results of one group.
    pub fn results(&self) -> usize {
        self.shape[self.result_axis()] / self.groups.max(1)
    }

    /// The columns of the weight that are looked at, in rows, one for each result of each group.
    pub fn matrix(&self, weight: &Tensor) -> Option<Vec<f64>> {
        let all = self.rows_of(weight)?;
        let width = all.len() / self.shape[self.result_axis()].max(1);
        Some(all.chunks(width.max(1)).flat_map(|row| &row[self.place()]).copied().collect())
    }

    fn rows_of(&self, weight: &Tensor) -> Option<Vec<f64>> {
        match self.kind {
            Kind::Columns => weight.transposed(&[1, 0])?.to_f64(),
            _ => weight.to_f64(),
        }
    }

    /// A weight with these rows in place of its own.
    pub fn weight_of(&self, matrix: &[f64], weight: &Tensor) -> Option<Tensor> {
        let mut all = self.rows_of(weight)?;
        let width = all.len() / self.shape[self.result_axis()].max(1);
        for (row, own) in all.chunks_mut(width.max(1)).zip(matrix.chunks(self.columns().max(1))) {
            row[self.place()].copy_from_slice(own);
        }
        match self.kind {
            Kind::Columns => {
                Tensor::from_f64(weight.element(), &[self.shape[1], self.shape[0]], &all)?.transposed(&[1, 0])
            }
            _ => Tensor::from_f64(weight.element(), &self.shape, &all),
        }
    }

    /// What stands in for an operand: its patches in rows, [groups, rows, columns], and with `ones` a last column for the
    /// bias.
    pub fn operand(&self, w: &mut Writer<'_>, x: ValueId, ones: bool) -> Written {
        let x = match self.is_part() {
            true => self.slice(w, x)?,
            false => x,
        };
        let patches = match self.kind {
            Kind::Convolution => self.patches(w, x)?,
            _ => x,
        };
        let rows = self.rows(w, patches, self.columns())?;
        if ones { with_ones(w, rows) } else { Ok(rows) }
    }

    /// The result in rows, [groups, rows, results].
    pub fn result(&self, w: &mut Writer<'_>, y: ValueId) -> Written {
        self.rows(w, y, self.results())
    }

    /// aᵀ·b for each group, summed over rows.
    pub fn moments(&self, w: &mut Writer<'_>, a: ValueId, b: ValueId) -> Written {
        let turned = w.transpose(a, &[0, 2, 1])?;
        w.op("MatMul", &[turned, b])
    }

    /// The channels that are looked at.
    fn slice(&self, w: &mut Writer<'_>, x: ValueId) -> Written {
        let axis = if self.kind == Kind::Convolution { 1 } else { w.rank(x)? as i64 - 1 };
        let bounds = [self.part.start as i64, self.part.end as i64, axis].map(|bound| w.integers(&[bound]));
        w.op("Slice", &[x, bounds[0], bounds[1], bounds[2]])
    }

    /// Each patch in the channels: a convolution by the unit matrix, channel by channel.
    fn patches(&self, w: &mut Writer<'_>, x: ValueId) -> Written {
        let node = w.graph.node(self.node).clone();
        let taps = self.taps();
        let moves = |name: &str| node.ints(name).is_some_and(|values| values.iter().any(|&value| value > 1));
        let padded = node.ints("pads").is_some_and(|pads| pads.iter().any(|&pad| pad != 0));
        if taps == 1 && !moves("strides") && !padded {
            return Ok(x);
        }
        let channels = self.part.len() * self.groups;
        let kernel: Vec<usize> = [&[channels * taps, 1], &self.shape[2..]].concat();
        let unit: Vec<f64> = (0..channels * taps * taps)
            .map(|place| f64::from(u8::from(place / taps % taps == place % taps)))
            .collect();
        let unit = w.numbers(x, &kernel, &unit)?;
        let mut conv = NewNode::new("Conv", [x, unit]);
        conv.attributes = node.attributes().clone();
        w.node(conv.with("group", channels as i64))
    }

    /// Channels in groups, everything else in rows: [groups, rows, channels of a group].
    fn rows(&self, w: &mut Writer<'_>, x: ValueId, channels: usize) -> Written {
        let channels = channels as i64;
        if self.kind != Kind::Convolution {
            return w.reshape_to(x, &[Size::Fixed(1), Size::Fixed(-1), Size::Fixed(channels)]);
        }
        let rank = w.rank(x)?;
        let places: Option<i64> = (2..rank).map(|axis| w.fixed_axis(x, axis)).product();
        let groups = self.groups as i64;
        let sizes =
            [Size::Of(x, 0), Size::Fixed(groups), Size::Fixed(channels), Size::Fixed(places.unwrap_or(-1))];
        let mut split = match w.fixed_axis(x, 0) {
            Some(_) => w.reshape_to(x, &sizes)?,
            None => match places {
                Some(places) => w.reshape(x, &[-1, groups, channels, places])?,
                None => w.reshape(x, &[0, groups, channels, -1])?,
            },
        };
        if let Some(places) = places.filter(|&places| places > self.places) {
            let all = [w.integers(&[0]), w.integers(&[places]), w.integers(&[3])];
            let step = w.integers(&[places / self.places + 1]);
            split = w.op("Slice", &[split, all[0], all[1], all[2], step])?;
        }
        let turned = w.transpose(split, &[1, 0, 3, 2])?;
        w.reshape(turned, &[groups, -1, channels])
    }
}

/// Rows [groups, rows, columns] with a last column of ones, for the bias.
pub(super) fn with_ones(w: &mut Writer<'_>, rows: ValueId) -> Written {
    let (pads, one) = (w.integers(&[0, 0, 0, 0, 0, 1]), w.number(rows, 1.0)?);
    w.op("Pad", &[rows, pads, one])
}
