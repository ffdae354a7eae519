// Tiles of pixels: which pixels of the output a block computes, and the pixels of the input that they need, the halo.
#pragma once

#include "epilogue.cuh"

// How a window of weights moves over the input. For the gradient of a convolution's input the roles change: the output's
// gradient is read as if stride - 1 zeros lay between its pixels (`spread` is the stride then).
struct Window {
    int images;
    int in_rows, in_columns, in_channels;     // channels padded
    int out_rows, out_columns, out_channels;  // channels padded
    int kernel, stride, padding, spread;
    // A tile has this many images, rows and columns of output pixels, at most TILE_PIXELS together.
    int tile_images, tile_rows, tile_columns;
    int tiles_down, tiles_across;    // of an image
    int halo_rows, halo_columns;     // of a tile's image
    int plane;                       // pixels between groups of channels in shared memory; odd, so that banks differ
    int chunk;                       // input channels in shared memory at a time
    u32 across_inverse, down_inverse;  // 2^32 over the numbers of tiles, rounded up; 0 for a single one
};

// A number over one whose inverse is given; exact for numbers of tiles that fit into memory.
DEVICE int divide(int number, u32 inverse) { return inverse == 0 ? number : int(u64(u32(number)) * inverse >> 32); }

// The place of a tile.
struct Tile {
    int image, row, column;

    DEVICE Tile(const Window& w, int index) {
        int rest = divide(index, w.across_inverse), images = divide(rest, w.down_inverse);
        column = (index - rest * w.tiles_across) * w.tile_columns;
        row = (rest - images * w.tiles_down) * w.tile_rows;
        image = images * w.tile_images;
    }
};

// A pixel of a tile.
struct TilePixel {
    int image, row, column;
    bool inside;  // of the tile's shape; the tile itself may reach over the edge of the maps

    DEVICE TilePixel(const Window& w, int pixel) {
        column = pixel % w.tile_columns;
        int rest = pixel / w.tile_columns;
        row = rest % w.tile_rows;
        image = rest / w.tile_rows;
        inside = image < w.tile_images;
    }

    // Where the halo of its window begins.
    DEVICE int halo(const Window& w) const {
        if (!inside) return 0;
        return (image * w.halo_rows + row * w.stride) * w.halo_columns + column * w.stride;
    }

    // Its number in the output, or -1 if it is outside the maps.
    DEVICE int output(const Window& w, const Tile& tile) const {
        int n = tile.image + image, y = tile.row + row, x = tile.column + column;
        if (!inside || n >= w.images || y >= w.out_rows || x >= w.out_columns) return -1;
        return (n * w.out_rows + y) * w.out_columns + x;
    }
};

// A pixel of a tile's halo.
struct HaloPixel {
    int at;      // its number in the input, or -1: it is padding
    bool owned;  // whether this tile is the one to save it, of all tiles that read it

    DEVICE HaloPixel(const Window& w, const Tile& tile, int pixel) {
        int column = pixel % w.halo_columns, rest = pixel / w.halo_columns;
        int row = rest % w.halo_rows, n = tile.image + rest / w.halo_rows;
        int y = tile.row * w.stride - w.padding + row, x = tile.column * w.stride - w.padding + column;
        at = -1;
        owned = false;
        if (n >= w.images || y < 0 || x < 0 || y % w.spread != 0 || x % w.spread != 0) return;
        y /= w.spread;
        x /= w.spread;
        if (y >= w.in_rows || x >= w.in_columns) return;
        at = (n * w.in_rows + y) * w.in_columns + x;
        owned = is_owner(y / w.stride, w.out_rows, tile.row, w.tile_rows)
             && is_owner(x / w.stride, w.out_columns, tile.column, w.tile_columns);
    }

    // The last tile owns what lies behind it, too.
    DEVICE static bool is_owner(int out, int outs, int first, int count) {
        if (out > outs - 1) out = outs - 1;
        return out >= first && out < first + count;
    }
};

// Tables of a tile in shared memory: they take many divisions, and every group of channels needs them again.
struct TileTables {
    int* offsets;  // of each pixel of the tile: where the halo of its window begins
    int* outputs;  // of each pixel of the tile: see TilePixel::output
    int* halo;     // of each pixel of the halo: twice its number in the input, plus one if it is owned; or -1
    unsigned char* rest;  // the shared memory behind them

    DEVICE TileTables(const Window& w, unsigned char* shared) {
        offsets = reinterpret_cast<int*>(shared);
        outputs = offsets + TILE_PIXELS;
        halo = outputs + TILE_PIXELS;
        rest = shared + (2 * TILE_PIXELS + (w.plane + 3) / 4 * 4) * sizeof(int);
    }

    // All threads take part; a barrier must follow.
    DEVICE void fill(const Window& w, const Tile& tile) {
        int thread = thread_index();
        if (thread < TILE_PIXELS) {
            TilePixel pixel(w, thread);
            offsets[thread] = pixel.halo(w);
            outputs[thread] = pixel.output(w, tile);
        }
        int pixels = w.tile_images * w.halo_rows * w.halo_columns;
        for (int at = thread; at < pixels; at += THREADS) {
            HaloPixel pixel(w, tile, at);
            halo[at] = pixel.at < 0 ? -1 : 2 * pixel.at + (pixel.owned ? 1 : 0);
        }
    }
};

// Brings `groups` groups of channels of a tile's halo to shared memory; zeros outside the maps.
// `reader(channel)` makes what loads groups; a thread has the same channels all the time.
template <class Products, class MakeReader>
DEVICE void read_halo(const Window& w, const TileTables& tables, int first_group, int groups, unsigned char* to, const MakeReader& reader) {
    int pixels = w.tile_images * w.halo_rows * w.halo_columns;
    int group = thread_index() % groups, channel = (first_group + group) * GROUP;
    bool inside = channel < w.in_channels;
    auto source = reader(inside ? channel : 0);
    // Threads that make no whole row of groups have nothing to do.
    int rows = THREADS / groups, row = thread_index() / groups;
    for (int pixel = row; row < rows && pixel < pixels; pixel += rows) {
        int from = tables.halo[pixel];
        float value[GROUP];
        if (from < 0 || !inside) {
            clear(value);
        } else {
            source.load(i64(from / 2) * w.in_channels + channel, from % 2 != 0, value);
        }
        Products::store(to, w.plane, group, pixel, value);
    }
}
