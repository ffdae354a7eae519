//! Paths as words of a command that is pasted into a shell.

use std::path::Path;

/// A path as one word, in single quotes if bash, zsh or PowerShell would read it as something else.
pub(crate) fn shell_word(path: &Path) -> String {
    let mut text = path.display().to_string();
    if text.starts_with('-') {
        // Not an option.
        text.insert_str(0, "./");
    }
    let separator = if cfg!(windows) { '\\' } else { '/' };
    let plain = |c: char| c.is_alphanumeric() || "/._-+:".contains(c) || c == separator;
    if !text.is_empty() && text.chars().all(plain) {
        return text;
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
