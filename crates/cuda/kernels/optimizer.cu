// SGD, averages of the model, and norms of gradients: passes over flat buffers of f32.
#include "batch.cuh"
#include "rule.cuh"
#include "sums.cuh"

struct FlatParams {
    float* parameters;
    float* gradients;
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

// Neighbouring parameters with one rule.
struct SgdGroup {
    i64 first, end;   // the numbers
    int rule;         // its index; negative: they are frozen
    int first_block;
};

constexpr int MOST_SGD_GROUPS = 96;
// Fours of numbers of a thread. All are loaded before one is stored.
constexpr int SGD_FOURS = 4;
constexpr int SGD_NUMBERS = THREADS * 4 * SGD_FOURS;

struct SgdParams {
    float* parameters;
    float* gradients;
    float* momentum;
    const Rule* rules;
    int count, unused;
    SgdGroup group[MOST_SGD_GROUPS];
};

DEVICE void sgd_step(const Rule& rule, float& parameter, float& gradient, float& momentum) {
    float decayed = fmaf(rule.weight_decay, parameter, gradient);
    momentum = fmaf(rule.momentum, momentum, decayed);
    float step = rule.nesterov ? fmaf(rule.momentum, momentum, decayed) : momentum;
    parameter = fmaf(-rule.learning_rate, step, parameter);
    gradient = 0.0f;
}

// A block has the numbers of its group that lie between two multiples of SGD_NUMBERS, so that fours are aligned.
KERNEL(sgd, SgdParams, THREADS) {
    const SgdGroup& group = p.group[group_of_block(p.group, p.count)];
    i64 block = i64(block_index_x()) - group.first_block;
    i64 at[SGD_FOURS];
    bool whole[SGD_FOURS];
    for (int i = 0; i < SGD_FOURS; i++) {
        at[i] = (group.first / SGD_NUMBERS + block) * SGD_NUMBERS + (i * THREADS + thread_index()) * 4;
        whole[i] = at[i] >= group.first && at[i] + 4 <= group.end;
    }
    // The gradients of what is frozen become zeros, too.
    if (group.rule < 0) {
        for (int i = 0; i < SGD_FOURS; i++)
            for (i64 one = at[i]; one < at[i] + 4; one++)
                if (one >= group.first && one < group.end) p.gradients[one] = 0.0f;
        return;
    }
    Rule rule = p.rules[group.rule];
    float parameter[SGD_FOURS][4], gradient[SGD_FOURS][4], momentum[SGD_FOURS][4];
    for (int i = 0; i < SGD_FOURS; i++) {
        if (!whole[i]) continue;
        load_four(p.parameters + at[i], parameter[i]);
        load_four(p.gradients + at[i], gradient[i]);
        load_four(p.momentum + at[i], momentum[i]);
    }
    for (int i = 0; i < SGD_FOURS; i++) {
        if (whole[i]) {
            for (int j = 0; j < 4; j++) sgd_step(rule, parameter[i][j], gradient[i][j], momentum[i][j]);
            store_four(p.parameters + at[i], parameter[i]);
            store_four(p.gradients + at[i], gradient[i]);
            store_four(p.momentum + at[i], momentum[i]);
            continue;
        }
        for (i64 one = at[i]; one < at[i] + 4; one++)
            if (one >= group.first && one < group.end)
                sgd_step(rule, p.parameters[one], p.gradients[one], p.momentum[one]);
    }
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

// The squared norm of the gradients.
KERNEL(square_parts, FlatParams, THREADS) {
    SHARED_MEMORY(shared);
    double sum = 0.0;
    each_number(p.len, [&](i64 i) {
        double gradient = p.gradients[i];
        sum += gradient * gradient;
    });
    sum = sum_of_block(sum, reinterpret_cast<double*>(shared));
    if (thread_index() == 0) p.parts[block_index_x()] = sum;
}

// The blocks of square_parts.
constexpr int PART_BLOCKS = 128;

// Adds a part to the result: squared norms of parts lie behind it. One warp.
KERNEL(add_part, FlatParams, 32) {
    double square = sum_parts(p.parts, PART_BLOCKS);
    if (thread_index() != 0) return;
    double* squares = reinterpret_cast<double*>(p.result + 1);
    squares[p.result->parts++] = square;
}

KERNEL(set_whole, FlatParams, 32) {
    double square = sum_parts(p.parts, PART_BLOCKS);
    if (thread_index() == 0) p.result->whole = square;
}
