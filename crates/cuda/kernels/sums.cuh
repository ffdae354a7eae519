// Sums of squares over many numbers, in f64: a sum for each block, and what adds them.
#pragma once

#include "epilogue.cuh"

// Adds a number of every lane of a warp; all lanes get the sum.
DEVICE double sum_of_warp(double value) {
    for (u32 bits = 1; bits < 32; bits *= 2) value += shuffle_xor(value, bits);
    return value;
}

// Adds a number of every thread; all threads get the sum. `shared` has room for WARPS doubles.
DEVICE double sum_of_block(double value, double* shared) {
    value = sum_of_warp(value);
    block_barrier();
    if (thread_index() % 32 == 0) shared[thread_index() / 32] = value;
    block_barrier();
    double sum = 0.0;
    for (int warp = 0; warp < WARPS; warp++) sum += shared[warp];
    return sum;
}

// Adds what blocks have written. All lanes of a warp take part and get the sum.
DEVICE double sum_parts(const double* parts, int count) {
    double sum = 0.0;
    for (int i = thread_index() % 32; i < count; i += 32) sum += parts[i];
    return sum_of_warp(sum);
}
