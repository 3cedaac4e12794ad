//! Output, from the command's pipe to the bytes that HTTP gives: the same, whatever it is and however much.

use saltpeter::secret::sha256;
use serde_json::json;

use crate::support::daemon::{Plan, job, job_with};
use crate::support::until_within;

/// Bytes that no text is made of, the same every time.
fn noise(length: usize, mut state: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        // xorshift
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn hash(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&sha256(bytes))
}

#[test]
fn what_a_command_writes_is_what_is_stored_byte_for_byte() {
    let plan = Plan::new(json!({}));
    let daemon = plan.start();
    let umlauts = "grüße 😀 \u{feff}".repeat(20_000).into_bytes();
    let mut mixed = umlauts.clone();
    mixed.extend_from_slice(&noise(100_000, 7));
    mixed.extend_from_slice(b"\xf0\x9f"); // a character that never ends
    let samples = [
        ("noise", noise(3_000_000, 42)),
        ("umlauts", umlauts),
        ("mixed", mixed),
        ("zeros", vec![0; 100_000]),
        ("returns", b"\r\n\r\r\n\n\x1b[2J\x07".repeat(1_000)),
    ];
    let mut jobs = serde_json::Map::new();
    for (name, bytes) in &samples {
        let file = daemon.path(&format!("sample-{name}"));
        std::fs::write(&file, bytes).unwrap();
        // in pieces that end anywhere
        jobs.insert(
            name.to_string(),
            job(&format!("dd if={} bs=7777 status=none", file.display())),
        );
    }
    daemon.write_jobs("jobs", &jobs.into());
    daemon.wait_jobs(5);
    for (name, bytes) in &samples {
        let instance = daemon.run(name);
        daemon.wait_ended(&instance);
        let stored = daemon.output(&instance, "m1");
        assert_eq!(
            (stored.len(), hash(&stored)),
            (bytes.len(), hash(bytes)),
            "{name}"
        );
        let result = daemon.result(name, "m1");
        let shown = result["ret"].as_str().unwrap();
        assert_eq!(result["ret_truncated"], bytes.len() > 65_536, "{name}");
        assert!(shown.len() <= 3 * 65_536, "{name}: {}", shown.len());
    }
}

#[test]
fn beyond_its_limit_an_output_keeps_head_and_tail_and_says_what_is_left_out() {
    let daemon = Plan::new(json!({
        "some": job_with("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done", json!({"output_limit": 10_000})),
    }))
    .start();
    let whole: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    let instance = daemon.run("some");
    daemon.wait_ended(&instance);
    let stored = daemon.output_text(&instance, "m1");
    let left_out = whole.len() - 10_000;
    let wanted = format!(
        "{}[{left_out} bytes left out]\n{}",
        &whole[..5_000],
        &whole[whole.len() - 5_000..]
    );
    // the line stands on its own whatever the head ends with
    assert_eq!(stored.replace("\n[", "["), wanted.replace("\n[", "["));
    assert_eq!(
        daemon.fact("left_out_bytes", &instance, "m1"),
        Some(left_out as i64)
    );
}

#[test]
fn a_flood_is_taken_in_bounded_memory_and_others_notice_nothing() {
    // 210 MB from three machines; each keeps the first and the last 4 MiB
    let limit = 8 << 20;
    let daemon = Plan::new(json!({
        "flood": job_with("echo first; yes 0123456789abcdef | head -c 70000000; echo last",
            json!({"output_limit": limit, "targets": "*"})),
        "beside": job("echo here"),
    }))
    .start();
    let instance = daemon.run("flood");
    until_within(120_000, "the flood's end", || {
        // meanwhile others run
        assert_eq!(daemon.run_to_end("beside"), (0, "here\n".into()));
        (!daemon.is_running(&instance)).then_some(())
    });
    daemon.wait_ended(&instance);
    for machine in ["m1", "m2", "m3"] {
        assert_eq!(daemon.retcode(&instance, machine), 0);
        let stored = daemon.output(&instance, machine);
        assert!(stored.starts_with(b"first\n0123456789abcdef\n"));
        assert!(stored.ends_with(b"last\n"));
        let text = String::from_utf8_lossy(&stored);
        let left_out = 70_000_000 + 11 - limit;
        assert!(
            text.contains(&format!("[{left_out} bytes left out]")),
            "{machine}"
        );
        assert!(stored.len() < limit + 100, "{}", stored.len());
    }
    let peak = peak_memory_mib(daemon.pid());
    eprintln!("peak memory of the daemon: {peak} MiB");
    assert!(peak < 200, "{peak} MiB");
}

pub fn peak_memory_mib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() / 1_024
}
