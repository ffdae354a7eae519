// The gradient of a convolution's weights: sums over all pixels of the output's gradient times the input. A block has 64
// outputs by 64 inputs and `taps` taps of the window, and goes through a range of tiles of pixels; what blocks have summed
// is added by another kernel in a fixed order.
#include "convolution.cuh"

constexpr int WEIGHT_INPUTS = 64;
constexpr int GRADIENT_PLANE = TILE_PIXELS + 1;

// Warps are 4 x 2: each has 16 outputs and 32 inputs. Both operands lie as [group of channels, pixel, 8].
template <int TAPS>
struct Bf16WeightProducts {
    static constexpr int BYTES = 2;
    float sum[TAPS][4][4];
    int lane, warp_output, warp_input;

    DEVICE Bf16WeightProducts() {
        lane = thread_index() % 32;
        int warp = thread_index() / 32;
        warp_output = warp % 4;
        warp_input = warp / 4;
        for (int tap = 0; tap < TAPS; tap++)
            for (int j = 0; j < 4; j++)
                for (int k = 0; k < 4; k++) sum[tap][j][k] = 0.0f;
    }

    DEVICE static void store(unsigned char* to, int plane, int group, int pixel, const float (&value)[GROUP]) {
        reinterpret_cast<Bytes16*>(to)[group * plane + pixel] = to_bf16(value);
    }

    DEVICE void multiply(const Window& w, const int* offsets, const unsigned char* halo, const unsigned char* gradient, int first_tap) {
        const Bytes16* inputs = reinterpret_cast<const Bytes16*>(halo);
        const Bytes16* outputs = reinterpret_cast<const Bytes16*>(gradient);
        int matrix = lane / 8;
        outputs += (warp_output * 2 + matrix % 2) * GRADIENT_PLANE + matrix / 2 * 8 + lane % 8;
        inputs += (warp_input * 4 + matrix / 2) * w.plane;
        int pixel_of_lane = matrix % 2 * 8 + lane % 8;
        for (int pixel = 0; pixel < TILE_PIXELS; pixel += 16) {
            u32 a[4];
            load_matrices_transposed(a, outputs + pixel);
            int from = offsets[pixel + pixel_of_lane];
#pragma unroll
            for (int tap = 0; tap < TAPS; tap++) {
                // A constant kernel, where all taps are computed, spares divisions.
                int kernel = TAPS == 9 ? 3 : w.kernel, at = first_tap + tap;
                const Bytes16* of_tap = inputs + from + at / kernel * w.halo_columns + at % kernel;
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    u32 b[4];
                    load_matrices_transposed(b, of_tap + half * 2 * w.plane);
                    multiply_add(sum[tap][half * 2], a, b[0], b[1]);
                    multiply_add(sum[tap][half * 2 + 1], a, b[2], b[3]);
                }
            }
        }
    }

    // Calls `to(tap, output, input, value)` for every sum, numbered from the block's first.
    template <class To>
    DEVICE void deliver(const To& to) const {
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++) {
#pragma unroll
            for (int i = 0; i < 16; i++) {
                int output = warp_output * 16 + i / 2 % 2 * 8 + lane / 4;
                int input = warp_input * 32 + i / 4 * 8 + lane % 4 * 2 + i % 2;
                to(tap, output, input, sum[tap][i / 4][i % 4]);
            }
        }
    }
};

// A lane has two outputs, a warp eight inputs. Both operands lie as [channel, pixel].
template <int TAPS>
struct F32WeightProducts {
    static constexpr int BYTES = 4;
    float sum[TAPS][2][8];
    int lane, warp;

    DEVICE F32WeightProducts() {
        lane = thread_index() % 32;
        warp = thread_index() / 32;
        for (int tap = 0; tap < TAPS; tap++)
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 8; j++) sum[tap][i][j] = 0.0f;
    }

    DEVICE static void store(unsigned char* to, int plane, int group, int pixel, const float (&value)[GROUP]) {
        float* numbers = reinterpret_cast<float*>(to) + group * GROUP * plane + pixel;
        for (int i = 0; i < GROUP; i++) numbers[i * plane] = value[i];
    }

    DEVICE void multiply(const Window& w, const int* offsets, const unsigned char* halo, const unsigned char* gradient, int first_tap) {
        const float* inputs = reinterpret_cast<const float*>(halo) + warp * 8 * w.plane;
        const float* outputs = reinterpret_cast<const float*>(gradient) + lane * GRADIENT_PLANE;
        for (int pixel = 0; pixel < TILE_PIXELS; pixel++) {
            float a[2] = {outputs[pixel], outputs[32 * GRADIENT_PLANE + pixel]};
            int from = offsets[pixel];
#pragma unroll
            for (int tap = 0; tap < TAPS; tap++) {
                int kernel = TAPS == 9 ? 3 : w.kernel, at = first_tap + tap;
                int shifted = from + at / kernel * w.halo_columns + at % kernel;
                for (int j = 0; j < 8; j++) {
                    float b = inputs[j * w.plane + shifted];
                    for (int i = 0; i < 2; i++) sum[tap][i][j] = fmaf(a[i], b, sum[tap][i][j]);
                }
            }
        }
    }

    template <class To>
    DEVICE void deliver(const To& to) const {
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++) {
#pragma unroll
            for (int i = 0; i < 16; i++) to(tap, lane + i / 8 * 32, warp * 8 + i % 8, sum[tap][i / 8][i % 8]);
        }
    }
};

struct WeightInputReader {
    InputReader reader;
    DEVICE void load(i64 at, bool, float (&value)[GROUP]) const { reader.load(at, value); }
};

template <class Products, int TAPS>
DEVICE void weight_gradient(const WeightGradientParams& p, unsigned char* shared) {
    const Window& w = p.window;
    TileTables tables(w, shared);
    unsigned char* gradient = tables.rest;
    unsigned char* halo = gradient + GRADIENT_PLANE * TILE_CHANNELS * Products::BYTES;
    int output = int(block_index_x()) * TILE_CHANNELS, input = int(block_index_y()) * WEIGHT_INPUTS;
    int split = int(block_index_z()) / p.tap_groups;
    int first_tap = int(block_index_z()) % p.tap_groups * TAPS;
    int group = thread_index() % TILE_GROUPS, channel = output + group * GROUP;
    bool inside = channel < w.out_channels;

    Products products;
    int begin = int(i64(p.tiles) * split / p.splits), end = int(i64(p.tiles) * (split + 1) / p.splits);
    for (int index = begin; index < end; index++) {
        block_barrier();
        tables.fill(w, Tile(w, index));
        block_barrier();
        GradientReader reader(p.gradient, inside ? channel : 0);
        for (int pixel = thread_index() / TILE_GROUPS; pixel < TILE_PIXELS; pixel += PIXELS_AT_ONCE) {
            int at = tables.outputs[pixel];
            float value[GROUP];
            clear(value);
            if (at >= 0 && inside) reader.load(i64(at) * w.out_channels + channel, value);
            Products::store(gradient, GRADIENT_PLANE, group, pixel, value);
        }
        read_halo<Products>(w, tables, input / GROUP, WEIGHT_INPUTS / GROUP, halo, [&](int from) {
            return WeightInputReader{InputReader(p.input, from)};
        });
        block_barrier();
        products.multiply(w, tables.offsets, halo, gradient, first_tap);
    }

    i64 taps = w.kernel * w.kernel;
    products.deliver([&](int tap, int out, int in, float value) {
        if (TAPS == 1 && p.direct) {
            if (output + out < p.outputs && input + in < p.inputs) p.direct[i64(output + out) * p.inputs + input + in] += value;
            return;
        }
        if (output + out >= w.out_channels || input + in >= w.in_channels) return;
        i64 at = (split * taps + first_tap + tap) * w.out_channels + output + out;
        p.sums[at * w.in_channels + input + in] = value;
    });
}

// All nine taps at once, for windows of 3x3: each pixel is read once for all.
KERNEL(weight_gradient_9_bf16, WeightGradientParams, THREADS) {
    SHARED_MEMORY(shared);
    weight_gradient<Bf16WeightProducts<9>, 9>(p, shared);
}

KERNEL(weight_gradient_9_f32, WeightGradientParams, THREADS) {
    SHARED_MEMORY(shared);
    weight_gradient<F32WeightProducts<9>, 9>(p, shared);
}

KERNEL(weight_gradient_1_bf16, WeightGradientParams, THREADS) {
    SHARED_MEMORY(shared);
    weight_gradient<Bf16WeightProducts<1>, 1>(p, shared);
}

KERNEL(weight_gradient_1_f32, WeightGradientParams, THREADS) {
    SHARED_MEMORY(shared);
    weight_gradient<F32WeightProducts<1>, 1>(p, shared);
}

// Adds the sums of all splits, in a fixed order, to the gradient [outputs, inputs, kernel, kernel]. A block has an output and
// 32 inputs; its threads go through parts of the splits, of which there are more where there are many splits.
struct WeightSumParams {
    const float* sums;
    float* gradient;
    i64 splits, taps;
    i64 outputs, inputs;
    i64 padded_outputs, padded_inputs;
};

constexpr int SUM_INPUTS = 32;
constexpr int SUM_COLUMNS = 72;  // of four inputs of a tap, at a time
constexpr int SUM_PARTS = 8;
constexpr int SUM_THREADS = SUM_PARTS * SUM_COLUMNS;

KERNEL(sum_weight_gradient, WeightSumParams, SUM_THREADS) {
    SHARED_MEMORY(shared);
    float* totals = reinterpret_cast<float*>(shared);  // [part, column, 4]
    int output = block_index_x(), first = int(block_index_y()) * SUM_INPUTS, taps = int(p.taps);
    int parts = int(block_threads()) / SUM_COLUMNS, part = thread_index() / SUM_COLUMNS, columns = taps * SUM_INPUTS / 4;
    i64 split = p.taps * p.padded_outputs * p.padded_inputs;
    int begin = int(p.splits * part / parts), end = int(p.splits * (part + 1) / parts);
    for (int start = 0; start < columns; start += SUM_COLUMNS) {
        int column = start + int(thread_index()) % SUM_COLUMNS, tap = column / (SUM_INPUTS / 4), input = column % (SUM_INPUTS / 4) * 4;
        float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (column < columns && first + input < p.padded_inputs) {
            const float* from = p.sums + ((i64(tap) * p.padded_outputs + output) * p.padded_inputs + first + input);
#pragma unroll 8
            for (int at = begin; at < end; at++) {
                Bytes16 four = *reinterpret_cast<const Bytes16*>(from + at * split);
                for (int i = 0; i < 4; i++) sum[i] += bits_to_f32(four.word[i]);
            }
        }
        block_barrier();
        for (int i = 0; i < 4; i++) totals[thread_index() * 4 + i] = sum[i];
        block_barrier();
        // In the order of the gradient: taps lie together.
        for (int at = thread_index(); at < SUM_INPUTS * taps; at += block_threads()) {
            int of_input = at / taps, from = at % taps * SUM_INPUTS + of_input - start * 4;
            if (from < 0 || from >= SUM_COLUMNS * 4 || first + of_input >= p.inputs) continue;
            float total = 0.0f;
            for (int k = 0; k < parts; k++) total += totals[k * SUM_COLUMNS * 4 + from];
            p.gradient[(i64(output) * p.inputs + first) * taps + at] += total;
        }
    }
}

// The gradient of a bias: the sum of the output's gradient over all pixels. A block has sixteen channels of a part of the
// pixels.
struct BiasGradientParams {
    GradientInput gradient;
    float* bias;
    double* sums;  // [parts, padded channels]
    i64 pixels;
    int channels, padded_channels;
    i64 parts;
};

KERNEL(bias_gradient, BiasGradientParams, THREADS) {
    SHARED_MEMORY(shared);
    double* sums = reinterpret_cast<double*>(shared);
    int half = thread_index() % 2, channel = int(block_index_x()) * 16 + half * GROUP;
    i64 part = block_index_y(), begin = p.pixels * part / p.parts, end = p.pixels * (part + 1) / p.parts;
    double sum[GROUP];
    for (int i = 0; i < GROUP; i++) sum[i] = 0.0;
    GradientReader reader(p.gradient, channel);
    for (i64 pixel = begin + thread_index() / 2; pixel < end; pixel += THREADS / 2) {
        float value[GROUP];
        reader.load(pixel * p.padded_channels + channel, value);
        for (int i = 0; i < GROUP; i++) sum[i] += value[i];
    }
    for (int i = 0; i < GROUP; i++) sums[thread_index() * GROUP + i] = sum[i];
    block_barrier();
    if (thread_index() < 16) {
        double total = 0.0;
        for (int from = 0; from < THREADS / 2; from++) total += sums[from * 16 + thread_index()];
        p.sums[part * p.padded_channels + block_index_x() * 16 + thread_index()] = total;
    }
}

KERNEL(sum_bias_gradient, BiasGradientParams, THREADS) {
    int channel = int(block_index_x()) * THREADS + thread_index();
    if (channel >= p.channels) return;
    double total = 0.0;
    for (i64 part = 0; part < p.parts; part++) total += p.sums[part * p.padded_channels + channel];
    p.bias[channel] += float(total);
}
