//! What is summed in parts: halves of a batch, and the parts of several processes.

use crescendo_network::{BatchPart, Engine, EngineError, MicroBatch, Operation};

use super::{Alone, CudaEngine, Key, Purpose, ResultHead, Source, update};
use crate::state::SecondHalf;

impl CudaEngine {
    /// Forward and backward, in a batch of one micro-batch for the loss of one half after that of the other.
    pub(super) fn accumulate_halves(
        &mut self,
        batch: &MicroBatch,
        training: Purpose,
        source: Option<Source>,
    ) -> Result<(), EngineError> {
        if self.state.second_half.is_none() {
            self.state.second_half = Some(SecondHalf::new(&self.driver, self.graph())?);
        }
        self.pending.halves = Some(batch.part.halves());
        let (all, in_second) = (0..batch.labels.len(), batch.part.is_in_second_half());
        let mut second = (all.clone(), source);
        if !batch.part.is_only() && !in_second {
            let pass = self.training_pass(batch, all, -1.0, training, source)?;
            return self.run_pass(Key::Pass(pass), pass);
        }
        if batch.part.is_only() {
            let first = batch.part.first_half();
            second = (first.end..all.end, None);
            // The running statistics take in the batch once.
            let pass = self.training_pass(batch, first, 0.0, Purpose::FirstHalf, source)?;
            self.run_pass(Key::Pass(pass), pass)?;
        }
        self.exchange_halves()?;
        let pass = self.training_pass(batch, second.0, -1.0, training, second.1)?;
        self.run_pass(Key::Pass(pass), pass)?;
        self.exchange_halves()
    }

    pub(super) fn exchange_halves(&mut self) -> Result<(), EngineError> {
        self.run(Key::ExchangeHalves, |engine| {
            let second = engine.state.second_half.as_ref().expect("it is measured");
            vec![update::exchange_halves(engine.graph(), &engine.state, second)]
        })
    }

    /// Sums the gradients over all processes.
    pub(super) fn sum_over_processes(&mut self) -> Result<(), EngineError> {
        let Some(communicator) = &mut self.communicator else { return Ok(()) };
        let (driver, address) = (&self.driver, self.state.gradients.address);
        let gradients = &mut self.host_gradients;
        driver.download(address, bytemuck::cast_slice_mut(gradients))?;
        let second = self.state.second_half.as_ref().filter(|_| self.pending.halves.is_some());
        if let Some(second) = second {
            let mut host = vec![0.0f32; gradients.len()];
            driver.download(second.gradients.address, bytemuck::cast_slice_mut(&mut host))?;
            communicator.sum_halves([gradients, &mut host])?;
            driver.upload(second.gradients.address, bytemuck::cast_slice(&host))?;
        } else {
            communicator.sum_gradients(gradients)?;
        }
        driver.upload(address, bytemuck::cast_slice(gradients))?;
        let mut sums = [0.0; 2];
        if self.pending.begun {
            let mut head = ResultHead::default();
            driver.download(self.state.result.address, bytemuck::bytes_of_mut(&mut head))?;
            sums = [head.loss, head.correct as f64];
        }
        communicator.sum(&mut sums)?;
        self.pending.summed = Some(sums);
        self.pending.alone.take().map_or(Ok(()), |alone| self.sum_statistics(alone))
    }

    /// Notes a micro-batch that is this process's alone.
    pub(super) fn note_alone(&mut self, part: &BatchPart) -> Result<(), EngineError> {
        let (index, all) = part.index();
        if self.pending.alone.is_none() {
            let mut statistics = vec![0.0; 2 * self.graph().statistic_count()];
            let address = self.state.statistics();
            self.driver.download(address, bytemuck::cast_slice_mut(&mut statistics))?;
            self.pending.alone = Some(Alone { statistics, own: index..index, all });
        }
        if let Some(alone) = self.pending.alone.as_mut().filter(|_| part.micro_batch() > 0) {
            alone.own.end = index + 1;
        }
        Ok(())
    }

    /// Takes the statistics of all micro-batches into the running ones, in their order, where each process has taken in its
    /// own: these are `decay^own * before + new`.
    pub(super) fn sum_statistics(&mut self, alone: Alone) -> Result<(), EngineError> {
        let Alone { statistics: before, own, all } = alone;
        let graph = &self.plans[self.current].graph;
        let channels = graph.statistic_count();
        let mut decays = vec![0.0f64; channels];
        for node in &graph.nodes {
            let (Some(index), Operation::BatchNorm { new_weight, .. }) =
                (node.statistics, node.operation)
            else {
                continue;
            };
            decays[graph.statistics[index].range.clone()].fill(1.0 - new_weight);
            // One was counted for each part, which may be without images.
            self.state.batches_tracked[index] += all as i64 - own.len().max(1) as i64;
        }
        let decay = |at: usize, count: usize| decays[at % channels].powi(count as i32);
        let mut now = vec![0.0f32; before.len()];
        let address = self.state.statistics();
        self.driver.download(address, bytemuck::cast_slice_mut(&mut now))?;
        let own_part = |(at, (now, before)): (usize, (&f32, &f32))| {
            let new = f64::from(*now) - decay(at, own.len()) * f64::from(*before);
            decay(at, all - own.end) * new
        };
        let mut sums: Vec<f64> = now.iter().zip(&before).enumerate().map(own_part).collect();
        let communicator = self.communicator.as_mut().expect("a run with several processes");
        communicator.sum(&mut sums)?;
        for (at, (now, sum)) in now.iter_mut().zip(sums).enumerate() {
            *now = (decay(at, all) * f64::from(before[at]) + sum) as f32;
        }
        self.driver.upload(address, bytemuck::cast_slice(&now))
    }
}
