//! What the way back has to compute: nothing for parameters that stay as they are, and nothing that only
//! they would need.

use crate::fusion::Work;
use crate::plan::Plan;

/// Which gradients a fused step's backward computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    pub weight: bool,
    pub bias: bool,
    /// That of what it reads, because something before it is trained.
    pub input: bool,
}

impl Needs {
    /// Those of every fused step, where these of the plan's parameters are trained.
    ///
    /// # Panics
    /// If there is not one answer for each parameter.
    pub fn new(plan: &Plan, trained: &[bool]) -> Vec<Needs> {
        assert_eq!(trained.len(), plan.parameters.len(), "one answer for each parameter");
        // Whether a value depends on a parameter that is trained.
        let mut depends = vec![false];
        for step in &plan.steps {
            let own = step.parameters().any(|index| trained[index]);
            let inputs = step.node.inputs.iter().any(|input| depends[input.0]);
            depends.push(own || inputs);
        }
        let needs = plan.fused.steps.iter().map(|fused| {
            let step = &plan.steps[fused.step];
            let is_trained = |parameter: Option<usize>| parameter.is_some_and(|p| trained[p]);
            match fused.work {
                // It reads the value that it writes down.
                Work::Write => Needs { weight: false, bias: false, input: depends[fused.step + 1] },
                _ => Needs {
                    weight: is_trained(step.weight),
                    bias: is_trained(step.bias),
                    input: depends[step.node.inputs[0].0],
                },
            }
        });
        needs.collect()
    }

    /// Whether there is anything to do.
    pub fn any(self) -> bool {
        self.weight || self.bias || self.input
    }
}
