//! The sizes that the section `[batch]` allows.

use crate::recipe::{BatchConfig, Coupling, value_at};

/// The largest batch that a recipe can ask for.
pub(crate) const MAX_BATCH_SIZE: usize = 1_000_000;

impl BatchConfig {
    /// Lowers all sizes until an epoch of so many training images has [`Self::least_updates`] updates. Gives
    /// the largest possible size, if that changed any.
    pub(crate) fn shrink_to_data(&mut self, images: usize) -> Option<usize> {
        let most = images.checked_div(self.least_updates)?.max(1);
        let mut changed = false;
        let steps = self.steps.iter_mut().map(|step| &mut step.1);
        for size in steps.chain([&mut self.size, &mut self.initial, &mut self.max]) {
            changed |= *size > most;
            *size = most.min(*size);
        }
        changed.then_some(most)
    }

    /// The size in an epoch by the policy `steps`.
    pub(super) fn by_table(&self, epoch: u32) -> usize {
        value_at(&self.steps, epoch).expect("a recipe's steps begin with epoch 1")
    }

    /// The next larger size of the policies that measure.
    pub(super) fn larger(&self, size: usize) -> usize {
        let larger = (size as f64 * self.factor).round() as usize;
        larger.max(size + 1).min(self.max)
    }

    /// Their next smaller size.
    pub(super) fn smaller(&self, size: usize) -> usize {
        self.reachable().into_iter().rfind(|&smaller| smaller < size).unwrap_or(self.initial)
    }

    /// The size that has the same effect on the noise of SGD as multiplying the learning rate by `factor`: a
    /// multiple of the first size (Smith et al. 2017, arXiv 1711.00489).
    pub(super) fn for_rate(&self, factor: f64) -> usize {
        // Slightly more, because factors such as 0.1 are not exact in binary.
        let multiple = (1.0 / factor * (1.0 + 1e-9)).min(MAX_BATCH_SIZE as f64) as usize;
        self.initial.saturating_mul(multiple.max(1)).min(self.max)
    }

    /// All sizes that a policy that measures can choose, in rising order.
    pub(crate) fn reachable(&self) -> Vec<usize> {
        let next = |&size: &usize| (size < self.max).then(|| self.larger(size));
        std::iter::successors(Some(self.initial), next).collect()
    }
}

impl Coupling {
    /// The learning rate's factor when the batch size is multiplied by `growth`.
    pub(super) fn factor(self, growth: f64) -> f64 {
        match self {
            Coupling::Constant => 1.0,
            Coupling::Sqrt => growth.sqrt(),
            Coupling::Linear => growth,
        }
    }
}
