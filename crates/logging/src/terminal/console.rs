//! A run on the terminal: a progress bar during an epoch or an evaluation, and the run's messages.
//! If the output is not a terminal, only the messages.

use std::io::{IsTerminal, stdout};

use crescendo_training::Error;
use crescendo_training::events::{EvaluatedSplit, Event, Observer, Step};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{print_line, terminal_columns};
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
        // A comparison has several runs, of which this one is all that is known.
        let whole = if self.bar_only { "this run" } else { "all" };
        let bar = self.bar(Phase::Epoch(step.epoch), step.epoch_images);
        let prefix = format!("Epoch {}/{}", step.epoch, step.epochs);
        bar.set_prefix(prefix.clone());
        bar.set_message(step_numbers(step, &prefix, terminal_columns(), whole));
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

/// The narrowest bar that is worth its place.
const BAR: usize = 6;

/// The numbers beside the bar: as many as leave room for it on a terminal of `columns` columns, beside what the
/// bar is called.
fn step_numbers(step: &Step, prefix: &str, columns: usize, whole: &str) -> String {
    let rate = step.images as f64 / step.seconds;
    let in_epoch = (step.epoch_images - step.images) as f64;
    let [epoch, all] =
        [in_epoch, in_epoch + step.later_images as f64].map(|left| display_seconds(left / rate));
    let decimals = if rate < 100.0 { 1 } else { 0 };
    let loss = format!("loss {:.4}", step.epoch_loss);
    let accuracy = format!("acc {:.1} %", 100.0 * step.epoch_accuracy);
    let batch = format!("batch {}", step.batch_size);
    let rate = format!("{rate:.decimals$} img/s");
    let short = format!("{all} left in {whole}");
    let long = match step.later_images {
        0 => short.clone(),
        _ => format!("{epoch} left in this epoch, {all} in {whole}"),
    };
    // From the most to the least.
    let choices = [
        vec![&loss, &accuracy, &batch, &rate, &long],
        vec![&loss, &accuracy, &rate, &long],
        vec![&loss, &accuracy, &rate, &short],
        vec![&loss, &accuracy, &short],
        vec![&loss, &short],
        vec![&short],
    ];
    let room = columns.saturating_sub(prefix.chars().count() + " [] ".len() + BAR);
    let texts =
        choices.map(|parts| parts.into_iter().map(String::as_str).collect::<Vec<_>>().join("  "));
    texts.into_iter().find(|text| text.len() <= room).unwrap_or_default()
}

/// A progress bar over `total` steps; hidden if the standard output is not a terminal.
pub fn progress_bar(total: u64) -> ProgressBar {
    let target = if stdout().is_terminal() {
        ProgressDrawTarget::stdout()
    } else {
        ProgressDrawTarget::hidden()
    };
    ProgressBar::with_draw_target(Some(total), target).with_style(style())
}

fn style() -> ProgressStyle {
    // The bar takes the width that the numbers leave.
    let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {msg}");
    style.expect("the template is valid").progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::TermLike;
    use std::io;
    use std::sync::{Arc, Mutex};

    /// A terminal of this width, and what was last written to it.
    #[derive(Clone, Debug)]
    struct Terminal(u16, Arc<Mutex<String>>);

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            self.0
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.1.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            self.1.lock().unwrap().clear();
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn step() -> Step {
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
        step
    }

    #[test]
    fn the_numbers_are_those_that_fit() {
        let shown = |step: &Step, columns| step_numbers(step, "Epoch 61/90", columns, "all");
        let step = step();
        for (columns, expected) in [
            (
                200,
                "loss 0.4321  acc 93.6 %  batch 1000  500 img/s  1:20 min left in this epoch, \
                 49:40 min in all",
            ),
            (
                110,
                "loss 0.4321  acc 93.6 %  500 img/s  1:20 min left in this epoch, 49:40 min in all",
            ),
            (80, "loss 0.4321  acc 93.6 %  500 img/s  49:40 min left in all"),
            (70, "loss 0.4321  acc 93.6 %  49:40 min left in all"),
            (60, "loss 0.4321  49:40 min left in all"),
            (45, "49:40 min left in all"),
            (20, ""),
        ] {
            assert_eq!(shown(&step, columns), expected, "{columns}");
        }
        let mut slow = step.clone();
        slow.seconds = 500.0;
        assert!(
            shown(&slow, 200)
                .contains("  20.0 img/s  33:20 min left in this epoch, 20:41 h in all")
        );
        let mut last = step;
        last.later_images = 0;
        assert!(shown(&last, 200).ends_with("  500 img/s  1:20 min left in all"));
        let run = step_numbers(&last, "Epoch 90/90", 80, "this run");
        assert!(run.ends_with("  1:20 min left in this run"), "{run}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut long = step();
        (long.epoch, long.epochs, long.batch_size) = (100_000, 1_000_000, 65_536);
        (long.epoch_loss, long.later_images) = (12_345.678, u64::MAX / 2);
        for step in [step(), long] {
            let prefix = format!("Epoch {}/{}", step.epoch, step.epochs);
            for columns in 60..=200 {
                let terminal = Terminal(columns, Arc::default());
                let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
                let bar = ProgressBar::with_draw_target(Some(50_000), target).with_style(style());
                bar.set_prefix(prefix.clone());
                bar.set_message(step_numbers(&step, &prefix, columns.into(), "all"));
                bar.set_position(10_000);
                bar.tick();
                let line = terminal.1.lock().unwrap().trim_end().to_owned();
                assert!(line.chars().count() <= columns.into(), "{columns}: {line}");
                assert!(line.starts_with(&prefix) && line.contains("left in"), "{line}");
                assert!(line.contains('>') && line.contains("] "), "{columns}: {line}");
            }
        }
    }
}
