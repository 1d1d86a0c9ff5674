//! Blocks of pixels that become channels, and channels that become blocks of pixels.

use onnx_opt_ir::{Attributes, Dim, Graph, ValueId};

use super::facts::{axis, element, only_use, shape};
use super::slice::ranges;
use super::support::supports;
use super::weights::own_weight;
use crate::rewrite::{Miss, Patch, Rewrite, Site, ensure, found, language::finish};

rules! {
    /// Channels taken apart, moved behind rows and columns, and joined with these: DepthToSpace.
    depth_to_space [exact, since 11]: Reshape(Transpose(Reshape(x, to) as apart){perm: ints perm}, back) as y
        => do |site| { depth_to_space_of(site, x, apart, perm, y) };

    /// Rows and columns taken apart, moved before the channels, and joined with these: SpaceToDepth.
    space_to_depth [exact, since 1]: Reshape(Transpose(Reshape(x, to) as apart){perm: ints perm}, back) as y
        => do |site| { space_to_depth_of(site, x, apart, perm, y) };

    /// Every b-th row and column from each start, joined as channels in the order of the starts: SpaceToDepth.
    space_to_depth_of_slices [exact, since 10]: Concat(..parts) => do |site| {
        let blocks = read_blocks(site.graph, site.root)?;
        ensure(blocks.places.iter().copied().eq(0..blocks.places.len()), "the order is another one")?;
        supports(site, "SpaceToDepth", blocks.x)?;
        let mut patch = Patch::new();
        let new = patch.node("SpaceToDepth", [blocks.x], blocks.attributes());
        finish(site, patch, new)
    };

    /// In another order of the starts, as YOLO has it, the weights of the Conv behind change places.
    space_to_depth_convolution [rounding, since 10]: Conv(Concat(..parts) as joined, const w, b?)
        => do |site| { space_to_depth_convolution_of(site, joined, w, b) };
}

/// Sizes of an image, of what it is taken apart into, and of the image that results.
struct Sizes<'g> {
    whole: [&'g Dim; 4],
    apart: [&'g Dim; 6],
    result: [&'g Dim; 4],
}

impl<'g> Sizes<'g> {
    fn of(graph: &'g Graph, x: ValueId, apart: ValueId, y: ValueId) -> Result<Self, Miss> {
        let (Some([a, b, c, d]), Some([e, f, g, h, i, j]), Some([k, l, m, n])) =
            (graph.shape(x), graph.shape(apart), graph.shape(y))
        else {
            return Err("the shapes are not known to be of images".into());
        };
        Ok(Self { whole: [a, b, c, d], apart: [e, f, g, h, i, j], result: [k, l, m, n] })
    }
}

fn block_size(one: &Dim, other: &Dim) -> Result<i64, Miss> {
    let size = one.as_fixed().filter(|&size| size > 0 && one == other);
    size.ok_or_else(|| "the blocks are no squares of known size".into())
}

fn times(size: &Dim, block: i64) -> Dim {
    Dim::product([size, &Dim::fixed(block)])
}

fn depth_to_space_of(
    site: &Site<'_>,
    x: ValueId,
    apart: ValueId,
    perm: Option<Vec<i64>>,
    y: ValueId,
) -> Rewrite {
    let mode = match perm.as_deref() {
        Some([0, 3, 4, 1, 5, 2]) => "DCR",
        Some([0, 1, 4, 2, 5, 3]) => "CRD",
        _ => return Err(Miss::NoMatch),
    };
    let Sizes { whole, apart, result } = Sizes::of(site.graph, x, apart, y)?;
    let [batch, depth, rows, columns] = whole;
    let [n, a, b, c, height, width] = apart;
    let (channels, block) = if mode == "DCR" { (c, block_size(a, b)?) } else { (a, block_size(b, c)?) };
    let apart_fits = n == batch && height == rows && width == columns;
    ensure(
        apart_fits && times(&times(channels, block), block) == *depth,
        "the channels are taken apart otherwise",
    )?;
    let expected = [batch.clone(), channels.clone(), times(rows, block), times(columns, block)];
    ensure(result.into_iter().eq(&expected), "the pixels are joined otherwise")?;
    supports(site, "DepthToSpace", x)?;
    let mut patch = Patch::new();
    let attributes = Attributes::from_pairs([("blocksize", block.into()), ("mode", mode.into())]);
    let new = patch.node("DepthToSpace", [x], attributes);
    finish(site, patch, new)
}

fn space_to_depth_of(
    site: &Site<'_>,
    x: ValueId,
    apart: ValueId,
    perm: Option<Vec<i64>>,
    y: ValueId,
) -> Rewrite {
    found((perm.as_deref() == Some(&[0, 3, 5, 1, 2, 4])).then_some(()))?;
    let Sizes { whole, apart, result } = Sizes::of(site.graph, x, apart, y)?;
    let [batch, channels, height, width] = whole;
    let [n, c, rows, a, columns, b] = apart;
    let block = block_size(a, b)?;
    let apart_fits = n == batch && c == channels && times(rows, block) == *height;
    ensure(apart_fits && times(columns, block) == *width, "the pixels are taken apart otherwise")?;
    let expected = [batch.clone(), times(&times(channels, block), block), rows.clone(), columns.clone()];
    ensure(result.into_iter().eq(&expected), "the channels are joined otherwise")?;
    supports(site, "SpaceToDepth", x)?;
    let mut patch = Patch::new();
    let new = patch.node("SpaceToDepth", [x], Attributes::from_pairs([("blocksize", block.into())]));
    finish(site, patch, new)
}

/// Slices of `x` in steps of `block` from all starts.
struct Blocks {
    x: ValueId,
    block: i64,
    /// For each operand of the Concat, where SpaceToDepth has it.
    places: Vec<usize>,
}

impl Blocks {
    fn attributes(&self) -> Attributes {
        Attributes::from_pairs([("blocksize", self.block.into())])
    }
}

/// An end that no axis reaches.
const BEYOND: i64 = i32::MAX as i64;

fn read_blocks(graph: &Graph, concat: onnx_opt_ir::NodeId) -> Result<Blocks, Miss> {
    let node = graph.node(concat);
    let operands: Vec<ValueId> = found(node.inputs().iter().copied().collect())?;
    let block = operands.len().isqrt();
    found((block > 1 && block * block == operands.len()).then_some(()))?;
    let (_, slice) = found(operands.first().and_then(|&part| graph.producer_of(part, "Slice")))?;
    let x = found(slice.input(0))?;
    let [_, _, height, width] = shape(graph, x)? else { return Err("there are no four axes".into()) };
    ensure(axis(node.int("axis").unwrap_or(1), 4)? == 1, "what is joined are no channels")?;
    let mut places = Vec::new();
    for operand in operands {
        let (_, slice) = found(graph.producer_of(operand, "Slice"))?;
        ensure(slice.input(0) == Some(x), "the slices are of different values")?;
        only_use(graph, operand)?;
        let ranges = ranges(graph, slice, 4)?;
        let mut place = 0;
        for (axis, size) in [(2, height), (3, width)] {
            // That all parts have one size, which Concat asks for, says that the blocks fill the axis.
            let whole = ranges.get(&axis).filter(|range| {
                range.step == block as i64
                    && (0..range.step).contains(&range.start)
                    && (range.end >= BEYOND || size.as_fixed().is_some_and(|size| range.end >= size))
            });
            let start = whole.ok_or("a slice does not go in steps over the whole axis")?.start;
            place = place * block + usize::try_from(start).unwrap_or_default();
        }
        ensure(ranges.len() == 2, "another axis is sliced")?;
        places.push(place);
    }
    let mut sorted = places.clone();
    sorted.sort_unstable();
    ensure(sorted.iter().copied().eq(0..places.len()), "some blocks are left out")?;
    Ok(Blocks { x, block: block as i64, places })
}

fn space_to_depth_convolution_of(
    site: &Site<'_>,
    joined: ValueId,
    w: ValueId,
    b: Option<ValueId>,
) -> Rewrite {
    let graph = site.graph;
    let blocks = read_blocks(graph, found(graph.producer(joined))?.0)?;
    ensure(!blocks.places.iter().copied().eq(0..blocks.places.len()), "the order needs no change")?;
    supports(site, "SpaceToDepth", blocks.x)?;
    ensure(site.node().int("group").unwrap_or(1) == 1, "the channels are grouped")?;
    let weight = own_weight(graph, w)?;
    ensure(element(graph, w)? == element(graph, blocks.x)?, "the weights are of another type")?;
    let [outputs, inputs, kernel @ ..] = weight.shape() else {
        return Err("the weight has no kernel".into());
    };
    let count = blocks.places.len();
    ensure(inputs % count == 0 && *inputs > 0, "the channels are no blocks")?;
    // Blocks of input channels as an axis of its own, in the order of SpaceToDepth.
    let rest = inputs / count * kernel.iter().product::<usize>();
    let unit = weight.byte_len() / (outputs * count * rest).max(1);
    let length = rest * unit;
    let mut order = vec![0; count];
    for (operand, &place) in blocks.places.iter().enumerate() {
        order[place] = operand;
    }
    let raw = weight.raw();
    let moved: Vec<u8> = (0..*outputs)
        .flat_map(|output| order.iter().map(move |operand| (output * count + operand) * length))
        .filter_map(|start| raw.get(start..start + length))
        .flatten()
        .copied()
        .collect();
    let moved = onnx_opt_ir::Tensor::from_raw(weight.element(), weight.shape(), moved.into())
        .map_err(|error| Miss::from(error.to_string()))?;
    let mut patch = Patch::new();
    let weight = patch.constant(moved);
    let x = patch.node("SpaceToDepth", [blocks.x], blocks.attributes());
    let new = patch.node("Conv", [x, weight, b.into()], site.node().attributes().clone());
    finish(site, patch, new)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    fn around(f: &mut Fixture, x: ValueId, to: &[i64], perm: &[i64], back: &[i64]) -> ValueId {
        let (to, back) = (f.integers(to), f.integers(back));
        let t = f.op("Reshape", &[x, to]);
        let t = f.node(NewNode::new("Transpose", [t]).with("perm", perm.to_vec()));
        f.op("Reshape", &[t, back])
    }
    let moved = |rule: &'static str,
                 x: [&'static str; 4],
                 to: &'static [i64],
                 perm: [&'static [i64]; 2],
                 back: &'static [i64]| {
        Example::new(rule, move |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &x);
            let y = around(&mut f, x, to, perm[usize::from(!fires)], back);
            f.with_output(y)
        })
    };
    fn slices(f: &mut Fixture, x: ValueId, starts: &[[i64; 2]], end: i64) -> ValueId {
        let parts: Vec<ValueId> = starts
            .iter()
            .map(|start| {
                let operands = [start, &[end, i64::MAX], &[2, -1], &[2, 2]].map(|bounds| f.integers(bounds));
                f.node(NewNode::new("Slice", [x].into_iter().chain(operands)))
            })
            .collect();
        f.node(NewNode::new("Concat", parts).with("axis", 1))
    }
    vec![
        moved(
            "depth_to_space",
            ["batch", "12", "4", "5"],
            &[-1, 2, 2, 3, 4, 5],
            [&[0, 3, 4, 1, 5, 2], &[0, 3, 4, 2, 5, 1]],
            &[-1, 3, 8, 10],
        ),
        moved(
            "depth_to_space",
            ["2", "12", "4", "4"],
            &[2, 3, 2, 2, 4, 4],
            [&[0, 1, 4, 2, 5, 3], &[0, 1, 2, 4, 5, 3]],
            &[2, 3, 8, 8],
        ),
        moved(
            "space_to_depth",
            ["batch", "3", "4", "6"],
            &[-1, 3, 2, 2, 3, 2],
            [&[0, 3, 5, 1, 2, 4], &[0, 5, 3, 1, 2, 4]],
            &[-1, 12, 2, 3],
        ),
        Example::new("space_to_depth_of_slices", |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["batch", "3", "6", "4"]);
            let y = slices(&mut f, x, &[[0, 0], [0, 1], [1, 0], [1, 1]], if fires { 6 } else { 4 });
            f.with_output(y)
        }),
        // Grouped channels would have to change groups.
        Example::new("space_to_depth_convolution", |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["batch", "3", "6", "4"]);
            let t = slices(&mut f, x, &[[0, 0], [1, 0], [0, 1], [1, 1]], i64::MAX);
            let w = f.weights(if fires { &[5, 12, 2, 2] } else { &[4, 6, 2, 2] });
            let y = f.node(NewNode::new("Conv", [t, w]).with("group", if fires { 1 } else { 2 }));
            f.with_output(y)
        }),
    ]
}
