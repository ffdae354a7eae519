//! Which images of a batch each rank computes.

use std::ops::Range;

/// The images of a batch of `count` that each of `ranks` computes, in order: the batch is cut in halves again and again,
/// and so are the ranks.
pub(crate) fn shares(count: usize, ranks: usize) -> Vec<Range<usize>> {
    let mut shares = Vec::with_capacity(ranks);
    halve(0..count, ranks, &mut shares);
    shares
}

fn halve(images: Range<usize>, ranks: usize, shares: &mut Vec<Range<usize>>) {
    if ranks == 1 {
        return shares.push(images);
    }
    let left = ranks.div_ceil(2);
    let middle = images.start + images.len() * left / ranks;
    halve(images.start..middle, left, shares);
    halve(middle..images.end, ranks - left, shares);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_the_batch_and_differ_little() {
        for (count, ranks) in [(0, 3), (1, 1), (2, 4), (125, 8), (1000, 3), (7, 7), (100, 6)] {
            let shares = shares(count, ranks);
            assert_eq!(shares.len(), ranks);
            let mut end = 0;
            for share in &shares {
                assert_eq!(share.start, end);
                end = share.end;
            }
            assert_eq!(end, count);
            let lengths = shares.iter().map(Range::len);
            let (least, most) = (lengths.clone().min().unwrap(), lengths.max().unwrap());
            assert!(most - least <= 2, "{count} {ranks}: {shares:?}");
        }
    }
}
