//! One image of a PNG or JPEG file, as the networks see it.

use std::fs;
use std::path::Path;

use image::imageops::{self, FilterType};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};

use crate::{CHANNELS, Error, SIDE};

/// An image that says it has more pixels than this is not worth its memory.
const MOST_PIXELS: u64 = 50_000_000;

/// An image that was read from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// [`IMAGE_BYTES`](crate::IMAGE_BYTES) bytes: the image resized to [`SIDE`] x [`SIDE`].
    pub pixels: Vec<u8>,
    /// How wide it is in its file.
    pub width: u32,
    /// How high it is in its file.
    pub height: u32,
}

impl Picture {
    /// Whether it has another size in its file.
    pub fn is_resized(&self) -> bool {
        (self.width, self.height) != (SIDE as u32, SIDE as u32)
    }

    /// How many times its longer side is as long as the shorter one.
    pub(crate) fn stretch(&self) -> f64 {
        let (width, height) = (f64::from(self.width), f64::from(self.height));
        width.max(height) / width.min(height)
    }
}

/// Reads a PNG or JPEG file, whatever it is called. Grey images get three equal channels, and a photo
/// is turned as its camera says it was held. One of another size than 32x32 is resized, both sides each
/// by its own factor; where it shrinks, every pixel is a weighted mean (a triangle) of those it covers.
///
/// # Errors
/// If the file cannot be read, is no such image, damaged or cut off, or has more than fifty million
/// pixels.
pub fn read_image(path: &Path) -> Result<Picture, Error> {
    let bad = |error: ImageError| {
        let error = error.to_string().lines().collect::<Vec<_>>().join(" ");
        Error::bad(path, format!("cannot be read as an image ({error}): give a PNG or JPEG file"))
    };
    let io = |error| Error::io("read", path, error);
    // The reader's own limits keep a decoder below half a gigabyte.
    let reader = ImageReader::open(path).map_err(io)?.with_guessed_format().map_err(io)?;
    let format = reader.format();
    let mut decoder = reader.into_decoder().map_err(bad)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        let most = MOST_PIXELS / 1_000_000;
        let problem =
            format!("has {width}x{height} pixels: give an image of at most {most} million");
        return Err(Error::bad(path, problem));
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(bad)?.into_rgb8();
    if format == Some(ImageFormat::Jpeg) && !is_whole(&fs::read(path).map_err(io)?) {
        let problem = "cannot be read as an image (its end is missing): give a whole JPEG file";
        return Err(Error::bad(path, problem));
    }
    let side = SIDE as u32;
    if (width, height) != (side, side) {
        image = imageops::resize(&image, side, side, FilterType::Triangle);
    }
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    let image = image.into_rgb8();
    let channel = |channel: usize| image.pixels().map(move |pixel| pixel.0[channel]);
    let pixels = (0..CHANNELS).flat_map(channel).collect();
    Ok(Picture { pixels, width, height })
}

/// Whether a JPEG goes on to its end: decoders make up what one lacks that was cut off.
fn is_whole(mut jpeg: &[u8]) -> bool {
    // A marker is 0xff and what it is of: neither 0 (a byte of the image), nor filling, nor a restart or
    // the start, which nothing follows that is to be skipped.
    let is_marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 1 | 0xd0..=0xd8 | 0xff);
    while let Some(at) = jpeg.windows(2).position(is_marker) {
        if jpeg[at + 1] == 0xd9 {
            return true;
        }
        // What a segment holds may have an end of its own: a thumbnail.
        jpeg = &jpeg[at + 2..];
        let length =
            jpeg.first_chunk().map_or(usize::MAX, |length| u16::from_be_bytes(*length).into());
        jpeg = jpeg.get(length..).unwrap_or_default();
    }
    false
}
