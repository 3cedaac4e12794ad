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
    let found = found.into_iter().flatten();
    found
        .chain(units_beside(root))
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
        // an edited copy, as of systemctl edit --full
        _ if fs::read_to_string(&own).is_ok_and(|text| starts_ours_only(&text)) => None,
        _ if own.exists() => Some(format!(
            "{shown} is used instead of the package's unit and may start another daemon: move it away, then systemctl \
             daemon-reload and systemctl restart saltpeter"
        )),
        _ => None,
    }
}

/// What a unit starts.
fn commands(unit: &str) -> impl Iterator<Item = &str> {
    let values = unit.lines().filter_map(|line| line.strip_prefix("ExecStart="));
    values.filter(|value| !value.is_empty())
}

fn is_ours(command: &str) -> bool {
    let program = command.trim_start_matches(['-', '@', ':', '+', '!']);
    program.split(' ').next() == Some("/usr/bin/saltpeter")
}

fn starts_ours_only(unit: &str) -> bool {
    commands(unit).next().is_some() && commands(unit).all(is_ours)
}

/// Units of other names that start a saltpeter, but not the package's program.
fn units_beside(root: &Path) -> Vec<String> {
    let starts_other = |unit: &str| {
        let mut others = commands(unit).filter(|command| !is_ours(command));
        others.any(|command| command.split(' ').any(|word| word.ends_with("bin/saltpeter")))
    };
    let entries = fs::read_dir(root.join(OWN_UNITS)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut units: Vec<String> = names
        .filter(|name| name.ends_with(".service") && name != UNIT)
        .filter(|name| {
            let path = root.join(OWN_UNITS).join(name);
            path.is_file() && fs::read_to_string(path).is_ok_and(|text| starts_other(&text))
        })
        .collect();
    units.sort_unstable();
    let told = |unit| {
        format!(
            "/{OWN_UNITS}/{unit} starts another saltpeter: beside this one jobs would run twice; systemctl disable --now \
             {unit}, and move it away"
        )
    };
    units.into_iter().map(told).collect()
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

/// The local executor's jobs live in the unit: its walls are theirs, unless a drop-in speaks of the largest of them.
fn walled_in(root: &Path, config: &Config) -> Option<String> {
    let drop_ins = root.join(OWN_UNITS).join(format!("{UNIT}.d"));
    let entries = fs::read_dir(drop_ins).into_iter().flatten().flatten();
    let mut texts = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let opens = |text: &str| {
        let mut lines = text.lines();
        lines.any(|line| line.starts_with("ProtectSystem=") || line.starts_with("ReadWritePaths="))
    };
    let is_walled = config.settings.executor == ExecutorKind::Local && !texts.any(|text| opens(&text));
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

    #[test]
    fn an_edited_copy_of_the_unit_is_the_packages_as_long_as_it_starts_the_packages_program() {
        let root = std::env::temp_dir().join(format!("saltpeter-edited-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        put(root.join("usr/lib/systemd/system/saltpeter.service"));
        let own = root.join("etc/systemd/system/saltpeter.service");
        put(own.clone());
        let told = |text: &str| {
            fs::write(&own, text).unwrap();
            !reasons(&root).is_empty()
        };
        assert!(!told(include_str!("../../packaging/systemd/saltpeter.service")));
        assert!(!told(
            "[Service]\nExecStart=\nExecStart=-/usr/bin/saltpeter serve -c /srv/jobs\n"
        ));
        for other in [
            "ExecStart=/usr/local/bin/saltpeter -c /etc/saltpeter",
            "ExecStart=/usr/bin/saltpeter-old",
            "ExecStart=/usr/bin/saltpeter serve\nExecStart=/usr/local/bin/saltpeter",
            "ExecStart=",
            "",
        ] {
            assert!(told(&format!("[Service]\n{other}\n")), "{other}");
        }
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_unit_of_another_name_that_starts_another_saltpeter_is_named() {
        let root = std::env::temp_dir().join(format!("saltpeter-beside-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        put(root.join("usr/lib/systemd/system/saltpeter.service"));
        let unit = |name: &str, command: &str| {
            let path = root.join("etc/systemd/system").join(name);
            put(path.clone());
            fs::write(path, format!("[Service]\nExecStart={command}\n")).unwrap();
        };
        unit("second.service", "-/usr/bin/saltpeter serve -c /etc/second");
        unit("backup.service", "/usr/bin/tar c /etc/saltpeter");
        assert_eq!(reasons(&root), [""; 0]);
        unit(
            "cron.service",
            "/opt/python/bin/python3 /opt/python/bin/saltpeter -c /etc/saltpeter",
        );
        let found = reasons(&root);
        assert!(
            found.len() == 1 && found[0].starts_with("/etc/systemd/system/cron.service starts"),
            "{found:?}"
        );
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn the_local_executors_walls_are_told_of_until_a_drop_in_opens_them() {
        let root = std::env::temp_dir().join(format!("saltpeter-walls-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        put(root.join("usr/lib/systemd/system/saltpeter.service"));
        let mut config = Config::default();
        std::sync::Arc::make_mut(&mut config.settings).executor = ExecutorKind::Local;
        let found = || problems(&root, None, &config).len();
        let drop_in = root.join("etc/systemd/system/saltpeter.service.d/a.conf");
        put(drop_in.clone());
        fs::write(&drop_in, "[Service]\nEnvironment=SALTPETER_LOG=debug\n").unwrap();
        assert_eq!(found(), 1);
        fs::write(
            &drop_in,
            include_str!("../../packaging/systemd/local-executor.conf"),
        )
        .unwrap();
        assert_eq!(found(), 0);
        fs::remove_dir_all(&root).unwrap();
    }
}
