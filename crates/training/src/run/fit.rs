//! Whether a recipe fits the data and the device.

use crescendo_data::DataSet;
use crescendo_network::Device;

use crate::policy::training_plan;
use crate::{Error, Recipe, graph_for, memory};

/// Whether this recipe can train on this data.
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
    let mut labels = data.train.labels.iter().chain(&data.test.labels);
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
