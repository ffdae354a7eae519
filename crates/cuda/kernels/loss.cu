// The cross-entropy of the softmax (see `Loss` of the crate network), in f64; a thread has an image.
#include "batch.cuh"
#include "epilogue.cuh"

struct LossParams {
    const float* logits;         // [images, padded classes]
    float* gradient;             // as the logits
    const u16* labels;
    const Batch* batch;
    const float* class_weights;  // null: all are one
    double* losses;              // [images]
    int* correct;                // [images]
    Result* result;
    double smoothing;
    int classes, padded_classes;
};

KERNEL(cross_entropy, LossParams, THREADS) {
    i64 image = i64(block_index_x()) * THREADS + thread_index(), images = p.batch->images;
    if (image >= images) return;
    const float* logits = p.logits + image * p.padded_classes;
    float* gradient = p.gradient + image * p.padded_classes;
    int label = p.labels[image];
    double most = logits[0];
    int largest = 0;
    for (int c = 1; c < p.classes; c++) {
        // A NaN never becomes the largest, and makes the loss NaN below.
        if (logits[c] > most) {
            most = logits[c];
            largest = c;
        }
    }
    double sum = 0.0;
    for (int c = 0; c < p.classes; c++) sum += exp(double(logits[c]) - most);
    double log_sum = log(sum) + most;
    double spread = p.smoothing / p.classes, kept = 1.0 - p.smoothing;
    // The targets t[c] of the classes, and the loss, the sum of t[c] * -log p[c].
    double loss = 0.0, targets = 0.0;
    for (int c = 0; c < p.classes; c++) {
        double weight = p.class_weights ? p.class_weights[c] : 1.0;
        double target = weight * (spread + (c == label ? kept : 0.0));
        if (target != 0.0) loss += target * (log_sum - logits[c]);
        targets += target;
    }
    double divisor = double(images) * p.batch->mean_weight;
    bool has_gradient = image >= p.batch->first && image < p.batch->end;
    double factor = has_gradient ? p.batch->share / divisor : 0.0;
    for (int c = 0; c < p.padded_classes; c++) {
        if (c >= p.classes || !has_gradient) {
            gradient[c] = 0.0f;
            continue;
        }
        double weight = p.class_weights ? p.class_weights[c] : 1.0;
        double target = weight * (spread + (c == label ? kept : 0.0));
        double probability = exp(double(logits[c]) - most) / sum;
        gradient[c] = float(factor * (targets * probability - target));
    }
    p.losses[image] = loss / divisor;
    p.correct[image] = largest == label;
}

// Adds a micro-batch's loss and counts to the update's result; one block.
KERNEL(sum_loss, LossParams, THREADS) {
    SHARED_MEMORY(shared);
    double* sums = reinterpret_cast<double*>(shared);
    i64* counts = reinterpret_cast<i64*>(sums + THREADS);
    int thread = thread_index();
    double sum = 0.0;
    i64 count = 0;
    for (i64 image = thread; image < p.batch->images; image += THREADS) {
        sum += p.losses[image];
        count += p.correct[image];
    }
    sums[thread] = sum;
    counts[thread] = count;
    block_barrier();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) {
            sums[thread] += sums[thread + half];
            counts[thread] += counts[thread + half];
        }
        block_barrier();
    }
    if (thread == 0) {
        p.result->loss += p.batch->share * sums[0];
        p.result->correct += counts[0];
    }
}
