//! `crescendo recipes`.

use crescendo::training::Error;
use crescendo::training::loading::BUILT_IN;
use crescendo::training::recipe::Recipe;

use super::{hint, list, print};
use crate::cli::RecipesArgs;

pub fn run(args: &RecipesArgs) -> Result<(), Error> {
    let Some(name) = &args.recipe else {
        list(&BUILT_IN)?;
        return hint("`crescendo recipes NAME` prints a recipe's file, which says more.");
    };
    // Gives the error if there is no recipe of this name.
    Recipe::load::<&str>(name, &[])?;
    match BUILT_IN.iter().find(|recipe| recipe.name == name) {
        Some(recipe) => print(format_args!("{}", recipe.text)),
        None => Err(Error::Recipe(format!("{name} is not a built-in recipe"))),
    }
}
