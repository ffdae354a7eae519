//! Files of named tensors in the safetensors format, with text beside them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crescendo_network::{Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use crate::Error;
use crate::atomic_file::write_atomically;

/// Text beside the tensors, by name.
pub(crate) type Metadata = BTreeMap<String, String>;

/// Writes tensors and metadata to `path`, atomically.
///
/// The header is written here, not by the safetensors crate, because that one orders metadata at
/// random: equal weights should make equal files.
pub(crate) fn write(path: &Path, tensors: &[Tensor], metadata: &Metadata) -> Result<(), Error> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!(metadata));
    let mut offset = 0;
    for tensor in tensors {
        let (dtype, bytes) = match &tensor.data {
            TensorData::F32(values) => ("F32", 4 * values.len()),
            TensorData::I64(_) => ("I64", 8),
        };
        let entry = json!({
            "dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, offset + bytes],
        });
        header.insert(tensor.name.to_string(), entry);
        offset += bytes;
    }
    let mut header = serde_json::Value::Object(header).to_string();
    // Aligns the numbers for readers that map the file into memory.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    write_atomically(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for tensor in tensors {
            match &tensor.data {
                TensorData::F32(values) => write_f32(file, values)?,
                TensorData::I64(value) => file.write_all(&value.to_le_bytes())?,
            }
        }
        Ok(())
    })
}

fn write_f32(file: &mut dyn Write, values: &[f32]) -> std::io::Result<()> {
    if cfg!(target_endian = "little") {
        return file.write_all(bytemuck::cast_slice(values));
    }
    values.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()))
}

/// A file of tensors in memory.
pub(crate) struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
    pub metadata: Metadata,
}

impl TensorFile {
    pub fn open(path: &Path) -> Result<Self, Error> {
        let bytes = fs::read(path).map_err(|error| Error::io("read", path, error))?;
        let damaged = |error| {
            Error::bad(
                path,
                format!(
                    "is not a valid safetensors file ({error}): it is damaged or of another format"
                ),
            )
        };
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let metadata = metadata.metadata().iter().flatten();
        let metadata = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(TensorFile { path: path.to_owned(), bytes, metadata })
    }

    /// All tensors whose names begin with `prefix`, without it.
    pub fn tensors(&self, prefix: &str) -> Result<Vec<Tensor<'static>>, Error> {
        let file = SafeTensors::deserialize(&self.bytes).expect("`open` checked it");
        let mut tensors = Vec::new();
        for (name, view) in file.iter() {
            let Some(name) = name.strip_prefix(prefix) else { continue };
            let bytes = view.data();
            let data = match view.dtype() {
                Dtype::F32 => {
                    let (numbers, _) = bytes.as_chunks::<4>();
                    TensorData::F32(Cow::Owned(
                        numbers.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                    ))
                }
                Dtype::I64 if bytes.len() == 8 => {
                    TensorData::I64(i64::from_le_bytes(bytes.try_into().expect("8 bytes")))
                }
                other => {
                    return Err(self.bad(format!(
                        "the tensor {name} holds numbers of the type {other:?}; only F32 can be \
                         read: convert it"
                    )));
                }
            };
            tensors.push(Tensor {
                name: name.to_owned().into(),
                shape: view.shape().to_vec(),
                data,
            });
        }
        Ok(tensors)
    }

    /// The text of this name.
    pub fn text(&self, name: &str) -> Result<&str, Error> {
        self.metadata.get(name).map(String::as_str).ok_or_else(|| {
            self.bad(format!("has no {name} in its metadata: it was not written by crescendo"))
        })
    }

    /// The text of this name as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        serde_json::from_str(self.text(name)?)
            .map_err(|error| self.bad(format!("has a damaged {name} in its metadata: {error}")))
    }

    /// An error about this file.
    pub fn bad(&self, problem: String) -> Error {
        Error::bad(&self.path, problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tensors() -> Vec<Tensor<'static>> {
        vec![
            Tensor::f32("a/one", vec![2, 3], vec![1.0, -2.5, 0.0, f32::MIN_POSITIVE, 1e30, -0.0]),
            Tensor { name: "a/count".into(), shape: vec![], data: TensorData::I64(-7) },
            Tensor::f32("b/other", vec![1], vec![9.0]),
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let metadata =
            Metadata::from([("k".into(), "v \"quoted\"\n".into()), ("l".into(), "3".into())]);
        write(&path, &tensors(), &metadata).unwrap();
        let first = fs::read(&path).unwrap();
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.metadata, metadata);
        assert_eq!(file.json::<u32>("l").unwrap(), 3);
        let mut read = file.tensors("a/").unwrap();
        read.sort_by_key(|tensor| tensor.shape.len());
        assert_eq!(read[1].name, "one");
        assert_eq!(read[1].data, tensors()[0].data);
        assert_eq!(read[0].data, TensorData::I64(-7));
        write(&path, &tensors(), &metadata).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first, "equal tensors make equal files");
    }

    proptest! {
        /// Whatever happened to a file, reading it gives an error or tensors, and no panic.
        #[test]
        fn damage_is_an_error_or_harmless(cut in 0..400usize, at in 0..400usize, byte in any::<u8>()) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x.safetensors");
            write(&path, &tensors(), &Metadata::from([("k".into(), "v".into())])).unwrap();
            let mut bytes = fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= byte;
            bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(200)));
            fs::write(&path, &bytes).unwrap();
            match TensorFile::open(&path) {
                Ok(file) => drop(file.tensors("")),
                Err(error) => prop_assert!(error.to_string().contains("x.safetensors")),
            }
        }
    }
}
