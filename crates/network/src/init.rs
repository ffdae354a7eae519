//! The initial state, from a seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::{Graph, Init, Parameter, Role, StateKind, Tensor, TensorData};

impl Graph {
    /// The state before training, for [`Engine::import`](crate::Engine::import), in the order of [`Graph::state`].
    ///
    /// Weights and biases of convolutions and linear layers are uniform within `1 / sqrt(fan_in)`, PyTorch's default
    /// (`kaiming_uniform` with `a = sqrt(5)`; He et al. 2015, arXiv 1502.01852), then changed as their [`Init`] says;
    /// BatchNorm's are 1 and 0. The numbers depend on the seed and the parameter's index only, and are the same on every
    /// machine. Whitening filters are computed from images afterwards: see [`Graph::whiten`].
    pub fn initial(&self, seed: u64) -> Vec<Tensor<'static>> {
        let tensors = self.state().into_iter().map(|tensor| {
            let len = tensor.shape.iter().product();
            let data = match tensor.kind {
                StateKind::Parameter(index) => {
                    let mut values = vec![0.0; len];
                    fill(seed, index, &self.parameters[index], &mut values);
                    TensorData::F32(values.into())
                }
                StateKind::RunningMean(_) => TensorData::F32(vec![0.0; len].into()),
                StateKind::RunningVariance(_) => TensorData::F32(vec![1.0; len].into()),
                StateKind::BatchesTracked(_) => TensorData::I64(0),
            };
            Tensor { name: tensor.name.into(), shape: tensor.shape, data }
        });
        tensors.collect()
    }
}

/// Initialises `values` of `parameter`, the `index`-th of its network.
///
/// Weights and biases of convolutions and linear layers are uniform within `1 / sqrt(fan_in)`
/// (PyTorch's `kaiming_uniform` with `a = sqrt(5)`), then changed as their [`Init`] says; BatchNorm's are
/// 1 and 0. The numbers depend on the seed and the index only, and are the same on every machine.
fn fill(seed: u64, index: usize, parameter: &Parameter, values: &mut [f32]) {
    let (fan_in, init) = match parameter.role {
        Role::NormWeight => return values.fill(1.0),
        Role::NormBias => return values.fill(0.0),
        Role::Weight { fan_in, init } => (fan_in, init),
        Role::Bias { fan_in } => (fan_in, Init::Uniform),
    };
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..22].copy_from_slice(b"initialisation");
    let mut random = ChaCha8Rng::from_seed(key);
    random.set_stream(index as u64);
    let bound = 1.0 / (fan_in as f64).sqrt();
    for value in values.iter_mut() {
        let unit = f64::from(random.next_u32() >> 8) / f64::from(1 << 24);
        *value = ((2.0 * unit - 1.0) * bound) as f32;
    }
    finish(init, &parameter.shape, values);
}

/// Changes uniform values as an [`Init`] says.
fn finish(init: Init, shape: &[usize], values: &mut [f32]) {
    match init {
        Init::Uniform | Init::Whitening => {}
        Init::Dirac => dirac(shape, values),
        Init::Unit => {
            let numbers = values.len() as f64;
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / numbers;
            let squares = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
            let deviation = (squares / (numbers - 1.0)).sqrt();
            values.iter_mut().for_each(|v| *v = (f64::from(*v) / deviation) as f32);
        }
    }
}

/// Filters `[outputs, inputs, kernel, kernel]` of which the `i`-th is 1 at the centre of channel `i`.
fn dirac(shape: &[usize], values: &mut [f32]) {
    let &[_, inputs, kernel, _] = shape else { return };
    let pixels = kernel * kernel;
    for (filter, values) in values.chunks_exact_mut(inputs * pixels).take(inputs).enumerate() {
        values.fill(0.0);
        values[filter * pixels + kernel / 2 * (kernel + 1)] = 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NetworkConfig, Shape};

    const IMAGES: Shape = Shape::Maps { channels: 3, height: 32, width: 32 };

    fn weight(config: &NetworkConfig, name: &str) -> (Vec<usize>, Vec<f32>) {
        let graph = Graph::new(&config.network(IMAGES).unwrap()).unwrap();
        let tensor = graph.initial(3).into_iter().find(|tensor| tensor.name == name).unwrap();
        let TensorData::F32(values) = tensor.data else { panic!("{name} is a count") };
        (tensor.shape, values.into_owned())
    }

    #[test]
    fn dirac_filters_pass_their_channel_on_and_the_others_are_uniform() {
        let report =
            NetworkConfig { blocks: vec![1, 1], widths: vec![4, 8], ..NetworkConfig::paper() };
        let config = NetworkConfig { init: Init::Dirac, ..report.clone() };
        let name = "stack_layers.1.blocks.0.conv1.weight";
        let (shape, values) = weight(&config, name);
        assert_eq!(shape, [8, 4, 3, 3]);
        for filter in 0..4 {
            let ones: Vec<usize> = (0..36).filter(|i| values[filter * 36 + i] != 0.0).collect();
            assert_eq!((&ones[..], values[filter * 36 + ones[0]]), (&[filter * 9 + 4][..], 1.0));
        }
        assert_eq!(values[4 * 36..], weight(&report, name).1[4 * 36..]);
    }

    #[test]
    fn initialisations_are_pytorchs() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../conformance/tests/fixtures/airbench.safetensors"
        );
        let bytes = std::fs::read(path).unwrap();
        let fixture = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, init) in
            [("dirac/6x4", Init::Dirac), ("dirac/4x6", Init::Dirac), ("unit", Init::Unit)]
        {
            let view = |what: &str| fixture.tensor(&format!("init/{name}/{what}")).unwrap();
            let before = view("before");
            let numbers = before.data().chunks_exact(4);
            let mut values: Vec<f32> =
                numbers.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
            finish(init, before.shape(), &mut values);
            // Of filters there are as many as there are inputs: the others stay as they are.
            let after = view("after");
            for (value, bytes) in values.iter().zip(after.data().chunks_exact(8)) {
                let expected = f64::from_le_bytes(bytes.try_into().unwrap());
                assert!((f64::from(*value) - expected).abs() < 1e-6, "{name}: {value} {expected}");
            }
        }
    }

    #[test]
    fn a_unit_head_has_a_deviation_of_one() {
        let mut config =
            NetworkConfig { blocks: vec![1], widths: vec![4], ..NetworkConfig::paper() };
        config.head.init = Init::Unit;
        config.head.hidden = 0;
        let (_, values) = weight(&config, "output_layer.fc.weight");
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance =
            values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / (n - 1.0);
        assert!((variance - 1.0).abs() < 1e-6, "{variance}");
    }
}
