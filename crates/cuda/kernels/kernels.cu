// All kernels, as one translation unit.
#include "convolution.cu"
#include "images.cu"
#include "loss.cu"
#include "norm.cu"
#include "optimizer.cu"
#include "peak.cu"
#include "pooling.cu"
#include "weight_gradient.cu"
