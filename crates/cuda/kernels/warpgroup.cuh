// What convolutions by the products of warpgroups share. Windows are 3x3 with padding 1, or 1x1; maps are in bfloat16.
// A tile is made of patches of 8x8 pixels: a patch's pixels are the 64 rows of a product, and each of its rows is 128
// contiguous bytes of a plane of the halo wherever the window stands, so that products read the halo directly at every tap.
#pragma once

#include "convolution.cuh"

constexpr int PATCH_PIXELS = 64;

// Two channels of a pixel: the lower half of a word and the upper one.
DEVICE float low_bf16(u32 word) { return bits_to_f32(word << 16); }
DEVICE float high_bf16(u32 word) { return bits_to_f32(word & 0xffff0000u); }

// With a stride of two the halo lies in four parts, by whether rows and columns are even, so that pixels that neighbours of
// the output read at a tap lie side by side in any case. A single tap reads one of the parts alone. Pixels of a part:
DEVICE int halo_part(const Window& w) { return w.tile_images * w.halo_rows * w.halo_columns; }

// How far a tap is from the first one in the halo.
DEVICE int tap_shift(const Window& w, int row, int column) {
    if (w.stride == 1) return row * w.halo_columns + column;
    return (row % 2 * 2 + column % 2) * halo_part(w) + row / 2 * w.halo_columns + column / 2;
}

// Places of a tile that a thread fills, the same for all channels.
template <int ITEMS>
struct Places {
    int place[ITEMS];  // row, column and image, relative to the tile's first, eight bits each; -1: there is none
    int pixel[ITEMS];  // the number in the maps; -1: outside

    // Finds the pixels of a tile whose first is at `row`, `column` and `image`.
    DEVICE void find(int row, int column, int image, int rows, int columns, int images) {
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            int y = row + (place[i] & 255), x = column + (place[i] >> 8 & 255), n = image + (place[i] >> 16 & 255);
            // One comparison for both sides.
            bool inside = n < images && u32(y) < u32(rows) && u32(x) < u32(columns);
            pixel[i] = inside ? (n * rows + y) * columns + x : -1;
        }
    }

    // Begins to copy a group of channels of the pixels, from `group` on, to places `at_once` apart.
    DEVICE void copy(const Bf16* group, int channels, bool inside, Bytes16* to, int at_once) const {
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            if (place[i] < 0) continue;
            int from = pixel[i] < 0 ? 0 : pixel[i];
            copy_async_or_zeros(to + i * at_once, group + i64(from) * channels, inside && pixel[i] >= 0);
        }
    }
};

// Those of the halo, from place `first` on. Of `GROUPS` groups of eight channels a thread of a block of so many has one.
template <int GROUPS, int ITEMS, int BLOCK>
struct HaloPlaces : Places<ITEMS> {
    static constexpr int AT_ONCE = BLOCK / GROUPS;

    DEVICE HaloPlaces(const Window& w, int first) {
        // Exact for numbers below 2^16 / 256.
        u32 columns = 65535 / w.halo_columns + 1, rows = 65535 / w.halo_rows + 1, shift = w.stride - 1;
        int places = w.kernel == 1 ? halo_part(w) : halo_part(w) << 2 * shift;
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            int at = first + thread_index() / GROUPS + i * AT_ONCE;
            int down = int(at * columns >> 16), column = at - down * w.halo_columns;
            int images = int(down * rows >> 16), row = down - images * w.halo_rows;
            // A tile has 1, 2 or 4 images.
            int image = images & (w.tile_images - 1), part = images >> (w.tile_images >> 1);
            row = (row << shift) + (part >> 1);
            column = (column << shift) + (part & 1);
            this->place[i] = at < places ? row | column << 8 | image << 16 : -1;
        }
    }

    DEVICE void find(const Window& w, const Tile& tile) {
        int shift = w.stride - 1;
        Places<ITEMS>::find((tile.row << shift) - w.padding, (tile.column << shift) - w.padding, tile.image, w.in_rows, w.in_columns, w.images);
    }
};

// Where a patch of a tile begins: in its halo, and in the maps.
struct Patch {
    int halo;
    int image, row, column;

    DEVICE Patch(const Window& w, const Tile& tile, int index) {
        // Patches lie two by two in an image, or each has one of its own.
        bool wide = w.tile_columns > 8;
        int x = wide ? index % 2 * 8 : 0, y = wide ? index / 2 * 8 : 0, n = wide ? 0 : index;
        halo = (n * w.halo_rows + y) * w.halo_columns + x;
        image = tile.image + n;
        row = tile.row + y;
        column = tile.column + x;
    }

    // The number of a pixel in the maps, or -1 if it is outside. With a spread of two only one of four parts of the pixels is
    // meant, by whether rows and columns are even.
    DEVICE int pixel(const Window& w, int down, int across, int part) const {
        int y = (row + down) * w.spread + part / 2, x = (column + across) * w.spread + part % 2;
        if (image >= w.images || y >= w.out_rows || x >= w.out_columns) return -1;
        return (image * w.out_rows + y) * w.out_columns + x;
    }
};

// From the columns that the lanes of a quad have in a product to a group of eight columns each: lane `t` has columns 2t and
// 2t + 1 of four groups before, in pairs[group], and all of group `t` afterwards, in pairs[column / 2][column % 2].
DEVICE void gather_group(float (&pairs)[4][2]) {
    u32 lane = thread_index() % 4;
#pragma unroll
    for (u32 bit = 1; bit <= 2; bit *= 2) {
        bool upper = (lane & bit) != 0;
#pragma unroll
        for (u32 low = 0; low < 4; low++) {
            if (low & bit) continue;
            u32 high = low | bit;
            for (int i = 0; i < 2; i++) {
                float other = shuffle_xor(upper ? pairs[low][i] : pairs[high][i], bit);
                pairs[low][i] = upper ? other : pairs[low][i];
                pairs[high][i] = upper ? pairs[high][i] : other;
            }
        }
    }
}

// Of two lanes one keeps the sums of `low`, the other those of `high`.
template <int COUNT>
DEVICE void halve_sums(const float* low, const float* high, u32 bit, float (&sum)[COUNT]) {
    bool upper = (thread_index() & bit) != 0;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        float other = shuffle_xor(upper ? low[i] : high[i], bit);
        sum[i] = (upper ? high[i] : low[i]) + other;
    }
}

// Adds sums of each lane's group of channels to those of its warp in shared memory, of which the group's are [8][2]. Lanes a
// multiple of four apart have the same group; each ends with two of its sixteen sums.
DEVICE void add_warp_sums(const float (&first)[GROUP], const float (&second)[GROUP], float* group) {
    float eight[GROUP], four[4], two[2];
    halve_sums(first, second, 16, eight);
    halve_sums(eight, eight + 4, 8, four);
    halve_sums(four, four + 2, 4, two);
    int lane = thread_index() % 32, which = lane / 16, channel = lane / 8 % 2 * 4 + lane / 4 % 2 * 2;
    group[channel * 2 + which] += two[0];
    group[(channel + 1) * 2 + which] += two[1];
}
