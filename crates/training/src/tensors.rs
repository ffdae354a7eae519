//! Files of named tensors in the safetensors format, with text beside them and checksums of both.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crescendo_network::{Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::atomic_file::{write_atomically, write_keeping};
use crate::checksum::{self, TensorBytes};
use crate::{Error, version};

/// Text beside the tensors, by name.
pub(crate) type Metadata = BTreeMap<String, String>;

/// Writes tensors and metadata to each of `paths`, atomically, and the checksums of both with them.
pub(crate) fn write<P: AsRef<Path>>(
    paths: &[P],
    tensors: &[Tensor],
    metadata: Metadata,
) -> Result<(), Error> {
    let header = header(tensors, metadata);
    paths.iter().try_for_each(|path| {
        write_atomically(path.as_ref(), |file| write_contents(file, &header, tensors))
    })
}

/// The same, but what was at `path` is at `previous` afterwards.
pub(crate) fn replace(
    path: &Path,
    previous: &Path,
    tensors: &[Tensor],
    metadata: Metadata,
) -> Result<(), Error> {
    let header = header(tensors, metadata);
    write_keeping(path, previous, |file| write_contents(file, &header, tensors))
}

/// The header is written here, not by the safetensors crate, because that one orders metadata at
/// random: equal weights should make equal files.
fn header(tensors: &[Tensor], mut metadata: Metadata) -> String {
    let covered = tensors.iter().map(|tensor| TensorBytes {
        name: &tensor.name,
        dtype: dtype(tensor),
        shape: &tensor.shape,
        bytes: bytes(tensor),
    });
    let of_metadata = checksum::of_metadata(&metadata);
    metadata.insert(checksum::TENSORS.into(), checksum::of_tensors(covered.collect()));
    metadata.insert(checksum::METADATA.into(), of_metadata);
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!(metadata));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + bytes(tensor).len();
        let entry = json!({
            "dtype": dtype(tensor), "shape": tensor.shape, "data_offsets": [offset, end],
        });
        header.insert(tensor.name.to_string(), entry);
        offset = end;
    }
    let mut header = serde_json::Value::Object(header).to_string();
    // Aligns the numbers for readers that map the file into memory.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    header
}

fn write_contents(file: &mut dyn Write, header: &str, tensors: &[Tensor]) -> std::io::Result<()> {
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    tensors.iter().try_for_each(|tensor| file.write_all(&bytes(tensor)))
}

fn dtype(tensor: &Tensor) -> &'static str {
    match tensor.data {
        TensorData::F32(_) => "F32",
        TensorData::I64(_) => "I64",
    }
}

/// A tensor's numbers as they are in a file.
fn bytes<'a>(tensor: &'a Tensor) -> Cow<'a, [u8]> {
    match &tensor.data {
        TensorData::F32(values) if cfg!(target_endian = "little") => {
            Cow::Borrowed(bytemuck::cast_slice(values))
        }
        TensorData::F32(values) => {
            Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect())
        }
        TensorData::I64(value) => Cow::Owned(value.to_le_bytes().to_vec()),
    }
}

/// The text of this name in the metadata of the file at `path`, as JSON.
pub(crate) fn metadata_json<T: DeserializeOwned>(
    path: &Path,
    metadata: &Metadata,
    name: &str,
) -> Result<T, Error> {
    serde_json::from_str(metadata_text(path, metadata, name)?)
        .map_err(|error| Error::bad(path, format!("has a damaged {name} in its metadata: {error}")))
}

fn metadata_text<'a>(path: &Path, metadata: &'a Metadata, name: &str) -> Result<&'a str, Error> {
    metadata.get(name).map(String::as_str).ok_or_else(|| {
        let problem = format!("has no {name} in its metadata: it was not written by crescendo");
        Error::bad(path, problem)
    })
}

/// A file of tensors in memory.
pub(crate) struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
    pub metadata: Metadata,
}

impl TensorFile {
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::parse(path, fs::read(path).map_err(|error| Error::io("read", path, error))?)
    }

    /// The file at `path` with this content.
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, Error> {
        let damaged = |error| {
            // What `torch.save` writes: a zip archive, or before PyTorch 1.6 a pickle.
            let problem = match &bytes[..] {
                [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, b'}' | b'c' | 0x8a | 0x95, ..] => format!(
                    "looks like a file of PyTorch's torch.save: convert it in Python with `import torch, \
                     safetensors.torch` and `safetensors.torch.save_file(torch.load({:?}, \
                     map_location=\"cpu\", weights_only=True), \"model.safetensors\")`",
                    path.display().to_string()
                ),
                _ => format!(
                    "is not a valid safetensors file ({error}): it is damaged or of another format"
                ),
            };
            Error::bad(path, problem)
        };
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let metadata = metadata.metadata().iter().flatten();
        let metadata: Metadata =
            metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
        let checks = [
            (checksum::TENSORS, "tensors", checksum_of(&tensors)),
            (checksum::METADATA, "metadata", checksum::of_metadata(&metadata)),
        ];
        for (key, what, computed) in checks {
            if metadata.get(key).is_some_and(|checksum| *checksum != computed) {
                let problem = format!(
                    "is damaged: its {what} do not match the checksum in its metadata (if they were \
                     edited on purpose, delete the key `{key}` from the metadata)"
                );
                return Err(Error::bad(path, problem));
            }
        }
        Ok(TensorFile { path: path.to_owned(), bytes, metadata })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A note about a file without a checksum.
    pub fn note(&self) -> Option<String> {
        let path = self.path.display();
        (!self.metadata.contains_key(checksum::TENSORS)).then(|| {
            format!(
                "{path} has no checksum, as files of other programs and older versions: it was not \
                 checked for damage"
            )
        })
    }

    /// What to do about content that this program does not understand, if a newer version wrote the file.
    pub fn newer(&self) -> Option<String> {
        version::newer(self.metadata.get("version")?)
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
        metadata_text(&self.path, &self.metadata, name)
    }

    /// The text of this name as JSON.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        metadata_json(&self.path, &self.metadata, name)
    }

    /// An error about this file.
    pub fn bad(&self, problem: String) -> Error {
        Error::bad(&self.path, problem)
    }
}

/// A file's metadata and one of its tensors, without the rest of it: for pictures, and for how far a run is. The
/// tensors' checksum is not verified.
pub(crate) struct PartOfFile {
    path: PathBuf,
    file: File,
    header: serde_json::Map<String, serde_json::Value>,
    pub metadata: Metadata,
}

/// Headers are no larger in the format.
const MAX_HEADER: u64 = 100_000_000;
/// The largest tensor that is read by itself, in bytes.
const MAX_PART: u64 = 16 << 20;

impl PartOfFile {
    pub fn open(path: &Path) -> Result<Self, Error> {
        let io = |error| Error::io("read", path, error);
        let bad = || Error::bad(path, "is not a valid safetensors file: it is damaged");
        let mut file = File::open(path).map_err(io)?;
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(io)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER {
            return Err(bad());
        }
        let mut header = Vec::new();
        (&mut file).take(length).read_to_end(&mut header).map_err(io)?;
        let header: serde_json::Map<_, _> = serde_json::from_slice(&header).map_err(|_| bad())?;
        let metadata = header.get("__metadata__").cloned().unwrap_or_else(|| json!({}));
        let metadata: Metadata = serde_json::from_value(metadata).map_err(|_| bad())?;
        let checksum = checksum::of_metadata(&metadata);
        if metadata.get(checksum::METADATA).is_some_and(|written| *written != checksum) {
            return Err(bad());
        }
        Ok(PartOfFile { path: path.to_owned(), file, header, metadata })
    }

    /// The metadata of this name as JSON.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        metadata_json(&self.path, &self.metadata, name)
    }

    /// The tensor of F32 numbers with this name and shape; `None` if there is none.
    pub fn numbers(&mut self, name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>, Error> {
        #[derive(Deserialize)]
        struct Entry {
            dtype: String,
            shape: Vec<usize>,
            data_offsets: [u64; 2],
        }
        let Some(entry) = self.header.get(name) else { return Ok(None) };
        let Ok(entry) = serde_json::from_value::<Entry>(entry.clone()) else { return Ok(None) };
        let [from, to] = entry.data_offsets;
        let count = shape.iter().try_fold(4, |bytes: u64, &size| bytes.checked_mul(size as u64));
        let fits =
            count.is_some_and(|bytes| bytes <= MAX_PART && from.checked_add(bytes) == Some(to));
        if entry.dtype != "F32" || entry.shape != shape || !fits {
            return Ok(None);
        }
        let io = |error| Error::io("read", &self.path, error);
        let mut start = [0; 8];
        self.file.rewind().and_then(|()| self.file.read_exact(&mut start)).map_err(io)?;
        let start = u64::from_le_bytes(start).saturating_add(8).saturating_add(from);
        let mut bytes = vec![0; (to - from) as usize];
        let seek = self.file.seek(SeekFrom::Start(start));
        seek.and_then(|_| self.file.read_exact(&mut bytes)).map_err(io)?;
        let (numbers, _) = bytes.as_chunks::<4>();
        Ok(Some(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
    }
}

fn checksum_of(tensors: &SafeTensors) -> String {
    let tensors = tensors.iter().map(|(name, view)| (format!("{:?}", view.dtype()), name, view));
    let tensors: Vec<_> = tensors.collect();
    let covered = tensors.iter().map(|(dtype, name, view)| TensorBytes {
        name,
        dtype,
        shape: view.shape(),
        bytes: Cow::Borrowed(view.data()),
    });
    checksum::of_tensors(covered.collect())
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
        write(&[&path], &tensors(), metadata.clone()).unwrap();
        let first = fs::read(&path).unwrap();
        let file = TensorFile::open(&path).unwrap();
        assert!(metadata.iter().all(|(key, value)| file.metadata[key] == *value));
        assert_eq!(file.note(), None);
        assert_eq!(file.json::<u32>("l").unwrap(), 3);
        assert_eq!(PartOfFile::open(&path).unwrap().json::<u32>("l").unwrap(), 3);
        let mut read = file.tensors("a/").unwrap();
        read.sort_by_key(|tensor| tensor.shape.len());
        assert_eq!(read[1].name, "one");
        assert_eq!(read[1].data, tensors()[0].data);
        assert_eq!(read[0].data, TensorData::I64(-7));
        write(&[&path], &tensors(), metadata.clone()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first, "equal tensors make equal files");
    }

    /// The bytes of a file with another order of its tensors, and with other metadata.
    fn rewritten(bytes: &[u8], reverse: bool, change: impl Fn(&mut Metadata)) -> Vec<u8> {
        let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
        let mut metadata: Metadata = header.metadata().clone().unwrap().into_iter().collect();
        change(&mut metadata);
        let file = SafeTensors::deserialize(bytes).unwrap();
        let mut tensors: Vec<_> = file.iter().collect();
        tensors.sort_by_key(|(name, _)| name.to_string());
        if reverse {
            tensors.reverse();
        }
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        header.insert("__metadata__".into(), json!(metadata));
        for (name, view) in tensors {
            let offsets = [data.len(), data.len() + view.data().len()];
            let dtype = format!("{:?}", view.dtype());
            let entry = json!({ "dtype": dtype, "shape": view.shape(), "data_offsets": offsets });
            header.insert(name.to_owned(), entry);
            data.extend_from_slice(view.data());
        }
        let header = serde_json::Value::Object(header).to_string();
        let length = (header.len() as u64).to_le_bytes();
        [&length, header.as_bytes(), &data].concat()
    }

    #[test]
    fn a_deliberate_edit_needs_the_checksum_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write(&[&path], &tensors(), Metadata::from([("k".into(), "v".into())])).unwrap();
        let bytes = fs::read(&path).unwrap();

        fs::write(&path, rewritten(&bytes, true, |_| ())).unwrap();
        assert_eq!(TensorFile::open(&path).unwrap().note(), None, "another order is no damage");

        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 0x40;
        fs::write(&path, &flipped).unwrap();
        let error = TensorFile::open(&path).err().unwrap().to_string();
        assert!(error.contains("its tensors") && error.contains("`checksum`"), "{error}");

        let delete = |metadata: &mut Metadata| drop(metadata.remove("checksum"));
        fs::write(&path, rewritten(&flipped, false, delete)).unwrap();
        let note = TensorFile::open(&path).unwrap().note().unwrap();
        assert!(note.contains("x.safetensors") && note.contains("no checksum"), "{note}");

        let edit = |metadata: &mut Metadata| drop(metadata.insert("k".into(), "w".into()));
        fs::write(&path, rewritten(&bytes, false, edit)).unwrap();
        let error = TensorFile::open(&path).err().unwrap().to_string();
        assert!(error.contains("its metadata") && error.contains("`metadata_checksum`"), "{error}");
    }

    #[test]
    fn a_tensor_can_be_read_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write(&[&path], &tensors(), Metadata::from([("k".into(), "v".into())])).unwrap();
        let mut file = PartOfFile::open(&path).unwrap();
        assert_eq!(file.metadata["k"], "v");
        assert_eq!(file.numbers("b/other", &[1]).unwrap(), Some(vec![9.0]));
        let TensorData::F32(values) = &tensors()[0].data else { unreachable!() };
        assert_eq!(file.numbers("a/one", &[2, 3]).unwrap().as_deref(), Some(&values[..]));
        assert_eq!(file.numbers("a/one", &[6]).unwrap(), None);
        assert_eq!(file.numbers("a/count", &[]).unwrap(), None);
        assert_eq!(file.numbers("nothing", &[1]).unwrap(), None);

        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(PartOfFile::open(&path).unwrap().numbers("b/other", &[1]).is_err());
        fs::write(&path, [&[0xff; 8], &bytes[8..]].concat()).unwrap();
        assert!(PartOfFile::open(&path).is_err());
        let edited = String::from_utf8_lossy(&bytes).replace("\"v\"", "\"w\"").into_bytes();
        fs::write(&path, edited).unwrap();
        assert!(PartOfFile::open(&path).is_err(), "the metadata is checked");
    }

    proptest! {
        /// Whatever happened to a file, reading it gives an error, or what was written.
        #[test]
        fn damage_is_an_error_or_harmless(cut in 0..400usize, at in 0..400usize, byte in any::<u8>()) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x.safetensors");
            write(&[&path], &tensors(), Metadata::from([("k".into(), "v".into())])).unwrap();
            let mut bytes = fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= byte;
            bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(200)));
            fs::write(&path, &bytes).unwrap();
            match TensorFile::open(&path) {
                Ok(file) => {
                    let mut read = file.tensors("").unwrap();
                    read.sort_by(|a, b| a.name.cmp(&b.name));
                    let mut written = tensors();
                    written.sort_by(|a, b| a.name.cmp(&b.name));
                    prop_assert_eq!(read, written);
                    prop_assert_eq!(file.text("k").unwrap(), "v");
                }
                Err(error) => prop_assert!(error.to_string().contains("x.safetensors")),
            }
        }
    }
}
