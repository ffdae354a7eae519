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

// Where pixel number `at` of the square of an output begins. Where the side of the square is a constant, nothing is divided.
DEVICE i64 pixel_of_square(const PoolParams& p, Pixel out, int size, int at) {
    out.row = out.row * size + at / size;
    out.column = out.column * size + at % size;
    return out.at(p.in_rows, p.in_columns, p.padded_channels);
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
            for (int at = 0; at < p.size * p.size; at++) {
                float part[GROUP];
                reader.load(pixel_of_square(p, out, p.size, at) + channel, part);
                for (int i = 0; i < GROUP; i++) value[i] += part[i];
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
                reader.load(pixel_of_square(p, out, size, at) + channel, other);
                for (int i = 0; i < GROUP; i++) value[i] = at == 0 ? other[i] : maximum(value[i], other[i]);
            }
        });
}

// A thread has a square of the input and loads each of its pixels once for all of their gradients: a block has 32 squares,
// which may reach over the input's edges. The first of equal maxima gets the gradient; where the maximum is NaN, the first
// pixel. What does not fill a square was left out and gets none.
template <int SIZE>
DEVICE void max_pool_gradient_of(const PoolParams& p, unsigned char* shared) {
    int size = SIZE > 0 ? SIZE : p.size;
    int rows = (p.in_rows + size - 1) / size, columns = (p.in_columns + size - 1) / size;
    int first = int(block_index_y()) * TILE_CHANNELS, channel = first + thread_index() % TILE_GROUPS * GROUP;
    i64 index = i64(block_index_x()) * PIXELS_AT_ONCE + thread_index() / TILE_GROUPS;
    DeliverGradient end(p.gradient_epilogue, own_channel(p));
    if (channel < p.padded_channels && index < i64(p.images) * rows * columns) {
        InputReader reader(p.input, channel);
        Pixel out(index, rows, columns);
        bool is_full = out.row < p.out_rows && out.column < p.out_columns;
        float gradient[GROUP], largest[GROUP];
        int at_largest[GROUP];
        clear(gradient);
        for (int i = 0; i < GROUP; i++) at_largest[i] = 0;
        if (is_full) {
            GradientReader(p.gradient, channel).load(out.at(p.out_rows, p.out_columns, p.padded_channels) + channel, gradient);
            reader.load(pixel_of_square(p, out, size, 0) + channel, largest);
#pragma unroll
            for (int at = 1; at < size * size; at++) {
                float other[GROUP];
                reader.load(pixel_of_square(p, out, size, at) + channel, other);
                for (int i = 0; i < GROUP; i++) {
                    // A NaN is larger than all, and no later one is larger than it.
                    bool has_nan = largest[i] != largest[i], is_nan = other[i] != other[i];
                    bool is_larger = !has_nan && other[i] > largest[i];
                    at_largest[i] = is_nan ? 0 : (is_larger ? at : at_largest[i]);
                    largest[i] = is_larger || is_nan ? other[i] : largest[i];
                }
            }
        }
#pragma unroll
        for (int at = 0; at < size * size; at++) {
            if (out.row * size + at / size >= p.in_rows || out.column * size + at % size >= p.in_columns) continue;
            float value[GROUP];
            for (int i = 0; i < GROUP; i++) value[i] = at_largest[i] == at ? gradient[i] : 0.0f;
            end.group(pixel_of_square(p, out, size, at) + channel, value);
        }
    }
    end.finish(block_index_x(), first, p.padded_channels, reinterpret_cast<float*>(shared));
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
