//! Which tensor lies in which buffer, and when: tensors that are never alive together share one.

/// Buffers, and the one that each tensor lies in. Sizes are numbers an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The size of each buffer.
    pub buffers: Vec<usize>,
}

/// A tensor that asks for a place: its size, and the first and last moment at which it is needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub size: usize,
    pub first: usize,
    pub last: usize,
}

impl Memory {
    /// Places tensors in order of their first moment, each into the free buffer that fits best, and
    /// returns each one's buffer.
    pub(crate) fn place(lives: &[Life]) -> (Memory, Vec<usize>) {
        let mut order: Vec<usize> = (0..lives.len()).collect();
        order.sort_by_key(|&i| (lives[i].first, i));
        let mut buffers: Vec<usize> = Vec::new();
        let mut busy_until: Vec<usize> = Vec::new();
        let mut places = vec![0; lives.len()];
        for i in order {
            let life = lives[i];
            let free = (0..buffers.len()).filter(|&b| busy_until[b] < life.first);
            // The smallest that is large enough, else the largest, which then grows.
            let fits = free.clone().filter(|&b| buffers[b] >= life.size);
            let best =
                fits.min_by_key(|&b| buffers[b]).or_else(|| free.max_by_key(|&b| buffers[b]));
            let buffer = best.unwrap_or_else(|| {
                buffers.push(0);
                busy_until.push(0);
                buffers.len() - 1
            });
            buffers[buffer] = buffers[buffer].max(life.size);
            busy_until[buffer] = life.last;
            places[i] = buffer;
        }
        (Memory { buffers }, places)
    }

    /// Numbers in all buffers, an image.
    pub fn len(&self) -> usize {
        self.buffers.iter().sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tensors_alive_together_never_share(
            lives in prop::collection::vec((1..50usize, 0..40usize, 0..20usize), 0..60)
        ) {
            let lives: Vec<Life> = lives
                .into_iter()
                .map(|(size, first, more)| Life { size, first, last: first + more })
                .collect();
            let (memory, places) = Memory::place(&lives);
            for (i, a) in lives.iter().enumerate() {
                prop_assert!(memory.buffers[places[i]] >= a.size);
                for (j, b) in lives.iter().enumerate().skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last;
                    prop_assert!(!together || places[i] != places[j]);
                }
            }
        }
    }
}
