//! What on this host keeps the package's daemon from being the one that runs: leftovers of an older installation.
//! Must not know: what is in the configuration's files.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{Config, ExecutorKind, Problem, Severity};

/// Where the package puts its unit.
const PACKAGED_UNITS: [&str; 2] = ["usr/lib/systemd/system", "lib/systemd/system"];
/// Where an administrator's units are; they win.
const OWN_UNITS: &str = "etc/systemd/system";
const UNIT: &str = "saltpeter.service";

/// The problems of a host where the package is installed; none elsewhere. `root` is `/`, `path` the PATH of whoever asks.
pub fn problems(root: &Path, path: Option<&OsStr>, config: &Config) -> Vec<Problem> {
    let is_packaged = PACKAGED_UNITS
        .iter()
        .any(|directory| root.join(directory).join(UNIT).is_file());
    if !is_packaged {
        return Vec::new();
    }
    let found = [
        shadowing_unit(root),
        shadowing_program(root, path),
        walled_in(root, config),
    ];
    found
        .into_iter()
        .flatten()
        .map(|reason| Problem {
            file: String::new(),
            line: None,
            field: String::new(),
            reason,
            severity: Severity::Warning,
        })
        .collect()
}

fn shadowing_unit(root: &Path) -> Option<String> {
    let own = root.join(OWN_UNITS).join(UNIT);
    let shown = Path::new("/").join(OWN_UNITS).join(UNIT);
    let shown = shown.display();
    match fs::read_link(&own) {
        Ok(target) if target == Path::new("/dev/null") => Some(format!(
            "{shown} masks the package's unit: the daemon does not start; systemctl unmask {UNIT}"
        )),
        Ok(target)
            if PACKAGED_UNITS
                .iter()
                .any(|known| Path::new("/").join(known).join(UNIT) == target) =>
        {
            None
        }
        _ if own.exists() => Some(format!(
            "{shown} is used instead of the package's unit and may start another daemon: move it away, then systemctl \
             daemon-reload and systemctl restart saltpeter"
        )),
        _ => None,
    }
}

/// The old daemon came as /usr/local/bin/saltpeter, which most shells find first.
fn shadowing_program(root: &Path, path: Option<&OsStr>) -> Option<String> {
    let in_path = path.map(std::env::split_paths).into_iter().flatten();
    let before: Vec<PathBuf> = in_path
        .take_while(|directory| !["/usr/bin", "/bin"].iter().any(|own| Path::new(own) == directory))
        .filter(|directory| directory.is_absolute())
        .collect();
    let usual = PathBuf::from("/usr/local/bin");
    let found = [usual].into_iter().chain(before).find(|directory| {
        let below_root = directory.strip_prefix("/").unwrap_or(directory);
        root.join(below_root).join("saltpeter").is_file()
    })?;
    Some(format!(
        "{} is found before /usr/bin/saltpeter: it is another daemon or an older one; remove it (pip uninstall saltpeter) \
         or call /usr/bin/saltpeter by its whole path",
        found.join("saltpeter").display()
    ))
}

/// The local executor's jobs live in the unit: its walls are theirs.
fn walled_in(root: &Path, config: &Config) -> Option<String> {
    let drop_ins = root.join(OWN_UNITS).join(format!("{UNIT}.d"));
    let is_walled = config.settings.executor == ExecutorKind::Local
        && fs::read_dir(drop_ins).map_or(true, |mut entries| entries.next().is_none());
    is_walled.then(|| {
        "executor: local: jobs run inside the unit's walls (no writing outside /var/lib/saltpeter, no /home, ...); see \
         /usr/share/doc/saltpeter/examples/local-executor.conf"
            .to_string()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn reasons(root: &Path) -> Vec<String> {
        let path = OsStr::new("/opt/old/bin:/usr/bin:/later/bin");
        problems(root, Some(path), &Config::default())
            .into_iter()
            .map(|problem| problem.reason)
            .collect()
    }

    fn put(path: PathBuf) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    #[test]
    fn a_hand_made_unit_and_a_program_before_ours_are_named_where_the_package_is_installed() {
        let root = std::env::temp_dir().join(format!("saltpeter-surroundings-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let own = root.join("etc/systemd/system/saltpeter.service");
        put(own.clone());
        put(root.join("usr/local/bin/saltpeter"));
        put(root.join("later/bin/saltpeter"));
        assert_eq!(reasons(&root), [""; 0], "nothing is packaged here");
        put(root.join("usr/lib/systemd/system/saltpeter.service"));
        let found = reasons(&root);
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("/etc/systemd/system/saltpeter.service is used instead"));
        assert!(found[1].starts_with("/usr/local/bin/saltpeter is found before"));
        fs::remove_file(root.join("usr/local/bin/saltpeter")).unwrap();
        put(root.join("opt/old/bin/saltpeter"));
        assert!(reasons(&root)[1].starts_with("/opt/old/bin/saltpeter "));
        fs::remove_file(root.join("opt/old/bin/saltpeter")).unwrap();
        fs::remove_file(&own).unwrap();
        assert_eq!(reasons(&root), [""; 0]);
        symlink("/dev/null", &own).unwrap();
        assert!(reasons(&root)[0].contains("masks"));
        fs::remove_dir_all(&root).unwrap();
    }
}
