//! The backward pass: `dM = A dY A^T` once, and from it `dU = V^T dM` and `dV = dM U^T`.

use std::marker::PhantomData;

use super::panel::{CorrelatePanel, MultiplyPanel};
use super::schedule::{Group, Schedule, with_next};
use super::tile::Tile;
use super::transform::{self, Lines, Place};
use super::weights::{self, Direction, Filters};
use super::{Domain, Geometry, spread, transform_filters};
use crate::Processor;
use crate::ahead::Ahead;
use crate::pool::share;
use crate::product::PANEL;
use crate::shared::Shared;
use crate::simd::{Kernel, LANES, Simd};
use crate::sink::GradientSink;
use crate::source::{GradientSource, Source};
use crate::workspace::Workspace;

/// A backward pass.
pub(super) struct Backward<'a, T> {
    pub geometry: Geometry,
    pub source: &'a Source<'a>,
    pub gradient: &'a GradientSource<'a>,
    pub sink: Option<&'a GradientSink<'a>>,
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
        let schedule = Schedule::new(&self.geometry, direction);
        let filters = Filters { weight, inputs, outputs, scale: None, direction };
        let (workers, shared) = workspace.split();
        let (u, shared) = shared.split_at_mut(T::PRODUCTS * filters.product());
        let len = T::PRODUCTS * spread(inputs * output.padded_channels());
        let parts = &mut shared[..schedule.parts * len];
        if self.sink.is_some() {
            transform_filters(processor, filters, u, self.tile);
        }
        let (filters, wanted) = (&*u, dweight.is_some());
        {
            let sums = Shared::new(parts);
            processor.pool.run(schedule.parts, |index, worker| {
                let groups = with_next(schedule.groups(&self.geometry, index)).enumerate();
                for (count, (group, next)) in groups {
                    let tiles = group.tiles(&self.geometry);
                    let product = [input, output].map(|maps| Domain::product(maps.blocks(), tiles));
                    let numbers = T::PRODUCTS * (product[0] + product[1]);
                    // SAFETY: a worker's memory is its own; `need` asked for enough of it.
                    let (scratch, start) =
                        unsafe { workers.part(worker, Lines::scratch(&self.geometry), numbers) };
                    let v = Domain { start, product: product[0], tiles };
                    let start = start.wrapping_add(T::PRODUCTS * product[0]);
                    let dm = Domain { start, product: product[1], tiles };
                    // SAFETY: one part a task.
                    let du = wanted.then(|| unsafe { sums.part(index * len, len) }.as_mut_ptr());
                    let accumulate = count > 0;
                    let pass = self;
                    processor.isa.run(Task {
                        pass,
                        group,
                        next,
                        filters,
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
        let (parts, dweight) = (&*parts, &Shared::new(dweight));
        let tasks = inputs.div_ceil(4);
        processor.pool.run(tasks, |task, _| {
            processor.isa.run(weights::Gather {
                parts,
                count: schedule.parts,
                inputs,
                outputs,
                range: share(inputs, tasks, task),
                dweight,
                tile: self.tile,
            });
        });
    }
}

/// A group through all stages. The sources and the sink were checked; the domains and the scratch
/// memory have room for the group's tiles and are this task's, as are the sums: what the kernels it
/// calls ask for.
struct Task<'a, T> {
    pass: &'a Backward<'a, T>,
    group: Group,
    next: Option<Group>,
    filters: &'a [f32],
    v: Domain,
    dm: Domain,
    /// The partial sum, where the weights' gradient is wanted:
    /// `[product][input channel][output channel]`.
    du: Option<*mut f32>,
    /// Whether groups before this one have begun it.
    accumulate: bool,
    scratch: *mut f32,
}

impl<T: Tile> Task<'_, T> {
    fn place(&self, image: usize, domain: Domain, first: usize) -> Place<'_, T> {
        let Backward { ref geometry, tile, .. } = *self.pass;
        let band = self.group.band.clone();
        Place { geometry, image, band, domain, first, scratch: self.scratch, tile }
    }

    fn ahead(&self) -> Ahead {
        let Backward { geometry, source, gradient, sink, .. } = self.pass;
        let mut ahead = Ahead::nothing();
        if let Some(next) = &self.next {
            gradient.ask(&mut ahead, &next.output_rows(geometry));
            if self.du.is_some() {
                source.ask(&mut ahead, &next.input_rows(geometry));
            }
        }
        if let Some(sink) = sink {
            sink.ask(&mut ahead, &self.group.input_rows(geometry));
        }
        ahead.over(geometry.steps::<T>(self.v.tiles, Direction::Backward))
    }

    /// The gradients of the filters, then `dV` over `V`, for a panel of the input's channels.
    #[inline(always)]
    fn product<S: Simd>(&self, s: S, product: usize, panel: usize, ahead: &Ahead) {
        let Geometry { input, output, .. } = self.pass.geometry;
        let len = spread(input.channels * output.padded_channels());
        let du = self.du.map(|du| du.wrapping_add(product * len));
        let len = spread(output.channels * input.padded_channels());
        let filters = self.filters.as_ptr().wrapping_add(product * len);
        if let Some(du) = du {
            s.call(CorrelatePanel {
                v: self.v,
                dm: self.dm,
                input,
                output,
                du,
                product,
                panel,
                accumulate: self.accumulate,
                ahead,
                next: filters.wrapping_add(panel * LANES * output.channels),
            });
        }
        if self.pass.sink.is_some() {
            // The sums, or the filters, of the next panel, or behind the last one of the next product.
            let next = (panel + PANEL / LANES).min(input.blocks()) * LANES;
            let next = match du {
                Some(du) => du.wrapping_add(next * output.padded_channels()).cast_const(),
                None => filters.wrapping_add(next * output.channels),
            };
            s.call(MultiplyPanel {
                a: self.dm,
                a_maps: output,
                filters,
                c: self.v,
                c_maps: input,
                product,
                panel,
                ahead,
                next: Some(next),
            });
        }
    }
}

impl<T: Tile> Kernel for Task<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Backward { geometry, source, gradient, sink, .. } = *self.pass;
        let each = self.group.tiles(&geometry) / self.group.images.len();
        for (index, image) in self.group.images.clone().enumerate() {
            let place = self.place(image, self.dm, index * each);
            s.call(transform::OutputAdjoint { place, source: gradient });
            if self.du.is_some() {
                s.call(transform::Input { place: self.place(image, self.v, index * each), source });
            }
        }
        let ahead = self.ahead();
        for product in 0..T::PRODUCTS {
            for panel in (0..geometry.input.blocks()).step_by(PANEL / LANES) {
                self.product(s, product, panel, &ahead);
            }
        }
        if let Some(sink) = sink {
            for (index, image) in self.group.images.clone().enumerate() {
                let place = self.place(image, self.v, index * each);
                s.call(transform::InputAdjoint { place, sink });
            }
        }
        s.fence();
    }
}
