//! The real CIFAR-10, if `CRESCENDO_DATA` is set to its path.

use std::io::Write;

use crescendo_data::{channel_statistics, locate, open, summarize};

#[test]
fn the_real_data_set_is_read_correctly() {
    if std::env::var_os("CRESCENDO_DATA").is_none_or(|path| path.is_empty()) {
        // Not `eprintln`, whose output the test runner hides for passing tests.
        let message =
            "the_real_data_set_is_read_correctly: NOT RUN, as CRESCENDO_DATA is not set\n";
        std::io::stderr().write_all(message.as_bytes()).unwrap();
        return;
    }
    let set = open(&locate(None).unwrap()).unwrap();
    assert_eq!(set.name, "CIFAR-10");
    assert_eq!((set.train.len(), set.test.len()), (50_000, 10_000));
    assert_eq!(set.train.pixels.len(), 50_000 * set.image_shape().elements());

    assert_eq!(set.train.labels[0], 6);
    assert_eq!(set.train.image(0)[..5], [59, 43, 50, 68, 98]);
    assert_eq!(set.test.labels[0], 3);
    assert_eq!(set.test.image(0)[..5], [158, 159, 165, 166, 160]);

    let (mean, std) = channel_statistics(&set.train);
    for channel in 0..set.image_shape().channels {
        assert!((mean[channel] - [0.491400, 0.482158, 0.446531][channel]).abs() < 1e-6, "{mean:?}");
        assert!((std[channel] - [0.247032, 0.243485, 0.261588][channel]).abs() < 1e-6, "{std:?}");
    }

    let summary = summarize(&set);
    assert!(summary.classes.iter().all(|class| (class.train, class.test) == (5000, 1000)));
    assert_eq!(summary.problems, [""; 0], "{summary}");
}
