//! What the weights of a product are multiplied with: rows of a matrix, windows of an image.

use onnx_opt_ir::{Graph, Node};
use serde::{Deserialize, Serialize};

use super::moments::Moments;
use crate::rewrite::place;

/// A product with constant weights, and where its operand comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Name of the node.
    pub node: String,
    /// Name of its operand.
    pub value: String,
    /// How the operand is gone through.
    pub window: Window,
}

/// How an operand is gone through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Window {
    /// By the rows along the last axis.
    Rows,
    /// As a convolution does, [N, C, D...].
    Places {
        /// Sizes of the kernel.
        kernel: Vec<usize>,
        /// Steps.
        strides: Vec<usize>,
        /// Distances of what a kernel takes.
        dilations: Vec<usize>,
        /// Zeros before each axis, then behind each.
        pads: Vec<usize>,
        /// Groups of channels.
        groups: usize,
    },
}

/// Vectors that are longer have no moments: these would take more memory than the weights.
const LONGEST: usize = 2304;

/// Of one operand so many vectors are taken at most, at even distances: neighbours are much alike.
const VECTORS: usize = 1024;

/// The products of a graph whose operands have moments.
pub fn layers(graph: &Graph) -> Vec<Layer> {
    let order = graph.topological_order().unwrap_or_default();
    order.into_iter().filter_map(|id| layer(graph, graph.node(id))).collect()
}

fn layer(graph: &Graph, node: &Node) -> Option<Layer> {
    let (value, weights) = (node.input(0)?, graph.constant(node.input(1)?)?);
    if graph.constant(value).is_some() || !weights.element().is_float() {
        return None;
    }
    let shape = weights.shape();
    let (window, length) = match node.op_type() {
        "MatMul" if node.is("MatMul") => (Window::Rows, *shape.first().filter(|_| shape.len() == 2)?),
        "Gemm" if node.is("Gemm") && node.int("transA") != Some(1) => {
            (Window::Rows, *shape.get(usize::from(node.int("transB") == Some(1)))?)
        }
        "Conv" if node.is("Conv") => {
            let (axes, length) = (shape.get(2..)?, shape.get(1..)?.iter().product());
            let list = |name: &str, default: usize, count: usize| match node.ints(name) {
                Some(given) => given.iter().map(|&size| usize::try_from(size).ok()).collect(),
                None => Some(vec![default; count]),
            };
            let automatic = node.string("auto_pad").unwrap_or("NOTSET");
            let pads = match automatic {
                "NOTSET" => list("pads", 0, 2 * axes.len())?,
                "VALID" => vec![0; 2 * axes.len()],
                _ => return None,
            };
            let window = Window::Places {
                kernel: axes.to_vec(),
                strides: list("strides", 1, axes.len())?,
                dilations: list("dilations", 1, axes.len())?,
                pads,
                groups: usize::try_from(node.int("group")?).ok()?,
            };
            (window, length)
        }
        _ => return None,
    };
    (length <= LONGEST).then(|| Layer { node: place(graph, node), value: graph.display_name(value), window })
}

impl Window {
    /// Takes the vectors of an operand into its moments, one for each group. An operand of another shape than before is
    /// left out.
    pub fn observe(&self, values: &[f32], shape: &[usize], moments: &mut Vec<Moments>) {
        match self {
            Self::Rows => rows(values, shape, moments),
            Self::Places { .. } => {
                self.places(values, shape, moments);
            }
        }
    }

    /// `None` where the operand does not fit.
    fn places(&self, values: &[f32], shape: &[usize], moments: &mut Vec<Moments>) -> Option<()> {
        let Self::Places { kernel, strides, dilations, pads, groups } = self else { return None };
        let (&[batch, channels], axes) = (shape.get(..2)?, shape.get(2..)?) else { return None };
        let rank = axes.len();
        let fits =
            [kernel, strides, dilations].iter().all(|list| list.len() == rank) && pads.len() == 2 * rank;
        if !fits || *groups == 0 || !channels.is_multiple_of(*groups) {
            return None;
        }
        let steps = |axis: usize| {
            let reach = dilations[axis] * kernel[axis].checked_sub(1)? + 1;
            Some((axes[axis] + pads[axis] + pads[rank + axis]).checked_sub(reach)? / strides[axis].max(1) + 1)
        };
        let steps: Vec<usize> = (0..rank).map(steps).collect::<Option<_>>()?;
        let own = channels / groups;
        let size = own * kernel.iter().product::<usize>();
        prepare(moments, *groups, size);
        let mut vectors = vec![Vec::new(); *groups];
        let area: usize = axes.iter().product();
        let count = batch * steps.iter().product::<usize>();
        for place in spread(count) {
            let at = digits(place, &[&[batch], &steps[..]].concat());
            // For each tap the index within a channel, none in the zeros around.
            let tap = |tap: usize| {
                let within = digits(tap, kernel);
                (0..rank).try_fold(0, |index, axis| {
                    let position = at[axis + 1] * strides[axis] + within[axis] * dilations[axis];
                    let position =
                        position.checked_sub(pads[axis]).filter(|&position| position < axes[axis])?;
                    Some(index * axes[axis] + position)
                })
            };
            let taps: Vec<Option<usize>> = (0..kernel.iter().product()).map(tap).collect();
            for (group, vectors) in vectors.iter_mut().enumerate() {
                let vector = (group * own..(group + 1) * own).flat_map(|channel| {
                    let start = (at[0] * channels + channel) * area;
                    taps.iter().map(move |tap| {
                        tap.map_or(0.0, |tap| values.get(start + tap).copied().unwrap_or(0.0))
                    })
                });
                vectors.extend(vector);
            }
        }
        for (moments, vectors) in moments.iter_mut().zip(&vectors) {
            if moments.size() == size {
                moments.observe(vectors);
            }
        }
        Some(())
    }
}

fn rows(values: &[f32], shape: &[usize], moments: &mut Vec<Moments>) {
    let Some(&width) = shape.last().filter(|&&width| width > 0) else { return };
    prepare(moments, 1, width);
    let rows: Vec<f32> = spread(values.len() / width)
        .flat_map(|row| &values[row * width..(row + 1) * width])
        .copied()
        .collect();
    if let [moments] = &mut moments[..]
        && moments.size() == width
    {
        moments.observe(&rows);
    }
}

fn prepare(moments: &mut Vec<Moments>, groups: usize, size: usize) {
    if moments.is_empty() {
        moments.resize(groups, Moments::new(size));
    }
}

/// At most [`VECTORS`] of so many, at even distances.
fn spread(count: usize) -> impl Iterator<Item = usize> {
    (0..count).step_by(count.div_ceil(VECTORS).max(1))
}

/// The position of an index in a row-major tensor.
fn digits(mut index: usize, sizes: &[usize]) -> Vec<usize> {
    let mut digits = vec![0; sizes.len()];
    for (digit, &size) in digits.iter_mut().zip(sizes).rev() {
        *digit = index % size.max(1);
        index /= size.max(1);
    }
    digits
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::NewNode;

    use super::*;
    use crate::testing::Fixture;

    #[test]
    fn a_matrix_is_gone_through_by_rows() {
        let mut moments = Vec::new();
        Window::Rows.observe(&[1.0, 2.0, 3.0, 5.0], &[2, 1, 2], &mut moments);
        assert_eq!((moments[0].count(), moments[0].mean()), (2, vec![2.0, 3.5]));
    }

    #[test]
    fn an_image_is_gone_through_by_windows_with_zeros_around() {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[1, 2, 2, 2]);
        let weights = f.weights(&[4, 1, 2, 2]);
        let conv = NewNode::new("Conv", [x, weights]).with("group", 2).with("pads", vec![0i64, 0, 1, 1]);
        let y = f.node(conv);
        let f = f.with_output(y);
        let layers = layers(&f.graph);
        assert_eq!((layers.len(), layers[0].value.as_str()), (1, "x"));
        let mut moments = Vec::new();
        let values = [1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0];
        layers[0].window.observe(&values, &[1, 2, 2, 2], &mut moments);
        // Four windows: [1 2 3 4], [2 0 4 0], [3 4 0 0], [4 0 0 0].
        assert_eq!(moments[0].mean(), [2.5, 1.5, 1.75, 1.0]);
        assert_eq!(moments[1].mean(), [25.0, 15.0, 17.5, 10.0]);
        assert_eq!(moments[0].squares(), [7.5, 5.0, 6.25, 4.0]);
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let window = Window::Places {
            kernel: vec![3, 3],
            strides: vec![1, 1],
            dilations: vec![1, 1],
            pads: vec![0; 4],
            groups: 1,
        };
        let mut moments = Vec::new();
        window.observe(&[1.0; 4], &[1, 1, 2, 2], &mut moments);
        window.observe(&[1.0; 4], &[4], &mut moments);
        assert!(moments.is_empty());
    }
}
