//! Images laid out as the GEMMs read them.
//!
//! Products over channels read `[block][row][column][16]` with margins, in bfloat16 a pair of channels a word; so does
//! the product over pixels in `f32`. In bfloat16 that reads pairs of pixels that are neighbours in a row of the output,
//! without margins: of the output's gradient `[block][row][pair][16]`, of the input
//! `[block][row][column of the filter][pair][16]`, since the columns of a filter see different pairs.

use std::ops::Range;

use super::geometry::{Geometry, Margins};
use crate::conv_shape::Convolution;
use crate::micro_kernel::Precision;
use crate::prologue::{GradientPrologue, Prologue};
use crate::simd::{LANES, Simd};

/// Lays out what these rows of the output see of an image of the input, for products over channels, and saves all that
/// is to be saved. `line` is memory for a row.
///
/// # Safety
/// The prologue has passed its check, and there is room for the image and the row.
#[inline(always)]
pub(super) unsafe fn input<S: Simd, P: Precision>(
    s: S,
    geometry: &Geometry,
    prologue: &Prologue,
    image: usize,
    rows: &Range<usize>,
    staged: *mut f32,
    line: *mut f32,
) {
    let Geometry { layer, input, in_rows, in_columns, .. } = *geometry;
    let padding = layer.padding;
    let pixel = P::BLOCK;
    // SAFETY: the caller's promise; rows lie within the image.
    unsafe {
        for block in 0..input.blocks() {
            let at = staged.add(block * in_rows * in_columns * pixel);
            let margins =
                Margins { at, rows: in_rows, columns: in_columns, before: padding, pixel };
            margins.clear(input);
            for y in 0..input.height {
                if sees(geometry, y + padding, rows) || prologue.save.is_some() {
                    if P::K == 1 {
                        prologue.row(s, image, block, y, margins.row(y));
                    } else {
                        prologue.row(s, image, block, y, line);
                        store_pixels::<S, P>(s, line, input.width, margins.row(y));
                    }
                }
            }
        }
    }
}

/// Whether these rows of the output see a row of the input with its padding: a 1x1 filter with stride 2 skips half of
/// them.
fn sees(geometry: &Geometry, row: usize, rows: &Range<usize>) -> bool {
    let Convolution { kernel, stride, .. } = geometry.layer;
    (0..kernel.min(row + 1))
        .any(|tap| (row - tap).is_multiple_of(stride) && rows.contains(&((row - tap) / stride)))
}

/// Lays out an image of the input for the product over pixels.
///
/// # Safety
/// As for [`input`].
#[inline(always)]
pub(super) unsafe fn input_over_pixels<S: Simd, P: Precision>(
    s: S,
    geometry: &Geometry,
    prologue: &Prologue,
    image: usize,
    staged: *mut f32,
    line: *mut f32,
) {
    let Geometry { layer, input: shape, output, in_rows, in_columns, .. } = *geometry;
    let Convolution { kernel, stride, padding, .. } = layer;
    // SAFETY: the caller's promise.
    unsafe {
        if P::K == 1 {
            input::<S, P>(s, geometry, prologue, image, &(0..output.height), staged, line);
            return;
        }
        line.write_bytes(0, in_columns * LANES);
        let pairs = geometry.pairs_len();
        for (block, row) in (0..shape.blocks()).flat_map(|b| (0..in_rows).map(move |r| (b, r))) {
            let to = staged.add((block * in_rows + row) * kernel * pairs);
            let seen = sees(geometry, row, &(0..output.height));
            match row.checked_sub(padding).filter(|&y| y < shape.height) {
                Some(_) if !seen && prologue.save.is_none() => {}
                Some(y) => {
                    prologue.row(s, image, block, y, line.add(padding * LANES));
                    for column in 0..kernel {
                        let from = line.add(column * LANES);
                        pixel_pairs(s, from, stride, output.width, to.add(column * pairs));
                    }
                }
                None => to.write_bytes(0, kernel * pairs),
            }
        }
    }
}

/// Lays out an image of the output's gradient for products over channels, and in `pairs` for the product over pixels,
/// where that reads another layout.
///
/// # Safety
/// As for [`input`].
#[inline(always)]
pub(super) unsafe fn gradient<S: Simd, P: Precision>(
    s: S,
    geometry: &Geometry,
    prologue: &GradientPrologue,
    image: usize,
    [staged, pairs]: [*mut f32; 2],
    line: *mut f32,
) {
    let Geometry { output, out_rows, out_columns, margin, .. } = *geometry;
    let pixel = P::BLOCK;
    // SAFETY: the caller's promise.
    unsafe {
        for block in 0..output.blocks() {
            let at = staged.add(block * out_rows * out_columns * pixel);
            let margins =
                Margins { at, rows: out_rows, columns: out_columns, before: margin, pixel };
            margins.clear(output);
            for y in 0..output.height {
                if P::K == 1 {
                    prologue.row(s, image, block, y, margins.row(y));
                } else {
                    prologue.row(s, image, block, y, line);
                    store_pixels::<S, P>(s, line, output.width, margins.row(y));
                    let to = pairs.add((block * output.height + y) * geometry.pairs_len());
                    pixel_pairs(s, line, 1, output.width, to);
                }
            }
        }
    }
}

/// Stores so many pixels in the precision.
///
/// # Safety
/// They lie at `from`, and `to` has room for them.
#[inline(always)]
unsafe fn store_pixels<S: Simd, P: Precision>(s: S, from: *const f32, count: usize, to: *mut f32) {
    for x in 0..count {
        // SAFETY: the caller's promise.
        unsafe { P::store_block(s, to.add(x * P::BLOCK), s.load(from.add(x * LANES))) };
    }
}

/// Rounds so many pixels to bfloat16, each `stride` pixels behind the one before, in pairs; the last may be alone.
///
/// # Safety
/// As for [`store_pixels`].
#[inline(always)]
unsafe fn pixel_pairs<S: Simd>(s: S, from: *const f32, stride: usize, count: usize, to: *mut f32) {
    for pair in 0..count.div_ceil(2) {
        // SAFETY: the caller's promise.
        unsafe {
            let even = from.add(2 * pair * stride * LANES);
            let odd = match 2 * pair + 1 < count {
                true => s.load(even.add(stride * LANES)),
                false => s.zero(),
            };
            s.store(to.add(pair * LANES), s.pair_bf16(s.load(even), odd));
        }
    }
}
