//! Whether the section `[data]` is valid.

use crescendo_data::Border;
use crescendo_network::NetworkConfig;

use super::{IMAGE_SIZE, MAX_SHIFT, first_problem};
use crate::Error;
use crate::recipe::{DataConfig, epochs_problem};

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
