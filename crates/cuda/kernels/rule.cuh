// What kernels of the optimizer share: settings of update rules, launches over several groups of parameters, and numbers
// by fours.
#pragma once

#include "device.cuh"

// The settings of an update rule, which may differ in every update.
struct Rule {
    float learning_rate;
    float momentum;
    float weight_decay;
    int nesterov;
};

// The group that a block belongs to: the last one that does not begin behind it.
template <class Group>
DEVICE int group_of_block(const Group* groups, int count) {
    int low = 0, high = count;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (groups[middle].first_block <= int(block_index_x())) low = middle;
        else high = middle;
    }
    return low;
}

// Four numbers, the address of the first of which is a multiple of 16.
DEVICE void load_four(const float* from, float (&numbers)[4]) {
    Bytes16 bytes = *reinterpret_cast<const Bytes16*>(from);
    for (int i = 0; i < 4; i++) numbers[i] = bits_to_f32(bytes.word[i]);
}

DEVICE void store_four(float* to, const float (&numbers)[4]) {
    Bytes16 bytes;
    for (int i = 0; i < 4; i++) bytes.word[i] = f32_to_bits(numbers[i]);
    *reinterpret_cast<Bytes16*>(to) = bytes;
}
