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
use super::domain::{BackwardDomains, Domain, ForwardDomains, Operands, Order, Tiles, len_of};
use super::forward::Forward;
use super::panel::{DomainGemm, DomainGemmTn};
use super::tile::Tile;
use super::transform::{self, Lines, Place};
use super::{Geometry, weights};
use crate::micro_kernel::{PANEL, Precision, panel, panels};
use crate::partition::{TASKS_PER_THREAD, chunks, images_in_cache, intersection, split_range};
use crate::prefetch::Prefetch;
use crate::simd::{Kernel, LANES, Simd};
use crate::workspace::Workers;
use crate::{DisjointSlice, MapShape, Processor};

/// The fewest tiles of a task that multiplies.
const LEAST_TILES: usize = 48;

/// Numbers of the domains of so many images: those of backward, which are not fewer than those of forward.
fn len<T: Tile>(geometry: &Geometry, images: usize) -> usize {
    let rows = images * geometry.tiles_y;
    len_of(|start| BackwardDomains::new::<T>(geometry, rows, Order::Any, start))
}

/// How many images' domains are in the cache together.
fn chunk_len<T: Tile>(geometry: &Geometry, threads: usize) -> usize {
    images_in_cache(len::<T>(geometry, 1), threads).min(geometry.input.images)
}

/// Numbers of shared memory for the domains, of this batch or a smaller one.
pub(super) fn domains_len<T: Tile>(geometry: &Geometry, threads: usize) -> usize {
    if threads == 1 {
        return 0;
    }
    len::<T>(geometry, chunk_len::<T>(geometry, threads))
}

/// Where the domains of some images begin, in shared memory that has room for them.
fn start<T: Tile>(geometry: &Geometry, images: &Range<usize>, memory: &mut [f32]) -> *mut f32 {
    let fits = len::<T>(geometry, images.len()) <= memory.len();
    assert!(fits, "the workspace was made for smaller layers or fewer threads");
    memory.as_mut_ptr()
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
    image: usize,
    /// The first row of the image's tiles in the domains.
    first: usize,
    /// Which of so many slices of the blocks.
    slice: usize,
    slices: usize,
    scratch: *mut f32,
}

impl<'a> Transforms<'a> {
    /// Calls `task` for each slice of each of the images whose domains are in memory, on all threads.
    fn run(
        processor: &Processor,
        workers: &Workers,
        geometry: &'a Geometry,
        images: &Range<usize>,
        task: impl Fn(Transforms<'a>) + Sync,
    ) {
        let threads = processor.pool.threads();
        let most = geometry.input.blocks().min(geometry.output.blocks());
        let slices = (2 * TASKS_PER_THREAD * threads).div_ceil(images.len()).min(most);
        let work = geometry.work() * images.len() / geometry.input.images;
        processor.pool.run(images.len() * slices, work, |index, worker| {
            let (index, slice) = (index / slices, index % slices);
            let (image, first) = (images.start + index, index * geometry.tiles_y);
            // SAFETY: a worker's memory is its own, and one task at a time uses it.
            let (scratch, _) = unsafe { workers.part(worker, Lines::scratch(geometry), 0) };
            task(Transforms { geometry, image, first, slice, slices, scratch });
        });
    }

    fn place<T, D>(&self, domain: D, shape: MapShape) -> Place<'a, T, D> {
        let Transforms { geometry, image, first, slice, slices, scratch } = *self;
        Place {
            geometry,
            image,
            blocks: split_range(shape.blocks(), slices, slice),
            band: 0..geometry.tiles_y,
            domain,
            first,
            scratch,
            tile: PhantomData,
        }
    }

    /// The place of the input, and of its gradient.
    fn input<T, D>(&self, domain: D) -> Place<'a, T, D> {
        self.place(domain, self.geometry.input)
    }

    /// The place of the output, and of its gradient.
    fn output<T, D>(&self, domain: D) -> Place<'a, T, D> {
        self.place(domain, self.geometry.output)
    }
}

impl<T: Tile> Forward<'_, T> {
    pub fn run_by_stages(&self, processor: &Processor, workers: &Workers, memory: &mut [f32]) {
        let Forward { geometry, prologue, epilogue, .. } = self;
        let (pool, isa) = (&processor.pool, processor.isa);
        for images in chunks(geometry.input.images, chunk_len::<T>(geometry, pool.threads())) {
            let work = geometry.work() * images.len() / geometry.input.images;
            let start = start::<T>(geometry, &images, memory);
            let rows = images.len() * geometry.tiles_y;
            let (domains, _) = ForwardDomains::new::<T>(geometry, rows, Order::Any, start);
            let ForwardDomains { v, m } = domains;
            Transforms::run(processor, workers, geometry, &images, |image| {
                let place = image.input::<T, _>(Tiles::<T::Precision>::new(v));
                T::Precision::run(isa, Fenced(transform::Input { place, prologue }));
            });
            let blocks = geometry.output.blocks();
            let panels = panels(blocks).len();
            let most = 1 << (m.rows / LEAST_TILES).max(1).ilog2();
            pool.run_in_pieces(T::ELEMENTS * panels, most, work, |piece, _| {
                let some = piece.of(0..m.rows);
                let (a, c) = (v.part(some.clone()), m.part(some));
                let element = piece.task / panels;
                let blocks = panel(blocks, piece.task % panels);
                T::Precision::run(isa, Multiply { pass: self, a, c, element, blocks });
            });
            Transforms::run(processor, workers, geometry, &images, |image| {
                let place = image.output::<T, _>(m);
                T::Precision::run(isa, Fenced(transform::Output { place, epilogue }));
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
        let len = weights::packed_stride::<T::Precision>(input.channels, output.channels);
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
            precision: T::Precision::default(),
        });
    }
}

impl<T: Tile> Backward<'_, T> {
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
        for images in self.parts.chunks(chunk_len::<T>(geometry, pool.threads())) {
            let work = geometry.work() * images.len() / geometry.input.images;
            let parts = self.parts.of(&images);
            let start = start::<T>(geometry, &images, memory);
            let rows = images.len() * geometry.tiles_y;
            let (domains, _) = BackwardDomains::new::<T>(geometry, rows, Order::Any, start);
            let BackwardDomains { v, dm, dm_over_channels, dv } = domains;
            Transforms::run(processor, workers, geometry, &images, |image| {
                let place = image.output::<T, _>(T::Precision::over_both(dm_over_channels, dm));
                T::Precision::run(isa, transform::OutputAdjoint { place, prologue: gradient });
                if wanted {
                    let place = image.input::<T, _>(T::Precision::over_tiles(v));
                    T::Precision::run(isa, transform::Input { place, prologue });
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
                    let some = intersection(&all, &images);
                    let first = |image: usize| (image - images.start) * geometry.tiles_y;
                    let domains = domains.part::<T>(geometry, first(some.start)..first(some.end));
                    let accumulate = some.start > all.start;
                    T::Precision::run(
                        isa,
                        Gradients {
                            pass: self,
                            domains,
                            packed,
                            du,
                            accumulate,
                            element,
                            blocks: piece.of(blocks),
                        },
                    );
                });
            }
            // The sums of leaves that are complete are not needed any longer, and their memory is used again while it is in
            // the cache.
            let complete = self.parts.iter().take_while(|part| part.images().end <= images.end);
            let last = complete.enumerate().filter(|(_, part)| part.ends.is_some()).last();
            let complete = open..last.map_or(open, |(part, _)| part + 1);
            if let Some((taps, sums)) = sums.as_mut().filter(|_| !complete.is_empty()) {
                open = complete.end;
                self.gather(processor, complete, sums, taps);
            }
            let Some(epilogue) = epilogue else { continue };
            Transforms::run(processor, workers, geometry, &images, |image| {
                let place = image.input::<T, _>(dv);
                T::Precision::run(isa, Fenced(transform::InputAdjoint { place, epilogue }));
            });
        }
    }
}

/// An element's gradients for a panel of the input's channels, or some of its blocks, from the domains of some tiles: of
/// the weights, and of the input.
struct Gradients<'a, T> {
    pass: &'a Backward<'a, T>,
    domains: BackwardDomains,
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
        let Gradients { pass, domains, packed, du, accumulate, element, blocks } = self;
        let BackwardDomains { v, dm, dm_over_channels, dv } = domains;
        let Geometry { input, output, .. } = pass.geometry;
        let (prefetch, precision) = (&Prefetch::nothing(), T::Precision::default());
        let len = weights::packed_stride::<T::Precision>(output.channels, input.channels);
        let packed = packed.as_ptr().wrapping_add(element * len);
        if let Some(du) = du {
            let geometry = &pass.geometry;
            let rows = blocks.clone();
            let to_sum = DomainGemmTn::to_sum(
                geometry, v, dm, du, element, rows, packed, prefetch, precision,
            );
            s.call(DomainGemmTn { accumulate, ..to_sum });
        }
        if pass.epilogue.is_some() {
            s.call(DomainGemm {
                a: dm_over_channels,
                a_shape: output,
                packed,
                c: dv,
                c_shape: input,
                element,
                blocks,
                prefetch,
                next: None,
                precision,
            });
        }
    }
}
