//! Images as `data:` URIs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The `data:` URI of an image of so many columns and rows, given as a red, a green and a blue plane; `None` if it has
/// another number of pixels.
pub fn data_uri(planes: &[u8], width: usize, height: usize) -> Option<String> {
    let bmp = bmp(planes, width, height)?;
    Some(format!("data:image/bmp;base64,{}", STANDARD.encode(bmp)))
}

/// A BMP file with 24 bits per pixel, rows from bottom to top.
fn bmp(planes: &[u8], width: usize, height: usize) -> Option<Vec<u8>> {
    const HEADER: usize = 14 + 40;
    let plane = width.checked_mul(height)?;
    if plane == 0 || planes.len() != plane.checked_mul(3)? {
        return None;
    }
    // A row has a multiple of four bytes.
    let padding = (3 * width).next_multiple_of(4) - 3 * width;
    let bytes = (3 * width + padding) * height;
    let mut file = Vec::with_capacity(HEADER + bytes);
    let word = |number: usize| (number as u32).to_le_bytes();
    file.extend(b"BM");
    for number in [HEADER + bytes, 0, HEADER, 40, width, height] {
        file.extend(word(number));
    }
    // One plane, 24 bits.
    file.extend([1, 0, 24, 0]);
    for number in [0, bytes, 0, 0, 0, 0] {
        file.extend(word(number));
    }
    for row in (0..height).rev() {
        for pixel in row * width..(row + 1) * width {
            file.extend([2, 1, 0].map(|colour| planes[colour * plane + pixel]));
        }
        file.extend(&[0; 3][..padding]);
    }
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_bitmap_from_the_bottom_row() {
        let mut planes = vec![0; 3 * 32 * 32];
        // The first pixel is red, the last one is blue.
        planes[0] = 200;
        planes[3 * 32 * 32 - 1] = 100;
        let file = bmp(&planes, 32, 32).unwrap();
        assert_eq!(file.len(), 54 + planes.len());
        assert_eq!((&file[..2], file[10], file[28]), (&b"BM"[..], 54, 24));
        let row = 54 + 31 * 96;
        assert_eq!(file[row..row + 3], [0, 0, 200]);
        let last = 54 + 31 * 3;
        assert_eq!(file[last..last + 3], [100, 0, 0]);
        assert!(data_uri(&planes, 32, 32).unwrap().starts_with("data:image/bmp;base64,Qk"));
        assert!(data_uri(&planes[1..], 32, 32).is_none());
        assert!(data_uri(&[], 0, 5).is_none());
    }

    #[test]
    fn rows_are_padded_to_words() {
        // Two columns, two rows: the first row is red, then green; the second one blue, then black.
        let planes = [255, 0, 0, 0, 0, 255, 0, 0, 0, 0, 255, 0];
        let file = bmp(&planes, 2, 2).unwrap();
        assert_eq!(file[54..62], [255, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(file[62..], [0, 0, 255, 0, 255, 0, 0, 0]);
    }
}
