//! How the work of a convolution is cut up. Sums of the weights' gradient are cut by shape alone, so that results do not
//! depend on the threads.

use std::ops::Range;

use super::Geometry;
use super::weights::Direction;
use crate::prefetch::MapRows;
use crate::thread_pool::{enough_tasks, split_range, split_ranges};

/// Tiles of a group, about: enough rows for the GEMMs, few enough for the cache.
const GROUP_TILES: usize = 48;

/// The same for backward, where two domains, weights and their gradients fit in the cache together if
/// there are fewer tiles: for at most [`SMALL_WEIGHTS`] transformed weights.
const GROUP_TILES_BACKWARD: usize = 32;
pub(super) const SMALL_WEIGHTS: usize = 160 * 1024;

/// Parts of the batch, and groups of each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Images that are in the domain together.
    pub images: usize,
    /// Bands that an image is cut into, where it has more tiles than a group.
    pub bands: usize,
    /// Parts of the batch, a task each, with a partial sum of the weights' gradient each.
    pub parts: usize,
}

/// Bands of images that are in the domain together.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub images: Range<usize>,
    /// MapRows of tiles.
    pub band: Range<usize>,
}

impl Schedule {
    pub fn new(geometry: &Geometry, direction: Direction) -> Self {
        let Geometry { input, output, tile, .. } = *geometry;
        let (tiles, images) = (geometry.tiles(), input.images);
        let weights = tile.elements() * input.channels * output.padded_channels();
        // A partial sum costs a pass over it; so many cost a few hundredths of the GEMMs.
        let parts = (images * tiles / 500).clamp(4, 64).min(images);
        let group = match direction {
            Direction::Forward => GROUP_TILES,
            Direction::Backward if weights <= SMALL_WEIGHTS => GROUP_TILES_BACKWARD,
            Direction::Backward => GROUP_TILES,
        };
        Schedule {
            images: (group / tiles).max(1).min(images.div_ceil(parts)),
            bands: match direction {
                Direction::Forward => 1,
                Direction::Backward => tiles.div_ceil(group).min(geometry.tiles_y),
            },
            parts,
        }
    }

    /// The same with more parts, if there are groups for them: forward their number does not change results.
    pub fn for_threads(self, geometry: &Geometry, threads: usize) -> Self {
        let groups = geometry.input.images.div_ceil(self.images);
        let parts = enough_tasks(self.parts, groups, threads);
        Schedule { parts: parts.max(self.parts), ..self }
    }

    /// The most tiles that are in the domain together.
    pub fn tiles(self, geometry: &Geometry) -> usize {
        self.images * geometry.tiles_y.div_ceil(self.bands) * geometry.tiles_x
    }

    /// The images of some parts of the batch.
    pub fn images_of(self, geometry: &Geometry, parts: Range<usize>) -> Range<usize> {
        split_ranges(geometry.input.images, self.parts, parts)
    }

    /// The groups of a part of the batch, in order.
    pub fn groups(self, geometry: &Geometry, index: usize) -> impl Iterator<Item = Group> + Clone {
        let mine = self.images_of(geometry, index..index + 1);
        let count = mine.len().div_ceil(self.images);
        let tiles_y = geometry.tiles_y;
        (0..count).flat_map(move |index| {
            let some = split_range(mine.len(), count, index);
            let images = mine.start + some.start..mine.start + some.end;
            (0..self.bands).map(move |band| Group {
                images: images.clone(),
                band: split_range(tiles_y, self.bands, band),
            })
        })
    }
}

/// Each thing with the one that comes after it.
pub(super) fn with_next<T>(
    things: impl Iterator<Item = T> + Clone,
) -> impl Iterator<Item = (T, Option<T>)> {
    let after = things.clone().skip(1).map(Some).chain([None]);
    things.zip(after)
}

impl Group {
    /// The tiles of all its images.
    pub fn tiles(&self, geometry: &Geometry) -> usize {
        self.images.len() * self.band.len() * geometry.tiles_x
    }

    /// The rows of the input that its tiles are computed from, and become.
    pub fn input_rows(&self, geometry: &Geometry) -> MapRows {
        let row = |tile_y: usize, more: usize| {
            let row = tile_y * geometry.tile.outputs() + more;
            row.saturating_sub(geometry.padding).min(geometry.input.height)
        };
        MapRows {
            images: self.images.clone(),
            rows: row(self.band.start, 0)..row(self.band.end, 2),
        }
    }

    /// The rows of the output that its tiles become, and are computed from.
    pub fn output_rows(&self, geometry: &Geometry) -> MapRows {
        let row = |tile_y: usize| (tile_y * geometry.tile.outputs()).min(geometry.output.height);
        MapRows { images: self.images.clone(), rows: row(self.band.start)..row(self.band.end) }
    }
}
