//! Batch policies: how many images an update takes.

use crate::Error;
use crate::recipe::{Batch, PolicyKind};

/// The batch size of `epoch`, counted from 1.
pub fn batch_size(batch: &Batch, epoch: u32) -> usize {
    match batch.policy {
        PolicyKind::Fixed => batch.size,
        PolicyKind::Steps => {
            let reached = batch.steps.iter().take_while(|step| step.0 <= epoch);
            reached.last().map_or(batch.size, |step| step.1)
        }
    }
}

/// The batch sizes of epochs 1 to `epochs`, each with the number of epochs it is used for.
pub fn schedule(batch: &Batch, epochs: u32) -> Vec<(usize, u32)> {
    let mut schedule: Vec<(usize, u32)> = Vec::new();
    for epoch in 1..=epochs {
        let size = batch_size(batch, epoch);
        match schedule.last_mut() {
            Some(last) if last.0 == size => last.1 += 1,
            _ => schedule.push((size, 1)),
        }
    }
    schedule
}

/// The most images of a batch.
const MOST: usize = 1_000_000;

/// Whether the policy's keys make sense.
pub(crate) fn check(batch: &Batch) -> Result<(), Error> {
    if !(1..=MOST).contains(&batch.size) {
        return Err(Error::Recipe(format!("batch.size must be from 1 to {MOST}")));
    }
    if batch.policy == PolicyKind::Fixed {
        return Ok(());
    }
    let problem = if batch.steps.first().is_none_or(|step| step.0 != 1) {
        "must begin with epoch 1"
    } else if !batch.steps.is_sorted_by(|a, b| a.0 < b.0) {
        "must name its epochs in rising order"
    } else if batch.steps.iter().any(|step| step.1 == 0) {
        "has a batch of no images"
    } else if batch.steps.iter().any(|step| step.1 > MOST) {
        "has a batch of more than a million images"
    } else {
        return Ok(());
    };
    Err(Error::Recipe(format!("batch.steps {problem}, as in [[1, 125], [61, 250]]")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reports_schedule() {
        let steps = vec![(1, 125), (61, 250), (71, 500), (81, 1000)];
        let batch = Batch { policy: PolicyKind::Steps, size: 7, steps };
        for (epoch, size) in [(1, 125), (60, 125), (61, 250), (70, 250), (71, 500), (90, 1000)] {
            assert_eq!(batch_size(&batch, epoch), size, "epoch {epoch}");
        }
        assert_eq!(schedule(&batch, 90), [(125, 60), (250, 10), (500, 10), (1000, 10)]);
        assert_eq!(batch_size(&Batch { policy: PolicyKind::Fixed, ..batch }, 90), 7);
    }
}
