// Where the sums of products of patches go: each lane delivers a group of eight channels of a pixel at a time. What depends on
// the channel lies in shared memory, not in registers, which the sums fill.
#pragma once

#include "warpgroup.cuh"

// Sums of a warp for a BatchNorm: [output, 2].
constexpr int WARP_SUMS = TILE_CHANNELS * 2;

// Delivers groups of channels to an Epilogue.
struct PatchEnd {
    static constexpr int NORMS = 1;
    const Epilogue& end;
    float* table;  // of each two channels both biases and both shifts
    float first[GROUP], second[1][GROUP];

    static constexpr int TABLE_BYTES = TILE_CHANNELS * 2 * 4;

    DEVICE PatchEnd(const ConvolutionParams& p, unsigned char* shared) : end(p.epilogue), table(reinterpret_cast<float*>(shared)) {}

    DEVICE float* sums(int) const { return end.sums; }

    DEVICE void fill_table(int output, int) const {
        int i = thread_index();
        if (i >= TILE_CHANNELS) return;
        bool inside = output + i < end.channels;
        table[i / 2 * 4 + i % 2] = inside && end.bias ? end.bias[output + i] : 0.0f;
        table[i / 2 * 4 + 2 + i % 2] = inside && end.sums ? end.shift[output + i] : 0.0f;
    }

    DEVICE void begin() {
        clear(first);
        clear(second[0]);
    }

    DEVICE void group(i64 at, int channel, const float (&pairs)[4][2]) {
        Bytes16 bytes;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float four[4];
            load_four(table + channel * 2 + i * 4, four);
            bytes.word[i] = pack_bf16(pairs[i][0] + four[0], pairs[i][1] + four[1]);
            // Sums are of what others will read.
            float off[2] = {low_bf16(bytes.word[i]) - four[2], high_bf16(bytes.word[i]) - four[3]};
            for (int k = 0; k < 2; k++) {
                first[2 * i + k] += off[k];
                second[0][2 * i + k] = fmaf(off[k], off[k], second[0][2 * i + k]);
            }
        }
        store_bytes(end.out, at, bytes);
    }
};

// Delivers groups of channels to a GradientEpilogue, whose activation is piecewise linear or any other: code for all of them
// would not fit into the cache of instructions.
template <bool PIECEWISE>
struct PatchGradientEnd {
    static constexpr int NORMS = 2;
    const GradientEpilogue& end;
    float* factors;  // of each two channels scales and shifts of the argument's main term, and of the residual
    float* means;  // of each two channels both means of the first BatchNorm, and of the second
    float first[GROUP], second[2][GROUP];

    static constexpr int TABLE_BYTES = TILE_CHANNELS * 6 * 4;

    DEVICE PatchGradientEnd(const ConvolutionParams& p, unsigned char* shared)
        : end(p.gradient_epilogue), factors(reinterpret_cast<float*>(shared)), means(factors + 4 * TILE_CHANNELS) {}

    DEVICE float* sums(int norm) const { return end.norm[norm].sums; }

    DEVICE void fill_table(int output, int channels) const {
        for (int i = thread_index(); i < 2 * TILE_CHANNELS; i += THREADS) {
            const Term& term = i < TILE_CHANNELS ? end.argument.main : end.argument.residual;
            int channel = i % TILE_CHANNELS, from = output + channel;
            float* to = factors + i / TILE_CHANNELS * 2 * TILE_CHANNELS + channel / 2 * 4 + channel % 2;
            bool inside = from < channels;
            to[0] = term.scale && inside ? term.scale[from] : 1.0f;
            to[2] = term.scale && inside ? term.shift[from] : 0.0f;
        }
        for (int i = thread_index(); i < 2 * TILE_CHANNELS; i += THREADS) {
            int norm = i / TILE_CHANNELS, channel = i % TILE_CHANNELS;
            bool inside = output + channel < channels && end.norm[norm].sums;
            means[channel / 2 * 4 + norm * 2 + channel % 2] = inside ? end.norm[norm].mean[output + channel] : 0.0f;
        }
    }

    DEVICE void begin() {
        clear(first);
        clear(second[0]);
        clear(second[1]);
    }

    DEVICE void group(i64 at, int channel, float (&pairs)[4][2]) {
        bool has_saved = end.saved.data != nullptr, active = end.activation.kind != NONE;
        bool two = end.argument.residual.value.data != nullptr;
        Bytes16 before, addend[2], saved, residual, value[2];
        if (end.accumulate) before = load_bytes(end.out, at);
        for (int i = 0; i < 2; i++) {
            if (end.addend[i].data) addend[i] = load_bytes(end.addend[i], at);
            if (end.norm[i].sums) value[i] = load_bytes(end.norm[i].value, at);
        }
        if (active) {
            saved = load_bytes(has_saved ? end.saved : end.argument.main.value, at);
            if (!has_saved && two) residual = load_bytes(end.argument.residual.value, at);
        }
        if (end.accumulate) add(before, pairs);
        for (int i = 0; i < 2; i++) {
            if (end.addend[i].data) add(addend[i], pairs);
        }
        if (active) {
            auto multiply = [&](const Activation& f) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float x[2] = {low_bf16(saved.word[i]), high_bf16(saved.word[i])};
                    if (!has_saved) argument(channel + 2 * i, two, residual.word[i], x);
                    for (int k = 0; k < 2; k++) pairs[i][k] *= derivative(f, x[k], has_saved);
                }
            };
            if (PIECEWISE) {
                multiply(end.activation);
            } else {
                by_kind(end.activation, multiply);
            }
        }
        Bytes16 bytes;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            bytes.word[i] = pack_bf16(pairs[i][0], pairs[i][1]);
            float rounded[2] = {low_bf16(bytes.word[i]), high_bf16(bytes.word[i])};
            float four[4];
            load_four(means + channel * 2 + i * 4, four);
            for (int k = 0; k < 2; k++) {
                first[2 * i + k] += rounded[k];
                for (int norm = 0; norm < 2; norm++) {
                    if (!end.norm[norm].sums) continue;
                    float of = (k == 0 ? low_bf16(value[norm].word[i]) : high_bf16(value[norm].word[i])) - four[norm * 2 + k];
                    second[norm][2 * i + k] = fmaf(rounded[k], of, second[norm][2 * i + k]);
                }
            }
        }
        store_bytes(end.out, at, bytes);
    }

    // From two channels of the argument's main term to the argument.
    DEVICE void argument(int channel, bool two, u32 residual, float (&x)[2]) const {
        float four[4];
        load_four(factors + channel * 2, four);
        for (int k = 0; k < 2; k++) x[k] = fmaf(four[k], x[k], four[2 + k]);
        if (!two) return;
        load_four(factors + 2 * TILE_CHANNELS + channel * 2, four);
        x[0] += fmaf(four[0], low_bf16(residual), four[2]);
        x[1] += fmaf(four[1], high_bf16(residual), four[3]);
    }

    // At a number of the activation's output, or of its input.
    DEVICE static float derivative(const Activation& f, float x, bool is_output) {
        if (PIECEWISE) return x > 0.0f ? 1.0f : f.kind == LEAKY_RELU ? f.constant : 0.0f;
        return is_output ? derivative_at_output(f, x) : derivative_at_input(f, x);
    }

    DEVICE static void add(const Bytes16& bytes, float (&pairs)[4][2]) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            pairs[i][0] += low_bf16(bytes.word[i]);
            pairs[i][1] += high_bf16(bytes.word[i]);
        }
    }
};
