//! The images that `predict` classifies.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, stdin};
use std::path::{Path, PathBuf};

use crescendo::data::{ImageShape, Sizing, read_image_as};
use crescendo::training::Error;

use super::note;
use crate::npy;

const SHAPE: ImageShape = ImageShape::CIFAR;
const BYTES: usize = SHAPE.elements();

/// The most levels of folders in a folder of images.
const MAX_DEPTH: usize = 16;

/// Endings of names of images, for folders, which may hold other files too.
const ENDINGS: [&str; 7] = ["png", "jpg", "jpeg", "jfif", "webp", "bmp", "gif"];

/// Images that were read, and what could not be.
#[derive(Default)]
pub struct Inputs {
    /// The images one after another, in the shape of CIFAR's.
    pub pixels: Vec<u8>,
    /// A name for each image.
    pub names: Vec<String>,
    sizing: Sizing,
    failures: Vec<Error>,
    resized: usize,
}

impl Inputs {
    /// Reads files, images of which are brought to size in this way, folders, and for `-` the files whose paths the standard input lists. A file that cannot be read
    /// is one of the failures.
    ///
    /// # Errors
    /// If the standard input cannot be read.
    pub fn read(paths: &[PathBuf], sizing: Sizing) -> Result<Self, Error> {
        let mut inputs = Inputs { sizing, ..Inputs::default() };
        for path in paths {
            if path == Path::new("-") {
                let paths = listed_paths()?;
                if paths.is_empty() {
                    let problem =
                        "there are no paths on the standard input: write one on each line";
                    inputs.failures.push(Error::Refused(problem.into()));
                }
                paths.iter().for_each(|path| inputs.add(path));
            } else {
                inputs.add(path);
            }
        }
        Ok(inputs)
    }

    fn add(&mut self, path: &Path) {
        if let Err(error) = self.try_add(path) {
            self.failures.push(error);
        }
    }

    fn try_add(&mut self, path: &Path) -> Result<(), Error> {
        if path.is_dir() {
            let mut images = Vec::new();
            list(path, 0, &mut images)?;
            images.sort();
            if images.is_empty() {
                return Err(Error::bad(path, "has no images: give a folder of images"));
            }
            images.iter().for_each(|image| self.add(image));
        } else if has_ending(path, &["npy"]) {
            let images = read_npy(path)?;
            let count = images.len() / BYTES;
            self.names.extend((0..count).map(|index| format!("{}[{index}]", path.display())));
            self.pixels.extend(images);
        } else {
            let image = read_image_as(path, self.sizing)?;
            self.resized += usize::from(image.is_resized());
            self.pixels.extend(image.pixels);
            self.names.push(path.display().to_string());
        }
        Ok(())
    }

    /// Says how many images were resized.
    pub fn print_notes(&self) {
        if self.resized > 0 {
            let (width, height) = (SHAPE.width, SHAPE.height);
            note(format_args!(
                "note: {} of {} images were resized to {width}x{height}",
                self.resized,
                self.names.len()
            ));
        }
    }

    /// Prints what could not be read. Returns whether there is anything.
    pub fn print_failures(&self) -> bool {
        self.failures.iter().for_each(|failure| note(format_args!("error: {failure}")));
        let failed = self.failures.len();
        if failed > 1 {
            note(format_args!("error: {failed} inputs could not be read"));
        }
        failed > 0
    }

    /// Whether nothing could be read.
    pub fn all_failed(&self) -> bool {
        self.names.is_empty() && !self.failures.is_empty()
    }

    /// The error if nothing could be read; the others are printed.
    pub fn into_error(mut self) -> Error {
        if self.failures.len() == 1 {
            return self.failures.remove(0);
        }
        self.print_failures();
        Error::Refused("there are no images to classify".into())
    }
}

/// The images in a folder and the folders in it; hidden ones are ignored.
fn list(folder: &Path, depth: usize, images: &mut Vec<PathBuf>) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::bad(folder, format!("is more than {MAX_DEPTH} folders deep")));
    }
    let io = |error| Error::io("read", folder, error);
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            list(&path, depth + 1, images)?;
        } else if has_ending(&path, &ENDINGS) {
            images.push(path);
        }
    }
    Ok(())
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().unwrap_or_default();
    endings.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

/// The paths on the lines of the standard input.
fn listed_paths() -> Result<Vec<PathBuf>, Error> {
    let lines = stdin().lock().split(b'\n').map(|line| {
        let mut line = line.map_err(|error| Error::io("read", Path::new("the input"), error))?;
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(line)
    });
    let lines: Vec<Vec<u8>> = lines.collect::<Result<_, Error>>()?;
    Ok(lines.into_iter().filter(|line| !line.is_empty()).map(path_of).collect())
}

#[cfg(unix)]
fn path_of(line: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(line).into()
}

#[cfg(not(unix))]
fn path_of(line: Vec<u8>) -> PathBuf {
    String::from_utf8_lossy(&line).into_owned().into()
}

fn read_npy(path: &Path) -> Result<Vec<u8>, Error> {
    let io = |error| Error::io("read", path, error);
    let file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    npy::read_bytes(BufReader::new(file), size, BYTES).map_err(|problem| {
        Error::bad(path, format!("{problem}: expected uint8 of shape (N, {BYTES})"))
    })
}
