// Convolutions and the gradients of their inputs: a tile of pixels by 64 output channels a block. The halo of the tile is
// read once for a chunk of input channels, through the prologue, into shared memory, where all taps of the window read
// it at their offsets; weights of the chunk lie beside it. Linear layers are convolutions of one pixel.
#include "tile.cuh"

struct ConvolutionParams {
    Window window;
    Input input;             // of a convolution
    Maps save;               // where the input is stored as it was read, or null
    GradientInput gradient;  // of the gradient of an input
    const void* weights;     // as pack_weights lays them out
    Epilogue epilogue;
    GradientEpilogue gradient_epilogue;
};

// Shared memory of a block, after PixelOffsets: the halo, the weights; afterwards the output.
constexpr int OUTPUT_STRIDE = TILE_CHANNELS + 4;

// Products of bfloat16 on tensor cores. The halo: [group of channels, pixel, 8]; weights: [tap, group, output, 8].
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

    // Copies weights of `groups` groups of input channels and 64 outputs, for all taps.
    DEVICE static void copy_weights(const Window& w, const void* weights, unsigned char* shared, int first_group, int groups, int output) {
        const Bytes16* from = static_cast<const Bytes16*>(weights);
        Bytes16* to = reinterpret_cast<Bytes16*>(shared);
        int taps = w.kernel * w.kernel, total = taps * groups * TILE_CHANNELS;
        for (int unit = thread_index(); unit < total; unit += THREADS) {
            int at = unit % TILE_CHANNELS, row = unit / TILE_CHANNELS;
            int group = row % groups, tap = row / groups;
            if (output + at < w.out_channels) {
                i64 source = (i64(tap) * (w.in_channels / GROUP) + first_group + group) * w.out_channels + output + at;
                copy_async(to + unit, from + source);
            } else {
                to[unit] = Bytes16{{0, 0, 0, 0}};
            }
        }
        copy_async_commit();
    }

    DEVICE void multiply(const Window& w, const int* offsets, const unsigned char* halo, const unsigned char* weights, int groups) {
        const Bytes16* pixels = reinterpret_cast<const Bytes16*>(halo);
        const Bytes16* outputs = reinterpret_cast<const Bytes16*>(weights);
        int row = lane % 8 + lane / 8 % 2 * 8, high = lane / 16;
        int from[2] = {offsets[warp_pixel + row], offsets[warp_pixel + 16 + row]};
        // Of the weights, matrices are ordered: first eight channels and second, of eight outputs, then of the next eight.
        int column = warp_output + lane % 8 + lane / 16 * 8, channel_half = lane / 8 % 2;
        for (int ky = 0; ky < w.kernel; ky++) {
            for (int kx = 0; kx < w.kernel; kx++) {
                int shift = ky * w.halo_columns + kx;
                const Bytes16* of_tap = outputs + (ky * w.kernel + kx) * groups * TILE_CHANNELS;
                for (int group = 0; group < groups; group += 2) {
                    u32 a[2][4], b[2][4];
                    for (int i = 0; i < 2; i++) {
                        load_matrices(a[i], pixels + (group + high) * w.plane + from[i] + shift);
                    }
                    for (int j = 0; j < 2; j++) {
                        load_matrices(b[j], of_tap + (group + channel_half) * TILE_CHANNELS + column + j * 16);
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

// Products of f32. The halo: [channel, pixel]; weights: [tap, channel, output]. A lane has every 32nd pixel, a warp
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

    DEVICE static void copy_weights(const Window& w, const void* weights, unsigned char* shared, int first_group, int groups, int output) {
        const float* from = static_cast<const float*>(weights);
        float* to = reinterpret_cast<float*>(shared);
        int channels = groups * GROUP, total = w.kernel * w.kernel * channels * TILE_CHANNELS;
        for (int unit = thread_index(); unit < total; unit += THREADS) {
            int at = unit % TILE_CHANNELS, row = unit / TILE_CHANNELS;
            int channel = row % channels, tap = row / channels;
            i64 source = (i64(tap) * w.in_channels + first_group * GROUP + channel) * w.out_channels + output + at;
            to[unit] = output + at < w.out_channels ? from[source] : 0.0f;
        }
    }

    DEVICE void multiply(const Window& w, const int* offsets, const unsigned char* halo, const unsigned char* weights, int groups) {
        const float* pixels = reinterpret_cast<const float*>(halo);
        const float* outputs = reinterpret_cast<const float*>(weights) + warp * 8;
        int from[4];
        for (int i = 0; i < 4; i++) from[i] = offsets[lane + 32 * i];
        int channels = groups * GROUP;
        for (int ky = 0; ky < w.kernel; ky++) {
            for (int kx = 0; kx < w.kernel; kx++) {
                int shift = ky * w.halo_columns + kx;
                const float* of_tap = outputs + (ky * w.kernel + kx) * channels * TILE_CHANNELS;
                for (int channel = 0; channel < channels; channel++) {
                    float a[4];
                    for (int i = 0; i < 4; i++) a[i] = pixels[channel * w.plane + from[i] + shift];
                    for (int j = 0; j < 8; j++) {
                        float b = of_tap[channel * TILE_CHANNELS + j];
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

// Reads the input of a convolution.
struct ReadInput {
    const ConvolutionParams& p;
    DEVICE void group(i64 at, int channel, bool owned, float (&value)[GROUP]) const {
        load_input(p.input, at, channel, value);
        // One of the blocks that share a tile saves it.
        if (p.save.data && owned && block_index_y() == 0) store_group(p.save, at, value);
    }
};

// Reads the gradient of the output.
struct ReadGradient {
    const ConvolutionParams& p;
    DEVICE void group(i64 at, int channel, bool, float (&value)[GROUP]) const {
        load_gradient(p.gradient, at, channel, value);
    }
};

// Brings groups of channels of a tile's halo to shared memory, through `source`; zeros outside the maps.
template <class Products, class Source>
DEVICE void read_halo(const Window& w, const Tile& tile, const Source& source, unsigned char* halo, int first_group, int groups) {
    int total = w.tile_images * w.halo_rows * w.halo_columns * groups;
    for (int unit = thread_index(); unit < total; unit += THREADS) {
        int group = unit % groups, pixel = unit / groups;
        HaloPixel from(w, tile, pixel);
        float value[GROUP];
        if (from.at < 0) {
            clear(value);
        } else {
            int channel = (first_group + group) * GROUP;
            source.group(from.at + channel, channel, from.owned, value);
        }
        Products::store(halo, w.plane, group, pixel, value);
    }
}

template <class Products, class Source, class End>
DEVICE void convolve(const ConvolutionParams& p, const Source& source, End end, unsigned char* shared) {
    const Window& w = p.window;
    int* offsets = reinterpret_cast<int*>(shared);
    unsigned char* halo = shared + TILE_PIXELS * sizeof(int);
    unsigned char* weights = halo + (w.plane * w.chunk * Products::BYTES + 15) / 16 * 16;
    Tile tile(w, block_index_x());
    int output = int(block_index_y()) * TILE_CHANNELS;
    if (thread_index() < TILE_PIXELS) offsets[thread_index()] = TilePixel(w, thread_index()).halo(w);

    Products products;
    int all_groups = w.in_channels / GROUP, most = w.chunk / GROUP;
    for (int first = 0; first < all_groups; first += most) {
        int groups = all_groups - first < most ? all_groups - first : most;
        Products::copy_weights(w, p.weights, weights, first, groups, output);
        read_halo<Products>(w, tile, source, halo, first, groups);
        copy_async_wait<0>();
        block_barrier();
        products.multiply(w, offsets, halo, weights, groups);
        block_barrier();
    }

    // The output takes the place of the halo.
    float* out = reinterpret_cast<float*>(halo);
    products.deliver(out);
    block_barrier();
    int group = thread_index() % TILE_GROUPS, channel = output + group * GROUP;
    if (channel < w.out_channels) {
        for (int pixel = thread_index() / TILE_GROUPS; pixel < TILE_PIXELS; pixel += PIXELS_AT_ONCE) {
            i64 at = TilePixel(w, pixel).output(w, tile);
            if (at < 0) continue;
            float value[GROUP];
            for (int i = 0; i < GROUP; i++) value[i] = out[pixel * OUTPUT_STRIDE + group * GROUP + i];
            end.group(at + channel, channel, value);
        }
    }
    end.finish(block_index_x(), output, w.out_channels, out);
}

KERNEL(convolution_bf16, ConvolutionParams, THREADS) {
    SHARED_MEMORY(shared);
    convolve<Bf16Products>(p, ReadInput{p}, Deliver(p.epilogue), shared);
}

KERNEL(convolution_f32, ConvolutionParams, THREADS) {
    SHARED_MEMORY(shared);
    convolve<F32Products>(p, ReadInput{p}, Deliver(p.epilogue), shared);
}

KERNEL(input_gradient_bf16, ConvolutionParams, THREADS) {
    SHARED_MEMORY(shared);
    convolve<Bf16Products>(p, ReadGradient{p}, DeliverGradient(p.gradient_epilogue), shared);
}

KERNEL(input_gradient_f32, ConvolutionParams, THREADS) {
    SHARED_MEMORY(shared);
    convolve<F32Products>(p, ReadGradient{p}, DeliverGradient(p.gradient_epilogue), shared);
}

// Lays out weights [outputs, inputs, kernel, kernel] for the kernels above, padded with zeros: [tap, group of sums,
// result, 8] in bfloat16, [tap, sum, result] in f32. Of a convolution, sums are over inputs; of the gradient of its
// input, over outputs, and the window is turned by half a circle.
struct PackParams {
    const float* weights;
    void* packed;
    i64 outputs, inputs, kernel;
    i64 padded_sums, padded_results;
    i64 gradient, f32;
};

KERNEL(pack_weights, PackParams, THREADS) {
    i64 taps = p.kernel * p.kernel, total = taps * p.padded_sums * p.padded_results;
    for (i64 i = i64(block_index_x()) * THREADS + thread_index(); i < total; i += i64(grid_blocks_x()) * THREADS) {
        i64 result = i % p.padded_results, rest = i / p.padded_results;
        i64 sum = rest % p.padded_sums, tap = rest / p.padded_sums;
        i64 output = p.gradient ? sum : result, input = p.gradient ? result : sum;
        float value = 0.0f;
        if (output < p.outputs && input < p.inputs) {
            i64 from = p.gradient ? taps - 1 - tap : tap;
            value = p.weights[(output * p.inputs + input) * taps + from];
        }
        if (p.f32) {
            static_cast<float*>(p.packed)[i] = value;
        } else {
            i64 group = tap * (p.padded_sums / GROUP) + sum / GROUP;
            i64 to = (group * p.padded_results + result) * GROUP + sum % GROUP;
            static_cast<Bf16*>(p.packed)[to].bits = u16(pack_bf16(value, 0.0f));
        }
    }
}
