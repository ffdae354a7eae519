//! A trained network in memory: what a checkpoint holds and describes, without a device that computes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crescendo_data::{Normalization, Sizing, ValidationChoice};
use crescendo_network::{EngineError, Graph, StateTensor, Tensor, TensorData, check_tensors};

use crate::checkpoint::{About, Checkpoint, Described, SAY};
use crate::{Error, External, Recipe, tensors, version};

/// The weights of a checkpoint, checked against the network that it describes, and how images become its input.
///
/// # Example
///
/// ```
/// use crescendo_cpu::CpuDevices;
/// use crescendo_training::checkpoint::{self, Checkpoint};
/// use crescendo_training::{Recipe, Run, Start, TrainedNetwork};
///
/// let data = crescendo_data::shapes::generate(0, 100, 50);
/// let recipe = Recipe::load("quick", &["train.epochs=0", "network.widths=[4, 4, 4]"])?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("run");
/// let (recipe_name, data_location) = ("quick", "shapes:100,50");
/// let (init, devices) = (None, &CpuDevices);
/// let start = Start { recipe: &recipe, recipe_name, data: &data, data_location, init, devices };
/// Run::create(&folder, &start)?.train(devices, &data, &mut (), &false.into())?;
///
/// let network = TrainedNetwork::new(&Checkpoint::open(&checkpoint::path(&folder, 0))?, None)?;
/// assert_eq!(network.classes, data.classes);
/// assert_eq!(network.tensors[0].name, "start_layer.0.weight");
///
/// // Equal weights and descriptions make equal files.
/// let copies = ["a.safetensors", "b.safetensors"].map(|name| folder.join(name));
/// copies.iter().try_for_each(|copy| network.save(copy))?;
/// let [a, b] = copies.map(|copy| std::fs::read(copy).unwrap());
/// assert_eq!(a, b);
/// # Ok::<(), crescendo_training::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TrainedNetwork {
    /// Where the weights were read from.
    pub path: PathBuf,
    /// The recipe that they were trained by.
    pub recipe: Recipe,
    /// The network's graph, for images of full size.
    pub graph: Graph,
    /// The tensors of PyTorch's state, in the order of [`Graph::state`].
    pub tensors: Vec<Tensor<'static>>,
    /// The classes' names, in the order of the logits.
    pub classes: Vec<String>,
    /// How images are normalised.
    pub normalization: Normalization,
    /// How images are brought to the size that the network takes.
    pub sizing: Sizing,
    /// How validation images were chosen from the training images.
    pub validation: ValidationChoice,
    /// What the training data is called, or how the generated set was made; `None` if that is not known.
    pub data: Option<String>,
    /// Of which moment of its run the weights are, as far as the file says.
    pub about: About,
    /// What a user should know about the file, one sentence each.
    pub notes: Vec<String>,
}

impl TrainedNetwork {
    /// The network in a checkpoint that has been read; `external` describes a file of another program.
    ///
    /// # Errors
    /// If the file holds another network than its recipe describes, or does not describe it and `external` does
    /// not either.
    pub fn new(checkpoint: &Checkpoint, external: Option<External>) -> Result<Self, Error> {
        let path = checkpoint.path();
        let (recipe, normalization, classes, sizing) = match external {
            Some(External { recipe, classes, normalization, sizing }) => {
                let sizing = sizing.or(checkpoint.trained_on()?.sizing).unwrap_or_default();
                (recipe.clone(), normalization, classes, sizing)
            }
            None => {
                let (recipe, normalization, classes) = checkpoint.description()?;
                (recipe, normalization, classes, checkpoint.sizing()?)
            }
        };
        let graph = recipe.network.network(crate::graph::input_shape());
        let graph = graph.and_then(|network| Graph::new(&network));
        let graph = graph.map_err(|error| {
            Error::bad(path, format!("its recipe describes no valid network: {error}")).advise(SAY)
        })?;
        let tensors = in_order(path, &graph, checkpoint.model()?)?;
        if classes.len() != graph.classes() {
            let (names, outputs) = (classes.len(), graph.classes());
            let problem = format!("has {outputs} outputs, but names of {names} classes");
            return Err(Error::bad(path, problem));
        }
        Ok(TrainedNetwork {
            path: path.to_owned(),
            recipe,
            graph,
            tensors,
            classes,
            normalization,
            sizing,
            validation: checkpoint.validation(),
            data: checkpoint.data().map(str::to_owned),
            about: checkpoint.about(),
            notes: checkpoint.note().into_iter().collect(),
        })
    }

    /// The text beside the tensors in a checkpoint's file: classes, recipe, normalisation, data, epoch and so on, but
    /// nothing of the machine, no date and no path.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        Described {
            recipe: &self.recipe,
            version: version::OWN,
            classes: &self.classes,
            normalization: &self.normalization,
            sizing: self.sizing,
            validation: self.validation,
            data: self.data.as_deref(),
            about: &self.about,
        }
        .metadata()
    }

    /// Writes a checkpoint's file that describes its network, atomically.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        tensors::write(&[path], &self.tensors, self.metadata())
    }
}

/// The tensors in the order of the graph's state, if they are those of its network.
fn in_order(
    path: &Path,
    graph: &Graph,
    mut tensors: Vec<Tensor<'static>>,
) -> Result<Vec<Tensor<'static>>, Error> {
    let numbers: usize = tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
    // No memory is allocated for a network that the file only claims to hold.
    if numbers < graph.parameter_count() {
        let parameters = graph.parameter_count();
        let problem = format!("holds {numbers} numbers, but its network has {parameters}");
        return Err(Error::bad(path, problem).advise(SAY));
    }
    let expected: Vec<Tensor> = graph.state().into_iter().map(without_numbers).collect();
    check_tensors(&expected, &tensors).map_err(|error| match error {
        EngineError::WrongTensors(problem) => {
            let problem = format!("{problem}: it holds another network than its recipe describes");
            Error::bad(path, problem).advise(SAY)
        }
        other => other.into(),
    })?;
    let order: BTreeMap<&str, usize> =
        expected.iter().enumerate().map(|(index, tensor)| (&*tensor.name, index)).collect();
    tensors.sort_by_key(|tensor| order[&*tensor.name]);
    Ok(tensors)
}

/// A tensor of this name and shape.
fn without_numbers(StateTensor { name, shape, kind, .. }: StateTensor) -> Tensor<'static> {
    let data =
        if kind.is_count() { TensorData::I64(0) } else { TensorData::F32(Vec::new().into()) };
    Tensor { name: name.into(), shape, data }
}
