//! Whether the section `[schedule]` is valid.

use super::{check_plateau, first_problem};
use crate::Error;
use crate::recipe::ScheduleConfig;

pub(super) fn check(schedule: &ScheduleConfig) -> Result<(), Error> {
    let rising = schedule.steps.is_sorted_by(|a, b| a.0 < b.0);
    first_problem([
        (
            schedule.warmup >= 0.0 && schedule.warmup.is_finite(),
            "schedule.warmup must be a number of epochs, 0 or more".into(),
        ),
        (
            rising && schedule.steps.iter().all(|step| step.0 > 0),
            "schedule.steps must list its epochs, from 1 on, in rising order, for example \
             [[61, 0.1], [81, 0.01]]"
                .into(),
        ),
        (
            schedule.steps.iter().all(|step| step.1 > 0.0 && step.1 <= 1.0),
            "schedule.steps must have factors above 0 and at most 1".into(),
        ),
        (
            (0.0..=1.0).contains(&schedule.last) && (0.0..=1.0).contains(&schedule.first),
            "schedule.first and schedule.last must be from 0 to 1".into(),
        ),
        (
            schedule.peak > 0.0 && schedule.peak < 1.0,
            "schedule.peak must be above 0 and below 1".into(),
        ),
        (
            schedule.factor > 1.0 && schedule.factor.is_finite(),
            "schedule.factor must be above 1: the learning rate is divided by it".into(),
        ),
        ((0.0..=1.0).contains(&schedule.least), "schedule.least must be from 0 to 1".into()),
    ])?;
    check_plateau("schedule", &schedule.plateau)
}
