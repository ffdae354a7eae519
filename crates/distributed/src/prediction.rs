//! How long communication would take: what `plan --ranks` tells before nodes are asked for.

use crescendo_network::Graph;

use crate::all_reduce::{WINDOW, bucket_len};

/// A network between ranks.
///
/// # Example
///
/// ```
/// use crescendo_distributed::Interconnect;
/// use crescendo_network::{Graph, NetworkConfig, Shape};
///
/// let images = Shape::Maps { channels: 3, height: 32, width: 32 };
/// let graph = Graph::new(&NetworkConfig::paper().network(images)?)?;
/// let interconnect = Interconnect { ranks: 16, bytes_per_second: 1.25e9, latency: 20e-6, threads: 16 };
/// // 17.4 million gradients of four bytes, of which each rank sends 15/16, and as many sums.
/// let bytes = interconnect.gradient_bytes(&graph);
/// assert!((bytes / (2.0 * 15.0 / 16.0 * 4.0 * 17.39e6) - 1.0).abs() < 1e-3);
///
/// // The longer the ranks compute, the less of it shows.
/// let share = |compute| compute / interconnect.update(&graph, compute);
/// assert!(share(0.1) < share(1.0) && share(1.0) > 0.97);
/// # Ok::<(), crescendo_network::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interconnect {
    /// How many ranks there are.
    pub ranks: usize,
    /// Bytes a second that each rank can send while it receives as many.
    pub bytes_per_second: f64,
    /// Seconds that a message of no length takes.
    pub latency: f64,
    /// How many threads of a rank share the work of its processors.
    pub threads: usize,
}

/// The share of an update's computation that is its backward pass, during which gradients are on the way.
const BACKWARD: f64 = 2.0 / 3.0;

/// Seconds that a processor takes to send a byte of gradients over TCP and to receive another, as measured between network
/// namespaces (`bench/namespaces.py`).
const TCP: f64 = 1.5e-9;

impl Interconnect {
    /// Bytes that each rank sends for the gradients of an update, and receives.
    pub fn gradient_bytes(&self, graph: &Graph) -> f64 {
        2.0 * self.others() * 4.0 * graph.parameter_count() as f64
    }

    /// Seconds that the sums of an update's gradients take.
    pub fn gradients(&self, graph: &Graph) -> f64 {
        let buckets = graph.parameter_count().div_ceil(bucket_len(self.ranks)) as f64;
        let waits = 2.0 * buckets / WINDOW as f64;
        self.gradient_bytes(graph) / self.bytes_per_second + waits * self.collective()
    }

    /// Seconds that BatchNorm's sums of an update take, forward and backward.
    pub fn norms(&self, graph: &Graph) -> f64 {
        let sums = 2.0 * graph.statistics.len() as f64;
        // Two numbers of eight bytes for each channel.
        let bytes = 2.0 * 16.0 * graph.statistic_count() as f64 * (self.ranks - 1) as f64;
        bytes / self.bytes_per_second + sums * self.collective()
    }

    /// Seconds of an update of which each rank computes for so many seconds. BatchNorm's sums come on top, and so do
    /// moving the bytes of the gradients, and what of their sums is not hidden behind the backward pass.
    pub fn update(&self, graph: &Graph, compute: f64) -> f64 {
        let gradients = self.gradients(graph);
        let moving = TCP * self.gradient_bytes(graph) / self.threads as f64;
        let busy = compute + moving;
        // The last of them begin when backward ends.
        let last = gradients
            * (bucket_len(self.ranks) as f64 / graph.parameter_count().max(1) as f64).min(1.0);
        busy + (gradients - BACKWARD * busy).max(last) + self.norms(graph)
    }

    /// Seconds of a collective operation without its bytes.
    fn collective(&self) -> f64 {
        self.latency * f64::from(self.ranks.next_power_of_two().ilog2())
    }

    /// The share of numbers that other ranks add.
    fn others(&self) -> f64 {
        (self.ranks - 1) as f64 / self.ranks as f64
    }
}

#[cfg(test)]
mod tests {
    use crescendo_network::{NetworkConfig, Shape};

    use super::*;

    #[test]
    fn one_rank_communicates_nothing() {
        let images = Shape::Maps { channels: 3, height: 32, width: 32 };
        let graph = Graph::new(&NetworkConfig::paper().network(images).unwrap()).unwrap();
        let alone = Interconnect { ranks: 1, bytes_per_second: 1e9, latency: 1e-3, threads: 1 };
        assert_eq!(alone.gradient_bytes(&graph), 0.0);
        assert_eq!(alone.update(&graph, 0.5), 0.5);
    }
}
