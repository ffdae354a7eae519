//! The properties, one file a subject. Each takes the suite and panics if it does not hold.

pub(crate) mod accumulation;
pub(crate) mod averages;
pub(crate) mod device;
pub(crate) mod frozen;
pub(crate) mod gradients;
pub(crate) mod measure;
pub(crate) mod processes;
pub(crate) mod pytorch;
pub(crate) mod samples;
pub(crate) mod state;
pub(crate) mod statistics;
pub(crate) mod updates;
