//! The forward pass: `M = V U` between the transforms of the input and of the output.

use std::marker::PhantomData;

use super::panel::DomainGemm;
use super::schedule::{Group, Schedule, with_next};
use super::tile::Tile;
use super::transform::{self, Lines, Place};
use super::weights::Direction;
use super::{Domain, Geometry, odd_cache_lines};
use crate::epilogue::Epilogue;
use crate::micro_kernel::panels;
use crate::prefetch::Prefetch;
use crate::prologue::Prologue;
use crate::simd::{Kernel, LANES, Simd};
use crate::workspace::Workspace;
use crate::{MapShape, Processor};

/// Transformed weights that stay in the cache, so that a GEMM finds them without prefetching.
const SMALL_WEIGHTS: usize = 160 * 1024;

/// A forward pass.
pub(super) struct Forward<'a, T> {
    pub geometry: Geometry,
    pub prologue: &'a Prologue<'a>,
    /// Transformed: see [`super::weights`].
    pub packed: &'a [f32],
    pub epilogue: &'a Epilogue<'a>,
    pub tile: PhantomData<T>,
}

impl<T: Tile + Send + Sync> Forward<'_, T> {
    pub fn run(&self, processor: &Processor, workspace: &mut Workspace) {
        let Geometry { input, output, .. } = self.geometry;
        let schedule = Schedule::new(&self.geometry, Direction::Forward, workspace.group_tiles());
        let (workers, shared) = workspace.split();
        let Some(schedule) = schedule.for_threads(&self.geometry, &processor.pool) else {
            return self.run_by_stages(processor, &workers, shared);
        };
        processor.pool.run(schedule.parts, self.geometry.work(), |index, worker| {
            let images = schedule.images_of(&self.geometry, index);
            for (group, next) in with_next(schedule.groups(&self.geometry, images)) {
                let tiles = group.tiles(&self.geometry);
                let len = Domain::element_len(input.blocks().max(output.blocks()), tiles);
                let numbers = (T::ELEMENTS + 1) * len;
                // SAFETY: a worker's memory is its own; it has the size of `workspace_size`.
                let (scratch, start) =
                    unsafe { workers.part(worker, Lines::scratch(&self.geometry), numbers) };
                // Both have the strides of the one with more channels.
                let m = Domain::new(start, input.blocks().max(output.blocks()), tiles);
                let v = Domain { start: start.wrapping_add(len), ..m };
                processor.isa.run(Task { pass: self, group, next, v, m, scratch });
            }
        });
    }
}

/// A group through all stages. The prologue and the epilogue were checked, and the domains and the scratch
/// memory have room for the group's tiles and are this task's: which the kernels it calls rely on.
struct Task<'a, T> {
    pass: &'a Forward<'a, T>,
    group: Group,
    next: Option<Group>,
    v: Domain,
    m: Domain,
    scratch: *mut f32,
}

impl<T: Tile> Task<'_, T> {
    /// The place of the group's image `index`, of the input or of the output.
    fn place(&self, shape: MapShape, domain: Domain, index: usize) -> Place<'_, T> {
        self.group.place(&self.pass.geometry, shape, domain, index, self.scratch)
    }

    fn prefetch(&self) -> Prefetch {
        let mut prefetch = Prefetch::nothing();
        if let Some(next) = &self.next {
            self.pass.prologue.prefetch(&mut prefetch, &next.input_rows(&self.pass.geometry));
        }
        prefetch.over(self.pass.geometry.steps::<T>(self.v.tiles, Direction::Forward))
    }
}

impl<T: Tile> Kernel for Task<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Forward { geometry, prologue, epilogue, .. } = *self.pass;
        let Geometry { input, output, .. } = geometry;
        for index in 0..self.group.images.len() {
            s.call(transform::Input { place: self.place(input, self.v, index), prologue });
        }
        let prefetch = self.prefetch();
        let len = odd_cache_lines(input.channels * output.padded_channels());
        for element in 0..T::ELEMENTS {
            let packed = self.pass.packed.as_ptr().wrapping_add(element * len);
            for blocks in panels(output.blocks()) {
                // The next panel, or behind the last one the next element.
                let next = blocks.end * LANES * input.channels;
                s.call(DomainGemm {
                    a: self.v,
                    a_shape: input,
                    packed,
                    c: self.m,
                    c_shape: output,
                    element,
                    blocks,
                    prefetch: &prefetch,
                    next: (T::ELEMENTS * len > SMALL_WEIGHTS).then(|| packed.wrapping_add(next)),
                });
            }
        }
        for index in 0..self.group.images.len() {
            s.call(transform::Output { place: self.place(output, self.m, index), epilogue });
        }
        s.fence();
    }
}
