//! Decodes the images of a folder, on several threads, and says what is wrong with them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde::{Deserialize, Serialize};

use super::tree::Tree;
use crate::error::DamagedFile;
use crate::summary::LABEL_CONFLICT;
use crate::{DecodedImage, Error, ImageShape, Sizing};

const ELEMENTS: usize = ImageShape::CIFAR.elements();

/// The number of images decoded at the same time, each of which may take half a gigabyte.
const MAX_THREADS: usize = 4;
/// A warning is given if the sides of an image differ by more than this factor.
const MAX_ASPECT_RATIO: f64 = 1.5;

/// What happens to images that cannot be read.
///
/// See the example of [`ReadOptions`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DamagedImages {
    /// They are an error, which names them.
    #[default]
    Error,
    /// They are left out, with a warning.
    Skip,
}

/// What a data set is read for.
///
/// See the example of [`ReadOptions`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// A network is trained on it.
    #[default]
    Training,
    /// A trained network is evaluated on it. There need be no training images, and one class is enough.
    Evaluation,
}

/// How folders and archives of images are read.
///
/// # Example
///
/// ```
/// use crescendo_data::{DamagedImages, Error, Purpose, ReadOptions, Sizing, open_with};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// # for class in ["cats", "dogs"] {
/// #     std::fs::create_dir(folder.join(class)).unwrap();
/// #     for number in 0..4_u8 {
/// #         let mut bitmap = b"BM".to_vec();
/// #         let fields: [u32; 13] = [58, 0, 54, 40, 1, 1, 1 | 24 << 16, 0, 0, 0, 0, 0, 0];
/// #         fields.iter().for_each(|field| bitmap.extend(field.to_le_bytes()));
/// #         bitmap.extend([number, class.as_bytes()[0], 0, 0]);
/// #         std::fs::write(folder.join(class).join(format!("{number}.bmp")), bitmap).unwrap();
/// #     }
/// # }
/// // A folder with four images of cats, four of dogs, and a file that is no image.
/// std::fs::write(folder.join("dogs/broken.png"), "").unwrap();
/// let options = ReadOptions { test_split: Some(0.5), ..ReadOptions::default() };
/// let error = open_with(folder, options).unwrap_err();
/// assert!(matches!(&error, Error::Damaged { files, of: 9, .. } if files[0].path.ends_with("broken.png")));
///
/// let skip = ReadOptions { damaged: DamagedImages::Skip, ..options };
/// let set = open_with(folder, skip)?;
/// assert_eq!((set.train.len(), set.test.len(), set.warnings.len()), (4, 4, 1));
///
/// // To evaluate a network, all of them are test images.
/// let purpose = Purpose::Evaluation;
/// let all = open_with(folder, ReadOptions { purpose, sizing: Sizing::Pad, ..skip })?.without_split();
/// assert_eq!((all.train.len(), all.test.len()), (0, 8));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReadOptions {
    /// What happens to images that cannot be read.
    pub damaged: DamagedImages,
    /// How images of other sizes are brought to the size that networks take.
    pub sizing: Sizing,
    /// What they are read for.
    pub purpose: Purpose,
    /// The share of the images of each class that become test images if these have no folder of their own,
    /// between 0 and 1; a fifth without it.
    pub test_split: Option<f64>,
}

/// The images that could be read.
pub(super) struct Decoded {
    /// Their pixels, one image after another.
    pub pixels: Vec<u8>,
    /// For each of the files, whether its image is among them.
    pub is_read: Vec<bool>,
    /// What is unusual about them, one sentence each.
    pub warnings: Vec<String>,
}

/// Reads all images, in their order.
pub(super) fn decode(
    tree: &Tree,
    root: &Path,
    files: &[&Path],
    options: ReadOptions,
) -> Result<Decoded, Error> {
    let mut pixels = vec![0_u8; files.len() * ELEMENTS];
    let work = Mutex::new(files.iter().zip(pixels.chunks_exact_mut(ELEMENTS)).enumerate());
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).next();
    let read_some = || {
        let mut found = Findings::default();
        while let Some((index, (path, out))) = next() {
            match tree.image(path, options.sizing) {
                Ok(image) => {
                    out.copy_from_slice(&image.pixels);
                    found.add(path, &image);
                }
                Err(error) => found.damaged.push((index, error)),
            }
        }
        found
    };
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(MAX_THREADS));
    let mut found = Findings::default();
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(read_some)).collect();
        found.merge(read_some());
        for other in others {
            match other.join() {
                Ok(other) => found.merge(other),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    let mut is_read = vec![true; files.len()];
    found.damaged.iter().for_each(|&(index, _)| is_read[index] = false);
    let mut warnings = found.warnings(root, files.len());
    let mut bad: Vec<DamagedFile> = found
        .damaged
        .into_iter()
        .map(|(index, error)| DamagedFile {
            path: files[index].to_owned(),
            error: error.to_string(),
        })
        .collect();
    if bad.is_empty() {
        return Ok(Decoded { pixels, is_read, warnings });
    }
    bad.sort_by(|a, b| a.path.cmp(&b.path));
    let error = Error::Damaged { root: root.to_owned(), files: bad, of: files.len() };
    if options.damaged == DamagedImages::Error {
        return Err(error);
    }
    warnings.insert(0, error.skipped());
    let mut at = 0;
    for (index, _) in is_read.iter().enumerate().filter(|(_, is_read)| **is_read) {
        pixels.copy_within(index * ELEMENTS..(index + 1) * ELEMENTS, at * ELEMENTS);
        at += 1;
    }
    pixels.truncate(at * ELEMENTS);
    Ok(Decoded { pixels, is_read, warnings })
}

/// What a thread has found.
#[derive(Default)]
struct Findings {
    damaged: Vec<(usize, Error)>,
    /// The number of images that are far from square, and the one with the largest aspect ratio.
    elongated: usize,
    most_elongated: Option<Elongated>,
    /// JPEGs without an end marker.
    without_end: Counted,
    /// Images with 12 bits in 16.
    nearly_black: Counted,
}

struct Elongated {
    aspect_ratio: f64,
    path: PathBuf,
    size: [u32; 2],
}

/// A number of files, and the first of them by name.
#[derive(Default)]
struct Counted {
    count: usize,
    first: Option<PathBuf>,
}

impl Counted {
    fn add(&mut self, count: usize, path: &Path) {
        self.count += count;
        if self.first.as_ref().is_none_or(|first| path < first) {
            self.first = Some(path.to_owned());
        }
    }

    fn merge(&mut self, other: Counted) {
        if let Some(path) = other.first {
            self.add(other.count, &path);
        }
    }
}

impl Findings {
    fn add(&mut self, path: &Path, image: &DecodedImage) {
        let aspect_ratio = image.aspect_ratio();
        if aspect_ratio > MAX_ASPECT_RATIO {
            let size = [image.original_width, image.original_height];
            self.elongated += 1;
            self.add_elongated(Elongated { aspect_ratio, path: path.to_owned(), size });
        }
        if image.lacks_end {
            self.without_end.add(1, path);
        }
        if image.is_12_bit {
            self.nearly_black.add(1, path);
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

    fn merge(&mut self, other: Findings) {
        self.damaged.extend(other.damaged);
        self.elongated += other.elongated;
        if let Some(elongated) = other.most_elongated {
            self.add_elongated(elongated);
        }
        self.without_end.merge(other.without_end);
        self.nearly_black.merge(other.nearly_black);
    }

    /// What is unusual about the images, which are `count` in all.
    fn warnings(&self, root: &Path, count: usize) -> Vec<String> {
        let within = |path: &Path| path.strip_prefix(root).unwrap_or(path).display().to_string();
        let mut warnings = Vec::new();
        if let Some(Elongated { path, size: [width, height], .. }) = &self.most_elongated {
            warnings.push(format!(
                "{} of {count} images are far from square and will be distorted, most of all {} \
                 ({width}x{height})",
                self.elongated,
                within(path)
            ));
        }
        if let Counted { count: some, first: Some(first) } = &self.without_end {
            warnings.push(format!(
                "{some} of {count} images are JPEGs without an end marker, such as {}; all of their pixels \
                 are there",
                within(first)
            ));
        }
        if let Counted { count: some, first: Some(first) } = &self.nearly_black {
            warnings.push(format!(
                "{some} of {count} images have values of 16 bits that use at most 12, such as {}, so \
                 that they are nearly black: scale them to all 16",
                within(first)
            ));
        }
        warnings
    }
}

/// A warning if the same image is in two classes; `files` are the files of the images.
pub(super) fn label_conflict(
    pixels: &[u8],
    labels: &[u16],
    classes: &[String],
    files: &[String],
) -> Option<String> {
    let mut seen: HashMap<&[u8], usize> = HashMap::with_capacity(labels.len());
    let (mut count, mut example) = (0, None);
    for (index, image) in pixels.chunks_exact(ELEMENTS).enumerate() {
        let first = *seen.entry(image).or_insert(index);
        if labels[first] != labels[index] {
            count += 1;
            example.get_or_insert((first, index));
        }
    }
    let (first, second) = example?;
    let class = |index: usize| &classes[usize::from(labels[index])];
    Some(format!(
        "{count} {} also {LABEL_CONFLICT}, such as {} in {} and {} in {}",
        if count == 1 { "image is" } else { "images are" },
        files[first],
        class(first),
        files[second],
        class(second)
    ))
}
