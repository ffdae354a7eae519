// Linear layers by the products of warpgroups: 128 images by 64 outputs of a part of the inputs at a time. Blocks share the
// inputs, because there are too few outputs to fill a card; another kernel adds their parts in a fixed order and delivers.
#include "warpgroup.cuh"

#if defined(WARPGROUP_PRODUCTS)

constexpr int LINEAR_GROUPS = 8;
constexpr int LINEAR_STAGES = 3;
constexpr int LINEAR_PLANE = TILE_PIXELS + 1;
// Bytes of a stage: the input [group, image, 8], the weights [group, output, 8].
constexpr int LINEAR_INPUT = LINEAR_GROUPS * LINEAR_PLANE * 16;
constexpr int LINEAR_WEIGHTS = LINEAR_GROUPS * TILE_CHANNELS * 16;

// Blocks are tiles of images, tiles of outputs, and parts of the inputs.
template <class Reader>
DEVICE void multiply_rows(const ConvolutionParams& p, unsigned char* shared) {
    const Window& w = p.window;
    int lane = thread_index() % 32, warp = thread_index() / 32;
    int first_image = int(block_index_x()) * TILE_PIXELS, output = int(block_index_y()) * TILE_CHANNELS;
    int part = block_index_z(), all_groups = w.in_channels / GROUP;
    int chunks = (all_groups + LINEAR_GROUPS - 1) / LINEAR_GROUPS;
    int begin = int(i64(chunks) * part / p.parts), end = int(i64(chunks) * (part + 1) / p.parts);
    auto groups_of = [&](int chunk) {
        int left = all_groups - chunk * LINEAR_GROUPS;
        return left < LINEAR_GROUPS ? left : LINEAR_GROUPS;
    };
    auto fill = [&](int chunk, int stage) {
        if (chunk >= end) return;
        unsigned char* to = shared + stage * (LINEAR_INPUT + LINEAR_WEIGHTS);
        int first = chunk * LINEAR_GROUPS, groups = groups_of(chunk);
        const unsigned char* weights = static_cast<const unsigned char*>(p.weights);
        weights += (i64(block_index_y()) * all_groups + first) * TILE_CHANNELS * 16;
        for (int at = thread_index() * 16; at < groups * TILE_CHANNELS * 16; at += THREADS * 16) {
            copy_async(to + LINEAR_INPUT + at, weights + at);
        }
        copy_async_commit();
        int group = thread_index() % LINEAR_GROUPS, channel = (first + group) * GROUP;
        bool inside = group < groups;
        Reader reader(p, inside ? channel : 0);
        Bytes16* plane = reinterpret_cast<Bytes16*>(to) + group * LINEAR_PLANE;
        float value[4][GROUP];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row = thread_index() / LINEAR_GROUPS + i * (THREADS / LINEAR_GROUPS), image = first_image + row;
            clear(value[i]);
            if (inside && image < w.images) reader.load(i64(image) * w.in_channels + channel, true, value[i]);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            plane[thread_index() / LINEAR_GROUPS + i * (THREADS / LINEAR_GROUPS)] = to_bf16(value[i]);
        }
    };
    int stage = 0;
    fill(begin, stage);

    float sum[32];
    for (int chunk = begin; chunk < end; chunk++) {
        copy_async_wait<0>();
        publish_operands();
        block_barrier();
        const unsigned char* from = shared + stage * (LINEAR_INPUT + LINEAR_WEIGHTS);
        u64 a = matrix_descriptor(from + warp / 4 * PATCH_PIXELS * 16, LINEAR_PLANE * 16, 128);
        u64 b = matrix_descriptor(from + LINEAR_INPUT, TILE_CHANNELS * 16, 128);
        warpgroup_begin();
        for (int group = 0; group < groups_of(chunk); group += 2) {
            warpgroup_multiply_add<false>(sum, a + group * LINEAR_PLANE, b + group * TILE_CHANNELS, chunk > begin || group > 0);
        }
        warpgroup_commit();
        stage = stage + 1 == LINEAR_STAGES ? 0 : stage + 1;
        fill(chunk + 1, stage);
        warpgroup_wait<1>();
    }
    warpgroup_wait<0>();
#pragma unroll
    for (int i = 0; i < 16; i++) {
        int image = first_image + warp * 16 + i % 2 * 8 + lane / 4, out = output + i / 2 * 8 + lane % 4 * 2;
        if (image >= w.images || out >= w.out_channels) continue;
        float* to = p.sums + (i64(part) * w.images + image) * w.out_channels + out;
        to[0] = sum[i * 2];
        to[1] = sum[i * 2 + 1];
    }
}

// Adds the parts of a tile of images by outputs, and delivers them.
template <class End, class EndParams>
DEVICE void deliver_rows(const ConvolutionParams& p, const EndParams& end_params, unsigned char* shared) {
    const Window& w = p.window;
    int output = int(block_index_y()) * TILE_CHANNELS;
    int group = thread_index() % TILE_GROUPS, channel = output + group * GROUP;
    bool inside = channel < w.out_channels;
    End end(end_params, inside ? channel : 0);
    for (int i = thread_index() / TILE_GROUPS; inside && i < TILE_PIXELS; i += PIXELS_AT_ONCE) {
        int image = int(block_index_x()) * TILE_PIXELS + i;
        if (image >= w.images) break;
        i64 at = i64(image) * w.out_channels + channel;
        float value[GROUP];
        clear(value);
#pragma unroll 4
        for (int part = 0; part < int(p.parts); part++) {
            float of_part[GROUP];
            load_group(Maps{p.sums, 1}, i64(part) * w.images * w.out_channels + at, of_part);
            for (int k = 0; k < GROUP; k++) value[k] += of_part[k];
        }
        end.group(at, value);
    }
    end.finish(block_index_x(), output, w.out_channels, reinterpret_cast<float*>(shared));
}

KERNEL_BESIDE(linear_products, ConvolutionParams, THREADS, 2) {
    SHARED_MEMORY(shared);
    multiply_rows<ConvolutionReader>(p, shared);
}

KERNEL_BESIDE(linear_gradient_products, ConvolutionParams, THREADS, 2) {
    SHARED_MEMORY(shared);
    multiply_rows<OutputGradientReader>(p, shared);
}

KERNEL(linear, ConvolutionParams, THREADS) {
    SHARED_MEMORY(shared);
    deliver_rows<Deliver>(p, p.epilogue, shared);
}

KERNEL(linear_gradient, ConvolutionParams, THREADS) {
    SHARED_MEMORY(shared);
    deliver_rows<DeliverGradient>(p, p.gradient_epilogue, shared);
}

#endif
