//! The backward pass: `dM = A dY A^T` once, and from it `dU = V^T dM` and `dV = dM U^T`.

use std::marker::PhantomData;

use super::panel::{DomainGemm, DomainGemmTn};
use super::schedule::{Group, Schedule, with_next};
use super::tile::Tile;
use super::transform::{self, Lines, Place};
use super::weights::{self, Direction, Weights};
use super::{Domain, Geometry, odd_cache_lines, transform_weights};
use crate::disjoint_slice::DisjointSlice;
use crate::epilogue::GradientEpilogue;
use crate::micro_kernel::PANEL;
use crate::prefetch::Prefetch;
use crate::prologue::{GradientPrologue, Prologue};
use crate::simd::{Kernel, LANES, Simd};
use crate::thread_pool::split_range;
use crate::workspace::Workspace;
use crate::{MapShape, Processor, ThreadPool};

/// A backward pass.
pub(super) struct Backward<'a, T> {
    pub geometry: Geometry,
    pub prologue: &'a Prologue<'a>,
    pub gradient: &'a GradientPrologue<'a>,
    pub epilogue: Option<&'a GradientEpilogue<'a>>,
    pub tile: PhantomData<T>,
}

impl<T: Tile + Send + Sync> Backward<'_, T> {
    pub fn run(
        &self,
        processor: &Processor,
        workspace: &mut Workspace,
        weight: &[f32],
        dweight: Option<&mut [f32]>,
    ) {
        let Geometry { input, output, .. } = self.geometry;
        let (inputs, outputs, direction) = (input.channels, output.channels, Direction::Backward);
        let schedule = Schedule::new(&self.geometry, direction, workspace.group_tiles());
        let weights = Weights { weight, inputs, outputs, scale: None, direction };
        let (workers, shared) = workspace.split();
        let (u, shared) = shared.split_at_mut(T::ELEMENTS * weights.element_stride());
        let len = T::ELEMENTS * odd_cache_lines(inputs * output.padded_channels());
        let (parts, shared) = shared.split_at_mut(schedule.parts * len);
        if self.epilogue.is_some() {
            transform_weights(processor, weights, u, self.tile);
        }
        let (packed, wanted) = (&*u, dweight.is_some());
        if processor.pool.are_too_few(schedule.parts) {
            let sums = DisjointSlice::new(parts);
            let sums = wanted.then_some(&sums);
            self.run_by_stages(processor, &workers, schedule, packed, sums, shared);
        } else {
            let sums = DisjointSlice::new(parts);
            processor.pool.run(schedule.parts, 2 * self.geometry.work(), |index, worker| {
                let groups = with_next(schedule.groups(&self.geometry, index)).enumerate();
                for (count, (group, next)) in groups {
                    let tiles = group.tiles(&self.geometry);
                    let lens =
                        [input, output].map(|shape| Domain::element_len(shape.blocks(), tiles));
                    let numbers = T::ELEMENTS * (lens[0] + lens[1]);
                    // SAFETY: a worker's memory is its own; it has the size of `workspace_size`.
                    let (scratch, start) =
                        unsafe { workers.part(worker, Lines::scratch(&self.geometry), numbers) };
                    let v = Domain::new(start, input.blocks(), tiles);
                    let start = start.wrapping_add(T::ELEMENTS * lens[0]);
                    let dm = Domain::new(start, output.blocks(), tiles);
                    // SAFETY: one part a task.
                    let du = wanted.then(|| unsafe { sums.part(index * len, len) }.as_mut_ptr());
                    let accumulate = count > 0;
                    let pass = self;
                    processor.isa.run(Task {
                        pass,
                        group,
                        next,
                        packed,
                        v,
                        dm,
                        du,
                        accumulate,
                        scratch,
                    });
                }
            });
        }
        let Some(dweight) = dweight else { return };
        let (parts, dweight) = (&*parts, &DisjointSlice::new(dweight));
        let tasks = processor.pool.tasks_of(inputs, 4);
        let work = ThreadPool::ELEMENT * parts.len();
        processor.pool.run(tasks, work, |task, _| {
            processor.isa.run(weights::Gather {
                parts,
                count: schedule.parts,
                inputs,
                outputs,
                range: split_range(inputs, tasks, task),
                dweight,
                tile: self.tile,
            });
        });
    }
}

/// A group through all stages. The prologues and the epilogue were checked; the domains and the scratch
/// memory have room for the group's tiles and are this task's, as are the sums: the kernels it calls
/// rely on it.
struct Task<'a, T> {
    pass: &'a Backward<'a, T>,
    group: Group,
    next: Option<Group>,
    packed: &'a [f32],
    v: Domain,
    dm: Domain,
    /// The partial sum, where the weights' gradient is wanted:
    /// `[element][input channel][output channel]`.
    du: Option<*mut f32>,
    /// Whether groups before this one have begun it.
    accumulate: bool,
    scratch: *mut f32,
}

impl<T: Tile> Task<'_, T> {
    /// The place of the group's image `index`, of the input or of the output.
    fn place(&self, shape: MapShape, domain: Domain, index: usize) -> Place<'_, T> {
        self.group.place(&self.pass.geometry, shape, domain, index, self.scratch)
    }

    fn prefetch(&self) -> Prefetch {
        let Backward { geometry, prologue, gradient, epilogue, .. } = self.pass;
        let mut prefetch = Prefetch::nothing();
        if let Some(next) = &self.next {
            gradient.prefetch(&mut prefetch, &next.output_rows(geometry));
            if self.du.is_some() {
                prologue.prefetch(&mut prefetch, &next.input_rows(geometry));
            }
        }
        if let Some(epilogue) = epilogue {
            epilogue.prefetch(&mut prefetch, &self.group.input_rows(geometry));
        }
        prefetch.over(geometry.steps::<T>(self.v.tiles, Direction::Backward))
    }

    /// the gradients of the weights, then `dV` over `V`, for a panel of the input's channels.
    #[inline(always)]
    fn gemms<S: Simd>(&self, s: S, element: usize, panel: usize, prefetch: &Prefetch) {
        let Geometry { input, output, .. } = self.pass.geometry;
        let len = odd_cache_lines(input.channels * output.padded_channels());
        let du = self.du.map(|du| du.wrapping_add(element * len));
        let len = odd_cache_lines(output.channels * input.padded_channels());
        let packed = self.packed.as_ptr().wrapping_add(element * len);
        if let Some(du) = du {
            s.call(DomainGemmTn {
                v: self.v,
                dm: self.dm,
                input,
                output,
                du,
                element,
                panel,
                accumulate: self.accumulate,
                prefetch,
                next: packed.wrapping_add(panel * LANES * output.channels),
            });
        }
        if self.pass.epilogue.is_some() {
            // The sums, or the weights, of the next panel, or behind the last one of the next element.
            let next = (panel + PANEL / LANES).min(input.blocks()) * LANES;
            let next = match du {
                Some(du) => du.wrapping_add(next * output.padded_channels()).cast_const(),
                None => packed.wrapping_add(next * output.channels),
            };
            s.call(DomainGemm {
                a: self.dm,
                a_shape: output,
                packed,
                c: self.v,
                c_shape: input,
                element,
                panel,
                prefetch,
                next: Some(next),
            });
        }
    }
}

impl<T: Tile> Kernel for Task<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Backward { geometry, prologue, gradient, epilogue, .. } = *self.pass;
        let Geometry { input, output, .. } = geometry;
        for index in 0..self.group.images.len() {
            let place = self.place(output, self.dm, index);
            s.call(transform::OutputAdjoint { place, prologue: gradient });
            if self.du.is_some() {
                let place = self.place(input, self.v, index);
                s.call(transform::Input { place, prologue });
            }
        }
        let prefetch = self.prefetch();
        for element in 0..T::ELEMENTS {
            for panel in (0..input.blocks()).step_by(PANEL / LANES) {
                self.gemms(s, element, panel, &prefetch);
            }
        }
        if let Some(epilogue) = epilogue {
            for index in 0..self.group.images.len() {
                let place = self.place(input, self.v, index);
                s.call(transform::InputAdjoint { place, epilogue });
            }
        }
        s.fence();
    }
}
