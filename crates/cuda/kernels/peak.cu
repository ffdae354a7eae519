// Measures the rate of f32 arithmetic.
#include "device.cuh"

struct PeakParams {
    float* out;      // a number for each thread, so that nothing is left out
    i64 iterations;  // of PEAK_PRODUCTS fused multiply-adds in each thread
};

constexpr int PEAK_PRODUCTS = 16;

KERNEL(peak_f32, PeakParams, 256) {
    float sums[PEAK_PRODUCTS];
    for (int i = 0; i < PEAK_PRODUCTS; i++) sums[i] = float(thread_index() + i);
    for (i64 step = 0; step < p.iterations; step++) {
        for (int i = 0; i < PEAK_PRODUCTS; i++) sums[i] = fmaf(sums[i], 0.999f, 0.001f);
    }
    float sum = 0.0f;
    for (int i = 0; i < PEAK_PRODUCTS; i++) sum += sums[i];
    p.out[i64(block_index_x()) * 256 + thread_index()] = sum;
}
