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
