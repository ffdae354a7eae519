//! Functions of one number, applied to each.

use std::f64::consts::{FRAC_2_SQRT_PI, PI, SQRT_2};

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pointwise {
    /// `max(x, 0)`.
    Relu,
    /// `x` where positive, `slope * x` elsewhere.
    LeakyRelu {
        /// PyTorch's `negative_slope`.
        slope: f64,
    },
    /// `x` where positive, `exp(x) - 1` elsewhere (arXiv 1511.07289).
    Elu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `x * sigmoid(x)` (arXiv 1702.03118).
    Silu,
    /// `x * Phi(x)` with the normal distribution's `Phi` (arXiv 1606.08415), not its tanh form.
    Gelu,
    /// `factor * x`.
    Scale {
        /// Any number.
        factor: f64,
    },
}

impl Pointwise {
    /// The function's value at `x`.
    pub fn value(self, x: f64) -> f64 {
        match self {
            Pointwise::Relu if x < 0.0 => 0.0,
            Pointwise::LeakyRelu { slope } if x <= 0.0 => slope * x,
            Pointwise::Elu if x <= 0.0 => x.exp_m1(),
            Pointwise::Relu | Pointwise::LeakyRelu { .. } | Pointwise::Elu => x,
            Pointwise::Sigmoid => sigmoid(x),
            Pointwise::Silu => x * sigmoid(x),
            Pointwise::Gelu => x * normal_probability(x),
            Pointwise::Scale { factor } => factor * x,
        }
    }

    /// Its derivative at `x`; at a kink that of the side below, as in PyTorch.
    pub fn derivative(self, x: f64) -> f64 {
        match self {
            Pointwise::Relu if x <= 0.0 => 0.0,
            Pointwise::LeakyRelu { slope } if x <= 0.0 => slope,
            Pointwise::Elu if x <= 0.0 => x.exp(),
            Pointwise::Relu | Pointwise::LeakyRelu { .. } | Pointwise::Elu => 1.0,
            Pointwise::Sigmoid => sigmoid(x) * (1.0 - sigmoid(x)),
            Pointwise::Silu => sigmoid(x) + x * sigmoid(x) * (1.0 - sigmoid(x)),
            Pointwise::Gelu => normal_probability(x) + x * (-x * x / 2.0).exp() / (2.0 * PI).sqrt(),
            Pointwise::Scale { factor } => factor,
        }
    }
}

/// The function of each number.
pub fn pointwise(f: Pointwise, x: &[f64]) -> Vec<f64> {
    x.iter().map(|&x| f.value(x)).collect()
}

/// The gradient of [`pointwise`]'s input.
pub fn pointwise_backward(f: Pointwise, x: &[f64], dy: &[f64]) -> Vec<f64> {
    x.iter().zip(dy).map(|(&x, dy)| dy * f.derivative(x)).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The normal distribution's `Phi`.
fn normal_probability(x: f64) -> f64 {
    0.5 * (1.0 + erf(x / SQRT_2))
}

/// The error function: `2 / sqrt(pi) e^(-x^2)` times the sum of `2^n x^(2n+1) / (2n+1)!!`, whose terms
/// all have the same sign (DLMF 7.6.2). Beyond 6 it is one to the last digit.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    sum * (-x * x).exp() * FRAC_2_SQRT_PI
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_gradient, dot, noise};

    #[test]
    fn gradients_match_finite_differences() {
        // No number near a kink.
        let x: Vec<f64> = noise(1, 200).iter().map(|x| 5.0 * x + 0.01 * x.signum()).collect();
        let dy = noise(2, x.len());
        for f in [
            Pointwise::Relu,
            Pointwise::LeakyRelu { slope: 0.01 },
            Pointwise::Elu,
            Pointwise::Sigmoid,
            Pointwise::Silu,
            Pointwise::Gelu,
            Pointwise::Scale { factor: -0.125 },
        ] {
            let gradient = pointwise_backward(f, &x, &dy);
            assert_gradient(&format!("{f:?}"), &gradient, &x, |x| dot(&pointwise(f, x), &dy));
        }
    }

    #[test]
    fn the_error_function_at_known_points() {
        // Abramowitz and Stegun, table 7.1.
        for (x, expected) in
            [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)]
        {
            assert!((erf(x) - expected).abs() < 1e-10 && (erf(-x) + expected).abs() < 1e-10);
        }
        assert!((erf(5.9) - 1.0).abs() < 1e-15 && erf(40.0) == 1.0);
    }

    #[test]
    fn at_a_kink_the_derivative_is_that_of_the_side_below() {
        assert_eq!(Pointwise::Relu.derivative(0.0), 0.0);
        assert_eq!(Pointwise::LeakyRelu { slope: 0.25 }.derivative(0.0), 0.25);
    }
}
