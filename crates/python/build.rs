//! macOS links a module that finds Python's functions only when it is loaded.

fn main() {
    pyo3_build_config::add_extension_module_link_args();
}
