// What differs from one micro-batch or update to the next lies in the device's memory, so that the launches stay the same.
#pragma once

#include "device.cuh"

// Of a micro-batch.
struct Batch {
    double share;              // of the whole batch
    double mean_weight;        // of the labels of the whole batch
    double statistics_weight;  // of the batch in the running statistics; negative: each BatchNorm's own
    i64 images;
    i64 first, end;            // the images that have a gradient
};

// What an update gives, summed up while its micro-batches are computed.
struct Result {
    double loss;
    double whole;  // the squared norm of the gradients
    i64 correct;
    i64 parts;     // how many squared norms of parts there are
};
