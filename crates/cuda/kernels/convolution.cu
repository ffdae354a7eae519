// Convolutions and the gradients of their inputs: a tile of pixels by 64 output channels a block. The halo of the tile is
// read once for a chunk of input channels, through the prologue, into shared memory, where all taps of the window read
// it at their offsets; weights of the chunk lie beside it. Linear layers are convolutions of one pixel.
#include "convolution.cuh"

// Shared memory of a block, after its tables: the halo, the weights; afterwards the output, in rows of so many numbers.
constexpr int OUTPUT_STRIDE = TILE_CHANNELS + 8;

// Products of bfloat16 on tensor cores. The halo: [group of channels, pixel, 8]; weights: [group, tap, output, 8].
// Warps are 4 x 2: each has 32 pixels and 32 outputs.
struct Bf16Products {
    static constexpr int BYTES = 2;
    float sum[2][4][4];
    int lane, warp_pixel, warp_output;

    DEVICE Bf16Products() {
        lane = thread_index() % 32;
        int warp = thread_index() / 32;
        warp_pixel = warp % 4 * 32;
        warp_output = warp / 4 * 32;
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 4; j++)
                for (int k = 0; k < 4; k++) sum[i][j][k] = 0.0f;
    }

    DEVICE static void store(unsigned char* halo, int plane, int group, int pixel, const float (&value)[GROUP]) {
        reinterpret_cast<Bytes16*>(halo)[group * plane + pixel] = to_bf16(value);
    }

    DEVICE void multiply(const Window& w, const int* offsets, const unsigned char* halo, const unsigned char* weights, int groups) {
        const Bytes16* pixels = reinterpret_cast<const Bytes16*>(halo);
        const Bytes16* outputs = reinterpret_cast<const Bytes16*>(weights);
        int row = lane % 8 + lane / 8 % 2 * 8, high = lane / 16;
        int from[2] = {offsets[warp_pixel + row], offsets[warp_pixel + 16 + row]};
        // Of the weights, matrices are ordered: first eight channels and second, of eight outputs, then of the next eight.
        int column = warp_output + lane % 8 + lane / 16 * 8, channel_half = lane / 8 % 2, taps = w.kernel * w.kernel;
        for (int ky = 0; ky < w.kernel; ky++) {
            for (int kx = 0; kx < w.kernel; kx++) {
                int shift = ky * w.halo_columns + kx;
                const Bytes16* of_tap = outputs + (ky * w.kernel + kx) * TILE_CHANNELS;
                for (int group = 0; group < groups; group += 2) {
                    u32 a[2][4], b[2][4];
                    for (int i = 0; i < 2; i++) {
                        load_matrices(a[i], pixels + (group + high) * w.plane + from[i] + shift);
                    }
                    for (int j = 0; j < 2; j++) {
                        load_matrices(b[j], of_tap + (group + channel_half) * taps * TILE_CHANNELS + column + j * 16);
                    }
                    for (int i = 0; i < 2; i++) {
                        for (int j = 0; j < 4; j++) {
                            multiply_add(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
                        }
                    }
                }
            }
        }
    }

    DEVICE void deliver(float* output) const {
        for (int i = 0; i < 2; i++) {
            for (int j = 0; j < 4; j++) {
                for (int half = 0; half < 2; half++) {
                    int pixel = warp_pixel + i * 16 + half * 8 + lane / 4;
                    float* to = output + pixel * OUTPUT_STRIDE + warp_output + j * 8 + lane % 4 * 2;
                    to[0] = sum[i][j][half * 2];
                    to[1] = sum[i][j][half * 2 + 1];
                }
            }
        }
    }
};

// Products of f32. The halo: [channel, pixel]; weights: [channel, tap, output]. A lane has every 32nd pixel, a warp
// eight outputs.
struct F32Products {
    static constexpr int BYTES = 4;
    float sum[4][8];
    int lane, warp;

    DEVICE F32Products() {
        lane = thread_index() % 32;
        warp = thread_index() / 32;
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 8; j++) sum[i][j] = 0.0f;
    }

    DEVICE static void store(unsigned char* halo, int plane, int group, int pixel, const float (&value)[GROUP]) {
        float* to = reinterpret_cast<float*>(halo) + group * GROUP * plane + pixel;
        for (int i = 0; i < GROUP; i++) to[i * plane] = value[i];
    }

    DEVICE void multiply(const Window& w, const int* offsets, const unsigned char* halo, const unsigned char* weights, int groups) {
        const float* pixels = reinterpret_cast<const float*>(halo);
        const float* outputs = reinterpret_cast<const float*>(weights) + warp * 8;
        int from[4];
        for (int i = 0; i < 4; i++) from[i] = offsets[lane + 32 * i];
        int channels = groups * GROUP, taps = w.kernel * w.kernel;
        for (int ky = 0; ky < w.kernel; ky++) {
            for (int kx = 0; kx < w.kernel; kx++) {
                int shift = ky * w.halo_columns + kx;
                const float* of_tap = outputs + (ky * w.kernel + kx) * TILE_CHANNELS;
                for (int channel = 0; channel < channels; channel++) {
                    float a[4];
                    for (int i = 0; i < 4; i++) a[i] = pixels[channel * w.plane + from[i] + shift];
                    for (int j = 0; j < 8; j++) {
                        float b = of_tap[channel * taps * TILE_CHANNELS + j];
                        for (int i = 0; i < 4; i++) sum[i][j] = fmaf(a[i], b, sum[i][j]);
                    }
                }
            }
        }
    }

    DEVICE void deliver(float* output) const {
        for (int i = 0; i < 4; i++) {
            for (int j = 0; j < 8; j++) output[(lane + 32 * i) * OUTPUT_STRIDE + warp * 8 + j] = sum[i][j];
        }
    }
};

// Reads the input of a convolution, or the gradient of its output, and saves it.
template <class Groups>
struct SavingReader {
    Groups groups;
    Maps save;  // null: it is not saved, or another block saves it

    DEVICE SavingReader(const Groups& reader, const Maps& to) : groups(reader), save(to) {
        // One of the blocks that share a tile saves it.
        if (block_index_y() != 0) save.data = nullptr;
    }

    DEVICE void load(i64 at, bool owned, float (&value)[GROUP]) const {
        groups.load(at, value);
        if (owned && save.data) store_group(save, at, value);
    }
};

struct ConvolutionReader : SavingReader<InputReader> {
    DEVICE ConvolutionReader(const ConvolutionParams& p, int channel)
        : SavingReader(InputReader(p.input, channel), p.save) {}
};

struct OutputGradientReader : SavingReader<GradientReader> {
    DEVICE OutputGradientReader(const ConvolutionParams& p, int channel)
        : SavingReader(GradientReader(p.gradient, channel), p.save) {}
};

// Copies the weights of a chunk of input channels and of the block's outputs, which lie together.
template <class Products>
DEVICE void copy_weights(const Window& w, const void* weights, unsigned char* to, int first_group, int groups) {
    i64 group_bytes = i64(w.kernel) * w.kernel * GROUP * TILE_CHANNELS * Products::BYTES;
    i64 first = i64(block_index_y()) * (w.in_channels / GROUP) + first_group;
    const unsigned char* from = static_cast<const unsigned char*>(weights) + first * group_bytes;
    int bytes = groups * int(group_bytes);
    for (int at = thread_index() * 16; at < bytes; at += THREADS * 16) copy_async(to + at, from + at);
    copy_async_commit();
}

template <class Products, class Reader, class End, class EndParams>
DEVICE void convolve(const ConvolutionParams& p, const EndParams& end_params, unsigned char* shared) {
    const Window& w = p.window;
    TileTables tables(w, shared);
    unsigned char* halo = tables.rest;
    unsigned char* weights = halo + (w.plane * w.chunk * Products::BYTES + 15) / 16 * 16;
    tables.fill(w, Tile(w, block_index_x()));
    block_barrier();

    Products products;
    int all_groups = w.in_channels / GROUP, most = w.chunk / GROUP;
    for (int first = 0; first < all_groups; first += most) {
        int groups = all_groups - first < most ? all_groups - first : most;
        copy_weights<Products>(w, p.weights, weights, first, groups);
        read_halo<Products>(w, tables, first, groups, halo, [&](int channel) { return Reader(p, channel); });
        copy_async_wait<0>();
        block_barrier();
        products.multiply(w, tables.offsets, halo, weights, groups);
        block_barrier();
    }

    // The output takes the place of the halo.
    float* out = reinterpret_cast<float*>(halo);
    products.deliver(out);
    block_barrier();
    int output = int(block_index_y()) * TILE_CHANNELS;
    int group = thread_index() % TILE_GROUPS, channel = output + group * GROUP;
    bool inside = channel < w.out_channels;
    End end(end_params, inside ? channel : 0);
    for (int pixel = thread_index() / TILE_GROUPS; inside && pixel < TILE_PIXELS; pixel += PIXELS_AT_ONCE) {
        int at = tables.outputs[pixel];
        if (at < 0) continue;
        float value[GROUP];
        load_group(Maps{out, 1}, pixel * OUTPUT_STRIDE + group * GROUP, value);
        end.group(i64(at) * w.out_channels + channel, value);
    }
    end.finish(block_index_x(), output, w.out_channels, out);
}

KERNEL(convolution_bf16, ConvolutionParams, THREADS) {
    SHARED_MEMORY(shared);
    convolve<Bf16Products, ConvolutionReader, Deliver>(p, p.epilogue, shared);
}

KERNEL(convolution_f32, ConvolutionParams, THREADS) {
    SHARED_MEMORY(shared);
    convolve<F32Products, ConvolutionReader, Deliver>(p, p.epilogue, shared);
}

KERNEL(input_gradient_bf16, ConvolutionParams, THREADS) {
    SHARED_MEMORY(shared);
    convolve<Bf16Products, OutputGradientReader, DeliverGradient>(p, p.gradient_epilogue, shared);
}

KERNEL(input_gradient_f32, ConvolutionParams, THREADS) {
    SHARED_MEMORY(shared);
    convolve<F32Products, OutputGradientReader, DeliverGradient>(p, p.gradient_epilogue, shared);
}

// Lays out weights [outputs, inputs, kernel, kernel] for the kernels above, padded with zeros: [64 results, group of sums,
// tap, result, 8] in bfloat16, [64 results, sum, tap, result] in f32. Of a convolution, sums are over inputs; of the
// gradient of its input, over outputs, and the window is turned by half a circle.
struct PackParams {
    const float* weights;
    void* packed;
    int outputs, inputs, kernel;
    int padded_sums, padded_results;  // results to a multiple of 64
    int gradient, f32;
    int first;                        // block of the layer
};

struct PackAllParams {
    const PackParams* layers;
    i64 count;
};

// A block packs 64 results by a group of sums at nine taps, or by eight groups where there is one tap.
constexpr int PACK_TAPS = 9;
constexpr int PACK_ROW = GROUP * PACK_TAPS + 1;

// With the number of taps as a constant, or 0.
template <int TAPS>
DEVICE void pack_layer(const PackParams& layer, int block, float* numbers) {
    int taps = TAPS > 0 ? TAPS : layer.kernel * layer.kernel, all = layer.padded_sums;
    int most = taps == 1 ? 8 * GROUP : GROUP, columns = (all + most - 1) / most;
    int results = block / columns * TILE_CHANNELS, sums = block % columns * most;
    // Sums are padded to a multiple of 16, and only those of a single tap come in so many that the last are fewer.
    int some_sums = TAPS == 9 ? most : all - sums < most ? all - sums : most;
    i64 base = (i64(results) * layer.padded_sums + i64(sums) * TILE_CHANNELS) * taps;
    for (int first = 0; first < taps; first += PACK_TAPS) {
        int some = TAPS > 0 ? TAPS : taps - first < PACK_TAPS ? taps - first : PACK_TAPS, row = some_sums * some + 1;
        block_barrier();
        for (int i = thread_index(); i < TILE_CHANNELS * some_sums * some; i += THREADS) {
            // Neighbours in memory: taps, then inputs.
            int tap = i % some, rest = i / some;
            int result = layer.gradient ? rest % TILE_CHANNELS : rest / some_sums;
            int sum = layer.gradient ? rest / TILE_CHANNELS : rest % some_sums;
            int output = layer.gradient ? sums + sum : results + result;
            int input = layer.gradient ? results + result : sums + sum;
            int from = layer.gradient ? taps - 1 - (first + tap) : first + tap;
            bool inside = output < layer.outputs && input < layer.inputs;
            float value = inside ? layer.weights[(i64(output) * layer.inputs + input) * taps + from] : 0.0f;
            numbers[result * row + sum * some + tap] = value;
        }
        block_barrier();
        for (int i = thread_index(); i < TILE_CHANNELS * some * (some_sums / GROUP); i += THREADS) {
            int result = i % TILE_CHANNELS, rest = i / TILE_CHANNELS, tap = rest % some, first_sum = rest / some * GROUP;
            float group[GROUP];
            for (int k = 0; k < GROUP; k++) group[k] = numbers[result * row + (first_sum + k) * some + tap];
            i64 of_group = base + i64(first_sum) * taps * TILE_CHANNELS, at = i64(first + tap) * TILE_CHANNELS + result;
            if (layer.f32) {
                float* to = static_cast<float*>(layer.packed) + of_group + at;
                for (int k = 0; k < GROUP; k++) to[i64(k) * taps * TILE_CHANNELS] = group[k];
            } else {
                store_bytes(Maps{layer.packed, 0}, of_group + at * GROUP, to_bf16(group));
            }
        }
    }
}

KERNEL(pack_weights, PackAllParams, THREADS) {
    SHARED_MEMORY(shared);
    float* numbers = reinterpret_cast<float*>(shared);  // [result, sum, tap], rows of an odd length
    int* found = reinterpret_cast<int*>(numbers + TILE_CHANNELS * PACK_ROW);
    int block = block_index_x();
    for (int i = thread_index(); i < int(p.count); i += THREADS) {
        bool is_last = i + 1 == int(p.count);
        if (p.layers[i].first <= block && (is_last || p.layers[i + 1].first > block)) *found = i;
    }
    block_barrier();
    PackParams layer = p.layers[*found];
    switch (layer.kernel) {
        case 1: pack_layer<1>(layer, block - layer.first, numbers); break;
        case 3: pack_layer<9>(layer, block - layer.first, numbers); break;
        default: pack_layer<0>(layer, block - layer.first, numbers); break;
    }
}
