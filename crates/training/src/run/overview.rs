//! What a run is and how far it is, without opening it: another program may be training it.

use std::path::Path;

use crescendo_data::file_system::is_locked;

use super::{Progress, saved_state};
use crate::record::{Record, read_record};
use crate::{Error, RunFacts};

/// A run as its folder says, read quickly from its small files and without locking it.
///
/// # Example
///
/// ```
/// use crescendo_cpu::CpuDevices;
/// use crescendo_training::{Overview, Recipe, Run, Start};
///
/// let data = crescendo_data::shapes::generate(0, 60, 20);
/// let recipe = Recipe::load("quick", &["train.epochs=1", "network.widths=[4, 4, 4]"])?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("run");
/// let mut run = Run::create(&folder, &Start::new(&recipe, &data, &CpuDevices))?;
/// assert!(Overview::read(&folder)?.in_training);
/// run.train(&CpuDevices, &data, &mut (), &false.into())?;
/// drop(run);
/// let overview = Overview::read(&folder)?;
/// assert!(overview.progress.ended && !overview.in_training);
/// assert_eq!(overview.record.recipe.network, recipe.network);
/// assert!(overview.created.ends_with('Z'));
/// # Ok::<(), crescendo_training::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Overview {
    /// What the run is.
    pub record: Record,
    /// How far it was when its state was last saved.
    pub progress: Progress,
    /// When it was created, in UTC: `2026-11-27T09:30:05Z`. Of a run of an earlier version, when its recipe was last
    /// written; empty if that is not known.
    pub created: String,
    /// Whether a program has opened it, to train it.
    pub in_training: bool,
}

impl Overview {
    /// Reads it.
    ///
    /// # Errors
    /// If `folder` holds no run, or a file is damaged.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let record = read_record(folder)?;
        let progress = saved_state::read_progress(folder)?;
        let lock = super::lock_path(folder);
        let in_training = is_locked(&lock).map_err(|error| Error::io("lock", &lock, error))?;
        Ok(Overview { record, progress, created: RunFacts::created(folder), in_training })
    }
}
