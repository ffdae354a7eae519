//! `run.json` and `samples.json` in a run's folder, written when it is created: what people want to know of it, and
//! some of its training images. Nothing that is computed depends on them, and a run works without them.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crescendo_data::{DataSet, Normalization, Sampling, Split};
use serde::{Deserialize, Serialize};

use crate::atomic_file::write_atomically;
use crate::held_out::validation_images;
use crate::json_file::{self, in_base64};
use crate::{Error, Recipe, version};

const FACTS: &str = "run.json";
const SAMPLES: &str = "samples.json";
/// Training images in `samples.json`.
const SAMPLE_COUNT: usize = 12;
/// What to do if one of the files is damaged.
const ADVICE: &str = "remove it; the run works without it";

/// What `run.json` says: when, where and on what a run began.
///
/// # Example
///
/// ```
/// use crescendo_cpu::CpuDevices;
/// use crescendo_training::{Recipe, Run, RunFacts, Start};
///
/// let recipe = Recipe::load("quick", &["network.widths=[4, 4, 4]", "data.validation=20"])?;
/// let data = crescendo_data::shapes::generate(0, 200, 100);
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("run");
/// let run = Run::create(&folder, &Start::new(&recipe, &data, &CpuDevices))?;
/// run.set_command("my-program --fast")?;
/// let facts = RunFacts::read(&folder)?.expect("runs of this version have them");
/// assert_eq!(facts.command.as_deref(), Some("my-program --fast"));
/// assert_eq!((facts.training_images, facts.validation_images, facts.test_images), (180, 20, 100));
/// assert!(facts.created.ends_with('Z'));
/// # Ok::<(), crescendo_training::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunFacts {
    /// The command line that created the run, as a shell takes it; `None` if a program that uses the library did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// When the run was created, in UTC: `2026-11-27T09:30:05Z`.
    pub created: String,
    /// The version of Crescendo that created it.
    pub version: String,
    /// The device that it was created on, in words, with its threads.
    pub device: String,
    /// The network's number of parameters.
    pub parameters: usize,
    /// What the data is called.
    pub data: String,
    /// Images that are trained on.
    pub training_images: usize,
    /// Validation images.
    pub validation_images: usize,
    /// Test images.
    pub test_images: usize,
}

/// What `samples.json` has: the first training images of the first epoch, as the network gets them but for the
/// normalisation.
///
/// # Example
///
/// ```
/// use crescendo_cpu::CpuDevices;
/// use crescendo_training::{Recipe, Run, Start, TrainingSamples};
///
/// let recipe = Recipe::load("quick", &["network.widths=[4, 4, 4]", "data.augment=false"])?;
/// let data = crescendo_data::shapes::generate(0, 200, 100);
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("run");
/// Run::create(&folder, &Start::new(&recipe, &data, &CpuDevices))?;
/// let samples = TrainingSamples::read(&folder)?.expect("runs of this version have them");
/// assert_eq!((samples.image_size, samples.images.len()), (32, 12));
/// let first = &samples.images[0];
/// let same = |index: usize| data.train.image(index) == first.pixels;
/// let index = (0..data.train.len()).find(|&index| same(index)).expect("it is not augmented");
/// assert_eq!(usize::from(data.train.labels[index]), first.label);
/// # Ok::<(), crescendo_training::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TrainingSamples {
    /// Pixels along each side.
    pub image_size: usize,
    /// The images.
    pub images: Vec<TrainingSample>,
}

/// An image of a run's training.
///
/// See the example of [`TrainingSamples`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TrainingSample {
    /// Its class.
    pub label: usize,
    /// Red, green and blue planes, one byte for each pixel; base64 in the file.
    #[serde(with = "in_base64")]
    pub pixels: Vec<u8>,
}

impl RunFacts {
    /// The facts of a run that is created now.
    pub(crate) fn new(device: String, parameters: usize, data: &DataSet, recipe: &Recipe) -> Self {
        let held_out = recipe.data.validation;
        RunFacts {
            command: None,
            created: utc(SystemTime::now()),
            version: version::OWN.into(),
            device,
            parameters,
            data: data.name.clone(),
            training_images: data.train.len() - held_out,
            validation_images: validation_images(data, held_out),
            test_images: data.test.len(),
        }
    }

    /// Reads those of the run in `folder`; `None` if an earlier version created it.
    ///
    /// # Errors
    /// If the file cannot be read or is damaged.
    pub fn read(folder: &Path) -> Result<Option<Self>, Error> {
        json_file::read(&folder.join(FACTS), ADVICE)
    }

    /// When the run in `folder` was created: as the file says, or else when its recipe was last written. Empty if that
    /// is not known either.
    pub(crate) fn created(folder: &Path) -> String {
        if let Ok(Some(facts)) = Self::read(folder) {
            return facts.created;
        }
        let recipe = fs::metadata(folder.join("recipe.toml"));
        recipe.and_then(|file| file.modified()).map_or(String::new(), utc)
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<(), Error> {
        write(folder, FACTS, self)
    }

    /// Those in `folder` are a copy of another run's, and become those of a run that is created now.
    pub(crate) fn renew(folder: &Path) -> Result<(), Error> {
        let Ok(Some(facts)) = Self::read(folder) else { return Ok(()) };
        let (created, version) = (utc(SystemTime::now()), version::OWN.into());
        RunFacts { command: None, created, version, ..facts }.write(folder)
    }
}

impl TrainingSamples {
    /// The first images of the first epoch on `train`.
    pub(crate) fn new(recipe: &Recipe, normalization: Normalization, train: &Split) -> Self {
        let image_size = recipe.data.image_size(1);
        let sampling = Sampling { image_size, ..recipe.sampling(normalization) };
        let mut order = sampling.order(1, train.len());
        order.truncate(SAMPLE_COUNT);
        let pixels = sampling.preview(train, 1, &order);
        let images = order.iter().zip(pixels);
        let sample = |(index, pixels): (&u32, _)| TrainingSample {
            label: train.labels[*index as usize].into(),
            pixels,
        };
        TrainingSamples { image_size, images: images.map(sample).collect() }
    }

    /// Reads those of the run in `folder`; `None` if an earlier version created it.
    ///
    /// # Errors
    /// If the file cannot be read or is damaged.
    pub fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join(SAMPLES);
        let Some(samples) = json_file::read::<Self>(&path, ADVICE)? else { return Ok(None) };
        let bytes = samples.image_size.checked_pow(2).and_then(|plane| plane.checked_mul(3));
        match samples.images.iter().all(|image| Some(image.pixels.len()) == bytes) {
            true => Ok(Some(samples)),
            false => {
                let problem = "an image has another size than the file says";
                Err(json_file::damaged(&path, problem, ADVICE))
            }
        }
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<(), Error> {
        write(folder, SAMPLES, self)
    }
}

fn write(folder: &Path, name: &str, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).expect("all keys are strings") + "\n";
    write_atomically(&folder.join(name), |file| file.write_all(text.as_bytes()))
}

/// A moment in UTC as ISO 8601 writes it.
///
/// # Example
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
///
/// let moment = UNIX_EPOCH + Duration::from_secs(951_782_400);
/// assert_eq!(crescendo_training::utc(moment), "2000-02-29T00:00:00Z");
/// ```
pub fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn moments_are_written_in_utc() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_000_000_000, "2001-09-09T01:46:40Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn damaged_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(RunFacts::read(folder.path()).unwrap().is_none());
        assert!(TrainingSamples::read(folder.path()).unwrap().is_none());
        fs::write(folder.path().join(FACTS), "{}").unwrap();
        let complaint = RunFacts::read(folder.path()).unwrap_err().to_string();
        assert!(complaint.contains("run.json: is damaged (unexpected content"), "{complaint}");
        for samples in [
            r#"{"image_size": 1, "images": [{"label": 0, "pixels": "!"}]}"#,
            r#"{"image_size": 1, "images": [{"label": 0, "pixels": "AA=="}]}"#,
            r#"{"image_size": 18446744073709551615, "images": [{"label": 0, "pixels": "AAAA"}]}"#,
        ] {
            fs::write(folder.path().join(SAMPLES), samples).unwrap();
            let complaint = TrainingSamples::read(folder.path()).unwrap_err().to_string();
            assert!(complaint.contains("samples.json: is damaged ("), "{complaint}");
        }
        let whole = r#"{"image_size": 1, "images": [{"label": 7, "pixels": "AAEC"}]}"#;
        fs::write(folder.path().join(SAMPLES), whole).unwrap();
        let samples = TrainingSamples::read(folder.path()).unwrap().unwrap();
        assert_eq!(samples.images[0], TrainingSample { label: 7, pixels: vec![0, 1, 2] });
    }
}
