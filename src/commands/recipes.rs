//! `crescendo recipes`.

use crescendo::training::Error;
use crescendo::training::loading::BUILT_IN;
use crescendo::training::recipe::Recipe;

use super::say;
use crate::cli::RecipesArgs;

pub fn run(args: &RecipesArgs) -> Result<(), Error> {
    match &args.recipe {
        None => {
            for recipe in &BUILT_IN {
                say!("{:<12} {}", recipe.name, recipe.summary())?;
            }
        }
        Some(name) => {
            // Gives the error if there is no recipe of this name.
            Recipe::load::<&str>(name, &[])?;
            match BUILT_IN.iter().find(|recipe| recipe.name == name) {
                Some(recipe) => super::print(format_args!("{}", recipe.text))?,
                None => return Err(Error::Recipe(format!("{name} is not a built-in recipe"))),
            }
        }
    }
    Ok(())
}
