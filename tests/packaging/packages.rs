//! The Debian packages in a fresh chroot: packaging/test does it, this one runs it where it is asked for.

use std::process::Command;

/// Building and a chroot take minutes and root: `.ci/run` runs it, `cargo test` only when asked.
#[test]
#[ignore = "packaging/test, minutes, needs root: cargo test --locked --test packaging -- --ignored"]
fn the_packages_install_upgrade_and_go_in_a_fresh_chroot() {
    let script = format!("{}/packaging/test/run", env!("CARGO_MANIFEST_DIR"));
    assert!(Command::new(script).status().unwrap().success());
}
