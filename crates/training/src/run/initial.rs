//! The weights that a run starts from.

use crescendo_data::{Normalization, Split};
use crescendo_network::{Device, EngineError, Graph, Section, Tensor};

use super::Start;
use crate::checkpoint::Checkpoint;
use crate::{Error, Recipe, graph};

/// The model before the first update, with notes about the checkpoint that it is from.
pub(super) fn state(
    recipe: &Recipe,
    device: &dyn Device,
    start: &Start,
    train: &Split,
    normalization: &Normalization,
) -> Result<(Vec<Tensor<'static>>, Vec<String>), Error> {
    let (data, seed) = (start.data, recipe.train.seed);
    let graph = graph(recipe)?;
    let Some(path) = start.init else {
        let mut model = graph.initial(seed);
        graph.whiten(&mut model, || first_images(train, normalization));
        return Ok((model, Vec::new()));
    };
    let checkpoint = Checkpoint::open(path)?;
    let mut model = checkpoint.model()?;
    // A file of another program does not name its classes.
    let known = checkpoint.description().ok().map(|description| description.2);
    let differs = known.is_some_and(|classes| classes != data.classes);
    let note = reinitialise_head(&graph, seed, &mut model, differs).map(|classes| {
        let (name, ours) = (&data.name, data.classes.len());
        format!(
            "The checkpoint has {classes} classes and {name} has {ours}{}: the last layer is \
             reinitialised.",
            if classes == ours { ", which differ" } else { "" }
        )
    });
    // The engine checks whether they are the right tensors.
    device.engine(&graph)?.import(Section::Model, &model).map_err(|error| match error {
        EngineError::WrongTensors(problem) => {
            Error::bad(path, format!("{problem}: it holds another network"))
                .advise("use a checkpoint of the network that the recipe describes")
        }
        other => other.into(),
    })?;
    Ok((model, checkpoint.note().into_iter().chain(note).collect()))
}

/// Reinitialises the last layer of a model if its classes differ in number, or `differs` says so, and returns
/// how many classes it had. A model that differs in more is left unchanged.
fn reinitialise_head(
    graph: &Graph,
    seed: u64,
    model: &mut [Tensor<'static>],
    differs: bool,
) -> Option<usize> {
    let head = graph.nodes.iter().rfind(|node| node.weight.is_some())?;
    let mut new = graph.initial(seed);
    let mut places = Vec::new();
    for index in head.parameters() {
        let name = &graph.parameters[index].name;
        let find = |tensors: &[Tensor<'static>]| tensors.iter().position(|t| t.name == *name);
        places.push((find(model)?, find(&new)?));
    }
    let classes = *model[places[0].0].shape.first()?;
    // They are the same except for the classes.
    let alike = places.iter().all(|&(old, new_at)| {
        let (old, new) = (&model[old].shape, &new[new_at].shape);
        old.first() == Some(&classes) && old[1..] == new[1..]
    });
    if !alike || classes == graph.classes() && !differs {
        return None;
    }
    for (old, new_at) in places {
        std::mem::swap(&mut model[old], &mut new[new_at]);
    }
    Some(classes)
}

/// The images that whitening filters are computed from: the first ones, normalised.
fn first_images(train: &Split, normalization: &Normalization) -> Vec<f32> {
    let mut images = vec![0.0; train.len().min(WHITENED_IMAGES) * train.image_shape().elements()];
    for (index, out) in images.chunks_exact_mut(train.image_shape().elements()).enumerate() {
        normalization.apply(train.image(index), out);
    }
    images
}

/// As many as in airbench.
const WHITENED_IMAGES: usize = 5_000;
