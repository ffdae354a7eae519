//! The reliability diagram of an evaluation: how often predictions of each confidence are right.

use std::fmt::Write;

use super::html::table;
use crate::formats::evaluation_json::EvaluationRecord;

/// Width and height of the drawing in its own units.
const SIDE: f64 = 300.0;

/// The diagram and its numbers; empty for an evaluation without bins of confidence.
pub fn figure(record: &EvaluationRecord) -> String {
    let Some(error) = record.calibration_error.filter(|_| !record.calibration.is_empty()) else {
        return String::new();
    };
    let mut bars = String::new();
    let count = record.calibration.len();
    let width = SIDE / count as f64;
    let mut rows = Vec::new();
    for (number, bin) in record.calibration.iter().enumerate() {
        let (Some(confidence), Some(accuracy)) = (bin.confidence, bin.accuracy) else { continue };
        let range = [number, number + 1].map(|end| 100.0 * end as f64 / count as f64);
        let range = format!("{:.0}–{:.0}%", range[0], range[1]);
        let (images, percent) = (bin.images, |share: f64| format!("{:.1}%", 100.0 * share));
        let (high, low) = (confidence.max(accuracy), confidence.min(accuracy));
        let bar = |class: &str, from: f64, to: f64| {
            format!(
                "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                number as f64 * width,
                SIDE * (1.0 - to),
                width,
                SIDE * (to - from)
            )
        };
        let _ = writeln!(
            bars,
            "<g><title>Confidence {range}: {images} images, confidence {} on average, accuracy {}</title>{}{}{}</g>",
            percent(confidence),
            percent(accuracy),
            bar("bin", 0.0, accuracy),
            bar("gap", low, high),
            bar("hover", 0.0, 1.0)
        );
        rows.push(vec![range, images.to_string(), percent(confidence), percent(accuracy)]);
    }
    let numbers = table("plain", &["confidence", "images", "mean confidence", "accuracy"], rows);
    let error = 100.0 * error;
    let ticks = |side: &str, first: f64, sign: f64, shares: &[f64]| -> String {
        let tick = |share: &f64| {
            format!(
                "<span style=\"{side}:{:.0}%\">{:.0}%</span>",
                first + sign * 100.0 * share,
                100.0 * share
            )
        };
        shares.iter().map(tick).collect()
    };
    format!(
        "<h3>Calibration</h3>\n<p class=\"note\">The accuracy of predictions by their confidence, in {count} bins. Where \
         predictions are as often right as they are confident, bars end on the diagonal; the lighter part of a bar is \
         the difference. The calibration error (ECE), {error:.2}%, is the mean difference over the images.</p>\n\
         <figure class=\"reliability\">\n<div class=\"plot\">\n<div class=\"y\" aria-hidden=\"true\">{}</div>\n\
         <svg viewBox=\"0 0 {SIDE} {SIDE}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"Reliability diagram: \
         accuracy by confidence, with a calibration error of {error:.2}%. The numbers are in the table that follows.\">\n\
         {bars}<path class=\"diagonal\" d=\"M0 {SIDE}L{SIDE} 0\"/>\n</svg>\n\
         <div class=\"x\" aria-hidden=\"true\">{}</div>\n</div>\n<p class=\"axis\">accuracy by confidence</p>\n</figure>\n\
         <details>\n<summary>Calibration in numbers</summary>\n{numbers}</details>\n",
        ticks("top", 100.0, -1.0, &[0.0, 0.5, 1.0]),
        // The corner has one already.
        ticks("left", 0.0, 1.0, &[0.5, 1.0])
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::evaluation_json::BinRecord;
    use crescendo_training::Evaluation;

    #[test]
    fn bars_end_at_the_accuracy_and_gaps_at_the_confidence() {
        let mut record = EvaluationRecord::new(1, &Evaluation::default(), &[]);
        assert_eq!(figure(&record), "");
        record.calibration_error = Some(0.0325);
        let bin = |images, confidence, accuracy| BinRecord { images, confidence, accuracy };
        record.calibration =
            vec![bin(0, None, None), bin(8, Some(0.4), Some(0.5)), bin(4, Some(0.9), Some(0.75))];
        let html = figure(&record);
        for part in [
            "<title>Confidence 33–67%: 8 images, confidence 40.0% on average, accuracy 50.0%</title>",
            // From 100 to 200, half of the height; the gap from 0.4 to 0.5.
            "<rect class=\"bin\" x=\"100.0\" y=\"150.0\" width=\"100.0\" height=\"150.0\"/>",
            "<rect class=\"gap\" x=\"100.0\" y=\"150.0\" width=\"100.0\" height=\"30.0\"/>",
            // Overconfident: the gap is above the bar.
            "<rect class=\"bin\" x=\"200.0\" y=\"75.0\" width=\"100.0\" height=\"225.0\"/>",
            "<rect class=\"gap\" x=\"200.0\" y=\"30.0\" width=\"100.0\" height=\"45.0\"/>",
            "<td>67–100%</td><td>4</td><td>90.0%</td><td>75.0%</td>",
            "a calibration error of 3.25%",
        ] {
            assert!(html.contains(part), "no {part} in {html}");
        }
        assert_eq!(html.matches("<title>").count(), 2);
    }
}
