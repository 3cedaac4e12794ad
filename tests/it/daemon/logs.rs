//! Job logs, letter by letter: operators' scripts read them.

use serde_json::json;

use crate::support::daemon::{Daemon, Plan, job, job_with};
use crate::support::until;

/// The log once `count` runs have finished, with every time and instance number made the same.
fn log_after(daemon: &Daemon, file: &str, count: usize) -> String {
    let log = until("the log of a finished run", || {
        let log = daemon.job_log(file);
        (log.matches("###### Finished ").count() >= count && log.ends_with('\n')).then_some(log)
    });
    let lines = log.lines().map(|line| {
        let words = line.split(' ').map(|word| match word {
            _ if is_time(word) => "TIME".to_string(),
            _ => match word.rsplit_once('_') {
                Some((job, number)) if number.len() == 10 && number.parse::<u64>().is_ok() => {
                    format!("{job}_N")
                }
                _ => word.to_string(),
            },
        });
        words.collect::<Vec<_>>().join(" ")
    });
    lines.map(|line| line + "\n").collect()
}

fn is_time(word: &str) -> bool {
    let shape: String = word
        .chars()
        .map(|letter| if letter.is_ascii_digit() { '0' } else { letter })
        .collect();
    shape == "0000-00-00T00:00:00.000000+00:00"
}

#[test]
fn a_job_log_reads_as_it_always_did() {
    let daemon = Plan::new(json!({
        "ok": job("echo one; echo two"),
        "bad": job("printf 'no line end'; exit 3"),
        "empty": job("true"),
        "progress": job(r"printf '  0%%\r 50%%\r100%%\nnext\r\nlast\rLAST'"),
    }))
    .start();
    let block = |job: &str, code: i64, output: &str| {
        format!(
            "###### Starting {job}_N at TIME ################\n\
             ###### Starting {job}_N on m1 at TIME ################\n\
             ########## m1 from {job}_N ################\n\
             **** Exit Code {code} ******\n\
             {output}\
             ####### END m1 from {job}_N at TIME #########\n\
             ###### Finished {job}_N at TIME ################\n"
        )
    };
    for (job, code, output) in [
        ("ok", 0, "one\ntwo\n"),
        ("bad", 3, "no line end\n"),
        ("empty", 0, ""),
        ("progress", 0, "100%\nnext\nLAST\n"),
    ] {
        daemon.run_to_end(job);
        assert_eq!(
            log_after(&daemon, &format!("{job}.log"), 1),
            block(job, code, output)
        );
    }
    // a second run is appended
    until("another second", || {
        (daemon.run_to_end("ok").0 == 0).then_some(())
    });
    let log = log_after(&daemon, "ok.log", 2);
    assert!(log.starts_with(&block("ok", 0, "one\ntwo\n")), "{log}");
}

#[test]
fn maintenance_and_missing_machines_stand_in_the_log() {
    let daemon = Plan::new(json!({
        "all": job_with("true", json!({"targets": "m2"})), "none": job_with("true", json!({"targets": "x"})),
        "saltpeter_maintenance": {"machines": ["m2"]},
    }))
    .start();
    let instance = daemon.run("all");
    daemon.wait_ended(&instance);
    assert_eq!(
        log_after(&daemon, "all.log", 1),
        "###### Starting all_N at TIME ################\n\
         ########## m2 from all_N ################\n\
         **** Exit Code 0 ******\n\
         Target under maintenance\n\
         ####### END m2 from all_N at TIME #########\n\
         ###### Finished all_N at TIME ################\n"
    );
    let instance = daemon.run("none");
    daemon.wait_ended(&instance);
    assert_eq!(
        log_after(&daemon, "none.log", 1),
        "###### Starting none_N at TIME ################\n\
         !!!!!! No targets matched for none_N !!!!!!\n\
         ###### Finished none_N at TIME ################\n"
    );
}

#[test]
fn a_rotated_log_is_followed_and_a_log_that_cannot_be_written_stops_nothing() {
    let daemon = Plan::new(json!({"a": job("echo one")})).start();
    daemon.run_to_end("a");
    log_after(&daemon, "a.log", 1);
    std::fs::rename(daemon.path("log/a.log"), daemon.path("log/a.log.1")).unwrap();
    daemon.run_to_end("a");
    log_after(&daemon, "a.log", 1);
    assert_eq!(daemon.job_log("a.log.1").matches("Finished").count(), 1);
    // a directory in the log's place
    std::fs::remove_file(daemon.path("log/a.log")).unwrap();
    std::fs::create_dir(daemon.path("log/a.log")).unwrap();
    assert_eq!(daemon.run_to_end("a").0, 0);
    daemon.wait_said("cannot write job log");
    std::fs::remove_dir(daemon.path("log/a.log")).unwrap();
    daemon.run_to_end("a");
    log_after(&daemon, "a.log", 1);
}
