//! Tables of what holds from which epoch on, such as `batch.steps`.

/// What holds in an epoch; `None` before the first one that the table names.
pub(crate) fn reached<T: Copy>(table: &[(u32, T)], epoch: u32) -> Option<T> {
    Some(table.iter().take_while(|row| row.0 <= epoch).last()?.1)
}
