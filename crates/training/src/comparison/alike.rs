//! How long two runs are the same, so that it is trained once for both.

use crate::Recipe;
use crate::policy::{PolicyKind, ScheduleKind, planned_epoch};

/// The epochs at whose end runs of two recipes have the same state, to the bit: they differ in nothing
/// but tables of batch sizes, learning rates and images' sides, and in those only later. 0 where measurements decide, or
/// anything else is not the same.
pub fn epochs_alike(a: &Recipe, b: &Recipe) -> u32 {
    let tables = |recipe: &Recipe| {
        let batch = matches!(recipe.batch.policy, PolicyKind::Fixed | PolicyKind::Steps);
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
    // The last epoch ends a run, so it is nobody else's.
    let alike = |epoch: &u32| planned_epoch(a, *epoch) == planned_epoch(b, *epoch);
    (1..a.train.epochs).take_while(alike).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::Comparison;

    fn alike(a: &[&str], b: &[&str]) -> u32 {
        let recipe = |changes: &[&str]| {
            let all = [&["train.epochs=8", "batch.steps=[[1, 32], [5, 64]]"], changes].concat();
            Recipe::load("quick", &all).unwrap()
        };
        let (a, b) = (recipe(a), recipe(b));
        assert_eq!(epochs_alike(&a, &b), epochs_alike(&b, &a));
        epochs_alike(&a, &b)
    }

    #[test]
    fn until_the_tables_part() {
        assert_eq!(alike(&[], &["batch.steps=[[1, 32], [4, 64]]"]), 3);
        assert_eq!(alike(&[], &["batch.steps=[[1, 16], [2, 32], [5, 64]]"]), 0);
        assert_eq!(alike(&[], &["batch.policy=fixed", "batch.size=32"]), 4);
        let steps = ["schedule.policy=step", "schedule.steps=[[7, 0.5]]"];
        assert_eq!(alike(&[], &steps), 6);
        assert_eq!(alike(&steps, &["schedule.policy=step", "schedule.steps=[[6, 0.5]]"]), 5);
        // A warm-up hides a table only as long as it lasts.
        for (warmup, epochs) in [("schedule.warmup=2.5", 2), ("schedule.warmup=3.0", 3)] {
            let steps = ["schedule.policy=step", "schedule.steps=[[3, 0.5]]", warmup];
            assert_eq!(alike(&[warmup], &steps), epochs);
        }
        let sides = ["data.sides=[[1, 16], [3, 32]]"];
        assert_eq!(alike(&sides, &["data.sides=[[1, 16], [6, 32]]"]), 2);
        assert_eq!(alike(&sides, &[]), 0);
        // The same until the end: all but the last epoch.
        assert_eq!(alike(&[], &["batch.steps=[[1, 32], [5, 64], [9, 128]]"]), 7);
    }

    #[test]
    fn not_where_anything_else_differs() {
        for change in [
            "train.seed=1",
            "network.norm.momentum=0.2",
            "schedule.policy=cosine",
            "batch.policy=noise_scale",
            "train.epochs=9",
        ] {
            assert_eq!(alike(&[], &[change]), 0, "{change}");
        }
    }

    #[test]
    fn growing_and_decaying_begin_alike() {
        let comparison = Comparison::load::<&str>("grow-or-decay", &[]).unwrap();
        let base = &comparison.arms[0].recipe;
        let alike = comparison.arms.iter().map(|arm| epochs_alike(base, &arm.recipe));
        assert_eq!(alike.collect::<Vec<_>>(), [15, 10, 10, 10, 0, 0, 0]);
    }
}
