//! The recipes that are built into the program.

/// A recipe, or a comparison of recipes, that is built into the program.
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

impl BuiltIn {
    /// Its description: the comment at the top of its file.
    pub fn summary(&self) -> String {
        let lines = self.text.lines().map_while(|line| line.strip_prefix('#'));
        lines.map(str::trim).collect::<Vec<_>>().join(" ")
    }
}
