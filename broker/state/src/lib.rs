//! What committed entries mean: partition state machines and the catalog, pure folds.
