//! The unit's sandbox, as systemd itself rates it, and the licenses of the dependencies.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

fn packaging(path: &str) -> String {
    format!("{}/packaging/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// Tenths: 30 is an exposure of 3.0. None: systemd-analyze is not installed.
fn exposure_tenths(files: &[(&str, &str)]) -> Option<u32> {
    // tests run side by side
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("saltpeter-unit-{}-{count}", std::process::id()));
    for (from, to) in files {
        let to = dir.join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(packaging(from), to).unwrap();
    }
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--offline=true", "--no-pager"]);
    let output = command.arg(dir.join("saltpeter.service")).output();
    fs::remove_dir_all(&dir).unwrap();
    let Ok(output) = output else {
        eprintln!("SKIPPED the unit's exposure: systemd-analyze (package systemd) is missing");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let figure = text.rsplit("saltpeter.service: ").next().unwrap();
    let figure = figure.split(' ').next().unwrap().replace('.', "");
    Some(figure.parse().unwrap_or_else(|_| panic!("{text}")))
}

const UNIT: (&str, &str) = ("systemd/saltpeter.service", "saltpeter.service");

#[test]
fn the_unit_is_hardened_to_3_0_or_better() {
    if let Some(tenths) = exposure_tenths(&[UNIT]) {
        assert!(tenths <= 30, "exposure {tenths} tenths");
    }
}

#[test]
fn the_drop_in_for_the_local_executor_states_its_exposure() {
    let drop_in = ("systemd/local-executor.conf", "saltpeter.service.d/local.conf");
    let text = fs::read_to_string(packaging(drop_in.0)).unwrap();
    let (Some(with), Some(without)) = (exposure_tenths(&[UNIT, drop_in]), exposure_tenths(&[UNIT])) else {
        return;
    };
    let figure = |tenths: u32| format!("{}.{}", tenths / 10, tenths % 10);
    let wanted = format!("{} without it, {} with it", figure(without), figure(with));
    assert!(text.contains(&wanted), "the drop-in should say: {wanted}");
}

#[test]
fn every_dependency_has_a_license_that_is_compatible_with_ours() {
    let output = Command::new(packaging("check-licenses")).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
}

/// The words between quotes after `start`, up to `end`.
fn quoted(file: &str, start: &str, end: &str) -> Vec<String> {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).unwrap();
    let (_, list) = text.split_once(start).unwrap();
    let list = list.split(end).next().unwrap();
    let mut words: Vec<String> = list.split('"').skip(1).step_by(2).map(str::to_string).collect();
    words.sort();
    words
}

#[test]
fn cargo_deny_allows_the_same_licenses() {
    let allowed = quoted("packaging/check-licenses", "ALLOWED = {", "}");
    assert!(allowed.len() > 10, "{allowed:?}");
    assert_eq!(quoted("deny.toml", "allow = [", "]"), allowed);
}
