//! Packing of tensors into one arena: tensors whose live ranges do not overlap may share memory.

/// A tensor to be packed: its size in units per image, and the first and last moment at which it is live.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveRange {
    pub size: usize,
    pub first: usize,
    pub last: usize,
}

/// Sizes are rounded up to this: a cache line, if a unit is four bytes.
const LINE: usize = 16;

/// Packs tensors, the largest first, each at the lowest offset where it overlaps no tensor that is live at the
/// same time. Returns the offsets and the size of the arena, in units per image.
pub(crate) fn pack(ranges: &[LiveRange]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(ranges[i].size), ranges[i].first, i));
    let mut offsets = vec![0; ranges.len()];
    let mut end = 0;
    for (done, &i) in order.iter().enumerate() {
        let range = ranges[i];
        let size = |range: LiveRange| range.size.next_multiple_of(LINE);
        let together = |&&other: &&usize| {
            let other = ranges[other];
            range.first <= other.last && other.first <= range.last
        };
        let mut taken: Vec<(usize, usize)> = order[..done]
            .iter()
            .filter(together)
            .map(|&other| (offsets[other], offsets[other] + size(ranges[other])))
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (start, stop) in taken {
            if offset + size(range) <= start {
                break;
            }
            offset = offset.max(stop);
        }
        offsets[i] = offset;
        end = end.max(offset + size(range));
    }
    (offsets, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn live_tensors_never_overlap(
            ranges in prop::collection::vec((1..50usize, 0..40usize, 0..20usize), 0..60)
        ) {
            let ranges: Vec<LiveRange> = ranges
                .into_iter()
                .map(|(size, first, more)| LiveRange { size, first, last: first + more })
                .collect();
            let (offsets, end) = pack(&ranges);
            for (i, a) in ranges.iter().enumerate() {
                prop_assert!(offsets[i] + a.size <= end);
                for (j, b) in ranges.iter().enumerate().skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last;
                    let apart = offsets[i] + a.size <= offsets[j] || offsets[j] + b.size <= offsets[i];
                    prop_assert!(!together || apart);
                }
            }
        }
    }

    #[test]
    fn memory_is_reused_by_a_larger_tensor() {
        let range = |size, first, last| LiveRange { size, first, last };
        // Two small ones end before the large one begins, which reuses the memory of both.
        let (offsets, end) = pack(&[range(16, 0, 1), range(32, 0, 1), range(48, 2, 3)]);
        assert_eq!((offsets[2], end), (0, 48));
    }
}
