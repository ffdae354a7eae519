//! Paths and arguments as words of a command that is pasted into a shell.

use std::ffi::OsString;
use std::path::Path;

/// A command with its arguments as one line for a shell.
///
/// ```
/// let words = ["crescendo", "train", "--set", "network.widths=[4, 8, 8]", "--epochs=3"];
/// let line = crescendo_logging::command_line(words.map(Into::into));
/// assert_eq!(line, "crescendo train --set 'network.widths=[4, 8, 8]' --epochs=3");
/// ```
pub fn command_line(words: impl IntoIterator<Item = OsString>) -> String {
    let words = words.into_iter().map(|word| quoted(&word.to_string_lossy(), "="));
    words.collect::<Vec<_>>().join(" ")
}

/// A path as one word, in single quotes if bash, zsh or PowerShell would read it as something else.
pub(crate) fn shell_word(path: &Path) -> String {
    let mut text = path.display().to_string();
    if text.starts_with('-') {
        // Not an option.
        text.insert_str(0, "./");
    }
    quoted(&text, "")
}

/// A word in single quotes, unless it has only characters that no shell reads as something else, or some of `more`
/// that are harmless there.
fn quoted(text: &str, more: &str) -> String {
    let separator = if cfg!(windows) { '\\' } else { '/' };
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:".contains(c) || c == separator;
    // zsh replaces a word that begins with an equals sign.
    let is_plain = |(at, c)| is_plain(c) || at > 0 && more.contains(c);
    if !text.is_empty() && text.char_indices().all(is_plain) {
        return text.to_owned();
    }
    // PowerShell doubles a quote, other shells leave the quotes for it.
    format!("'{}'", text.replace('\'', if cfg!(windows) { "''" } else { r"'\''" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_shells_do_not_read_as_it_is_gets_quotes() {
        for (path, word) in [
            ("runs/quick-1", "runs/quick-1"),
            ("/data/läufe/a_b.c", "/data/läufe/a_b.c"),
            ("-run", "./-run"),
            ("my run", "'my run'"),
            ("~/run", "'~/run'"),
            ("a$b`c;d", "'a$b`c;d'"),
            ("run[1,2]", "'run[1,2]'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(Path::new(path)), word);
        }
        let words = ["a b=c", "=x", "k=v", "it's"].map(|word| command_line([word.into()]));
        assert_eq!(words[..3], ["'a b=c'", "'=x'", "k=v"]);
        assert_eq!(words[3], shell_word(Path::new("it's")));
        let quote = shell_word(Path::new("it's"));
        assert_eq!(quote, if cfg!(windows) { "'it''s'" } else { r"'it'\''s'" });
    }

    #[cfg(unix)]
    #[test]
    fn a_shell_reads_the_path_again() {
        for path in ["it's $HOME", "a\"b\\c", "x\ny", "tab\t*?", "!\u{fc} (1)&"] {
            let script = format!("printf %s {}", shell_word(Path::new(path)));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), path);
        }
    }
}
