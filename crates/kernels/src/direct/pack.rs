//! Packed weights, as [`PanelGemm`](crate::micro_kernel::PanelGemm) reads them:
//! `[panel][tap][channel][columns]`.

use super::geometry::{Geometry, phases};
use crate::conv_shape::Convolution;
use crate::disjoint_slice::DisjointSlice;
use crate::micro_kernel::PANEL;
use crate::simd::LANES;
use crate::{Processor, ThreadPool};

/// See [`Convolution::packed_len`].
pub(crate) fn packed_len(layer: &Convolution) -> usize {
    layer.kernel * layer.kernel * layer.inputs * layer.outputs.next_multiple_of(LANES)
}

/// See [`crate::convolution::pack_weights`].
pub(crate) fn pack_weights(
    processor: &Processor,
    layer: &Convolution,
    weight: &[f32],
    scale: Option<&[f32]>,
    packed: &mut [f32],
) {
    let Convolution { inputs, outputs, kernel, .. } = *layer;
    let taps = kernel * kernel;
    let padded = outputs.next_multiple_of(LANES);
    let packed = &DisjointSlice::new(packed);
    let work = ThreadPool::ELEMENT * packed_len(layer);
    processor.pool.run(padded.div_ceil(PANEL) * taps, work, |task, _| {
        let (panel, tap) = (task / taps * PANEL, task % taps);
        let width = PANEL.min(padded - panel);
        let at = panel * taps * inputs + tap * inputs * width;
        // SAFETY: each tap of each panel is one task's.
        let rows = unsafe { packed.part(at, inputs * width) };
        rows.fill(0.0);
        for (column, output) in (panel..outputs.min(panel + width)).enumerate() {
            let factor = scale.map_or(1.0, |scale| scale[output]);
            for (input, row) in rows.chunks_exact_mut(width).enumerate() {
                row[column] = weight[(output * inputs + input) * taps + tap] * factor;
            }
        }
    });
}

/// Packs weights for the gradient of the input, phase after phase.
pub(super) fn pack_phases(
    processor: &Processor,
    geometry: &Geometry,
    weight: &[f32],
    packed: &mut [f32],
) {
    let Convolution { inputs, outputs, kernel, stride, .. } = geometry.layer;
    let taps = geometry.taps();
    assert_eq!(weight.len(), inputs * outputs * taps, "wrong number of weights");
    let padded = geometry.input.padded_channels();
    let mut begin = 0;
    for (phase_y, phase_x) in phases(stride) {
        let (rows, columns) = (geometry.taps_of(phase_y), geometry.taps_of(phase_x));
        let mine = rows * columns;
        let packed = &DisjointSlice::new(&mut packed[begin..][..mine * outputs * padded]);
        begin += mine * outputs * padded;
        let work = ThreadPool::ELEMENT * mine * outputs * padded;
        processor.pool.run(padded.div_ceil(PANEL) * mine, work, |task, _| {
            let (panel, index) = (task / mine * PANEL, task % mine);
            let (row, column) = (index / columns, index % columns);
            let tap = (phase_y + stride * row) * kernel + phase_x + stride * column;
            let width = PANEL.min(padded - panel);
            let at = (panel * mine + index * width) * outputs;
            // SAFETY: each tap of each panel is one task's.
            let rows = unsafe { packed.part(at, outputs * width) };
            for (output, row) in rows.chunks_exact_mut(width).enumerate() {
                row.fill(0.0);
                for (value, input) in row.iter_mut().zip(panel..inputs) {
                    *value = weight[(output * inputs + input) * taps + tap];
                }
            }
        });
    }
}
