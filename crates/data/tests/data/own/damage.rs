use std::fs;

use crescendo_data::{
    DamagedImages, Error, ImageFolder, Purpose, ReadOptions, Sizing, open_with, read_image,
};
use image::{ImageBuffer, ImageFormat, Luma, Rgb, RgbImage};
use tempfile::tempdir;

use super::{counts, folder, image, png, read, refused, write};

#[test]
fn the_content_of_a_file_says_its_format() {
    let root = folder(&["cat", "dog"], 2);
    let formats = [ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::Jpeg];
    let names = ["a.webp", "b.bmp", "c.gif", "d.jfif"];
    for (format, name) in formats.into_iter().zip(names) {
        write(root.path(), &format!("cat/{name}"), image(format, [200, 100, 50]));
    }
    // Names that say something else, or nothing.
    write(root.path(), "dog/webp.png", image(ImageFormat::WebP, [200, 100, 51]));
    write(root.path(), "dog/photo", image(ImageFormat::Bmp, [200, 100, 52]));
    write(root.path(), "dog/notes", "GIF or not");
    let set = read(root.path());
    assert_eq!(counts(&set), [8, 0, 2]);
    assert_eq!(set.warnings, ["1 file is ignored (not an image): dog/notes"]);
    for name in ["cat/a.webp", "cat/b.bmp", "cat/c.gif", "cat/d.jfif", "dog/webp.png", "dog/photo"]
    {
        let pixels = read_image(&root.path().join(name)).unwrap().pixels;
        assert!(pixels[0].abs_diff(200) < 8 && pixels[2048].abs_diff(50) < 8, "{name}");
    }
}

#[test]
fn an_animation_is_its_first_image() {
    let root = tempdir().unwrap();
    let path = root.path().join("x.gif");
    let mut gif = image::codecs::gif::GifEncoder::new(fs::File::create(&path).unwrap());
    for grey in [40, 90, 200] {
        let frame = image::RgbaImage::from_pixel(20, 20, image::Rgba([grey, grey, grey, 255]));
        gif.encode_frame(image::Frame::new(frame)).unwrap();
    }
    drop(gif);
    assert!(read_image(&path).unwrap().pixels.iter().all(|byte| *byte == 40));
}

const SKIP: ReadOptions = ReadOptions {
    damaged: DamagedImages::Skip,
    sizing: Sizing::Resize,
    purpose: Purpose::Training,
    test_split: None,
};

#[test]
fn all_damaged_images_are_in_one_message_or_left_out() {
    let root = folder(&["cat", "dog"], 20);
    for index in 0..12 {
        write(root.path(), &format!("cat/{index}.png"), &png(index)[..30]);
    }
    let Error::Damaged { files, of, .. } = refused(
        root.path(),
        &[
            "12 of 40 images cannot be read",
            "cat/0.png: cannot",
            "cat/7.png: cannot",
            "; and 2 more",
            "--damaged FILE",
            "data.damaged=skip",
        ],
    ) else {
        panic!("another error")
    };
    assert_eq!((files.len(), of), (12, 40));
    assert!(files.iter().all(|file| file.error.contains(&file.path.display().to_string())));
    let set = open_with(root.path(), SKIP).unwrap();
    assert_eq!(set.train.len() + set.test.len(), 28);
    assert!(set.warnings[0].starts_with("12 of 40 images cannot be read and are left out ("));
    super::check_files(&set.train, &["cat", "dog"]);
    // Those that are left are in the same split as when all are whole.
    let whole = folder(&["cat", "dog"], 20);
    let all = super::labels(&read(whole.path()), &read(whole.path()).train);
    assert!(super::labels(&set, &set.train).keys().all(|image| all.contains_key(image)));
    let again = ImageFolder::new(root.path(), 0.2).unwrap().open_with(SKIP).unwrap();
    assert_eq!(again.fingerprint(), set.fingerprint());
    for index in 12..20 {
        write(root.path(), &format!("cat/{index}.png"), "");
    }
    let error = open_with(root.path(), SKIP).unwrap_err().to_string();
    assert!(error.contains("no training image of the class cat can be read"), "{error}");
}

/// A JPEG of a pattern.
fn jpeg(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let pixel = |x: u32, y: u32| Rgb([(x * 5) as u8, (y * 7) as u8, (x * y) as u8]);
    RgbImage::from_fn(width, height, pixel).write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

#[test]
fn a_jpeg_that_only_lacks_its_end_marker_is_read_with_a_warning() {
    let root = folder(&["cat", "dog"], 2);
    for (width, height) in [(100, 80), (33, 17), (8, 8), (640, 481)] {
        let whole = jpeg(width, height);
        assert_eq!(whole[whole.len() - 2..], [0xff, 0xd9]);
        write(root.path(), "cat/whole.jpg", &whole);
        let expected = read_image(&root.path().join("cat/whole.jpg")).unwrap();
        assert!(!expected.lacks_end);
        for cut in [1, 2] {
            write(root.path(), "cat/photo.jpg", &whole[..whole.len() - cut]);
            let photo = read_image(&root.path().join("cat/photo.jpg")).unwrap();
            assert!(photo.lacks_end && photo.pixels == expected.pixels);
        }
        // Without pixels it is an error.
        for cut in [8, 40, 200] {
            let Some(left) = whole.len().checked_sub(cut).filter(|left| *left > 700) else {
                continue;
            };
            write(root.path(), "x.jpg", &whole[..left]);
            let error = read_image(&root.path().join("x.jpg")).unwrap_err().to_string();
            assert!(error.contains("the end of the file is missing"), "{error}");
        }
    }
    fs::remove_file(root.path().join("x.jpg")).unwrap();
    fs::remove_file(root.path().join("cat/whole.jpg")).unwrap();
    let set = read(root.path());
    let warning = "1 of 5 images are JPEGs without an end marker, such as cat/photo.jpg; all of their pixels are there";
    assert!(set.warnings.iter().any(|other| other == warning), "{:?}", set.warnings);
}

/// A grey JPEG of this size, all of whose pixels have one value: nearly all of it is zero bits.
fn large_jpeg(width: u16, height: u16) -> Vec<u8> {
    let small = {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let grey = image::GrayImage::from_pixel(8, 8, Luma([90]));
        grey.write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
        bytes.into_inner()
    };
    let find = |marker: u8| small.windows(2).position(|pair| pair == [0xff, marker]).unwrap();
    let (frame, scan) = (find(0xc0), find(0xda));
    let data = scan + 2 + usize::from(u16::from_be_bytes([small[scan + 2], small[scan + 3]]));
    let mut large = small[..data].to_vec();
    large[frame + 5..][..2].copy_from_slice(&height.to_be_bytes());
    large[frame + 7..][..2].copy_from_slice(&width.to_be_bytes());
    // The first block: the bits of the small image's, up to the padding of ones. All others have no difference (00)
    // and the end of the block (1010) in the standard tables.
    let end = small.len() - 2;
    let mut bits: Vec<u8> = small[data..end]
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    while !bits.ends_with(&[1, 0, 1, 0]) {
        bits.pop();
    }
    let blocks = (usize::from(width) / 8) * (usize::from(height) / 8) - 1;
    let mut bits =
        bits.into_iter().chain(std::iter::repeat_n([0, 0, 1, 0, 1, 0], blocks).flatten());
    while let Some(first) = bits.next() {
        let byte = (0..7).fold(first, |byte, _| byte << 1 | bits.next().unwrap_or(1));
        large.push(byte);
        if byte == 0xff {
            large.push(0);
        }
    }
    large.extend([0xff, 0xd9]);
    large
}

#[test]
fn photos_of_up_to_200_million_pixels_are_reduced_as_they_are_decoded() {
    let root = tempdir().unwrap();
    let path = root.path().join("large.jpg");
    fs::write(&path, large_jpeg(800, 640)).unwrap();
    let small = read_image(&path).unwrap();
    assert!(small.pixels.iter().all(|byte| byte.abs_diff(90) < 3));
    // 200 million pixels.
    fs::write(&path, large_jpeg(16_000, 12_496)).unwrap();
    let large = read_image(&path).unwrap();
    assert_eq!((large.original_width, large.original_height), (16_000, 12_496));
    assert!(large.pixels.iter().all(|byte| byte.abs_diff(90) < 3));
    // More are refused, and so are large files without their end.
    fs::write(&path, large_jpeg(16_000, 16_000)).unwrap();
    assert!(read_image(&path).unwrap_err().to_string().contains("at most 250 million pixels"));
    let whole = large_jpeg(16_000, 4_000);
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(read_image(&path).unwrap_err().to_string().contains("the end of the file is missing"));
}

#[test]
fn grey_of_12_bits_in_16_is_warned_about() {
    let root = folder(&["cat", "dog"], 2);
    for (name, largest) in [("12.png", 4095_u32), ("16.png", 65_535), ("8.png", 255)] {
        let value = |x: u32, y: u32| Luma([((x * 32 + y) * largest / 1023) as u16]);
        let image: ImageBuffer<Luma<u16>, _> = ImageBuffer::from_fn(32, 32, value);
        image.save(root.path().join("dog").join(name)).unwrap();
    }
    let set = read(root.path());
    assert_eq!(
        set.warnings,
        [
            "2 of 7 images have values of 16 bits that use at most 12, such as dog/12.png, so that they are nearly \
             black: scale them to all 16"
        ]
    );
}
