//! The state as tensors: what is exported, imported and saved.

use std::ops::Range;
use std::sync::Arc;

use crescendo_network::{
    EngineError, Graph, Section, Snapshot, State as Tensors, StateKind, Tensor, TensorData,
    check_tensors,
};

use super::State;
use crate::driver::{Buffer, Driver};

/// A tensor of a section, and where its values are.
struct Entry {
    name: String,
    shape: Vec<usize>,
    place: Place,
}

enum Place {
    /// Numbers of the section's buffer.
    Numbers(Range<usize>),
    /// A count, by its index.
    Count(usize),
}

/// The tensors of entries, from the numbers of their buffer and the counts.
fn tensors(entries: Vec<Entry>, numbers: &[f32], counts: &[i64]) -> Vec<Tensor<'static>> {
    let tensor = |Entry { name, shape, place }| match place {
        Place::Numbers(range) => Tensor::f32(name, shape, numbers[range].to_vec()),
        Place::Count(index) => {
            Tensor { name: name.into(), shape, data: TensorData::I64(counts[index]) }
        }
    };
    entries.into_iter().map(tensor).collect()
}

/// The numbers of bytes that were copied from a card.
fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()
}

impl State {
    /// Where a section lies; `None` for an average that is not there yet.
    fn buffer(&self, section: Section) -> Option<&Buffer> {
        match section {
            Section::Model => Some(&self.model),
            Section::Average => self.average.as_ref(),
            Section::Gradients => Some(&self.gradients),
            Section::Momentum => Some(&self.momentum),
        }
    }

    fn entries(&self, graph: &Graph, section: Section) -> Vec<Entry> {
        if matches!(section, Section::Gradients | Section::Momentum) {
            let entry = |parameter: &crescendo_network::Parameter| Entry {
                name: parameter.name.clone(),
                shape: parameter.shape.clone(),
                place: Place::Numbers(parameter.range.clone()),
            };
            return graph.parameters.iter().map(entry).collect();
        }
        let state = graph.state().into_iter();
        let state = state.filter(|tensor| section == Section::Model || !tensor.kind.is_count());
        let entry = |tensor: crescendo_network::StateTensor| {
            let place = match tensor.kind {
                StateKind::BatchesTracked(index) => Place::Count(index),
                kind => Place::Numbers(
                    self.layout.range(graph, kind).expect("only a count has no numbers"),
                ),
            };
            Entry { name: tensor.name, shape: tensor.shape, place }
        };
        state.map(entry).collect()
    }

    /// The tensors of a section; none of an average that is not there yet.
    pub fn export(
        &self,
        driver: &dyn Driver,
        graph: &Graph,
        section: Section,
    ) -> Result<Vec<Tensor<'static>>, EngineError> {
        let Some(buffer) = self.buffer(section) else { return Ok(Vec::new()) };
        let mut values = vec![0.0f32; buffer.len / 4];
        driver.download(buffer.address, bytemuck::cast_slice_mut(&mut values))?;
        Ok(tensors(self.entries(graph, section), &values, &self.batches_tracked))
    }

    /// Replaces all tensors of a section; makes an average where there is none.
    pub fn import(
        &mut self,
        driver: &Arc<dyn Driver>,
        graph: &Graph,
        section: Section,
        given: &[Tensor],
    ) -> Result<(), EngineError> {
        let len = match section {
            Section::Model | Section::Average => self.layout.len(),
            Section::Gradients | Section::Momentum => graph.parameter_count(),
        };
        let mut values = vec![0.0f32; len];
        let expected = tensors(self.entries(graph, section), &values, &self.batches_tracked);
        let given = check_tensors(&expected, given)?;
        if section == Section::Average {
            self.make_average(driver)?;
        }
        for (Entry { place, .. }, data) in self.entries(graph, section).into_iter().zip(given) {
            match (place, data) {
                (Place::Numbers(range), TensorData::F32(from)) => {
                    values[range].copy_from_slice(from);
                }
                (Place::Count(index), TensorData::I64(count)) => {
                    self.batches_tracked[index] = *count;
                }
                _ => unreachable!("the types were checked"),
            }
        }
        let buffer = self.buffer(section).expect("an average was made above");
        driver.upload(buffer.address, bytemuck::cast_slice(&values))
    }

    /// Makes the memory of an average.
    pub fn make_average(&mut self, driver: &Arc<dyn Driver>) -> Result<(), EngineError> {
        if self.average.is_none() {
            self.average = Some(Buffer::zeros(driver, self.model.len)?);
        }
        Ok(())
    }

    /// Begins to copy what is saved; the copy waits for it, and the card goes on meanwhile.
    pub fn snapshot(
        &self,
        driver: &dyn Driver,
        graph: &Graph,
    ) -> Result<Snapshot<'static>, EngineError> {
        let mut copies = Vec::new();
        for section in [Section::Model, Section::Momentum, Section::Average] {
            let begin = |buffer: &Buffer| driver.begin_download(buffer.address, buffer.len);
            let download = self.buffer(section).map(begin).transpose()?;
            copies.push((section, self.entries(graph, section), download));
        }
        let counts = self.batches_tracked.clone();
        Ok(Snapshot::Copy(Box::new(move || {
            let mut state: Tensors = Vec::new();
            for (section, entries, download) in copies {
                let tensors = match download {
                    Some(mut download) => {
                        let bytes = download.bytes(true)?.expect("it has waited");
                        tensors(entries, &numbers(&bytes), &counts)
                    }
                    None => Vec::new(),
                };
                state.push((section, tensors));
            }
            Ok(state)
        })))
    }
}
