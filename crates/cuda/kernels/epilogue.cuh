// What happens to a kernel's output, a tile of up to 128 pixels by 64 channels: it is stored, and summed up for a
// BatchNorm. Each tile writes its sums to a place of its own; norm.cu adds them in a fixed order.
#pragma once

#include "maps.cuh"

constexpr int TILE_PIXELS = 128;
constexpr int TILE_CHANNELS = 64;
constexpr int TILE_GROUPS = TILE_CHANNELS / GROUP;
constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
// Pixels that the threads of a block deliver at once: each a group of channels.
constexpr int PIXELS_AT_ONCE = THREADS / TILE_GROUPS;

// Of a forward kernel: value + bias.
struct Epilogue {
    Maps out;
    const float* bias;   // [channels] or null
    const float* shift;  // subtracted from the numbers that are summed, near their mean: [channels]
    float* sums;         // [tiles, padded channels, 2]: of (value - shift) and its square, or null
    i64 channels;        // without padding
};

// The sums of the gradient and of the gradient times (value - mean), for a BatchNorm.
struct NormSums {
    Maps value;
    const float* mean;
    float* sums;  // [tiles, padded channels, 2], or null
};

// Of a backward kernel: (value + what `out` holds + addends) * activation'.
struct GradientEpilogue {
    Maps out;
    i64 accumulate;  // 1: `out` holds a part already
    Maps addend[2];
    Activation activation;
    Maps saved;      // the activation's output; null: the derivative is taken at `argument`
    Input argument;  // without its activation
    NormSums norm[2];
};

// Two sums over the pixels that a thread delivered, of its group of channels.
struct ThreadSums {
    float first[GROUP];
    float second[GROUP];

    DEVICE void clear_all() {
        clear(first);
        clear(second);
    }

    // The block's sums go to sums[tile]. All threads take part; `shared` has room for WARPS * TILE_CHANNELS * 2 floats.
    DEVICE void store(float* sums, i64 tile, int channel, int padded_channels, float* shared) {
        for (int i = 0; i < GROUP; i++) {
            // Lanes eight apart have the same channels.
            for (u32 bits = TILE_GROUPS; bits < 32; bits *= 2) {
                first[i] += shuffle_xor(first[i], bits);
                second[i] += shuffle_xor(second[i], bits);
            }
        }
        int warp = thread_index() / 32, lane = thread_index() % 32;
        block_barrier();
        if (lane < TILE_GROUPS) {
            for (int i = 0; i < GROUP; i++) {
                float* to = shared + (warp * TILE_CHANNELS + lane * GROUP + i) * 2;
                to[0] = first[i];
                to[1] = second[i];
            }
        }
        block_barrier();
        int at = thread_index();
        if (at < 2 * TILE_CHANNELS && channel + at / 2 < padded_channels) {
            float sum = 0.0f;
            for (int from = 0; from < WARPS; from++) sum += shared[from * TILE_CHANNELS * 2 + at];
            sums[(tile * padded_channels + channel) * 2 + at] = sum;
        }
    }
};

// Delivers values to an Epilogue.
struct Deliver {
    const Epilogue& end;
    ThreadSums sums;

    DEVICE explicit Deliver(const Epilogue& epilogue) : end(epilogue) { sums.clear_all(); }

    DEVICE void group(i64 at, int channel, float (&value)[GROUP]) {
        if (end.bias) {
            for (int i = 0; i < GROUP; i++) {
                if (channel + i < end.channels) value[i] += end.bias[channel + i];
            }
        }
        store_group(end.out, at, value);
        if (end.sums) {
            for (int i = 0; i < GROUP; i++) {
                float off = channel + i < end.channels ? value[i] - end.shift[channel + i] : 0.0f;
                sums.first[i] += off;
                sums.second[i] = fmaf(off, off, sums.second[i]);
            }
        }
    }

    // `channel` is the tile's first.
    DEVICE void finish(i64 tile, int channel, int padded_channels, float* shared) {
        if (end.sums) sums.store(end.sums, tile, channel, padded_channels, shared);
    }
};

// Delivers gradients to a GradientEpilogue.
struct DeliverGradient {
    const GradientEpilogue& end;
    ThreadSums sums[2];

    DEVICE explicit DeliverGradient(const GradientEpilogue& epilogue) : end(epilogue) {
        for (int norm = 0; norm < 2; norm++) sums[norm].clear_all();
    }

    DEVICE void group(i64 at, int channel, float (&value)[GROUP]) {
        float other[GROUP];
        if (end.accumulate) {
            load_group(end.out, at, other);
            for (int i = 0; i < GROUP; i++) value[i] += other[i];
        }
        for (int which = 0; which < 2; which++) {
            if (end.addend[which].data) {
                load_group(end.addend[which], at, other);
                for (int i = 0; i < GROUP; i++) value[i] += other[i];
            }
        }
        if (end.activation.kind != NONE) {
            if (end.saved.data) {
                load_group(end.saved, at, other);
                for (int i = 0; i < GROUP; i++) value[i] *= derivative_at_output(end.activation, other[i]);
            } else {
                load_argument(end.argument, at, channel, other);
                for (int i = 0; i < GROUP; i++) value[i] *= derivative_at_input(end.activation, other[i]);
            }
        }
        store_group(end.out, at, value);
        for (int which = 0; which < 2; which++) {
            const NormSums& norm = end.norm[which];
            if (!norm.sums) continue;
            load_group(norm.value, at, other);
            for (int i = 0; i < GROUP; i++) {
                sums[which].first[i] += value[i];
                sums[which].second[i] = fmaf(value[i], other[i] - norm.mean[channel + i], sums[which].second[i]);
            }
        }
    }

    DEVICE void finish(i64 tile, int channel, int padded_channels, float* shared) {
        for (int which = 0; which < 2; which++) {
            if (end.norm[which].sums) sums[which].store(end.norm[which].sums, tile, channel, padded_channels, shared);
        }
    }
};
