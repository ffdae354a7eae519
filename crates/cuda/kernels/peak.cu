// Measures the rates of the device: f32 arithmetic, products on the matrix units, copies.
#include "device.cuh"

struct PeakParams {
    float* out;      // a number for each thread, so that nothing is left out
    i64 iterations;  // of PEAK_PRODUCTS multiply-adds in each thread (f32) or each warp (bf16)
};

constexpr int PEAK_THREADS = 256;
constexpr int PEAK_PRODUCTS = 16;
// Products of 16x8x16 numbers that a warp has in flight.
constexpr int PEAK_MATRICES = 8;

KERNEL(peak_f32, PeakParams, PEAK_THREADS) {
    float sums[PEAK_PRODUCTS];
    for (int i = 0; i < PEAK_PRODUCTS; i++) sums[i] = float(thread_index() + i);
    for (i64 step = 0; step < p.iterations; step++) {
        for (int i = 0; i < PEAK_PRODUCTS; i++) sums[i] = fmaf(sums[i], 0.999f, 0.001f);
    }
    float sum = 0.0f;
    for (int i = 0; i < PEAK_PRODUCTS; i++) sum += sums[i];
    p.out[i64(block_index_x()) * PEAK_THREADS + thread_index()] = sum;
}

// Bits that look random, because numbers decide how much power products take, and so how fast they are.
DEVICE u32 scattered(u32 index) {
    index = (index ^ index >> 16) * 0x7feb352du;
    index = (index ^ index >> 15) * 0x846ca68bu;
    return index ^ index >> 16;
}

// Two numbers of bfloat16 between 1 and 2, or between -2 and -1.
DEVICE u32 scattered_bf16(u32 index) { return 0x3f803f80u | (scattered(index) & 0x807f807fu); }

KERNEL(peak_bf16, PeakParams, PEAK_THREADS) {
    u32 a[4], b[PEAK_MATRICES][2];
    float sums[PEAK_MATRICES][4];
    u32 first = (block_index_x() * PEAK_THREADS + thread_index()) * (4 + 2 * PEAK_MATRICES);
    for (int i = 0; i < 4; i++) a[i] = scattered_bf16(first + i);
    for (int i = 0; i < PEAK_MATRICES; i++) {
        for (int j = 0; j < 2; j++) b[i][j] = scattered_bf16(first + 4 + 2 * i + j);
        for (int j = 0; j < 4; j++) sums[i][j] = 0.0f;
    }
    for (i64 step = 0; step < p.iterations; step++) {
        for (int i = 0; i < PEAK_MATRICES; i++) multiply_add(sums[i], a, b[i][0], b[i][1]);
    }
    float sum = 0.0f;
    for (int i = 0; i < PEAK_MATRICES; i++) {
        for (int j = 0; j < 4; j++) sum += sums[i][j];
    }
    p.out[i64(block_index_x()) * PEAK_THREADS + thread_index()] = sum;
}

struct CopyParams {
    const void* from;  // null: scattered numbers are written
    void* to;
    i64 units;         // of 16 bytes
};

// Units that a thread has in flight.
constexpr int COPY_UNITS = 4;

KERNEL(peak_copy, CopyParams, PEAK_THREADS) {
    const Bytes16* from = static_cast<const Bytes16*>(p.from);
    Bytes16* to = static_cast<Bytes16*>(p.to);
    i64 first = i64(block_index_x()) * PEAK_THREADS * COPY_UNITS + thread_index();
    Bytes16 held[COPY_UNITS];
    for (int i = 0; i < COPY_UNITS; i++) {
        i64 at = first + i * PEAK_THREADS;
        if (at >= p.units) break;
        if (from) {
            held[i] = from[at];
        } else {
            for (int j = 0; j < 4; j++) held[i].word[j] = scattered(u32(at) * 4 + j);
        }
    }
    for (int i = 0; i < COPY_UNITS; i++) {
        i64 at = first + i * PEAK_THREADS;
        if (at < p.units) to[at] = held[i];
    }
}
