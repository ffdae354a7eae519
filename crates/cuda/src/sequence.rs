//! Launches that are run again and again, with what the host does in between.

use std::collections::HashMap;
use std::hash::Hash;

use crescendo_network::{Communicator, EngineError};

use crate::driver::{Driver, Launch, Program};
use crate::pass::{Action, HostAction};
use crate::state::State;

/// Sequences that are kept: batch sizes come again, but an adaptive policy may use many.
const MOST_SEQUENCES: usize = 48;

/// Launches, and what follows them on the host.
struct Piece {
    program: Option<Box<dyn Program>>,
    /// The step and the direction of each launch.
    steps: Vec<(Option<usize>, bool)>,
    then: Option<HostAction>,
}

/// The pieces in order.
pub(crate) struct Sequence(Vec<Piece>);

impl Sequence {
    pub fn new(driver: &dyn Driver, actions: Vec<Action>) -> Result<Self, EngineError> {
        let mut pieces = Vec::new();
        let (mut launches, mut steps) = (Vec::new(), Vec::new());
        let mut end = |launches: &mut Vec<Launch>, steps: &mut Vec<_>, then| {
            let program = match launches.is_empty() {
                true => None,
                false => Some(driver.prepare(launches)?),
            };
            launches.clear();
            pieces.push(Piece { program, steps: std::mem::take(steps), then });
            Ok::<(), EngineError>(())
        };
        for action in actions {
            match action {
                Action::Launch { launch, step, backward } => {
                    launches.push(launch);
                    steps.push((step, backward));
                }
                Action::Host(host) => end(&mut launches, &mut steps, Some(host))?,
            }
        }
        end(&mut launches, &mut steps, None)?;
        Ok(Sequence(pieces))
    }

    /// Runs everything; adds the time of each launch to its step's if there are `seconds`.
    pub fn run(
        &mut self,
        mut seconds: Option<&mut Vec<[f64; 2]>>,
        mut host: impl FnMut(&HostAction) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        for Piece { program, steps, then } in &mut self.0 {
            match (program, &mut seconds) {
                (None, _) => {}
                (Some(program), None) => program.run()?,
                (Some(program), Some(seconds)) => {
                    let times = program.run_timed()?;
                    for (time, &(step, backward)) in times.into_iter().zip(steps.iter()) {
                        if let Some(step) = step {
                            seconds[step][usize::from(backward)] += time;
                        }
                    }
                }
            }
            if let Some(action) = then {
                host(action)?;
            }
        }
        Ok(())
    }
}

/// Sequences that were run before, under the keys of what they do.
pub(crate) struct Sequences<K> {
    /// Each with the number of its last run.
    known: HashMap<K, (Sequence, u64)>,
    runs: u64,
}

impl<K: Clone + Eq + Hash> Sequences<K> {
    pub fn new() -> Self {
        Sequences { known: HashMap::new(), runs: 0 }
    }

    pub fn clear(&mut self) {
        self.known.clear();
    }

    /// Takes one out.
    pub fn take(&mut self, key: &K) -> Option<Sequence> {
        self.known.remove(key).map(|(sequence, _)| sequence)
    }

    /// Keeps one, and drops the one that was not used for the longest time if there are many.
    pub fn keep(&mut self, key: K, sequence: Sequence) {
        self.runs += 1;
        self.known.insert(key, (sequence, self.runs));
        if self.known.len() > MOST_SEQUENCES {
            let oldest = self.known.iter().min_by_key(|(_, (_, run))| *run);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.known.remove(&oldest);
            }
        }
    }
}

impl HostAction {
    /// Does it, through the host's memory.
    pub fn run(
        &self,
        driver: &dyn Driver,
        state: &State,
        gradients: &mut [f32],
        communicator: &mut dyn Communicator,
    ) -> Result<(), EngineError> {
        let mut sum = |address, len: usize| {
            let mut totals = vec![0.0f64; len];
            driver.download(address, bytemuck::cast_slice_mut(&mut totals))?;
            communicator.sum(&mut totals)?;
            driver.upload(address, bytemuck::cast_slice(&totals))
        };
        match self {
            &HostAction::SumStatistics(norm) => {
                let norm = &state.norms[norm];
                sum(norm.totals, 2 * norm.channels + 1)
            }
            &HostAction::SumGradients(norm) => {
                let norm = &state.norms[norm];
                sum(norm.gradient_totals, 2 * norm.channels)
            }
            HostAction::Final(range) => {
                let address = state.gradients.address + 4 * range.start as u64;
                let bytes = bytemuck::cast_slice_mut(&mut gradients[range.clone()]);
                driver.download(address, bytes)?;
                communicator.gradients_final(range.clone(), gradients)
            }
        }
    }
}
