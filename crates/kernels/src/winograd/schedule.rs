//! How the work of a convolution is cut up. Sums of the weights' gradient are cut by shape alone, so that results do not
//! depend on the threads.

use std::ops::Range;

use super::Geometry;
use super::weights::Direction;
use crate::prefetch::MapRows;
use crate::thread_pool::{TASKS_PER_THREAD, are_many, ranges_of, split_range};

/// Weights are read once for each group: that takes as long as so many tiles.
const WEIGHTS_IN_TILES: f64 = 4.5;

/// What work by stages costs, at least, compared with the largest groups: see [`super::stages`].
const STAGES_COST: f64 = 1.15;

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
    /// With groups of about so many tiles: enough rows for the GEMMs, few enough for the cache. Results do not depend on
    /// their number.
    pub fn new(geometry: &Geometry, direction: Direction, group_tiles: usize) -> Self {
        let (tiles, images) = (geometry.tiles(), geometry.input.images);
        // A partial sum costs a pass over it; so many cost a few hundredths of the GEMMs.
        let parts = (images * tiles / 500).clamp(4, 64).min(images);
        Schedule {
            images: (group_tiles / tiles).max(1).min(images.div_ceil(parts)),
            bands: match direction {
                Direction::Forward => 1,
                Direction::Backward => tiles.div_ceil(group_tiles).min(geometry.tiles_y),
            },
            parts,
        }
    }

    /// The same for the forward pass on so many threads, where parts and groups do not change results: as many groups as
    /// keep all threads at work to the end. `None` where it is better to go by stages.
    pub fn for_threads(self, geometry: &Geometry, threads: usize) -> Option<Self> {
        if !are_many(threads) {
            return Some(self);
        }
        let all = geometry.input.images;
        // In images without weights to read.
        let cost = |&images: &usize| {
            let rounds = all.div_ceil(images).div_ceil(threads);
            rounds as f64 * (images as f64 + WEIGHTS_IN_TILES / geometry.tiles() as f64)
        };
        let by_cost = |a: &usize, b: &usize| cost(a).total_cmp(&cost(b));
        let images = (1..=self.images).rev().min_by(by_cost)?;
        let ideal = cost(&self.images) / self.images as f64;
        let stages = STAGES_COST * ideal * all as f64 / threads as f64;
        let parts = all.div_ceil(images).min(TASKS_PER_THREAD * threads);
        (cost(&images) < stages).then_some(Schedule { images, parts, ..self })
    }

    /// The most tiles that are in the domain together.
    pub fn tiles(self, geometry: &Geometry) -> usize {
        self.images * geometry.tiles_y.div_ceil(self.bands) * geometry.tiles_x
    }

    /// The images of a part of the batch.
    pub fn images_of(self, geometry: &Geometry, part: usize) -> Range<usize> {
        split_range(geometry.input.images, self.parts, part)
    }

    /// The parts that some images belong to.
    pub fn parts_of(self, geometry: &Geometry, images: &Range<usize>) -> Range<usize> {
        ranges_of(geometry.input.images, self.parts, images)
    }

    /// The groups of a part of the batch, in order.
    pub fn groups(self, geometry: &Geometry, index: usize) -> impl Iterator<Item = Group> + Clone {
        let mine = self.images_of(geometry, index);
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
