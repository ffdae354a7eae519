//! Whether the section `[optimizer]` is valid.

use crescendo_network::{Graph, Parameter, Role};

use super::{first_problem, is_finite_f32};
use crate::Error;
use crate::policy::name_matches;
use crate::recipe::{OptimizerConfig, OptimizerKind};

/// Whether the section is valid for the network of this plan, which is only made if the names of parameters
/// matter.
pub(super) fn check(
    optimizer: &OptimizerConfig,
    graph: impl Fn() -> Result<Graph, Error>,
) -> Result<(), Error> {
    check_values(optimizer, "optimizer.")?;
    if optimizer.groups.is_empty() && optimizer.kind != OptimizerKind::Muon {
        return Ok(());
    }
    let graph = graph()?;
    for group in &optimizer.groups {
        let name = &group.parameters;
        let mut trained = graph.parameters.iter().filter(|parameter| parameter.requires_grad);
        if !trained.clone().any(|parameter| name_matches(name, &parameter.name)) {
            return Err(Error::Recipe(format!(
                "optimizer.groups: no trained parameter of this network is called {name}: a \
                 checkpoint has all names (`crescendo train` with train.epochs=0 writes one)"
            )));
        }
        let first = |parameter: &Parameter| optimizer.group_of(&parameter.name) == Some(group);
        if !trained.any(first) {
            return Err(Error::Recipe(format!(
                "optimizer.groups: all parameters that {name} matches are in groups before it: put it before them"
            )));
        }
        if group.weight_decay.is_some()
            && optimizer.settings_of(Some(group)).kind == OptimizerKind::Muon
        {
            return Err(Error::Recipe(format!(
                "optimizer.groups: {name} has a weight_decay, but the kind muon has none, because it \
                 keeps the norm of weights fixed"
            )));
        }
        if group.has_training_settings()
            && optimizer.settings_of(Some(group)).kind == OptimizerKind::Fixed
        {
            return Err(Error::Recipe(format!(
                "optimizer.groups: {name} is fixed, so its other settings have no effect: leave them \
                 out, or give it another kind"
            )));
        }
        check_values(
            &optimizer.settings_of(Some(group)),
            &format!("optimizer.groups, of {name}: "),
        )?;
    }
    for parameter in graph.parameters.iter().filter(|parameter| parameter.requires_grad) {
        let kind = optimizer.settings_of(optimizer.group_of(&parameter.name)).kind;
        if kind == OptimizerKind::Muon && !matches!(parameter.role, Role::Weight { .. }) {
            return Err(Error::Recipe(format!(
                "optimizer.kind is muon for {}, which is not a matrix: give it another kind in \
                 optimizer.groups, such as {{ parameters = \"*.bias\", kind = \"sgd\" }}",
                parameter.name
            )));
        }
    }
    Ok(())
}

/// Whether single values are valid; errors begin with `prefix`.
fn check_values(optimizer: &OptimizerConfig, prefix: &str) -> Result<(), Error> {
    let named = |problem: &str| format!("{prefix}{problem}");
    first_problem([
        (
            is_finite_f32(optimizer.learning_rate),
            named("learning_rate must be a number from 0 to 3e38"),
        ),
        (
            (0.0..1.0).contains(&optimizer.momentum),
            named("momentum must be at least 0 and below 1"),
        ),
        (
            is_finite_f32(optimizer.weight_decay),
            named("weight_decay must be a number from 0 to 3e38"),
        ),
        (
            !optimizer.nesterov || optimizer.momentum > 0.0,
            named("nesterov needs a momentum above 0"),
        ),
        (optimizer.average_every > 0, named("average_every must be at least 1")),
        (
            (0.0..1.0).contains(&optimizer.average_decay),
            named("average_decay must be at least 0 and below 1"),
        ),
    ])
}
