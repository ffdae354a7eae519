//! Folders of images with a folder for each class: what is read, which images become test images, and what
//! is refused.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crescendo_data::{DataSet, Error, ImageFolder, ImageShape, open, read_image, summarize};
use image::{GrayImage, ImageFormat, Rgb, RgbImage};
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};

const SHAPE: ImageShape = ImageShape::CIFAR;

/// Writes an image of one colour, in the format of its name.
fn paint(root: &Path, name: &str, colour: [u8; 3], [width, height]: [u32; 2]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(width, height, Rgb(colour)).save(path).unwrap();
}

/// A folder with the given number of images of each class, all different.
fn set(counts: &[(&str, usize)]) -> TempDir {
    let root = tempdir().unwrap();
    for (label, (class, count)) in counts.iter().enumerate() {
        fs::create_dir_all(root.path().join(class)).unwrap();
        for index in 0..*count {
            let colour = [label as u8, index as u8, 7];
            paint(root.path(), &format!("{class}/{index}.png"), colour, [32, 32]);
        }
    }
    root
}

/// The error for a folder, without its path.
#[track_caller]
fn problem(root: &Path, outcome: Result<DataSet, Error>) -> String {
    let problem = outcome.unwrap_err().to_string();
    assert!(problem.contains(&root.display().to_string()), "{problem}");
    problem.replace(&root.display().to_string(), "").replace('\\', "/")
}

#[track_caller]
fn refused(root: &TempDir, parts: &[&str]) {
    let problem = problem(root.path(), open(root.path()));
    for part in parts {
        assert!(problem.contains(part), "no {part:?} in {problem}");
    }
}

/// The first byte of the first two channels of each image, which identify it: its channels are constant.
fn colours(split: &crescendo_data::Split) -> BTreeSet<[u8; 2]> {
    (0..split.len()).map(|index| [split.image(index)[0], split.image(index)[1024]]).collect()
}

#[test]
fn a_folder_for_each_class_is_a_set() {
    let root = set(&[("dog", 10), ("a cat", 5), ("Vögel", 20)]);
    let set = open(root.path()).unwrap();
    // Sorted by the bytes of their names.
    assert_eq!(set.classes, ["Vögel", "a cat", "dog"]);
    assert_eq!((set.train.len(), set.test.len()), (28, 7));
    assert_eq!(
        summarize(&set).classes.iter().map(|class| class.test).collect::<Vec<_>>(),
        [4, 1, 2]
    );
    assert!(set.name.starts_with("the folder ") && set.format.contains("20 %"), "{}", set.format);
    for split in [&set.train, &set.test] {
        for (index, label) in split.labels.iter().enumerate() {
            // In the order of the folders' names above: dog 0, cat 1, Vögel 2.
            let class = [2, 1, 0][usize::from(*label)];
            assert_eq!(split.image(index)[0], class);
            assert!(split.image(index)[2048..].iter().all(|byte| *byte == 7));
        }
    }
    assert!(colours(&set.train).is_disjoint(&colours(&set.test)));
    // The classes are mixed.
    assert!(!set.train.labels.is_sorted());
    assert_eq!(set.warnings, [""; 0]);
}

#[test]
fn the_test_set_is_the_same_wherever_the_folder_is() {
    let images = [("cat", 30), ("dog", 30)];
    let (one, two) = (set(&images), set(&images));
    let folder = |root: &TempDir, share| ImageFolder::new(root.path(), share).unwrap();
    let first = folder(&one, 0.3).open().unwrap();
    let second = folder(&two, 0.3).open().unwrap();
    assert_eq!(first.fingerprint(), second.fingerprint());
    assert_eq!(first.test.len(), 18);
    // A larger share includes the images of a smaller one.
    let smaller = folder(&one, 0.1).open().unwrap();
    assert!(colours(&first.test).is_superset(&colours(&smaller.test)));
    // The default share.
    assert_eq!(open(one.path()).unwrap(), folder(&one, 0.2).open().unwrap());
    // Any share leaves at least one training and one test image of each class.
    for (share, tested) in [(1e-9, 2), (1.0 - 1e-9, 58)] {
        assert_eq!(folder(&one, share).open().unwrap().test.len(), tested);
    }
}

#[test]
fn test_images_can_have_a_folder_of_their_own() {
    for [train, test] in
        [["train", "test"], ["train", "val"], ["Train", "Test"], ["training", "valid"]]
    {
        let root = set(&[(&*format!("{train}/cat"), 3), (&*format!("{train}/dog"), 2)]);
        paint(root.path(), &format!("{test}/dog/x.png"), [9, 9, 9], [32, 32]);
        paint(root.path(), "unsorted/y.png", [9, 9, 9], [32, 32]);
        let set = open(root.path()).unwrap();
        assert_eq!((set.train.len(), &set.test.labels[..]), (5, &[1][..]));
        let tested =
            format!("the images in {test} are the test images: there are no others with labels");
        let is_named_test = test.eq_ignore_ascii_case("test");
        let mut expected = Vec::from_iter((!is_named_test).then_some(&*tested));
        expected.push("1 folder is ignored (not a class): unsorted");
        assert_eq!(set.warnings, expected);
        assert!(summarize(&set).problems.contains(&"no test images of cat".into()));
        let split = ImageFolder::new(root.path(), 0.5).unwrap().open();
        assert!(problem(root.path(), split).contains("leave --test-split out"));

        paint(root.path(), &format!("{test}/cow/x.png"), [9, 9, 9], [32, 32]);
        refused(
            &root,
            &[&format!("/{test}/cow: has test images"), "no such class of training images"],
        );
    }
    // Without test images, a share of the training images; a folder without classes is ignored.
    let root = set(&[("train/cat", 10), ("train/dog", 10)]);
    assert_eq!(open(root.path()).unwrap().test.len(), 4);
    paint(root.path(), "test/1.png", [9, 9, 9], [32, 32]);
    let set = open(root.path()).unwrap();
    assert_eq!(set.test.len(), 4);
    assert_eq!(
        set.warnings,
        [
            "the folder test is passed over: its images have no labels, as they are in no folders of classes"
        ]
    );
}

#[test]
fn a_folder_of_test_images_is_not_a_class() {
    let root = set(&[("cat", 5), ("dog", 5), ("test/cat", 2), ("test/dog", 2)]);
    refused(&root, &["/test: has folders of test images", "no folder `train`"]);
}

#[test]
fn images_without_folders_of_classes_are_refused() {
    let root = set(&[("train", 3), ("test", 2)]);
    refused(&root, &["/train: has no folders of classes"]);
}

#[test]
fn folders_in_a_classs_folder_are_part_of_it() {
    let root = set(&[("cat/images", 3), ("cat/more/and more", 3), ("dog", 5)]);
    let set = open(root.path()).unwrap();
    assert_eq!(set.classes, ["cat", "dog"]);
    assert_eq!((set.train.len(), set.test.len()), (9, 2));
    let deep = format!("dog/{}x.png", "d/".repeat(20));
    paint(root.path(), &deep, [1, 2, 3], [32, 32]);
    refused(&root, &["nested too deeply"]);
}

#[cfg(unix)]
#[test]
fn links_do_not_lead_in_circles() {
    let root = set(&[("cat", 5), ("dog", 5)]);
    std::os::unix::fs::symlink(root.path(), root.path().join("cat/again")).unwrap();
    let set = open(root.path()).unwrap();
    assert_eq!(set.train.len() + set.test.len(), 10);
    assert_eq!(set.warnings, ["1 folder is ignored (not a class): cat/again"]);
    // Links to classes and images are followed, but not broken ones.
    std::os::unix::fs::symlink(root.path().join("dog"), root.path().join("wolf")).unwrap();
    assert_eq!(open(root.path()).unwrap().classes, ["cat", "dog", "wolf"]);
    std::os::unix::fs::symlink("nowhere", root.path().join("dog/gone.png")).unwrap();
    refused(&root, &["2 of 17 images cannot be read", "cannot read /dog/gone.png"]);
}

#[test]
fn ignored_files_are_counted_and_named() {
    let root = set(&[("cat", 5), ("dog", 5)]);
    for name in ["labels.csv", "cat/notes.txt", "cat/Thumbs.db", ".DS_Store", "dog/.hidden.png"] {
        fs::write(root.path().join(name), "x").unwrap();
    }
    fs::create_dir(root.path().join(".git")).unwrap();
    paint(root.path(), "loose.png", [1, 2, 3], [32, 32]);
    let set = open(root.path()).unwrap();
    assert_eq!(set.classes, ["cat", "dog"]);
    let expected = [
        "1 image is ignored (not in the folder of a class): loose.png",
        "3 files are ignored (not an image), such as cat/Thumbs.db",
    ];
    assert_eq!(set.warnings, expected);
    assert_eq!(summarize(&set).problems[..2], expected);
}

#[test]
fn images_of_any_kind_and_size_are_read() {
    let root = set(&[("cat", 2), ("dog", 2)]);
    let at = |name: &str| root.path().join("cat").join(name);
    GrayImage::from_pixel(64, 64, image::Luma([77])).save(at("grey.png")).unwrap();
    let image = RgbImage::from_pixel(40, 20, Rgb([200, 100, 50]));
    image.save_with_format(at("PHOTO.JPEG"), ImageFormat::Jpeg).unwrap();
    // The content decides about the format, not the name.
    image.save_with_format(at("png.jpg"), ImageFormat::Png).unwrap();
    let set = open(root.path()).unwrap();
    assert_eq!(set.train.len() + set.test.len(), 7);
    assert_eq!(
        set.warnings,
        [
            "2 of 7 images are far from square and will be distorted, most of all cat/PHOTO.JPEG (40x20)"
        ]
    );
    let grey = read_image(&at("grey.png")).unwrap();
    assert!(grey.is_resized() && grey.pixels.iter().all(|byte| *byte == 77));
    let photo = read_image(&at("PHOTO.JPEG")).unwrap();
    assert_eq!((photo.original_width, photo.original_height), (40, 20));
    let near = |byte: u8, expected: u8| byte.abs_diff(expected) < 8;
    assert!(photo.pixels[..1024].iter().all(|byte| near(*byte, 200)));
    assert!(photo.pixels[2048..].iter().all(|byte| near(*byte, 50)));
}

#[test]
fn the_orientation_of_a_photo_is_applied() {
    let root = tempdir().unwrap();
    let path = root.path().join("photo.jpg");
    // Red on the left, which orientation 6 (rotate by 90 degrees) brings to the top.
    let image =
        RgbImage::from_fn(64, 64, |x, _| Rgb(if x < 32 { [250, 0, 0] } else { [0, 0, 250] }));
    image.save(&path).unwrap();
    let plain = read_image(&path).unwrap();
    let tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let exif = [&b"Exif\0\0"[..], tiff].concat();
    let length = (exif.len() as u16 + 2).to_be_bytes();
    let mut bytes = fs::read(&path).unwrap();
    bytes.splice(2..2, [&b"\xff\xe1"[..], &length, &exif].concat());
    fs::write(&path, &bytes).unwrap();
    let turned = read_image(&path).unwrap();
    let red = |image: &crescendo_data::DecodedImage, x: usize, y: usize| {
        image.pixels[y * SHAPE.width + x]
    };
    assert!(red(&plain, 4, 28) > 200 && red(&plain, 28, 4) < 50);
    assert!(red(&turned, 28, 4) > 200 && red(&turned, 4, 28) < 50);
}

#[test]
fn reducing_an_image_averages_pixels() {
    let root = tempdir().unwrap();
    let path = root.path().join("checks.png");
    let checks = |x: u32, y: u32| Rgb([if (x + y).is_multiple_of(2) { 0 } else { 200 }; 3]);
    RgbImage::from_fn(320, 320, checks).save(&path).unwrap();
    let picture = read_image(&path).unwrap();
    assert_eq!(picture.pixels.len(), SHAPE.elements());
    assert!(picture.pixels.iter().all(|byte| byte.abs_diff(100) <= 2));
}

#[test]
fn a_class_needs_images() {
    let root = set(&[("cat", 5), ("cow", 0), ("dog", 5)]);
    let read = open(root.path()).unwrap();
    assert_eq!(read.classes, ["cat", "dog"]);
    let empty = "1 folder is passed over (empty, a run's or another program's): cow";
    assert_eq!(read.warnings, [empty]);
    fs::write(root.path().join("cow/cow.tiff"), "II*").unwrap();
    refused(&root, &["/cow: has no PNG, JPEG, WebP, BMP or GIF images", "move it elsewhere"]);
    paint(root.path(), "cow/1.png", [1, 2, 3], [32, 32]);
    refused(&root, &["/cow: has only one image of the class cow", "add another"]);
    paint(root.path(), "cow/2.png", [1, 2, 4], [32, 32]);
    assert_eq!(open(root.path()).unwrap().classes.len(), 3);
}

#[test]
fn a_single_class_is_refused() {
    refused(&set(&[("cat", 5)]), &["has images of one class only (cat)"]);
    refused(&set(&[("train/cat", 5), ("test/cat", 5)]), &["has images of one class only (cat)"]);
    let nested = set(&[("animals/cat/a", 5), ("animals/cat/b/c", 5)]);
    paint(nested.path(), "animals/x.png", [1, 2, 3], [32, 32]);
    refused(&nested, &["has images of one class only (animals)"]);
}

#[test]
fn folders_without_images_are_refused() {
    let root = set(&[("cat", 0), ("dog", 0)]);
    refused(&root, &["there is no data set in this folder", "cifar-100-python"]);
    let split = ImageFolder::new(root.path(), 0.5).unwrap().open();
    assert!(
        problem(root.path(), split)
            .contains("has no folders of PNG, JPEG, WebP, BMP or GIF images")
    );
}

#[test]
fn damaged_images_are_counted_and_named() {
    let root = set(&[("cat", 5), ("dog", 5)]);
    let at = |name: &str| root.path().join(name);
    let good = fs::read(at("cat/0.png")).unwrap();
    fs::write(at("dog/3.png"), &good[..good.len() / 2]).unwrap();
    refused(&root, &["1 of 10 images cannot be read: repair or remove it", "/dog/3.png: cannot"]);
    fs::write(at("cat/2.png"), "<html>").unwrap();
    fs::write(at("cat/4.png"), "").unwrap();
    refused(
        &root,
        &[
            "3 of 10 images cannot be read: repair or remove them",
            "/cat/2.png: cannot",
            "/cat/4.png: cannot",
            "/dog/3.png: cannot",
            "data.damaged=skip",
        ],
    );
}

#[test]
fn a_truncated_photo_is_refused() {
    let root = tempdir().unwrap();
    let path = root.path().join("photo.jpg");
    let pixel = |x: u32, y: u32| Rgb([(x * 5) as u8, (y * 7) as u8, (x * y) as u8]);
    RgbImage::from_fn(100, 80, pixel).save(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    // A camera's thumbnail ends before the image does.
    let thumbnail = [&b"\xff\xe1"[..], &(whole.len() as u16 + 2).to_be_bytes(), &whole].concat();
    let mut photo = whole.clone();
    photo.splice(2..2, thumbnail);
    for photo in [&whole, &photo] {
        for left in [50, 80, 95, 99] {
            let end = photo.len() - whole.len() * (100 - left) / 100;
            fs::write(&path, &photo[..end]).unwrap();
            let problem = read_image(&path).unwrap_err().to_string();
            assert!(
                problem.contains("photo.jpg: cannot be read as an image"),
                "{left} %: {problem}"
            );
        }
        // Bytes after the end do not matter.
        fs::write(&path, [&photo[..], b"more"].concat()).unwrap();
        read_image(&path).unwrap();
    }
}

/// A PNG whose header has this size, with hardly any pixels.
fn png_of_size(width: u32, height: u32) -> Vec<u8> {
    let chunk = |name: &[u8; 4], content: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(name);
        crc.update(content);
        let length = (content.len() as u32).to_be_bytes();
        [&length, name, content, &crc.sum().to_be_bytes()].concat()
    };
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let (header, pixels) = (chunk(b"IHDR", &header), chunk(b"IDAT", &[0x78, 1, 1, 0, 0]));
    [&b"\x89PNG\r\n\x1a\n"[..], &header, &pixels, &chunk(b"IEND", b"")].concat()
}

#[test]
fn huge_images_are_refused_before_they_take_memory() {
    let root = set(&[("cat", 5), ("dog", 5)]);
    for (width, height) in
        [(60_000, 60_000), (u32::MAX >> 1, 1), (50_000_001, 1), (0, 0), (7_000, 7_000)]
    {
        fs::write(root.path().join("cat/huge.png"), png_of_size(width, height)).unwrap();
        refused(&root, &["1 of 11 images cannot be read", "/cat/huge.png: "]);
    }
}

#[cfg(unix)]
#[test]
fn names_that_are_not_text_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    for name in [&b"c\xffw"[..], b"c\nw"] {
        let root = set(&[("cat", 5), ("dog", 5)]);
        let folder = root.path().join(std::ffi::OsStr::from_bytes(name));
        fs::create_dir(&folder).unwrap();
        fs::copy(root.path().join("cat/0.png"), folder.join("0.png")).unwrap();
        refused(&root, &["its name is not valid text", "rename it"]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_images_do_not_panic(
        jpeg: bool,
        cut in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        keep: bool,
    ) {
        let format = if jpeg { ImageFormat::Jpeg } else { ImageFormat::Png };
        let image = RgbImage::from_fn(48, 36, |x, y| Rgb([(x * 5) as u8, (y * 7) as u8, (x * y) as u8]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        let mut bytes = bytes.into_inner();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if !keep {
            bytes.truncate(cut.index(bytes.len()));
        }
        let root = tempdir().unwrap();
        let path = root.path().join("x.png");
        fs::write(&path, &bytes).unwrap();
        match read_image(&path) {
            Ok(picture) => prop_assert_eq!(picture.pixels.len(), SHAPE.elements()),
            Err(error) => prop_assert!(error.to_string().contains("x.png")),
        }
    }

    #[test]
    fn an_image_folder_can_be_written_as_text_and_parsed(share in 0.0_f64..1.0, folder in "[^\0]{1,20}") {
        prop_assume!(share > 0.0);
        let images = ImageFolder::new(Path::new(&folder), share).unwrap();
        let read = ImageFolder::parse(&images.to_string()).unwrap().unwrap();
        prop_assert_eq!(&read, &images);
        prop_assert_eq!(read.folder(), Path::new(&folder));
    }
}

#[test]
fn other_names_are_distinguished_from_invalid_ones() {
    for other in ["shapes", "images", "flowers", "/images:0.2,x", ""] {
        assert!(ImageFolder::parse(other).is_none(), "{other}");
    }
    for wrong in ["images:", "images:0.2", "images:x,y", "images:0,y", "images:1,y", "images:NaN,y"]
    {
        let problem = ImageFolder::parse(wrong).unwrap().unwrap_err().to_string();
        assert!(problem.contains("0.2"), "{problem}");
    }
    assert!(ImageFolder::new(Path::new("x"), f64::NAN).is_err());
}
