//! Matrix products on one thread, through the `gemm` crate.

use gemm_common::Parallelism;

/// Where a matrix lies in a slice: element `(i, j)` is at `offset + i * rows + j * columns`.
#[derive(Clone, Copy)]
pub(crate) struct Strides {
    pub offset: usize,
    /// From one row to the next.
    pub rows: usize,
    /// From one column to the next.
    pub columns: usize,
}

impl Strides {
    /// Rows one after another, `width` numbers each.
    pub fn row_major(width: usize) -> Self {
        Strides { offset: 0, rows: width, columns: 1 }
    }

    pub fn transposed(self) -> Self {
        Strides { rows: self.columns, columns: self.rows, ..self }
    }

    pub fn at(self, offset: usize) -> Self {
        Strides { offset, ..self }
    }

    /// One past the last element of an `m` x `n` matrix.
    fn end(self, m: usize, n: usize) -> usize {
        if m == 0 || n == 0 {
            0
        } else {
            self.offset + (m - 1) * self.rows + (n - 1) * self.columns + 1
        }
    }
}

/// What happens to the numbers that are in the destination already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    Overwrite,
    Add,
}

/// A destination that other threads may be writing other elements of.
pub(crate) struct Destination<'a> {
    pub data: &'a crate::shared::Shared<'a, f32>,
    pub strides: Strides,
}

/// `destination (+)= a * b`, with `a` of `m` x `k` and `b` of `k` x `n`.
///
/// # Safety
/// No other thread may touch the `m` x `n` elements of the destination meanwhile.
pub(crate) unsafe fn multiply_shared(
    [m, n, k]: [usize; 3],
    destination: Destination,
    mode: Into,
    (a, a_strides): (&[f32], Strides),
    (b, b_strides): (&[f32], Strides),
) {
    let Destination { data, strides } = destination;
    assert!(a_strides.end(m, k) <= a.len(), "a is too short");
    assert!(b_strides.end(k, n) <= b.len(), "b is too short");
    assert!(strides.end(m, n) <= data.len(), "destination is too short");
    // SAFETY: the three assertions keep every element inside its slice; the slices of `a` and `b`
    // cannot overlap a destination that is borrowed mutably; and the caller promises that nobody
    // else touches the destination's elements.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            m,
            n,
            k,
            data.as_mut_ptr().add(strides.offset),
            strides.columns as isize,
            strides.rows as isize,
            mode == Into::Add,
            a.as_ptr().add(a_strides.offset),
            a_strides.columns as isize,
            a_strides.rows as isize,
            b.as_ptr().add(b_strides.offset),
            b_strides.columns as isize,
            b_strides.rows as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// [`multiply_shared`] into a slice of one's own.
pub(crate) fn multiply(
    sizes: [usize; 3],
    (data, strides): (&mut [f32], Strides),
    mode: Into,
    a: (&[f32], Strides),
    b: (&[f32], Strides),
) {
    let data = &crate::shared::Shared::new(data);
    // SAFETY: the destination is borrowed mutably here, so no other thread has it.
    unsafe { multiply_shared(sizes, Destination { data, strides }, mode, a, b) }
}
