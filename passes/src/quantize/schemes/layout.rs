//! Where the numbers of a weight lie: which are summed up together, and which share a scale.

/// A weight as a row-major tensor of three axes: sums run along the one in the middle, and there is a channel for each
/// place on the other two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Channels that lie far from each other.
    pub outer: usize,
    /// Products in a sum.
    pub length: usize,
    /// Channels that lie side by side.
    pub inner: usize,
}

impl Layout {
    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.outer * self.inner
    }

    /// Index of a number by its channel and its place in the sum.
    pub fn index(&self, channel: usize, place: usize) -> usize {
        (channel / self.inner * self.length + place) * self.inner + channel % self.inner
    }

    /// The numbers of a channel.
    pub fn channel(&self, values: &[f32], channel: usize) -> Vec<f32> {
        (0..self.length).map(|place| values[self.index(channel, place)]).collect()
    }
}

/// A weight in blocks along its sums, each with a scale of its own; the last one of a channel may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    pub layout: Layout,
    pub size: usize,
}

impl Blocks {
    /// One block for each channel.
    pub fn whole(layout: Layout) -> Self {
        Self { layout, size: layout.length.max(1) }
    }

    /// Blocks of this size, or whole channels if those are shorter.
    pub fn of(layout: Layout, size: usize) -> Self {
        Self { layout, size: size.clamp(1, layout.length.max(1)) }
    }

    /// Blocks of about this size, none of them shorter than the others.
    pub fn equal(layout: Layout, size: usize) -> Self {
        let length = layout.length.max(1);
        let divides = |size: &usize| length.is_multiple_of(*size);
        let below = (1..=size.min(length)).rev().find(divides).unwrap_or(1);
        let above = (size.min(length)..=length).find(divides).unwrap_or(length);
        // Half the size costs as much in scales as twice the size does in accuracy.
        let closest = if size * size <= below * above { below } else { above };
        Self { layout, size: closest }
    }

    /// Blocks in a channel.
    pub fn per_channel(&self) -> usize {
        self.layout.length.div_ceil(self.size)
    }

    /// Number of blocks.
    pub fn count(&self) -> usize {
        self.layout.channels() * self.per_channel()
    }

    /// Index of the block of a channel: scales lie as the numbers do, with blocks in the place of sums.
    pub fn index(&self, channel: usize, block: usize) -> usize {
        Layout { length: self.per_channel(), ..self.layout }.index(channel, block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: Layout = Layout { outer: 1, length: 3, inner: 2 };

    #[test]
    fn channels_are_columns_or_rows() {
        let values = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        assert_eq!(COLUMNS.channel(&values, 1), [1.0, 3.0, 5.0]);
        let rows = Layout { outer: 2, length: 3, inner: 1 };
        assert_eq!(rows.channel(&values, 1), [3.0, 4.0, 5.0]);
    }

    #[test]
    fn blocks_are_near_the_size_asked_for() {
        let of = |length, size| Blocks::equal(Layout { outer: 1, length, inner: 1 }, size).size;
        assert_eq!([of(64, 32), of(576, 32), of(70, 32), of(27, 32), of(97, 32)], [32, 32, 35, 27, 97]);
        assert_eq!(of(2 * 97, 32), 97);
    }

    #[test]
    fn the_last_block_may_be_shorter() {
        let blocks = Blocks::of(COLUMNS, 2);
        assert_eq!((blocks.per_channel(), blocks.count()), (2, 4));
        assert_eq!((blocks.index(0, 1), blocks.index(1, 0)), (2, 1));
    }
}
