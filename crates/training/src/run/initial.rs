//! The weights that a run begins with.

use crescendo_data::{Normalization, Split};
use crescendo_network::{Plan, Section, Tensor};

use super::{Start, engine};
use crate::checkpoint::Checkpoint;
use crate::{Error, Recipe};

/// The model before the first update, and what a reader should know of it.
pub(super) fn state(
    plan: Plan,
    recipe: &Recipe,
    start: &Start,
    train: &Split,
    normalization: &Normalization,
) -> Result<(Vec<Tensor<'static>>, Option<String>), Error> {
    let (data, seed) = (start.data, recipe.train.seed);
    let Some(path) = start.init else {
        let mut model = plan.initial(seed);
        plan.whiten(&mut model, || first_images(train, normalization));
        return Ok((model, None));
    };
    let checkpoint = Checkpoint::open(path)?;
    let mut model = checkpoint.model()?;
    // Another program's file does not say what its classes are called.
    let known = checkpoint.description().ok().map(|description| description.2);
    let others = known.is_some_and(|classes| classes != data.classes);
    let renewed = renew_head(&plan, seed, &mut model, others).map(|classes| {
        let (name, ours) = (&data.name, data.classes.len());
        format!(
            "The checkpoint tells {classes} classes apart and {name} has {ours}{}: the last layer starts \
             anew.",
            if classes == ours { " others" } else { "" }
        )
    });
    // An engine is asked whether they are the right tensors.
    engine(plan, recipe.machine()?).import(Section::Model, &model).map_err(|error| {
        Error::bad(path, format!("{error}: it holds another network"))
            .advise("use a checkpoint of the network that the recipe describes")
    })?;
    Ok((model, renewed))
}

/// Gives a model that tells `others`, or another number of classes, apart the last layer with which
/// training begins from nothing, and says how many they were. A model that differs in more stays as it is.
fn renew_head(
    plan: &Plan,
    seed: u64,
    model: &mut [Tensor<'static>],
    others: bool,
) -> Option<usize> {
    let head = plan.steps.iter().rfind(|step| step.weight.is_some())?;
    let mut new = plan.initial(seed);
    let mut places = Vec::new();
    for index in head.parameters() {
        let name = &plan.parameters[index].name;
        let find = |tensors: &[Tensor<'static>]| tensors.iter().position(|t| t.name == *name);
        places.push((find(model)?, find(&new)?));
    }
    let classes = *model[places[0].0].shape.first()?;
    // But for the classes, they are the same.
    let alike = places.iter().all(|&(old, new_at)| {
        let (old, new) = (&model[old].shape, &new[new_at].shape);
        old.first() == Some(&classes) && old[1..] == new[1..]
    });
    if !alike || classes == plan.classes() && !others {
        return None;
    }
    for (old, new_at) in places {
        std::mem::swap(&mut model[old], &mut new[new_at]);
    }
    Some(classes)
}

/// The images that filters which whiten are computed from: the first ones, as the network sees them.
fn first_images(train: &Split, normalization: &Normalization) -> Vec<f32> {
    let mut images = vec![0.0; train.len().min(WHITENED_IMAGES) * train.image_shape().elements()];
    for (index, out) in images.chunks_exact_mut(train.image_shape().elements()).enumerate() {
        normalization.apply(train.image(index), out);
    }
    images
}

/// As many as airbench takes.
const WHITENED_IMAGES: usize = 5_000;
