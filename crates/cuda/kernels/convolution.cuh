// The parameters of convolutions and their gradients.
#pragma once

#include "tile.cuh"

struct ConvolutionParams {
    Window window;
    Input input;             // of a convolution; for kernels of warpgroups also the gradient of an output; plain
    Maps save;               // where the input, or the gradient, is stored as it was read, or null
    GradientInput gradient;  // of the gradient of an input
    const void* weights;     // as pack_weights lays them out
    Epilogue epilogue;
    GradientEpilogue gradient_epilogue;
    i64 tiles;               // all of them; kernels of warpgroups go through them with fewer blocks
    float* sums;             // of products, where blocks share the inputs of a linear layer: [part, image, padded outputs]
    i64 parts;
};

struct WeightGradientParams {
    Window window;           // of the convolution; its chunk is 64
    Input input;
    GradientInput gradient;  // of the output
    float* sums;             // [splits, tap, padded outputs, padded inputs]
    float* direct;           // the gradient [outputs, inputs] itself, of one split and one tap, or null
    int tiles;               // all of them
    int splits;
    int tap_groups;          // blocks in z are splits times this
    int outputs, inputs;     // without padding
    int unused;
};
