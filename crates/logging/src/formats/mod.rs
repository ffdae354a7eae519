//! Formats of the files in a run's folder, shared by the loggers that write them and the report
//! that reads them.

pub(crate) mod csv;
pub(crate) mod evaluation_json;
pub(crate) mod tables;
