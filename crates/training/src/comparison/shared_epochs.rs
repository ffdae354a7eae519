//! How many epochs two runs have in common, so that these are trained once for both.

use crate::Recipe;
use crate::policy::planned_epoch;
use crate::recipe::{BatchPolicyKind, ScheduleKind};

/// How many epochs of two recipes' runs are bit-identical, state included, because the recipes differ in
/// nothing but later rows of their tables of batch sizes, learning rates and image sizes. 0 if policies
/// depend on measurements, or anything else differs.
///
/// # Example
///
/// ```
/// use crescendo_training::Recipe;
/// use crescendo_training::comparison::shared_epochs;
///
/// let a = Recipe::load("quick", &["batch.steps=[[1, 50], [3, 100]]"])?;
/// let b = Recipe::load("quick", &["batch.steps=[[1, 50], [4, 200]]"])?;
/// assert_eq!(shared_epochs(&a, &b), 2);
/// # Ok::<(), crescendo_training::Error>(())
/// ```
pub fn shared_epochs(a: &Recipe, b: &Recipe) -> u32 {
    let tables = |recipe: &Recipe| {
        let batch = matches!(recipe.batch.policy, BatchPolicyKind::Fixed | BatchPolicyKind::Steps);
        let rate = matches!(recipe.schedule.policy, ScheduleKind::Constant | ScheduleKind::Step);
        batch && rate
    };
    let mut rest = b.clone();
    rest.batch.policy = a.batch.policy;
    rest.batch.size = a.batch.size;
    rest.batch.steps.clone_from(&a.batch.steps);
    rest.schedule.policy = a.schedule.policy;
    rest.schedule.steps.clone_from(&a.schedule.steps);
    rest.data.sides.clone_from(&a.data.sides);
    if rest != *a || !tables(a) || !tables(b) {
        return 0;
    }
    // The last epoch is not shared, because a run does more at its end.
    let same = |epoch: &u32| planned_epoch(a, *epoch) == planned_epoch(b, *epoch);
    (1..a.train.epochs).take_while(same).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::Comparison;

    fn shared(a: &[&str], b: &[&str]) -> u32 {
        let recipe = |changes: &[&str]| {
            let all = [&["train.epochs=8", "batch.steps=[[1, 32], [5, 64]]"], changes].concat();
            Recipe::load("quick", &all).unwrap()
        };
        let (a, b) = (recipe(a), recipe(b));
        assert_eq!(shared_epochs(&a, &b), shared_epochs(&b, &a));
        shared_epochs(&a, &b)
    }

    #[test]
    fn epochs_are_shared_until_the_tables_differ() {
        assert_eq!(shared(&[], &["batch.steps=[[1, 32], [4, 64]]"]), 3);
        assert_eq!(shared(&[], &["batch.steps=[[1, 16], [2, 32], [5, 64]]"]), 0);
        assert_eq!(shared(&[], &["batch.policy=fixed", "batch.size=32"]), 4);
        let steps = ["schedule.policy=step", "schedule.steps=[[7, 0.5]]"];
        assert_eq!(shared(&[], &steps), 6);
        assert_eq!(shared(&steps, &["schedule.policy=step", "schedule.steps=[[6, 0.5]]"]), 5);
        // A table has no effect during the warm-up.
        for (warmup, epochs) in [("schedule.warmup=2.5", 2), ("schedule.warmup=3.0", 3)] {
            let steps = ["schedule.policy=step", "schedule.steps=[[3, 0.5]]", warmup];
            assert_eq!(shared(&[warmup], &steps), epochs);
        }
        let sides = ["data.sides=[[1, 16], [3, 32]]"];
        assert_eq!(shared(&sides, &["data.sides=[[1, 16], [6, 32]]"]), 2);
        assert_eq!(shared(&sides, &[]), 0);
        // The tables differ after the end only: all epochs but the last are shared.
        assert_eq!(shared(&[], &["batch.steps=[[1, 32], [5, 64], [9, 128]]"]), 7);
    }

    #[test]
    fn nothing_is_shared_if_anything_else_differs() {
        for change in [
            "train.seed=1",
            "network.norm.momentum=0.2",
            "schedule.policy=cosine",
            "batch.policy=noise_scale",
            "train.epochs=9",
        ] {
            assert_eq!(shared(&[], &[change]), 0, "{change}");
        }
    }

    #[test]
    fn growing_and_decaying_share_their_first_epochs() {
        let comparison = Comparison::load::<&str>("grow-or-decay", &[]).unwrap();
        let base = &comparison.arms[0].recipe;
        let shared = comparison.arms.iter().map(|arm| shared_epochs(base, &arm.recipe));
        assert_eq!(shared.collect::<Vec<_>>(), [15, 10, 10, 10, 0, 0, 0]);
    }
}
