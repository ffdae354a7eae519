//! The sizes that the section `[batch]` allows.

use crate::recipe::{BatchConfig, BatchPolicyKind, Coupling, value_at};

/// The largest batch that a recipe can ask for.
pub(crate) const MAX_BATCH_SIZE: usize = 1_000_000;

impl BatchConfig {
    /// Lowers all sizes, whether the policy uses them or not, to `most`. Whether that changed any.
    pub(super) fn lower_all(&mut self, most: usize) -> bool {
        let steps = self.steps.iter_mut().map(|step| &mut step.1);
        lower(steps.chain([&mut self.size, &mut self.initial, &mut self.max]), most)
    }

    /// Lowers the sizes that the policy uses.
    pub(super) fn lower_used(&mut self, most: usize) {
        match self.policy {
            BatchPolicyKind::Fixed => lower([&mut self.size], most),
            BatchPolicyKind::Steps => lower(self.steps.iter_mut().map(|step| &mut step.1), most),
            BatchPolicyKind::Plateau | BatchPolicyKind::NoiseScale | BatchPolicyKind::FromLr => {
                lower([&mut self.initial, &mut self.max], most)
            }
            BatchPolicyKind::Custom => lower([&mut self.initial], most),
        };
    }

    /// Whether these are the sizes of another section, lowered to the largest of them.
    pub(crate) fn is_lowered_from(&self, other: &Self) -> bool {
        let most = match self.policy {
            BatchPolicyKind::Fixed => Some(self.size),
            BatchPolicyKind::Steps => self.steps.iter().map(|step| step.1).max(),
            BatchPolicyKind::Plateau | BatchPolicyKind::NoiseScale | BatchPolicyKind::FromLr => {
                Some(self.max)
            }
            BatchPolicyKind::Custom => Some(self.initial),
        };
        let mut lowered = other.clone();
        lowered.lower_used(most.unwrap_or_default());
        lowered == *self
    }

    /// The key with the largest size of the policy.
    pub(super) fn largest_key(&self) -> &'static str {
        match self.policy {
            BatchPolicyKind::Fixed => "batch.size",
            BatchPolicyKind::Steps => "batch.steps",
            BatchPolicyKind::Plateau | BatchPolicyKind::NoiseScale | BatchPolicyKind::FromLr => {
                "batch.max"
            }
            BatchPolicyKind::Custom => "batch.initial",
        }
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

/// Lowers sizes to `most`. Whether that changed any.
fn lower<'a>(sizes: impl IntoIterator<Item = &'a mut usize>, most: usize) -> bool {
    let mut changed = false;
    for size in sizes {
        changed |= *size > most;
        *size = most.min(*size);
    }
    changed
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
