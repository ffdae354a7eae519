//! Building a recipe in a program, with the sections' own types.

use crescendo_network::{EngineConfig, Family, Network, NetworkConfig};
use toml::Table;

use crate::graph::input_shape;
use crate::recipe::{BatchConfig, DataConfig, OptimizerConfig, ScheduleConfig, TrainConfig};
use crate::{Error, Recipe};

/// Changes a recipe, section by section.
///
/// See the example of [`Recipe::builder`].
#[derive(Clone, Debug)]
pub struct RecipeBuilder(Recipe);

impl Recipe {
    /// Starts from the built-in recipe of this name, or the recipe in the file of this path. Each method of the
    /// builder changes a section, whose fields are the keys in `recipes/report.toml`;
    /// [`build`](RecipeBuilder::build) checks the whole as [`load`](Self::load) does.
    ///
    /// # Errors
    /// If there is no such recipe, or it has an unknown key or an invalid value.
    ///
    /// # Example
    ///
    /// ```
    /// use crescendo_training::Recipe;
    /// use crescendo_training::recipe::{BatchPolicyKind, ScheduleKind};
    ///
    /// let recipe = Recipe::builder("quick")?
    ///     .train(|train| train.epochs = 3)
    ///     .network(|network| network.widths = vec![4, 4, 4])
    ///     .batch(|batch| {
    ///         batch.policy = BatchPolicyKind::Steps;
    ///         batch.steps = vec![(1, 50), (3, 100)];
    ///     })
    ///     .schedule(|schedule| schedule.policy = ScheduleKind::Cosine)
    ///     .build()?;
    /// let same = Recipe::load(
    ///     "quick",
    ///     &[
    ///         "train.epochs=3",
    ///         "network.widths=[4, 4, 4]",
    ///         "batch.steps=[[1, 50], [3, 100]]",
    ///         "schedule.policy=cosine",
    ///     ],
    /// )?;
    /// assert_eq!(recipe, same);
    ///
    /// let error = Recipe::builder("quick")?.train(|train| train.label_smoothing = 1.5).build();
    /// assert_eq!(
    ///     error.unwrap_err().to_string(),
    ///     "train.label_smoothing must be at least 0 and below 1"
    /// );
    /// # Ok::<(), crescendo_training::Error>(())
    /// ```
    pub fn builder(name_or_path: &str) -> Result<RecipeBuilder, Error> {
        Ok(RecipeBuilder(Recipe::load::<&str>(name_or_path, &[])?))
    }

    /// Continues from this recipe: see [`builder`](Self::builder).
    pub fn into_builder(self) -> RecipeBuilder {
        RecipeBuilder(self)
    }
}

impl RecipeBuilder {
    /// Changes the section `[network]`.
    pub fn network(mut self, change: impl FnOnce(&mut NetworkConfig)) -> Self {
        change(&mut self.0.network);
        self
    }

    /// Changes the section `[data]`.
    pub fn data(mut self, change: impl FnOnce(&mut DataConfig)) -> Self {
        change(&mut self.0.data);
        self
    }

    /// Changes the section `[optimizer]`.
    pub fn optimizer(mut self, change: impl FnOnce(&mut OptimizerConfig)) -> Self {
        change(&mut self.0.optimizer);
        self
    }

    /// Changes the section `[schedule]`.
    pub fn schedule(mut self, change: impl FnOnce(&mut ScheduleConfig)) -> Self {
        change(&mut self.0.schedule);
        self
    }

    /// Changes the section `[batch]`.
    pub fn batch(mut self, change: impl FnOnce(&mut BatchConfig)) -> Self {
        change(&mut self.0.batch);
        self
    }

    /// Changes the section `[train]`.
    pub fn train(mut self, change: impl FnOnce(&mut TrainConfig)) -> Self {
        change(&mut self.0.train);
        self
    }

    /// Changes the section `[engine]`.
    pub fn engine(mut self, change: impl FnOnce(&mut EngineConfig)) -> Self {
        change(&mut self.0.engine);
        self
    }

    /// Trains this network instead of one of a family: sets `network.family`, `network.operations` and
    /// `network.classes`. The run's `recipe.toml` and its checkpoints then hold the operations, so that any program
    /// can use and resume them.
    ///
    /// # Errors
    /// If the network takes other images than 3x32x32, to which all data sets are brought.
    ///
    /// # Example
    ///
    /// ```
    /// use crescendo_network::{Activation, Init, NetworkBuilder, Operation, Shape};
    /// use crescendo_training::Recipe;
    ///
    /// let mut network = NetworkBuilder::new(Shape::Maps { channels: 3, height: 32, width: 32 });
    /// let images = network.images();
    /// let x = network.add("flatten", Operation::Flatten, [images]);
    /// let linear = |outputs| Operation::Linear { outputs, bias: true, init: Init::Uniform };
    /// let x = network.add("hidden", linear(64), [x]);
    /// let x = network.add("relu", Operation::Activation(Activation::Relu), [x]);
    /// network.add("logits", linear(10), [x]);
    ///
    /// let recipe = Recipe::builder("quick")?.custom_network(&network.finish())?.build()?;
    /// assert_eq!(crescendo_training::graph(&recipe)?.classes(), 10);
    /// # Ok::<(), crescendo_training::Error>(())
    /// ```
    pub fn custom_network(mut self, network: &Network) -> Result<Self, Error> {
        let (given, taken) = (network.input, input_shape());
        if given != taken {
            return Err(Error::Recipe(format!(
                "the network takes images of {given}, but all data is brought to {taken}: describe it for these"
            )));
        }
        let config = &mut self.0.network;
        config.family = Family::Custom;
        config.operations.clone_from(&network.nodes);
        // The graph says so if it is invalid.
        if let Ok(graph) = crescendo_network::Graph::new(network) {
            config.classes = graph.classes();
        }
        Ok(self)
    }

    /// The recipe.
    ///
    /// # Errors
    /// If a value is invalid.
    pub fn build(self) -> Result<Recipe, Error> {
        // By way of a table, so that a recipe can have nothing that its file cannot.
        let table = Table::try_from(&self.0).map_err(|_| {
            Error::Recipe(format!("a number of the recipe is larger than {}", i64::MAX))
        })?;
        Recipe::from_table(table)
    }
}

#[cfg(test)]
mod tests {
    use crescendo_network::{Init, NetworkBuilder, Operation, Shape};

    use super::*;

    #[test]
    fn what_a_file_cannot_have_is_refused() {
        let build = |change: fn(&mut TrainConfig)| {
            Recipe::builder("quick")
                .unwrap()
                .train(change)
                .build()
                .map_err(|error| error.to_string())
        };
        assert!(build(|train| train.seed = i64::MAX as u64).is_ok());
        let error = build(|train| train.seed = u64::MAX).unwrap_err();
        assert_eq!(error, "a number of the recipe is larger than 9223372036854775807");
        let error = build(|train| train.label_smoothing = f64::NAN).unwrap_err();
        assert!(error.contains("train.label_smoothing must be"), "{error}");
    }

    #[test]
    fn an_invalid_network_is_refused_in_a_sentence() {
        let network = |input, outputs| {
            let mut builder = NetworkBuilder::new(input);
            let x = builder.add("flatten", Operation::Flatten, [builder.images()]);
            builder.add("fc", Operation::Linear { outputs, bias: true, init: Init::Uniform }, [x]);
            builder.finish()
        };
        let build = |network: &Network| {
            let builder = Recipe::builder("quick").unwrap().custom_network(network)?;
            builder.build()
        };
        let error = |network| build(&network).unwrap_err().to_string();
        let grey = Shape::Maps { channels: 1, height: 28, width: 28 };
        assert_eq!(
            error(network(grey, 10)),
            "the network takes images of 1x28x28, but all data is brought to 3x32x32: describe it for these"
        );
        assert_eq!(build(&network(input_shape(), 7)).unwrap().network.classes, 7);
        assert_eq!(
            error(network(input_shape(), 0)),
            "network.operations: fc: outputs must be at least 1"
        );
        assert!(error(network(input_shape(), 1)).contains("network.classes must be from 2"));
    }
}
