//! BatchNorm between the steps: from a kernel's sums to statistics and factors, forward and backward.

use crescendo_kernels::norm::{self, BatchMoments, NormBackward};
use crescendo_kernels::{LeafSum, MapShape, Processor};
use crescendo_network::{EngineError, Operation};

use super::{Mode, Pass};
use crate::buffers::sums_len;
use crate::gradient_sums::Grouping;

impl Pass<'_> {
    /// Computes a BatchNorm's factors from its running statistics.
    pub(super) fn use_running_statistics(&mut self, norm: usize) {
        let range = self.plan.graph.statistics[norm].range.clone();
        let (_, eps, _) = self.batch_norm(norm);
        for (channel, at) in range.enumerate() {
            let moments = BatchMoments {
                mean: self.state.model.means[at].into(),
                variance: self.state.model.variances[at].into(),
            };
            self.set_affine(norm, channel, moments, eps);
        }
    }

    fn set_affine(&mut self, norm: usize, channel: usize, moments: BatchMoments, eps: f64) {
        let norm = &mut self.state.norms[norm];
        let (weight, bias) = self.state.model.parameters(&self.plan.graph, norm.node);
        let (scale, shift) = moments.affine(eps, weight[channel], bias[channel]);
        norm.scale[channel] = scale;
        norm.shift[channel] = shift;
    }

    /// The operation of a BatchNorm, its epsilon, and the weight of a new batch.
    fn batch_norm(&self, norm: usize) -> (usize, f64, f64) {
        let node = self.state.norms[norm].node;
        match self.plan.graph.nodes[node].operation {
            Operation::BatchNorm { eps, new_weight, .. } => (node, eps, new_weight),
            _ => unreachable!("statistics belong to a BatchNorm"),
        }
    }

    /// The sums over the images of a process, from those over each image: over each leaf, and over all.
    fn sum_over_batch(
        processor: &Processor,
        grouping: &Grouping,
        maps: MapShape,
        sums: &[f64],
        by_leaf: &mut [f64],
        totals: &mut [f64],
    ) {
        let by_leaf = &mut by_leaf[..grouping.leaves.list().len() * totals.len()];
        let sums = &sums[..sums_len(maps)];
        norm::sum_over_images(processor, maps, &grouping.leaves, sums, by_leaf);
        norm::sum_over_leaves(&grouping.leaves, by_leaf, totals);
    }

    /// From the sums of the batch to its moments, the factors, and new running statistics.
    pub(super) fn finish_statistics(
        &mut self,
        norm: usize,
        maps: MapShape,
    ) -> Result<(), EngineError> {
        let range = self.plan.graph.statistics[norm].range.clone();
        let (_, eps, mut new_weight) = self.batch_norm(norm);
        match self.mode {
            Mode::Training { alone: Some(_), .. } => {}
            Mode::Training { new_weight: Some(weight), .. } => new_weight = weight,
            _ => self.state.batches_tracked[norm] += 1,
        }
        let sums = &mut self.buffers.totals[..2 * range.len()];
        Self::sum_over_batch(
            self.processor,
            &self.grouping,
            maps,
            &self.buffers.sums[0],
            &mut self.buffers.by_leaf,
            sums,
        );
        let (mut images, mut group) = (maps.images, None);
        if let Mode::Training { communicator, micro_batch, alone, .. } = &mut self.mode {
            (images, group) = (*micro_batch, *alone);
            if group.is_none() {
                communicator.sum(sums)?;
            }
        }
        let count = (images * maps.pixels()) as f64;
        let unbiased = count / (count - 1.0).max(1.0);
        for (channel, at) in range.enumerate() {
            let sums = &self.buffers.totals[2 * channel..];
            let offset = f64::from(self.state.norms[norm].sum_offset[channel]);
            let moments = BatchMoments::from_sums(sums[0], sums[1], count, offset);
            let blend = |old: f32, new: f64| {
                ((1.0 - new_weight) * f64::from(old) + new_weight * new) as f32
            };
            let state = &mut *self.state;
            let variance = moments.variance * unbiased;
            if let Some(group) = group {
                let at = 2 * (group * state.model.means.len() + at);
                state.moments_of_groups[at..at + 2].copy_from_slice(&[moments.mean, variance]);
            } else {
                state.model.means[at] = blend(state.model.means[at], moments.mean);
                state.model.variances[at] = blend(state.model.variances[at], variance);
            }
            state.norms[norm].moments[channel] = moments;
            state.norms[norm].mean[channel] = moments.mean as f32;
            self.set_affine(norm, channel, moments, eps);
        }
        self.state.norms[norm].count = count;
        Ok(())
    }

    /// From the sums of the gradient to BatchNorm's own gradients, and to the coefficients with which its
    /// input's gradient is computed.
    pub(super) fn finish_norm_backward(
        &mut self,
        which: usize,
        norm: usize,
        maps: MapShape,
    ) -> Result<(), EngineError> {
        if let (0, Mode::Training { alone: Some(_), .. }) = (self.count, &self.mode) {
            return Ok(());
        }
        let (node, eps, _) = self.batch_norm(norm);
        let graph = &self.plan.graph;
        let (grouping, by_leaf) = (&self.grouping, &mut self.buffers.by_leaf);
        let sums = &mut self.buffers.totals[..2 * maps.channels];
        Self::sum_over_batch(
            self.processor,
            grouping,
            maps,
            &self.buffers.sums[which],
            by_leaf,
            sums,
        );
        // Each process adds its own part to the gradients here; the update sums them.
        let requires_grad = &self.state.requires_grad;
        let trained = |parameter: Option<usize>| parameter.is_some_and(|p| requires_grad[p]);
        let layer = &graph.nodes[node];
        let wanted = [trained(layer.weight), trained(layer.bias)];
        let mut gradients = self.state.gradients.split(graph.parameter_range(node), maps.channels);
        let (leaves, offset) = (grouping.leaves.list(), grouping.of_leaves().start);
        for channel in 0..maps.channels {
            let moments = self.state.norms[norm].moments[channel];
            let mut totals = [LeafSum::<f32>::default(); 2];
            for (index, leaf) in leaves.iter().enumerate() {
                let sums = &by_leaf[2 * (index * maps.channels + channel)..][..2];
                let backward = NormBackward::from_sums(sums[0], sums[1], moments, eps);
                totals[0].add(backward.dweight as f32, leaf.joins());
                totals[1].add(backward.dbias as f32, leaf.joins());
                if leaves.get(index + 1).is_none_or(|next| next.group() != leaf.group()) {
                    let each = gradients.iter_mut().zip(&mut totals).zip(wanted);
                    for ((gradients, total), wanted) in each {
                        let total = total.total();
                        if wanted {
                            gradients[offset + leaf.group()][channel] += total;
                        }
                    }
                }
            }
        }
        if let Mode::Training { communicator, alone: None, .. } = &mut self.mode {
            communicator.sum(sums)?;
        }
        let (weight, _) = self.state.model.parameters(graph, node);
        let norm = &mut self.state.norms[norm];
        for (channel, sums) in sums.chunks_exact(2).enumerate() {
            let moments = norm.moments[channel];
            let backward = NormBackward::from_sums(sums[0], sums[1], moments, eps);
            let abc = backward.coefficients(moments, eps, weight[channel], norm.count);
            for (coefficients, value) in norm.abc.iter_mut().zip(abc) {
                coefficients[channel] = value;
            }
        }
        Ok(())
    }
}
