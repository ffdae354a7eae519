// Steps that compute each pixel by itself or from a square of pixels: pooling, writing maps, flattening. A block has 128
// pixels, counted through all images, by 64 channels.
#include "epilogue.cuh"

struct PoolParams {
    int images, in_rows, in_columns;
    int out_rows, out_columns;
    int padded_channels;
    int size;
    int channels;
    Input input;
    GradientInput gradient;  // of the output
    Epilogue epilogue;
    GradientEpilogue gradient_epilogue;
};

// A pixel of maps of so many rows and columns.
struct Pixel {
    int image, row, column;

    // Pixels are fewer than 2^31: divisions of 64 bits are slow.
    DEVICE Pixel(i64 index, int rows, int columns) {
        int at = int(index), rest = at / columns;
        column = at % columns;
        row = rest % rows;
        image = rest / rows;
    }

    DEVICE i64 at(int rows, int columns, int channels) const {
        return ((i64(image) * rows + row) * columns + column) * channels;
    }
};

// The group of channels of a thread in each_group, or the first of all if it has none.
DEVICE int own_channel(const PoolParams& p) {
    int channel = int(block_index_y()) * TILE_CHANNELS + thread_index() % TILE_GROUPS * GROUP;
    return channel < p.padded_channels ? channel : 0;
}

// Calls `compute(pixel, channel, value)` for the groups of a tile and delivers the values. `pixels` are those of the
// result, in all images.
template <class End, class EndParams, class Compute>
DEVICE void each_group(i64 pixels, int padded_channels, const EndParams& end_params, unsigned char* shared, const Compute& compute) {
    int first = int(block_index_y()) * TILE_CHANNELS;
    int channel = first + thread_index() % TILE_GROUPS * GROUP;
    End end(end_params, channel < padded_channels ? channel : 0);
    if (channel < padded_channels) {
        for (int i = thread_index() / TILE_GROUPS; i < TILE_PIXELS; i += PIXELS_AT_ONCE) {
            i64 pixel = i64(block_index_x()) * TILE_PIXELS + i;
            if (pixel >= pixels) break;
            float value[GROUP];
            compute(pixel, channel, value);
            end.group(pixel * padded_channels + channel, value);
        }
    }
    end.finish(block_index_x(), first, padded_channels, reinterpret_cast<float*>(shared));
}

DEVICE i64 in_pixels(const PoolParams& p) { return i64(p.images) * p.in_rows * p.in_columns; }
DEVICE i64 out_pixels(const PoolParams& p) { return i64(p.images) * p.out_rows * p.out_columns; }

// Loads pixel (row, column) of the square of an output.
DEVICE void load_of_square(const PoolParams& p, const InputReader& reader, Pixel out, int row, int column, int channel, float (&value)[GROUP]) {
    out.row = out.row * p.size + row;
    out.column = out.column * p.size + column;
    reader.load(out.at(p.in_rows, p.in_columns, p.padded_channels) + channel, value);
}

KERNEL(write_maps, PoolParams, THREADS) {
    SHARED_MEMORY(shared);
    InputReader reader(p.input, own_channel(p));
    each_group<Deliver>(in_pixels(p), p.padded_channels, p.epilogue, shared,
        [&](i64 pixel, int channel, float (&value)[GROUP]) {
            reader.load(pixel * p.padded_channels + channel, value);
        });
}

KERNEL(write_maps_gradient, PoolParams, THREADS) {
    SHARED_MEMORY(shared);
    GradientReader reader(p.gradient, own_channel(p));
    each_group<DeliverGradient>(in_pixels(p), p.padded_channels, p.gradient_epilogue, shared,
        [&](i64 pixel, int channel, float (&value)[GROUP]) {
            reader.load(pixel * p.padded_channels + channel, value);
        });
}

KERNEL(average_pool, PoolParams, THREADS) {
    SHARED_MEMORY(shared);
    InputReader reader(p.input, own_channel(p));
    each_group<Deliver>(out_pixels(p), p.padded_channels, p.epilogue, shared,
        [&](i64 pixel, int channel, float (&value)[GROUP]) {
            Pixel out(pixel, p.out_rows, p.out_columns);
            clear(value);
            for (int row = 0; row < p.size; row++) {
                for (int column = 0; column < p.size; column++) {
                    float part[GROUP];
                    load_of_square(p, reader, out, row, column, channel, part);
                    for (int i = 0; i < GROUP; i++) value[i] += part[i];
                }
            }
            float share = 1.0f / float(p.size * p.size);
            for (int i = 0; i < GROUP; i++) value[i] *= share;
        });
}

KERNEL(average_pool_gradient, PoolParams, THREADS) {
    SHARED_MEMORY(shared);
    GradientReader reader(p.gradient, own_channel(p));
    each_group<DeliverGradient>(in_pixels(p), p.padded_channels, p.gradient_epilogue, shared,
        [&](i64 pixel, int channel, float (&value)[GROUP]) {
            Pixel out(pixel, p.in_rows, p.in_columns);
            out.row /= p.size;
            out.column /= p.size;
            clear(value);
            // What does not fill a square was left out.
            if (out.row >= p.out_rows || out.column >= p.out_columns) return;
            reader.load(out.at(p.out_rows, p.out_columns, p.padded_channels) + channel, value);
            float share = 1.0f / float(p.size * p.size);
            for (int i = 0; i < GROUP; i++) value[i] *= share;
        });
}

// The maximum, or NaN where one of the two is.
DEVICE float maximum(float a, float b) { return a > b || a != a ? a : b; }

// With the side of the square as a constant, or 0, so that its pixels are loaded at once.
template <int SIZE>
DEVICE void max_pool_of(const PoolParams& p, unsigned char* shared) {
    int size = SIZE > 0 ? SIZE : p.size;
    InputReader reader(p.input, own_channel(p));
    each_group<Deliver>(out_pixels(p), p.padded_channels, p.epilogue, shared,
        [&](i64 pixel, int channel, float (&value)[GROUP]) {
            Pixel out(pixel, p.out_rows, p.out_columns);
#pragma unroll
            for (int at = 0; at < size * size; at++) {
                float other[GROUP];
                load_of_square(p, reader, out, at / size, at % size, channel, other);
                for (int i = 0; i < GROUP; i++) value[i] = at == 0 ? other[i] : maximum(value[i], other[i]);
            }
        });
}

// The first of equal maxima gets the gradient; where the maximum is NaN, the first pixel.
template <int SIZE>
DEVICE void max_pool_gradient_of(const PoolParams& p, unsigned char* shared) {
    int size = SIZE > 0 ? SIZE : p.size;
    InputReader reader(p.input, own_channel(p));
    GradientReader gradient_reader(p.gradient, own_channel(p));
    each_group<DeliverGradient>(in_pixels(p), p.padded_channels, p.gradient_epilogue, shared,
        [&](i64 pixel, int channel, float (&value)[GROUP]) {
            Pixel in(pixel, p.in_rows, p.in_columns), out = in;
            out.row /= size;
            out.column /= size;
            clear(value);
            if (out.row >= p.out_rows || out.column >= p.out_columns) return;
            int own_at = (in.row - out.row * size) * size + in.column - out.column * size;
            float own[GROUP], gradient[GROUP];
            reader.load(in.at(p.in_rows, p.in_columns, p.padded_channels) + channel, own);
            gradient_reader.load(out.at(p.out_rows, p.out_columns, p.padded_channels) + channel, gradient);
            // It is the maximum if those before it are smaller and those behind it are not larger. Of NaNs, which are
            // larger than all, the square's first pixel takes the gradient.
            bool is_largest[GROUP], has_nan[GROUP];
            for (int i = 0; i < GROUP; i++) {
                is_largest[i] = true;
                has_nan[i] = false;
            }
#pragma unroll
            for (int at = 0; at < size * size; at++) {
                float other[GROUP];
                load_of_square(p, reader, out, at / size, at % size, channel, other);
                for (int i = 0; i < GROUP; i++) {
                    has_nan[i] = has_nan[i] || other[i] != other[i];
                    is_largest[i] = is_largest[i] && (at < own_at ? own[i] > other[i] : own[i] >= other[i]);
                }
            }
            for (int i = 0; i < GROUP; i++) value[i] = (has_nan[i] ? own_at == 0 : is_largest[i]) ? gradient[i] : 0.0f;
        });
}

KERNEL(max_pool, PoolParams, THREADS) {
    SHARED_MEMORY(shared);
    switch (p.size) {
        case 2: max_pool_of<2>(p, shared); break;
        case 3: max_pool_of<3>(p, shared); break;
        default: max_pool_of<0>(p, shared); break;
    }
}

KERNEL(max_pool_gradient, PoolParams, THREADS) {
    SHARED_MEMORY(shared);
    switch (p.size) {
        case 2: max_pool_gradient_of<2>(p, shared); break;
        case 3: max_pool_gradient_of<3>(p, shared); break;
        default: max_pool_gradient_of<0>(p, shared); break;
    }
}

// From maps to vectors [images, channels * rows * columns] in PyTorch's order, in f32.
KERNEL(flatten, PoolParams, THREADS) {
    int groups = p.padded_channels / GROUP, area = p.in_rows * p.in_columns;
    int features = p.channels * area, padded = (features + 15) / 16 * 16;
    float* out = static_cast<float*>(p.epilogue.out.data);
    i64 index = i64(block_index_x()) * THREADS + thread_index(), total = i64(p.images) * area * groups;
    if (index < total) {
        int channel = int(index % groups) * GROUP;
        i64 pixel = index / groups;
        float value[GROUP];
        InputReader(p.input, channel).load(pixel * p.padded_channels + channel, value);
        i64 to = pixel / area * padded + i64(channel) * area + pixel % area;
        for (int i = 0; i < GROUP; i++) {
            if (channel + i < p.channels) out[to + i * area] = value[i];
        }
    }
    int rest = padded - features;
    if (index < i64(p.images) * rest) out[index / rest * padded + features + index % rest] = 0.0f;
}

KERNEL(flatten_gradient, PoolParams, THREADS) {
    SHARED_MEMORY(shared);
    int area = p.in_rows * p.in_columns, padded = (p.channels * area + 15) / 16 * 16;
    const float* gradient = static_cast<const float*>(p.gradient.gradient.data);
    each_group<DeliverGradient>(in_pixels(p), p.padded_channels, p.gradient_epilogue, shared,
        [&](i64 pixel, int channel, float (&value)[GROUP]) {
            i64 from = pixel / area * padded + i64(channel) * area + pixel % area;
            for (int i = 0; i < GROUP; i++) value[i] = channel + i < p.channels ? gradient[from + i * area] : 0.0f;
        });
}
