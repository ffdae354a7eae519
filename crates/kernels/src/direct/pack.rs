//! Packed weights, as [`PanelGemm`](crate::micro_kernel::PanelGemm) reads them:
//! `[panel][tile of columns][tap][channel][columns]`, in bfloat16 pairs of channels.

use std::ops::Range;

use super::geometry::{Geometry, phases};
use crate::conv_shape::Convolution;
use crate::disjoint_slice::DisjointSlice;
use crate::micro_kernel::{PANEL, PackingOf, Precision};
use crate::simd::LANES;
use crate::{Processor, ThreadPool};

/// See [`Convolution::packed_len`].
pub(crate) fn packed_len<P: Precision>(layer: &Convolution) -> usize {
    layer.kernel * layer.kernel * layer.inputs / P::K * layer.outputs.next_multiple_of(LANES)
}

/// See [`crate::convolution::pack_weights`].
pub(crate) fn pack_weights<P: Precision>(
    processor: &Processor,
    layer: &Convolution,
    weight: &[f32],
    scale: Option<&[f32]>,
    packed: &mut [f32],
) {
    let Convolution { inputs, outputs, kernel, .. } = *layer;
    let (taps, depth) = (kernel * kernel, inputs / P::K);
    let padded = outputs.next_multiple_of(LANES);
    let packed = &DisjointSlice::new(packed);
    let work = ThreadPool::ELEMENT * packed_len::<P>(layer);
    processor.pool.run(padded.div_ceil(PANEL) * taps, work, |task, _| {
        let (panel, tap) = (task / taps * PANEL, task % taps);
        for (columns, at) in tiles::<P>(processor, panel, padded, taps * depth) {
            let width = columns.len();
            // SAFETY: each tap of each panel is one task's.
            let rows = unsafe { packed.part(at + tap * depth * width, depth * width) };
            rows.fill(0.0);
            for (column, output) in (columns.start..outputs.min(columns.end)).enumerate() {
                let factor = scale.map_or(1.0, |scale| scale[output]);
                for (word, row) in rows.chunks_exact_mut(width).enumerate() {
                    row[column] = P::word(|k| {
                        let input = P::K * word + k;
                        weight[(output * inputs + input) * taps + tap] * factor
                    });
                }
            }
        }
    });
}

/// The register tiles of the panel that begins with the column `panel` of `padded` in all, with `depth` `k`: their columns,
/// and where their rows of the first `k` begin.
fn tiles<P: Precision>(
    processor: &Processor,
    panel: usize,
    padded: usize,
    depth: usize,
) -> impl Iterator<Item = (Range<usize>, usize)> {
    let vectors = PANEL.min(padded - panel) / LANES;
    let packing = P::run(processor.isa, PackingOf { vectors, depth });
    packing
        .tiles()
        .map(move |(columns, at)| (panel + columns.start..panel + columns.end, panel * depth + at))
}

/// Packs weights for the gradient of the input, phase after phase.
pub(super) fn pack_phases<P: Precision>(
    processor: &Processor,
    geometry: &Geometry,
    weight: &[f32],
    packed: &mut [f32],
) {
    let Convolution { inputs, outputs, kernel, stride, .. } = geometry.layer;
    let taps = geometry.taps();
    assert_eq!(weight.len(), inputs * outputs * taps, "wrong number of weights");
    let (padded, depth) = (geometry.input.padded_channels(), outputs / P::K);
    let mut begin = 0;
    for (phase_y, phase_x) in phases(stride) {
        let (rows, columns) = geometry.taps_of((phase_y, phase_x));
        let mine = rows * columns;
        let packed = &DisjointSlice::new(&mut packed[begin..][..mine * depth * padded]);
        begin += mine * depth * padded;
        let work = ThreadPool::ELEMENT * mine * depth * padded;
        processor.pool.run(padded.div_ceil(PANEL) * mine, work, |task, _| {
            let (panel, index) = (task / mine * PANEL, task % mine);
            let (row, column) = (index / columns, index % columns);
            let tap = (phase_y + stride * row) * kernel + phase_x + stride * column;
            for (columns, at) in tiles::<P>(processor, panel, padded, mine * depth) {
                let width = columns.len();
                // SAFETY: each tap of each panel is one task's.
                let rows = unsafe { packed.part(at + index * depth * width, depth * width) };
                for (word, row) in rows.chunks_exact_mut(width).enumerate() {
                    row.fill(0.0);
                    for (value, input) in row.iter_mut().zip(columns.start..inputs) {
                        *value = P::word(|k| {
                            let output = P::K * word + k;
                            weight[(output * inputs + input) * taps + tap]
                        });
                    }
                }
            }
        });
    }
}
