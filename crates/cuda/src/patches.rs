//! Convolutions by the products of warpgroups, on maps of bfloat16: see `kernels/warpgroup.cuh`.

use crate::params::Window;
use crate::window::{Layer, MapShape, TILE_CHANNELS, TILE_PIXELS, Tiling, WEIGHT_INPUTS, window};

/// Channels of a stage of a convolution.
const CHUNK: usize = 16;
/// Input channels whose weights stay in shared memory, at most.
const RESIDENT: usize = 64;
/// Blocks of a convolution that run on a multiprocessor at a time.
const BLOCKS_BESIDE: usize = 2;
const WARPS: usize = 8;

/// Shared memory of a block that computes a part of a linear layer: three stages of 64 channels.
pub(crate) const LINEAR_SHARED: usize = 3 * 8 * 16 * (TILE_PIXELS + 1 + TILE_CHANNELS);

/// Kernels of the same shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Plain,
    /// One block on a multiprocessor, with many stages.
    Deep,
    /// The weights stay in shared memory.
    Resident,
    /// A stride of two.
    Strided,
    /// A window of 1x1.
    Single,
}

impl Layer {
    /// Whether it is a linear layer.
    pub fn is_linear(self) -> bool {
        self.kernel == 1 && self.input.pixels() == 1 && self.output.pixels() == 1
    }

    /// How many sums of parts there are for each output of a linear layer, or of the gradient of its input, in any batch of at
    /// most so many images: parts are fewer where there are more tiles.
    pub fn linear_sums(self, images: usize, gradient: bool, multiprocessors: usize) -> usize {
        let (from, to) =
            if gradient { (self.output, self.input) } else { (self.input, self.output) };
        let columns = to.padded().div_ceil(TILE_CHANNELS);
        let of_a_full_card = (BLOCKS_BESIDE * multiprocessors * TILE_PIXELS).div_ceil(columns);
        images.max(of_a_full_card.min(images * most_linear_parts(from)))
    }

    /// In how many parts blocks compute a linear layer, or the gradient of its input, to fill a card.
    pub fn linear_parts(self, images: usize, gradient: bool, multiprocessors: usize) -> usize {
        let (from, to) =
            if gradient { (self.output, self.input) } else { (self.input, self.output) };
        let blocks = images.div_ceil(TILE_PIXELS) * to.padded().div_ceil(TILE_CHANNELS);
        (BLOCKS_BESIDE * multiprocessors / blocks).clamp(1, most_linear_parts(from))
    }

    /// Whether these kernels compute it.
    pub fn has_patches(self) -> bool {
        let windows = [(3, 1), (1, 0)];
        windows.contains(&(self.kernel, self.padding)) && self.stride <= 2 && !self.is_linear()
    }

    /// The shape of the kernels that compute the convolution, or the gradient of its input.
    fn variant(self, images: usize, gradient: bool, multiprocessors: usize) -> Variant {
        let (from, to) =
            if gradient { (self.output, self.input) } else { (self.input, self.output) };
        let pixels = if to.columns > 8 { 256 * to.pixels().div_ceil(256) } else { 64 };
        let blocks = (images * pixels).div_ceil(256) * to.padded().div_ceil(TILE_CHANNELS);
        match self.stride {
            _ if self.kernel == 1 => Variant::Single,
            2 => Variant::Strided,
            _ if from.padded() <= RESIDENT => Variant::Resident,
            _ if blocks <= multiprocessors => Variant::Deep,
            _ => Variant::Plain,
        }
    }

    /// The kernel that computes the convolution.
    pub fn patches_kernel(self, images: usize, multiprocessors: usize) -> &'static str {
        match self.variant(images, false, multiprocessors) {
            Variant::Plain => "convolution_patches",
            Variant::Deep => "convolution_patches_deep",
            Variant::Resident => "convolution_patches_resident",
            Variant::Strided => "convolution_patches_strided",
            Variant::Single => "convolution_patches_single",
        }
    }

    /// The kernel that computes the gradient of its input, behind an activation that is piecewise linear or not.
    pub fn gradient_patches_kernel(
        self,
        images: usize,
        multiprocessors: usize,
        is_piecewise: bool,
    ) -> &'static str {
        match (self.variant(images, true, multiprocessors), is_piecewise) {
            (Variant::Plain, true) => "input_gradient_patches",
            (Variant::Plain, false) => "input_gradient_patches_smooth",
            (Variant::Deep, true) => "input_gradient_patches_deep",
            (Variant::Deep, false) => "input_gradient_patches_deep_smooth",
            (Variant::Resident, true) => "input_gradient_patches_resident",
            (Variant::Resident, false) => "input_gradient_patches_resident_smooth",
            (Variant::Strided, true) => "input_gradient_patches_strided",
            (Variant::Strided, false) => "input_gradient_patches_strided_smooth",
            (Variant::Single, true) => "input_gradient_patches_single",
            (Variant::Single, false) => "input_gradient_patches_single_smooth",
        }
    }

    /// The kernel that computes the gradient of its weights.
    pub fn weight_patches_kernel(self) -> &'static str {
        match self.stride {
            _ if self.kernel == 1 => "weight_gradient_patches_single",
            1 => "weight_gradient_patches",
            _ => "weight_gradient_patches_strided",
        }
    }

    /// The tiles of the convolution, or of the gradient of its input. Blocks are those in x and z.
    pub fn patches(self, images: usize, gradient: bool, multiprocessors: usize) -> Tiling {
        let (from, to) =
            if gradient { (self.output, self.input) } else { (self.input, self.output) };
        let (stride, spread) = if gradient { (1, self.stride) } else { (self.stride, 1) };
        // The gradient of what was read with a stride of two is computed in four parts, each of which has its own pixels.
        let parts = spread * spread;
        let variant = self.variant(images, gradient, multiprocessors);
        // Patches of a tile, stages of shared memory, and blocks that run on a multiprocessor at a time.
        let (patches, stages, beside) = match variant {
            Variant::Deep => (4, 6, 1),
            Variant::Plain | Variant::Resident if !gradient => (4, 3, 2),
            Variant::Strided if !gradient => (2, 4, 1),
            _ => (2, 4, 2),
        };
        let window = self.with_tiles(window(images, from, to), patches, stride, spread);
        let tiles = count(&window);
        let others = to.padded().div_ceil(TILE_CHANNELS) * parts;
        let blocks = (beside * multiprocessors / others).clamp(1, tiles);
        let halo = 2 * window.plane as usize * CHUNK;
        let chunk_weights = self.kernel * self.kernel * CHUNK * TILE_CHANNELS * 2;
        let weights = if variant == Variant::Resident { from.padded() / CHUNK } else { stages }
            * chunk_weights;
        // Sums of warps for each BatchNorm, and what the epilogue needs of each channel.
        let (norms, table) = if gradient { (2, 24) } else { (1, 8) };
        let sums = norms * WARPS * TILE_CHANNELS * 8;
        let shared = weights + stages * halo + sums + TILE_CHANNELS * table;
        Tiling { window, tiles, blocks: blocks * parts, shared }
    }

    /// Blocks of the convolution, or of the gradient of its input.
    pub fn patches_grid(self, tiling: &Tiling, gradient: bool) -> [usize; 3] {
        let to = if gradient { self.input } else { self.output };
        let parts = (tiling.window.spread * tiling.window.spread) as usize;
        [tiling.blocks / parts, to.padded().div_ceil(TILE_CHANNELS), parts]
    }

    /// Threads of a block that computes the gradient of its weights: a warpgroup for each row of the window.
    pub fn weight_patches_threads(self) -> u32 {
        128 * self.kernel as u32
    }

    /// The tiles of the gradient of its weights.
    pub fn weight_patches(self, images: usize, multiprocessors: usize) -> Tiling {
        let window = window(images, self.input, self.output);
        let window = self.with_tiles(window, 2, self.stride, 1);
        let tiles = count(&window);
        let pixels = (window.tile_images * window.tile_rows * window.tile_columns) as usize | 1;
        let stage = 2 * (window.plane as usize * WEIGHT_INPUTS + pixels * TILE_CHANNELS);
        let (stages, beside) = match (self.kernel, self.stride) {
            (1, _) => (3, 2),
            (_, 1) => (4, 1),
            _ => (2, 1),
        };
        let others = self.output.padded().div_ceil(TILE_CHANNELS)
            * self.input.padded().div_ceil(WEIGHT_INPUTS);
        let blocks = (beside * multiprocessors / others).clamp(1, tiles);
        Tiling { window, tiles, blocks, shared: stages * stage }
    }

    /// Tiles of so many patches of 8x8 pixels of the convolution's output, of one image or of as many.
    fn with_tiles(self, window: Window, patches: usize, stride: usize, spread: usize) -> Window {
        let output = self.output;
        let patches = patches as i32;
        let (tile_images, tile_rows, tile_columns) = match output.columns > 8 {
            true => (1, 8 * patches / 2, 16),
            false => (patches, 8, 8),
        };
        // Of a part of the halo, of which there are four with a stride of two.
        let edge = match self.kernel {
            1 => 0,
            _ if stride == 1 && spread == 1 => 2,
            _ => 1,
        };
        let (halo_rows, halo_columns) = (tile_rows + edge, tile_columns + edge);
        let parts = if self.kernel == 1 { 1 } else { (stride * stride) as i32 };
        let mut window = Window {
            kernel: self.kernel as i32,
            stride: stride as i32,
            padding: if spread == 1 { self.padding as i32 } else { 0 },
            spread: spread as i32,
            tile_images,
            tile_rows,
            tile_columns,
            tiles_down: (output.rows as i32 + tile_rows - 1) / tile_rows,
            tiles_across: (output.columns as i32 + tile_columns - 1) / tile_columns,
            halo_rows,
            halo_columns,
            plane: (parts * tile_images * halo_rows * halo_columns) | 1,
            chunk: CHUNK as i32,
            ..window
        };
        window.set_inverses();
        window
    }
}

/// A part has two stages at least.
fn most_linear_parts(from: MapShape) -> usize {
    from.padded().div_ceil(128)
}

fn count(window: &Window) -> usize {
    let images = (window.images + window.tile_images - 1) / window.tile_images;
    (images * window.tiles_down * window.tiles_across) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory is reserved for the largest batch, and smaller ones may be cut into more parts.
    #[test]
    fn there_is_room_for_the_sums_of_every_smaller_batch() {
        let vector = |channels| MapShape { channels, rows: 1, columns: 1 };
        for (inputs, outputs) in [(4096, 2048), (2048, 10), (64, 1000), (16, 16)] {
            let (input, output) = (vector(inputs), vector(outputs));
            let layer = Layer { input, output, kernel: 1, stride: 1, padding: 0 };
            for gradient in [false, true] {
                for most in [1, 100, 128, 129, 500, 1000] {
                    let room = layer.linear_sums(most, gradient, 132);
                    let needed = |images| images * layer.linear_parts(images, gradient, 132);
                    let needed = (1..=most).map(needed).max();
                    assert!(needed <= Some(room), "{layer:?}, {most} images: {needed:?}, {room}");
                }
            }
        }
    }
}
