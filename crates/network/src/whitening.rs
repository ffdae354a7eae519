//! Filters that whiten the patches of images (airbench, arXiv 2404.00498; after Coates and Ng 2012): their
//! outputs are uncorrelated and have about the same variance.

use crate::{Graph, Init, Role, Shape, Tensor, TensorData};

/// Added to the variances, so that directions of almost no variance are not amplified.
const EPS: f64 = 5e-4;

/// A direction whose variance is below this share of the largest has none, as the colour directions of grey
/// images: its filter is zero, since BatchNorm would amplify rounding errors.
const NONE: f64 = 1e-9;

impl Graph {
    /// Replaces the filters of [`Init::Whitening`] in a state by those of `images` `[N, C, H, W]`, normalised: the
    /// eigenvectors of their patches' covariance (without subtracting means), each divided by the square root of its
    /// eigenvalue, in ascending order of eigenvalues, then their negatives (Jordan 2024, arXiv 2404.00498, after Coates
    /// and Ng 2012). `images` is called only if there are such filters.
    pub fn whiten(&self, state: &mut [Tensor], images: impl Fn() -> Vec<f32>) {
        let Shape::Maps { channels, height, width } = self.input else { return };
        for parameter in &self.parameters {
            let Role::Weight { init: Init::Whitening, .. } = parameter.role else { continue };
            let kernel = parameter.shape[2];
            let covariance = covariance(&images(), [channels, height, width], kernel);
            let side = channels * kernel * kernel;
            let mut directions = eigen(covariance, side);
            directions.sort_by(|a, b| a.0.total_cmp(&b.0));
            let largest = directions.last().map_or(0.0, |direction| direction.0);
            let factor = |variance: f64| match variance > NONE * largest {
                true => 1.0 / (variance + EPS).sqrt(),
                false => 0.0,
            };
            let filters: Vec<f32> = directions
                .iter()
                .flat_map(|(variance, vector)| {
                    vector.iter().map(|x| (x * factor(*variance)) as f32)
                })
                .collect();
            let opposites = filters.iter().map(|x| -x);
            let all: Vec<f32> = filters.iter().copied().chain(opposites).collect();
            let tensor = state.iter_mut().find(|tensor| tensor.name == parameter.name);
            if let Some(Tensor { data, .. }) = tensor {
                *data = TensorData::F32(all.into());
            }
        }
    }
}

/// The mean of `patch * patch^T` over all patches of `kernel` x `kernel` pixels.
fn covariance(images: &[f32], [channels, height, width]: [usize; 3], kernel: usize) -> Vec<f64> {
    let (side, image) = (channels * kernel * kernel, channels * height * width);
    let mut sums = vec![0.0; side * side];
    let mut patch = vec![0.0; side];
    let mut count = 0.0;
    for image in images.chunks_exact(image) {
        for y in 0..=height - kernel {
            for x in 0..=width - kernel {
                for (i, value) in patch.iter_mut().enumerate() {
                    let (channel, row, column) =
                        (i / (kernel * kernel), i / kernel % kernel, i % kernel);
                    *value = f64::from(image[(channel * height + y + row) * width + x + column]);
                }
                for (sums, &a) in sums.chunks_exact_mut(side).zip(&patch) {
                    sums.iter_mut().zip(&patch).for_each(|(sum, &b)| *sum += a * b);
                }
                count += 1.0;
            }
        }
    }
    sums.iter_mut().for_each(|sum| *sum /= count);
    sums
}

/// The eigenvalues of a symmetric matrix and their eigenvectors of length 1, by Jacobi rotations.
fn eigen(mut a: Vec<f64>, n: usize) -> Vec<(f64, Vec<f64>)> {
    let mut vectors: Vec<Vec<f64>> =
        (0..n).map(|i| (0..n).map(|j| if i == j { 1.0 } else { 0.0 }).collect()).collect();
    let total: f64 = a.iter().map(|x| x * x).sum();
    let beside =
        |a: &[f64]| -> f64 { (0..n * n).filter(|i| i / n != i % n).map(|i| a[i] * a[i]).sum() };
    // Converges quadratically: a handful of sweeps.
    for _ in 0..50 {
        if beside(&a) <= 1e-30 * total {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p * n + q] == 0.0 {
                    continue;
                }
                let ratio = (a[q * n + q] - a[p * n + p]) / (2.0 * a[p * n + q]);
                let tangent = ratio.signum() / (ratio.abs() + (ratio * ratio + 1.0).sqrt());
                let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
                let sine = tangent * cosine;
                let turn = |x: f64, y: f64| (cosine * x - sine * y, sine * x + cosine * y);
                for k in 0..n {
                    let turned = turn(a[k * n + p], a[k * n + q]);
                    (a[k * n + p], a[k * n + q]) = turned;
                }
                for k in 0..n {
                    let turned = turn(a[p * n + k], a[q * n + k]);
                    (a[p * n + k], a[q * n + k]) = turned;
                    let turned = turn(vectors[p][k], vectors[q][k]);
                    (vectors[p][k], vectors[q][k]) = turned;
                }
            }
        }
    }
    vectors.into_iter().enumerate().map(|(i, vector)| (a[i * n + i], vector)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ActivationKind, Family, NetworkConfig};

    #[test]
    fn eigenvectors_are_orthonormal_and_make_the_matrix_again() {
        let n = 12;
        let number = |i: usize| ((i * 7919 % 1009) as f64 / 504.5 - 1.0).sin();
        let half: Vec<f64> = (0..n * n).map(number).collect();
        let product = |i: usize, j: usize| (0..n).map(|k| half[i * n + k] * half[j * n + k]).sum();
        let matrix: Vec<f64> = (0..n * n).map(|at| product(at / n, at % n)).collect();
        let eigen = eigen(matrix.clone(), n);
        for i in 0..n {
            for j in 0..n {
                let dot: f64 = (0..n).map(|k| eigen[i].1[k] * eigen[j].1[k]).sum();
                assert!((dot - if i == j { 1.0 } else { 0.0 }).abs() < 1e-12);
                let again: f64 = eigen.iter().map(|(value, v)| value * v[i] * v[j]).sum();
                assert!((again - matrix[i * n + j]).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn whitened_patches_are_uncorrelated_and_of_size_one() {
        let mut config =
            NetworkConfig { family: Family::Airbench, whitening: 2, ..NetworkConfig::paper() };
        (config.blocks, config.widths) = (vec![2], vec![4]);
        (config.activation, config.head.hidden) = (ActivationKind::Gelu, 0);
        let input = Shape::Maps { channels: 3, height: 32, width: 32 };
        let graph = Graph::new(&config.network(input).unwrap()).unwrap();
        // Rough images, so that every variance is far above what is added to it.
        let pixel = |i: usize| (i * i % 8191 * 31 % 1009) as f32 / 100.0;
        let images: Vec<f32> = (0..4 * 3 * 32 * 32).map(pixel).collect();
        let mut state = graph.initial(0);
        graph.whiten(&mut state, || images.clone());
        let TensorData::F32(filters) = &state[0].data else { panic!("it has numbers") };
        let covariance = covariance(&images, [3, 32, 32], 2);
        let filter = |i: usize| filters[i * 12..][..12].iter().map(|&x| f64::from(x));
        // Grey images are the same in all channels: the other eight directions have no variance.
        let grey = images[..32 * 32].repeat(3);
        let mut of_grey = graph.initial(0);
        graph.whiten(&mut of_grey, || grey.clone());
        let TensorData::F32(of_grey) = &of_grey[0].data else { panic!("it has numbers") };
        let zero = of_grey.chunks_exact(12).map(|filter| filter.iter().all(|&x| x == 0.0));
        let twelve = [[true; 8].as_slice(), &[false; 4]].concat();
        assert_eq!(zero.collect::<Vec<_>>(), twelve.repeat(2));
        for i in 0..12 {
            assert!(filter(i).eq(filter(i + 12).map(|x| -x)));
            for j in 0..12 {
                let mut sum = 0.0;
                for (a, row) in filter(i).zip(covariance.chunks_exact(12)) {
                    sum += a * filter(j).zip(row).map(|(b, c)| b * c).sum::<f64>();
                }
                assert!((sum - if i == j { 1.0 } else { 0.0 }).abs() < 1e-2, "{i} {j}: {sum}");
            }
        }
    }
}
