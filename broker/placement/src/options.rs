//! What of placement can be configured.

use thiserror::Error;

/// How tight the load bound is and how fine the ring.
///
/// Every node that computes a placement needs the same options: they belong to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacementOptions {
    load_slack_percent: u32,
    virtual_nodes: u32,
}

/// Largest load slack: a node may carry twice its share.
pub const LOAD_SLACK_PERCENT_MAX: u32 = 100;
/// Largest number of virtual nodes of an ordinary node.
pub const VIRTUAL_NODES_MAX: u32 = 4096;

/// An option is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PlacementOptionsError {
    /// The load slack is 0 or too large.
    #[error("a load slack of {given}% is out of range; use 1 to {LOAD_SLACK_PERCENT_MAX}")]
    LoadSlack {
        /// The number.
        given: u32,
    },
    /// The number of virtual nodes is 0 or too large.
    #[error("{given} virtual nodes are out of range; use 1 to {VIRTUAL_NODES_MAX}")]
    VirtualNodes {
        /// The number.
        given: u32,
    },
}

impl PlacementOptions {
    /// Checks options.
    ///
    /// `load_slack_percent` is the epsilon of the load bound, in percent; default 15, bounds 1 to
    /// [`LOAD_SLACK_PERCENT_MAX`]. Smaller: nodes are more even, and the ring alone moves more when
    /// nodes come and go. Larger: a node may carry more than its share, and its leaving moves more.
    ///
    /// `virtual_nodes` is the number of points on the ring of a node of ordinary weight; default
    /// 256, bounds 1 to [`VIRTUAL_NODES_MAX`]. Fewer: the ring alone is less even. More: a placement
    /// takes longer to compute.
    ///
    /// # Errors
    /// When one is out of its bounds.
    pub fn new(load_slack_percent: u32, virtual_nodes: u32) -> Result<Self, PlacementOptionsError> {
        if !(1..=LOAD_SLACK_PERCENT_MAX).contains(&load_slack_percent) {
            return Err(PlacementOptionsError::LoadSlack { given: load_slack_percent });
        }
        if !(1..=VIRTUAL_NODES_MAX).contains(&virtual_nodes) {
            return Err(PlacementOptionsError::VirtualNodes { given: virtual_nodes });
        }
        Ok(Self { load_slack_percent, virtual_nodes })
    }

    /// Epsilon of the load bound, in percent.
    #[must_use]
    pub fn load_slack_percent(&self) -> u32 {
        self.load_slack_percent
    }

    /// Points on the ring of a node of ordinary weight.
    #[must_use]
    pub fn virtual_nodes(&self) -> u32 {
        self.virtual_nodes
    }
}

impl Default for PlacementOptions {
    fn default() -> Self {
        Self { load_slack_percent: 15, virtual_nodes: 256 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked() {
        assert!(PlacementOptions::new(0, 1).is_err());
        assert!(PlacementOptions::new(101, 1).is_err());
        assert!(PlacementOptions::new(1, 0).is_err());
        assert!(PlacementOptions::new(1, 4097).is_err());
        let default = PlacementOptions::default();
        assert_eq!(
            PlacementOptions::new(default.load_slack_percent, default.virtual_nodes),
            Ok(default)
        );
    }
}
