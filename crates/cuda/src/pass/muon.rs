//! The launches of Muon, each over all matrices.

use crescendo_network::{Graph, Role};

use super::{SUMS_BYTES, launch};
use crate::driver::{Address, Launch};
use crate::params::{MOST_MUON_MATRICES, MuonMatrix, MuonParams, RuleSettings};
use crate::state::State;
use crate::window::THREADS;

/// Rows and columns of a tile, and the shared memory of its block, as `muon.cu` has them.
const TILE: usize = 64;
const DEPTH: usize = 32;
const TILE_BYTES: usize = 3 * 2 * TILE * (DEPTH + 4) * 4;
/// Blocks that begin a matrix, at most: each writes two sums of squares.
const SQUARES: usize = 128;
/// Numbers that such a block has at least, where there are so many.
const LEAST_NUMBERS: usize = 2048;
/// The sums of `x x^T` are divided into parts of so many times [`DEPTH`] columns at least, and of a matrix into about so
/// many blocks: two matrices are work for all multiprocessors of the largest cards.
const LEAST_CHUNKS: usize = 9;
const GRAM_BLOCKS: usize = 80;

/// A weight as a matrix.
#[derive(Clone, Copy, Debug)]
struct Shape {
    rows: usize,
    columns: usize,
}

impl Shape {
    fn of(graph: &Graph, parameter: usize) -> Shape {
        let parameter = &graph.parameters[parameter];
        let rows = parameter.shape[0];
        Shape { rows, columns: parameter.range.len() / rows }
    }

    /// Tiles over the shorter and over the longer side.
    fn tiles(self) -> [usize; 2] {
        let Shape { rows, columns } = self;
        [rows.min(columns), rows.max(columns)].map(|side| side.div_ceil(TILE))
    }

    /// Tiles of a symmetric matrix, on and below the diagonal.
    fn triangle(self) -> usize {
        let [side, _] = self.tiles();
        side * (side + 1) / 2
    }

    /// Parts of the sums of `x x^T`, none of them empty.
    fn parts(self) -> usize {
        let chunks = self.rows.max(self.columns).div_ceil(DEPTH);
        let most = (GRAM_BLOCKS / self.triangle()).max(1);
        chunks.div_ceil(chunks.div_ceil(most).max(LEAST_CHUNKS))
    }

    fn blocks(self) -> usize {
        (self.rows * self.columns).div_ceil(LEAST_NUMBERS).min(SQUARES)
    }

    /// Bytes of what `muon.cu` keeps of a matrix.
    fn space(self) -> usize {
        let [side, width] = self.tiles().map(|tiles| tiles * TILE);
        16 * SQUARES + 4 * side * (2 * width + (2 + self.parts()) * side)
    }
}

/// Bytes that the matrices of a graph take, all together.
pub(crate) fn space(graph: &Graph) -> usize {
    let parameters = graph.parameters.iter().enumerate();
    let matrices = parameters.filter(|(_, p)| matches!(p.role, Role::Weight { .. }));
    matrices.map(|(index, _)| Shape::of(graph, index).space()).sum()
}

/// Updates these parameters; `space` is an address of [`space`] bytes.
pub(crate) fn update(
    graph: &Graph,
    state: &State,
    space: Address,
    parameters: &[usize],
    steps: usize,
) -> Vec<Launch> {
    let mut launches = Vec::new();
    for parameters in parameters.chunks(MOST_MUON_MATRICES) {
        let matrices = Matrices::new(graph, state, space, parameters);
        let shared = TILE_BYTES;
        launches.push(matrices.launch("muon_begin", 0, SUMS_BYTES, Shape::blocks));
        for step in 0..steps {
            // (a + b (x x^T) + c (x x^T)^2) x
            let x = step % 2;
            let gram = |shape: Shape| shape.triangle() * shape.parts();
            launches.push(matrices.launch("muon_gram", x, shared, gram));
            let sum = |shape: Shape| (shape.tiles()[0] * TILE).pow(2) / (4 * THREADS as usize);
            launches.push(matrices.launch("muon_sum", x, 0, sum));
            launches.push(matrices.launch("muon_polynomial", x, shared, Shape::triangle));
            let apply = |shape: Shape| shape.tiles()[0] * shape.tiles()[1];
            launches.push(matrices.launch("muon_apply", x, shared, apply));
        }
        launches.push(matrices.launch("muon_finish", steps % 2, 0, Shape::blocks));
    }
    launches
}

/// The matrices of one launch.
struct Matrices {
    shapes: Vec<Shape>,
    params: MuonParams,
}

impl Matrices {
    fn new(graph: &Graph, state: &State, mut space: Address, parameters: &[usize]) -> Matrices {
        let shapes: Vec<Shape> = parameters.iter().map(|&index| Shape::of(graph, index)).collect();
        let mut params = MuonParams { count: shapes.len() as i32, ..MuonParams::default() };
        for ((to, &shape), &index) in params.matrices.iter_mut().zip(&shapes).zip(parameters) {
            let offset = 4 * graph.parameters[index].range.start as Address;
            *to = MuonMatrix {
                weight: state.model.address + offset,
                gradient: state.gradients.address + offset,
                momentum: state.momentum.address + offset,
                rule: state.rules.address + (size_of::<RuleSettings>() * index) as Address,
                space,
                rows: shape.rows as i32,
                columns: shape.columns as i32,
                blocks: shape.blocks() as i32,
                parts: shape.parts() as i32,
                ..MuonMatrix::default()
            };
            space += shape.space() as Address;
        }
        Matrices { shapes, params }
    }

    /// A launch with so many blocks for each matrix; `which` is the `x` that it reads.
    fn launch(
        &self,
        kernel: &'static str,
        which: usize,
        shared: usize,
        blocks: impl Fn(Shape) -> usize,
    ) -> Launch {
        let mut params = MuonParams { which: which as i32, ..self.params };
        let mut all = 0;
        for (matrix, &shape) in params.matrices.iter_mut().zip(&self.shapes) {
            matrix.first_block = all as i32;
            all += blocks(shape);
        }
        launch(kernel, [all, 1, 1], shared, &params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `muon.cu` gives each part as many chunks, and the last one what is left.
    #[test]
    fn no_part_of_a_matrix_is_empty() {
        for width in (1..10_000).step_by(7) {
            for rows in [1, 64, 65, 256, 512, 2000] {
                let shape = Shape { rows, columns: rows.max(width) };
                let (chunks, parts) = (shape.columns.div_ceil(DEPTH), shape.parts());
                assert!((parts - 1) * chunks.div_ceil(parts) < chunks, "{shape:?}: {parts}");
            }
        }
        // A matrix of fast94.
        assert_eq!(Shape { rows: 256, columns: 2304 }.parts(), 8);
    }
}
