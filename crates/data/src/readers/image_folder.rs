//! Folders of images, with one folder for each class.

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::decode::{Decoded, Purpose, ReadOptions, decode, label_conflict};
use super::image_archive;
use super::listing::list;
use super::tree::Tree;
use super::walk::{Class, Listed, Listing, within};
use crate::image_file::FORMATS;
use crate::{DataSet, Error, ImageShape, Split};

const ELEMENTS: usize = ImageShape::CIFAR.elements();

/// The default share of test images.
const DEFAULT_TEST_SPLIT: f64 = 0.2;
/// The prefix of an [`ImageFolder`] as text.
const PREFIX: &str = "images:";
/// A folder with a folder of images for each class, and the share of the images of each class that become
/// test images. As text, it is `images:SHARE,FOLDER`.
///
/// Which images become test images depends only on the names of classes and files, and on the share: a
/// larger share includes the images of a smaller one.
///
/// # Example
///
/// ```
/// use crescendo_data::ImageFolder;
/// use std::path::Path;
///
/// let flowers = ImageFolder::parse("images:0.25,flowers").expect("it begins with images:")?;
/// assert_eq!((flowers.folder(), flowers.test_split()), (Path::new("flowers"), 0.25));
/// assert_eq!(flowers.to_string(), "images:0.25,flowers");
/// assert!(ImageFolder::parse("flowers").is_none());
/// assert!(ImageFolder::new(Path::new("flowers"), 1.5).is_err());
/// # Ok::<(), crescendo_data::Error>(())
/// ```
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
        self.open_with(ReadOptions::default())
    }

    /// Reads all images, with options.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn open_with(&self, options: ReadOptions) -> Result<DataSet, Error> {
        let tree = match self.folder.is_file() {
            true => image_archive::read(&self.folder, options.sizing)?.map(Tree::Archive),
            false => Some(Tree::Disk),
        };
        let listing = match &tree {
            Some(tree) => list(tree, &self.folder, options.purpose)?.map(|listing| (tree, listing)),
            None => None,
        };
        let (tree, listing) = listing.ok_or_else(|| {
            let problem = format!("has no folders of {FORMATS} images, one for each class");
            Error::invalid(&self.folder, problem)
        })?;
        if listing.test.is_some() {
            let problem = "has its own folder of test images: leave --test-split out";
            return Err(Error::invalid(&self.folder, problem));
        }
        read(tree, listing, ReadOptions { test_split: Some(self.test_split), ..options })
    }
}

impl fmt::Display for ImageFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{},{}", self.test_split, self.folder.display())
    }
}

/// Reads the images of a folder; `None` if there are no images.
pub(super) fn open(
    tree: &Tree,
    root: &Path,
    options: ReadOptions,
) -> Result<Option<DataSet>, Error> {
    let listing = list(tree, root, options.purpose)?;
    listing.map(|listing| read(tree, listing, options)).transpose()
}

/// An image to read.
struct Image {
    path: PathBuf,
    label: u16,
    /// A hash of the names of its class and file, by which images are sorted.
    key: [u8; 16],
}

fn read(tree: &Tree, listing: Listing, options: ReadOptions) -> Result<DataSet, Error> {
    let test_split = options.test_split.unwrap_or(DEFAULT_TEST_SPLIT);
    let is_for_training = options.purpose == Purpose::Training;
    let Listing { root, classes, validation, test, mut warnings } = listing;
    // Only an evaluation does without training images.
    let all = test.as_ref().filter(|_| classes.is_empty()).unwrap_or(&classes);
    check(&root, all, options.purpose)?;
    let names: Vec<String> = all.iter().map(|class| class.name.clone()).collect();
    let format = match (&validation, &test) {
        (_, None) => format!("images, {} % of each class for testing", percent(test_split)),
        (_, Some(_)) if classes.is_empty() => "images, all of them for testing".into(),
        (None, Some(_)) => "images with a separate folder of test images".into(),
        (Some(_), Some(_)) => "images with separate folders of validation and test images".into(),
    };
    let (mut train, mut test_images) = (Vec::new(), Vec::new());
    for (label, class) in classes.into_iter().enumerate() {
        let folder = class.folder.clone();
        let mut images = keyed(class, label);
        if test.is_none() {
            let count = images.len();
            if count < 2 && is_for_training {
                let name = &names[label];
                let problem = format!(
                    "has only one image of the class {name}, but a class needs one for training and one \
                     for testing: add another, or move this one elsewhere"
                );
                return Err(Error::invalid(&folder, problem));
            }
            let share = (count as f64 * test_split).round() as usize;
            test_images.extend(images.drain(..share.clamp(1, (count - 1).max(1))));
        }
        train.append(&mut images);
    }
    let test_split = test.is_none().then_some(test_split);
    test_images.append(&mut held_out(&names, test, "test")?);
    let mut validation = held_out(&names, validation, "validation")?;
    // This mixes the classes, for recipes that train in file order.
    for images in [&mut train, &mut test_images, &mut validation] {
        images.sort_by_key(|image| image.key);
    }

    let mut counts = [train.len(), test_images.len(), validation.len()];
    let mut images = train;
    images.append(&mut test_images);
    images.append(&mut validation);
    let paths: Vec<&Path> = images.iter().map(|image| &*image.path).collect();
    let Decoded { mut pixels, is_read, warnings: more } = decode(tree, &root, &paths, options)?;
    warnings.extend(more);
    let mut first = 0;
    for count in &mut counts {
        let all = *count;
        *count = is_read[first..first + all].iter().filter(|is_read| **is_read).count();
        first += all;
    }
    let mut is_read = is_read.into_iter();
    images.retain(|_| is_read.next().unwrap_or_default());
    let labels: Vec<u16> = images.iter().map(|image| image.label).collect();
    let files: Vec<String> = images.iter().map(|image| within(&root, &image.path)).collect();
    warnings.extend(label_conflict(&pixels, &labels, &names, &files));
    let mut unread = (0..names.len())
        .filter(|&class| !labels[..counts[0]].iter().any(|&label| usize::from(label) == class));
    if let (Some(class), true) = (unread.next(), is_for_training) {
        let problem = format!(
            "no training image of the class {} can be read: repair them, or move the class elsewhere",
            names[class]
        );
        return Err(Error::invalid(&root, problem));
    }

    let (mut labels, mut files) = (labels, files);
    let mut last = |first: usize| Split {
        pixels: pixels.split_off(first * ELEMENTS),
        labels: labels.split_off(first),
        files: files.split_off(first),
    };
    let validation = last(counts[0] + counts[1]);
    let test = last(counts[0]);
    let name =
        root.file_name().map_or(root.display().to_string(), |name| name.display().to_string());
    let kind = match tree {
        Tree::Disk => "folder",
        Tree::Archive(_) => "archive",
    };
    Ok(DataSet {
        name: format!("the {kind} {name}"),
        format,
        classes: names,
        train: Split { pixels, labels, files },
        validation,
        test,
        test_split,
        sizing: options.sizing,
        warnings,
    })
}

/// The images of a folder of validation or test images; `names` are the classes of the training images.
fn held_out(
    names: &[String],
    classes: Option<Vec<Class>>,
    purpose: &str,
) -> Result<Vec<Image>, Error> {
    let mut images = Vec::new();
    for class in classes.into_iter().flatten() {
        let Ok(label) = names.binary_search(&class.name) else {
            let problem = format!(
                "has {purpose} images of the class {}, but there is no such class of training images: \
                 rename it, or move it elsewhere",
                class.name
            );
            return Err(Error::invalid(&class.folder, problem));
        };
        images.append(&mut keyed(class, label));
    }
    Ok(images)
}

/// Checks that there are at least two classes, if a network is trained on them, and that each has images.
fn check(root: &Path, classes: &[Class], purpose: Purpose) -> Result<(), Error> {
    if let Some(empty) = classes.iter().find(|class| class.images.is_empty()) {
        let problem = format!(
            "has no {FORMATS} images, but each folder is a class: put images into it, or move it \
             elsewhere"
        );
        return Err(Error::invalid(&empty.folder, problem));
    }
    if let ([only], Purpose::Training) = (classes, purpose) {
        let problem = format!(
            "has images of one class only ({}): add a folder for at least one other class",
            only.name
        );
        return Err(Error::invalid(root, problem));
    }
    Ok(())
}

/// The images of a class, sorted by their keys.
fn keyed(class: Class, label: usize) -> Vec<Image> {
    let Class { name, images, .. } = class;
    let keyed = images.into_iter().map(|Listed { path, within }| {
        let hash = Sha256::digest(format!("{name}/{within}"));
        let mut key = [0; 16];
        key.copy_from_slice(&hash[..16]);
        Image { path, label: label as u16, key }
    });
    let mut images: Vec<Image> = keyed.collect();
    images.sort_by(|a, b| (a.key, &a.path).cmp(&(b.key, &b.path)));
    images
}

/// A share in percent, rounded to hide that a decimal fraction is not exact in binary.
fn percent(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}
