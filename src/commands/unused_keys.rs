//! Warnings about keys that the user sets and that have no effect.

use std::io::{Write, stderr};

/// Prints warnings to standard error; that they cannot be printed is no reason to stop.
pub fn warn(warnings: impl IntoIterator<Item = String>) {
    for warning in warnings {
        let _ = writeln!(stderr(), "warning: {warning}");
    }
}

/// The warning for `data.source`, if it is among the keys and the data set has been named.
pub fn unused_source(keys: &[String], named: bool) -> Option<String> {
    let set = named && keys.iter().any(|key| key == "data.source");
    set.then(|| "data.source has no effect: --data names the data set".into())
}
