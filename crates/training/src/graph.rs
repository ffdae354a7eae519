//! The graph of a recipe's network.

use crescendo_data::ImageShape;
use crescendo_network::{Graph, Network, NetworkConfig, Shape};

use crate::{Error, Recipe};

/// The shape of the images of every data set, as networks take it.
pub(crate) const fn input_shape() -> Shape {
    let ImageShape { channels, height, width } = ImageShape::CIFAR;
    Shape::Maps { channels, height, width }
}

/// The graph of a recipe's network for images of full size.
///
/// # Example
///
/// ```
/// use crescendo_training::{Recipe, graph, graph_for};
///
/// let recipe = Recipe::load("report", &["network.classes=100"])?;
/// // Parameters and names do not depend on the size of the images.
/// let (full, small) = (graph(&recipe)?, graph_for(&recipe, 16)?);
/// assert_eq!(full.parameter_count(), small.parameter_count());
/// assert_eq!(full.input.len(), 4 * small.input.len());
/// # Ok::<(), crescendo_training::Error>(())
/// ```
///
/// # Errors
/// If the section `[network]` is invalid.
pub fn graph(recipe: &Recipe) -> Result<Graph, Error> {
    graph_for(recipe, ImageShape::CIFAR.width)
}

/// As [`graph`], for images that are resized to `image_size` x `image_size` pixels.
///
/// See the example of [`graph`].
///
/// # Errors
/// If the section `[network]` is invalid, or the network does not take such images.
pub fn graph_for(recipe: &Recipe, image_size: usize) -> Result<Graph, Error> {
    let network = resized(&recipe.network, image_size);
    let graph = network.and_then(|network| Graph::new(&network));
    graph.map_err(|error| Error::Recipe(error.to_string()))
}

/// The network for images that are resized to `image_size` x `image_size` pixels.
pub(crate) fn resized(
    network: &NetworkConfig,
    image_size: usize,
) -> Result<Network, crescendo_network::Error> {
    network.network_resized(input_shape(), image_size)
}
