// Applies what comes before a layer, BatchNorm, addition and activation, to whole maps of bfloat16, so that kernels that read
// the same pixels many times read plain maps. The gradient of an output goes through its BatchNorm in the same way.
#include "maps.cuh"

struct ApplyParams {
    Input input;
    Maps out;
    i64 pixels, channels;  // channels padded
};

constexpr int APPLY_THREADS = 256;
constexpr int APPLY_AT_ONCE = 4;
// Groups of channels of a block, at most; others have a block of their own.
constexpr int APPLY_GROUPS = 32;

KERNEL(apply_input, ApplyParams, APPLY_THREADS) {
    int first = int(block_index_y()) * APPLY_GROUPS, groups = int(p.channels) / GROUP - first;
    if (groups > APPLY_GROUPS) groups = APPLY_GROUPS;
    int rows = APPLY_THREADS / groups, row = thread_index() / groups;
    if (row >= rows) return;
    int channel = (first + int(thread_index()) % groups) * GROUP;
    Factors main(p.input.main, channel), residual(p.input.residual, channel);
    bool two = p.input.residual.value.data != nullptr;
    i64 step = i64(grid_blocks_x()) * rows;
    for (i64 pixel = i64(block_index_x()) * rows + row; pixel < p.pixels; pixel += step * APPLY_AT_ONCE) {
        Bytes16 raw[APPLY_AT_ONCE][2];
#pragma unroll
        for (int i = 0; i < APPLY_AT_ONCE; i++) {
            i64 at = pixel + i * step;
            if (at >= p.pixels) continue;
            raw[i][0] = load_bytes(p.input.main.value, at * p.channels + channel);
            if (two) raw[i][1] = load_bytes(p.input.residual.value, at * p.channels + channel);
        }
#pragma unroll
        for (int i = 0; i < APPLY_AT_ONCE; i++) {
            i64 at = pixel + i * step;
            if (at >= p.pixels) continue;
            float value[GROUP], other[GROUP];
            from_bf16(raw[i][0], value);
            for (int k = 0; k < GROUP; k++) value[k] = fmaf(main.scale[k], value[k], main.shift[k]);
            if (two) {
                from_bf16(raw[i][1], other);
                for (int k = 0; k < GROUP; k++) value[k] += fmaf(residual.scale[k], other[k], residual.shift[k]);
            }
            by_kind(p.input.activation, [&](const Activation& f) {
                for (int k = 0; k < GROUP; k++) value[k] = activate(f, value[k]);
            });
            store_bytes(p.out, at * p.channels + channel, to_bf16(value));
        }
    }
}
