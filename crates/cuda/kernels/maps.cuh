// Feature maps in memory, activations, and how a kernel reads its input.
//
// Maps lie as [images, rows, columns, channels], with channels padded to a multiple of 16 by zeros. A vector is a map of
// one pixel. Kernels go through them in groups of eight channels, 16 or 32 bytes.
#pragma once

#include "device.cuh"

constexpr int GROUP = 8;

struct Maps {
    void* data;  // null: there are none
    i64 f32;     // 1: stored in f32; 0: in bfloat16
};

// A group of eight channels, the first of which is number `at`.
DEVICE void load_group(const Maps& maps, i64 at, float (&group)[GROUP]) {
    if (maps.f32) {
        const Bytes16* from = reinterpret_cast<const Bytes16*>(static_cast<const float*>(maps.data) + at);
        Bytes16 low = from[0], high = from[1];
        for (int i = 0; i < 4; i++) {
            group[i] = bits_to_f32(low.word[i]);
            group[4 + i] = bits_to_f32(high.word[i]);
        }
    } else {
        Bytes16 bytes = *reinterpret_cast<const Bytes16*>(static_cast<const Bf16*>(maps.data) + at);
        for (int i = 0; i < 4; i++) {
            group[2 * i] = bits_to_f32(bytes.word[i] << 16);
            group[2 * i + 1] = bits_to_f32(bytes.word[i] & 0xffff0000u);
        }
    }
}

DEVICE Bytes16 to_bf16(const float (&group)[GROUP]) {
    Bytes16 bytes;
    for (int i = 0; i < 4; i++) bytes.word[i] = pack_bf16(group[2 * i], group[2 * i + 1]);
    return bytes;
}

// Stores a group and replaces it by what was stored: sums must be of what others will read.
DEVICE void store_group(const Maps& maps, i64 at, float (&group)[GROUP]) {
    if (maps.f32) {
        float* to = static_cast<float*>(maps.data) + at;
        for (int i = 0; i < GROUP; i++) to[i] = group[i];
    } else {
        Bytes16 bytes = to_bf16(group);
        *reinterpret_cast<Bytes16*>(static_cast<Bf16*>(maps.data) + at) = bytes;
        for (int i = 0; i < 4; i++) {
            group[2 * i] = bits_to_f32(bytes.word[i] << 16);
            group[2 * i + 1] = bits_to_f32(bytes.word[i] & 0xffff0000u);
        }
    }
}

DEVICE void clear(float (&group)[GROUP]) {
    for (int i = 0; i < GROUP; i++) group[i] = 0.0f;
}

// The numbers are those of `Activation` in the engine's params.rs.
enum ActivationKind { NONE, RELU, LEAKY_RELU, ELU, SIGMOID, SILU, GELU, SCALE };

struct Activation {
    int kind;
    float constant;  // LeakyReLU's slope, the factor of SCALE
};

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// The normal distribution's function.
DEVICE float normal(float x) { return 0.5f * (1.0f + erff(x * 0.70710678f)); }

DEVICE float activate(const Activation& f, float x) {
    switch (f.kind) {
        case RELU: return x > 0.0f ? x : (x < 0.0f ? 0.0f : x);
        case LEAKY_RELU: return x > 0.0f ? x : f.constant * x;
        case ELU: return x > 0.0f ? x : expm1f(x);
        case SIGMOID: return sigmoid(x);
        case SILU: return x * sigmoid(x);
        case GELU: return x * normal(x);
        case SCALE: return f.constant * x;
        default: return x;
    }
}

// The derivative where the output is `y`; not of SiLU and GELU, whose outputs do not tell.
DEVICE float derivative_at_output(const Activation& f, float y) {
    switch (f.kind) {
        case RELU: return y > 0.0f ? 1.0f : 0.0f;
        case LEAKY_RELU: return y > 0.0f ? 1.0f : f.constant;
        case ELU: return y > 0.0f ? 1.0f : y + 1.0f;
        case SIGMOID: return y * (1.0f - y);
        case SCALE: return f.constant;
        default: return 1.0f;
    }
}

DEVICE float derivative_at_input(const Activation& f, float x) {
    switch (f.kind) {
        case SILU: {
            float p = sigmoid(x);
            return p + x * p * (1.0f - p);
        }
        case GELU: return normal(x) + x * 0.39894228f * expf(-0.5f * x * x);
        default: return derivative_at_output(f, activate(f, x));
    }
}

// Maps, normalised by a BatchNorm: scale * value + shift, or as they are where `scale` is null. The factors are padded
// with zeros like the channels.
struct Term {
    Maps value;
    const float* scale;
    const float* shift;
};

// What a kernel reads: activation(main + residual).
struct Input {
    Term main;
    Term residual;  // its maps may be null
    Activation activation;
};

DEVICE void load_term(const Term& term, i64 at, int channel, float (&group)[GROUP]) {
    load_group(term.value, at, group);
    if (term.scale) {
        for (int i = 0; i < GROUP; i++) {
            group[i] = fmaf(term.scale[channel + i], group[i], term.shift[channel + i]);
        }
    }
}

// A group of the input before its activation.
DEVICE void load_argument(const Input& input, i64 at, int channel, float (&group)[GROUP]) {
    load_term(input.main, at, channel, group);
    if (input.residual.value.data) {
        float residual[GROUP];
        load_term(input.residual, at, channel, residual);
        for (int i = 0; i < GROUP; i++) group[i] += residual[i];
    }
}

DEVICE void load_input(const Input& input, i64 at, int channel, float (&group)[GROUP]) {
    load_argument(input, at, channel, group);
    if (input.activation.kind != NONE) {
        for (int i = 0; i < GROUP; i++) group[i] = activate(input.activation, group[i]);
    }
}

// The gradient of a step's output: a * gradient + b * value + c through the BatchNorm of the output, `value`; the
// gradient as it is where `a` is null.
struct GradientInput {
    Maps gradient;
    Maps value;
    const float* a;
    const float* b;
    const float* c;
};

DEVICE void load_gradient(const GradientInput& input, i64 at, int channel, float (&group)[GROUP]) {
    load_group(input.gradient, at, group);
    if (input.a) {
        float value[GROUP];
        load_group(input.value, at, value);
        for (int i = 0; i < GROUP; i++) {
            int at_channel = channel + i;
            group[i] = fmaf(input.a[at_channel], group[i], fmaf(input.b[at_channel], value[i], input.c[at_channel]));
        }
    }
}
