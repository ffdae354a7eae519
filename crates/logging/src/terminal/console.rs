//! A run on the terminal: a progress bar during an epoch or an evaluation, and the run's messages.
//! If the output is not a terminal, only the messages.

use std::io::{IsTerminal, stdout};

use crescendo_training::Error;
use crescendo_training::events::{EvaluatedSplit, Event, Observer, Step};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::print_line;
use crate::messages::{display_seconds, message};

/// Shows a run's progress and messages on the standard output.
///
/// See the example of [the crate](crate).
#[derive(Default)]
pub struct ConsoleProgress {
    bar_only: bool,
    bar: Option<(Phase, ProgressBar)>,
}

/// What the bar shows the progress of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Epoch(u32),
    Evaluation(EvaluatedSplit),
}

impl ConsoleProgress {
    /// Shows the progress bar, but no messages.
    pub fn bar_only() -> Self {
        ConsoleProgress { bar_only: true, bar: None }
    }

    fn step(&mut self, step: &Step) {
        let bar = self.bar(Phase::Epoch(step.epoch), step.epoch_images);
        bar.set_prefix(format!("Epoch {}/{}", step.epoch, step.epochs));
        bar.set_message(step_numbers(step));
        bar.set_position(step.images as u64);
    }

    /// The bar for a phase; the bar of another phase is cleared.
    fn bar(&mut self, phase: Phase, total: usize) -> &ProgressBar {
        if self.bar.as_ref().is_some_and(|bar| bar.0 != phase) {
            self.clear();
        }
        &self.bar.get_or_insert_with(|| (phase, progress_bar(total as u64))).1
    }

    fn clear(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Observer for ConsoleProgress {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        match event {
            Event::Step(step) => self.step(step),
            Event::Evaluating { split, done, total } => {
                let bar = self.bar(Phase::Evaluation(*split), *total);
                bar.set_prefix(match split {
                    EvaluatedSplit::Validation => "Validating",
                    EvaluatedSplit::Test => "Testing",
                    _ => "Evaluating",
                });
                bar.set_message(format!("{done} of {total}"));
                bar.set_position(*done as u64);
            }
            _ => {}
        }
        if let Some(message) = message(event) {
            self.clear();
            if !self.bar_only {
                print_line(&message);
            }
        }
        Ok(())
    }
}

/// The numbers beside the bar, short enough for a terminal of 80 columns.
fn step_numbers(step: &Step) -> String {
    let rate = step.images as f64 / step.seconds;
    let left = (step.epoch_images - step.images) as f64 + step.later_images as f64;
    let decimals = if rate < 100.0 { 1 } else { 0 };
    format!(
        "loss {:.4}  acc {:.1} %  batch {}  {rate:.decimals$} img/s  {} left",
        step.epoch_loss,
        100.0 * step.epoch_accuracy,
        step.batch_size,
        display_seconds(left / rate)
    )
}

/// A progress bar over `total` steps; hidden if the standard output is not a terminal.
pub fn progress_bar(total: u64) -> ProgressBar {
    let target = if stdout().is_terminal() {
        ProgressDrawTarget::stdout()
    } else {
        ProgressDrawTarget::hidden()
    };
    // The bar takes the width that the numbers leave.
    let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {msg}");
    let style = style.expect("the template is valid").progress_chars("=> ");
    ProgressBar::with_draw_target(Some(total), target).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_fit_into_80_columns() {
        let mut step = Step::default();
        step.update = 24_001;
        step.epoch = 61;
        step.epochs = 90;
        step.batch_size = 1000;
        step.learning_rate = 0.1;
        step.loss = 0.5;
        step.epoch_loss = 0.4321;
        step.epoch_accuracy = 0.9356;
        step.images = 10_000;
        step.epoch_images = 50_000;
        step.later_images = 1_450_000;
        step.seconds = 20.0;
        let shown = step_numbers(&step);
        assert_eq!(shown, "loss 0.4321  acc 93.6 %  batch 1000  500 img/s  49:40 min left");
        assert!("Epoch 61/90 [>] ".len() + shown.len() <= 80);
        step.seconds = 500.0;
        let slow = step_numbers(&step);
        assert_eq!(slow, "loss 0.4321  acc 93.6 %  batch 1000  20.0 img/s  20:41 h left");
    }
}
