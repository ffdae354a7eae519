// Muon (see `Muon` of the crate network). Each launch goes over all matrices. A matrix x is as wide as high or wider:
// of a weight that is higher it is the transpose. What products read is padded with zeros to whole tiles.
//
// The steps are not divided by their norm: x is larger than it should be by that factor until the end, and x x^T by the
// square of it, which is taken out where the parts of x x^T are added up.
#include "rule.cuh"
#include "sums.cuh"

// Rows and columns of a tile of a product, which a block computes, and how much of the inner dimension is in shared memory
// at a time.
constexpr int MUON_TILE = 64;
constexpr int MUON_DEPTH = 32;
constexpr int MUON_STAGES = 3;
// Numbers of a row in shared memory: those that a warp reads at once lie in different banks.
constexpr int MUON_ROW = MUON_DEPTH + 4;
constexpr int MUON_COLUMN_ROW = MUON_TILE + 8;
constexpr int MUON_OPERAND = MUON_TILE * MUON_ROW;
static_assert(MUON_OPERAND == MUON_DEPTH * MUON_COLUMN_ROW, "both operands take as much");

// The polynomial a x + b x^3 + c x^5.
constexpr float MUON_A = 3.4445f;
constexpr float MUON_B = -4.7750f;
constexpr float MUON_C = 2.0315f;

// The blocks of muon_begin for a matrix, at most.
constexpr int MUON_SQUARES = 128;

struct MuonMatrix {
    float* weight;
    float* gradient;
    float* momentum;
    const Rule* rule;
    float* space;     // see the functions below
    int rows, columns;
    int blocks;       // of muon_begin
    int parts;        // of the sums of x x^T
    int first_block;  // in this launch
    int unused;

    DEVICE int side() const { return rows < columns ? rows : columns; }
    DEVICE int width() const { return rows < columns ? columns : rows; }
    DEVICE int padded_side() const { return (side() + MUON_TILE - 1) / MUON_TILE * MUON_TILE; }
    DEVICE int padded_width() const { return (width() + MUON_TILE - 1) / MUON_TILE * MUON_TILE; }
    DEVICE i64 len() const { return i64(padded_side()) * padded_width(); }
    DEVICE i64 square() const { return i64(padded_side()) * padded_side(); }

    // Sums of squares of each block: of the step, and of the weight.
    DEVICE double* step_squares() const { return reinterpret_cast<double*>(space); }
    DEVICE double* weight_squares() const { return step_squares() + MUON_SQUARES; }
    // The step, one of two that take turns: [padded side, padded width].
    DEVICE float* x(int which) const { return space + 4 * MUON_SQUARES + which * len(); }
    // x x^T, and the polynomial of it: [padded side, padded side].
    DEVICE float* gram() const { return x(2); }
    DEVICE float* polynomial() const { return gram() + square(); }
    // Sums over parts of the inner dimension of x x^T.
    DEVICE float* gram_parts() const { return polynomial() + square(); }

    // Where a number of the weight lies in x.
    DEVICE i64 index(int row, int column) const {
        i64 stride = padded_width();
        return rows <= columns ? row * stride + column : column * stride + row;
    }
    // Whether fours of neighbours are aligned, and lie together in x.
    DEVICE bool by_fours() const {
        u64 addresses = reinterpret_cast<u64>(weight) | reinterpret_cast<u64>(gradient) | reinterpret_cast<u64>(momentum);
        return rows <= columns && columns % 4 == 0 && addresses % 16 == 0;
    }
    // What the step must be multiplied by.
    DEVICE double step_factor() const { return 1.0 / (sqrt(sum_parts(step_squares(), blocks)) + 1e-7); }
};

constexpr int MOST_MUON_MATRICES = 32;

struct MuonParams {
    int count;
    int which;  // x that is read
    MuonMatrix matrix[MOST_MUON_MATRICES];
};

DEVICE const MuonMatrix& matrix_of_block(const MuonParams& p, int& block) {
    const MuonMatrix& matrix = p.matrix[group_of_block(p.matrix, p.count)];
    block = int(block_index_x()) - matrix.first_block;
    return matrix;
}

// Calls `four(row, column)` or `one(row, column)` for all numbers of a weight, on so many blocks.
template <class Four, class One>
DEVICE void each_of_weight(const MuonMatrix& m, int block, const Four& four, const One& one) {
    int first = block * THREADS + thread_index(), step = m.blocks * THREADS;
    if (m.by_fours()) {
        int fours = m.columns / 4;
        for (int i = first; i < m.rows * fours; i += step) four(i / fours, i % fours * 4);
    } else {
        for (int i = first; i < m.rows * m.columns; i += step) one(i / m.columns, i % m.columns);
    }
}

// The direction before it is orthogonalised; clears the gradient.
KERNEL(muon_begin, MuonParams, THREADS) {
    SHARED_MEMORY(shared);
    int block;
    const MuonMatrix& m = matrix_of_block(p, block);
    Rule rule = *m.rule;
    float* x = m.x(0);
    double step_square = 0.0, weight_square = 0.0;
    auto direction = [&](float gradient, float& momentum, float weight) {
        momentum = fmaf(rule.momentum, momentum, gradient);
        float step = rule.nesterov ? fmaf(rule.momentum, momentum, gradient) : momentum;
        step_square += double(step) * step;
        weight_square += double(weight) * weight;
        return step;
    };
    each_of_weight(
        m, block,
        [&](int row, int column) {
            i64 at = i64(row) * m.columns + column;
            float gradient[4], momentum[4], weight[4], zeros[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            load_four(m.gradient + at, gradient);
            load_four(m.momentum + at, momentum);
            load_four(m.weight + at, weight);
            for (int i = 0; i < 4; i++) gradient[i] = direction(gradient[i], momentum[i], weight[i]);
            store_four(x + m.index(row, column), gradient);
            store_four(m.momentum + at, momentum);
            store_four(m.gradient + at, zeros);
        },
        [&](int row, int column) {
            i64 at = i64(row) * m.columns + column;
            x[m.index(row, column)] = direction(m.gradient[at], m.momentum[at], m.weight[at]);
            m.gradient[at] = 0.0f;
        });
    for (int row = block; row < m.padded_side(); row += m.blocks) {
        int begin = row < m.side() ? m.width() : 0;
        for (int column = begin + thread_index(); column < m.padded_width(); column += THREADS)
            x[i64(row) * m.padded_width() + column] = 0.0f;
    }
    double* sums = reinterpret_cast<double*>(shared);
    step_square = sum_of_block(step_square, sums);
    weight_square = sum_of_block(weight_square, sums);
    if (thread_index() == 0) {
        m.step_squares()[block] = step_square;
        m.weight_squares()[block] = weight_square;
    }
}

// A number as the sum of two that tensor cores take: all but two of its 24 bits.
DEVICE void split_tf32(float value, u32& high, u32& low) {
    constexpr u32 mask = 0xffffe000u;
    high = f32_to_bits(value) & mask;
    low = f32_to_bits(value - bits_to_f32(high)) & mask;
}

// An operand of products: its first number of this tile, and the numbers from one row to the next.
struct MuonOperand {
    const float* data;
    int stride;
};

// The sums of a tile of a product of f32 matrices, in three products of tensor cores. Half of the warps have the even
// eights of the inner dimension and the others the odd ones; of each pair of warps one delivers the upper and one the lower
// rows. If `by_rows`, b is given by its transpose.
template <bool by_rows>
struct MuonTile {
    float sum[2][4][4];
    int half, first_row, first_column, g, t;
    float* shared;

    DEVICE explicit MuonTile(float* shared) : shared(shared) {
        int warp = thread_index() / 32, lane = thread_index() % 32;
        half = warp / 4;
        first_row = warp % 4 / 2 * 32;
        first_column = warp % 2 * 32;
        g = lane / 4;
        t = lane % 4;
        for (int m = 0; m < 2; m++)
            for (int n = 0; n < 4; n++)
                for (int i = 0; i < 4; i++) sum[m][n][i] = 0.0f;
    }

    // Copies part of the inner dimension to shared memory.
    DEVICE void copy(MuonOperand a, MuonOperand b, int first, int stage) {
        float* to = shared + stage * 2 * MUON_OPERAND;
        for (int i = thread_index(); i < MUON_TILE * MUON_DEPTH / 4; i += THREADS) {
            int row = i / (MUON_DEPTH / 4), k = i % (MUON_DEPTH / 4) * 4;
            copy_async(to + row * MUON_ROW + k, a.data + i64(row) * a.stride + first + k);
            if (by_rows) {
                copy_async(to + MUON_OPERAND + row * MUON_ROW + k, b.data + i64(row) * b.stride + first + k);
            } else {
                int inner = i / (MUON_TILE / 4), column = i % (MUON_TILE / 4) * 4;
                copy_async(to + MUON_OPERAND + inner * MUON_COLUMN_ROW + column,
                           b.data + i64(first + inner) * b.stride + column);
            }
        }
    }

    DEVICE void multiply_eight(const float* a, const float* b, int k) {
        u32 a_high[2][4], a_low[2][4], b_high[4][2], b_low[4][2];
        for (int m = 0; m < 2; m++) {
            for (int i = 0; i < 4; i++) {
                int row = first_row + 16 * m + g + i % 2 * 8;
                split_tf32(a[row * MUON_ROW + k + t + i / 2 * 4], a_high[m][i], a_low[m][i]);
            }
        }
        for (int n = 0; n < 4; n++) {
            for (int i = 0; i < 2; i++) {
                int column = first_column + 8 * n + g, inner = k + t + 4 * i;
                split_tf32(by_rows ? b[column * MUON_ROW + inner] : b[inner * MUON_COLUMN_ROW + column], b_high[n][i],
                           b_low[n][i]);
            }
        }
        // Products that follow each other have different sums, so that none waits for the one before.
        each_product([&](int m, int n) { multiply_add_tf32(sum[m][n], a_low[m], b_high[n][0], b_high[n][1]); });
        each_product([&](int m, int n) { multiply_add_tf32(sum[m][n], a_high[m], b_low[n][0], b_low[n][1]); });
        each_product([&](int m, int n) { multiply_add_tf32(sum[m][n], a_high[m], b_high[n][0], b_high[n][1]); });
    }

    template <class Each>
    DEVICE static void each_product(const Each& each) {
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int m = 0; m < 2; m++) each(m, n);
    }

    // Adds a b over the inner dimension from `first` to `end`, where both are multiples of MUON_DEPTH or `end` is where
    // zeros begin. There are zeros from the given row and column on.
    DEVICE void multiply(MuonOperand a, MuonOperand b, int first, int end, int rows, int columns) {
        int chunks = (end - first + MUON_DEPTH - 1) / MUON_DEPTH;
        bool works = first_row < rows && first_column < columns;
        for (int chunk = 0; chunk < MUON_STAGES - 1; chunk++) {
            if (chunk < chunks) copy(a, b, first + chunk * MUON_DEPTH, chunk);
            copy_async_commit();
        }
        for (int chunk = 0; chunk < chunks; chunk++) {
            copy_async_wait<MUON_STAGES - 2>();
            // Also: all warps are done with what the next copy replaces.
            block_barrier();
            int next = chunk + MUON_STAGES - 1;
            if (next < chunks) copy(a, b, first + next * MUON_DEPTH, next % MUON_STAGES);
            copy_async_commit();
            if (!works) continue;
            const float* operands = shared + chunk % MUON_STAGES * 2 * MUON_OPERAND;
            for (int eight = half; eight < MUON_DEPTH / 8; eight += 2) {
                if (first + chunk * MUON_DEPTH + eight * 8 >= end) break;
                multiply_eight(operands, operands + MUON_OPERAND, eight * 8);
            }
        }
    }

    // Calls `each(row, column, value)` for the numbers of the tile.
    template <class Each>
    DEVICE void deliver(const Each& each) {
        int pair = thread_index() % (THREADS / 2);
        float* upper = shared + pair;
        float* lower = upper + 16 * (THREADS / 2);
        block_barrier();
        for (int n = 0; n < 4; n++)
            for (int i = 0; i < 4; i++)
                (half ? upper : lower)[(n * 4 + i) * (THREADS / 2)] = half ? sum[0][n][i] : sum[1][n][i];
        block_barrier();
#pragma unroll
        for (int n = 0; n < 4; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                // The even eights come first.
                float other = (half ? lower : upper)[(n * 4 + i) * (THREADS / 2)];
                float value = half ? other + sum[1][n][i] : sum[0][n][i] + other;
                each(first_row + 16 * half + g + i / 2 * 8, first_column + 8 * n + 2 * t + i % 2, value);
            }
        }
    }
};

// The tile with this index among those on and below the diagonal.
DEVICE void triangle_tile(int index, int& row, int& column) {
    for (row = 0; index > row; row++) index -= row + 1;
    column = index;
}

// a a^T of a matrix [padded side, stride] for a tile on or below the diagonal, over a part of the inner dimension:
// `each(i, value)` for the index of each number in the result [padded side, padded side], above the diagonal, too.
template <class Each>
DEVICE void multiply_by_transpose(const MuonMatrix& m, MuonOperand a, int tile, int first, int end, float* shared,
                                  const Each& each) {
    int row, column;
    triangle_tile(tile, row, column);
    row *= MUON_TILE;
    column *= MUON_TILE;
    MuonOperand upper = {a.data + i64(row) * a.stride, a.stride};
    MuonOperand lower = {a.data + i64(column) * a.stride, a.stride};
    MuonTile<true> product(shared);
    product.multiply(upper, lower, first, end, m.side() - row, m.side() - column);
    i64 stride = m.padded_side();
    product.deliver([&](int r, int c, float value) {
        each((row + r) * stride + column + c, row + r == column + c, value);
        if (row != column) each((column + c) * stride + row + r, false, value);
    });
}

KERNEL(muon_gram, MuonParams, THREADS) {
    SHARED_MEMORY(shared);
    int block;
    const MuonMatrix& m = matrix_of_block(p, block);
    int tiles = m.padded_side() / MUON_TILE;
    tiles = tiles * (tiles + 1) / 2;
    int part = block / tiles, width = m.width();
    int chunks = ((width + MUON_DEPTH - 1) / MUON_DEPTH + m.parts - 1) / m.parts;
    int first = part * chunks * MUON_DEPTH, end = first + chunks * MUON_DEPTH;
    float* out = m.gram_parts() + part * m.square();
    multiply_by_transpose(m, MuonOperand{m.x(p.which), m.padded_width()}, block % tiles, first, end < width ? end : width,
                          reinterpret_cast<float*>(shared), [&](i64 i, bool, float value) { out[i] = value; });
}

// Adds the parts of x x^T; a thread has four numbers.
KERNEL(muon_sum, MuonParams, THREADS) {
    int block;
    const MuonMatrix& m = matrix_of_block(p, block);
    double factor = m.step_factor();
    float square = float(factor * factor);
    i64 at = (i64(block) * THREADS + thread_index()) * 4;
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int part = 0; part < m.parts; part++) {
        float numbers[4];
        load_four(m.gram_parts() + part * m.square() + at, numbers);
        for (int i = 0; i < 4; i++) sum[i] += numbers[i];
    }
    for (int i = 0; i < 4; i++) sum[i] *= square;
    store_four(m.gram() + at, sum);
}

// a + b (x x^T) + c (x x^T)^2
KERNEL(muon_polynomial, MuonParams, THREADS) {
    SHARED_MEMORY(shared);
    int block;
    const MuonMatrix& m = matrix_of_block(p, block);
    const float* gram = m.gram();
    float* out = m.polynomial();
    multiply_by_transpose(m, MuonOperand{gram, m.padded_side()}, block, 0, m.side(), reinterpret_cast<float*>(shared),
                          [&](i64 i, bool diagonal, float value) {
                              out[i] = fmaf(MUON_B, gram[i], MUON_C * value) + (diagonal ? MUON_A : 0.0f);
                          });
}

// The polynomial times x.
KERNEL(muon_apply, MuonParams, THREADS) {
    SHARED_MEMORY(shared);
    int block;
    const MuonMatrix& m = matrix_of_block(p, block);
    int across = m.padded_width() / MUON_TILE;
    int row = block / across * MUON_TILE, column = block % across * MUON_TILE;
    int side = m.padded_side(), width = m.padded_width();
    MuonTile<false> product(reinterpret_cast<float*>(shared));
    product.multiply(MuonOperand{m.polynomial() + i64(row) * side, side}, MuonOperand{m.x(p.which) + column, width}, 0,
                     m.side(), m.side() - row, m.width() - column);
    float* out = m.x(1 - p.which) + i64(row) * width + column;
    product.deliver([&](int r, int c, float value) { out[i64(r) * width + c] = value; });
}

KERNEL(muon_finish, MuonParams, THREADS) {
    int block;
    const MuonMatrix& m = matrix_of_block(p, block);
    float rate = -float(m.rule->learning_rate * m.step_factor());
    double norm = sqrt(sum_parts(m.weight_squares(), m.blocks));
    // A weight of zeros stays as it is.
    float factor = norm > 0.0 ? float(sqrt(double(m.rows)) / norm) : 1.0f;
    const float* x = m.x(p.which);
    each_of_weight(
        m, block,
        [&](int row, int column) {
            float weight[4], step[4];
            float* at = m.weight + i64(row) * m.columns + column;
            load_four(at, weight);
            load_four(x + m.index(row, column), step);
            for (int i = 0; i < 4; i++) weight[i] = fmaf(rate, step[i], factor * weight[i]);
            store_four(at, weight);
        },
        [&](int row, int column) {
            float& weight = m.weight[i64(row) * m.columns + column];
            weight = fmaf(rate, x[m.index(row, column)], factor * weight);
        });
}
