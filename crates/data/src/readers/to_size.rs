//! Brings the images of an array to the size that networks take.

use image::imageops::{self, FilterType};
use image::{ImageBuffer, Luma};

use super::walk::MAX_IMAGES;
use crate::{ImageShape, Sizing, Split, image_file};

const SHAPE: ImageShape = ImageShape::CIFAR;
const PADDED: usize = image_file::PADDED as usize;
/// The largest side of an image in an array.
const MAX_SIDE: usize = 4096;
/// The most bytes of an array of images.
const MAX_BYTES: u64 = 64 << 30;

/// The shape of the images in an array of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ArrayShape {
    pub images: usize,
    pub height: usize,
    pub width: usize,
    /// 1 or 3.
    pub channels: usize,
    /// Whether the channels are planes, one after the other, and not next to each other in each pixel.
    pub planes: bool,
}

impl ArrayShape {
    /// Checks that the array is not larger than any that is read.
    pub fn check(&self) -> Result<(), String> {
        let ArrayShape { images, height, width, .. } = *self;
        let bytes = images as u64 * self.image_bytes() as u64;
        let sides = 1..=MAX_SIDE;
        if images > MAX_IMAGES
            || !sides.contains(&height)
            || !sides.contains(&width)
            || bytes > MAX_BYTES
        {
            return Err(format!(
                "has {images} images of {width}x{height}: at most {MAX_IMAGES} images are read, of at most \
                 {MAX_SIDE}x{MAX_SIDE}, and {} GB in all",
                MAX_BYTES >> 30
            ));
        }
        Ok(())
    }

    /// Bytes of one image.
    pub fn image_bytes(&self) -> usize {
        self.height.saturating_mul(self.width).saturating_mul(self.channels)
    }

    /// How the images are brought to size.
    pub fn sizing(&self) -> Sizing {
        match (self.height, self.width) {
            (PADDED, PADDED) => Sizing::Pad,
            _ => Sizing::Resize,
        }
    }

    /// What is done to the images, for people; `None` if nothing is.
    pub fn changes(&self) -> Option<String> {
        let ArrayShape { height, width, channels, .. } = *self;
        let size = match (height, width) {
            (32, 32) => None,
            (PADDED, PADDED) => Some("they are padded with zeros to 32x32".to_owned()),
            _ => Some("they are resized to 32x32".to_owned()),
        };
        let grey = (channels == 1).then(|| "the grey is repeated in three channels".to_owned());
        let kind = if channels == 1 { "grey" } else { "in colour" };
        let done: Vec<String> = size.into_iter().chain(grey).collect();
        let done = (!done.is_empty()).then(|| done.join(", and "))?;
        Some(format!("the images are {kind}, {width}x{height}: {done}"))
    }

    /// Appends an image to a split, in the size that networks take.
    pub fn push(&self, image: &[u8], label: u16, split: &mut Split) {
        let ArrayShape { height, width, channels, planes, .. } = *self;
        let plane = height * width;
        let mut pixels = Vec::with_capacity(SHAPE.elements());
        for channel in 0..SHAPE.channels {
            let channel = if channels == 1 { 0 } else { channel };
            let at = |pixel: usize| match planes {
                true => image[channel * plane + pixel],
                false => image[pixel * channels + channel],
            };
            let values: Vec<u8> = (0..plane).map(at).collect();
            pixels.extend(to_size(values, width, height));
        }
        split.push(&pixels, label);
    }
}

/// One channel in the size that networks take.
fn to_size(values: Vec<u8>, width: usize, height: usize) -> Vec<u8> {
    if (width, height) == (SHAPE.width, SHAPE.height) {
        return values;
    }
    if (width, height) == (PADDED, PADDED) {
        let border = (SHAPE.width - PADDED) / 2;
        let mut padded = vec![0; SHAPE.plane()];
        for (row, values) in values.chunks_exact(PADDED).enumerate() {
            padded[(row + border) * SHAPE.width + border..][..PADDED].copy_from_slice(values);
        }
        return padded;
    }
    let image: ImageBuffer<Luma<u8>, _> =
        ImageBuffer::from_raw(width as u32, height as u32, values).expect("a value for each pixel");
    imageops::resize(&image, SHAPE.width as u32, SHAPE.height as u32, FilterType::Triangle)
        .into_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(width: usize, height: usize, channels: usize, planes: bool) -> ArrayShape {
        ArrayShape { images: 1, height, width, channels, planes }
    }

    #[test]
    fn images_of_28_pixels_are_padded_and_grey_is_repeated() {
        let shape = shape(28, 28, 1, false);
        let mut split = Split::default();
        shape.push(&(0..784).map(|i| (i % 250 + 1) as u8).collect::<Vec<_>>(), 3, &mut split);
        let image = split.image(0);
        assert_eq!(
            (image[0], image[2 * 32 + 2], image[29 * 32 + 29], image[30 * 32 + 2]),
            (0, 1, 34, 0)
        );
        assert!(image[..1024] == image[1024..2048] && image[..1024] == image[2048..]);
        assert_eq!(
            shape.changes().unwrap(),
            "the images are grey, 28x28: they are padded with zeros to 32x32, and the grey is repeated in \
             three channels"
        );
    }

    #[test]
    fn other_sizes_are_resized_and_channels_are_separated() {
        for (planes, image) in [
            (false, [10, 20, 30].repeat(64 * 48)),
            (true, [[10; 64 * 48], [20; 64 * 48], [30; 64 * 48]].concat()),
        ] {
            let mut split = Split::default();
            let shape = shape(64, 48, 3, planes);
            shape.push(&image, 0, &mut split);
            for (channel, value) in split.image(0).chunks(1024).zip([10, 20, 30]) {
                assert!(channel.iter().all(|byte| *byte == value));
            }
            assert!(shape.changes().unwrap().ends_with("64x48: they are resized to 32x32"));
        }
        assert_eq!(shape(32, 32, 3, false).changes(), None);
    }
}
