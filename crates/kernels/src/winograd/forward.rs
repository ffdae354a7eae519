//! The forward pass: `M = V U` between the transforms of the input and of the output.

use std::marker::PhantomData;

use super::Geometry;
use super::domain::{ForwardDomains, Order, Tiles, len_of};
use super::panel::DomainGemm;
use super::schedule::{Group, Schedule, with_next};
use super::tile::Tile;
use super::transform::{self, Lines, Place};
use super::weights::{self, Direction};
use crate::epilogue::Epilogue;
use crate::micro_kernel::{Precision, panels};
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

impl<T: Tile> Forward<'_, T> {
    pub fn run(&self, processor: &Processor, workspace: &mut Workspace) {
        let schedule = Schedule::new(&self.geometry, Direction::Forward, workspace.group_tiles());
        let (workers, shared) = workspace.split();
        let Some(schedule) = schedule.for_threads(&self.geometry, &processor.pool) else {
            return self.run_by_stages(processor, &workers, shared);
        };
        processor.pool.run(schedule.parts, self.geometry.work(), |index, worker| {
            let images = schedule.images_of(&self.geometry, index);
            for (group, next) in with_next(schedule.groups(&self.geometry, images)) {
                let geometry = &self.geometry;
                let domains =
                    |start| ForwardDomains::new::<T>(geometry, group.rows(), Order::InTurn, start);
                // SAFETY: a worker's memory is its own; it has the size of `workspace_size`.
                let (scratch, start) =
                    unsafe { workers.part(worker, Lines::scratch(geometry), len_of(domains)) };
                let (domains, _) = domains(start);
                let task = Task { pass: self, group, next, domains, scratch };
                T::Precision::run(processor.isa, task);
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
    domains: ForwardDomains,
    scratch: *mut f32,
}

impl<T: Tile> Task<'_, T> {
    /// The place of the group's image `index`, of the input or of the output.
    fn place<D>(&self, shape: MapShape, domain: D, index: usize) -> Place<'_, T, D> {
        self.group.place(&self.pass.geometry, shape, domain, index, self.scratch)
    }

    fn prefetch(&self) -> Prefetch {
        let mut prefetch = Prefetch::nothing();
        if let Some(next) = &self.next {
            self.pass.prologue.prefetch(&mut prefetch, &next.input_rows(&self.pass.geometry));
        }
        prefetch.over(self.pass.geometry.steps::<T>(self.domains.m.rows, Direction::Forward))
    }
}

impl<T: Tile> Kernel for Task<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Forward { geometry, prologue, epilogue, .. } = *self.pass;
        let Geometry { input, output, .. } = geometry;
        let ForwardDomains { v, m } = self.domains;
        for index in 0..self.group.images.len() {
            let v = Tiles::<T::Precision>::new(v);
            s.call(transform::Input { place: self.place(input, v, index), prologue });
        }
        let prefetch = self.prefetch();
        let len = weights::packed_stride::<T::Precision>(input.channels, output.channels);
        for element in 0..T::ELEMENTS {
            let packed = self.pass.packed.as_ptr().wrapping_add(element * len);
            for blocks in panels(output.blocks()) {
                // The next panel, or behind the last one the next element.
                let next = blocks.end * LANES * (input.channels / T::Precision::K);
                s.call(DomainGemm {
                    a: v,
                    a_shape: input,
                    packed,
                    c: m,
                    c_shape: output,
                    element,
                    blocks,
                    prefetch: &prefetch,
                    next: (T::ELEMENTS * len > SMALL_WEIGHTS).then(|| packed.wrapping_add(next)),
                    precision: T::Precision::default(),
                });
            }
        }
        for index in 0..self.group.images.len() {
            s.call(transform::Output { place: self.place(output, m, index), epilogue });
        }
        s.fence();
    }
}
