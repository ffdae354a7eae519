//! How feature maps lie in memory: blocks of sixteen channels, a pixel's block in one cache line.

use crate::simd::LANES;

/// A batch of feature maps. In memory: `[images, blocks, height, width, 16]`, where a block is
/// sixteen channels; the last block is filled up with channels that mean nothing.
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

    /// Channels, the last block filled up: the length of what there is one number of a channel of.
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

    /// Numbers in the batch.
    pub fn len(self) -> usize {
        self.images * self.image_len()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Channels of a block that mean something.
    pub(crate) fn lanes(self, block: usize) -> usize {
        LANES.min(self.channels - block * LANES)
    }

    /// Where a row begins.
    pub(crate) fn row_offset(self, image: usize, block: usize, y: usize) -> usize {
        debug_assert!(image < self.images && block < self.blocks() && y < self.height);
        ((image * self.blocks() + block) * self.height + y) * self.row_len()
    }

    /// Where a sum lies in `[images, blocks, 2, 16]`: see [`crate::norm`].
    pub(crate) fn sums_offset(self, image: usize, block: usize) -> usize {
        (image * self.blocks() + block) * 2 * LANES
    }
}

/// From planes `[images, channels, height, width]` to blocks; what fills up is zero.
pub fn to_blocked(shape: MapShape, planes: &[f32]) -> Vec<f32> {
    assert_eq!(planes.len(), shape.images * shape.channels * shape.pixels(), "wrong length");
    let mut blocks = vec![0.0; shape.len()];
    for_each(shape, |plane, block| blocks[block] = planes[plane]);
    blocks
}

/// From blocks to planes `[images, channels, height, width]`.
pub fn to_nchw(shape: MapShape, blocks: &[f32]) -> Vec<f32> {
    assert_eq!(blocks.len(), shape.len(), "wrong length");
    let mut planes = vec![0.0; shape.images * shape.channels * shape.pixels()];
    for_each(shape, |plane, block| planes[plane] = blocks[block]);
    planes
}

/// Calls with the place of each number in planes and in blocks.
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
