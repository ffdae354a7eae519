//! Images as `data:` URIs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crescendo_data::ImageShape;

/// Rows and columns of an image.
const SIDE: usize = ImageShape::CIFAR.width;

/// The `data:` URI of an image given as a red, a green and a blue plane; `None` if it has the wrong
/// size.
pub fn data_uri(planes: &[u8]) -> Option<String> {
    let bmp = bmp(planes)?;
    Some(format!("data:image/bmp;base64,{}", STANDARD.encode(bmp)))
}

/// A BMP file with 24 bits per pixel, rows from bottom to top. A row has a multiple of four bytes,
/// so it needs no padding.
fn bmp(planes: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 14 + 40;
    if planes.len() != ImageShape::CIFAR.elements() {
        return None;
    }
    let mut file = Vec::with_capacity(HEADER + ImageShape::CIFAR.elements());
    let word = |number: usize| (number as u32).to_le_bytes();
    file.extend(b"BM");
    for number in [HEADER + ImageShape::CIFAR.elements(), 0, HEADER, 40, SIDE, SIDE] {
        file.extend(word(number));
    }
    // One plane, 24 bits.
    file.extend([1, 0, 24, 0]);
    for number in [0, ImageShape::CIFAR.elements(), 0, 0, 0, 0] {
        file.extend(word(number));
    }
    let plane = SIDE * SIDE;
    for row in (0..SIDE).rev() {
        for pixel in row * SIDE..(row + 1) * SIDE {
            file.extend([2, 1, 0].map(|colour| planes[colour * plane + pixel]));
        }
    }
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_bitmap_from_the_bottom_row() {
        let mut planes = vec![0; ImageShape::CIFAR.elements()];
        // The first pixel is red, the last one is blue.
        planes[0] = 200;
        planes[ImageShape::CIFAR.elements() - 1] = 100;
        let file = bmp(&planes).unwrap();
        assert_eq!(file.len(), 54 + ImageShape::CIFAR.elements());
        assert_eq!((&file[..2], file[10], file[28]), (&b"BM"[..], 54, 24));
        let row = 54 + 31 * 96;
        assert_eq!(file[row..row + 3], [0, 0, 200]);
        let last = 54 + 31 * 3;
        assert_eq!(file[last..last + 3], [100, 0, 0]);
        assert!(data_uri(&planes).unwrap().starts_with("data:image/bmp;base64,Qk"));
        assert!(data_uri(&planes[1..]).is_none());
    }
}
