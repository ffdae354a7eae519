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

// Delivers values of a group of channels to an Epilogue. What is the same for all pixels is loaded once.
struct Deliver {
    const Epilogue& end;
    ThreadSums sums;
    float bias[GROUP], shift[GROUP];

    DEVICE Deliver(const Epilogue& epilogue, int channel) : end(epilogue) {
        sums.clear_all();
        for (int i = 0; i < GROUP; i++) {
            bool inside = channel + i < end.channels;
            bias[i] = end.bias && inside ? end.bias[channel + i] : 0.0f;
            shift[i] = end.sums && inside ? end.shift[channel + i] : 0.0f;
        }
    }

    DEVICE void group(i64 at, float (&value)[GROUP]) {
        for (int i = 0; i < GROUP; i++) value[i] += bias[i];
        store_group(end.out, at, value);
        if (end.sums) {
            for (int i = 0; i < GROUP; i++) {
                float off = value[i] - shift[i];
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

// Delivers gradients of a group of channels to a GradientEpilogue.
struct DeliverGradient {
    const GradientEpilogue& end;
    int channel;
    ThreadSums sums[2];
    float mean[2][GROUP];

    DEVICE DeliverGradient(const GradientEpilogue& epilogue, int first) : end(epilogue), channel(first) {
        for (int norm = 0; norm < 2; norm++) {
            sums[norm].clear_all();
            for (int i = 0; i < GROUP; i++) mean[norm][i] = end.norm[norm].sums ? end.norm[norm].mean[first + i] : 0.0f;
        }
    }

    DEVICE void group(i64 at, float (&value)[GROUP]) {
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
            bool saved = end.saved.data != nullptr;
            if (saved) {
                load_group(end.saved, at, other);
            } else {
                InputReader(end.argument, channel).argument(at, other);
            }
            by_kind(end.activation, [&](const Activation& f) {
                for (int i = 0; i < GROUP; i++) {
                    value[i] *= saved ? derivative_at_output(f, other[i]) : derivative_at_input(f, other[i]);
                }
            });
        }
        store_group(end.out, at, value);
        for (int which = 0; which < 2; which++) {
            const NormSums& norm = end.norm[which];
            if (!norm.sums) continue;
            load_group(norm.value, at, other);
            for (int i = 0; i < GROUP; i++) {
                sums[which].first[i] += value[i];
                sums[which].second[i] = fmaf(value[i], other[i] - mean[which][i], sums[which].second[i]);
            }
        }
    }

    DEVICE void finish(i64 tile, int first, int padded_channels, float* shared) {
        for (int which = 0; which < 2; which++) {
            if (end.norm[which].sums) sums[which].store(end.norm[which].sums, tile, first, padded_channels, shared);
        }
    }
};
