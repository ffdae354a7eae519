//! Relative links from a report to the files of a run.

use std::fmt::Write;
use std::path::{Component, Path};

/// The prefix of links from the file `page` into `folder`: empty, or with a slash at its end. `None` if one of them is
/// not there, or they have no folder in common.
pub fn between(page: &Path, folder: &Path) -> Option<String> {
    let from = page.parent().filter(|path| !path.as_os_str().is_empty());
    let from = from.unwrap_or(Path::new(".")).canonicalize().ok()?;
    let to = folder.canonicalize().ok()?;
    let mut from = from.components().peekable();
    let mut to = to.components().peekable();
    let mut is_first = true;
    while let Some(component) = from.peek() {
        if to.peek() != Some(component) {
            break;
        }
        (is_first, _, _) = (false, from.next(), to.next());
    }
    // On other drives, for example.
    if is_first {
        return None;
    }
    let mut prefix = "../".repeat(from.count());
    for component in to {
        let Component::Normal(name) = component else { return None };
        prefix += &encoded(name.to_str()?);
        prefix.push('/');
    }
    Some(prefix)
}

/// A file's name as a part of a link.
fn encoded(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(byte.into());
            }
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn links_lead_from_a_page_to_a_folder() {
        let place = tempfile::tempdir().unwrap();
        let run = place.path().join("a run/#1");
        fs::create_dir_all(&run).unwrap();
        fs::create_dir_all(place.path().join("pages/x")).unwrap();
        for (page, expected) in [
            ("a run/#1/report.html", Some("")),
            ("both.html", Some("a%20run/%231/")),
            ("a run/both.html", Some("%231/")),
            ("pages/x/both.html", Some("../../a%20run/%231/")),
            ("nowhere/both.html", None),
        ] {
            assert_eq!(between(&place.path().join(page), &run).as_deref(), expected, "{page}");
        }
        assert_eq!(between(&place.path().join("x.html"), &place.path().join("none")), None);
    }
}
