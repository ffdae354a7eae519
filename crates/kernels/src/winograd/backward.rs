//! The backward pass: `dM = A dY A^T` once, and from it `dU = V^T dM` and `dV = dM U^T`.

use std::marker::PhantomData;
use std::ops::Range;

use super::domain::{BackwardDomains, Operands, Order, len_of};
use super::panel::{DomainGemm, DomainGemmTn};
use super::schedule::{Group, Schedule, with_next};
use super::tile::Tile;
use super::transform::{self, Lines, Place};
use super::weights::{self, Direction, Weights};
use super::{Geometry, takes_leaves, transform_weights};
use crate::disjoint_slice::DisjointSlice;
use crate::epilogue::GradientEpilogue;
use crate::leaves::{GroupSlices, Leaves, MOST_LEAVES, Parts};
use crate::micro_kernel::{PANEL, Precision, panels};
use crate::partition::split_range;
use crate::prefetch::Prefetch;
use crate::prologue::{GradientPrologue, Prologue};
use crate::simd::{Kernel, LANES, Simd};
use crate::workspace::{Workers, Workspace};
use crate::{MapShape, Processor, ThreadPool};

/// A backward pass.
pub(super) struct Backward<'a, T> {
    pub geometry: Geometry,
    pub prologue: &'a Prologue<'a>,
    pub gradient: &'a GradientPrologue<'a>,
    pub leaves: &'a Leaves,
    pub parts: &'a Parts,
    pub epilogue: Option<&'a GradientEpilogue<'a>>,
    pub tile: PhantomData<T>,
}

impl<T: Tile> Backward<'_, T> {
    pub fn run(
        &self,
        processor: &Processor,
        workspace: &mut Workspace,
        weight: &[f32],
        dweight: Option<&mut [&mut [f32]]>,
    ) {
        let Geometry { input, output, .. } = self.geometry;
        let (inputs, outputs, direction) = (input.channels, output.channels, Direction::Backward);
        let schedule = Schedule::new(&self.geometry, direction, workspace.group_tiles());
        let weights = Weights { weight, inputs, outputs, scale: None, direction };
        let (workers, shared) = workspace.split();
        let (u, shared) =
            shared.split_at_mut(T::ELEMENTS * weights.element_stride::<T::Precision>());
        if self.epilogue.is_some() {
            transform_weights::<T>(processor, weights, u);
        }
        let (list, taps_len) = (&self.leaves.list(), weights::taps_len(inputs, outputs));
        let (taps, shared) = shared.split_at_mut(self.leaves.most() * taps_len);
        let (u, taps_of) = (&*u, DisjointSlice::new(taps));
        let wanted = dweight.is_some().then_some(&taps_of);
        if takes_leaves(self.leaves.most(), processor.pool.threads()) {
            self.run_by_leaves(processor, &workers, schedule, u, wanted);
        } else {
            self.run_by_parts(processor, &workers, schedule, u, wanted, shared);
        }
        let Some(dweight) = dweight else { return };
        let (taps, dweight) = (&*taps, &GroupSlices::new(self.leaves, dweight, weight.len()));
        let tasks = processor.pool.tasks_of(inputs, 4);
        let work = ThreadPool::ELEMENT * (list.len() + 1) * taps_len;
        processor.pool.run(tasks, work, |task, _| {
            processor.isa.run(weights::Deliver {
                taps,
                leaves: list,
                inputs,
                outputs,
                range: split_range(inputs, tasks, task),
                dweight,
            });
        });
    }

    /// A task for each leaf, with its sums in a worker's memory.
    fn run_by_leaves(
        &self,
        processor: &Processor,
        workers: &Workers,
        schedule: Schedule,
        packed: &[f32],
        taps: Option<&DisjointSlice<f32>>,
    ) {
        let Geometry { input, output, .. } = self.geometry;
        let (len, taps_len) = (self.sum_len(), weights::taps_len(input.channels, output.channels));
        let mut leaves: [Range<usize>; MOST_LEAVES] = std::array::from_fn(|_| 0..0);
        leaves.iter_mut().zip(self.parts.by_leaf()).for_each(|(leaf, parts)| *leaf = parts);
        let count = self.parts.by_leaf().count();
        let threads = processor.pool.threads();
        processor.pool.run(count, 2 * self.geometry.work(), |leaf, worker| {
            let parts = leaves[leaf].clone();
            // Probably the worker's next leaf.
            let later = leaves.get(leaf + threads).map_or(0, |parts| parts.start);
            // SAFETY: each task has a leaf.
            let taps =
                taps.map(|taps| unsafe { taps.part(leaf * taps_len, taps_len) }.as_mut_ptr());
            let is_one_group = parts.len() == 1
                && schedule.groups(&self.geometry, self.parts[parts.start].images()).count() == 1;
            let room = match (taps, is_one_group) {
                (None, _) => 0,
                (_, true) => block_len::<T>(&self.geometry),
                (_, false) => parts.len() * len,
            };
            // SAFETY: a worker's memory is its own; it has the size of `workspace_size`.
            let (sums, rest) = unsafe { workers.part(worker, room, self.part_len(&schedule)) };
            for (index, part) in parts.clone().enumerate() {
                let gradient = taps.map(|taps| match is_one_group {
                    true => WeightGradient::Leaf { block: sums, taps },
                    false => WeightGradient::Sum(sums.wrapping_add(index * len)),
                });
                let then = if part + 1 < parts.end { part + 1 } else { later };
                let then = (then > 0).then_some(then);
                self.part(processor, schedule, packed, part, then, gradient, rest);
            }
            let Some(taps) = taps.filter(|_| !is_one_group) else { return };
            // SAFETY: the parts' sums were computed right now.
            let sums = unsafe { std::slice::from_raw_parts(sums, parts.len() * len) };
            processor.isa.run(self.gather_leaf(sums, 0..input.channels, taps));
        });
    }

    /// A task for each part of a leaf, or smaller ones where these are too few; the sums of several leaves are in memory
    /// together.
    fn run_by_parts(
        &self,
        processor: &Processor,
        workers: &Workers,
        schedule: Schedule,
        packed: &[f32],
        taps: Option<&DisjointSlice<f32>>,
        shared: &mut [f32],
    ) {
        let (pool, len) = (&processor.pool, self.sum_len());
        let (sums, shared) = shared.split_at_mut(self.parts.len() * len);
        if pool.are_too_few(self.parts.len()) || self.parts.len() < pool.threads() {
            self.run_by_stages(processor, workers, packed, taps.map(|taps| (taps, sums)), shared);
            return;
        }
        {
            let sums = DisjointSlice::new(sums);
            let sums = taps.map(|_| &sums);
            pool.run(self.parts.len(), 2 * self.geometry.work(), |part, worker| {
                // SAFETY: a worker's memory is its own; it has the size of `workspace_size`.
                let (rest, _) = unsafe { workers.part(worker, self.part_len(&schedule), 0) };
                // SAFETY: one part a task.
                let sum = sums.map(|sums| unsafe { sums.part(part * len, len) }.as_mut_ptr());
                let gradient = sum.map(WeightGradient::Sum);
                self.part(processor, schedule, packed, part, None, gradient, rest);
            });
        }
        if let Some(taps) = taps {
            self.gather(processor, 0..self.parts.len(), sums, taps);
        }
    }

    /// From the sums of some parts, which are whole leaves, to the gradients of these leaves.
    pub fn gather(
        &self,
        processor: &Processor,
        parts: Range<usize>,
        sums: &[f32],
        taps: &DisjointSlice<f32>,
    ) {
        let Geometry { input, output, .. } = self.geometry;
        let (inputs, outputs) = (input.channels, output.channels);
        let (len, taps_len) = (self.sum_len(), weights::taps_len(inputs, outputs));
        let before = self.parts[..parts.start].iter().filter(|part| part.begins).count();
        let leaves = self.parts[parts.clone()].iter().filter(|part| part.begins).count();
        let tasks = processor.pool.tasks_of(inputs, 4);
        let work = ThreadPool::ELEMENT * parts.len() * len;
        processor.pool.run(leaves * tasks, work, |index, _| {
            let (leaf, task) = (before + index / tasks, index % tasks);
            let of_leaf = self.parts.by_leaf().nth(leaf).expect("there are so many leaves");
            let first = of_leaf.start - parts.start;
            let sums = &sums[first * len..(first + of_leaf.len()) * len];
            // SAFETY: tasks write different input channels of a leaf, or different leaves.
            let taps = unsafe { taps.as_mut_ptr().add(leaf * taps_len) };
            processor.isa.run(self.gather_leaf(sums, split_range(inputs, tasks, task), taps));
        });
    }

    /// From the sums of a leaf's parts to its gradient, for some of the input's channels.
    fn gather_leaf<'b>(
        &self,
        parts: &'b [f32],
        range: Range<usize>,
        taps: *mut f32,
    ) -> weights::Gather<'b, T> {
        let Geometry { input, output, .. } = self.geometry;
        weights::Gather {
            parts,
            inputs: 0..input.channels,
            columns: 0..output.padded_channels(),
            range,
            taps,
            outputs: output.channels,
            tile: self.tile,
        }
    }

    /// Numbers of a partial sum.
    pub fn sum_len(&self) -> usize {
        let Geometry { input, output, .. } = self.geometry;
        T::ELEMENTS * weights::gradient_stride(input.channels, output.padded_channels())
    }

    /// Numbers that a part is computed in: the scratch memory and the domains of a group.
    fn part_len(&self, schedule: &Schedule) -> usize {
        let rows = schedule.rows(&self.geometry);
        Lines::scratch(&self.geometry) + len_of(|start| self.domains(rows, start))
    }

    /// The domains of a group of so many rows of tiles; the second value is where they end.
    fn domains(&self, rows: usize, start: *mut f32) -> (BackwardDomains, *mut f32) {
        BackwardDomains::new::<T>(&self.geometry, rows, Order::InTurn, start)
    }

    /// A part of a leaf, with its gradient of the weights where that is wanted. `then` is the part that probably follows
    /// on this worker.
    #[allow(clippy::too_many_arguments)]
    fn part(
        &self,
        processor: &Processor,
        schedule: Schedule,
        packed: &[f32],
        part: usize,
        then: Option<usize>,
        gradient: Option<WeightGradient>,
        scratch: *mut f32,
    ) {
        let groups = |part: usize| schedule.groups(&self.geometry, self.parts[part].images());
        for (count, (group, next)) in with_next(groups(part)).enumerate() {
            let next = next.or_else(|| groups(then?).next());
            let start = scratch.wrapping_add(Lines::scratch(&self.geometry));
            let (domains, _) = self.domains(group.rows(), start);
            let (pass, accumulate) = (self, count > 0);
            let task = Task { pass, group, next, packed, domains, gradient, accumulate, scratch };
            T::Precision::run(processor.isa, task);
        }
    }
}

/// Where the gradient of the weights goes.
#[derive(Clone, Copy)]
enum WeightGradient {
    /// To a partial sum in the domain, `[element][input channel][output channel]`.
    Sum(*mut f32),
    /// The group is all of a leaf. Block by block, in this memory, it is transformed back at once to the leaf's gradient: a
    /// sum of all channels would leave the caches and come back.
    Leaf { block: *mut f32, taps: *mut f32 },
}

/// Numbers of a block of a [`WeightGradient::Leaf`]: as many channels of the input and of the output as a panel has, so
/// that it stays in a core's cache.
fn block_len<T: Tile>(geometry: &Geometry) -> usize {
    let Geometry { input, output, .. } = geometry;
    let (inputs, columns) = (input.channels.min(PANEL), output.padded_channels().min(PANEL));
    T::ELEMENTS * weights::gradient_stride(inputs, columns)
}

/// A group through all stages. The prologues and the epilogue were checked; the domains and the scratch
/// memory have room for the group's tiles and are this task's, as are the sums: the kernels it calls
/// rely on it.
struct Task<'a, T> {
    pass: &'a Backward<'a, T>,
    group: Group,
    next: Option<Group>,
    packed: &'a [f32],
    domains: BackwardDomains,
    gradient: Option<WeightGradient>,
    /// Whether groups before this one have begun its sum.
    accumulate: bool,
    scratch: *mut f32,
}

impl<T: Tile> Task<'_, T> {
    /// The place of the group's image `index`, of the input or of the output.
    fn place<D>(&self, shape: MapShape, domain: D, index: usize) -> Place<'_, T, D> {
        self.group.place(&self.pass.geometry, shape, domain, index, self.scratch)
    }

    fn prefetch(&self) -> Prefetch {
        let Backward { geometry, prologue, gradient, epilogue, .. } = self.pass;
        let mut prefetch = Prefetch::nothing();
        if let Some(next) = &self.next {
            gradient.prefetch(&mut prefetch, &next.output_rows(geometry));
            if self.gradient.is_some() {
                prologue.prefetch(&mut prefetch, &next.input_rows(geometry));
            }
        }
        if let Some(epilogue) = epilogue {
            epilogue.prefetch(&mut prefetch, &self.group.input_rows(geometry));
        }
        prefetch.over(geometry.steps::<T>(self.domains.dv.rows, Direction::Backward))
    }

    /// The gradient of the weights of a leaf whose only group this is.
    #[inline(always)]
    fn leaf_gradient<S: Simd>(&self, s: S, block: *mut f32, taps: *mut f32, prefetch: &Prefetch) {
        let Geometry { input, output, .. } = self.pass.geometry;
        let BackwardDomains { v, dm, .. } = self.domains;
        for blocks in panels(input.blocks()) {
            let inputs = blocks.start * LANES..input.channels.min(blocks.end * LANES);
            for columns in panels(output.blocks()) {
                let du_row = columns.len() * LANES;
                let stride = weights::gradient_stride(inputs.len(), du_row);
                for element in 0..T::ELEMENTS {
                    let next = dm.start.wrapping_add(
                        (element + 1) * dm.element_stride + columns.start * dm.block_stride,
                    );
                    s.call(DomainGemmTn {
                        v,
                        dm,
                        input,
                        element,
                        blocks: blocks.clone(),
                        columns: columns.clone(),
                        du: block.wrapping_add(element * stride),
                        du_row,
                        accumulate: false,
                        prefetch,
                        next: (next, columns.len() * dm.block_stride),
                        precision: T::Precision::default(),
                    });
                }
                s.call(weights::Gather {
                    // SAFETY: the block's elements were computed right now.
                    parts: unsafe { std::slice::from_raw_parts(block, T::ELEMENTS * stride) },
                    inputs: inputs.clone(),
                    columns: columns.start * LANES..columns.end * LANES,
                    range: inputs.clone(),
                    taps,
                    outputs: output.channels,
                    tile: self.pass.tile,
                });
            }
        }
    }

    /// The gradient of the weights where it goes to a sum, then `dV`, for a panel of the input's channels.
    #[inline(always)]
    fn gemms<S: Simd>(&self, s: S, element: usize, blocks: Range<usize>, prefetch: &Prefetch) {
        let Geometry { input, output, .. } = self.pass.geometry;
        let BackwardDomains { v, dm, dm_over_channels, dv } = self.domains;
        let precision = T::Precision::default();
        let len = weights::packed_stride::<T::Precision>(output.channels, input.channels);
        let packed = self.packed.as_ptr().wrapping_add(element * len);
        // The weights, or the sums, of the next panel, or behind the last one of the next element.
        let mut then =
            packed.wrapping_add(blocks.end * LANES * (output.channels / T::Precision::K));
        if let Some(WeightGradient::Sum(sum)) = self.gradient {
            let geometry = &self.pass.geometry;
            let to_sum = DomainGemmTn::to_sum(
                geometry,
                v,
                dm,
                sum,
                element,
                blocks.clone(),
                packed,
                prefetch,
                precision,
            );
            let rows = blocks.len() * LANES;
            then = to_sum.du.wrapping_add(rows * to_sum.du_row).cast_const();
            s.call(DomainGemmTn { accumulate: self.accumulate, ..to_sum });
        }
        if self.pass.epilogue.is_some() {
            s.call(DomainGemm {
                a: dm_over_channels,
                a_shape: output,
                packed,
                c: dv,
                c_shape: input,
                element,
                blocks,
                prefetch,
                next: Some(then),
                precision,
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
        let BackwardDomains { v, dm, dm_over_channels, dv } = self.domains;
        for index in 0..self.group.images.len() {
            let dm = T::Precision::over_both(dm_over_channels, dm);
            let place = self.place(output, dm, index);
            s.call(transform::OutputAdjoint { place, prologue: gradient });
            if self.gradient.is_some() {
                let place = self.place(input, T::Precision::over_tiles(v), index);
                s.call(transform::Input { place, prologue });
            }
        }
        let prefetch = self.prefetch();
        if let Some(WeightGradient::Leaf { block, taps }) = self.gradient {
            self.leaf_gradient(s, block, taps, &prefetch);
        }
        for element in 0..T::ELEMENTS {
            for blocks in panels(input.blocks()) {
                self.gemms(s, element, blocks, &prefetch);
            }
        }
        if let Some(epilogue) = epilogue {
            for index in 0..self.group.images.len() {
                let place = self.place(input, dv, index);
                s.call(transform::InputAdjoint { place, epilogue });
            }
        }
        s.fence();
    }
}
