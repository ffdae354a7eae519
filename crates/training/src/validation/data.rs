//! Whether the section `[data]` is valid.

use crescendo_data::Border;
use crescendo_network::NetworkConfig;

use super::{IMAGE_SIZE, MAX_SHIFT, first_problem, is_finite_f32};
use crate::Error;
use crate::recipe::{ClassWeights, DataConfig, epochs_problem};

pub(super) fn check_augmentation(data: &DataConfig) -> Result<(), Error> {
    let augmentation = data.augmentation();
    let padding = augmentation.map_or(0, |augmentation| augmentation.padding);
    first_problem([
        (padding <= IMAGE_SIZE, format!("data.augment.padding must be at most {IMAGE_SIZE}")),
        (
            padding <= MAX_SHIFT || data.border != Border::Reflect,
            format!("data.augment.padding must be at most {MAX_SHIFT} if data.border is reflect"),
        ),
        (
            augmentation.is_none_or(|augmentation| augmentation.cutout <= IMAGE_SIZE),
            format!("data.augment.cutout must be at most {IMAGE_SIZE}"),
        ),
        (data.test_shift <= MAX_SHIFT, format!("data.test_shift must be at most {MAX_SHIFT}")),
    ])
}

/// Whether the network takes images of all the sizes in `data.sides`.
pub(super) fn check_sides(data: &DataConfig, network: &NetworkConfig) -> Result<(), Error> {
    let refuse = |problem: String| {
        Err(Error::Recipe(format!("data.sides {problem}, for example [[1, 16], [5, 32]]")))
    };
    if let Some(problem) = epochs_problem(&data.sides) {
        return refuse(problem.into());
    }
    if data.sides.last().is_none_or(|row| row.1 != IMAGE_SIZE) {
        return refuse(format!(
            "must end with {IMAGE_SIZE}, the size of the images in evaluations"
        ));
    }
    let works = |side: &usize| crate::graph::resized(network, *side).is_ok();
    if let Some((_, side)) = data.sides.iter().find(|(_, side)| *side > IMAGE_SIZE || !works(side))
    {
        let all: Vec<String> =
            (1..=IMAGE_SIZE).filter(works).map(|side| side.to_string()).collect();
        let all = all.join(", ");
        return refuse(format!("has {side}, but this network only takes images of {all} pixels"));
    }
    Ok(())
}

/// Whether the weights of classes can be used, if they are a list. How many there must be depends on the data.
pub(super) fn check_class_weights(data: &DataConfig) -> Result<(), Error> {
    let ClassWeights::List(weights) = &data.class_weights else { return Ok(()) };
    // The loss of a batch is divided by the weights of its images, so that they cannot all be 0.
    let valid = |&weight: &f64| is_finite_f32(weight) && weight as f32 > 0.0;
    first_problem([(
        weights.iter().all(valid),
        "data.class_weights must be numbers above 0, at most 3e38".into(),
    )])
}
