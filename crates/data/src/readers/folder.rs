//! Folders of images, one folder for each class.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use sha2::{Digest, Sha256};

use super::listing::{Class, Listing, list};
use crate::{DataSet, Error, IMAGE_BYTES, Split, read_image};

/// The share of each class that becomes the test set where nobody says otherwise.
const TEST_SPLIT: f64 = 0.2;
/// What begins the text of an [`ImageFolder`].
const PREFIX: &str = "images:";
/// Images that are decoded at the same time: each may take half a gigabyte.
const MOST_THREADS: usize = 4;
/// An image that is longer than wide, or wider than long, by more than this is worth a warning.
const STRETCHED: f64 = 1.5;

/// A folder that has a folder of images for each class, of which a share becomes the test set. Its text,
/// `images:SHARE,FOLDER`, says all of it.
///
/// Which images are tested on is a function of their names alone, and of each class it is the same
/// share.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageFolder {
    folder: PathBuf,
    test_split: f64,
}

impl ImageFolder {
    /// This folder, of which the share `test_split` of each class is tested on.
    ///
    /// # Errors
    /// If the share is not between 0 and 1.
    pub fn new(folder: &Path, test_split: f64) -> Result<Self, Error> {
        if test_split > 0.0 && test_split < 1.0 {
            return Ok(ImageFolder { folder: folder.to_owned(), test_split });
        }
        Err(Error::NotFound(format!(
            "{test_split} is no share of images to test on: give one between 0 and 1, such as 0.2"
        )))
    }

    /// What the text `images:SHARE,FOLDER` says; `None` if it is of another kind.
    pub fn parse(text: &str) -> Option<Result<Self, Error>> {
        let parts = text.strip_prefix(PREFIX)?.split_once(',');
        let parsed = parts.and_then(|(share, folder)| Some((share.parse().ok()?, folder)));
        Some(match parsed {
            Some((share, folder)) => Self::new(Path::new(folder), share),
            None => Err(Error::NotFound(format!(
                "cannot read `{text}`: write images:SHARE,FOLDER, for example images:0.2,flowers"
            ))),
        })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The share of each class that is tested on.
    pub fn test_split(&self) -> f64 {
        self.test_split
    }

    /// Reads all images.
    ///
    /// # Errors
    /// If there are no images of at least two classes, too few of one, one cannot be read, or the test
    /// images have a folder of their own.
    pub fn open(&self) -> Result<DataSet, Error> {
        let listing = list(&self.folder)?.ok_or_else(|| {
            let problem = "has no folders of PNG or JPEG images, one for each class";
            Error::bad(&self.folder, problem)
        })?;
        if listing.test.is_some() {
            let problem = "has a folder of test images already: leave --test-split out";
            return Err(Error::bad(&self.folder, problem));
        }
        read(listing, self.test_split)
    }
}

impl fmt::Display for ImageFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{},{}", self.test_split, self.folder.display())
    }
}

/// Reads the images of a folder, if there are any. Where the test images have no folder of their own,
/// they are a fifth.
pub(super) fn open(root: &Path) -> Result<Option<DataSet>, Error> {
    list(root)?.map(|listing| read(listing, TEST_SPLIT)).transpose()
}

/// An image that is to be read.
struct Image {
    path: PathBuf,
    label: u16,
    /// Where it stands among all: a function of its class and name.
    key: [u8; 16],
}

fn read(listing: Listing, test_split: f64) -> Result<DataSet, Error> {
    let Listing { root, classes, test, mut warnings } = listing;
    check(&root, &classes)?;
    let names: Vec<String> = classes.iter().map(|class| class.name.clone()).collect();
    let format = match test {
        Some(_) => "images with a test set in a folder of its own".into(),
        None => format!("images, {} % of each class for testing", percent(test_split)),
    };
    let (mut train, mut tested) = (Vec::new(), Vec::new());
    for (label, class) in classes.into_iter().enumerate() {
        let folder = class.folder.clone();
        let mut images = keyed(class, label);
        if test.is_none() {
            let count = images.len();
            if count < 2 {
                let problem = "has only one image, but a class needs one to train on and one to \
                               test on: add another, or remove the folder";
                return Err(Error::bad(&folder, problem));
            }
            let share = (count as f64 * test_split).round() as usize;
            tested.extend(images.drain(..share.clamp(1, count - 1)));
        }
        train.append(&mut images);
    }
    for class in test.into_iter().flatten() {
        let Ok(label) = names.binary_search(&class.name) else {
            let problem = "is a class to test on, but there is no such class to train on: rename or \
                           remove the folder";
            return Err(Error::bad(&class.folder, problem));
        };
        tested.append(&mut keyed(class, label));
    }
    // Classes are mixed, for recipes that train in the order of the files.
    train.sort_by_key(|image| image.key);
    tested.sort_by_key(|image| image.key);

    let count = train.len();
    train.append(&mut tested);
    let (mut pixels, warning) = decode(&root, &train)?;
    warnings.extend(warning);
    let mut labels: Vec<u16> = train.iter().map(|image| image.label).collect();
    let test =
        Split { pixels: pixels.split_off(count * IMAGE_BYTES), labels: labels.split_off(count) };
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

/// Whether there is something to tell apart.
fn check(root: &Path, classes: &[Class]) -> Result<(), Error> {
    if let Some(empty) = classes.iter().find(|class| class.images.is_empty()) {
        let problem = "has no PNG or JPEG images, but each folder is a class: put images into it, or \
                       remove it";
        return Err(Error::bad(&empty.folder, problem));
    }
    if let [only] = classes {
        let wraps = only.images.iter().all(|image| image.parent() != Some(&only.folder));
        let wrapped = match wraps {
            true => {
                format!(", or, if it is its folders that are classes, {}", only.folder.display())
            }
            false => String::new(),
        };
        let problem = format!(
            "has images of one class only ({}): a folder for at least one other is needed{wrapped}",
            only.name
        );
        return Err(Error::bad(root, problem));
    }
    Ok(())
}

/// A class's images in the order of their keys.
fn keyed(class: Class, label: usize) -> Vec<Image> {
    let Class { name, folder, images } = class;
    let keyed = images.into_iter().map(|path| {
        let mut hash = Sha256::new();
        hash.update(name.as_bytes());
        // The same name on every system.
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

/// What a thread saw of the images that it read.
#[derive(Default)]
struct Seen {
    /// How many cannot be read, and the first of them by name.
    failures: usize,
    failure: Option<(PathBuf, Error)>,
    /// How many are far from square, and the one that is farthest.
    stretched: usize,
    worst: Option<Stretched>,
}

struct Stretched {
    stretch: f64,
    path: PathBuf,
    size: [u32; 2],
}

impl Seen {
    fn fail(&mut self, path: &Path, error: Error) {
        if self.failure.as_ref().is_none_or(|(first, _)| path < first) {
            self.failure = Some((path.to_owned(), error));
        }
    }

    fn stretch(&mut self, new: Stretched) {
        // The first by name of those that are as bad.
        let worse = |old: &Stretched| {
            new.stretch > old.stretch || (new.stretch == old.stretch && new.path < old.path)
        };
        if self.worst.as_ref().is_none_or(worse) {
            self.worst = Some(new);
        }
    }

    fn merge(&mut self, other: Seen) {
        self.failures += other.failures;
        self.stretched += other.stretched;
        if let Some((path, error)) = other.failure {
            self.fail(&path, error);
        }
        if let Some(worst) = other.worst {
            self.stretch(worst);
        }
    }
}

/// The pixels of all images in their order, and a warning if some are far from square.
fn decode(root: &Path, images: &[Image]) -> Result<(Vec<u8>, Option<String>), Error> {
    let mut pixels = vec![0_u8; images.len() * IMAGE_BYTES];
    let work = Mutex::new(images.iter().zip(pixels.chunks_exact_mut(IMAGE_BYTES)));
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).next();
    let read_some = || {
        let mut seen = Seen::default();
        while let Some((Image { path, .. }, out)) = next() {
            match read_image(path) {
                Ok(picture) => {
                    out.copy_from_slice(&picture.pixels);
                    let (stretch, size) = (picture.stretch(), [picture.width, picture.height]);
                    if stretch > STRETCHED {
                        seen.stretched += 1;
                        seen.stretch(Stretched { stretch, path: path.clone(), size });
                    }
                }
                Err(error) => {
                    seen.failures += 1;
                    seen.fail(path, error);
                }
            }
        }
        seen
    };
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(MOST_THREADS));
    let mut seen = Seen::default();
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(read_some)).collect();
        seen.merge(read_some());
        for other in others {
            match other.join() {
                Ok(other) => seen.merge(other),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    let count = images.len();
    if let Some((_, error)) = seen.failure {
        let (failures, them) = (seen.failures, if seen.failures == 1 { "it" } else { "them" });
        let problem = format!(
            "{failures} of {count} images cannot be read: repair or remove {them} ({error})"
        );
        return Err(Error::bad(root, problem));
    }
    let warning = seen.worst.map(|Stretched { path, size: [width, height], .. }| {
        let (stretched, path) =
            (seen.stretched, path.strip_prefix(root).unwrap_or(&path).display());
        format!(
            "{stretched} of {count} images are far from square, and squeezed into it: most of all \
             {path} ({width}x{height})"
        )
    });
    Ok((pixels, warning))
}

/// A share in percent, without the last digits that only say it is no binary number.
fn percent(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}
