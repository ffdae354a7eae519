//! How the work of a convolution is cut up. Sums of the weights' gradient are cut by shape alone, so that results do not
//! depend on the threads.

use std::marker::PhantomData;
use std::ops::Range;

use super::Geometry;
use super::transform::Place;
use super::weights::Direction;
use crate::leaves::MOST_PARTS;
use crate::partition::{TASKS_PER_THREAD, are_many, split_range};
use crate::prefetch::MapRows;
use crate::{MapShape, ThreadPool, Workspace};

/// Reading all weights once, as each group does, takes as long as multiplying so many tiles.
const WEIGHTS_IN_TILES: f64 = 4.5;

/// What work by stages costs, at least, compared with the largest groups: see [`super::stages`].
const STAGES_COST: f64 = 1.15;

/// Whether a batch has so few images that threads would be without work, or would all read all weights for a few tiles.
fn are_few(geometry: &Geometry, threads: usize) -> bool {
    let images = geometry.input.images;
    threads > 1 && (images < threads || images * geometry.tiles() <= Workspace::GROUP_TILES)
}

/// How many partial sums of the weights' gradient so many images are worth: a sum costs a pass over it, and so many cost a
/// few hundredths of the GEMMs.
pub(super) fn wanted_parts(geometry: &Geometry, images: usize) -> usize {
    images * geometry.tiles() / 500
}

/// Parts of the batch, and groups of each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Images that are in the domain together.
    pub images: usize,
    /// Bands that an image is cut into, where it has more tiles than a group.
    pub bands: usize,
    /// Parts of the batch, a task each. Backward has those of the tree's leaves instead.
    pub parts: usize,
}

/// Bands of images that are in the domain together.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub images: Range<usize>,
    /// Rows of tiles.
    pub band: Range<usize>,
}

impl Schedule {
    /// With groups of about so many tiles: enough rows for the GEMMs, few enough for the cache. Results do not depend on
    /// their number.
    pub fn new(geometry: &Geometry, direction: Direction, group_tiles: usize) -> Self {
        let (tiles, images) = (geometry.tiles(), geometry.input.images);
        let parts = wanted_parts(geometry, images).clamp(4, MOST_PARTS).min(images);
        Schedule {
            images: (group_tiles / tiles).max(1).min(images.div_ceil(parts)),
            bands: match direction {
                Direction::Forward => 1,
                Direction::Backward => tiles.div_ceil(group_tiles).min(geometry.tiles_y),
            },
            parts,
        }
    }

    /// The same for the forward pass on many threads or over few images, where parts and groups do not change results: as many groups as
    /// keep all threads at work to the end. `None` where it is better to go by stages.
    pub fn for_threads(self, geometry: &Geometry, pool: &ThreadPool) -> Option<Self> {
        let threads = pool.threads();
        if !are_many(threads) {
            return (!are_few(geometry, threads)).then_some(self);
        }
        let all = geometry.input.images;
        // Time, in units of one image's GEMMs.
        let cost = |&images: &usize| {
            pool.rounds(all.div_ceil(images))
                * (images as f64 + WEIGHTS_IN_TILES / geometry.tiles() as f64)
        };
        let by_cost = |a: &usize, b: &usize| cost(a).total_cmp(&cost(b));
        let images = (1..=self.images).rev().min_by(by_cost)?;
        let ideal = 1.0 + WEIGHTS_IN_TILES / (self.images * geometry.tiles()) as f64;
        let stages = STAGES_COST * ideal * all as f64 / threads as f64;
        let parts = all.div_ceil(images).min(TASKS_PER_THREAD * threads);
        (cost(&images) < stages).then_some(Schedule { images, parts, ..self })
    }

    /// The most rows of tiles that are in the domain together.
    pub fn rows(self, geometry: &Geometry) -> usize {
        self.images * geometry.tiles_y.div_ceil(self.bands)
    }

    /// The images of a part of the batch.
    pub fn images_of(self, geometry: &Geometry, part: usize) -> Range<usize> {
        split_range(geometry.input.images, self.parts, part)
    }

    /// The groups of a part of the batch, in order.
    pub fn groups(
        self,
        geometry: &Geometry,
        mine: Range<usize>,
    ) -> impl Iterator<Item = Group> + Clone {
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
    /// The rows of tiles of all its images.
    pub fn rows(&self) -> usize {
        self.images.len() * self.band.len()
    }

    /// Where the tiles of its image `index` are, in maps of this shape and in the domain of the group.
    pub fn place<'a, T, D>(
        &self,
        geometry: &'a Geometry,
        shape: MapShape,
        domain: D,
        index: usize,
        scratch: *mut f32,
    ) -> Place<'a, T, D> {
        Place {
            geometry,
            image: self.images.start + index,
            blocks: 0..shape.blocks(),
            band: self.band.clone(),
            domain,
            first: index * self.band.len(),
            scratch,
            tile: PhantomData,
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskTimes;
    use crate::conv_shape::Convolution;
    use crate::winograd::Variant;

    /// The schedule of 125 images on so many threads.
    fn schedule(channels: usize, side: usize, threads: usize, unequal: bool) -> Option<Schedule> {
        schedule_of(125, channels, side, threads, unequal)
    }

    fn schedule_of(
        images: usize,
        channels: usize,
        side: usize,
        threads: usize,
        unequal: bool,
    ) -> Option<Schedule> {
        let layer =
            Convolution { inputs: channels, outputs: channels, kernel: 3, stride: 1, padding: 1 };
        let input = MapShape { images, channels, height: side, width: side };
        let geometry = Geometry::new(Variant::Four, &layer, input);
        let mut pool = ThreadPool::recording(threads, TaskTimes::default());
        pool.set_unequal_cores(unequal);
        Schedule::new(&geometry, Direction::Forward, 64).for_threads(&geometry, &pool)
    }

    #[test]
    fn groups_keep_all_threads_at_work() {
        for (channels, side) in [(64, 32), (128, 16), (256, 8)] {
            for threads in [6, 8, 12, 16, 64] {
                let Some(schedule) = schedule(channels, side, threads, false) else { continue };
                let groups = 125_usize.div_ceil(schedule.images);
                let busy = groups as f64 / (groups.div_ceil(threads) * threads) as f64;
                assert!(busy > 0.8, "{channels} channels, {threads} threads: {schedule:?}");
                assert!(schedule.parts >= groups.min(3 * threads));
            }
        }
        // Groups of two images would read the weights too often.
        assert!(schedule(256, 8, 64, false).is_none());
        // Few threads take the parts as they are.
        assert_eq!(schedule(256, 8, 2, false).unwrap().parts, 4);
    }

    #[test]
    fn all_threads_work_on_one_image() {
        let by_stages =
            |images, channels, side| schedule_of(images, channels, side, 2, false).is_none();
        assert!(by_stages(1, 64, 32) && by_stages(1, 64, 64) && by_stages(4, 256, 8));
        assert!(!by_stages(2, 64, 32) && !by_stages(125, 256, 8));
        assert!(schedule_of(1, 64, 32, 1, false).is_some());
    }

    #[test]
    fn unequal_cores_get_smaller_tasks() {
        let tasks = |unequal| schedule(64, 32, 16, unequal).unwrap().parts;
        assert!(tasks(true) >= 48 && tasks(false) >= 16);
        assert_eq!(schedule(256, 8, 16, false).unwrap().parts, 16);
        // One task a core would wait for the slowest.
        assert!(schedule(256, 8, 16, true).is_none_or(|schedule| schedule.parts > 30));
    }
}
