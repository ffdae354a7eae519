//! The layout of feature maps in memory: blocks of sixteen channels, so that a pixel's block is one
//! vector and one cache line (oneDNN's `nChw16c`).

use crate::simd::LANES;

/// The shape of a batch of feature maps. In memory they are `[images, blocks, height, width, 16]`, where
/// a block is sixteen channels; the last block is padded with channels whose numbers are ignored.
///
/// See the example of [the crate](crate).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapShape {
    /// Images in the batch.
    pub images: usize,
    /// Channels of each image.
    pub channels: usize,
    /// Rows of each map.
    pub height: usize,
    /// Columns of each map.
    pub width: usize,
}

impl MapShape {
    /// Blocks of channels.
    pub fn blocks(self) -> usize {
        self.channels.div_ceil(LANES)
    }

    /// The number of channels with the padding of the last block: the length of slices with a number
    /// for each channel.
    pub fn padded_channels(self) -> usize {
        self.blocks() * LANES
    }

    /// Pixels of one map.
    pub fn pixels(self) -> usize {
        self.height * self.width
    }

    /// Numbers in a row of one block.
    pub fn row_len(self) -> usize {
        self.width * LANES
    }

    /// Numbers in one image.
    pub fn image_len(self) -> usize {
        self.padded_channels() * self.pixels()
    }

    /// Numbers in the batch, padding included.
    pub fn len(self) -> usize {
        self.images * self.image_len()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Channels of a block without the padding.
    pub(crate) fn lanes(self, block: usize) -> usize {
        LANES.min(self.channels - block * LANES)
    }

    /// The offset of a row.
    pub(crate) fn row_offset(self, image: usize, block: usize, y: usize) -> usize {
        debug_assert!(image < self.images && block < self.blocks() && y < self.height);
        ((image * self.blocks() + block) * self.height + y) * self.row_len()
    }

    /// The offset of a block's sums in `[images, blocks, 2, 16]`: see
    /// [`ChannelSums`](crate::epilogue::ChannelSums).
    pub(crate) fn sums_offset(self, image: usize, block: usize) -> usize {
        (image * self.blocks() + block) * 2 * LANES
    }
}

/// From planes `[images, channels, height, width]` to blocks of channels; the padding is zero.
///
/// # Panics
/// If there are more or fewer numbers than the shape has.
pub fn to_blocked(shape: MapShape, planes: &[f32]) -> Vec<f32> {
    assert_eq!(planes.len(), shape.images * shape.channels * shape.pixels(), "wrong length");
    let mut blocks = vec![0.0; shape.len()];
    for_each(shape, |plane, block| blocks[block] = planes[plane]);
    blocks
}

/// From blocks of channels to planes `[images, channels, height, width]`.
///
/// # Panics
/// If there are more or fewer numbers than the shape has.
pub fn to_nchw(shape: MapShape, blocks: &[f32]) -> Vec<f32> {
    assert_eq!(blocks.len(), shape.len(), "wrong length");
    let mut planes = vec![0.0; shape.images * shape.channels * shape.pixels()];
    for_each(shape, |plane, block| planes[plane] = blocks[block]);
    planes
}

/// Calls `f` with the index of each number in planes and in blocks.
fn for_each(shape: MapShape, mut f: impl FnMut(usize, usize)) {
    let mut plane = 0;
    for image in 0..shape.images {
        for channel in 0..shape.channels {
            let start = shape.row_offset(image, channel / LANES, 0) + channel % LANES;
            for pixel in 0..shape.pixels() {
                f(plane, start + pixel * LANES);
                plane += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_to_blocks_and_back() {
        let shape = MapShape { images: 2, channels: 18, height: 3, width: 2 };
        let planes: Vec<f32> = (0..2 * 18 * 6).map(|i| i as f32).collect();
        let blocks = to_blocked(shape, &planes);
        assert_eq!(to_nchw(shape, &blocks), planes);
        // Image 1, channel 17, last pixel; and what fills up the block.
        assert_eq!(blocks[shape.row_offset(1, 1, 2) + LANES + 1], (2 * 18 * 6 - 1) as f32);
        assert_eq!(blocks[shape.row_offset(1, 1, 2) + LANES + 2], 0.0);
    }
}
