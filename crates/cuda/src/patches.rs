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

impl Layer {
    /// Whether it is a linear layer.
    pub fn is_linear(self) -> bool {
        self.kernel == 1 && self.input.pixels() == 1 && self.output.pixels() == 1
    }

    /// In how many parts blocks compute a linear layer, or the gradient of its input, to fill a card.
    pub fn linear_parts(self, images: usize, gradient: bool, multiprocessors: usize) -> usize {
        let (from, to) =
            if gradient { (self.output, self.input) } else { (self.input, self.output) };
        let blocks = images.div_ceil(TILE_PIXELS) * to.padded().div_ceil(TILE_CHANNELS);
        // A part has two stages at least.
        (BLOCKS_BESIDE * multiprocessors / blocks).clamp(1, from.padded().div_ceil(128))
    }

    /// Whether these kernels compute it.
    pub fn has_patches(self) -> bool {
        let windows = [(3, 1), (1, 0)];
        windows.contains(&(self.kernel, self.padding)) && self.stride <= 2 && !self.is_linear()
    }

    /// The kernel that computes the convolution.
    pub fn patches_kernel(self) -> &'static str {
        match self.stride {
            _ if self.kernel == 1 => "convolution_patches_single",
            1 if is_resident(self.input) => "convolution_patches_resident",
            1 => "convolution_patches",
            _ => "convolution_patches_strided",
        }
    }

    /// The kernel that computes the gradient of its input.
    pub fn gradient_patches_kernel(self) -> &'static str {
        match self.stride {
            _ if self.kernel == 1 => "input_gradient_patches_single",
            1 if is_resident(self.output) => "input_gradient_patches_resident",
            1 => "input_gradient_patches",
            _ => "input_gradient_patches_strided",
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
        // Patches of a tile, and stages of shared memory.
        let is_large = self.kernel == 3 && self.stride == 1;
        let (patches, stages) = if is_large && !gradient { (4, 3) } else { (2, 4) };
        let window = self.with_tiles(window(images, from, to), patches, stride, spread);
        let tiles = count(&window);
        let blocks_beside = if stride == 1 || self.kernel == 1 { BLOCKS_BESIDE } else { 1 };
        let others = to.padded().div_ceil(TILE_CHANNELS) * parts;
        let blocks = (blocks_beside * multiprocessors / others).clamp(1, tiles);
        let halo = 2 * window.plane as usize * CHUNK;
        let chunk_weights = self.kernel * self.kernel * CHUNK * TILE_CHANNELS * 2;
        let is_resident = is_large && is_resident(from);
        let weights = if is_resident { from.padded() / CHUNK } else { stages } * chunk_weights;
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
}

fn is_resident(from: MapShape) -> bool {
    from.padded() <= RESIDENT
}

impl Layer {
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

fn count(window: &Window) -> usize {
    let images = (window.images + window.tile_images - 1) / window.tile_images;
    (images * window.tiles_down * window.tiles_across) as usize
}
