//! The filters of a network's first convolution, which can be looked at as pictures.

use std::path::Path;

use crescendo_data::ImageShape;
use serde_json::Value;

use crate::run::saved_state;
use crate::tensors::{Metadata, PartOfFile};
use crate::{Error, checkpoint, graph, read_record};

/// The filters of the first convolution, from the newest weights in a run's folder.
///
/// # Example
///
/// ```
/// use crescendo_cpu::CpuDevices;
/// use crescendo_training::{FirstFilters, Recipe, Run, Start};
///
/// let recipe = Recipe::load("quick", &["network.widths=[4, 4, 4]"])?;
/// let data = crescendo_data::shapes::generate(0, 200, 100);
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("run");
/// Run::create(&folder, &Start::new(&recipe, &data, &CpuDevices))?;
/// let filters = FirstFilters::read(&folder)?.expect("the network begins with a convolution");
/// assert_eq!((filters.count, filters.height, filters.width), (4, 3, 3));
/// assert_eq!((filters.values.len(), filters.updates), (4 * 3 * 3 * 3, 0));
/// # Ok::<(), crescendo_training::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FirstFilters {
    /// The tensor's name.
    pub name: String,
    /// Updates before the weights were saved.
    pub updates: u64,
    /// The number of filters.
    pub count: usize,
    /// Rows of a filter.
    pub height: usize,
    /// Columns of a filter.
    pub width: usize,
    /// `[count, 3, height, width]`: red, green and blue.
    pub values: Vec<f32>,
}

impl FirstFilters {
    /// Reads those of the run in `folder`; `None` if its network does not begin with a convolution of images, or there
    /// are no weights. With an average of the weights, they are the average's.
    ///
    /// # Errors
    /// If there is no run, or its files cannot be read or are damaged.
    pub fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let graph = graph(&read_record(folder)?.recipe)?;
        let weights = graph.nodes.iter().filter_map(|node| node.weight);
        let first = weights.map(|index| &graph.parameters[index]).next();
        let Some(parameter) = first else { return Ok(None) };
        let &[count, channels, height, width] = &parameter.shape[..] else { return Ok(None) };
        if channels != ImageShape::CIFAR.channels {
            return Ok(None);
        }
        // No file in `weights/` is newer than the state.
        let state = saved_state::path(folder);
        let (path, prefixes) = match state.is_file() {
            true => (state, &["average/", "model/"][..]),
            false => match checkpoint::latest(folder)? {
                Some(path) => (path, &[""][..]),
                None => return Ok(None),
            },
        };
        let mut file = PartOfFile::open(&path)?;
        let updates = updates(&file.metadata);
        for prefix in prefixes {
            let name = format!("{prefix}{}", parameter.name);
            if let Some(values) = file.numbers(&name, &parameter.shape)? {
                let name = parameter.name.clone();
                return Ok(Some(FirstFilters { name, updates, count, height, width, values }));
            }
        }
        Ok(None)
    }
}

/// The updates that a state's progress, or a checkpoint, says.
fn updates(metadata: &Metadata) -> u64 {
    let progress =
        metadata.get("progress").and_then(|text| serde_json::from_str::<Value>(text).ok());
    let of_state = progress.and_then(|progress| progress["updates"].as_u64());
    let of_checkpoint = || metadata.get("updates")?.parse().ok();
    of_state.or_else(of_checkpoint).unwrap_or_default()
}
