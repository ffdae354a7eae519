//! Convolutions of 3x3 filters with stride 1 by Winograd's minimal filtering, forward and backward.
//!
//! With `V`, `U` and `M` the input, the filters and the output in the transform domain:
//!
//! ```text
//! forward    M = V U                       for each product of a tile, a matrix product
//! backward   dM = A dY A^T                 once, for both:
//!            dV = dM U^T  ->  dX           (overlapping tiles are added up)
//!            dU = V^T dM  ->  dW           (V is computed again from what forward kept)
//! ```
//!
//! F(4x4) needs 2.25 products where direct convolution needs 9. So few that the transforms' traffic
//! would cost as much as the arithmetic if they went through memory: they do not.
//!
//! Two schedules, chosen by shape alone:
//!
//! - *by groups*: a task takes a group of images of about [`GROUP_TILES`] tiles through all stages,
//!   with the domain in its core's second-level cache. Gradients of filters are kept in a fixed
//!   number of partial sums, as many as cost little: see [`Schedule::parts`].
//! - *by stages*: where the filters outgrow that cache (256 x 256 channels), all images of a chunk of
//!   about [`CHUNK_TILES`] tiles are transformed, then each product is multiplied whole, then all are
//!   transformed back. Each filter is read once, and its gradient needs no partial sums.

mod tile;
mod transform;
mod weights;

use std::ops::Range;

use crate::ahead::{Ahead, Rows};
use crate::convolution::Convolution;
use crate::product::{Correlate, Multiply, PANEL, Segment};
use crate::shared::Shared;
use crate::simd::{Kernel, LANES, Simd};
use crate::sink::{GradientSink, Sink};
use crate::source::{GradientSource, Source};
use crate::workspace::{Need, Workspace};
use crate::{Maps, Processor};

use tile::{F2, F4, Tile};
use transform::{Lines, Place};
use weights::{Direction, Filters};

/// Tiles that a group has, about: enough rows for the products, few enough for the cache.
const GROUP_TILES: usize = 48;

/// The same for backward, where two domains, filters and their gradients fit in the cache together
/// if there are fewer tiles: for at most [`SMALL_FILTERS`] numbers of filters.
const GROUP_TILES_BACKWARD: usize = 32;
const SMALL_FILTERS: usize = 160 * 1024;

/// Tiles that a chunk has, at most.
const CHUNK_TILES: usize = 512;

/// Numbers of transformed filters beyond which the schedule is by stages: 2.5 MiB, more than a
/// second-level cache leaves them.
const STAGED_FILTERS: usize = 640 * 1024;

/// `k` that are multiplied in one go: a panel of 64 columns of so many fills 32 KiB.
const DEPTH: usize = 128;

/// Which size of tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Two,
    Four,
}

impl Size {
    pub fn outputs(self) -> usize {
        match self {
            Size::Two => F2::OUTPUTS,
            Size::Four => F4::OUTPUTS,
        }
    }

    pub fn products(self) -> usize {
        match self {
            Size::Two => F2::PRODUCTS,
            Size::Four => F4::PRODUCTS,
        }
    }
}

/// The tiles of a convolution.
#[derive(Clone, Copy)]
struct Geometry {
    tile: Size,
    input: Maps,
    output: Maps,
    padding: usize,
    tiles_y: usize,
    tiles_x: usize,
}

impl Geometry {
    fn new(tile: Size, layer: &Convolution, input: Maps) -> Self {
        assert!(layer.kernel == 3 && layer.stride == 1 && layer.padding <= 1, "not for Winograd");
        let output = layer.output(input);
        Geometry {
            tile,
            input,
            output,
            padding: layer.padding,
            tiles_y: output.height.div_ceil(tile.outputs()),
            tiles_x: output.width.div_ceil(tile.outputs()),
        }
    }

    /// Tiles of an image.
    fn tiles(&self) -> usize {
        self.tiles_y * self.tiles_x
    }

    /// About how many steps the products of so many tiles have: see [`Ahead`].
    fn steps<T: Tile>(&self, tiles: usize, direction: Direction) -> usize {
        let (from, to) = match direction {
            Direction::Forward => (self.input, self.output),
            Direction::Backward => (self.output, self.input),
        };
        let multiply =
            tiles.div_ceil(6) * to.blocks().div_ceil(PANEL / LANES) * from.blocks();
        let correlate = match direction {
            Direction::Forward => 0,
            Direction::Backward => {
                let rows = to.padded_channels().div_ceil(6);
                rows * from.blocks().div_ceil(PANEL / LANES) * tiles.div_ceil(LANES)
            }
        };
        T::PRODUCTS * (multiply + correlate)
    }
}

/// How the work is cut up: by shape alone, so that results do not depend on the threads.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    staged: bool,
    /// Images that are in the domain together.
    images: usize,
    /// Bands that an image is cut into, where it has more tiles than a group.
    bands: usize,
    /// Parts of the batch, a task each, with a partial sum of the filters' gradients each.
    parts: usize,
}

/// Bands of images that are in the domain together.
#[derive(Clone, Debug)]
struct Group {
    images: Range<usize>,
    /// Rows of tiles.
    band: Range<usize>,
}

impl Schedule {
    fn new(geometry: &Geometry, direction: Direction) -> Self {
        let Geometry { input, output, tile, .. } = *geometry;
        let (tiles, images) = (geometry.tiles(), input.images);
        let filters = tile.products() * input.channels * output.padded_channels();
        if filters > STAGED_FILTERS && direction == Direction::Backward {
            let chunks = (images * tiles).div_ceil(CHUNK_TILES).min(images);
            return Schedule { staged: true, images: images.div_ceil(chunks), bands: 1, parts: 1 };
        }
        // A partial sum costs a pass over it; so many cost a few hundredths of the products.
        let parts = (images * tiles / 500).clamp(4, 64).min(images);
        let group = match direction {
            Direction::Forward => GROUP_TILES,
            Direction::Backward if filters <= SMALL_FILTERS => GROUP_TILES_BACKWARD,
            Direction::Backward => GROUP_TILES,
        };
        Schedule {
            staged: false,
            images: (group / tiles).max(1).min(images.div_ceil(parts)),
            bands: match direction {
                Direction::Forward => 1,
                Direction::Backward => tiles.div_ceil(group).min(geometry.tiles_y),
            },
            parts,
        }
    }

    /// The most tiles that are in the domain together.
    fn tiles(self, geometry: &Geometry) -> usize {
        self.images * geometry.tiles_y.div_ceil(self.bands) * geometry.tiles_x
    }

    /// The groups of a part of the batch, in order.
    fn groups(self, geometry: &Geometry, index: usize) -> impl Iterator<Item = Group> + Clone {
        let mine = part(geometry.input.images, self.parts, index);
        let count = mine.len().div_ceil(self.images);
        let tiles_y = geometry.tiles_y;
        (0..count).flat_map(move |index| {
            let some = part(mine.len(), count, index);
            let images = mine.start + some.start..mine.start + some.end;
            (0..self.bands).map(move |band| Group {
                images: images.clone(),
                band: part(tiles_y, self.bands, band),
            })
        })
    }
}

/// Each thing with the one that comes after it.
fn with_next<T>(things: impl Iterator<Item = T> + Clone) -> impl Iterator<Item = (T, Option<T>)> {
    let after = things.clone().skip(1).map(Some).chain([None]);
    things.zip(after)
}

impl Group {
    /// The rows of the input that its tiles are computed from, and become.
    fn input_rows(&self, geometry: &Geometry) -> Rows {
        let row = |tile_y: usize, more: usize| {
            let row = tile_y * geometry.tile.outputs() + more;
            row.saturating_sub(geometry.padding).min(geometry.input.height)
        };
        Rows { images: self.images.clone(), rows: row(self.band.start, 0)..row(self.band.end, 2) }
    }

    /// The rows of the output that its tiles become, and are computed from.
    fn output_rows(&self, geometry: &Geometry) -> Rows {
        let row = |tile_y: usize| (tile_y * geometry.tile.outputs()).min(geometry.output.height);
        Rows { images: self.images.clone(), rows: row(self.band.start)..row(self.band.end) }
    }
}

/// All pairs of a number below `a` and one below `b`, the second changing faster.
fn pairs(a: usize, b: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..a).flat_map(move |i| (0..b).map(move |j| (i, j)))
}

/// `count` things cut into `parts` ranges, as equal as can be.
fn part(count: usize, parts: usize, index: usize) -> Range<usize> {
    count * index / parts..count * (index + 1) / parts
}

/// Numbers from a product to the next, where each has so many: an odd number of cache lines, so that
/// what is written for all products together does not fall into the same sets of the caches.
fn spread(numbers: usize) -> usize {
    (numbers.div_ceil(LANES) | 1) * LANES
}

/// The transform domain of a number of tiles: see [`transform`].
#[derive(Clone, Copy)]
struct Domain {
    start: *mut f32,
    /// Numbers from a product to the next.
    product: usize,
    tiles: usize,
}

impl Domain {
    /// Numbers of one product.
    fn product(blocks: usize, tiles: usize) -> usize {
        spread(blocks * tiles * LANES)
    }

    /// # Safety
    /// The product, the block and the tile are there.
    #[inline(always)]
    unsafe fn at(self, product: usize, block: usize, tile: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.start.add(product * self.product + (block * self.tiles + tile) * LANES) }
    }

    /// Numbers from a block to the next.
    fn block(self) -> usize {
        self.tiles * LANES
    }
}
// SAFETY: a domain is a place in memory; its users say which thread may use it when.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

/// The memory that a convolution works in.
pub(crate) fn need(size: Size, layer: &Convolution, input: Maps, backward: bool) -> Need {
    let geometry = Geometry::new(size, layer, input);
    let direction = if backward { Direction::Backward } else { Direction::Forward };
    let schedule = Schedule::new(&geometry, direction);
    let output = geometry.output;
    let tiles = schedule.tiles(&geometry);
    let product = |blocks| Domain::product(blocks, tiles);
    let (domains, filters) = if backward {
        let filters = spread(output.channels * input.padded_channels());
        let sums = schedule.parts * spread(input.channels * output.padded_channels());
        let domains = product(input.blocks()) + product(output.blocks());
        (size.products() * domains, size.products() * (filters + sums))
    } else {
        let filters = size.products() * spread(input.channels * output.padded_channels());
        let domains = if schedule.staged {
            size.products() * (product(input.blocks()) + product(output.blocks()))
        } else {
            // The output overwrites the input, one product behind it.
            (size.products() + 1) * product(input.blocks().max(output.blocks()))
        };
        (domains, filters)
    };
    let (worker, shared) = if schedule.staged { (0, domains) } else { (domains, 0) };
    Need { worker: worker + Lines::scratch(&geometry), shared: shared + filters }
}

/// See [`crate::convolution::forward`].
#[allow(clippy::too_many_arguments)]
pub(crate) fn forward(
    processor: &Processor,
    workspace: &mut Workspace,
    size: Size,
    layer: &Convolution,
    source: &Source,
    weight: &[f32],
    scale: Option<&[f32]>,
    sink: &Sink,
) {
    let geometry = Geometry::new(size, layer, source.maps);
    match size {
        Size::Two => {
            Forward { geometry, source, sink, tile: F2 }.run(processor, workspace, weight, scale)
        }
        Size::Four => {
            Forward { geometry, source, sink, tile: F4 }.run(processor, workspace, weight, scale)
        }
    }
}

/// See [`crate::convolution::backward`].
#[allow(clippy::too_many_arguments)]
pub(crate) fn backward(
    processor: &Processor,
    workspace: &mut Workspace,
    size: Size,
    layer: &Convolution,
    source: &Source,
    weight: &[f32],
    gradient: &GradientSource,
    dweight: &mut [f32],
    sink: Option<&GradientSink>,
) {
    let geometry = Geometry::new(size, layer, source.maps);
    match size {
        Size::Two => Backward { geometry, source, gradient, sink, tile: F2 }
            .run(processor, workspace, weight, dweight),
        Size::Four => Backward { geometry, source, gradient, sink, tile: F4 }
            .run(processor, workspace, weight, dweight),
    }
}

/// Transforms all filters into `out`, in tasks of some `k`.
fn transform_filters<T: Tile + Send + Sync>(
    processor: &Processor,
    filters: Filters,
    out: &mut [f32],
    tile: T,
) {
    let depth = match filters.direction {
        Direction::Forward => filters.inputs,
        Direction::Backward => filters.outputs,
    };
    let tasks = depth.div_ceil(8);
    let out = &Shared::new(out);
    processor.pool.run(tasks, |task, _| {
        let k = part(depth, tasks, task);
        processor.isa.run(weights::Transform { filters, k, out, tile });
    });
}

/// One product of all tiles with a panel of filters, `c = a u`: `M` from `V`, or `dV` from `dM`.
///
/// Whoever makes one promises that both domains have the product and their maps' blocks, that `filters`
/// are those of the product, and that no other thread is at these columns of `c`.
struct MultiplyPanel<'a> {
    a: Domain,
    a_maps: Maps,
    filters: *const f32,
    c: Domain,
    c_maps: Maps,
    product: usize,
    panel: usize,
    ahead: &'a Ahead,
    /// What is multiplied next: as many numbers as there are filters, to be asked for.
    next: Option<*const f32>,
}

impl Kernel for MultiplyPanel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const BLOCKS: usize = DEPTH / LANES;
        let MultiplyPanel { a, a_maps, filters, c, c_maps, product, panel, ahead, .. } = self;
        let vectors = (c_maps.blocks() - panel).min(PANEL / LANES);
        let depth = a_maps.channels;
        let filters = filters.wrapping_add(panel * LANES * depth);
        if let Some(next) = self.next {
            let steps = a.tiles.div_ceil(6) * a_maps.blocks();
            ahead.near(next, depth * vectors * LANES, steps);
        }
        for first in (0..a_maps.blocks()).step_by(BLOCKS) {
            let count = BLOCKS.min(a_maps.blocks() - first);
            let mut segments = [Segment { offset: 0, len: 0 }; BLOCKS];
            for (block, segment) in (first..first + count).zip(&mut segments) {
                *segment = Segment { offset: block * a.block(), len: a_maps.lanes(block) };
            }
            // SAFETY: the promise above.
            unsafe {
                let multiply = Multiply {
                    rows: a.tiles,
                    vectors,
                    a: a.at(product, 0, 0),
                    a_row: LANES,
                    segments: &segments[..count],
                    b: filters.add(first * LANES * vectors * LANES),
                    c: c.at(product, panel, 0),
                    c_row: LANES,
                    c_vector: c.block(),
                    accumulate: first > 0,
                    ahead,
                };
                multiply.run(s);
            }
        }
    }
}

/// A forward pass.
struct Forward<'a, T> {
    geometry: Geometry,
    source: &'a Source<'a>,
    sink: &'a Sink<'a>,
    tile: T,
}

/// A part of a forward pass.
enum ForwardWork {
    /// Images through all stages, and those that come next.
    Group { images: Range<usize>, next: Option<Group> },
    /// The first stage for some images of a chunk.
    Input { chunk: Range<usize>, images: Range<usize> },
    /// The second stage for a product and a panel of columns.
    Product { product: usize, panel: usize },
    /// The last stage for some images of a chunk.
    Output { chunk: Range<usize>, images: Range<usize> },
}

struct ForwardTask<'a, T> {
    pass: &'a Forward<'a, T>,
    work: ForwardWork,
    filters: *const f32,
    v: Domain,
    m: Domain,
    scratch: *mut f32,
}

/// Images that a task of the first or last stage takes.
const STAGE_IMAGES: usize = 4;

impl<T: Tile + Send + Sync> Forward<'_, T> {
    fn run(
        &self,
        processor: &Processor,
        workspace: &mut Workspace,
        weight: &[f32],
        scale: Option<&[f32]>,
    ) {
        let Geometry { input, output, .. } = self.geometry;
        let schedule = Schedule::new(&self.geometry, Direction::Forward);
        let direction = Direction::Forward;
        let filters =
            Filters { weight, inputs: input.channels, outputs: output.channels, scale, direction };
        let (workers, shared) = workspace.split();
        let (u, shared) = shared.split_at_mut(T::PRODUCTS * filters.product());
        transform_filters(processor, filters, u, self.tile);
        let u = Shared::new(u);
        let tiles = |images: &Range<usize>| images.len() * self.geometry.tiles();
        let task = |work, v, m, scratch| {
            processor.isa.run(ForwardTask {
                pass: self,
                work,
                filters: u.as_mut_ptr(),
                v,
                m,
                scratch,
            });
        };
        if !schedule.staged {
            processor.pool.run(schedule.parts, |index, worker| {
                for (group, next) in with_next(schedule.groups(&self.geometry, index)) {
                    let tiles = tiles(&group.images);
                    let product = Domain::product(input.blocks().max(output.blocks()), tiles);
                    let numbers = (T::PRODUCTS + 1) * product;
                    let scratch = Lines::scratch(&self.geometry);
                    // SAFETY: a worker's memory is its own; `need` asked for enough of it.
                    let (scratch, domain) = unsafe { workers.part(worker, scratch, numbers) };
                    let m = Domain { start: domain, product, tiles };
                    let v = Domain { start: domain.wrapping_add(product), product, tiles };
                    task(ForwardWork::Group { images: group.images, next }, v, m, scratch);
                }
            });
            return;
        }
        let chunks = input.images.div_ceil(schedule.images);
        let shared = &Shared::new(shared);
        for chunk in 0..chunks {
            let chunk = part(input.images, chunks, chunk);
            let tiles = tiles(&chunk);
            let v = Domain {
                start: shared.as_mut_ptr(),
                product: Domain::product(input.blocks(), tiles),
                tiles,
            };
            let m = Domain {
                start: shared.as_mut_ptr().wrapping_add(T::PRODUCTS * v.product),
                product: Domain::product(output.blocks(), tiles),
                tiles,
            };
            let used = T::PRODUCTS * (v.product + m.product);
            assert!(used <= shared.len(), "the workspace was made for smaller layers");
            let stages = chunk.len().div_ceil(STAGE_IMAGES);
            let scratch = |worker| {
                // SAFETY: a worker's memory is its own; `need` asked for enough of it.
                unsafe { workers.part(worker, Lines::scratch(&self.geometry), 0).0 }
            };
            let some = |index| {
                let some = part(chunk.len(), stages, index);
                chunk.start + some.start..chunk.start + some.end
            };
            processor.pool.run(stages, |index, worker| {
                let work = ForwardWork::Input { chunk: chunk.clone(), images: some(index) };
                task(work, v, m, scratch(worker));
            });
            let panels = output.blocks().div_ceil(PANEL / LANES);
            processor.pool.run(T::PRODUCTS * panels, |index, worker| {
                let (product, panel) = (index / panels, index % panels * (PANEL / LANES));
                task(ForwardWork::Product { product, panel }, v, m, scratch(worker));
            });
            processor.pool.run(stages, |index, worker| {
                let work = ForwardWork::Output { chunk: chunk.clone(), images: some(index) };
                task(work, v, m, scratch(worker));
            });
        }
    }
}

impl<T: Tile> ForwardTask<'_, T> {
    fn place(&self, image: usize, domain: Domain, first: usize) -> Place<'_, T> {
        let Forward { geometry, tile, .. } = self.pass;
        let band = 0..geometry.tiles_y;
        Place { geometry, image, band, domain, first, scratch: self.scratch, tile: *tile }
    }

    #[inline(always)]
    fn input<S: Simd>(&self, s: S, image: usize, first: usize) {
        let place = self.place(image, self.v, first);
        s.call(transform::Input { place, source: self.pass.source });
    }

    #[inline(always)]
    fn product<S: Simd>(&self, s: S, product: usize, panel: usize, ahead: &Ahead) {
        let Geometry { input, output, .. } = self.pass.geometry;
        let len = spread(input.channels * output.padded_channels());
        s.call(MultiplyPanel {
            a: self.v,
            a_maps: input,
            filters: self.filters.wrapping_add(product * len),
            c: self.m,
            c_maps: output,
            product,
            panel,
            ahead,
            next: (T::PRODUCTS * len > SMALL_FILTERS).then(|| {
                let next = (panel + PANEL / LANES).min(output.blocks());
                self.filters.wrapping_add(product * len + next * LANES * input.channels)
            }),
        });
    }

    #[inline(always)]
    fn output<S: Simd>(&self, s: S, image: usize, first: usize) {
        let place = self.place(image, self.m, first);
        s.call(transform::Output { place, sink: self.pass.sink });
    }
}

impl<T: Tile> Kernel for ForwardTask<'_, T> {
    type Output = ();
    // The source and the sink were checked; the domains have room for the images' tiles and are this
    // task's (a group), or this task's part of them is (its images' tiles, or its product's columns),
    // and the stages do not overlap: what the kernels called here ask for.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Geometry { output, .. } = self.pass.geometry;
        let tiles = self.pass.geometry.tiles();
        match &self.work {
            ForwardWork::Group { images, next } => {
                for (index, image) in images.clone().enumerate() {
                    self.input(s, image, index * tiles);
                }
                let steps = self.pass.geometry.steps::<T>(self.v.tiles, Direction::Forward);
                let mut ahead = Ahead::nothing();
                if let Some(next) = next {
                    self.pass.source.ask(&mut ahead, &next.input_rows(&self.pass.geometry));
                }
                let ahead = ahead.over(steps);
                for product in 0..T::PRODUCTS {
                    for panel in (0..output.blocks()).step_by(PANEL / LANES) {
                        self.product(s, product, panel, &ahead);
                    }
                }
                for (index, image) in images.clone().enumerate() {
                    self.output(s, image, index * tiles);
                }
            }
            ForwardWork::Input { chunk, images } => {
                for image in images.clone() {
                    self.input(s, image, (image - chunk.start) * tiles);
                }
            }
            &ForwardWork::Product { product, panel } => {
                self.product(s, product, panel, &Ahead::nothing());
            }
            ForwardWork::Output { chunk, images } => {
                for image in images.clone() {
                    self.output(s, image, (image - chunk.start) * tiles);
                }
            }
        }
        s.fence();
    }
}

/// A backward pass.
struct Backward<'a, T> {
    geometry: Geometry,
    source: &'a Source<'a>,
    gradient: &'a GradientSource<'a>,
    sink: Option<&'a GradientSink<'a>>,
    tile: T,
}

/// A part of a backward pass.
enum BackwardWork {
    /// Images through all stages, those that come next, and whether the partial sum of the filters'
    /// gradients begins with them.
    Group { group: Group, next: Option<Group>, first_of_part: bool },
    /// The first stage for some images of a chunk.
    Input { chunk: Range<usize>, images: Range<usize> },
    /// The second stage for a product and a panel of the input's channels.
    Product { product: usize, panel: usize, first_chunk: bool },
    /// The last stage for some images of a chunk.
    Output { chunk: Range<usize>, images: Range<usize> },
}

struct BackwardTask<'a, T> {
    pass: &'a Backward<'a, T>,
    work: BackwardWork,
    /// The rows of tiles of each image.
    band: Range<usize>,
    filters: *const f32,
    v: Domain,
    dm: Domain,
    /// The (partial) sum: `[product][input channel][output channel]`.
    du: *mut f32,
    scratch: *mut f32,
}

impl<T: Tile + Send + Sync> Backward<'_, T> {
    fn run(
        &self,
        processor: &Processor,
        workspace: &mut Workspace,
        weight: &[f32],
        dweight: &mut [f32],
    ) {
        let Geometry { input, output, .. } = self.geometry;
        let schedule = Schedule::new(&self.geometry, Direction::Backward);
        let (inputs, outputs) = (input.channels, output.channels);
        let direction = Direction::Backward;
        let filters = Filters { weight, inputs, outputs, scale: None, direction };
        let (workers, shared) = workspace.split();
        let (u, shared) = shared.split_at_mut(T::PRODUCTS * filters.product());
        let part_len = T::PRODUCTS * spread(inputs * output.padded_channels());
        let (parts, shared) = shared.split_at_mut(schedule.parts * part_len);
        if self.sink.is_some() {
            transform_filters(processor, filters, u, self.tile);
        }
        let u = Shared::new(u);
        let tiles = |images: &Range<usize>| images.len() * self.geometry.tiles();
        let task = |work, band, v, dm, du, scratch| {
            processor.isa.run(BackwardTask {
                pass: self,
                work,
                band,
                filters: u.as_mut_ptr(),
                v,
                dm,
                du,
                scratch,
            });
        };
        let sums = &Shared::new(parts);
        if schedule.staged {
            let all = 0..self.geometry.tiles_y;
            let chunks = input.images.div_ceil(schedule.images);
            let shared = &Shared::new(shared);
            for chunk_index in 0..chunks {
                let chunk = part(input.images, chunks, chunk_index);
                let tiles = tiles(&chunk);
                let v = Domain {
                    start: shared.as_mut_ptr(),
                    product: Domain::product(input.blocks(), tiles),
                    tiles,
                };
                let dm = Domain {
                    start: shared.as_mut_ptr().wrapping_add(T::PRODUCTS * v.product),
                    product: Domain::product(output.blocks(), tiles),
                    tiles,
                };
                let used = T::PRODUCTS * (v.product + dm.product);
                assert!(used <= shared.len(), "the workspace was made for smaller layers");
                let stages = chunk.len().div_ceil(STAGE_IMAGES);
                let scratch = |worker| {
                    // SAFETY: a worker's memory is its own; `need` asked for enough of it.
                    unsafe { workers.part(worker, Lines::scratch(&self.geometry), 0).0 }
                };
                let some = |index| {
                    let some = part(chunk.len(), stages, index);
                    chunk.start + some.start..chunk.start + some.end
                };
                processor.pool.run(stages, |index, worker| {
                    let work = BackwardWork::Input { chunk: chunk.clone(), images: some(index) };
                    task(work, all.clone(), v, dm, sums.as_mut_ptr(), scratch(worker));
                });
                let panels = input.blocks().div_ceil(PANEL / LANES);
                processor.pool.run(T::PRODUCTS * panels, |index, worker| {
                    let (product, panel) = (index / panels, index % panels * (PANEL / LANES));
                    let first_chunk = chunk_index == 0;
                    let work = BackwardWork::Product { product, panel, first_chunk };
                    task(work, all.clone(), v, dm, sums.as_mut_ptr(), scratch(worker));
                });
                if self.sink.is_some() {
                    processor.pool.run(stages, |index, worker| {
                        let work =
                            BackwardWork::Output { chunk: chunk.clone(), images: some(index) };
                        task(work, all.clone(), v, dm, sums.as_mut_ptr(), scratch(worker));
                    });
                }
            }
        } else {
            processor.pool.run(schedule.parts, |index, worker| {
                let du = sums.as_mut_ptr().wrapping_add(index * part_len);
                let groups = with_next(schedule.groups(&self.geometry, index)).enumerate();
                for (count, (group, next)) in groups {
                    let tiles = group.images.len() * group.band.len() * self.geometry.tiles_x;
                    let product = [input, output].map(|maps| Domain::product(maps.blocks(), tiles));
                    let domains = T::PRODUCTS * (product[0] + product[1]);
                    // SAFETY: a worker's memory is its own; `need` asked for enough of it.
                    let (scratch, start) =
                        unsafe { workers.part(worker, Lines::scratch(&self.geometry), domains) };
                    let v = Domain { start, product: product[0], tiles };
                    let start = start.wrapping_add(T::PRODUCTS * product[0]);
                    let dm = Domain { start, product: product[1], tiles };
                    let band = group.band.clone();
                    let work = BackwardWork::Group { group, next, first_of_part: count == 0 };
                    task(work, band, v, dm, du, scratch);
                }
            });
        }
        let (parts, dweight) = (&*parts, &Shared::new(dweight));
        let tasks = inputs.div_ceil(4);
        processor.pool.run(tasks, |task, _| {
            processor.isa.run(weights::Gather {
                parts,
                count: schedule.parts,
                inputs,
                outputs,
                range: part(inputs, tasks, task),
                dweight,
                tile: self.tile,
            });
        });
    }
}

impl<T: Tile> BackwardTask<'_, T> {
    fn place(&self, image: usize, domain: Domain, first: usize) -> Place<'_, T> {
        let Backward { geometry, tile, .. } = self.pass;
        let band = self.band.clone();
        Place { geometry, image, band, domain, first, scratch: self.scratch, tile: *tile }
    }

    #[inline(always)]
    fn to_domain<S: Simd>(&self, s: S, image: usize, first: usize) {
        let Backward { source, gradient, .. } = *self.pass;
        let place = self.place(image, self.dm, first);
        s.call(transform::OutputAdjoint { place, source: gradient });
        s.call(transform::Input { place: self.place(image, self.v, first), source });
    }

    /// The gradients of the filters, then `dV` over `V`, for a panel of the input's channels.
    #[inline(always)]
    fn product<S: Simd>(
        &self,
        s: S,
        product: usize,
        panel: usize,
        accumulate: bool,
        ahead: &Ahead,
    ) {
        let Geometry { input, output, .. } = self.pass.geometry;
        let len = spread(input.channels * output.padded_channels());
        let du = self.du.wrapping_add(product * len);
        let len = spread(output.channels * input.padded_channels());
        let filters = self.filters.wrapping_add(product * len);
        let v = self.v;
        s.call(CorrelatePanel {
            v,
            dm: self.dm,
            input,
            output,
            du,
            product,
            panel,
            accumulate,
            ahead,
            next: filters.wrapping_add(panel * LANES * output.channels),
        });
        if self.pass.sink.is_some() {
            // The sums that come next: of the next panel, or behind the last one.
            let next = (panel + PANEL / LANES).min(input.blocks());
            s.call(MultiplyPanel {
                a: self.dm,
                a_maps: output,
                filters,
                c: v,
                c_maps: input,
                product,
                panel,
                ahead,
                next: Some(du.wrapping_add(next * LANES * output.padded_channels())),
            });
        }
    }

    #[inline(always)]
    fn from_domain<S: Simd>(&self, s: S, image: usize, first: usize) {
        if let Some(sink) = self.pass.sink {
            s.call(transform::InputAdjoint { place: self.place(image, self.v, first), sink });
        }
    }
}

/// One product's gradients of the filters, `du = v^T dm`, for a panel of the input's channels.
///
/// Whoever makes one promises that both domains have the product and their maps' blocks, that `du` is
/// the product's sum, and that no other thread is at these rows of it.
struct CorrelatePanel<'a> {
    v: Domain,
    dm: Domain,
    input: Maps,
    output: Maps,
    du: *mut f32,
    product: usize,
    panel: usize,
    accumulate: bool,
    ahead: &'a Ahead,
    /// The filters that are multiplied with next, to be asked for: as many as there are sums.
    next: *const f32,
}

impl Kernel for CorrelatePanel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let CorrelatePanel { v, dm, input, output, product, panel, ahead, .. } = self;
        let rows = (input.blocks() - panel).min(PANEL / LANES) * LANES;
        let steps = rows.div_ceil(6) * output.blocks().div_ceil(PANEL / LANES);
        ahead.near(self.next, rows * output.channels, steps * v.tiles.div_ceil(LANES));
        // So much of `dm` at once as stays in the first-level cache for all blocks of `v`.
        let chunks = v.tiles.div_ceil(DEPTH);
        for (chunk, vector) in pairs(chunks, output.blocks().div_ceil(PANEL / LANES)) {
            let (tiles, vector) = (part(v.tiles, chunks, chunk), vector * (PANEL / LANES));
            for block in panel..input.blocks().min(panel + PANEL / LANES) {
                // SAFETY: the promise above.
                unsafe {
                    let row = self.du.add(block * LANES * output.padded_channels());
                    let correlate = Correlate {
                        rows: input.lanes(block),
                        vectors: (output.blocks() - vector).min(PANEL / LANES),
                        lines: 1,
                        len: tiles.len(),
                        a: v.at(product, block, tiles.start),
                        a_step: LANES,
                        a_line: 0,
                        b: dm.at(product, vector, tiles.start),
                        b_step: LANES,
                        b_line: 0,
                        b_vector: dm.block(),
                        c: row.add(vector * LANES),
                        c_row: output.padded_channels(),
                        accumulate: self.accumulate || chunk > 0,
                        ahead,
                    };
                    correlate.run(s);
                }
            }
        }
    }
}

impl<T: Tile> Kernel for BackwardTask<'_, T> {
    type Output = ();
    // As for `ForwardTask`; the same holds for the sums.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let blocks = self.pass.geometry.input.blocks();
        let tiles = self.band.len() * self.pass.geometry.tiles_x;
        match &self.work {
            BackwardWork::Group { group, next, first_of_part } => {
                let images = &group.images;
                for (index, image) in images.clone().enumerate() {
                    self.to_domain(s, image, index * tiles);
                }
                let Backward { geometry, source, gradient, sink, .. } = *self.pass;
                let mut ahead = Ahead::nothing();
                if let Some(next) = next {
                    gradient.ask(&mut ahead, &next.output_rows(&geometry));
                    source.ask(&mut ahead, &next.input_rows(&geometry));
                }
                if let Some(sink) = sink {
                    sink.ask(&mut ahead, &group.input_rows(&geometry));
                }
                let ahead = ahead.over(geometry.steps::<T>(self.v.tiles, Direction::Backward));
                for product in 0..T::PRODUCTS {
                    for panel in (0..blocks).step_by(PANEL / LANES) {
                        self.product(s, product, panel, !first_of_part, &ahead);
                    }
                }
                for (index, image) in images.clone().enumerate() {
                    self.from_domain(s, image, index * tiles);
                }
            }
            BackwardWork::Input { chunk, images } => {
                for image in images.clone() {
                    self.to_domain(s, image, (image - chunk.start) * tiles);
                }
            }
            &BackwardWork::Product { product, panel, first_chunk } => {
                self.product(s, product, panel, !first_chunk, &Ahead::nothing());
            }
            BackwardWork::Output { chunk, images } => {
                for image in images.clone() {
                    self.from_domain(s, image, (image - chunk.start) * tiles);
                }
            }
        }
        s.fence();
    }
}
