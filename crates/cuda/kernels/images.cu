// From images to the input of the network: maps with channels padded to 16.
#include "maps.cuh"

// Of images that are prepared, [images, channels, rows, columns] in f32.
struct ImagesParams {
    const float* images;
    Maps out;
    i64 count, channels, padded_channels, pixels;
};

KERNEL(lay_out_images, ImagesParams, 256) {
    i64 groups = p.padded_channels / GROUP;
    i64 index = i64(block_index_x()) * 256 + thread_index();
    if (index >= p.count * p.pixels * groups) return;
    i64 first = index % groups * GROUP, pixel = index / groups;
    i64 image = pixel / p.pixels, at = pixel % p.pixels;
    float value[GROUP];
    for (int i = 0; i < GROUP; i++) {
        i64 channel = first + i;
        value[i] = channel < p.channels ? p.images[(image * p.channels + channel) * p.pixels + at] : 0.0f;
    }
    store_group(p.out, pixel * p.padded_channels + first, value);
}

// How samples become the input of the network (see `Preparation` of the crate network).
struct Preparation {
    double mean[3];
    double scale[3];   // one over the standard deviation
    i64 per_image;     // 1: mean and scale are those of each image and channel
    i64 reflect;       // 1: pixels outside come from the image, mirrored at its edge
    i64 border[3];     // the pixels outside otherwise
    i64 cutout;        // rows and columns of the square that is set to zero
};

// An image of the data set, and how it is augmented.
struct Sample {
    u32 index;
    u32 flip;
    int row, column;  // of the crop's top left corner
    int cutout_row, cutout_column;
};

struct SamplesParams {
    const unsigned char* pixels;  // [images, channels, rows, columns]
    const Sample* samples;
    const Preparation* preparation;
    Maps out;
    int channels, rows, columns;  // of an image of the data set
    int padded_channels;
    int side;                     // rows and columns of the output
    int unused;
};

// The row or column inside of an image of this size that is mirrored at `at`; `at` itself if it is inside.
DEVICE int mirrored(int at, int size) {
    int last = size - 1;
    int off = last - (at < 0 ? -at : at);
    return last - (off < 0 ? -off : off);
}

// A block prepares an image. Its shared memory holds the crop's bytes, and sums of all threads.
KERNEL(prepare_samples, SamplesParams, 256) {
    SHARED_MEMORY(shared);
    const Preparation& how = *p.preparation;
    Sample sample = p.samples[block_index_x()];
    int plane = p.rows * p.columns, thread = thread_index();
    unsigned char* crop = shared;
    double* factors = reinterpret_cast<double*>(shared + (p.channels * plane + 15) / 16 * 16);
    u32* sums = reinterpret_cast<u32*>(factors + 6);
    const unsigned char* image = p.pixels + i64(sample.index) * p.channels * plane;
    for (int at = thread; at < p.channels * plane; at += 256) {
        int channel = at / plane, row = at % plane / p.columns, column = at % p.columns;
        if (sample.flip) column = p.columns - 1 - column;
        int y = row + sample.row, x = column + sample.column;
        int inner_y = mirrored(y, p.rows), inner_x = mirrored(x, p.columns);
        bool outside = !how.reflect && (inner_y != y || inner_x != x);
        crop[at] = outside ? (unsigned char)how.border[channel] : image[(channel * p.rows + inner_y) * p.columns + inner_x];
    }
    block_barrier();
    for (int channel = 0; channel < p.channels; channel++) {
        if (!how.per_image) {
            if (thread == 0) {
                factors[channel] = how.mean[channel];
                factors[3 + channel] = how.scale[channel];
            }
            continue;
        }
        u32 sum = 0, square = 0;
        for (int at = thread; at < plane; at += 256) {
            u32 pixel = crop[channel * plane + at];
            sum += pixel;
            square += pixel * pixel;
        }
        sums[thread] = sum;
        sums[256 + thread] = square;
        block_barrier();
        if (thread == 0) {
            u64 all = 0, squares = 0, n = plane;
            for (int from = 0; from < 256; from++) {
                all += sums[from];
                squares += sums[256 + from];
            }
            // In integers, so that the variance of a constant channel is exactly 0.
            double deviation = sqrt(double(n * squares - all * all)) / double(n);
            factors[channel] = double(all) / double(n);
            factors[3 + channel] = deviation > 0.0 ? 1.0 / deviation : 1.0;
        }
        block_barrier();
    }
    block_barrier();

    auto normalised = [&](int channel, int row, int column) {
        bool cut = row >= sample.cutout_row && row < sample.cutout_row + how.cutout
                && column >= sample.cutout_column && column < sample.cutout_column + how.cutout;
        if (cut) return 0.0f;
        double pixel = crop[channel * plane + row * p.columns + column];
        return float((pixel - factors[channel]) * factors[3 + channel]);
    };
    // A side is divided into parts: a pixel of the image covers `side` of them, one of the output as many as the image
    // has pixels.
    auto share = [&](int from, int to, int pixel) {
        int begin = from > pixel * p.side ? from : pixel * p.side;
        int end = to < (pixel + 1) * p.side ? to : (pixel + 1) * p.side;
        return float(end - begin) / float(p.columns);
    };
    auto resized = [&](int channel, int row, int column) {
        int top = row * p.rows, bottom = top + p.rows, left = column * p.columns, right = left + p.columns;
        float value = 0.0f;
        for (int y = top / p.side; y * p.side < bottom; y++) {
            float of_row = 0.0f;
            for (int x = left / p.side; x * p.side < right; x++) {
                of_row += rounded_product(share(left, right, x), normalised(channel, y, x));
            }
            value += rounded_product(share(top, bottom, y), of_row);
        }
        return value;
    };
    for (int pixel = thread; pixel < p.side * p.side; pixel += 256) {
        int row = pixel / p.side, column = pixel % p.side;
        i64 to = (i64(block_index_x()) * p.side * p.side + pixel) * p.padded_channels;
        for (int first = 0; first < p.padded_channels; first += GROUP) {
            float value[GROUP];
            for (int i = 0; i < GROUP; i++) {
                int channel = first + i;
                if (channel >= p.channels) {
                    value[i] = 0.0f;
                } else if (p.side == p.rows) {
                    value[i] = normalised(channel, row, column);
                } else {
                    value[i] = resized(channel, row, column);
                }
            }
            store_group(p.out, to + first, value);
        }
    }
}
