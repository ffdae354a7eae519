//! Muon's update.

use crescendo_kernels::muon::{self, MuonStep};
use crescendo_kernels::{Isa, Processor, Workspace};
use crescendo_reference::{self as reference, MuonConfig};
use proptest::prelude::*;

use crate::common::{assert_close, noise, processor, wide};

const RULE: MuonStep = MuonStep { learning_rate: 0.25, momentum: 0.6, nesterov: true, steps: 3 };

/// An update's settings as the reference has them.
fn config(rule: MuonStep) -> MuonConfig {
    let MuonStep { learning_rate, momentum, nesterov, steps } = rule;
    let (learning_rate, momentum) = (learning_rate.into(), momentum.into());
    MuonConfig { learning_rate, momentum, nesterov, steps }
}

/// A weight, its gradient and momentum buffer.
#[derive(Clone, Debug, PartialEq)]
struct State {
    rows: usize,
    weight: Vec<f32>,
    gradient: Vec<f32>,
    momentum_buffer: Vec<f32>,
}

impl State {
    fn new(seed: u64, rows: usize, columns: usize) -> Self {
        let [weight, gradient, momentum_buffer] =
            [1, 2, 3].map(|i| noise(seed ^ i, rows * columns));
        State { rows, weight, gradient, momentum_buffer }
    }

    fn update(&mut self, processor: &Processor, rule: MuonStep) {
        let State { rows, weight, gradient, momentum_buffer } = self;
        let workspace_size = muon::workspace_size(*rows, weight.len() / *rows);
        let mut workspace = Workspace::new(processor.pool.threads(), workspace_size);
        muon::update(processor, &mut workspace, rule, *rows, weight, gradient, momentum_buffer);
    }

    /// Two updates with the same gradient, the second with the momentum buffer of the first.
    fn check(&self, isa: Isa, rule: MuonStep) {
        let what = format!("{rule:?} of {} / {} rows, {isa:?}", self.weight.len(), self.rows);
        let processor = processor(isa, 2);
        let mut state = self.clone();
        let (mut weight, mut momentum_buffer) = (wide(&self.weight), wide(&self.momentum_buffer));
        for _ in 0..2 {
            let gradient = wide(&self.gradient);
            reference::muon(config(rule), self.rows, &mut weight, &gradient, &mut momentum_buffer);
            state.gradient.clone_from(&self.gradient);
            state.update(&processor, rule);
            assert_close(&format!("weight, {what}"), &state.weight, &weight, 1e-5);
            assert_close(
                &format!("momentum_buffer, {what}"),
                &state.momentum_buffer,
                &momentum_buffer,
                1e-6,
            );
            assert!(state.gradient.iter().all(|&g| g == 0.0), "{what}");
        }
    }
}

#[test]
fn wide_tall_and_square_weights_match_the_reference() {
    let shapes = [(24, 12), (64, 216), (16, 16), (130, 20), (70, 135), (1, 9), (9, 1), (1, 1)];
    for (rows, columns) in shapes {
        let state = State::new(51, rows, columns);
        for isa in Isa::available() {
            state.check(isa, RULE);
            state.check(isa, MuonStep { nesterov: false, ..RULE });
            state.check(isa, MuonStep { steps: 0, momentum: 0.0, ..RULE });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn weights_of_any_shape_match_the_reference(
        (rows, columns) in (1..90usize, 1..90usize),
        steps in 0..5usize,
        seed in any::<u64>(),
    ) {
        let state = State::new(seed, rows, columns);
        for isa in Isa::available() {
            state.check(isa, MuonStep { steps, ..RULE });
        }
    }
}

#[test]
fn updates_are_the_same_to_the_bit_for_any_number_of_threads() {
    for (rows, columns) in [(64, 576), (200, 100), (256, 300)] {
        let mut one = State::new(52, rows, columns);
        let before = one.clone();
        one.update(&processor(Isa::best(), 1), RULE);
        for threads in [2, 3, 5] {
            let mut many = before.clone();
            many.update(&processor(Isa::best(), threads), RULE);
            assert!(many == one, "{threads} threads differ from one");
        }
    }
}

/// Three iterations take all singular values from a twentieth to one into 0.68 to 1.21: follow the
/// polynomial's extrema.
#[test]
fn the_singular_values_of_a_step_are_near_one() {
    for (rows, columns) in [(24, 12), (12, 24), (16, 60), (40, 7)] {
        let len = rows * columns;
        let mut state = State::new(53, rows, columns);
        state.momentum_buffer.fill(0.0);
        let gradient = wide(&state.gradient);
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let before = singular_values(rows, &gradient);
        assert!(before.iter().all(|value| (0.05..0.68).contains(&(value / norm))), "{before:?}");
        // From a weight of zeros the step is all there is.
        state.weight = vec![0.0; len];
        state.update(&processor(Isa::best(), 2), MuonStep { learning_rate: -1.0, ..RULE });
        let after = singular_values(rows, &wide(&state.weight));
        assert_eq!(after.len(), rows.min(columns));
        assert!(after.iter().all(|value| (0.68..1.21).contains(value)), "{after:?}");
    }
}

/// By Jacobi rotations that make the shorter side's vectors orthogonal to each other.
fn singular_values(rows: usize, x: &[f64]) -> Vec<f64> {
    let columns = x.len() / rows;
    let mut vectors: Vec<Vec<f64>> = if rows <= columns {
        x.chunks(columns).map(<[f64]>::to_vec).collect()
    } else {
        (0..columns).map(|c| x.iter().skip(c).step_by(columns).copied().collect()).collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for _ in 0..30 {
        for j in 1..vectors.len() {
            let (before, rest) = vectors.split_at_mut(j);
            let b = &mut rest[0];
            for a in before {
                let angle = 0.5 * (2.0 * dot(a, b)).atan2(dot(a, a) - dot(b, b));
                let (sine, cosine) = angle.sin_cos();
                for (a, b) in a.iter_mut().zip(b.iter_mut()) {
                    (*a, *b) = (cosine * *a + sine * *b, cosine * *b - sine * *a);
                }
            }
        }
    }
    vectors.iter().map(|v| dot(v, v).sqrt()).collect()
}

#[test]
fn zeros_make_no_step_and_are_not_rescaled() {
    for isa in Isa::available() {
        let processor = processor(isa, 1);
        let mut state = State::new(54, 6, 10);
        state.gradient.fill(0.0);
        state.momentum_buffer.fill(0.0);
        let norm = wide(&state.weight).iter().map(|w| w * w).sum::<f64>().sqrt();
        let expected: Vec<f64> =
            wide(&state.weight).iter().map(|w| w * 6.0f64.sqrt() / norm).collect();
        state.update(&processor, RULE);
        assert_close("rescaled", &state.weight, &expected, 1e-6);
        state.weight.fill(0.0);
        state.update(&processor, RULE);
        assert!(state.weight.iter().chain(&state.momentum_buffer).all(|&x| x == 0.0), "{isa:?}");
    }
}

#[test]
#[should_panic = "the workspace was made for smaller weights"]
fn a_workspace_without_memory_for_the_products_is_refused() {
    let mut state = State::new(55, 6, 10);
    let mut workspace = Workspace::new(1, muon::workspace_size(3, 20));
    let State { rows, weight, gradient, momentum_buffer } = &mut state;
    let processor = processor(Isa::best(), 1);
    muon::update(&processor, &mut workspace, RULE, *rows, weight, gradient, momentum_buffer);
}
