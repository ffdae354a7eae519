//! The recipes that are built into the program.

/// A recipe, or a comparison of recipes, that is built into the program.
///
/// See the example of [`BUILT_IN`].
#[non_exhaustive]
pub struct BuiltIn {
    /// Its name.
    pub name: &'static str,
    /// Its file.
    pub text: &'static str,
}

/// The built-in recipes. The first one has every key there is.
///
/// # Example
///
/// ```
/// use crescendo_training::loading::{BUILT_IN, BuiltIn};
///
/// let BuiltIn { name, text, .. } = BUILT_IN[0];
/// assert_eq!(name, "report");
/// assert!(text.contains("[optimizer]"));
/// ```
pub const BUILT_IN: [BuiltIn; 7] = [
    BuiltIn { name: "report", text: include_str!("../../recipes/report.toml") },
    BuiltIn { name: "original", text: include_str!("../../recipes/original.toml") },
    BuiltIn { name: "quick", text: include_str!("../../recipes/quick.toml") },
    BuiltIn { name: "report-fast", text: include_str!("../../recipes/report-fast.toml") },
    BuiltIn { name: "fast94", text: include_str!("../../recipes/fast94.toml") },
    BuiltIn { name: "fast95", text: include_str!("../../recipes/fast95.toml") },
    BuiltIn { name: "fast96", text: include_str!("../../recipes/fast96.toml") },
];

/// The most characters of a title, so that it fits into a line of 80 beside a name.
const TITLE: usize = 64;

impl BuiltIn {
    /// Its description: the comment at the top of its file.
    pub fn summary(&self) -> String {
        let lines = self.text.lines().map_while(|line| line.strip_prefix('#'));
        lines.map(str::trim).collect::<Vec<_>>().join(" ")
    }

    /// The beginning of its description, short enough for a line in a list: as many of the first sentence's parts as
    /// fit.
    pub fn title(&self) -> String {
        let summary: Vec<char> = self.summary().chars().collect();
        let (mut depth, mut end) = (0, 0);
        for (at, &character) in summary.iter().enumerate().take(TITLE + 1) {
            let last = summary.get(at + 1).is_none_or(|&next| next == ' ');
            match character {
                '(' => depth += 1,
                ')' => depth -= 1,
                ' ' if depth == 0 && summary.get(at + 1) == Some(&'(') => end = at,
                ',' | ':' if depth == 0 && last => end = at,
                '.' if depth == 0 && last => {
                    end = at;
                    break;
                }
                _ => {}
            }
        }
        summary[..end].iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_end_where_a_part_of_the_sentence_does() {
        let title = |text| BuiltIn { name: "one", text }.title();
        assert_eq!(title("# Width: half, and twice. More.\nset = 1"), "Width: half, and twice");
        assert_eq!(title("# A (b, c), d (e: f) g\n# h."), "A (b, c), d (e: f) g h");
        let long = "it goes on and on and on and on and on and on and on and on and on";
        assert_eq!(title(&*format!("# One: two, {long}").leak()), "One: two");
        assert_eq!(title(&*format!("# One (two, {long})").leak()), "One");
        assert_eq!(title("# 0.5 of 1.\n"), "0.5 of 1");
    }
}
