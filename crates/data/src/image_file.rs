//! Reads a PNG or JPEG file as an image of the size that networks take.

use std::fs;
use std::path::Path;

use image::imageops::{self, FilterType};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};

use crate::{Error, ImageShape};

const SHAPE: ImageShape = ImageShape::CIFAR;

/// Larger images are refused before they take memory.
const MAX_PIXELS: u64 = 50_000_000;

/// An image that was read from a file and resized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedImage {
    /// The resized image: the bytes of [`ImageShape::CIFAR`], in its order.
    pub pixels: Vec<u8>,
    /// The width in the file.
    pub original_width: u32,
    /// The height in the file.
    pub original_height: u32,
}

impl DecodedImage {
    /// Whether the image in the file has another size.
    pub fn is_resized(&self) -> bool {
        (self.original_width, self.original_height) != (SHAPE.width as u32, SHAPE.height as u32)
    }

    /// The ratio of the longer side to the shorter one, in the file.
    pub(crate) fn aspect_ratio(&self) -> f64 {
        let (width, height) = (f64::from(self.original_width), f64::from(self.original_height));
        width.max(height) / width.min(height)
    }
}

/// Reads a PNG or JPEG file; the content decides which, not the name. Grey images get three equal
/// channels, and the orientation that a camera recorded is applied. Images of another size are resized to
/// [`ImageShape::CIFAR`] with a triangle filter, height and width independently, so that the aspect ratio
/// is not kept.
///
/// # Errors
/// If the file cannot be read, is not a PNG or JPEG image, is damaged or truncated, or has more than 50
/// million pixels.
pub fn read_image(path: &Path) -> Result<DecodedImage, Error> {
    let bad = |error: ImageError| {
        let error = error.to_string().lines().collect::<Vec<_>>().join(" ");
        Error::invalid(
            path,
            format!("cannot be read as an image ({error}): give a PNG or JPEG file"),
        )
    };
    let io = |error| Error::io("read", path, error);
    // The reader limits the memory of a decoder to half a gigabyte by default.
    let reader = ImageReader::open(path).map_err(io)?.with_guessed_format().map_err(io)?;
    let format = reader.format();
    let mut decoder = reader.into_decoder().map_err(bad)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        let max = MAX_PIXELS / 1_000_000;
        let problem =
            format!("has {width}x{height} pixels: give an image of at most {max} million pixels");
        return Err(Error::invalid(path, problem));
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(bad)?.into_rgb8();
    if format == Some(ImageFormat::Jpeg) && !is_complete(&fs::read(path).map_err(io)?) {
        let problem = "cannot be read as an image (the end of the file is missing): give a complete \
                       JPEG file";
        return Err(Error::invalid(path, problem));
    }
    let size = (SHAPE.width as u32, SHAPE.height as u32);
    if (width, height) != size {
        image = imageops::resize(&image, size.0, size.1, FilterType::Triangle);
    }
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    let image = image.into_rgb8();
    let channel = |channel: usize| image.pixels().map(move |pixel| pixel.0[channel]);
    let pixels = (0..SHAPE.channels).flat_map(channel).collect();
    Ok(DecodedImage { pixels, original_width: width, original_height: height })
}

/// Whether a JPEG has its end marker. Decoders fill in the missing part of a truncated image silently.
fn is_complete(mut jpeg: &[u8]) -> bool {
    // A marker is 0xff and a type. These types are ignored, as no segment follows them: 0 (a byte of
    // the image), 1, restarts and the start of the image (0xd0 to 0xd8), padding (0xff).
    let is_marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 1 | 0xd0..=0xd8 | 0xff);
    while let Some(at) = jpeg.windows(2).position(is_marker) {
        if jpeg[at + 1] == 0xd9 {
            return true;
        }
        // Skip the segment: it may contain a thumbnail with its own end marker.
        jpeg = &jpeg[at + 2..];
        let length =
            jpeg.first_chunk().map_or(usize::MAX, |length| u16::from_be_bytes(*length).into());
        jpeg = jpeg.get(length..).unwrap_or_default();
    }
    false
}
