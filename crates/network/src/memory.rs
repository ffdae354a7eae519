//! Which tensor lies where in memory, and when: tensors that are never alive together may overlap.

/// A tensor that asks for a place: how many numbers an image it has, and the first and last moment at
/// which they are needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub size: usize,
    pub first: usize,
    pub last: usize,
}

/// Sizes are rounded up to this: a cache line.
const UNIT: usize = 16;

/// Places tensors, the largest first, each at the lowest offset where no tensor that is alive at the
/// same time lies. Returns the offsets, and where the last one ends; all in numbers an image.
pub(crate) fn place(lives: &[Life]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lives[i].size), lives[i].first, i));
    let mut offsets = vec![0; lives.len()];
    let mut end = 0;
    for (done, &i) in order.iter().enumerate() {
        let life = lives[i];
        let size = |life: Life| life.size.next_multiple_of(UNIT);
        let together = |&&other: &&usize| {
            let other = lives[other];
            life.first <= other.last && other.first <= life.last
        };
        let mut taken: Vec<(usize, usize)> = order[..done]
            .iter()
            .filter(together)
            .map(|&other| (offsets[other], offsets[other] + size(lives[other])))
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (start, stop) in taken {
            if offset + size(life) <= start {
                break;
            }
            offset = offset.max(stop);
        }
        offsets[i] = offset;
        end = end.max(offset + size(life));
    }
    (offsets, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tensors_alive_together_never_overlap(
            lives in prop::collection::vec((1..50usize, 0..40usize, 0..20usize), 0..60)
        ) {
            let lives: Vec<Life> = lives
                .into_iter()
                .map(|(size, first, more)| Life { size, first, last: first + more })
                .collect();
            let (offsets, end) = place(&lives);
            for (i, a) in lives.iter().enumerate() {
                prop_assert!(offsets[i] + a.size <= end);
                for (j, b) in lives.iter().enumerate().skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last;
                    let apart = offsets[i] + a.size <= offsets[j] || offsets[j] + b.size <= offsets[i];
                    prop_assert!(!together || apart);
                }
            }
        }
    }

    #[test]
    fn what_is_over_makes_room_for_something_larger() {
        let life = |size, first, last| Life { size, first, last };
        // Two small ones end before the large one begins: it lies where both were.
        let (offsets, end) = place(&[life(16, 0, 1), life(32, 0, 1), life(48, 2, 3)]);
        assert_eq!((offsets[2], end), (0, 48));
    }
}
