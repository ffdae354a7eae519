// BatchNorm between the passes over maps: from the sums of all tiles to factors, running statistics and gradients. A
// block has one channel and adds the tiles' sums in an order that depends on nothing but their number.
#include "batch.cuh"
#include "epilogue.cuh"

// A sum over processes may come between the two halves of a kernel.
enum Phase { BOTH, SUM, FINISH };

// Adds the two sums of a channel over all tiles; every thread gets them. `shared` has room for 2 * WARPS doubles.
DEVICE void sum_tiles(const float* sums, i64 tiles, int channel, int padded_channels, double* shared, double (&total)[2]) {
    double first = 0.0, second = 0.0;
    for (i64 tile = thread_index(); tile < tiles; tile += THREADS) {
        const float* from = sums + (tile * padded_channels + channel) * 2;
        first += from[0];
        second += from[1];
    }
    for (u32 bits = 16; bits > 0; bits /= 2) {
        first += shuffle_xor(first, bits);
        second += shuffle_xor(second, bits);
    }
    int warp = thread_index() / 32;
    if (thread_index() % 32 == 0) {
        shared[2 * warp] = first;
        shared[2 * warp + 1] = second;
    }
    block_barrier();
    total[0] = total[1] = 0.0;
    for (int i = 0; i < WARPS; i++) {
        total[0] += shared[2 * i];
        total[1] += shared[2 * i + 1];
    }
}

struct NormParams {
    const float* sums;  // see Epilogue
    i64 tiles;
    int channels, padded_channels;
    i64 phase;
    double eps;
    double new_weight;      // of the batch in the running statistics
    const Batch* batch;     // may say otherwise
    double pixels;          // of an image
    const float* weight;
    const float* bias;
    float* running_means;   // the shift of the sums, too
    float* running_variances;
    double* totals;         // [channels, 2], and the count
    double* moments;        // [channels, 2]: mean and variance of the batch
    float* means;           // as `scale` and `shift` [padded channels]
    float* scale;
    float* shift;
};

DEVICE double inverse_std(double variance, double eps) { return 1.0 / sqrt(variance + eps); }

DEVICE void set_factors(const NormParams& p, int channel, double mean, double variance) {
    double factor = double(p.weight[channel]) * inverse_std(variance, p.eps);
    p.scale[channel] = float(factor);
    p.shift[channel] = float(double(p.bias[channel]) - factor * mean);
}

KERNEL(norm_statistics, NormParams, THREADS) {
    SHARED_MEMORY(shared);
    int channel = block_index_x();
    if (p.phase != FINISH) {
        double total[2];
        sum_tiles(p.sums, p.tiles, channel, p.padded_channels, reinterpret_cast<double*>(shared), total);
        if (thread_index() == 0) {
            p.totals[2 * channel] = total[0];
            p.totals[2 * channel + 1] = total[1];
            if (channel == 0) p.totals[2 * p.channels] = double(p.batch->images) * p.pixels;
        }
    }
    if (p.phase == SUM || thread_index() != 0) return;
    // Another block may not have written the count yet.
    double count = p.phase == BOTH ? double(p.batch->images) * p.pixels : p.totals[2 * p.channels];
    double shift = p.running_means[channel], off = p.totals[2 * channel] / count;
    double mean = off + shift, variance = p.totals[2 * channel + 1] / count - off * off;
    if (variance < 0.0) variance = 0.0;
    double weight = p.batch->statistics_weight < 0.0 ? p.new_weight : p.batch->statistics_weight;
    double unbiased = variance * (count / (count - 1.0 > 1.0 ? count - 1.0 : 1.0));
    p.running_means[channel] = float((1.0 - weight) * shift + weight * mean);
    p.running_variances[channel] = float((1.0 - weight) * p.running_variances[channel] + weight * unbiased);
    p.moments[2 * channel] = mean;
    p.moments[2 * channel + 1] = variance;
    p.means[channel] = float(mean);
    set_factors(p, channel, mean, variance);
}

// The factors of the running statistics, for inference.
KERNEL(norm_running, NormParams, THREADS) {
    int channel = int(block_index_x()) * THREADS + thread_index();
    if (channel < p.channels) set_factors(p, channel, p.running_means[channel], p.running_variances[channel]);
}

struct NormGradientParams {
    const float* sums;  // see NormSums
    i64 tiles;
    int channels, padded_channels;
    i64 phase;
    double eps;
    const double* moments;
    const double* count;     // numbers in a channel, in all processes
    const float* weight;
    float* weight_gradient;  // null: it is frozen
    float* bias_gradient;
    double* totals;          // [channels, 2]
    float* a;                // see GradientInput
    float* b;
    float* c;
};

KERNEL(norm_gradient, NormGradientParams, THREADS) {
    SHARED_MEMORY(shared);
    int channel = block_index_x();
    double inverse = inverse_std(p.moments[2 * channel + 1], p.eps);
    if (p.phase != FINISH) {
        double total[2];
        sum_tiles(p.sums, p.tiles, channel, p.padded_channels, reinterpret_cast<double*>(shared), total);
        if (thread_index() == 0) {
            p.totals[2 * channel] = total[0];
            p.totals[2 * channel + 1] = total[1];
            // Each process adds its own part; the update sums them.
            if (p.weight_gradient) p.weight_gradient[channel] += float(total[1] * inverse);
            if (p.bias_gradient) p.bias_gradient[channel] += float(total[0]);
        }
    }
    if (p.phase == SUM || thread_index() != 0) return;
    double count = *p.count;
    double a = double(p.weight[channel]) * inverse;
    double b = -a * inverse * (p.totals[2 * channel + 1] * inverse) / count;
    double c = -a * p.totals[2 * channel] / count - b * p.moments[2 * channel];
    p.a[channel] = float(a);
    p.b[channel] = float(b);
    p.c[channel] = float(c);
}
