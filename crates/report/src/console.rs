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
    bar: Option<(Shown, ProgressBar)>,
}

/// What the bar is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Epoch(u32),
    Evaluation(EvaluatedSplit),
}

impl Console {
    fn step(&mut self, step: &Step) {
        let rate = step.images as f64 / step.seconds;
        let left = (step.epoch_images - step.images) as f64;
        let run_left = left + step.later_images as f64;
        let bar = self.bar(Shown::Epoch(step.epoch), step.epoch_images);
        bar.set_position(step.images as u64);
        bar.set_prefix(format!("Epoch {}/{}", step.epoch, step.epochs));
        bar.set_message(format!(
            "loss {:.4}  batch {}  {rate:.1} img/s  left: epoch {}, run {}",
            step.epoch_loss,
            step.batch_size,
            time(left / rate),
            time(run_left / rate)
        ));
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
                bar.set_position(*done as u64);
                bar.set_prefix(match split {
                    EvaluatedSplit::Validation => "Validating",
                    EvaluatedSplit::Test => "Testing",
                });
            }
            _ => {}
        }
        if let Some(line) = line(event) {
            self.clear();
            // A closed pipe is the reader's choice, and no reason to stop a run of hours.
            let _ = writeln!(stdout(), "{line}");
        }
        Ok(())
    }
}

/// A progress bar over `total` steps; invisible where the standard output is no terminal.
pub fn bar(total: u64) -> ProgressBar {
    let target = if stdout().is_terminal() {
        ProgressDrawTarget::stdout()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len}  {msg}");
    let style = style.expect("the template is valid").progress_chars("=> ");
    ProgressBar::with_draw_target(Some(total), target).with_style(style)
}

/// Seconds as people say them.
fn time(seconds: f64) -> String {
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
}
