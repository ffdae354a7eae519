//! Tables of what holds from which epoch on, such as `batch.steps`.

/// What holds in an epoch; `None` before the first one that the table names.
pub(crate) fn reached<T: Copy>(table: &[(u32, T)], epoch: u32) -> Option<T> {
    Some(table.iter().take_while(|row| row.0 <= epoch).last()?.1)
}

/// What is wrong with the epochs of a table that has to say what holds in each.
pub(crate) fn wrong_epochs<T>(table: &[(u32, T)]) -> Option<&'static str> {
    if table.first().is_none_or(|row| row.0 != 1) {
        return Some("must begin with epoch 1");
    }
    (!table.is_sorted_by(|a, b| a.0 < b.0)).then_some("must name its epochs in rising order")
}
