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

// Eight numbers of bfloat16.
DEVICE Bytes16 load_bytes(const Maps& maps, i64 at) {
    return *reinterpret_cast<const Bytes16*>(static_cast<const Bf16*>(maps.data) + at);
}

DEVICE void store_bytes(const Maps& maps, i64 at, const Bytes16& bytes) {
    *reinterpret_cast<Bytes16*>(static_cast<Bf16*>(maps.data) + at) = bytes;
}

DEVICE void from_bf16(const Bytes16& bytes, float (&group)[GROUP]) {
    for (int i = 0; i < 4; i++) {
        group[2 * i] = bits_to_f32(bytes.word[i] << 16);
        group[2 * i + 1] = bits_to_f32(bytes.word[i] & 0xffff0000u);
    }
}

// Four numbers at an address that is a multiple of sixteen.
DEVICE void load_four(const float* from, float (&numbers)[4]) {
    Bytes16 bytes = *reinterpret_cast<const Bytes16*>(from);
    for (int i = 0; i < 4; i++) numbers[i] = bits_to_f32(bytes.word[i]);
}

DEVICE void store_four(float* to, const float (&numbers)[4]) {
    Bytes16 bytes;
    for (int i = 0; i < 4; i++) bytes.word[i] = f32_to_bits(numbers[i]);
    *reinterpret_cast<Bytes16*>(to) = bytes;
}

// Two numbers at an address that is a multiple of eight.
struct alignas(8) Two {
    float low, high;
};

DEVICE void store_two(float* to, float low, float high) { *reinterpret_cast<Two*>(to) = Two{low, high}; }

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
        from_bf16(load_bytes(maps, at), group);
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
        Bytes16* to = reinterpret_cast<Bytes16*>(static_cast<float*>(maps.data) + at);
        Bytes16 low, high;
        for (int i = 0; i < 4; i++) {
            low.word[i] = f32_to_bits(group[i]);
            high.word[i] = f32_to_bits(group[4 + i]);
        }
        to[0] = low;
        to[1] = high;
    } else {
        Bytes16 bytes = to_bf16(group);
        store_bytes(maps, at, bytes);
        from_bf16(bytes, group);
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

// Calls `each` with the kind of the function as a constant, so that a group takes one branch.
template <class Each>
DEVICE void by_kind(const Activation& f, const Each& each) {
    switch (f.kind) {
        case RELU: each(Activation{RELU, f.constant}); break;
        case LEAKY_RELU: each(Activation{LEAKY_RELU, f.constant}); break;
        case ELU: each(Activation{ELU, f.constant}); break;
        case SIGMOID: each(Activation{SIGMOID, f.constant}); break;
        case SILU: each(Activation{SILU, f.constant}); break;
        case GELU: each(Activation{GELU, f.constant}); break;
        case SCALE: each(Activation{SCALE, f.constant}); break;
        default: break;
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

// The factors of a group of channels; those of a term without a BatchNorm change nothing.
struct Factors {
    float scale[GROUP], shift[GROUP];

    DEVICE Factors(const Term& term, int channel) {
        for (int i = 0; i < GROUP; i++) {
            scale[i] = term.scale ? term.scale[channel + i] : 1.0f;
            shift[i] = term.shift ? term.shift[channel + i] : 0.0f;
        }
    }
};

DEVICE void load_term(const Term& term, const Factors& factors, i64 at, float (&group)[GROUP]) {
    load_group(term.value, at, group);
    for (int i = 0; i < GROUP; i++) group[i] = fmaf(factors.scale[i], group[i], factors.shift[i]);
}

// Reads groups of the same channels of an input. What is the same for all pixels is loaded once.
struct InputReader {
    const Input& input;
    Factors main, residual;

    DEVICE InputReader(const Input& of, int channel)
        : input(of), main(of.main, channel), residual(of.residual, channel) {}

    // Before the activation.
    DEVICE void argument(i64 at, float (&group)[GROUP]) const {
        load_term(input.main, main, at, group);
        if (input.residual.value.data) {
            float other[GROUP];
            load_term(input.residual, residual, at, other);
            for (int i = 0; i < GROUP; i++) group[i] += other[i];
        }
    }

    DEVICE void load(i64 at, float (&group)[GROUP]) const {
        argument(at, group);
        by_kind(input.activation, [&](const Activation& f) {
            for (int i = 0; i < GROUP; i++) group[i] = activate(f, group[i]);
        });
    }
};

// The gradient of a step's output: a * gradient + b * value + c through the BatchNorm of the output, `value`; the
// gradient as it is where `a` is null.
struct GradientInput {
    Maps gradient;
    Maps value;
    const float* a;
    const float* b;
    const float* c;
};

// Reads groups of the same channels of a gradient.
struct GradientReader {
    const GradientInput& input;
    float a[GROUP], b[GROUP], c[GROUP];

    DEVICE GradientReader(const GradientInput& of, int channel) : input(of) {
        for (int i = 0; i < GROUP; i++) {
            a[i] = of.a ? of.a[channel + i] : 1.0f;
            b[i] = of.a ? of.b[channel + i] : 0.0f;
            c[i] = of.a ? of.c[channel + i] : 0.0f;
        }
    }

    DEVICE void load(i64 at, float (&group)[GROUP]) const {
        load_group(input.gradient, at, group);
        if (input.a) {
            float value[GROUP];
            load_group(input.value, at, value);
            for (int i = 0; i < GROUP; i++) group[i] = fmaf(a[i], group[i], fmaf(b[i], value[i], c[i]));
        }
    }
};
