//! JSON files in a run's folder that a run works without.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::Error;

/// Reads a file; `None` if there is none. `advice` says what to do if it is damaged.
///
/// # Errors
/// If it cannot be read or is damaged.
pub fn read<T: DeserializeOwned>(path: &Path, advice: &str) -> Result<Option<T>, Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        // serde's own messages name types of this program.
        let (line, column) = (error.line(), error.column());
        let problem = format!("unexpected content at line {line}, column {column}");
        damaged(path, &problem, advice)
    })
}

/// The error that a file is damaged.
pub fn damaged(path: &Path, problem: &str, advice: &str) -> Error {
    Error::bad(path, format!("is damaged ({problem}): {advice}"))
}

/// Bytes of an image as base64, for `#[serde(with = "in_base64")]`.
pub mod in_base64 {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes them.
    ///
    /// # Errors
    /// If the serializer fails.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    /// Reads them.
    ///
    /// # Errors
    /// If it is no text in base64.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(|_| D::Error::custom("an image is not valid base64"))
    }
}
