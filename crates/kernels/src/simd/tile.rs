//! Register tiles of GEMMs that an instruction set may have code of its own for.

/// A run of `k`: where row 0 of `a` lies for its first `k`, and how many follow one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Segment {
    pub offset: usize,
    pub len: usize,
}

/// `c (+)= a * b` for some rows and one vector of columns.
pub(crate) struct GemmTile<'a> {
    pub a: *const f32,
    /// Numbers from a row of `a` to the next.
    pub a_row: usize,
    /// At least one, of sixteen `k` each.
    pub segments: &'a [Segment],
    /// A vector for each `k`, one after another.
    pub b: *const f32,
    pub c: *mut f32,
    /// Numbers from a row of `c` to the next.
    pub c_row: usize,
    /// Whether to add to what is in `c`.
    pub accumulate: bool,
}

/// `c (+)= a^T * b` for some rows, which are neighbours in `a`, and one vector of columns, over lines of `k`.
pub(crate) struct GemmTnTile {
    pub a: *const f32,
    /// Numbers from a line of `a` to the next.
    pub a_line: usize,
    /// A vector for each `k` of a line, one after another.
    pub b: *const f32,
    /// Numbers from a line of `b` to the next.
    pub b_line: usize,
    /// At least one.
    pub lines: usize,
    /// The `k` of a line: [`UNROLLED`](Self::UNROLLED), or several times as many.
    pub len: usize,
    pub c: *mut f32,
    /// Numbers from a row of `c` to the next.
    pub c_row: usize,
    /// Whether to add to what is in `c`.
    pub accumulate: bool,
}

impl GemmTnTile {
    /// As many `k` as are multiplied one after another without a loop.
    pub const UNROLLED: usize = 8;
}
