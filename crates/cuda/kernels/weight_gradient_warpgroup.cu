// The gradient of a convolution's weights by the products of warpgroups, for windows of 3x3 with stride 1 on maps of
// bfloat16. A block has 64 outputs by 64 inputs and all taps, three for each of its three warpgroups, or one for its only
// one, and goes through a range of tiles of two patches. The input and the gradient are plain.
#include "warpgroup.cuh"

#if defined(WARPGROUP_PRODUCTS)

constexpr int WEIGHT_THREADS = 384;
constexpr int SINGLE_THREADS = 128;
constexpr int WEIGHT_PATCHES = 2;
constexpr int WEIGHT_PIXELS = WEIGHT_PATCHES * PATCH_PIXELS;
constexpr int WEIGHT_GROUPS = WEIGHT_INPUTS / GROUP;
constexpr int WEIGHT_PLANE = WEIGHT_PIXELS + 1;
// Bytes of a stage's gradient: [group, pixel, 8].
constexpr int STAGE_GRADIENT = WEIGHT_GROUPS * WEIGHT_PLANE * 16;

// A tile's halo comes in `ROUNDS` rounds of `ITEMS` places for a thread.
template <int KERNEL_SIDE, int BLOCK, int ITEMS, int ROUNDS, int STAGES>
DEVICE void weight_gradient_of_patches(const WeightGradientParams& p, unsigned char* shared) {
    // With two stages one is filled only when all warps have read it.
    constexpr int AHEAD = STAGES > 2 ? STAGES - 2 : 1, TAPS = KERNEL_SIDE * KERNEL_SIDE;
    constexpr int AT_ONCE = BLOCK / WEIGHT_GROUPS, GRADIENT_ITEMS = (WEIGHT_PIXELS + AT_ONCE - 1) / AT_ONCE;
    const Window& w = p.window;
    int halo_bytes = WEIGHT_GROUPS * w.plane * 16, stage_bytes = STAGE_GRADIENT + halo_bytes;
    int output = int(block_index_x()) * TILE_CHANNELS, input = int(block_index_y()) * WEIGHT_INPUTS;
    int split = block_index_z(), lane = thread_index() % 32, warp = uniform(thread_index() / 32), row = warp / 4;
    int group = thread_index() % WEIGHT_GROUPS, out_channel = output + group * GROUP;
    const Bf16* from_input = static_cast<const Bf16*>(p.input.main.value.data) + input + group * GROUP;
    const Bf16* from_gradient = static_cast<const Bf16*>(p.gradient.gradient.data) + out_channel;
    bool input_inside = input + group * GROUP < w.in_channels, gradient_inside = out_channel < w.out_channels;
    HaloPlaces<WEIGHT_GROUPS, ITEMS, BLOCK> places(w, 0);
    Places<GRADIENT_ITEMS> gradient_places;  // patch by patch
    bool wide = w.tile_columns > 8;
#pragma unroll
    for (int i = 0; i < GRADIENT_ITEMS; i++) {
        int at = thread_index() / WEIGHT_GROUPS + i * AT_ONCE, patch = at / PATCH_PIXELS;
        int x = at % 8 + (wide ? patch * 8 : 0), y = at % PATCH_PIXELS / 8;
        gradient_places.place[i] = at < WEIGHT_PIXELS ? y | x << 8 | (wide ? 0 : patch) << 16 : -1;
    }

    int begin = int(i64(p.tiles) * split / p.splits), end = int(i64(p.tiles) * (split + 1) / p.splits);
    int fill_index = begin, fill_stage = 0;
    // Begins to fill the next stage, if there is a tile left.
    auto fill = [&]() {
        if (fill_index < end) {
            Tile tile(w, fill_index);
            Bytes16* gradient = reinterpret_cast<Bytes16*>(shared + fill_stage * stage_bytes);
            gradient_places.find(tile.row, tile.column, tile.image, w.out_rows, w.out_columns, w.images);
            gradient_places.copy(from_gradient, w.out_channels, gradient_inside, gradient + group * WEIGHT_PLANE + thread_index() / WEIGHT_GROUPS, AT_ONCE);
            Bytes16* plane = gradient + STAGE_GRADIENT / 16 + group * w.plane + thread_index() / WEIGHT_GROUPS;
#pragma unroll 1
            for (int round = 0; round < ROUNDS; round++) {
                int first = round * ITEMS * AT_ONCE;
                if (ROUNDS > 1) places = HaloPlaces<WEIGHT_GROUPS, ITEMS, BLOCK>(w, first);
                places.find(w, tile);
                places.copy(from_input, w.in_channels, input_inside, plane + first, AT_ONCE);
            }
            fill_index++;
            fill_stage = fill_stage + 1 == STAGES ? 0 : fill_stage + 1;
        }
        copy_async_commit();
    };
    for (int i = 0; i < AHEAD; i++) fill();

    int stage = 0;
    float sum[KERNEL_SIDE][32];
    for (int index = begin; index < end; index++) {
        copy_async_wait<AHEAD - 1>();
        publish_operands();
        block_barrier();
        unsigned char* gradient = shared + stage * stage_bytes;
        unsigned char* halo = gradient + STAGE_GRADIENT;
        Tile tile(w, index);
        u64 of_gradient = matrix_descriptor(gradient, 128, WEIGHT_PLANE * 16);
        u64 of_input = matrix_descriptor(halo, w.halo_columns * 16, w.plane * 16);
        warpgroup_begin();
#pragma unroll
        for (int patch = 0; patch < WEIGHT_PATCHES; patch++) {
            int first = Patch(w, tile, patch).halo;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                // Sixteen pixels: two rows of the patch.
                u64 a = of_gradient + patch * PATCH_PIXELS + k * 16, b = of_input + first + 2 * k * w.halo_columns;
#pragma unroll
                for (int column = 0; column < KERNEL_SIDE; column++) {
                    u64 of_tap = TAPS == 1 ? b : b + tap_shift(w, row, column);
                    warpgroup_multiply_add<true>(sum[column], a, of_tap, index > begin || patch + k > 0);
                }
            }
        }
        warpgroup_commit();
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        if (STAGES == 2) {
            // All warps have ended the products before, which read this stage.
            warpgroup_wait<1>();
            block_barrier();
        }
        fill();
        warpgroup_wait<1>();
    }
    warpgroup_wait<0>();

    int out = output + warp % 4 * 16 + lane / 4, in = input + lane % 4 * 2;
    float* to = p.sums + (i64(split * TAPS + row * KERNEL_SIDE) * w.out_channels + out) * w.in_channels + in;
    i64 tap = i64(w.out_channels) * w.in_channels;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (out + half * 8 >= w.out_channels) continue;
#pragma unroll
        for (int column = 0; column < KERNEL_SIDE; column++) {
            float* of_tap = to + column * tap + half * 8 * w.in_channels;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                if (in + i * 8 < w.in_channels) store_two(of_tap + i * 8, sum[column][i * 4 + half * 2], sum[column][i * 4 + half * 2 + 1]);
            }
        }
    }
}

KERNEL(weight_gradient_patches, WeightGradientParams, WEIGHT_THREADS) {
    SHARED_MEMORY(shared);
    weight_gradient_of_patches<3, WEIGHT_THREADS, 5, 1, 4>(p, shared);
}

KERNEL(weight_gradient_patches_strided, WeightGradientParams, WEIGHT_THREADS) {
    SHARED_MEMORY(shared);
    weight_gradient_of_patches<3, WEIGHT_THREADS, 5, 3, 2>(p, shared);
}

KERNEL_BESIDE(weight_gradient_patches_single, WeightGradientParams, SINGLE_THREADS, 2) {
    SHARED_MEMORY(shared);
    weight_gradient_of_patches<1, SINGLE_THREADS, 8, 1, 3>(p, shared);
}

#endif
