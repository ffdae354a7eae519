//! The engine conformance suite: what every engine must do, as tests that take a device and tolerances.
//!
//! An engine's crate runs all of them with [`conformance_tests!`], which makes a `#[test]` of every property:
//!
//! ```ignore
//! mod in_f32 {
//!     crescendo_conformance::conformance_tests!(|| {
//!         let device = CpuDevices.open(&EngineConfig::default()).unwrap();
//!         (device, crescendo_conformance::Tolerances::F32)
//!     });
//! }
//! ```
//!
//! What an engine computes is held to [`Model`], which computes a graph in f64 by plain formulas, and to what
//! PyTorch computed (`tests/fixtures/`, written by `pytorch/fixtures.py`). What it promises beyond numbers (order,
//! errors, bits that must not change) is held to the documentation of
//! [`Engine`](crescendo_network::Engine). What is true of one engine alone, such as its threads, is tested in
//! its own crate.

mod fixture;
mod properties;
mod reference;
mod setup;
mod suite;
mod tolerances;

pub use fixture::Fixture;
pub use reference::{Evaluation, Model, Values};
pub use suite::{Opened, Suite};
pub use tolerances::Tolerances;

/// A named test of the suite.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// What must be true.
    pub name: &'static str,
    /// Panics if it is not.
    pub check: fn(&Suite),
}

impl Property {
    /// The property of this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn named(name: &str) -> Property {
        let all = all();
        *all.iter().find(|property| property.name == name).expect("a property of the suite")
    }
}

/// Lists the properties once: for [`all`], and for the tests that [`conformance_tests!`] makes.
macro_rules! properties {
    ($d:tt $($module:ident: $($name:ident),* ;)*) => {
        /// All properties.
        pub fn all() -> Vec<Property> {
            vec![$($(
                Property { name: stringify!($name), check: properties::$module::$name },
            )*)*]
        }

        /// Makes a test of every property, given a function that opens a device and says how closely its
        /// engines must come: `Fn() -> (Box<dyn Device>, Tolerances)`; or, where there may be no such device, a
        /// `Result` of them: tests then say that they did not run, and why. Attributes that follow, such as
        /// `#[ignore = "needs an NVIDIA card"]`, are those of every test.
        #[macro_export]
        macro_rules! conformance_tests {
            ($d open:expr $d(, #[$d attribute:meta])*) => {
                $($(
                    #[test]
                    $d(#[$d attribute])*
                    fn $name() {
                        let name = concat!(module_path!(), "::", stringify!($name));
                        let opened = $d crate::Opened::or_say(($d open)(), name);
                        let Some((device, tolerances)) = opened else { return };
                        let suite = $d crate::Suite { device: &*device, tolerances };
                        ($d crate::Property::named(stringify!($name)).check)(&suite);
                    }
                )*)*
            };
        }
    };
}

properties! { $
    gradients:
        residual_networks_match_the_reference,
        airbench_networks_match_the_reference,
        a_network_of_neither_family_matches_the_reference,
        networks_of_other_image_sizes_match_the_reference,
        smoothed_labels_match_the_reference,
        class_weights_match_the_reference,
        a_wrong_number_of_class_weights_is_refused,
        a_batch_of_one_image_matches_the_reference;
    statistics:
        running_statistics_take_in_every_batch,
        blended_statistics_match_the_reference,
        logits_use_the_running_statistics,
        logits_of_an_image_do_not_depend_on_the_others;
    updates:
        sgd_matches_the_reference,
        muon_matches_the_reference,
        updates_of_residual_networks_match_the_reference,
        updates_of_airbench_networks_match_the_reference,
        an_update_clears_the_gradients,
        results_come_in_order_one_for_each_update,
        results_come_without_waiting;
    pytorch:
        two_updates_of_a_residual_network_match_pytorch,
        two_updates_of_an_airbench_network_match_pytorch,
        a_moving_average_matches_pytorch,
        lookahead_and_a_group_that_is_frozen_match_pytorch,
        smaller_images_match_pytorch;
    frozen:
        frozen_parameters_have_no_gradient_and_change_no_other,
        frozen_parameters_keep_their_bits,
        backward_ends_at_the_first_trained_parameter;
    averages:
        the_average_blends_in_the_model,
        the_model_and_its_average_are_exchanged,
        the_average_can_be_saved_and_put_back;
    accumulation:
        micro_batches_add_up_to_their_batch,
        micro_batches_of_weighted_classes_add_up_to_their_batch,
        each_micro_batch_has_its_own_statistics,
        each_group_of_ghost_batch_norm_has_its_own_statistics;
    measure:
        norms_of_halves_match_the_reference,
        norms_of_halves_in_micro_batches_match_the_reference,
        norms_with_class_weights_match_the_reference,
        a_batch_without_a_half_has_no_norms,
        measuring_changes_nothing_else,
        halves_add_up_to_the_gradient_of_their_batch;
    samples:
        samples_become_the_input_that_is_described,
        samples_are_of_the_last_data_set;
    state:
        a_new_engine_has_zeros_for_parameters,
        tensors_are_the_graphs,
        import_takes_what_export_gave,
        import_refuses_anything_else_and_replaces_nothing,
        training_resumes_from_exported_tensors_to_the_bit,
        a_snapshot_is_what_export_gives_at_that_moment,
        logits_follow_every_change_of_the_state,
        the_image_size_can_change_and_change_back,
        a_graph_with_other_parameters_is_refused,
        batches_before_leave_nothing_behind,
        two_engines_compute_the_same_bits;
    device:
        a_device_describes_itself,
        required_memory_grows_with_the_micro_batch,
        step_times_are_of_the_graphs_operations;
    processes:
        processes_compute_what_one_does,
        processes_without_images_take_part,
        processes_compute_micro_batches_as_one_does,
        processes_compute_ghost_groups_as_one_does,
        processes_with_class_weights_compute_what_one_does,
        processes_blend_statistics_as_one_does,
        final_gradients_cover_all_parameters_once,
        final_gradients_cover_frozen_parameters,
        gradients_of_measured_halves_are_summed_apart,
        errors_of_the_communicator_reach_the_caller;
}
