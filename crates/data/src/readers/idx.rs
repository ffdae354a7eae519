//! MNIST's format, idx, and its relatives (Fashion-MNIST, KMNIST, EMNIST): a file of images and a file of labels
//! for each of the training and the test images, which may be compressed by gzip.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;

use super::to_size::ArrayShape;
use crate::{DataSet, Error, Split};

/// The start of a file of images: zeros, the type of bytes, three dimensions.
const IMAGES: [u8; 4] = [0, 0, 8, 3];
/// The start of a file of labels.
const LABELS: [u8; 4] = [0, 0, 8, 1];

/// A file of images and the file of their labels.
struct Pair {
    images: PathBuf,
    labels: PathBuf,
    is_train: bool,
}

/// Reads the idx files in a folder; `None` if there are none.
pub(super) fn open(folder: &Path) -> Result<Option<DataSet>, Error> {
    let pairs = pairs(folder)?;
    let of = |train: bool| pairs.iter().filter(move |pair| pair.is_train == train);
    let Some(train) = of(true).next() else { return Ok(None) };
    if let Some(other) = of(true).nth(1) {
        let name = |path: &Path| path.file_name().unwrap_or_default().display().to_string();
        let problem = format!(
            "has several data sets ({} and {}): put the files of each into a folder of its own",
            name(&train.images),
            name(&other.images)
        );
        return Err(Error::invalid(folder, problem));
    }
    let test = of(false).next().ok_or_else(|| {
        let problem = "has idx files of training images, but none of test images (t10k-images-idx3-ubyte): \
                       add the missing files";
        Error::invalid(folder, problem)
    })?;
    let (train, shape) = read(train)?;
    let (test, _) = read(test)?;
    let last = train.labels.iter().chain(&test.labels).max().copied().unwrap_or_default();
    let name = folder.file_name().map_or_else(String::new, |name| name.display().to_string());
    Ok(Some(DataSet {
        name: format!("the folder {name}"),
        format: "idx files".into(),
        classes: (0..=last).map(|class| class.to_string()).collect(),
        train,
        validation: Split::default(),
        test,
        test_split: None,
        sizing: shape.sizing(),
        warnings: Vec::from_iter(shape.changes()),
    }))
}

/// Whether the content of a file begins as an idx file.
pub(super) fn is_idx(file: &Path) -> bool {
    let mut start = [0; 4];
    let read = content(file).and_then(|mut content| {
        content.read_exact(&mut start).map_err(|error| Error::io("read", file, error))
    });
    read.is_ok() && (start == IMAGES || start == LABELS)
}

/// The files of images in a folder, each with its file of labels.
fn pairs(folder: &Path) -> Result<Vec<Pair>, Error> {
    let failed = |error| Error::io("read", folder, error);
    let mut names: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort();
    let plain = |name: &str| name.strip_suffix(".gz").unwrap_or(name).to_owned();
    let mut pairs = Vec::new();
    for name in &names {
        let stem = plain(name);
        // Both separators are in use: train-images-idx3-ubyte and train-images.idx3-ubyte.
        if !(stem.contains("images") && stem.contains("idx3")) {
            continue;
        }
        // A file that is there unpacked and packed is read once.
        if *name != stem && names.contains(&stem) {
            continue;
        }
        let labels = stem.replace("images", "labels").replace("idx3", "idx1");
        let packed = format!("{labels}.gz");
        let labels = [labels.clone(), packed]
            .into_iter()
            .find(|name| names.contains(name))
            .ok_or_else(|| {
                let problem = format!("is missing: it has the labels of {name}");
                Error::invalid(&folder.join(labels), problem)
            })?;
        let is_train = stem.contains("train");
        if !is_train && !stem.contains("t10k") && !stem.contains("test") {
            continue;
        }
        pairs.push(Pair { images: folder.join(name), labels: folder.join(labels), is_train });
    }
    Ok(pairs)
}

/// The content of a file, unpacked if it is packed.
fn content(path: &Path) -> Result<Box<dyn Read>, Error> {
    let failed = |error| Error::io("read", path, error);
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let start = std::io::BufRead::fill_buf(&mut file).map_err(failed)?;
    let is_gzip = start.starts_with(&[0x1f, 0x8b]);
    Ok(if is_gzip { Box::new(GzDecoder::new(file)) } else { Box::new(file) })
}

/// Reads a header: the start, and a number for each dimension.
fn header<const N: usize>(
    path: &Path,
    content: &mut dyn Read,
    start: [u8; 4],
    what: &str,
) -> Result<[usize; N], Error> {
    let mut bytes = [0; 4];
    let mut next = || content.read_exact(&mut bytes).map(|()| bytes);
    let mut numbers = [0; N];
    if !next().is_ok_and(|bytes| bytes == start) {
        let problem = format!("is not an idx file of {what}: download it again");
        return Err(Error::invalid(path, problem));
    }
    for number in &mut numbers {
        *number = u32::from_be_bytes(next().map_err(|_| ended(path))?) as usize;
    }
    Ok(numbers)
}

fn ended(path: &Path) -> Error {
    Error::invalid(path, "ends too early: it is damaged or truncated; download it again")
}

fn read(pair: &Pair) -> Result<(Split, ArrayShape), Error> {
    let Pair { images, labels, .. } = pair;
    let mut content = content(images)?;
    let [count, height, width] = header(images, &mut content, IMAGES, "images")?;
    let shape = ArrayShape { images: count, height, width, channels: 1, planes: false };
    shape.check().map_err(|problem| Error::invalid(images, problem))?;
    let mut label_bytes = self::content(labels)?;
    let [label_count] = header(labels, &mut label_bytes, LABELS, "labels")?;
    if label_count != count || count == 0 {
        let problem =
            format!("has {label_count} labels for {count} images: download both files again");
        return Err(Error::invalid(labels, problem));
    }
    let mut split = Split::default();
    let mut image = vec![0; shape.image_bytes()];
    let mut label = [0];
    for _ in 0..count {
        content.read_exact(&mut image).map_err(|_| ended(images))?;
        label_bytes.read_exact(&mut label).map_err(|_| ended(labels))?;
        shape.push(&image, label[0].into(), &mut split);
    }
    Ok((split, shape))
}
