//! What the network sees and what it has learned, as pictures: training images, and the filters of the first layer.

use std::fmt::Write;

use crescendo_training::{FirstFilters, TrainingSamples};

use super::html::escape;
use super::images::data_uri;
use super::run_data::RunData;

/// The most filters that are shown.
const MAX_FILTERS: usize = 128;

/// The section about the run's images and filters; empty if there are neither.
pub fn section(run: &RunData) -> String {
    let mut html = String::new();
    html.extend(run.samples.as_ref().map(|samples| images(samples, &run.record.run.classes)));
    html.extend(run.filters.as_ref().map(filters));
    match &html[..] {
        "" => html,
        _ => format!("<section>\n<h2>What the network sees</h2>\n{html}</section>\n"),
    }
}

fn images(samples: &TrainingSamples, classes: &[String]) -> String {
    let size = samples.image_size;
    let mut html = format!(
        "<h3>Training images</h3>\n<p class=\"note\">The first ones of the first epoch, as they are augmented, at \
         {size} x {size} pixels; normalisation, which follows, is left out.</p>\n<div class=\"images\">\n"
    );
    for sample in &samples.images {
        let Some(uri) = data_uri(&sample.pixels, size, size) else { continue };
        let class = classes.get(sample.label).map_or("unknown class", String::as_str);
        let class = escape(class);
        let _ = writeln!(
            html,
            "<figure><img src=\"{uri}\" alt=\"training image of {class}\" width=\"96\" \
             height=\"96\"><figcaption>{class}</figcaption></figure>"
        );
    }
    html + "</div>\n"
}

fn filters(filters: &FirstFilters) -> String {
    let FirstFilters { name, updates, count, height, width, values, .. } = filters;
    let shown = match *count > MAX_FILTERS {
        true => format!("The first {MAX_FILTERS} of {count} filters"),
        false => format!("The {count} filters"),
    };
    let after = match updates {
        0 => "before the first update".to_owned(),
        1 => "after 1 update".to_owned(),
        updates => format!("after {updates} updates"),
    };
    let mut html = format!(
        "<h3>First layer</h3>\n<p class=\"note\">{shown} of {width} x {height} pixels ({}) {after}. Red, green and blue \
         are a filter's weights for these channels, from its least (black) to its greatest.</p>\n\
         <div class=\"filters\">\n",
        escape(name)
    );
    let filters = values.chunks_exact(3 * height * width).take(MAX_FILTERS);
    for (number, filter) in (1..).zip(filters) {
        let Some(uri) = data_uri(&scaled(filter), *width, *height) else { continue };
        let _ =
            writeln!(html, "<img src=\"{uri}\" alt=\"filter {number}\" title=\"filter {number}\">");
    }
    html + "</div>\n"
}

/// A filter's weights as bytes, from 0 for the least to 255 for the greatest; grey if all are the same or one is not
/// finite.
fn scaled(filter: &[f32]) -> Vec<u8> {
    let least = filter.iter().copied().fold(f32::INFINITY, f32::min);
    let range = filter.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least;
    if !(range > 0.0 && range.is_finite() && filter.iter().all(|weight| weight.is_finite())) {
        return vec![128; filter.len()];
    }
    filter.iter().map(|weight| ((weight - least) / range * 255.0).round() as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_filter_is_scaled_to_its_own_range() {
        assert_eq!(scaled(&[-1.0, 0.0, 1.0]), [0, 128, 255]);
        assert_eq!(scaled(&[0.1, 0.1, 0.3]), [0, 0, 255]);
        assert_eq!(scaled(&[2.0; 3]), [128; 3]);
        for bad in [f32::NAN, f32::INFINITY] {
            assert_eq!(scaled(&[0.0, bad, 1.0]), [128; 3]);
        }
        assert_eq!(scaled(&[f32::MIN, f32::MAX]), [128; 2]);
    }
}
