//! Folders of images, with one folder for each class.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use sha2::{Digest, Sha256};

use super::listing::{Class, Listing, list};
use crate::{DataSet, Error, ImageShape, Split, read_image};

const ELEMENTS: usize = ImageShape::CIFAR.elements();

/// The default share of test images.
const DEFAULT_TEST_SPLIT: f64 = 0.2;
/// The prefix of an [`ImageFolder`] as text.
const PREFIX: &str = "images:";
/// The number of images decoded at the same time, each of which may take half a gigabyte.
const MAX_THREADS: usize = 4;
/// A warning is given if the sides of an image differ by more than this factor.
const MAX_ASPECT_RATIO: f64 = 1.5;

/// A folder with a folder of images for each class, and the share of the images of each class that become
/// test images. As text, it is `images:SHARE,FOLDER`.
///
/// Which images become test images depends only on the names of classes and files, and on the share: a
/// larger share includes the images of a smaller one.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageFolder {
    folder: PathBuf,
    test_split: f64,
}

impl ImageFolder {
    /// The folder `folder`, with the share `test_split` of each class for testing.
    ///
    /// # Errors
    /// If `test_split` is not between 0 and 1.
    pub fn new(folder: &Path, test_split: f64) -> Result<Self, Error> {
        if test_split > 0.0 && test_split < 1.0 {
            return Ok(ImageFolder { folder: folder.to_owned(), test_split });
        }
        Err(Error::InvalidName(format!(
            "the share of test images must be between 0 and 1, such as 0.2, not {test_split}"
        )))
    }

    /// Parses `images:SHARE,FOLDER`; `None` if the text does not begin with `images:`.
    ///
    /// # Errors
    /// If the rest is not a share between 0 and 1, a comma and a folder.
    pub fn parse(text: &str) -> Option<Result<Self, Error>> {
        let parts = text.strip_prefix(PREFIX)?.split_once(',');
        let parsed = parts.and_then(|(share, folder)| Some((share.parse().ok()?, folder)));
        Some(match parsed {
            Some((share, folder)) => Self::new(Path::new(folder), share),
            None => Err(Error::InvalidName(format!(
                "`{text}` is not a data set: write images:SHARE,FOLDER, for example \
                 images:0.2,flowers"
            ))),
        })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The share of the images of each class that become test images.
    pub fn test_split(&self) -> f64 {
        self.test_split
    }

    /// Reads all images.
    ///
    /// # Errors
    /// If there are fewer than two classes, a class has fewer than two images, an image cannot be read, or
    /// the test images have their own folder.
    pub fn open(&self) -> Result<DataSet, Error> {
        let listing = list(&self.folder)?.ok_or_else(|| {
            let problem = "has no folders of PNG or JPEG images, one for each class";
            Error::invalid(&self.folder, problem)
        })?;
        if listing.test.is_some() {
            let problem = "has its own folder of test images: leave --test-split out";
            return Err(Error::invalid(&self.folder, problem));
        }
        read(listing, self.test_split)
    }
}

impl fmt::Display for ImageFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{},{}", self.test_split, self.folder.display())
    }
}

/// Reads the images of a folder, with the default share of test images if they have no folder of their own;
/// `None` if there are no images.
pub(super) fn open(root: &Path) -> Result<Option<DataSet>, Error> {
    list(root)?.map(|listing| read(listing, DEFAULT_TEST_SPLIT)).transpose()
}

/// An image to read.
struct Image {
    path: PathBuf,
    label: u16,
    /// A hash of the names of its class and file, by which images are sorted.
    key: [u8; 16],
}

fn read(listing: Listing, test_split: f64) -> Result<DataSet, Error> {
    let Listing { root, classes, test, mut warnings } = listing;
    check(&root, &classes)?;
    let names: Vec<String> = classes.iter().map(|class| class.name.clone()).collect();
    let format = match test {
        Some(_) => "images with a separate folder of test images".into(),
        None => format!("images, {} % of each class for testing", percent(test_split)),
    };
    let (mut train, mut test_images) = (Vec::new(), Vec::new());
    for (label, class) in classes.into_iter().enumerate() {
        let folder = class.folder.clone();
        let mut images = keyed(class, label);
        if test.is_none() {
            let count = images.len();
            if count < 2 {
                let problem = "has only one image, but a class needs one for training and one for \
                               testing: add another, or remove the folder";
                return Err(Error::invalid(&folder, problem));
            }
            let share = (count as f64 * test_split).round() as usize;
            test_images.extend(images.drain(..share.clamp(1, count - 1)));
        }
        train.append(&mut images);
    }
    for class in test.into_iter().flatten() {
        let Ok(label) = names.binary_search(&class.name) else {
            let problem = "is a class of test images, but there is no such class of training images: \
                           rename or remove the folder";
            return Err(Error::invalid(&class.folder, problem));
        };
        test_images.append(&mut keyed(class, label));
    }
    // This mixes the classes, for recipes that train in file order.
    train.sort_by_key(|image| image.key);
    test_images.sort_by_key(|image| image.key);

    let count = train.len();
    train.append(&mut test_images);
    let (mut pixels, warning) = decode(&root, &train)?;
    warnings.extend(warning);
    let mut labels: Vec<u16> = train.iter().map(|image| image.label).collect();
    let test =
        Split { pixels: pixels.split_off(count * ELEMENTS), labels: labels.split_off(count) };
    let name =
        root.file_name().map_or(root.display().to_string(), |name| name.display().to_string());
    Ok(DataSet {
        name: format!("the folder {name}"),
        format,
        classes: names,
        train: Split { pixels, labels },
        test,
        warnings,
    })
}

/// Checks that there are at least two classes and that each has images.
fn check(root: &Path, classes: &[Class]) -> Result<(), Error> {
    if let Some(empty) = classes.iter().find(|class| class.images.is_empty()) {
        let problem = "has no PNG or JPEG images, but each folder is a class: put images into it, or \
                       remove it";
        return Err(Error::invalid(&empty.folder, problem));
    }
    if let [only] = classes {
        let wraps = only.images.iter().all(|image| image.parent() != Some(&only.folder));
        let wrapped = match wraps {
            true => {
                format!("; if the folders in it are the classes, give {}", only.folder.display())
            }
            false => String::new(),
        };
        let problem = format!(
            "has images of one class only ({}): add a folder for at least one other class{wrapped}",
            only.name
        );
        return Err(Error::invalid(root, problem));
    }
    Ok(())
}

/// The images of a class, sorted by their keys.
fn keyed(class: Class, label: usize) -> Vec<Image> {
    let Class { name, folder, images } = class;
    let keyed = images.into_iter().map(|path| {
        let mut hash = Sha256::new();
        hash.update(name.as_bytes());
        // Not the system's separator, so that the hash is the same on every system.
        for part in path.strip_prefix(&folder).unwrap_or(&path).iter() {
            hash.update(b"/");
            hash.update(part.to_string_lossy().as_bytes());
        }
        let mut key = [0; 16];
        key.copy_from_slice(&hash.finalize()[..16]);
        Image { path, label: label as u16, key }
    });
    let mut images: Vec<Image> = keyed.collect();
    images.sort_by(|a, b| (a.key, &a.path).cmp(&(b.key, &b.path)));
    images
}

/// Statistics of the images that a thread has read.
#[derive(Default)]
struct Statistics {
    /// The number of images that cannot be read, and the first of them by name.
    failures: usize,
    first_failure: Option<(PathBuf, Error)>,
    /// The number of images that are far from square, and the one with the largest aspect ratio.
    elongated: usize,
    most_elongated: Option<Elongated>,
}

struct Elongated {
    aspect_ratio: f64,
    path: PathBuf,
    size: [u32; 2],
}

impl Statistics {
    fn add_failure(&mut self, path: &Path, error: Error) {
        if self.first_failure.as_ref().is_none_or(|(first, _)| path < first) {
            self.first_failure = Some((path.to_owned(), error));
        }
    }

    fn add_elongated(&mut self, new: Elongated) {
        // The first by name if the ratios are equal.
        let is_before = |old: &Elongated| {
            new.aspect_ratio > old.aspect_ratio
                || (new.aspect_ratio == old.aspect_ratio && new.path < old.path)
        };
        if self.most_elongated.as_ref().is_none_or(is_before) {
            self.most_elongated = Some(new);
        }
    }

    fn merge(&mut self, other: Statistics) {
        self.failures += other.failures;
        self.elongated += other.elongated;
        if let Some((path, error)) = other.first_failure {
            self.add_failure(&path, error);
        }
        if let Some(elongated) = other.most_elongated {
            self.add_elongated(elongated);
        }
    }
}

/// The pixels of all images in their order, and a warning if some are far from square.
fn decode(root: &Path, images: &[Image]) -> Result<(Vec<u8>, Option<String>), Error> {
    let mut pixels = vec![0_u8; images.len() * ELEMENTS];
    let work = Mutex::new(images.iter().zip(pixels.chunks_exact_mut(ELEMENTS)));
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).next();
    let read_some = || {
        let mut statistics = Statistics::default();
        while let Some((Image { path, .. }, out)) = next() {
            match read_image(path) {
                Ok(image) => {
                    out.copy_from_slice(&image.pixels);
                    let size = [image.original_width, image.original_height];
                    let aspect_ratio = image.aspect_ratio();
                    if aspect_ratio > MAX_ASPECT_RATIO {
                        statistics.elongated += 1;
                        statistics.add_elongated(Elongated {
                            aspect_ratio,
                            path: path.clone(),
                            size,
                        });
                    }
                }
                Err(error) => {
                    statistics.failures += 1;
                    statistics.add_failure(path, error);
                }
            }
        }
        statistics
    };
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(MAX_THREADS));
    let mut statistics = Statistics::default();
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(read_some)).collect();
        statistics.merge(read_some());
        for other in others {
            match other.join() {
                Ok(other) => statistics.merge(other),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    let count = images.len();
    if let Some((_, error)) = statistics.first_failure {
        let (failures, them) =
            (statistics.failures, if statistics.failures == 1 { "it" } else { "them" });
        let problem = format!(
            "{failures} of {count} images cannot be read: repair or remove {them} ({error})"
        );
        return Err(Error::invalid(root, problem));
    }
    let warning = statistics.most_elongated.map(|Elongated { path, size: [width, height], .. }| {
        let (elongated, path) =
            (statistics.elongated, path.strip_prefix(root).unwrap_or(&path).display());
        format!(
            "{elongated} of {count} images are far from square and will be distorted, most of all {path} \
             ({width}x{height})"
        )
    });
    Ok((pixels, warning))
}

/// A share in percent, rounded to hide that a decimal fraction is not exact in binary.
fn percent(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}
