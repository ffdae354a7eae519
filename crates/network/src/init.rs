//! PyTorch's default initialisation, from a seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::plan::{Parameter, Plan, Role, Source};
use crate::{Tensor, Values};

impl Plan {
    /// The state in which training begins, as PyTorch's layers begin by default: for
    /// [`Engine::import`](crate::Engine::import).
    pub fn initial(&self, seed: u64) -> Vec<Tensor<'static>> {
        let tensors = self.state().into_iter().map(|tensor| {
            let len = tensor.shape.iter().product();
            let values = match tensor.source {
                Source::Parameter(index) => {
                    let mut values = vec![0.0; len];
                    fill(seed, index, &self.parameters[index], &mut values);
                    Values::F32(values.into())
                }
                Source::RunningMean(_) => Values::F32(vec![0.0; len].into()),
                Source::RunningVariance(_) => Values::F32(vec![1.0; len].into()),
                Source::BatchesTracked(_) => Values::I64(0),
            };
            Tensor { name: tensor.name.into(), shape: tensor.shape, values }
        });
        tensors.collect()
    }
}

/// Fills `values`, which are `parameter`'s, the `index`-th of its network.
///
/// Weights and biases of convolutions and linear layers are uniform within `1 / sqrt(fan_in)`
/// (PyTorch's `kaiming_uniform` with `a = sqrt(5)`), BatchNorm's are 1 and 0. The numbers are a
/// function of the seed and the index alone, the same on every machine.
fn fill(seed: u64, index: usize, parameter: &Parameter, values: &mut [f32]) {
    let fan_in = match parameter.role {
        Role::NormWeight => return values.fill(1.0),
        Role::NormBias => return values.fill(0.0),
        Role::Weight { fan_in } | Role::Bias { fan_in } => fan_in,
    };
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..22].copy_from_slice(b"initialisation");
    let mut random = ChaCha8Rng::from_seed(key);
    random.set_stream(index as u64);
    let bound = 1.0 / (fan_in as f64).sqrt();
    for value in values {
        let unit = f64::from(random.next_u32() >> 8) / f64::from(1 << 24);
        *value = ((2.0 * unit - 1.0) * bound) as f32;
    }
}
