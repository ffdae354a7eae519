//! Tables of `[first epoch, value]` pairs, such as `batch.steps`.

/// The value that holds in `epoch`: that of the last row whose first epoch is not after it. `None` before
/// the first row.
pub(crate) fn value_at<T: Copy>(table: &[(u32, T)], epoch: u32) -> Option<T> {
    Some(table.iter().take_while(|row| row.0 <= epoch).last()?.1)
}

/// What is wrong with the epochs of a table that must have a value for every epoch, if anything is.
pub(crate) fn epochs_problem<T>(table: &[(u32, T)]) -> Option<&'static str> {
    if table.first().is_none_or(|row| row.0 != 1) {
        return Some("must begin with epoch 1");
    }
    (!table.is_sorted_by(|a, b| a.0 < b.0)).then_some("must list its epochs in rising order")
}
