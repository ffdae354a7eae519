//! For many threads, or few images: all tiles go through one stage after the other, each of which has many tasks.
//!
//! With a task for each part of the batch, [`forward`](super::forward) and [`backward`](super::backward) keep their
//! domains in the second-level caches, but there are as few tasks as parts, and more parts would change the
//! results. Here the tiles of some images, whose domains fit in the last-level cache, are transformed, in tasks of an
//! image or some blocks of it; then multiplied, in tasks of an element, a panel, and some tiles or a part of the
//! batch; then transformed back. Every number is computed as there, in the same order, so results are the same.

use std::marker::PhantomData;
use std::ops::Range;

use super::backward::Backward;
use super::forward::Forward;
use super::panel::{DomainGemm, DomainGemmTn};
use super::tile::Tile;
use super::transform::{self, Lines, Place};
use super::{Domain, Geometry, odd_cache_lines};
use crate::micro_kernel::{PANEL, panel, panels};
use crate::partition::{TASKS_PER_THREAD, chunks, images_in_cache, intersection, split_range};
use crate::prefetch::Prefetch;
use crate::simd::{Kernel, LANES, Simd};
use crate::workspace::Workers;
use crate::{DisjointSlice, MapShape, Processor};

/// The fewest tiles of a task that multiplies.
const LEAST_TILES: usize = 48;

/// Numbers of the domains of so many images, one after the other.
fn domain_lens(geometry: &Geometry, images: usize) -> [usize; 2] {
    let tiles = images * geometry.tiles();
    [geometry.input, geometry.output]
        .map(|shape| geometry.tile.elements() * Domain::element_len(shape.blocks(), tiles))
}

/// How many images' domains are in the cache together.
fn chunk_len(geometry: &Geometry, threads: usize) -> usize {
    let numbers = domain_lens(geometry, 1).iter().sum();
    images_in_cache(numbers, threads).min(geometry.input.images)
}

/// Numbers of shared memory for the domains, of this batch or a smaller one.
pub(super) fn domains(geometry: &Geometry, threads: usize) -> usize {
    if threads == 1 {
        return 0;
    }
    domain_lens(geometry, chunk_len(geometry, threads)).iter().sum()
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
        let fits = lens.iter().sum::<usize>() <= memory.len();
        assert!(fits, "the workspace was made for smaller layers or fewer threads");
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

/// Some blocks of an image, to be transformed between the domains and the maps.
struct Transforms<'a> {
    geometry: &'a Geometry,
    domains: &'a Domains,
    image: usize,
    /// Which of so many slices of the blocks.
    slice: usize,
    slices: usize,
    scratch: *mut f32,
}

impl<'a> Transforms<'a> {
    /// Calls `task` for each slice of each image of the domains, on all threads.
    fn run(
        processor: &Processor,
        workers: &Workers,
        geometry: &'a Geometry,
        domains: &'a Domains,
        task: impl Fn(Transforms<'a>) + Sync,
    ) {
        let (images, threads) = (domains.images.len(), processor.pool.threads());
        let most = geometry.input.blocks().min(geometry.output.blocks());
        let slices = (2 * TASKS_PER_THREAD * threads).div_ceil(images).min(most);
        let work = geometry.work() * images / geometry.input.images;
        processor.pool.run(images * slices, work, |index, worker| {
            let (image, slice) = (domains.images.start + index / slices, index % slices);
            // SAFETY: a worker's memory is its own, and one task at a time uses it.
            let (scratch, _) = unsafe { workers.part(worker, Lines::scratch(geometry), 0) };
            task(Transforms { geometry, domains, image, slice, slices, scratch });
        });
    }

    fn place<T>(&self, domain: Domain, shape: MapShape) -> Place<'a, T> {
        let Transforms { geometry, domains, image, slice, slices, scratch } = *self;
        Place {
            geometry,
            image,
            blocks: split_range(shape.blocks(), slices, slice),
            band: 0..geometry.tiles_y,
            domain,
            first: (image - domains.images.start) * geometry.tiles(),
            scratch,
            tile: PhantomData,
        }
    }

    fn input<T>(&self) -> Place<'a, T> {
        self.place(self.domains.input, self.geometry.input)
    }

    fn output<T>(&self) -> Place<'a, T> {
        self.place(self.domains.output, self.geometry.output)
    }
}

impl<T: Tile + Send + Sync> Forward<'_, T> {
    pub fn run_by_stages(&self, processor: &Processor, workers: &Workers, memory: &mut [f32]) {
        let Forward { geometry, prologue, epilogue, .. } = self;
        let (pool, isa) = (&processor.pool, processor.isa);
        for images in chunks(geometry.input.images, chunk_len(geometry, pool.threads())) {
            let work = geometry.work() * images.len() / geometry.input.images;
            let domains = &Domains::new(geometry, images, memory);
            Transforms::run(processor, workers, geometry, domains, |image| {
                isa.run(Fenced(transform::Input::<T> { place: image.input(), prologue }));
            });
            let blocks = geometry.output.blocks();
            let panels = panels(blocks).len();
            let tiles = domains.input.tiles;
            let most = 1 << (tiles / LEAST_TILES).max(1).ilog2();
            pool.run_in_pieces(T::ELEMENTS * panels, most, work, |piece, _| {
                let [a, c] = domains.tiles(piece.of(0..tiles));
                let element = piece.task / panels;
                let blocks = panel(blocks, piece.task % panels);
                isa.run(Multiply { pass: self, a, c, element, blocks });
            });
            Transforms::run(processor, workers, geometry, domains, |image| {
                isa.run(Fenced(transform::Output::<T> { place: image.output(), epilogue }));
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
    blocks: Range<usize>,
}

impl<T: Tile> Kernel for Multiply<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Multiply { pass, a, c, element, blocks } = self;
        let Geometry { input, output, .. } = pass.geometry;
        let len = odd_cache_lines(input.channels * output.padded_channels());
        s.call(DomainGemm {
            a,
            a_shape: input,
            packed: pass.packed.as_ptr().wrapping_add(element * len),
            c,
            c_shape: output,
            element,
            blocks,
            prefetch: &Prefetch::nothing(),
            next: None,
        });
    }
}

impl<T: Tile + Send + Sync> Backward<'_, T> {
    /// Computes the input's gradient, and where they are wanted the weights' gradients of leaves: into the first memory,
    /// through sums in the second.
    pub fn run_by_stages(
        &self,
        processor: &Processor,
        workers: &Workers,
        packed: &[f32],
        mut sums: Option<(&DisjointSlice<f32>, &mut [f32])>,
        memory: &mut [f32],
    ) {
        let Backward { geometry, prologue, gradient, epilogue, .. } = self;
        let (pool, isa, len) = (&processor.pool, processor.isa, self.sum_len());
        let wanted = sums.is_some();
        // The first part whose leaf is not complete.
        let mut open = 0;
        for images in self.parts.chunks(chunk_len(geometry, pool.threads())) {
            let work = geometry.work() * images.len() / geometry.input.images;
            let parts = self.parts.of(&images);
            let domains = &Domains::new(geometry, images, memory);
            Transforms::run(processor, workers, geometry, domains, |image| {
                let place = image.output::<T>();
                isa.run(transform::OutputAdjoint { place, prologue: gradient });
                if wanted {
                    isa.run(transform::Input { place: image.input::<T>(), prologue });
                }
            });
            let blocks = geometry.input.blocks();
            let panels = panels(blocks).len();
            let tasks = T::ELEMENTS * panels * parts.len();
            {
                let sums = sums.as_mut().map(|(_, sums)| DisjointSlice::new(sums));
                pool.run_in_pieces(tasks, blocks.min(PANEL / LANES), 2 * work, |piece, _| {
                    // Neighbours have the same weights.
                    let (matrix, part) =
                        (piece.task / parts.len(), parts.start + piece.task % parts.len());
                    let sums = sums.as_ref();
                    // SAFETY: another piece writes other rows of the part's sum, which all lie in it.
                    let du = sums.map(|s| unsafe { s.as_mut_ptr().add((part - open) * len) });
                    let (element, blocks) = (matrix / panels, panel(blocks, matrix % panels));
                    let all = self.parts[part].images();
                    let images = intersection(&all, &domains.images);
                    let [v, dm] = domains.tiles(domains.tiles_of(geometry, &images));
                    let accumulate = images.start > all.start;
                    isa.run(Gradients {
                        pass: self,
                        v,
                        dm,
                        packed,
                        du,
                        accumulate,
                        element,
                        blocks: piece.of(blocks),
                    });
                });
            }
            // The sums of leaves that are complete are not needed any longer, and their memory is used again while it is in
            // the cache.
            let complete =
                self.parts.iter().take_while(|part| part.images().end <= domains.images.end);
            let last = complete.enumerate().filter(|(_, part)| part.ends.is_some()).last();
            let complete = open..last.map_or(open, |(part, _)| part + 1);
            if let Some((taps, sums)) = sums.as_mut().filter(|_| !complete.is_empty()) {
                open = complete.end;
                self.gather(processor, complete, sums, taps);
            }
            let Some(epilogue) = epilogue else { continue };
            Transforms::run(processor, workers, geometry, domains, |image| {
                isa.run(Fenced(transform::InputAdjoint::<T> { place: image.input(), epilogue }));
            });
        }
    }
}

/// An element's gradients for a panel of the input's channels, or some of its blocks, from the domains of some tiles: of
/// the weights, and of the input, whose domain it overwrites.
struct Gradients<'a, T> {
    pass: &'a Backward<'a, T>,
    v: Domain,
    dm: Domain,
    packed: &'a [f32],
    /// The part's sum.
    du: Option<*mut f32>,
    /// Whether tiles before these have begun it.
    accumulate: bool,
    element: usize,
    blocks: Range<usize>,
}

impl<T: Tile> Kernel for Gradients<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Gradients { pass, v, dm, packed, du, accumulate, element, blocks } = self;
        let Geometry { input, output, .. } = pass.geometry;
        let prefetch = &Prefetch::nothing();
        let len = odd_cache_lines(output.channels * input.padded_channels());
        let packed = packed.as_ptr().wrapping_add(element * len);
        if let Some(du) = du {
            let geometry = &pass.geometry;
            let rows = blocks.clone();
            let to_sum = DomainGemmTn::to_sum(geometry, v, dm, du, element, rows, packed, prefetch);
            s.call(DomainGemmTn { accumulate, ..to_sum });
        }
        if pass.epilogue.is_some() {
            s.call(DomainGemm {
                a: dm,
                a_shape: output,
                packed,
                c: v,
                c_shape: input,
                element,
                blocks,
                prefetch,
                next: None,
            });
        }
    }
}
