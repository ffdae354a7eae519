//! What PyTorch computed: the files that `pytorch/fixtures.py` writes.

use safetensors::{Dtype, SafeTensors};

/// A file of PyTorch's answers. What goes in is `f32`; what was computed from it is `f64`.
pub struct Fixture {
    bytes: &'static [u8],
}

impl Fixture {
    /// Two updates of a residual network.
    pub const STEP: Fixture =
        Fixture { bytes: include_bytes!("../tests/fixtures/step.safetensors") };
    /// Two updates of an airbench network, its whitening filters, initialisations and moving average.
    pub const AIRBENCH: Fixture =
        Fixture { bytes: include_bytes!("../tests/fixtures/airbench.safetensors") };
    /// Smaller images.
    pub const SIDES: Fixture =
        Fixture { bytes: include_bytes!("../tests/fixtures/sides.safetensors") };
    /// Three updates with Lookahead.
    pub const LOOKAHEAD: Fixture =
        Fixture { bytes: include_bytes!("../tests/fixtures/lookahead.safetensors") };

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(self.bytes).expect("the fixture is a safetensors file")
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        let tensors = self.tensors();
        tensors.tensor(name).unwrap_or_else(|_| panic!("no {name}")).shape().to_vec()
    }

    /// The numbers of a tensor.
    pub fn wide(&self, name: &str) -> Vec<f64> {
        let tensors = self.tensors();
        let view = tensors.tensor(name).unwrap_or_else(|_| panic!("no {name}"));
        let bytes = view.data();
        match view.dtype() {
            Dtype::F64 => eight(bytes).map(f64::from_le_bytes).collect(),
            Dtype::I64 => eight(bytes).map(|bytes| i64::from_le_bytes(bytes) as f64).collect(),
            Dtype::F32 => {
                let numbers = bytes.chunks_exact(4).map(|bytes| bytes.try_into().expect("four"));
                numbers.map(|bytes| f32::from_le_bytes(bytes).into()).collect()
            }
            other => panic!("{name} is {other:?}"),
        }
    }

    /// The numbers of a tensor in `f32`.
    pub fn get(&self, name: &str) -> Vec<f32> {
        self.wide(name).iter().map(|&x| x as f32).collect()
    }

    /// The numbers of a tensor of labels.
    pub fn labels(&self, name: &str) -> Vec<u16> {
        self.wide(name).iter().map(|&x| x as u16).collect()
    }

    /// A number of the metadata.
    pub fn metadata(&self, key: &str) -> f64 {
        let (_, metadata) = SafeTensors::read_metadata(self.bytes).expect("it has metadata");
        let metadata = metadata.metadata().as_ref().expect("it has metadata");
        metadata[key].parse().expect("it is a number")
    }
}

fn eight(bytes: &[u8]) -> impl Iterator<Item = [u8; 8]> {
    bytes.chunks_exact(8).map(|bytes| bytes.try_into().expect("eight"))
}
