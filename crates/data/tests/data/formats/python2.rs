//! The files of the Python version, byte for byte as Python 2 and NumPy pickled them.

use crescendo_data::{ImageShape, Split};

use crate::common::{Batches, File};

/// The files of the Python version, with their names.
pub fn files(batches: &Batches) -> Vec<File> {
    let named = (1..).zip(&batches.0).map(|(number, split)| match number {
        6 => ("test_batch".into(), batch(split, "testing batch 1 of 1")),
        _ => {
            (format!("data_batch_{number}"), batch(split, &format!("training batch {number} of 5")))
        }
    });
    named.chain([("batches.meta".into(), meta())]).collect()
}

/// The official file of class names.
pub fn meta() -> Vec<u8> {
    let mut pickle = Pickle::new();
    pickle.string("num_cases_per_batch").raw(b"M\x10'");
    pickle.string("label_names").raw(b"]").put().raw(b"(");
    for name in
        ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    {
        pickle.string(name);
    }
    pickle.raw(b"e").string("num_vis").raw(b"M\x00\x0c");
    pickle.end()
}

/// A file of images.
pub fn batch(split: &Split, title: &str) -> Vec<u8> {
    let mut pickle = Pickle::new();
    pickle.string("batch_label").string(title);
    pickle.labels("labels", &split.labels);
    pickle.data(split);
    pickle.filenames(split.len());
    pickle.end()
}

/// A file of CIFAR-100's images, with coarse labels, which are ignored.
pub fn batch_100(split: &Split, title: &str) -> Vec<u8> {
    let mut pickle = Pickle::new();
    pickle.filenames(split.len());
    pickle.string("batch_label").string(title);
    pickle.labels("fine_labels", &split.labels);
    pickle.labels("coarse_labels", &vec![19; split.len()]);
    pickle.data(split);
    pickle.end()
}

/// A file of CIFAR-100's class names.
pub fn meta_100(fine: &[&str], coarse: &[&str]) -> Vec<u8> {
    let mut pickle = Pickle::new();
    for (key, names) in [("fine_label_names", fine), ("coarse_label_names", coarse)] {
        pickle.string(key).raw(b"]").put().raw(b"(");
        for name in names {
            pickle.string(name);
        }
        pickle.raw(b"e");
    }
    pickle.end()
}

/// A pickled dictionary that is being written.
struct Pickle {
    bytes: Vec<u8>,
    memo: u32,
}

impl Pickle {
    fn new() -> Self {
        let mut pickle = Pickle { bytes: b"\x80\x02}".to_vec(), memo: 0 };
        pickle.put().raw(b"(");
        pickle
    }

    fn labels(&mut self, key: &str, labels: &[u16]) {
        self.string(key).raw(b"]").put().raw(b"(");
        for label in labels {
            self.raw(&[b'K', *label as u8]);
        }
        self.raw(b"e");
    }

    fn filenames(&mut self, count: usize) {
        self.string("filenames").raw(b"]").put().raw(b"(");
        for index in 0..count {
            self.string(&format!("image_s_{index:06}.png"));
        }
        self.raw(b"e");
    }

    fn data(&mut self, split: &Split) {
        self.string("data");
        self.raw(b"cnumpy.core.multiarray\n_reconstruct\n").put();
        self.raw(b"cnumpy\nndarray\n").put().raw(b"K\x00\x85U\x01b\x87R").put();
        self.raw(b"(K\x01M").raw(&(split.len() as u16).to_le_bytes());
        self.raw(b"M").raw(&(ImageShape::CIFAR.elements() as u16).to_le_bytes()).raw(b"\x86");
        self.raw(b"cnumpy\ndtype\n").put().raw(b"U\x02u1K\x00K\x01\x87R").put();
        self.raw(b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89");
        self.raw(b"T").raw(&(split.pixels.len() as u32).to_le_bytes()).raw(&split.pixels);
        self.raw(b"tb");
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self
    }

    fn put(&mut self) -> &mut Self {
        self.memo += 1;
        let memo = self.memo.to_le_bytes();
        match self.memo {
            0..256 => self.raw(b"q").raw(&memo[..1]),
            _ => self.raw(b"r").raw(&memo),
        }
    }

    fn string(&mut self, text: &str) -> &mut Self {
        self.raw(&[b'U', text.len() as u8]).raw(text.as_bytes()).put()
    }

    fn end(mut self) -> Vec<u8> {
        self.raw(b"u.");
        self.bytes
    }
}
