//! Reads an image file as an image of the size that networks take.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use image::imageops::{self, FilterType};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, RgbImage};
use jpeg_decoder::PixelFormat;
use serde::{Deserialize, Serialize};

use crate::{Error, ImageShape};

const SHAPE: ImageShape = ImageShape::CIFAR;

/// The formats that are read, as errors name them.
pub(crate) const FORMATS: &str = "PNG, JPEG, WebP, BMP or GIF";

/// Larger images are refused before they take memory, unless they are JPEGs.
const MAX_PIXELS: u64 = 50_000_000;
/// JPEGs that are larger than [`MAX_PIXELS`] are reduced while they are decoded. Still larger ones are refused.
const MAX_REDUCED_PIXELS: u64 = 250_000_000;
/// The same for progressive ones, whose coefficients are all in memory at some time.
const MAX_PROGRESSIVE_PIXELS: u64 = 100_000_000;
/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 512 << 20;

/// How images of other sizes are brought to the size that networks take.
///
/// See the example of [`DecodedImage`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sizing {
    /// They are resized.
    #[default]
    Resize,
    /// Those of 28x28 are padded with zeros, as MNIST's; others are resized.
    Pad,
}

impl Sizing {
    /// Whether images of this size are padded.
    pub(crate) fn pads(self, width: u32, height: u32) -> bool {
        self == Sizing::Pad && (width, height) == (PADDED, PADDED)
    }
}

/// The size of MNIST's images.
pub(crate) const PADDED: u32 = 28;

/// An image that was read from a file and resized.
///
/// # Example
///
/// ```
/// use crescendo_data::{Sizing, read_image_as};
///
/// // A white image of MNIST's size, as a bitmap without compression.
/// let (header, side) = (54, 28);
/// let mut bitmap = b"BM".to_vec();
/// let fields = [header + 3 * side * side, 0, header, 40, side, side, 1 | 24 << 16, 0, 0, 0, 0, 0, 0];
/// fields.iter().for_each(|field: &u32| bitmap.extend(field.to_le_bytes()));
/// bitmap.resize((header + 3 * side * side) as usize, 255);
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("white.bmp");
/// std::fs::write(&path, bitmap).unwrap();
///
/// let resized = read_image_as(&path, Sizing::Resize)?;
/// assert!(resized.is_resized() && resized.pixels.iter().all(|&byte| byte == 255));
/// assert_eq!((resized.original_width, resized.original_height), (28, 28));
/// // Two rows of zeros on each side.
/// let padded = read_image_as(&path, Sizing::Pad)?;
/// assert_eq!(padded.pixels.iter().filter(|&&byte| byte == 255).count(), 3 * 28 * 28);
/// # Ok::<(), crescendo_data::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DecodedImage {
    /// The resized image: the bytes of [`ImageShape::CIFAR`], in its order.
    pub pixels: Vec<u8>,
    /// The width in the file.
    pub original_width: u32,
    /// The height in the file.
    pub original_height: u32,
    /// Whether it is a JPEG without the marker at its end, but with all of its pixels.
    pub lacks_end: bool,
    /// Whether its values have 16 bits, of which at most 12 are used, so that it is nearly black.
    pub is_12_bit: bool,
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

/// Reads a PNG, JPEG, WebP, BMP or GIF file (of an animation the first image); the content decides which, not
/// the name. Grey images get three equal channels, and the orientation that a camera recorded is applied. Images
/// of another size are resized to [`ImageShape::CIFAR`] with a triangle filter, height and width independently,
/// so that the aspect ratio is not kept. JPEGs of more than 50 million pixels are reduced to an eighth first, as
/// they are decoded.
///
/// # Errors
/// If the file cannot be read, is not an image of these formats, is damaged or truncated, or has more than 50
/// million pixels, as a JPEG more than 250 million, as a progressive JPEG more than 100 million.
pub fn read_image(path: &Path) -> Result<DecodedImage, Error> {
    read_image_as(path, Sizing::Resize)
}

/// As [`read_image`], with images brought to size as `sizing` says.
///
/// # Errors
/// See [`read_image`].
pub fn read_image_as(path: &Path, sizing: Sizing) -> Result<DecodedImage, Error> {
    let io = |error| Error::io("read", path, error);
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    decode(&bytes, sizing).map_err(|problem| Error::invalid(path, problem))
}

/// Whether these are the first bytes of an image in one of the formats.
pub(crate) fn is_image(start: &[u8]) -> bool {
    image::guess_format(start).is_ok_and(|format| format.reading_enabled())
}

/// What is said of a file that is not a valid image.
fn unreadable(problem: &str) -> String {
    let problem = problem.lines().collect::<Vec<_>>().join(" ");
    format!("cannot be read as an image ({problem}): give a {FORMATS} file")
}

fn bad(error: ImageError) -> String {
    unreadable(&error.to_string())
}

/// Reads the image file that has these bytes, as [`read_image`], or returns the problem with it.
pub(crate) fn decode(bytes: &[u8], sizing: Sizing) -> Result<DecodedImage, String> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("is larger than {} MB, too large for an image", MAX_BYTES >> 20));
    }
    // The reader limits the memory of a decoder to half a gigabyte by default.
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let reader = reader.map_err(|error: io::Error| unreadable(&error.to_string()))?;
    let is_jpeg = reader.format() == Some(ImageFormat::Jpeg);
    let mut decoder = reader.into_decoder().map_err(bad)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    let max = if is_jpeg { MAX_REDUCED_PIXELS } else { MAX_PIXELS };
    if pixels > max {
        let max = max / 1_000_000;
        return Err(format!(
            "has {width}x{height} pixels: give an image of at most {max} million pixels"
        ));
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let lacks_end = is_jpeg && !has_end(bytes);
    let mut is_12_bit = false;
    let mut image = if pixels > MAX_PIXELS {
        drop(decoder);
        if lacks_end {
            return Err(unreadable("the end of the file is missing"));
        }
        reduced(bytes)?
    } else {
        let image = DynamicImage::from_decoder(decoder).map_err(bad)?;
        is_12_bit = uses_12_bits(&image);
        image.into_rgb8()
    };
    if lacks_end && !has_all_pixels(bytes, &image) {
        return Err(unreadable("the end of the file is missing"));
    }
    let size = (SHAPE.width as u32, SHAPE.height as u32);
    if sizing.pads(width, height) {
        let mut padded = RgbImage::new(size.0, size.1);
        let border = i64::from((size.0 - PADDED) / 2);
        imageops::replace(&mut padded, &image, border, border);
        image = padded;
    } else if image.dimensions() != size {
        image = imageops::resize(&image, size.0, size.1, FilterType::Triangle);
    }
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    let image = image.into_rgb8();
    let channel = |channel: usize| image.pixels().map(move |pixel| pixel.0[channel]);
    let pixels = (0..SHAPE.channels).flat_map(channel).collect();
    Ok(DecodedImage {
        pixels,
        original_width: width,
        original_height: height,
        lacks_end,
        is_12_bit,
    })
}

/// Whether no value of an image with 16 bits for each value needs more than 12. A black image does not count.
fn uses_12_bits(image: &DynamicImage) -> bool {
    let values: &[u16] = match image {
        DynamicImage::ImageLuma16(image) => image,
        DynamicImage::ImageRgb16(image) => image,
        _ => return false,
    };
    let max = values.iter().copied().max().unwrap_or(0);
    (1..4096).contains(&max)
}

/// A large JPEG, reduced to an eighth along each side as it is decoded.
fn reduced(bytes: &[u8]) -> Result<RgbImage, String> {
    // One at a time: it bounds the memory.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let bad = |error: jpeg_decoder::Error| unreadable(&error.to_string());
    let mut decoder = jpeg_decoder::Decoder::new(bytes);
    decoder.read_info().map_err(bad)?;
    let info = decoder.info().ok_or_else(|| unreadable("it has no size"))?;
    let pixels = u64::from(info.width) * u64::from(info.height);
    let is_sequential = info.coding_process == jpeg_decoder::CodingProcess::DctSequential;
    if !is_sequential && pixels > MAX_PROGRESSIVE_PIXELS {
        return Err(format!(
            "has {}x{} pixels: give a progressive JPEG of at most {} million pixels",
            info.width,
            info.height,
            MAX_PROGRESSIVE_PIXELS / 1_000_000
        ));
    }
    let (width, height) = decoder.scale(1, 1).map_err(bad)?;
    let pixels = decoder.decode().map_err(bad)?;
    let pixels = match info.pixel_format {
        PixelFormat::RGB24 => pixels,
        PixelFormat::L8 => pixels.into_iter().flat_map(|grey| [grey; 3]).collect(),
        _ => return Err(unreadable("a large JPEG must be grey or have red, green and blue")),
    };
    RgbImage::from_raw(width.into(), height.into(), pixels)
        .ok_or_else(|| unreadable("it has fewer pixels than it says"))
}

/// Whether a JPEG has its end marker. Decoders fill in the missing part of a truncated image silently.
fn has_end(mut jpeg: &[u8]) -> bool {
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

/// Whether a JPEG without its end marker has all pixels of `image`, which was decoded from it: if some were
/// missing, they would depend on what follows.
fn has_all_pixels(jpeg: &[u8], image: &RgbImage) -> bool {
    let padding = jpeg.iter().rev().take_while(|byte| **byte == 0xff).count();
    let jpeg = &jpeg[..jpeg.len() - padding];
    [&[][..], &[0; 64], &[0x55; 64]].into_iter().all(|tail| {
        let whole = [jpeg, tail, &[0xff, 0xd9]].concat();
        let decoded = image::load_from_memory_with_format(&whole, ImageFormat::Jpeg);
        decoded.is_ok_and(|decoded| decoded.into_rgb8() == *image)
    })
}
