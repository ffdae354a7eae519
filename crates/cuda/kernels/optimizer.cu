// The optimizer, averages of the model, and norms of gradients: passes over flat buffers of f32.
#include "batch.cuh"
#include "epilogue.cuh"

// The settings of an update rule, which may differ in every update.
struct Rule {
    float learning_rate;
    float momentum;
    float weight_decay;
    int nesterov;
};

struct FlatParams {
    float* parameters;
    float* gradients;
    float* momentum;
    const Rule* rule;
    const float* weight;  // of the model in its average
    double* parts;        // a sum for each block
    Result* result;
    i64 len;
};

// Calls `each(i)` for every number, on all blocks.
template <class Each>
DEVICE void each_number(i64 len, const Each& each) {
    i64 step = i64(grid_blocks_x()) * THREADS;
    for (i64 i = i64(block_index_x()) * THREADS + thread_index(); i < len; i += step) each(i);
}

KERNEL(sgd, FlatParams, THREADS) {
    Rule rule = *p.rule;
    each_number(p.len, [&](i64 i) {
        float gradient = fmaf(rule.weight_decay, p.parameters[i], p.gradients[i]);
        float momentum = fmaf(rule.momentum, p.momentum[i], gradient);
        float step = rule.nesterov ? fmaf(rule.momentum, momentum, gradient) : momentum;
        p.momentum[i] = momentum;
        p.parameters[i] = fmaf(-rule.learning_rate, step, p.parameters[i]);
        p.gradients[i] = 0.0f;
    });
}

KERNEL(clear_numbers, FlatParams, THREADS) {
    each_number(p.len, [&](i64 i) { p.gradients[i] = 0.0f; });
}

// average = (1 - weight) * average + weight * model: `parameters` is the average, `gradients` the model.
KERNEL(blend, FlatParams, THREADS) {
    float weight = *p.weight;
    each_number(p.len, [&](i64 i) {
        // Exact if the weight is 1.
        p.parameters[i] = weight == 1.0f ? p.gradients[i] : fmaf(weight, p.gradients[i], (1.0f - weight) * p.parameters[i]);
    });
}

KERNEL(exchange, FlatParams, THREADS) {
    each_number(p.len, [&](i64 i) {
        float other = p.gradients[i];
        p.gradients[i] = p.parameters[i];
        p.parameters[i] = other;
    });
}

// Adds a number of every thread; thread 0 gets the sum. `shared` has room for THREADS doubles.
DEVICE double sum_of_block(double value, double* shared) {
    int thread = thread_index();
    block_barrier();
    shared[thread] = value;
    block_barrier();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) shared[thread] += shared[thread + half];
        block_barrier();
    }
    return shared[0];
}

// The squared norm of gradients - parameters, the change since it was last measured; remembers the gradients in
// `parameters`. Of the gradients themselves if `parameters` is null.
KERNEL(square_parts, FlatParams, THREADS) {
    SHARED_MEMORY(shared);
    double sum = 0.0;
    each_number(p.len, [&](i64 i) {
        double change = p.gradients[i];
        if (p.parameters) {
            change -= p.parameters[i];
            p.parameters[i] = p.gradients[i];
        }
        sum += change * change;
    });
    sum = sum_of_block(sum, reinterpret_cast<double*>(shared));
    if (thread_index() == 0) p.parts[block_index_x()] = sum;
}

// The blocks of kernels that write a sum for each block.
constexpr int PART_BLOCKS = 128;

DEVICE double sum_parts(const double* parts) {
    double sum = 0.0;
    for (int i = 0; i < PART_BLOCKS; i++) sum += parts[i];
    return sum;
}

// Adds a part to the result: squared norms of parts lie behind it. One thread.
KERNEL(add_part, FlatParams, 32) {
    if (thread_index() != 0) return;
    double* squares = reinterpret_cast<double*>(p.result + 1);
    squares[p.result->parts++] = sum_parts(p.parts);
}

KERNEL(set_whole, FlatParams, 32) {
    if (thread_index() == 0) p.result->whole = sum_parts(p.parts);
}

// Muon (see `Muon` of the crate network). Matrices are as wide as high or wider: weights that are higher are transposed.
struct MuonParams {
    float* weight;
    float* gradient;
    float* momentum;
    float* step;           // [side, width]
    double* step_parts;    // sums of squares, one for each of PART_BLOCKS
    double* weight_parts;
    const Rule* rule;
    i64 rows, columns;
    i64 transpose;         // 1: the step is transposed
};

DEVICE i64 step_index(const MuonParams& p, i64 i) {
    return p.transpose ? i % p.columns * p.rows + i / p.columns : i;
}

// The direction before it is orthogonalised; clears the gradient.
KERNEL(muon_begin, MuonParams, THREADS) {
    SHARED_MEMORY(shared);
    Rule rule = *p.rule;
    double step_square = 0.0, weight_square = 0.0;
    each_number(p.rows * p.columns, [&](i64 i) {
        float gradient = p.gradient[i];
        float momentum = fmaf(rule.momentum, p.momentum[i], gradient);
        float step = rule.nesterov ? fmaf(rule.momentum, momentum, gradient) : momentum;
        p.momentum[i] = momentum;
        p.gradient[i] = 0.0f;
        p.step[step_index(p, i)] = step;
        step_square += double(step) * step;
        weight_square += double(p.weight[i]) * p.weight[i];
    });
    double* sums = reinterpret_cast<double*>(shared);
    step_square = sum_of_block(step_square, sums);
    weight_square = sum_of_block(weight_square, sums);
    if (thread_index() == 0) {
        p.step_parts[block_index_x()] = step_square;
        p.weight_parts[block_index_x()] = weight_square;
    }
}

KERNEL(muon_scale, MuonParams, THREADS) {
    float factor = float(1.0 / (sqrt(sum_parts(p.step_parts)) + 1e-7));
    each_number(p.rows * p.columns, [&](i64 i) { p.step[i] *= factor; });
}

KERNEL(muon_finish, MuonParams, THREADS) {
    float rate = p.rule->learning_rate;
    double norm = sqrt(sum_parts(p.weight_parts));
    // A weight of zeros stays as it is.
    float factor = norm > 0.0 ? float(sqrt(double(p.rows)) / norm) : 1.0f;
    each_number(p.rows * p.columns, [&](i64 i) {
        p.weight[i] = fmaf(-rate, p.step[step_index(p, i)], factor * p.weight[i]);
    });
}

// out = product * (a b) + addend * c + diagonal * identity, of f32 matrices; b transposed if asked. A block computes
// 64 x 64 numbers, a thread 4 x 4.
struct ProductParams {
    const float* a;  // [rows, inner]
    const float* b;  // [inner, columns], or [columns, inner] if transposed
    const float* c;  // [rows, columns], or null
    float* out;
    int rows, columns, inner;
    int transposed;
    float product, addend, diagonal;
    int unused;
};

KERNEL(matrix_product, ProductParams, THREADS) {
    constexpr int SIDE = 64, DEPTH = 16, ROW = SIDE + 1;
    SHARED_MEMORY(shared);
    float* a = reinterpret_cast<float*>(shared);
    float* b = a + DEPTH * ROW;
    int first_row = int(block_index_y()) * SIDE, first_column = int(block_index_x()) * SIDE;
    int row = thread_index() / 16, column = thread_index() % 16;
    float sum[4][4];
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) sum[i][j] = 0.0f;
    for (int first = 0; first < p.inner; first += DEPTH) {
        for (int i = thread_index(); i < SIDE * DEPTH; i += THREADS) {
            int k = i % DEPTH, r = i / DEPTH;
            bool inside = first + k < p.inner && first_row + r < p.rows;
            a[k * ROW + r] = inside ? p.a[i64(first_row + r) * p.inner + first + k] : 0.0f;
            if (p.transposed) {
                inside = first + k < p.inner && first_column + r < p.columns;
                b[k * ROW + r] = inside ? p.b[i64(first_column + r) * p.inner + first + k] : 0.0f;
            } else {
                int c = i % SIDE, d = i / SIDE;
                inside = first + d < p.inner && first_column + c < p.columns;
                b[d * ROW + c] = inside ? p.b[i64(first + d) * p.columns + first_column + c] : 0.0f;
            }
        }
        block_barrier();
        for (int k = 0; k < DEPTH; k++) {
            float x[4], y[4];
            for (int i = 0; i < 4; i++) {
                x[i] = a[k * ROW + row + 16 * i];
                y[i] = b[k * ROW + column + 16 * i];
            }
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
        }
        block_barrier();
    }
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            int r = first_row + row + 16 * i, c = first_column + column + 16 * j;
            if (r >= p.rows || c >= p.columns) continue;
            i64 at = i64(r) * p.columns + c;
            float value = p.product * sum[i][j];
            if (p.c) value = fmaf(p.addend, p.c[at], value);
            if (r == c) value += p.diagonal;
            p.out[at] = value;
        }
    }
}
