//! Versions of the program that wrote a file.

/// This program's version.
pub(crate) const OWN: &str = env!("CARGO_PKG_VERSION");

/// The versions from which on results have other digits than before, the newest first: the one whose sums over the images
/// of a batch follow its tree, and the first.
const OTHER_RESULTS: [&str; 2] = ["0.2.0", "0.1.0"];

/// The version from which on results are those of `version`.
pub(crate) fn same_results_since(version: &str) -> &'static str {
    let version = numbers(version);
    let since = OTHER_RESULTS.into_iter().find(|&since| numbers(since) <= version);
    since.unwrap_or(OTHER_RESULTS[OTHER_RESULTS.len() - 1])
}

/// What to do about a file that `version` wrote, if it is newer than this program.
pub(crate) fn newer(version: &str) -> Option<String> {
    (numbers(version) > numbers(OWN)).then(|| {
        format!("it was written by crescendo {version}, and this is {OWN}: update crescendo")
    })
}

/// A note about a file that `version` wrote, if it is older than this program.
pub(crate) fn older(version: &str) -> Option<String> {
    let older = numbers(version);
    (older < numbers(OWN)).then(|| {
        let mut note =
            format!("This run was last saved by crescendo {version}, and this is {OWN}.");
        if older < numbers(same_results_since(OWN)) {
            note += " The last digits of its results change from here on: see the changelog.";
        }
        note
    })
}

/// The numbers of a version such as `1.2.3`, to compare; a part that is not a number is zero.
fn numbers(version: &str) -> Vec<u64> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(newer("99.0.0").is_some_and(|text| text.contains("99.0.0")));
        assert!(newer("0.0.9").is_none() && newer(OWN).is_none());
        assert!(older("0.0.10").is_some() && older(OWN).is_none() && older("10.0.0").is_none());
        assert!(older("0.1.0").is_some_and(|note| note.contains("last digits")));
        assert!(numbers("0.10.0") > numbers("0.9.1"));
        let since = ["0.0.1", "0.1.7", "0.2.0", OWN].map(same_results_since);
        assert_eq!(since, ["0.1.0", "0.1.0", "0.2.0", "0.2.0"]);
    }
}
