//! Whether a recipe fits the data and the device.

use crescendo_data::DataSet;
use crescendo_network::Device;

use crate::held_out::validation_images;
use crate::policy::training_plan;
use crate::recipe::{BatchPolicyKind, ClassWeights, Metric, ScheduleKind};
use crate::{Error, Recipe, graph_for, memory};

/// Whether this recipe can train on this data.
///
/// # Example
///
/// ```
/// use crescendo_cpu::CpuDevices;
/// use crescendo_network::Devices;
/// use crescendo_training::{Recipe, check, check_metrics, resolved};
///
/// let recipe = Recipe::load("quick", &["batch.policy=fixed", "batch.size=500"])?;
/// let (data, device) = (crescendo_data::shapes::generate(0, 100, 50), CpuDevices.open(&recipe.engine)?);
/// // As a run keeps it: no batch is larger than the data.
/// let (recipe, note) = resolved(&recipe, &*device, &data)?;
/// assert!(recipe.batch.size <= 100 && note.is_some());
/// check(&recipe, &*device, &data)?;
///
/// let stops_early = recipe.with("train.stop_after=3")?;
/// let problem = check_metrics(&stops_early, recipe.data.validation).unwrap_err();
/// assert!(problem.to_string().contains("set data.validation"));
/// # Ok::<(), crescendo_training::Error>(())
/// ```
///
/// # Errors
/// Says what does not fit.
pub fn check(recipe: &Recipe, device: &dyn Device, data: &DataSet) -> Result<(), Error> {
    check_fit(recipe, device, data, None)
}

/// Whether this recipe can train on this data in so many bytes of memory, if that is known.
pub(crate) fn check_fit(
    recipe: &Recipe,
    device: &dyn Device,
    data: &DataSet,
    available: Option<u64>,
) -> Result<(), Error> {
    let refuse = |problem: String| Err(Error::Refused(problem));
    if data.test.is_empty() && recipe.train.final_evaluation {
        let name = &data.name;
        return refuse(format!("{name} has no test images: set train.final_evaluation=false"));
    }
    let classes = data.classes.len();
    let splits = [&data.train, &data.validation, &data.test];
    if let Some(split) = splits.into_iter().find(|split| !split.is_whole()) {
        let (name, count, bytes) = (&data.name, split.len(), split.pixels.len());
        return refuse(format!("{name} has {count} labels for images of {bytes} bytes in all"));
    }
    let mut labels = splits.into_iter().flat_map(|split| &split.labels);
    if let Some(label) = labels.find(|&&label| usize::from(label) >= classes) {
        let name = &data.name;
        return refuse(format!("{name} has an image of class {label}, but only {classes} classes"));
    }
    if data.classes.len() != recipe.network.classes {
        let (classes, outputs) = (data.classes.len(), recipe.network.classes);
        return refuse(format!(
            "{} has {classes} classes, but network.classes is {outputs}: add --set \
             network.classes={classes}",
            data.name
        ));
    }
    let validation = recipe.data.validation;
    if validation > 0 && !data.validation.is_empty() {
        return Err(Error::Recipe(format!(
            "data.validation is {validation}, but {} has {} validation images of its own: set data.validation=0 \
             to use those",
            data.name,
            data.validation.len()
        )));
    }
    check_metrics(recipe, validation_images(data, validation))?;
    check_class_weights(recipe, classes)?;
    if validation >= data.train.len() {
        let images = data.train.len();
        return refuse(format!(
            "data.validation = {validation} leaves nothing to train on: there are {images} \
             training images"
        ));
    }
    let images = data.train.len() - validation;
    let phases = training_plan(recipe, images);
    phases.iter().try_for_each(|phase| {
        let graph = graph_for(recipe, phase.image_size)?;
        memory::check(recipe, device, data, &graph, phase.batch_size, available)
    })
}

/// Whether there are validation images, of which there are `validation`, if a policy needs them.
///
/// See the example of [`check`].
///
/// # Errors
/// Names the key that needs them.
pub fn check_metrics(recipe: &Recipe, validation: usize) -> Result<(), Error> {
    if recipe.train.stop_after > 0 && validation == 0 {
        return Err(Error::Recipe(
            "train.stop_after stops by the accuracy on validation images, but there are none: set \
             data.validation, for example to 5000, or use data with a folder of validation images"
                .into(),
        ));
    }
    let (batch, schedule) = (&recipe.batch, &recipe.schedule);
    let followed = [
        (batch.policy == BatchPolicyKind::Plateau, "batch", batch.plateau.metric),
        (schedule.policy == ScheduleKind::Plateau, "schedule", schedule.plateau.metric),
    ];
    for (_, section, metric) in followed.into_iter().filter(|followed| followed.0) {
        if metric != Metric::TrainLoss && validation == 0 {
            return Err(Error::Recipe(format!(
                "{section}.metric is {}, but there are no validation images: set data.validation, for example to \
                 5000, or use data with a folder of validation images",
                metric.name()
            )));
        }
    }
    Ok(())
}

/// Whether there is a weight for each class.
fn check_class_weights(recipe: &Recipe, classes: usize) -> Result<(), Error> {
    match &recipe.data.class_weights {
        ClassWeights::List(weights) if weights.len() != classes => Err(Error::Recipe(format!(
            "data.class_weights has {} weights, but there are {classes} classes: give one for each, in the \
                 order of `crescendo data info`",
            weights.len()
        ))),
        _ => Ok(()),
    }
}
