//! The families of networks: each module turns a [`NetworkConfig`](crate::NetworkConfig) into operations.

pub(crate) mod airbench;
pub(crate) mod resnet;
