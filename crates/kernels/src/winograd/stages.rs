//! For many threads: all tiles go through one stage after the other, each of which has many tasks.
//!
//! With a task for each part of the batch, [`forward`](super::forward) and [`backward`](super::backward) keep their
//! domains in the second-level caches, but there are as few tasks as parts, and more parts would change the
//! results. Here the tiles of many images are transformed, in tasks of an image; then multiplied, in tasks of an
//! element, a panel, and some tiles or a part of the batch; then transformed back. Their domains lie in the last-level cache. Every number is computed as
//! there, in the same order, so results are the same.

use std::marker::PhantomData;
use std::ops::Range;

use super::backward::Backward;
use super::forward::Forward;
use super::panel::{DomainGemm, DomainGemmTn};
use super::schedule::Schedule;
use super::tile::Tile;
use super::transform::{self, Lines, Place};
use super::weights::Direction;
use super::{Domain, Geometry, odd_cache_lines};
use crate::micro_kernel::PANEL;
use crate::prefetch::Prefetch;
use crate::simd::{Kernel, LANES, Simd};
use crate::thread_pool::{
    TASKS_PER_THREAD, are_many, chunks_in_cache, numbers_in_cache, split_range,
};
use crate::workspace::Workers;
use crate::{DisjointSlice, Processor};

/// The fewest tiles of a task that multiplies.
const LEAST_TILES: usize = 48;

/// Numbers of the domains of so many images, one after the other.
fn domain_lens(geometry: &Geometry, images: usize) -> [usize; 2] {
    let tiles = images * geometry.tiles();
    [geometry.input, geometry.output]
        .map(|shape| geometry.tile.elements() * Domain::element_len(shape.blocks(), tiles))
}

/// Numbers of shared memory for the domains. So many are enough for smaller batches, too, which may go by stages where
/// this one does not.
pub(super) fn domains(geometry: &Geometry, backward: Option<Schedule>, threads: usize) -> usize {
    if !are_many(threads) {
        return 0;
    }
    let len = |images| domain_lens(geometry, images).iter().sum::<usize>();
    let images = geometry.input.images;
    let largest = match backward {
        None => chunks_in_cache(images, len(1), threads).map(|images| len(images.len())).max(),
        Some(schedule) => {
            let part = len(images.div_ceil(schedule.parts));
            let chunks = chunks_in_cache(schedule.parts, part, threads);
            chunks.map(|parts| len(schedule.images_of(geometry, parts).len())).max()
        }
    };
    largest.unwrap_or_default().max(len(images).min(numbers_in_cache(threads)))
}

/// The domains of some images in shared memory: of the input, and of the output.
struct Domains {
    images: Range<usize>,
    input: Domain,
    output: Domain,
}

impl Domains {
    fn new(geometry: &Geometry, images: Range<usize>, memory: &mut [f32]) -> Self {
        let tiles = images.len() * geometry.tiles();
        let lens = domain_lens(geometry, images.len());
        assert!(lens.iter().sum::<usize>() <= memory.len(), "the workspace is too small");
        let start = memory.as_mut_ptr();
        Domains {
            input: Domain::new(start, geometry.input.blocks(), tiles),
            output: Domain::new(start.wrapping_add(lens[0]), geometry.output.blocks(), tiles),
            images,
        }
    }

    /// The same of some of the tiles.
    fn tiles(&self, tiles: Range<usize>) -> [Domain; 2] {
        [self.input, self.output].map(|domain| domain.part(tiles.clone()))
    }

    /// The tiles of some of the images.
    fn tiles_of(&self, geometry: &Geometry, images: &Range<usize>) -> Range<usize> {
        let tile = |image: usize| (image - self.images.start) * geometry.tiles();
        tile(images.start)..tile(images.end)
    }
}

/// A worker's scratch memory.
///
/// # Safety
/// As of [`Workers::part`].
unsafe fn scratch(workers: &Workers, worker: usize, geometry: &Geometry) -> *mut f32 {
    // SAFETY: the caller's promise.
    unsafe { workers.part(worker, Lines::scratch(geometry), 0).0 }
}

/// A transform, after which other threads may read what it has written past the caches.
struct Fenced<K>(K);

impl<K: Kernel<Output = ()>> Kernel for Fenced<K> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        s.call(self.0);
        s.fence();
    }
}

/// An image between the domains and its maps.
fn place<'a, T>(
    geometry: &'a Geometry,
    domain: Domain,
    first_image: usize,
    image: usize,
    scratch: *mut f32,
) -> Place<'a, T> {
    let (band, first) = (0..geometry.tiles_y, (image - first_image) * geometry.tiles());
    Place { geometry, image, band, domain, first, scratch, tile: PhantomData }
}

/// The panels of a matrix with columns for these blocks.
fn panels(blocks: usize) -> usize {
    blocks.div_ceil(PANEL / LANES)
}

impl<T: Tile + Send + Sync> Forward<'_, T> {
    pub fn run_by_stages(&self, processor: &Processor, workers: &Workers, memory: &mut [f32]) {
        let Forward { geometry, prologue, epilogue, .. } = self;
        let (pool, isa) = (&processor.pool, processor.isa);
        let numbers = domain_lens(geometry, 1).iter().sum();
        for images in chunks_in_cache(geometry.input.images, numbers, pool.threads()) {
            let (count, start) = (images.len(), images.start);
            let domains = &Domains::new(geometry, images, memory);
            let work = geometry.work() * count / geometry.input.images;
            pool.run(count, work, |index, worker| {
                // SAFETY: a worker's memory is its own; it has the size of `workspace_size`.
                let scratch = unsafe { scratch(workers, worker, geometry) };
                let place = place::<T>(geometry, domains.input, start, start + index, scratch);
                isa.run(Fenced(transform::Input { place, prologue }));
            });
            let panels = panels(geometry.output.blocks());
            let tiles = domains.input.tiles;
            let matrices = T::ELEMENTS * panels;
            let slices = (TASKS_PER_THREAD * pool.threads()).div_ceil(matrices);
            let slices = slices.min(tiles / LEAST_TILES).max(1);
            pool.run(matrices * slices, work, |index, _| {
                let (matrix, slice) = (index / slices, index % slices);
                let [a, c] = domains.tiles(split_range(tiles, slices, slice));
                let (element, panel) = (matrix / panels, matrix % panels * (PANEL / LANES));
                isa.run(Multiply { pass: self, a, c, element, panel });
            });
            pool.run(count, work, |index, worker| {
                // SAFETY: a worker's memory is its own; it has the size of `workspace_size`.
                let scratch = unsafe { scratch(workers, worker, geometry) };
                let place = place::<T>(geometry, domains.output, start, start + index, scratch);
                isa.run(Fenced(transform::Output { place, epilogue }));
            });
        }
    }
}

/// An element's product with a panel of weights.
struct Multiply<'a, T> {
    pass: &'a Forward<'a, T>,
    a: Domain,
    c: Domain,
    element: usize,
    panel: usize,
}

impl<T: Tile> Kernel for Multiply<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Multiply { pass, a, c, element, panel } = self;
        let Geometry { input, output, .. } = pass.geometry;
        let len = odd_cache_lines(input.channels * output.padded_channels());
        s.call(DomainGemm {
            a,
            a_shape: input,
            packed: pass.packed.as_ptr().wrapping_add(element * len),
            c,
            c_shape: output,
            element,
            panel,
            prefetch: &Prefetch::nothing(),
            next: None,
        });
    }
}

impl<T: Tile + Send + Sync> Backward<'_, T> {
    /// Computes the input's gradient, and the partial sums of the weights' gradient into `sums` where it is wanted.
    pub fn run_by_stages(
        &self,
        processor: &Processor,
        workers: &Workers,
        packed: &[f32],
        sums: Option<&DisjointSlice<f32>>,
        memory: &mut [f32],
    ) {
        let Backward { geometry, prologue, gradient, epilogue, .. } = self;
        let (pool, isa) = (&processor.pool, processor.isa);
        let schedule = Schedule::new(geometry, Direction::Backward);
        let images = geometry.input.images;
        let numbers = domain_lens(geometry, images.div_ceil(schedule.parts)).iter().sum();
        for parts in chunks_in_cache(schedule.parts, numbers, pool.threads()) {
            let images = schedule.images_of(geometry, parts.clone());
            let (count, start) = (images.len(), images.start);
            let domains = &Domains::new(geometry, images, memory);
            let work = geometry.work() * count / geometry.input.images;
            pool.run(count, work, |index, worker| {
                // SAFETY: a worker's memory is its own; it has the size of `workspace_size`.
                let scratch = unsafe { scratch(workers, worker, geometry) };
                let place = |domain| place::<T>(geometry, domain, start, start + index, scratch);
                isa.run(transform::OutputAdjoint {
                    place: place(domains.output),
                    prologue: gradient,
                });
                if sums.is_some() {
                    isa.run(Fenced(transform::Input { place: place(domains.input), prologue }));
                }
            });
            let panels = panels(geometry.input.blocks());
            let matrices = T::ELEMENTS * panels;
            pool.run(matrices * parts.len(), 2 * work, |index, _| {
                // Neighbours have the same weights.
                let (matrix, part) = (index / parts.len(), parts.start + index % parts.len());
                let len = T::ELEMENTS
                    * odd_cache_lines(geometry.input.channels * geometry.output.padded_channels());
                // SAFETY: another task writes other rows of the part's sum, which all lie in it.
                let du = sums.map(|sums| unsafe { sums.as_mut_ptr().add(part * len) });
                let (element, panel) = (matrix / panels, matrix % panels * (PANEL / LANES));
                isa.run(Gradients {
                    pass: self,
                    schedule,
                    domains,
                    packed,
                    part,
                    du,
                    element,
                    panel,
                });
            });
            let Some(epilogue) = epilogue else { continue };
            pool.run(count, work, |index, worker| {
                // SAFETY: a worker's memory is its own; it has the size of `workspace_size`.
                let scratch = unsafe { scratch(workers, worker, geometry) };
                let place = place::<T>(geometry, domains.input, start, start + index, scratch);
                isa.run(Fenced(transform::InputAdjoint { place, epilogue }));
            });
        }
    }
}

/// An element's gradients for a panel of the input's channels: of the weights, and of the input, whose domain it
/// overwrites.
struct Gradients<'a, T> {
    pass: &'a Backward<'a, T>,
    schedule: Schedule,
    domains: &'a Domains,
    packed: &'a [f32],
    part: usize,
    /// The part's sum.
    du: Option<*mut f32>,
    element: usize,
    panel: usize,
}

impl<T: Tile> Kernel for Gradients<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Gradients { pass, schedule, domains, packed, part, du, element, panel } = self;
        let geometry = &pass.geometry;
        let Geometry { input, output, .. } = *geometry;
        let prefetch = &Prefetch::nothing();
        let len = odd_cache_lines(output.channels * input.padded_channels());
        let packed = packed.as_ptr().wrapping_add(element * len);
        if let Some(du) = du {
            let len = odd_cache_lines(input.channels * output.padded_channels());
            let du = du.wrapping_add(element * len);
            for (count, group) in schedule.groups(geometry, part).enumerate() {
                // Bands follow each other in the domain.
                let image = domains.tiles_of(geometry, &group.images).start;
                let first = image + group.band.start * geometry.tiles_x;
                let [v, dm] = domains.tiles(first..first + group.tiles(geometry));
                s.call(DomainGemmTn {
                    v,
                    dm,
                    input,
                    output,
                    du,
                    element,
                    panel,
                    accumulate: count > 0,
                    prefetch,
                    next: packed.wrapping_add(panel * LANES * output.channels),
                });
            }
        }
        if pass.epilogue.is_some() {
            let images = schedule.images_of(geometry, part..part + 1);
            let [v, dm] = domains.tiles(domains.tiles_of(geometry, &images));
            s.call(DomainGemm {
                a: dm,
                a_shape: output,
                packed,
                c: v,
                c_shape: input,
                element,
                panel,
                prefetch,
                next: None,
            });
        }
    }
}
