//! CIFAR-100 (Krizhevsky, 2009): the layouts of CIFAR-10 with a coarse and a fine label for each image. The
//! fine label is read.

use super::{CIFAR100, Layout, binary, python};

pub(super) const BINARY: Layout = Layout {
    set: &CIFAR100,
    version: "binary",
    folder: "cifar-100-binary",
    archive: "cifar-100-binary.tar.gz",
    batches: &["train.bin", "test.bin"],
    names: "fine_label_names.txt",
    batch: |bytes| binary::batch(bytes, 2),
    classes: binary::classes,
};

pub(super) const PYTHON: Layout = Layout {
    set: &CIFAR100,
    version: "Python",
    folder: "cifar-100-python",
    archive: "cifar-100-python.tar.gz",
    batches: &["train", "test"],
    names: "meta",
    batch: |bytes| python::batch(bytes, "fine_labels"),
    classes: |bytes| python::classes(bytes, "fine_label_names"),
};

#[rustfmt::skip]
pub(super) const CLASSES: [&str; 100] = [
    "apple", "aquarium_fish", "baby", "bear", "beaver",
    "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly",
    "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach",
    "couch", "crab", "crocodile", "cup", "dinosaur",
    "dolphin", "elephant", "flatfish", "forest", "fox",
    "girl", "hamster", "house", "kangaroo", "keyboard",
    "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew",
    "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table",
    "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe",
    "whale", "willow_tree", "wolf", "woman", "worm",
];
