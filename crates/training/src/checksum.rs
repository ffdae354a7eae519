//! Checksums in files of tensors, by which damage is noticed.
//!
//! They lie in the file's metadata. That of the tensors is over names, types, shapes and bytes in the order of
//! the names, so a file whose tensors were only reordered stays valid.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use crate::tensors::Metadata;

/// The metadata key of the tensors' checksum.
pub(crate) const TENSORS: &str = "checksum";
/// The metadata key of the checksum of the other metadata.
pub(crate) const METADATA: &str = "metadata_checksum";

/// What a tensor's checksum covers.
pub(crate) struct TensorBytes<'a> {
    pub name: &'a str,
    /// Its type as safetensors names it, such as `F32`.
    pub dtype: &'a str,
    pub shape: &'a [usize],
    /// Little-endian.
    pub bytes: Cow<'a, [u8]>,
}

/// The SHA-256 of tensors in hexadecimal: for each, in the order of their names, a line such as `fc.weight F32
/// [10, 64]`, and its bytes.
pub(crate) fn of_tensors(mut tensors: Vec<TensorBytes>) -> String {
    tensors.sort_by(|a, b| a.name.cmp(b.name));
    let mut hash = Sha256::new();
    for TensorBytes { name, dtype, shape, bytes } in tensors {
        hash.update(format!("{name} {dtype} {shape:?}\n"));
        hash.update(bytes);
    }
    hexadecimal(hash)
}

/// The SHA-256 of the metadata in hexadecimal: a line with the key and one with the value, for each key but
/// those of checksums.
pub(crate) fn of_metadata(metadata: &Metadata) -> String {
    let mut hash = Sha256::new();
    for (key, value) in metadata.iter().filter(|(key, _)| ![TENSORS, METADATA].contains(&&***key)) {
        hash.update(format!("{key}\n{value}\n"));
    }
    hexadecimal(hash)
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
