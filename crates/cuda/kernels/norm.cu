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

DEVICE void set_factors(const NormParams& p, int channel, float weight, float bias, double mean, double variance) {
    double factor = double(weight) * inverse_std(variance, p.eps);
    p.scale[channel] = float(factor);
    p.shift[channel] = float(double(bias) - factor * mean);
}

KERNEL(norm_statistics, NormParams, THREADS) {
    SHARED_MEMORY(shared);
    int channel = block_index_x();
    // Loaded before the sums are waited for.
    float scale = p.weight[channel], bias = p.bias[channel];
    float running_mean = p.running_means[channel], running_variance = p.running_variances[channel];
    double images = double(p.batch->images), batch_weight = p.batch->statistics_weight;
    double total[2];
    if (p.phase != FINISH) {
        sum_tiles(p.sums, p.tiles, channel, p.padded_channels, reinterpret_cast<double*>(shared), total);
    } else {
        total[0] = p.totals[2 * channel];
        total[1] = p.totals[2 * channel + 1];
    }
    if (thread_index() != 0) return;
    if (p.phase == SUM) {
        p.totals[2 * channel] = total[0];
        p.totals[2 * channel + 1] = total[1];
        if (channel == 0) p.totals[2 * p.channels] = images * p.pixels;
        return;
    }
    double count = p.phase == BOTH ? images * p.pixels : p.totals[2 * p.channels];
    // The gradient of another kernel needs the count of all.
    if (channel == 0) p.totals[2 * p.channels] = count;
    double shift = running_mean, off = total[0] / count;
    double mean = off + shift, variance = total[1] / count - off * off;
    if (variance < 0.0) variance = 0.0;
    double weight = batch_weight < 0.0 ? p.new_weight : batch_weight;
    double unbiased = variance * (count / (count - 1.0 > 1.0 ? count - 1.0 : 1.0));
    p.running_means[channel] = float((1.0 - weight) * shift + weight * mean);
    p.running_variances[channel] = float((1.0 - weight) * running_variance + weight * unbiased);
    p.moments[2 * channel] = mean;
    p.moments[2 * channel + 1] = variance;
    p.means[channel] = float(mean);
    set_factors(p, channel, scale, bias, mean, variance);
}

// The factors of the running statistics, for inference.
KERNEL(norm_running, NormParams, THREADS) {
    int channel = int(block_index_x()) * THREADS + thread_index();
    if (channel >= p.channels) return;
    set_factors(p, channel, p.weight[channel], p.bias[channel], p.running_means[channel], p.running_variances[channel]);
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
    // Loaded and computed before the sums are waited for.
    double inverse = inverse_std(p.moments[2 * channel + 1], p.eps), mean = p.moments[2 * channel];
    double a = double(p.weight[channel]) * inverse, share = 1.0 / *p.count;
    double total[2];
    if (p.phase != FINISH) {
        sum_tiles(p.sums, p.tiles, channel, p.padded_channels, reinterpret_cast<double*>(shared), total);
    } else {
        total[0] = p.totals[2 * channel];
        total[1] = p.totals[2 * channel + 1];
    }
    if (thread_index() != 0) return;
    if (p.phase != FINISH) {
        // Each process adds its own part; the update sums them.
        if (p.weight_gradient) p.weight_gradient[channel] += float(total[1] * inverse);
        if (p.bias_gradient) p.bias_gradient[channel] += float(total[0]);
    }
    if (p.phase == SUM) {
        p.totals[2 * channel] = total[0];
        p.totals[2 * channel + 1] = total[1];
        return;
    }
    double b = -a * inverse * (total[1] * inverse) * share;
    double c = -a * total[0] * share - b * mean;
    p.a[channel] = float(a);
    p.b[channel] = float(b);
    p.c[channel] = float(c);
}
