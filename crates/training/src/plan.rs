//! The plan of a recipe's network.

use crescendo_data::SIDE;
use crescendo_network::Plan;

use crate::{Error, Recipe};

/// The plan of a recipe's network for images of full size.
///
/// # Errors
/// If the section `[network]` is invalid.
pub fn plan(recipe: &Recipe) -> Result<Plan, Error> {
    plan_for(recipe, SIDE)
}

/// The same for images with `side` pixels along each side.
///
/// # Errors
/// If the section `[network]` is invalid, or the network does not take such images.
pub fn plan_for(recipe: &Recipe, side: usize) -> Result<Plan, Error> {
    let network = recipe.network.network_for(side);
    let plan = network.and_then(|network| Plan::new(&network, recipe.engine.compute()));
    plan.map_err(|error| Error::Recipe(error.to_string()))
}
