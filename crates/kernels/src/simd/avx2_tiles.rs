//! Register tiles for AVX2, in assembly.
//!
//! For each `k` a tile of six rows takes 2 loads, 6 broadcasts and 12 multiplications. A core that is shared with another
//! thread issues few more instructions than the multiplications can use, so every one beside these costs time. A compiler
//! leaves a loop of four `k`, and of longer ones runs out of registers, because it loads ahead. Here sixteen `k` follow one
//! another.
//!
//! The sums are in `ymm0` to `ymm11`, two for each row, the columns in `ymm12` and `ymm13`.

use std::arch::asm;

use super::{GemmTile, GemmTnTile, LANES};

/// A register tile of `c (+)= a * b`.
pub(super) type Gemm = unsafe fn(&GemmTile);
/// A register tile of `c (+)= a^T * b`.
pub(super) type GemmTn = unsafe fn(&GemmTnTile);

/// One `k`: the columns at `$low` and `$high` bytes of `b`, the rows' numbers at `$at` bytes from their addresses. Each row's
/// number is spread over the register `$spread`.
macro_rules! step {
    ($low:literal, $high:literal, $at:literal,
     $($address:literal $spread:literal $left:literal $right:literal)*) => {
        concat!(
            "vmovups ymm12, ymmword ptr [{b} + ", $low, "]\n",
            "vmovups ymm13, ymmword ptr [{b} + ", $high, "]\n",
            $("vbroadcastss ", $spread, ", dword ptr [", $address, " + ", $at, "]\n",
              "vfmadd231ps ", $left, ", ", $spread, ", ymm12\n",
              "vfmadd231ps ", $right, ", ", $spread, ", ymm13\n",)*
        )
    };
}

/// Sixteen `k`, of which the numbers of `a` are neighbours.
macro_rules! sixteen {
    ($($row:tt)*) => {
        concat!(
            step!(0, 32, 0, $($row)*), step!(64, 96, 4, $($row)*),
            step!(128, 160, 8, $($row)*), step!(192, 224, 12, $($row)*),
            step!(256, 288, 16, $($row)*), step!(320, 352, 20, $($row)*),
            step!(384, 416, 24, $($row)*), step!(448, 480, 28, $($row)*),
            step!(512, 544, 32, $($row)*), step!(576, 608, 36, $($row)*),
            step!(640, 672, 40, $($row)*), step!(704, 736, 44, $($row)*),
            step!(768, 800, 48, $($row)*), step!(832, 864, 52, $($row)*),
            step!(896, 928, 56, $($row)*), step!(960, 992, 60, $($row)*),
        )
    };
}

/// Eight `k`, of which the numbers of `a` are a vector apart, or two.
macro_rules! eight {
    (1, $($row:tt)*) => {
        concat!(
            step!(0, 32, 0, $($row)*), step!(64, 96, 64, $($row)*),
            step!(128, 160, 128, $($row)*), step!(192, 224, 192, $($row)*),
            step!(256, 288, 256, $($row)*), step!(320, 352, 320, $($row)*),
            step!(384, 416, 384, $($row)*), step!(448, 480, 448, $($row)*),
            "add {a}, 512\n",
        )
    };
    (2, $($row:tt)*) => {
        concat!(
            step!(0, 32, 0, $($row)*), step!(64, 96, 128, $($row)*),
            step!(128, 160, 256, $($row)*), step!(192, 224, 384, $($row)*),
            step!(256, 288, 512, $($row)*), step!(320, 352, 640, $($row)*),
            step!(384, 416, 768, $($row)*), step!(448, 480, 896, $($row)*),
            "add {a}, 1024\n",
        )
    };
}

/// The sums: zeros, or what is in `c`.
macro_rules! begin {
    ($($address:literal $low:literal $high:literal)*) => {
        concat!(
            $("vxorps ", $low, ", ", $low, ", ", $low, "\n", "vxorps ", $high, ", ", $high, ", ", $high, "\n",)*
            "test {accumulate:e}, {accumulate:e}\n",
            "je 2f\n",
            $("vmovups ", $low, ", ymmword ptr [", $address, "]\n",
              "vmovups ", $high, ", ymmword ptr [", $address, " + 32]\n",)*
            "2:\n",
        )
    };
}

/// Writes the sums to `c`.
macro_rules! end {
    ($($address:literal $low:literal $high:literal)*) => {
        concat!(
            $("vmovups ymmword ptr [", $address, "], ", $low, "\n",
              "vmovups ymmword ptr [", $address, " + 32], ", $high, "\n",)*
        )
    };
}

/// The tile of a transposed `a`, whose `k` are so many vectors apart.
macro_rules! tn {
    ($name:ident, $step:tt, $(($at:literal $c:literal $spread:literal $low:literal $high:literal))*) => {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn $name(tile: &GemmTnTile) {
            let GemmTnTile { a, a_line, b, b_line, lines, len, c, c_row, accumulate } = *tile;
            // From the end of a line to the next one.
            let bytes = |line: usize, step: usize| line.wrapping_sub(step * len).wrapping_mul(4);
            let (a_skip, b_skip) = (bytes(a_line, $step * LANES), bytes(b_line, LANES));
            // SAFETY: the caller's promise; all registers that are written are named.
            unsafe {
                asm!(
                    begin!($($c $low $high)*),
                    "3:",
                    "mov {left}, {len}",
                    "4:",
                    eight!($step, $($at $spread $low $high)*),
                    "add {b}, 512",
                    "sub {left}, 8",
                    "jne 4b",
                    "add {a}, {a_skip}",
                    "add {b}, {b_skip}",
                    "dec {lines}",
                    "jne 3b",
                    end!($($c $low $high)*),
                    a = inout(reg) a => _,
                    a_skip = in(reg) a_skip,
                    b = inout(reg) b => _,
                    b_skip = in(reg) b_skip,
                    lines = inout(reg) lines => _,
                    len = in(reg) len,
                    left = out(reg) _,
                    c = in(reg) c,
                    c_row = in(reg) 4 * c_row,
                    c3 = in(reg) c.wrapping_add(3 * c_row),
                    accumulate = in(reg) u32::from(accumulate),
                    out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
                    out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                    out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                    options(nostack),
                );
            }
        }
    };
}

/// The tiles of so many rows: for each row where its numbers are in `a`, in a transposed `a` and in `c`, the register that a
/// number is spread over, and those of its sums. Row 3 has an address of its own: an address may have a distance twice, not
/// three times.
macro_rules! tiles {
    ($gemm:ident, $tn:ident, $strided:ident,
     $(($a:literal $at:literal $c:literal $spread:literal $low:literal $high:literal))*) => {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn $gemm(tile: &GemmTile) {
            // SAFETY: the caller's promise; all registers that are written are named.
            unsafe {
                asm!(
                    begin!($($c $low $high)*),
                    "3:",
                    "mov {a}, qword ptr [{segment}]",
                    "lea {a}, [{first} + 4*{a}]",
                    "lea {a3}, [{a_row} + 2*{a_row}]",
                    "add {a3}, {a}",
                    sixteen!($($a $spread $low $high)*),
                    "add {b}, 1024",
                    "add {segment}, 16",
                    "cmp {segment}, {last}",
                    "jne 3b",
                    end!($($c $low $high)*),
                    a = out(reg) _,
                    a3 = out(reg) _,
                    first = in(reg) tile.a,
                    a_row = in(reg) 4 * tile.a_row,
                    segment = inout(reg) tile.segments.as_ptr() => _,
                    last = in(reg) tile.segments.as_ptr_range().end,
                    b = inout(reg) tile.b => _,
                    c = in(reg) tile.c,
                    c_row = in(reg) 4 * tile.c_row,
                    c3 = in(reg) tile.c.wrapping_add(3 * tile.c_row),
                    accumulate = in(reg) u32::from(tile.accumulate),
                    out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
                    out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                    out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                    options(nostack),
                );
            }
        }

        tn!($tn, 1, $(($at $c $spread $low $high))*);
        tn!($strided, 2, $(($at $c $spread $low $high))*);
    };
}

/// Tiles of the first four rows, of five and of six.
macro_rules! four_to_six {
    ([$($row:tt)*] $fifth:tt $sixth:tt) => {
        tiles!(gemm_4, tn_4, strided_tn_4, $($row)*);
        tiles!(gemm_5, tn_5, strided_tn_5, $($row)* $fifth);
        tiles!(gemm_6, tn_6, strided_tn_6, $($row)* $fifth $sixth);
    };
}

four_to_six!(
    [("{a}" "{a}" "{c}" "ymm14" "ymm0" "ymm1")
     ("{a} + {a_row}" "{a} + 4" "{c} + {c_row}" "ymm15" "ymm2" "ymm3")
     ("{a} + 2*{a_row}" "{a} + 8" "{c} + 2*{c_row}" "ymm14" "ymm4" "ymm5")
     ("{a3}" "{a} + 12" "{c3}" "ymm15" "ymm6" "ymm7")]
    ("{a3} + {a_row}" "{a} + 16" "{c3} + {c_row}" "ymm14" "ymm8" "ymm9")
    ("{a3} + 2*{a_row}" "{a} + 20" "{c3} + 2*{c_row}" "ymm15" "ymm10" "ymm11")
);

/// The tile of so many rows.
pub(super) const fn gemm(rows: usize) -> Option<Gemm> {
    match rows {
        4 => Some(gemm_4),
        5 => Some(gemm_5),
        6 => Some(gemm_6),
        _ => None,
    }
}

/// The tile of so many rows, where the `k` of `a` are so many vectors apart.
pub(super) const fn gemm_tn(rows: usize, step: usize) -> Option<GemmTn> {
    match (rows, step) {
        (4, 1) => Some(tn_4),
        (5, 1) => Some(tn_5),
        (6, 1) => Some(tn_6),
        (4, 2) => Some(strided_tn_4),
        (5, 2) => Some(strided_tn_5),
        (6, 2) => Some(strided_tn_6),
        _ => None,
    }
}
