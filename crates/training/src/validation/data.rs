//! Whether the section `[data]` is valid.

use crescendo_data::{Border, SIDE};
use crescendo_network::Config;

use super::{MAX_SHIFT, first_problem};
use crate::Error;
use crate::recipe::{DataConfig, epochs_problem};

pub(super) fn check_augmentation(data: &DataConfig) -> Result<(), Error> {
    let augmentation = data.augmentation();
    let padding = augmentation.map_or(0, |augmentation| augmentation.padding);
    first_problem([
        (padding <= SIDE, format!("data.augment.padding must be at most {SIDE}")),
        (
            padding <= MAX_SHIFT || data.border != Border::Reflect,
            format!("data.augment.padding must be at most {MAX_SHIFT} if data.border is reflect"),
        ),
        (
            augmentation.is_none_or(|augmentation| augmentation.cutout <= SIDE),
            format!("data.augment.cutout must be at most {SIDE}"),
        ),
        (data.test_shift <= MAX_SHIFT, format!("data.test_shift must be at most {MAX_SHIFT}")),
    ])
}

/// Whether the network takes images of all the sizes in `data.sides`.
pub(super) fn check_sides(data: &DataConfig, network: &Config) -> Result<(), Error> {
    let refuse = |problem: String| {
        Err(Error::Recipe(format!("data.sides {problem}, for example [[1, 16], [5, 32]]")))
    };
    if let Some(problem) = epochs_problem(&data.sides) {
        return refuse(problem.into());
    }
    if data.sides.last().is_none_or(|row| row.1 != SIDE) {
        return refuse(format!("must end with {SIDE}, the size of the images in evaluations"));
    }
    let works = |side: &usize| network.network_for(*side).is_ok();
    if let Some((_, side)) = data.sides.iter().find(|(_, side)| *side > SIDE || !works(side)) {
        let all: Vec<String> = (1..=SIDE).filter(works).map(|side| side.to_string()).collect();
        let all = all.join(", ");
        return refuse(format!("has {side}, but this network only takes images of {all} pixels"));
    }
    Ok(())
}
