// Convolutions and the gradients of their inputs by the products of warpgroups: patches of pixels by 64 output channels. The
// input is plain: another kernel has applied what comes before. Channels come in chunks of sixteen into stages of shared
// memory, two stages ahead of the products. A block goes through several tiles; weights that fit stay.
#include "patch_epilogue.cuh"

#if defined(WARPGROUP_PRODUCTS)

constexpr int CHUNK_GROUPS = 2;
// Bytes of a chunk's weights: [group, tap, output, 8].
constexpr int chunk_weights(int taps) { return CHUNK_GROUPS * taps * TILE_CHANNELS * 16; }

template <int TAPS>
DEVICE void copy_chunk_weights(const ConvolutionParams& p, int chunk, int chunks, unsigned char* to) {
    const unsigned char* from = static_cast<const unsigned char*>(p.weights);
    from += (i64(block_index_y()) * (p.window.in_channels / 16) + chunk) * chunk_weights(TAPS);
    int bytes = chunks * chunk_weights(TAPS);
#pragma unroll 5
    for (int at = thread_index() * 16; at < bytes; at += THREADS * 16) copy_async(to + at, from + at);
}

// The products of a chunk at all taps. Addresses in a descriptor count in units of 16 bytes.
template <int TAPS>
DEVICE void multiply_chunk(const Window& w, float (&sum)[32], u64 of_patch, u64 of_weights, bool add) {
#pragma unroll
    for (int tap = 0; tap < TAPS; tap++) {
        int shift = TAPS == 1 ? 0 : tap_shift(w, tap / 3, tap % 3);
        warpgroup_multiply_add<false>(sum, of_patch + shift, of_weights + tap * TILE_CHANNELS, add || tap > 0);
    }
}

// The same for one of four parts of the pixels of an input that was read with a stride of two: the taps at which pixels of
// the output have read them. The window of the weights is turned.
DEVICE void multiply_part(const Window& w, float (&sum)[32], u64 of_patch, u64 of_weights, bool add, int part) {
    for (int row = part / 2 == 0 ? 1 : 0; row < 3; row += 2) {
        for (int column = part % 2 == 0 ? 1 : 0; column < 3; column += 2) {
            int shift = (row == 0 ? w.halo_columns : 0) + (column == 0 ? 1 : 0), tap = 8 - (row * 3 + column);
            warpgroup_multiply_add<false>(sum, of_patch + shift, of_weights + tap * TILE_CHANNELS, add);
            add = true;
        }
    }
}

// With `OWN` patches for each of the two warpgroups. Of the stages one is read, and one may still be read by slower warps.
template <class End, int TAPS, int OWN, int ITEMS, int STAGES, bool RESIDENT, bool SPREAD>
DEVICE void convolve_patches(const ConvolutionParams& p, unsigned char* shared) {
    constexpr int AHEAD = STAGES - 2, CHUNK_WEIGHTS = chunk_weights(TAPS);
    const Window& w = p.window;
    int chunks = w.in_channels / 16, halo_bytes = CHUNK_GROUPS * w.plane * 16;
    unsigned char* halos = shared + (RESIDENT ? chunks : STAGES) * CHUNK_WEIGHTS;
    float* sums = reinterpret_cast<float*>(halos + STAGES * halo_bytes);
    End end(p, reinterpret_cast<unsigned char*>(sums + End::NORMS * WARPS * WARP_SUMS));
    int lane = thread_index() % 32, warp = uniform(thread_index() / 32);
    int output = int(block_index_y()) * TILE_CHANNELS, part = block_index_z();
    for (int i = thread_index(); i < End::NORMS * WARPS * WARP_SUMS; i += THREADS) sums[i] = 0.0f;
    end.fill_table(output, w.out_channels);

    // A single tap with a stride of two has read one of four parts of the pixels.
    bool is_zero = SPREAD && TAPS == 1 && part > 0;
    int tiles = int(p.tiles), step = int(grid_blocks_x()), group = thread_index() % CHUNK_GROUPS;
    HaloPlaces<CHUNK_GROUPS, ITEMS, THREADS> places(w, 0);
    int fill_tile = block_index_x(), fill_chunk = 0, fill_stage = 0;
    // Begins to fill the next stage with what comes next, if anything does.
    auto fill = [&]() {
        if (fill_tile < tiles) {
            if (fill_chunk == 0) places.find(w, Tile(w, fill_tile));
            if (!RESIDENT) copy_chunk_weights<TAPS>(p, fill_chunk, 1, shared + fill_stage * CHUNK_WEIGHTS);
            Bytes16* to = reinterpret_cast<Bytes16*>(halos + fill_stage * halo_bytes) + group * w.plane + thread_index() / CHUNK_GROUPS;
            const Bf16* from = static_cast<const Bf16*>(p.input.main.value.data) + (fill_chunk * CHUNK_GROUPS + group) * GROUP;
            places.copy(from, w.in_channels, true, to, places.AT_ONCE);
            if (++fill_chunk == chunks) {
                fill_chunk = 0;
                fill_tile += step;
            }
            fill_stage = fill_stage + 1 == STAGES ? 0 : fill_stage + 1;
        }
        copy_async_commit();
    };
    if (RESIDENT) copy_chunk_weights<TAPS>(p, 0, chunks, shared);
    for (int i = 0; i < AHEAD; i++) fill();

    int stage = 0;
    float sum[OWN][32];
    for (int index = block_index_x(); index < tiles; index += step) {
        Tile tile(w, index);
        int patch_halo[OWN];
#pragma unroll
        for (int i = 0; i < OWN; i++) patch_halo[i] = Patch(w, tile, warp / 4 * OWN + i).halo * 16;
        for (int chunk = 0; chunk < chunks; chunk++) {
            copy_async_wait<AHEAD - 1>();
            publish_operands();
            block_barrier();
            u64 of_weights = matrix_descriptor(shared + (RESIDENT ? chunk : stage) * CHUNK_WEIGHTS, TAPS * TILE_CHANNELS * 16, 128);
            warpgroup_begin();
#pragma unroll
            for (int i = 0; i < OWN; i++) {
                u64 of_patch = matrix_descriptor(halos + stage * halo_bytes + patch_halo[i], w.plane * 16, w.halo_columns * 16);
                if (SPREAD && TAPS == 9) {
                    multiply_part(w, sum[i], of_patch, of_weights, chunk > 0, part);
                } else {
                    multiply_chunk<TAPS>(w, sum[i], of_patch, of_weights, chunk > 0);
                }
            }
            warpgroup_commit();
            stage = stage + 1 == STAGES ? 0 : stage + 1;
            // The products that read this stage before have ended in all warps, or they had not come to the barrier.
            fill();
            warpgroup_wait<1>();
        }
        warpgroup_wait<0>();
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int channel = (half * 4 + lane % 4) * GROUP;
            bool inside = output + channel < w.out_channels;
            end.begin();
#pragma unroll
            for (int i = 0; i < OWN; i++) {
                Patch patch(w, tile, warp / 4 * OWN + i);
#pragma unroll
                for (int row = 0; row < 2; row++) {
                    float pairs[4][2];
#pragma unroll
                    for (int j = 0; j < 8; j++) pairs[j / 2][j % 2] = is_zero ? 0.0f : sum[i][(half * 4 + j / 2) * 4 + row * 2 + j % 2];
                    gather_group(pairs);
                    int pixel = patch.pixel(w, warp % 4 * 2 + row, lane / 4, part);
                    if (pixel >= 0 && inside) end.group(i64(pixel) * w.out_channels + output + channel, channel, pairs);
                }
            }
#pragma unroll
            for (int norm = 0; norm < End::NORMS; norm++) {
                float* to = sums + (norm * WARPS + warp) * WARP_SUMS + channel * 2;
                if (end.sums(norm)) add_warp_sums(end.first, end.second[norm], to);
            }
        }
    }

    block_barrier();
    int at = thread_index() % WARP_SUMS, norm = thread_index() / WARP_SUMS;
    if (norm < End::NORMS && end.sums(norm) && output + at / 2 < w.out_channels) {
        float total = 0.0f;
        for (int from = 0; from < WARPS; from++) total += sums[(norm * WARPS + from) * WARP_SUMS + at];
        i64 block = i64(part) * grid_blocks_x() + block_index_x();
        end.sums(norm)[(block * w.out_channels + output) * 2 + at] = total;
    }
}

// The numbers are taps, patches of a warpgroup, places of the halo that a thread fills in a stage at most, and stages. One
// block with many stages hides latencies where there are too few tiles for two blocks.
KERNEL_BESIDE(convolution_patches, ConvolutionParams, THREADS, 2) {
    SHARED_MEMORY(shared);
    convolve_patches<PatchEnd, 9, 2, 4, 3, false, false>(p, shared);
}

KERNEL(convolution_patches_deep, ConvolutionParams, THREADS) {
    SHARED_MEMORY(shared);
    convolve_patches<PatchEnd, 9, 2, 4, 6, false, false>(p, shared);
}

KERNEL_BESIDE(convolution_patches_resident, ConvolutionParams, THREADS, 2) {
    SHARED_MEMORY(shared);
    convolve_patches<PatchEnd, 9, 2, 4, 3, true, false>(p, shared);
}

KERNEL(convolution_patches_strided, ConvolutionParams, THREADS) {
    SHARED_MEMORY(shared);
    convolve_patches<PatchEnd, 9, 1, 6, 4, false, false>(p, shared);
}

KERNEL_BESIDE(convolution_patches_single, ConvolutionParams, THREADS, 2) {
    SHARED_MEMORY(shared);
    convolve_patches<PatchEnd, 1, 1, 1, 4, false, false>(p, shared);
}

#define GRADIENT_KERNELS(suffix, PIECEWISE)                                                          \
    KERNEL_BESIDE(input_gradient_patches##suffix, ConvolutionParams, THREADS, 2) {                  \
        SHARED_MEMORY(shared);                                                                      \
        convolve_patches<PatchGradientEnd<PIECEWISE>, 9, 1, 2, 4, false, false>(p, shared);          \
    }                                                                                               \
    KERNEL(input_gradient_patches_deep##suffix, ConvolutionParams, THREADS) {                       \
        SHARED_MEMORY(shared);                                                                      \
        convolve_patches<PatchGradientEnd<PIECEWISE>, 9, 2, 4, 6, false, false>(p, shared);          \
    }                                                                                               \
    KERNEL_BESIDE(input_gradient_patches_resident##suffix, ConvolutionParams, THREADS, 2) {         \
        SHARED_MEMORY(shared);                                                                      \
        convolve_patches<PatchGradientEnd<PIECEWISE>, 9, 1, 2, 4, true, false>(p, shared);           \
    }                                                                                               \
    KERNEL_BESIDE(input_gradient_patches_strided##suffix, ConvolutionParams, THREADS, 2) {          \
        SHARED_MEMORY(shared);                                                                      \
        convolve_patches<PatchGradientEnd<PIECEWISE>, 9, 1, 2, 4, false, true>(p, shared);           \
    }                                                                                               \
    KERNEL_BESIDE(input_gradient_patches_single##suffix, ConvolutionParams, THREADS, 2) {           \
        SHARED_MEMORY(shared);                                                                      \
        convolve_patches<PatchGradientEnd<PIECEWISE>, 1, 1, 1, 4, false, true>(p, shared);           \
    }

GRADIENT_KERNELS(, true)
GRADIENT_KERNELS(_smooth, false)

#endif
