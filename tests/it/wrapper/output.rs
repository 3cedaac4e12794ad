//! Output arrives byte for byte, whatever the bytes and whatever happens to the connection.

use crate::support::Scratch;
use crate::support::fake_daemon::{FakeDaemon, Script, order};
use crate::support::run::{Run, launch};

/// Bytes of every kind: text, torn and invalid UTF-8, NULs, CRs, very long lines.
fn awkward_bytes(length: usize) -> Vec<u8> {
    let mut state = 7u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let draw = (state >> 33) as usize;
        match draw % 7 {
            0 => bytes.extend_from_slice(
                "größe \u{1f600} \u{0} \r\x1b[31m\n"
                    .repeat(1 + draw % 50)
                    .as_bytes(),
            ),
            1 => bytes.extend((0..draw % 3_000).map(|at| ((at * draw) >> 3) as u8)),
            2 => bytes.extend_from_slice(&"€".as_bytes()[..1 + draw % 2]),
            3 => bytes.push(0xff),
            _ => bytes.extend_from_slice("plain text, line after line\n".repeat(1 + draw % 400).as_bytes()),
        }
    }
    bytes
}

fn file_with(scratch: &Scratch, bytes: &[u8]) -> String {
    let path = scratch.path().join("bytes");
    std::fs::write(&path, bytes).unwrap();
    path.to_string_lossy().into_owned()
}

/// 8: UTF-8 was torn at 8 KiB borders, invalid bytes became latin-1.
#[test]
fn awkward_bytes_arrive_as_they_were_written() {
    let scratch = Scratch::new();
    let bytes = awkward_bytes(5_000_000);
    let daemon = FakeDaemon::with_command(&format!("cat {}", file_with(&scratch, &bytes)));
    let _run = launch(&daemon, "bytes");
    assert_eq!(daemon.outcome(), 0);
    daemon.told(|told| {
        assert!(told.output == bytes);
        assert!(told.base64_frames > 0 && told.base64_frames < told.next_seq);
    });
}

#[test]
fn a_character_written_in_two_halves_arrives_whole() {
    let daemon =
        FakeDaemon::with_command("printf 'a\\303'; sleep 0.3; printf '\\274b'; sleep 0.3; printf '\\303'");
    let run = Run::new(&daemon, "halves").env("SP_OUTPUT_INTERVAL_MS", "10");
    let _run = run.launched();
    assert_eq!(daemon.outcome(), 0);
    daemon.told(|told| {
        assert_eq!(told.output, b"a\xc3\xbcb\xc3");
        assert_eq!(told.base64_frames, 1, "only the half that stays one");
    });
}

/// 6: after a cut lines were doubled or lost.
#[test]
fn cuts_in_the_middle_neither_lose_nor_double_a_byte() {
    let scratch = Scratch::new();
    let bytes = awkward_bytes(3_000_000);
    let daemon = FakeDaemon::with_command(&format!("cat {}", file_with(&scratch, &bytes)));
    daemon.change(|script| script.cut_every = Some(25));
    let _run = launch(&daemon, "cuts");
    assert_eq!(daemon.outcome(), 0);
    daemon.told(|told| {
        assert!(told.output == bytes);
        assert!(told.connects >= 3, "{} connects", told.connects);
        assert_eq!(told.duplicates, 0, "the ack of the connect says what is held");
        // a start whose ack a cut has taken is said again, once a connection at most
        assert!(
            (1..=told.connects).contains(&told.starts),
            "{} starts",
            told.starts
        );
    });
}

/// 16: that daemon forgets a session with its socket. 90 of 120 lines were lost, and the run never ended.
#[test]
fn an_old_daemon_gets_everything_once_and_in_order_as_text_over_any_number_of_cuts() {
    let scratch = Scratch::new();
    let gate = scratch.path().join("gate");
    let daemon = FakeDaemon::start(Script::default());
    let command = format!(
        "i=0; while [ $i -lt 120 ]; do echo line $i; i=$((i+1)); sleep 0.02; \
         [ $((i % 30)) = 0 ] && while [ ! -e {}.$i ]; do sleep 0.02; done; done; printf '\\377'",
        gate.display()
    );
    let run = Run::new(&daemon, "old")
        .env("SP_COMMAND", &command)
        .env("SP_OUTPUT_INTERVAL_MS", "50");
    let _run = run.launched();
    for (cuts, lines) in [30, 60, 90, 120].into_iter().enumerate() {
        daemon.until("the lines before a cut", |told| {
            let text = String::from_utf8_lossy(&told.output);
            text.ends_with(&format!("line {}\n", lines - 1)).then_some(())
        });
        daemon.cut();
        std::fs::write(format!("{}.{lines}", gate.display()), "").unwrap();
        daemon.until("another connection", |told| {
            (told.connects == cuts as u64 + 2).then_some(())
        });
    }
    assert_eq!(daemon.outcome(), 0);
    let expected: String = (0..120).map(|i| format!("line {i}\n")).collect::<String>() + "\u{fffd}";
    assert_eq!(daemon.text(), expected);
    daemon.told(|told| {
        assert_eq!((told.connects, told.starts, told.base64_frames), (5, 1, 0));
        assert_eq!(told.nacked, 0);
    });
}

#[test]
fn a_trickle_is_gathered_and_the_first_line_is_not_kept_waiting() {
    let daemon =
        FakeDaemon::with_command("i=0; while [ $i -lt 150 ]; do echo $i; i=$((i+1)); sleep 0.01; done");
    let _run = launch(&daemon, "trickle");
    daemon.until("the first line", |told| {
        (!told.output.is_empty() && told.output.len() < 300).then_some(())
    });
    assert_eq!(daemon.outcome(), 0);
    daemon.told(|told| {
        assert_eq!(told.output.iter().filter(|&&byte| byte == b'\n').count(), 150);
        assert!(told.output_frames <= 8, "{} frames", told.output_frames);
    });
}

#[test]
fn what_exceeds_the_spool_while_the_daemon_is_away_loses_its_middle_and_says_how_much() {
    let scratch = Scratch::new();
    let done = scratch.path().join("done");
    let gate = scratch.path().join("gate");
    let command = format!(
        "echo first; while [ ! -e {} ]; do sleep 0.05; done; seq 1 3000000; touch {}",
        gate.display(),
        done.display()
    );
    let mut job = order(&command);
    job.env.insert("SP_SPOOL_LIMIT".into(), "4000000".into());
    let daemon = FakeDaemon::with_job(job);
    let _run = launch(&daemon, "limit");
    daemon.until("output", |told| (!told.output.is_empty()).then_some(()));
    daemon.change(|script| script.down = true);
    std::fs::write(gate, "").unwrap();
    crate::support::until("the command's end", || done.exists().then_some(()));
    daemon.change(|script| script.down = false);
    assert_eq!(daemon.outcome(), 0);
    let text = daemon.text();
    let (head, rest) = text.split_once("\n[").unwrap();
    let (left_out, tail) = rest.split_once(" bytes left out]\n").unwrap();
    assert!(head.starts_with("first\n1\n2\n"));
    assert!(tail.ends_with("\n2999999\n3000000\n"));
    let whole: usize = 6
        + (1..=3_000_000u32)
            .map(|number| number.to_string().len() + 1)
            .sum::<usize>();
    // the line break before the notice is the output's own or the notice's
    let counted = head.len() + tail.len() + left_out.parse::<usize>().unwrap();
    assert!(counted == whole || counted + 1 == whole, "{counted} of {whole}");
}
