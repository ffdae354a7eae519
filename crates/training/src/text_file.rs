//! Text files that users write.

use std::path::Path;
use std::{fs, io};

use crate::Error;

/// Reads a text file in UTF-8.
///
/// # Errors
/// If it cannot be read, or is other text.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    let text = fs::read(path).and_then(|bytes| decode(bytes).map_err(io::Error::other));
    text.map_err(|error| Error::io("read", path, error))
}

fn decode(bytes: Vec<u8>) -> Result<String, String> {
    const MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];
    // Without a mark: of two bytes that stand for a character that Latin text begins with, one is zero.
    let half_zero = matches!(bytes[..], [a, b, ..] if (a == 0) != (b == 0));
    if half_zero || MARKS.iter().any(|mark| bytes.starts_with(mark)) {
        return Err(
            "it is UTF-16 text: save it as UTF-8 (in PowerShell: Get-Content FILE | Set-Content \
                    -Encoding utf8 NEW-FILE)"
                .into(),
        );
    }
    match String::from_utf8(bytes) {
        // Some editors begin UTF-8 with a mark too.
        Ok(text) => Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
        Err(error) => {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = good.iter().filter(|&&byte| byte == b'\n').count() + 1;
            Err(format!("it is not UTF-8 text (line {line} has other bytes): save it as UTF-8"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_encodings_are_named() {
        let text = "# Größe\nbase = \"quick\"\n";
        let decoded = |bytes: &[u8]| decode(bytes.to_vec());
        assert_eq!(decoded(text.as_bytes()).unwrap(), text);
        assert_eq!(decoded(&[b"\xef\xbb\xbf", text.as_bytes()].concat()).unwrap(), text);
        assert_eq!(decoded(b"").unwrap(), "");
        let utf16 = |bytes: fn(u16) -> [u8; 2], mark: &str| -> Vec<u8> {
            (mark.to_owned() + text).encode_utf16().flat_map(bytes).collect()
        };
        for bytes in [u16::to_le_bytes, u16::to_be_bytes] {
            for mark in ["\u{feff}", ""] {
                let problem = decode(utf16(bytes, mark)).unwrap_err();
                assert!(problem.contains("UTF-16") && problem.contains("as UTF-8"), "{problem}");
            }
        }
        let problem = decoded(b"base = \"quick\"\n# Gr\xf6\xdfe\n").unwrap_err();
        assert!(problem.contains("not UTF-8 text (line 2"), "{problem}");
    }
}
