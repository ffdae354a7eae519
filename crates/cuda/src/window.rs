//! How a convolution is cut into tiles: see `kernels/tile.cuh`.

use crescendo_network::{Error, GraphNode, Operation, Shape};

use crate::params::Window;

/// Pixels and output channels of a tile, as `epilogue.cuh` has them.
pub(crate) const TILE_PIXELS: usize = 128;
pub(crate) const TILE_CHANNELS: usize = 64;
/// Squares of the input of a tile of `max_pool_gradient`.
pub(crate) const TILE_SQUARES: usize = 32;
/// Input channels of a block of the gradient of weights.
pub(crate) const WEIGHT_INPUTS: usize = 64;
/// Threads of a block.
pub(crate) const THREADS: u32 = 256;

/// Shared memory that a block may have on every card from compute capability 8.0.
pub(crate) const SHARED_BYTES: usize = 99 * 1024;
/// Shared memory with which two blocks or more fit on a multiprocessor at a time.
const SHARED_BESIDE: usize = 56 * 1024;
/// Numbers of a row of the output in shared memory.
const OUTPUT_STRIDE: usize = TILE_CHANNELS + 8;

/// The numbers of a value's maps: a vector is maps of one pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapShape {
    pub channels: usize,
    pub rows: usize,
    pub columns: usize,
}

impl MapShape {
    pub fn new(shape: Shape) -> MapShape {
        match shape {
            Shape::Maps { channels, height, width } => {
                MapShape { channels, rows: height, columns: width }
            }
            Shape::Vector { features } => MapShape { channels: features, rows: 1, columns: 1 },
        }
    }

    /// Channels with the zeros that fill the last group of sixteen.
    pub fn padded(self) -> usize {
        self.channels.next_multiple_of(16)
    }

    pub fn pixels(self) -> usize {
        self.rows * self.columns
    }

    /// How many numbers an image has in memory.
    pub fn len(self) -> usize {
        self.pixels() * self.padded()
    }
}

/// A convolution, or a linear layer as one of single pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    pub input: MapShape,
    pub output: MapShape,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

/// What a block of a kernel keeps in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The halo and the weights of a chunk of channels, then the output.
    Convolution,
    /// The halo, and the gradient of the output's pixels.
    WeightGradient,
}

impl Layer {
    /// The layer of an operation; `None` if it is neither a convolution nor linear.
    pub fn of(node: &GraphNode) -> Option<Layer> {
        let (input, output) = (MapShape::new(node.input), MapShape::new(node.output));
        match node.operation {
            Operation::Convolution { kernel, stride, padding, .. } => {
                Some(Layer { input, output, kernel, stride, padding })
            }
            Operation::Linear { .. } => {
                Some(Layer { input, output, kernel: 1, stride: 1, padding: 0 })
            }
            _ => None,
        }
    }

    /// Whether the tiles of the gradient of its input read every pixel of the output's gradient, each by the tile that owns
    /// it.
    pub fn gradient_reads_all(self) -> bool {
        let turned = Layer {
            input: self.output,
            output: self.input,
            padding: self.kernel - 1 - self.padding.min(self.kernel - 1),
            ..self
        };
        self.stride == 1 && self.padding < self.kernel && turned.reads_all()
    }

    /// Whether a convolution's tiles read every pixel of the input, each by the tile that owns it.
    pub fn reads_all(self) -> bool {
        let covers = |inputs: usize, outputs: usize| {
            inputs + self.padding <= (outputs - 1) * self.stride + self.kernel
        };
        self.stride + self.padding <= self.kernel
            && covers(self.input.rows, self.output.rows)
            && covers(self.input.columns, self.output.columns)
    }

    /// Packed weights for the convolution or the gradient of its input, in numbers.
    pub fn packed_len(self, gradient: bool) -> usize {
        let [sums, results] = self.sums_and_results(gradient);
        self.kernel * self.kernel * sums * results
    }

    /// Channels that are summed over, and channels of results, of the convolution or the gradient of its input, as its
    /// weights are padded.
    pub fn sums_and_results(self, gradient: bool) -> [usize; 2] {
        let (inputs, outputs) = (self.input.padded(), self.output.padded());
        let [sums, results] = if gradient { [outputs, inputs] } else { [inputs, outputs] };
        [sums, results.next_multiple_of(TILE_CHANNELS)]
    }

    /// The gradient of the weights as blocks sum it up, in numbers.
    pub fn weight_sums_len(self) -> usize {
        self.kernel * self.kernel * self.input.padded() * self.output.padded()
    }

    /// The window of the convolution, for products of numbers of so many bytes.
    pub fn forward(self, images: usize, bytes: usize) -> Option<Tiling> {
        let Layer { input, output, kernel, stride, padding } = self;
        let window = Window {
            kernel: kernel as i32,
            stride: stride as i32,
            padding: padding as i32,
            spread: 1,
            ..window(images, input, output)
        };
        tiling(window, bytes, Kind::Convolution)
    }

    /// The window of the gradient of its input: the roles of input and output change.
    pub fn input_gradient(self, images: usize, bytes: usize) -> Option<Tiling> {
        let Layer { input, output, kernel, stride, padding } = self;
        let window = Window {
            kernel: kernel as i32,
            stride: 1,
            padding: kernel as i32 - 1 - padding as i32,
            spread: stride as i32,
            ..window(images, output, input)
        };
        tiling(window, bytes, Kind::Convolution)
    }

    /// The window of the gradient of its weights.
    pub fn weight_gradient(self, images: usize, bytes: usize) -> Option<Tiling> {
        let window = self.forward(images, bytes)?.window;
        tiling(Window { chunk: WEIGHT_INPUTS as i32, ..window }, bytes, Kind::WeightGradient)
    }

    /// How many blocks share the pixels in the gradient of the weights: enough to fill a card, whatever the card is, so
    /// that the order of sums is the same everywhere.
    pub fn splits(self, tiles: usize) -> usize {
        let blocks = self.output.padded().div_ceil(TILE_CHANNELS)
            * self.input.padded().div_ceil(WEIGHT_INPUTS)
            * self.tap_groups();
        132usize.div_ceil(blocks).clamp(1, tiles)
    }

    /// Taps that a block of the gradient of the weights computes at once.
    pub fn taps_at_once(self) -> usize {
        if self.kernel == 3 { 9 } else { 1 }
    }

    pub fn tap_groups(self) -> usize {
        self.kernel * self.kernel / self.taps_at_once()
    }

    /// Fails if a block does not fit into shared memory.
    pub fn check(self, name: &str) -> Result<(), Error> {
        let fits = [2, 4].into_iter().all(|bytes| {
            self.forward(1, bytes).is_some()
                && self.input_gradient(1, bytes).is_some()
                && self.weight_gradient(1, bytes).is_some()
        });
        if fits {
            return Ok(());
        }
        let kernel = self.kernel;
        Err(Error(format!(
            "{name}: filters of {kernel}x{kernel} with this stride are too large for the CUDA engine: use \
             --device cpu"
        )))
    }
}

pub(crate) fn window(images: usize, input: MapShape, output: MapShape) -> Window {
    Window {
        images: images as i32,
        in_rows: input.rows as i32,
        in_columns: input.columns as i32,
        in_channels: input.padded() as i32,
        out_rows: output.rows as i32,
        out_columns: output.columns as i32,
        out_channels: output.padded() as i32,
        ..Window::default()
    }
}

impl Window {
    /// What stands for the divisions by the numbers of tiles.
    pub fn set_inverses(&mut self) {
        let inverse = |tiles: i32| match tiles {
            1 => 0,
            _ => (1u64 << 32).div_ceil(tiles as u64) as u32,
        };
        self.across_inverse = inverse(self.tiles_across);
        self.down_inverse = inverse(self.tiles_down);
    }
}

/// A window with its tiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tiling {
    pub window: Window,
    pub tiles: usize,
    /// Blocks that share the tiles, each of which has sums of its own.
    pub blocks: usize,
    /// Shared memory of a block, in bytes.
    pub shared: usize,
}

impl Tiling {
    /// Of a kernel whose blocks have a tile each.
    fn of_single_tiles(window: Window, tiles: usize, shared: usize) -> Tiling {
        Tiling { window, tiles, blocks: tiles, shared }
    }
}

/// Chooses the tiles of a window: whole images where they are small, else a part of one that is near to a square.
/// `None` if no tile fits into shared memory.
fn tiling(mut window: Window, bytes: usize, kind: Kind) -> Option<Tiling> {
    let rounded = |side: i32, most: i32| (side as u32).next_power_of_two().min(most as u32) as i32;
    window.tile_columns = rounded(window.out_columns, 16);
    window.tile_rows = rounded(window.out_rows, TILE_PIXELS as i32 / window.tile_columns);
    window.tile_images = TILE_PIXELS as i32 / (window.tile_rows * window.tile_columns);
    loop {
        // In f32 a chunk may be as small as a group; tensor cores take sixteen channels at a time.
        let least = if bytes == 4 { 8 } else { 16 };
        let chunks = match kind {
            Kind::Convolution => [128, 64, 32, 16, least],
            Kind::WeightGradient => [WEIGHT_INPUTS as i32; 5],
        };
        let possible = chunks
            .into_iter()
            .filter(|&chunk| kind == Kind::WeightGradient || chunk <= window.in_channels);
        let tilings: Vec<Tiling> = possible
            .map(|chunk| with_halo(Window { chunk, ..window }, kind, bytes))
            .filter(|tiling| tiling.shared <= SHARED_BYTES)
            .collect();
        // The largest chunk with which others fit beside the block, if there is one.
        let beside = tilings.iter().find(|tiling| tiling.shared <= SHARED_BESIDE);
        if let Some(&tiling) = beside.or(tilings.last()) {
            return Some(tiling);
        }
        let largest = window.tile_images.max(window.tile_rows).max(window.tile_columns);
        if largest == 1 {
            return None;
        }
        if window.tile_images > 1 {
            window.tile_images /= 2;
        } else if window.tile_rows >= window.tile_columns {
            window.tile_rows /= 2;
        } else {
            window.tile_columns /= 2;
        }
    }
}

/// Fills in the halo and the number of tiles.
fn with_halo(mut window: Window, kind: Kind, bytes: usize) -> Tiling {
    let halo = |side: i32| (side - 1) * window.stride + window.kernel;
    (window.halo_rows, window.halo_columns) = (halo(window.tile_rows), halo(window.tile_columns));
    window.plane = (window.tile_images * window.halo_rows * window.halo_columns) | 1;
    window.tiles_down = (window.out_rows + window.tile_rows - 1) / window.tile_rows;
    window.tiles_across = (window.out_columns + window.tile_columns - 1) / window.tile_columns;
    window.set_inverses();
    let images = (window.images + window.tile_images - 1) / window.tile_images;
    let halo = (window.plane as usize * window.chunk as usize * bytes).next_multiple_of(16);
    let tables = (2 * TILE_PIXELS + (window.plane as usize).next_multiple_of(4)) * size_of::<i32>();
    let shared = tables
        + match kind {
            Kind::Convolution => {
                let taps = (window.kernel * window.kernel) as usize;
                let weights = taps * window.chunk as usize * TILE_CHANNELS * bytes;
                (halo + weights).max(TILE_PIXELS * OUTPUT_STRIDE * size_of::<f32>())
            }
            Kind::WeightGradient => halo + (TILE_PIXELS + 1) * TILE_CHANNELS * bytes,
        };
    let tiles = (images * window.tiles_down * window.tiles_across) as usize;
    Tiling::of_single_tiles(window, tiles, shared)
}
