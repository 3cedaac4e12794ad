//! The unit's walls, as systemd itself judges them, and the licences of what we ship.

use std::fs;
use std::process::Command;

fn packaging(path: &str) -> String {
    format!("{}/packaging/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// Tenths: 30 is an exposure of 3.0. None: systemd-analyze is not here.
fn exposure_tenths(files: &[(&str, &str)]) -> Option<u32> {
    let dir = std::env::temp_dir().join(format!("saltpeter-unit-{}-{}", std::process::id(), files.len()));
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
fn the_drop_in_for_the_local_executor_says_its_own_exposure() {
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
fn every_crate_that_we_ship_has_a_licence_that_ours_allows() {
    let output = Command::new(packaging("check-licences")).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
}
