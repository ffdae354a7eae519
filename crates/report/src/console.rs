//! A run on the terminal: a bar while an epoch or an evaluation goes on, lines for what is done.
//! Where the output is no terminal, the lines only.

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use crescendo_training::Error;
use crescendo_training::events::{EvaluatedSplit, Event, Observer, Step};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::lines::line;

/// Shows a run on the standard output.
#[derive(Default)]
pub struct Console {
    bar_only: bool,
    bar: Option<(Shown, ProgressBar)>,
}

/// What the bar is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Epoch(u32),
    Evaluation(EvaluatedSplit),
}

impl Console {
    /// Shows the bar, and no lines.
    pub fn bar_only() -> Self {
        Console { bar_only: true, bar: None }
    }

    fn step(&mut self, step: &Step) {
        let bar = self.bar(Shown::Epoch(step.epoch), step.epoch_images);
        bar.set_prefix(format!("Epoch {}/{}", step.epoch, step.epochs));
        bar.set_message(message(step));
        bar.set_position(step.images as u64);
    }

    /// The bar for this, in place of one for something else.
    fn bar(&mut self, shown: Shown, total: usize) -> &ProgressBar {
        if self.bar.as_ref().is_some_and(|bar| bar.0 != shown) {
            self.clear();
        }
        &self.bar.get_or_insert_with(|| (shown, bar(total as u64))).1
    }

    fn clear(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Console {
    fn event(&mut self, event: &Event) -> Result<(), Error> {
        match event {
            Event::Step(step) => self.step(step),
            Event::Evaluating { split, done, total } => {
                let bar = self.bar(Shown::Evaluation(*split), *total);
                bar.set_prefix(match split {
                    EvaluatedSplit::Validation => "Validating",
                    EvaluatedSplit::Test => "Testing",
                });
                bar.set_message(format!("{done} of {total}"));
                bar.set_position(*done as u64);
            }
            _ => {}
        }
        if let Some(line) = line(event) {
            self.clear();
            if !self.bar_only {
                print(&line);
            }
        }
        Ok(())
    }
}

/// The numbers beside the bar: few enough for 80 columns.
fn message(step: &Step) -> String {
    let rate = step.images as f64 / step.seconds;
    let left = (step.epoch_images - step.images) as f64 + step.later_images as f64;
    let decimals = if rate < 100.0 { 1 } else { 0 };
    format!(
        "loss {:.4}  acc {:.1} %  batch {}  {rate:.decimals$} img/s  {} left",
        step.epoch_loss,
        100.0 * step.epoch_accuracy,
        step.batch_size,
        time(left / rate)
    )
}

/// Prints a line.
pub(crate) fn print(line: &str) {
    // A closed pipe is the reader's choice, and no reason to stop a run of hours.
    let _ = writeln!(stdout(), "{line}");
}

/// A progress bar over `total` steps; invisible where the standard output is no terminal.
pub fn bar(total: u64) -> ProgressBar {
    let target = if stdout().is_terminal() {
        ProgressDrawTarget::stdout()
    } else {
        ProgressDrawTarget::hidden()
    };
    // The bar takes what room there is beside the numbers.
    let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {msg}");
    let style = style.expect("the template is valid").progress_chars("=> ");
    ProgressBar::with_draw_target(Some(total), target).with_style(style)
}

/// Seconds as people say them.
pub(crate) fn time(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes}:{seconds:02} min"),
        (hours, minutes, _) => format!("{hours}:{minutes:02} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let times = [3.9, 75.0, 3725.0, f64::NAN].map(time);
        assert_eq!(times, ["3 s", "1:15 min", "1:02 h", "0 s"]);
    }

    #[test]
    fn a_step_fits_beside_the_bar() {
        let step = Step {
            update: 24_001,
            epoch: 61,
            epochs: 90,
            batch_size: 1000,
            learning_rate: 0.1,
            loss: 0.5,
            epoch_loss: 0.4321,
            epoch_accuracy: 0.9356,
            images: 10_000,
            epoch_images: 50_000,
            later_images: 1_450_000,
            seconds: 20.0,
        };
        let shown = message(&step);
        assert_eq!(shown, "loss 0.4321  acc 93.6 %  batch 1000  500 img/s  49:40 min left");
        assert!("Epoch 61/90 [>] ".len() + shown.len() <= 80);
        let slow = message(&Step { seconds: 500.0, ..step });
        assert_eq!(slow, "loss 0.4321  acc 93.6 %  batch 1000  20.0 img/s  20:41 h left");
    }
}
