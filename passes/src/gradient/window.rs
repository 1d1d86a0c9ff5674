//! The windows of convolutions and pooling.

use onnx_opt_ir::{NewNode, ValueId};

use super::movement::padded;
use super::step::Step;
use super::writer::{Size, Written};

/// A window that slides over spatial axes.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub kernel: Vec<i64>,
    pub strides: Vec<i64>,
    pub dilations: Vec<i64>,
    pub before: Vec<i64>,
    pub after: Vec<i64>,
}

impl Window {
    /// The window that a node describes, over an operand and result of these values.
    pub fn of(s: &Step<'_, '_>, kernel: Vec<i64>, input: ValueId, output: ValueId) -> Written<Self> {
        let axes = kernel.len();
        let list = |name: &str, default: i64| match s.node.ints(name) {
            Some(values) if values.len() == axes => Ok(values.to_vec()),
            Some(_) => Err(format!("`{name}` is not of one number for each spatial axis")),
            None => Ok(vec![default; axes]),
        };
        let (strides, dilations) = (list("strides", 1)?, list("dilations", 1)?);
        let auto = s.string("auto_pad");
        let mut window = Self { kernel, strides, dilations, before: vec![0; axes], after: vec![0; axes] };
        match auto.as_str() {
            "" | "NOTSET" => {
                if let Some(pads) = s.node.ints("pads") {
                    if pads.len() != 2 * axes {
                        return Err("`pads` is not of two for each spatial axis".into());
                    }
                    (window.before, window.after) = (pads[..axes].to_vec(), pads[axes..].to_vec());
                }
            }
            "VALID" => {}
            same => {
                for axis in 0..axes {
                    let sizes = (s.fixed_axis(input, axis + 2), s.fixed_axis(output, axis + 2));
                    let (Some(small), Some(large)) = sizes else {
                        return Err(format!("auto_pad {same} of sizes that are not known").into());
                    };
                    let total = ((large - 1) * window.strides[axis] + window.extent(axis) - small).max(0);
                    let half = if same == "SAME_LOWER" { total - total / 2 } else { total / 2 };
                    (window.before[axis], window.after[axis]) = (half, total - half);
                }
            }
        }
        Ok(window)
    }

    /// Elements from the first to the last of a window.
    pub fn extent(&self, axis: usize) -> i64 {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }

    pub fn pads(&self) -> Vec<i64> {
        [&self.before[..], &self.after[..]].concat()
    }

    /// Each element of `g`, spread by a window of weights [in, out/group, kernel...] to where the window lay in `x`,
    /// summed where windows overlap: the transposed convolution, in the sizes of `x`.
    pub fn spread(
        &self,
        s: &mut Step<'_, '_>,
        g: ValueId,
        weights: ValueId,
        group: i64,
        x: ValueId,
    ) -> Written {
        let axes = self.kernel.len();
        let node = NewNode::new("ConvTranspose", [g, weights])
            .with("strides", self.strides.clone())
            .with("dilations", self.dilations.clone())
            .with("group", group);
        let sizes: Option<Vec<(i64, i64)>> =
            (0..axes).map(|axis| Some((s.fixed_axis(x, axis + 2)?, s.fixed_axis(g, axis + 2)?))).collect();
        if let Some(sizes) = sizes {
            // What the last window does not reach has no gradient; what it reaches past the end is cut off.
            let rest: Vec<i64> = sizes
                .iter()
                .enumerate()
                .map(|(axis, &(large, small))| {
                    let reached = (small - 1) * self.strides[axis] + self.extent(axis);
                    large + self.before[axis] - reached
                })
                .collect();
            let cut = rest.iter().zip(&self.after).all(|(&rest, &after)| after >= 0 && rest + after >= 0);
            let inside = rest.iter().zip(&self.strides).all(|(rest, &stride)| *rest <= 0 || *rest < stride);
            if cut && inside {
                let missing: Vec<i64> = rest.iter().map(|&rest| rest.max(0)).collect();
                let past: Vec<i64> = rest.iter().map(|&rest| (-rest).max(0)).collect();
                let pads = [&self.before[..], &past[..]].concat();
                return s.node(node.with("pads", pads).with("output_padding", missing));
            }
            let whole = s.node(node)?;
            let mut pads = vec![(0, 0); axes + 2];
            for axis in 0..axes {
                pads[axis + 2] = (-self.before[axis], rest[axis]);
            }
            return padded(s, whole, &pads);
        }
        // Sizes that are known when it runs: as much as any size needs, and then what there is.
        let whole = s.node(node)?;
        let mut more = vec![(0, 0); axes + 2];
        for axis in 0..axes {
            more[axis + 2].1 = self.strides[axis] - 1 + self.before[axis].max(0);
        }
        let whole = padded(s, whole, &more)?;
        let spatial: Vec<i64> = (2..axes as i64 + 2).collect();
        let starts = s.integers(&self.before);
        let mut sizes = Vec::new();
        for axis in 0..axes {
            sizes.push(s.size_of(x, axis + 2)?);
        }
        let sizes = s.concat(&sizes, 0)?;
        let ends = s.add(starts, sizes)?;
        let spatial = s.integers(&spatial);
        s.op("Slice", &[whole, starts, ends, spatial])
    }

    /// The gradient of weights [out, in/group, kernel...] by which windows of `x` [N, in, ...] became something of
    /// gradient `g` [N, out, ...]: each is a window over x whose weights are g, and the batch is summed over.
    pub fn weights(&self, s: &mut Step<'_, '_>, x: ValueId, g: ValueId, group: i64) -> Written {
        let axes = self.kernel.len();
        let spatial: Vec<usize> = (2..axes + 2).collect();
        let channels = s.fixed_axis(x, 1).ok_or("the number of channels is not known")?;
        let exchanged: Vec<usize> = [&[1, 0], &spatial[..]].concat();
        let rows = if group == 1 {
            s.transpose(x, &exchanged)?
        } else {
            // [N, g, C/g, ...] -> [C/g, g, N, ...] -> [C/g, g·N, ...]
            let part = channels / group;
            let mut sizes = vec![Size::Of(x, 0), Size::Fixed(group), Size::Fixed(part)];
            sizes.extend(spatial.iter().map(|&axis| Size::Of(x, axis)));
            let split = s.reshape_to(x, &sizes)?;
            let order: Vec<usize> = [&[2, 1, 0], &(3..axes + 3).collect::<Vec<_>>()[..]].concat();
            let turned = s.transpose(split, &order)?;
            let batch = match s.fixed_axis(x, 0) {
                Some(batch) => Size::Fixed(batch * group),
                None => Size::Fixed(-1),
            };
            let mut sizes = vec![Size::Fixed(part), batch];
            sizes.extend(spatial.iter().map(|&axis| Size::Of(x, axis)));
            s.reshape_to(turned, &sizes)?
        };
        let filters = s.transpose(g, &exchanged)?;
        let node = NewNode::new("Conv", [rows, filters])
            .with("strides", self.dilations.clone())
            .with("dilations", self.strides.clone())
            .with("group", group);
        // `Conv` takes no padding below zero.
        let found = if self.pads().iter().all(|&pad| pad >= 0) {
            s.node(node.with("pads", self.pads()))?
        } else {
            return Err("padding below zero".into());
        };
        // What the last window did not reach is more than the kernel.
        let fits = (0..axes).all(|axis| s.fixed_axis(found, axis + 2) == Some(self.kernel[axis]));
        let found = if fits {
            found
        } else {
            let all: Vec<i64> = (2..axes as i64 + 2).collect();
            s.slice(found, &all, &vec![0; axes], &self.kernel)?
        };
        s.transpose(found, &exchanged)
    }
}
