//! The sp-wrapper binary.
