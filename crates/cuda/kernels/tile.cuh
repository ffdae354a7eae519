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
};

// The place of a tile.
struct Tile {
    int image, row, column;

    DEVICE Tile(const Window& w, int index) {
        column = index % w.tiles_across * w.tile_columns;
        index /= w.tiles_across;
        row = index % w.tiles_down * w.tile_rows;
        image = index / w.tiles_down * w.tile_images;
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

    // The number of its first channel in the output, or -1 if it is outside the maps.
    DEVICE i64 output(const Window& w, const Tile& tile) const {
        int n = tile.image + image, y = tile.row + row, x = tile.column + column;
        if (!inside || n >= w.images || y >= w.out_rows || x >= w.out_columns) return -1;
        return ((i64(n) * w.out_rows + y) * w.out_columns + x) * w.out_channels;
    }
};

// A pixel of a tile's halo.
struct HaloPixel {
    i64 at;      // the number of its first channel in the input, or -1: it is padding
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
        at = ((i64(n) * w.in_rows + y) * w.in_columns + x) * w.in_channels;
        owned = is_owner(y / w.stride, w.out_rows, tile.row, w.tile_rows)
             && is_owner(x / w.stride, w.out_columns, tile.column, w.tile_columns);
    }

    // The last tile owns what lies behind it, too.
    DEVICE static bool is_owner(int out, int outs, int first, int count) {
        if (out > outs - 1) out = outs - 1;
        return out >= first && out < first + count;
    }
};
