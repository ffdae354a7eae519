//! Images and labels for measurements, and the median of their times.

use crescendo::network::Graph;

/// Normalised images, one after the other. The values do not matter, but should vary about as much as real ones.
pub fn images(graph: &Graph, count: usize) -> Vec<f32> {
    (0..count * graph.input.len()).map(|i| (i as f32 * 0.37).sin() * 1.7).collect()
}

/// Their labels.
pub fn labels(classes: usize, count: usize) -> Vec<u16> {
    (0..count).map(|i| (i % classes) as u16).collect()
}

/// The median of times, which are put in order.
pub fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
