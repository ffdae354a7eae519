//! NumPy's `.npy` files, as far as images and probabilities need them: reads arrays of uint8, writes
//! arrays of float64. The format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use std::io::{self, Read, Write};

const MAGIC: &[u8] = b"\x93NUMPY";
/// In bytes. The header of a plain array is about 120.
const LONGEST_HEADER: usize = 4096;

/// Reads an array of uint8 of the shape `(N, width)` from a file of `size` bytes.
///
/// # Errors
/// A text that continues "FILE ...", such as "has the shape (2, 3)", if the file is anything else or
/// cannot be read.
pub fn read_bytes(mut file: impl Read, size: u64, width: usize) -> Result<Vec<u8>, String> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => "is not a .npy file, or is truncated".to_owned(),
        _ => format!("cannot be read ({error})"),
    };
    let mut start = [0; 10];
    file.read_exact(&mut start).map_err(unreadable)?;
    if !start.starts_with(MAGIC) {
        return Err("is not a .npy file".into());
    }
    let mut length = usize::from(u16::from_le_bytes([start[8], start[9]]));
    if start[6] > 1 {
        // From version 2 on, the length has four bytes.
        let mut rest = [0; 2];
        file.read_exact(&mut rest).map_err(unreadable)?;
        length += usize::from(u16::from_le_bytes(rest)) << 16;
    }
    if length > LONGEST_HEADER {
        return Err("has a header that is too long".into());
    }
    let mut header = vec![0; length];
    file.read_exact(&mut header).map_err(unreadable)?;
    let header = String::from_utf8_lossy(&header);
    // The header is a Python dictionary: {'descr': '|u1', 'fortran_order': False, 'shape': (2, 3)}.
    let field = |name: &str, end: char| {
        let (_, value) = header.split_once(&format!("'{name}':"))?;
        let value = value.trim_start();
        Some(&value[..=value.find(end)?])
    };
    let damaged = || "has a damaged header".to_owned();
    let kind = field("descr", ',').ok_or_else(damaged)?.trim_end_matches(',');
    if !matches!(kind, "'|u1'" | "'<u1'" | "'u1'") {
        return Err(format!("holds {kind}, not uint8"));
    }
    let shape = field("shape", ')').ok_or_else(damaged)?;
    let numbers = shape.trim_matches(['(', ')']).split(',').map(str::trim);
    let numbers: Option<Vec<usize>> =
        numbers.filter(|number| !number.is_empty()).map(|number| number.parse().ok()).collect();
    let images = match numbers.as_deref() {
        Some(&[images, found]) if found == width => images,
        _ => return Err(format!("has the shape {shape}")),
    };
    if field("fortran_order", 'e') != Some("False") && width > 1 {
        return Err("is in Fortran order".into());
    }
    // Checked before the memory is allocated, because a damaged header can claim any size.
    let claimed = images.checked_mul(width).filter(|&bytes| bytes as u64 <= size);
    let Some(bytes) = claimed else {
        return Err(format!("has a header for {images} images, but only {size} bytes"));
    };
    let mut array = vec![0; bytes];
    file.read_exact(&mut array)
        .map_err(|_| format!("has a header for {images} images, but ends before the last"))?;
    Ok(array)
}

/// Writes `values` as an array of float64 of the shape `(N, width)`.
///
/// # Errors
/// If the file cannot be written.
pub fn write_f64(file: &mut dyn Write, values: &[f64], width: usize) -> io::Result<()> {
    let shape = format!("({}, {width})", values.len() / width);
    let mut header = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}");
    // The format wants the data to begin at a multiple of 64 bytes, after a newline.
    let length = (MAGIC.len() + 4 + header.len() + 1).next_multiple_of(64) - MAGIC.len() - 4;
    header.push_str(&" ".repeat(length - 1 - header.len()));
    header.push('\n');
    file.write_all(MAGIC)?;
    file.write_all(&[1, 0])?;
    file.write_all(&(length as u16).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    values.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What NumPy 2 writes for `numpy.zeros((1, 3), "u1")`, with other numbers.
    fn sample() -> Vec<u8> {
        let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 3), }";
        let mut bytes = [MAGIC, &[1, 0, 118, 0], header.as_bytes()].concat();
        bytes.resize(127, b' ');
        bytes.extend(b"\nabc");
        bytes
    }

    #[test]
    fn bytes_are_read() {
        assert_eq!(read_bytes(&sample()[..], 131, 3).unwrap(), b"abc");
        assert_eq!(read_bytes(&sample()[..], 131, 2).unwrap_err(), "has the shape (1, 3)");
    }

    #[test]
    fn numbers_are_written_as_numpy_writes_them() {
        let mut file = Vec::new();
        write_f64(&mut file, &[0.25, 0.75], 2).unwrap();
        assert_eq!(file.len(), 128 + 16);
        assert!(file.starts_with(
            b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2), }"
        ));
        assert_eq!(file[127], b'\n');
        assert_eq!(file[128..136], 0.25f64.to_le_bytes());
    }

    proptest! {
        #[test]
        fn a_damaged_file_never_panics(at in 0..131usize, byte: u8, cut in 0..131usize) {
            let mut bytes = sample();
            bytes[at] = byte;
            let _ = read_bytes(&bytes[..], 131, 3);
            prop_assert!(read_bytes(&sample()[..cut], cut as u64, 3).is_err());
        }
    }
}
