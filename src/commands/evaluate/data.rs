//! The images that a checkpoint is evaluated on.

use std::path::Path;

use crescendo::data::{CIFAR10_NAME, DataSet, ImageFolder, Purpose, ReadOptions, shapes};
use crescendo::training::checkpoint::Checkpoint;
use crescendo::training::recipe::DataSource;
use crescendo::training::{Error, Model, Recipe, TrainedOn, read_record};

use crate::cli::EvaluateArgs;
use crate::commands::{DataLocation, note};

/// What decides which images these are.
#[derive(PartialEq)]
struct Source {
    location: DataLocation,
    options: ReadOptions,
    trained_on: TrainedOn,
}

/// A data set to evaluate on.
pub struct TestData {
    source: Source,
    pub set: DataSet,
}

impl TestData {
    /// Reads the data set for a checkpoint. Several mostly have the same one: then it is `last`, and not read again.
    /// `recipe` describes a file of another program.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load(
        args: &EvaluateArgs,
        checkpoint: &Checkpoint,
        recipe: Option<&(Recipe, TrainedOn)>,
        last: Option<TestData>,
    ) -> Result<Self, Error> {
        let run = checkpoint.path().parent().and_then(Path::parent);
        let record = run.and_then(|run| read_record(run).ok());
        let trained_on = match (&record, recipe) {
            (Some(record), _) => TrainedOn::from(&record.run),
            (None, Some((_, trained_on))) => {
                let sizing = trained_on.sizing.or(checkpoint.trained_on()?.sizing);
                TrainedOn { sizing, ..trained_on.clone() }
            }
            (None, None) => checkpoint.trained_on()?,
        };
        let recipe = record.as_ref().map(|record| &record.recipe).or(recipe.map(|(own, _)| own));
        let options = recipe.map(|recipe| recipe.data.read_options()).unwrap_or_default();
        // The run's own data is recognised by another path, too.
        let recorded = trained_on.data.as_deref().and_then(ImageFolder::parse);
        let test_split = recorded.and_then(Result::ok).map(|images| images.test_split());
        let (purpose, sizing) = (Purpose::Evaluation, trained_on.sizing.unwrap_or_default());
        let options = ReadOptions { sizing, purpose, test_split, ..options };
        let location = match args.data.name()? {
            Some(location) => DataLocation::Named(location),
            None => location(checkpoint, recipe, &trained_on)?,
        };
        let source = Source { location, options, trained_on };
        match last.filter(|last| last.source == source) {
            Some(last) => Ok(last),
            None => Self::read(args, source, checkpoint.path()),
        }
    }

    fn read(args: &EvaluateArgs, source: Source, file: &Path) -> Result<Self, Error> {
        let data = source.location.load_with(source.options)?;
        data.print_warnings();
        let (mut set, place) = (data.set, data.location);
        let trained_on = &source.trained_on;
        if let Some(fingerprint) = &trained_on.data_fingerprint {
            set = set.matching(fingerprint);
        }
        let has_test_images = set.test_split.is_none() && !set.train.is_empty();
        let is_own = match (&trained_on.data_fingerprint, &trained_on.data_name) {
            (Some(fingerprint), _) => *fingerprint == set.fingerprint(),
            // A checkpoint by itself says only what the data is called.
            (None, Some(name)) => has_test_images || *name == set.name,
            (None, None) => !set.train.is_empty(),
        };
        let file = file.display();
        if is_own {
            if trained_on.data_fingerprint.is_none() && !has_test_images {
                let (name, test) = (&set.name, set.test.len());
                note(format_args!(
                    "note: {name} is taken for the data that {file} was trained on: its {test} test images are scored"
                ));
            }
            return Ok(TestData { source, set });
        }
        // If the data has changed since, most of it is still what the network was trained on.
        let has_changed = trained_on.data.as_deref().map(folder) == Some(folder(&place));
        let asks_for_split =
            args.data.split.test_split.is_some() || ImageFolder::parse(&place).is_some();
        if !has_changed && !asks_for_split {
            set = set.without_split();
        }
        if set.train.is_empty() {
            note(format_args!(
                "note: {} is not the data that {file} was trained on: all of its {} images are test images (give \
                 --test-split if they include images that it was trained on)",
                set.name,
                set.test.len()
            ));
        } else {
            note(format_args!(
                "warning: {} is not the data that {file} was trained on, or is split differently: some of the test \
                 images may be training images",
                set.name
            ));
        }
        Ok(TestData { source, set })
    }

    /// Gives the images the classes of the network, by name, and says which classes have none.
    ///
    /// # Errors
    /// If there are images of a class that the network does not have.
    pub fn match_classes(&mut self, file: &Path, model: &Model) -> Result<(), Error> {
        let name = self.set.name.clone();
        if self.set.classes != model.classes {
            let theirs = self.set.classes.join(", ");
            self.set.match_classes(&model.classes).map_err(|unknown| {
                let problem = format!(
                    "has the classes {}, but {name} has {theirs}: give the data it was trained on with \
                     --data, or rename or leave out {}",
                    model.classes.join(", "),
                    unknown.join(", ")
                );
                Error::bad(file, problem)
            })?;
        }
        let mut has_images = vec![false; model.classes.len()];
        self.set.test.labels.iter().for_each(|&label| has_images[usize::from(label)] = true);
        let absent = model.classes.iter().zip(has_images).filter(|(_, has_images)| !has_images);
        let absent: Vec<&str> = absent.map(|(class, _)| class.as_str()).collect();
        if !absent.is_empty() {
            let (name, absent) = (&self.set.name, absent.join(", "));
            note(format_args!("note: {name} has no test images of these classes: {absent}"));
        }
        Ok(())
    }
}

/// The data set to evaluate on without `--data`: that of the run, of the recipe, or of the checkpoint, in this
/// order.
fn location(
    checkpoint: &Checkpoint,
    recipe: Option<&Recipe>,
    trained_on: &TrainedOn,
) -> Result<DataLocation, Error> {
    if let Some(data) = &trained_on.data {
        return Ok(DataLocation::Named(data.clone()));
    }
    if let Some(recipe) = recipe {
        return Ok(DataLocation::Standard(recipe.data.source));
    }
    Ok(match checkpoint.data() {
        Some(data) if shapes::parse(data).is_some() => DataLocation::Named(data.to_owned()),
        Some(data) if data != CIFAR10_NAME => {
            let problem = format!("was trained on {data}: give the path of that data with --data");
            return Err(Error::bad(checkpoint.path(), problem));
        }
        _ => DataLocation::Standard(DataSource::Cifar10),
    })
}

/// The folder of a [`DataLocation::Named`], or its whole name.
fn folder(name: &str) -> String {
    match ImageFolder::parse(name) {
        Some(Ok(images)) => images.folder().display().to_string(),
        _ => name.to_owned(),
    }
}
