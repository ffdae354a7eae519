// What kernels of the optimizer share: settings of update rules, and launches over several groups of parameters.
#pragma once

#include "maps.cuh"

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
