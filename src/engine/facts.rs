//! What those who ask are told of the server as a whole.

use crate::admin::ListenerRow;
use crate::clock::Now;
use crate::config::Config;

/// What the operating system says of the process; the reactor asks it, for the engine does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Octets of memory that are no file's.
    pub memory_octets: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// How many may be open.
    pub descriptors_max: u64,
    /// Open HTTP connections.
    pub http_connections: u64,
}
/// What does not change while the server runs, and what others report of it.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) product: String,
    pub(super) version: String,
    pub(super) node: String,
    pub(super) cluster_name: String,
    pub(super) data_dir: String,
    pub(super) connections_max: u64,
    pub(super) disk_free_octets_min: u64,
    pub(super) listeners: Vec<ListenerRow>,
    pub(super) figures: Figures,
    /// When the last turn was.
    pub(super) now: Now,
}
impl Facts {
    pub(super) fn new(config: &Config, disk_free_octets_min: u64, now: Now) -> Self {
        let identity = &config.identity;
        Facts {
            product: identity.product.clone(),
            version: identity.version.clone(),
            node: identity.node.clone(),
            cluster_name: identity.cluster_name.clone(),
            data_dir: config.data_dir.display().to_string(),
            connections_max: config.limits.connections_max.into(),
            disk_free_octets_min,
            listeners: Vec::new(),
            figures: Figures::default(),
            now,
        }
    }
}
