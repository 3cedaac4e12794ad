//! What a message says: its subject, its text, its facts as JSON.
//! Must not know: where it goes.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use crate::clock::Wall;
use crate::config::notify::NoticeKind;
use crate::engine::id::MachineRunId;
use crate::engine::notice::{Message, NoticeFacts, NoticeMachine, NoticeRecord};
use crate::engine::record::OutputRef;
use crate::limits;
use crate::process::host::short_name;
use crate::storage::Reader;

/// A message, ready to be put into a channel's form.
pub struct Letter<'a> {
    /// The same for each try.
    pub id: &'a str,
    pub notices: &'a [NoticeRecord],
    pub host: String,
    /// The last lines of machines that failed, by machine run.
    tails: HashMap<u64, String>,
}

/// Where a machine's output is.
fn output_of(machine: &NoticeMachine) -> OutputRef {
    OutputRef {
        machine_run: MachineRunId(machine.machine_run),
        day: machine.day,
        limit_bytes: machine.limit_bytes,
    }
}

/// Notices about one job within a message.
struct OfJob<'a> {
    first: &'a NoticeFacts,
    last: &'a NoticeFacts,
    count: usize,
}

impl<'a> Letter<'a> {
    /// Reads the outputs that the message shows.
    pub fn new(message: &'a Message, reader: &Reader) -> Letter<'a> {
        let facts = message.notices.iter().map(|notice| &notice.facts);
        let machines = facts
            .filter(|facts| matches!(facts.kind, NoticeKind::Failure | NoticeKind::Lost))
            .flat_map(|facts| &facts.machines);
        let mut tails = HashMap::new();
        for machine in machines.take(limits::NOTICE_TAILS) {
            // history may have removed it
            if let Ok((bytes, _)) = reader.output_tail(output_of(machine), limits::NOTICE_TAIL_BYTES) {
                let text = String::from_utf8_lossy(&bytes);
                let lines: Vec<&str> = text.lines().collect();
                let from = lines.len().saturating_sub(limits::NOTICE_TAIL_LINES);
                let tail = lines[from..].iter().map(|line| printable(line));
                let tail = tail.collect::<Vec<_>>().join("\n");
                if !tail.trim().is_empty() {
                    tails.insert(machine.machine_run, tail);
                }
            }
        }
        Letter {
            id: &message.id,
            notices: &message.notices,
            host: short_name(),
            tails,
        }
    }

    /// The latest notice.
    pub fn latest(&self) -> &NoticeFacts {
        // a message has one at least
        &self.notices[self.notices.len() - 1].facts
    }

    /// One line.
    pub fn subject(&self) -> String {
        let jobs = self.by_job();
        match &jobs[..] {
            [one] => line_of(one),
            many => {
                let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
                for job in many {
                    *counts.entry(job.last.kind.word()).or_default() += 1;
                }
                let counts: Vec<String> = counts
                    .iter()
                    .map(|(kind, count)| format!("{count} {kind}"))
                    .collect();
                format!("{} jobs: {}", many.len(), counts.join(", "))
            }
        }
    }

    /// A line for each job, then the last lines of machines that failed.
    pub fn text(&self) -> String {
        let jobs = self.by_job();
        let mut lines: Vec<String> = jobs.iter().take(limits::NOTICE_JOBS).map(line_of).collect();
        if jobs.len() > lines.len() {
            lines.push(format!("+{} more", jobs.len() - lines.len()));
        }
        if let [one] = &jobs[..] {
            lines.extend(details(one.last));
        }
        for notice in self.notices {
            for machine in &notice.facts.machines {
                if let Some(tail) = self.tails.get(&machine.machine_run) {
                    let run = notice.facts.instance.as_deref().unwrap_or(&notice.facts.job);
                    lines.push(format!("\n{run} on {}:\n{tail}", printable(&machine.machine)));
                }
            }
        }
        lines.join("\n")
    }

    /// All facts, as Standard Webhooks wants a payload: `type`, `timestamp`, `data`.
    pub fn json(&self) -> Value {
        let whole = self.json_with(true, self.notices.len());
        if whole.to_string().len() <= limits::NOTICE_JSON_BYTES {
            return whole;
        }
        self.json_with(false, limits::NOTICE_JOBS)
    }

    fn json_with(&self, with_output: bool, most: usize) -> Value {
        let from = self.notices.len().saturating_sub(most);
        let notices: Vec<Value> = self.notices[from..]
            .iter()
            .map(|notice| self.notice_json(notice, with_output))
            .collect();
        let at = self.notices.iter().map(|notice| notice.at).max();
        json!({
            "type": "saltpeter.notices",
            "timestamp": iso(at),
            "data": {
                "host": self.host, "subject": self.subject(), "left_out": from, "notices": notices,
            },
        })
    }

    fn notice_json(&self, notice: &NoticeRecord, with_output: bool) -> Value {
        let facts = &notice.facts;
        let machines: Vec<Value> = facts
            .machines
            .iter()
            .map(|machine| {
                let mut shown = json!({
                    "machine": machine.machine, "retcode": machine.retcode, "outcome": machine.outcome,
                });
                if let Some(tail) = self.tails.get(&machine.machine_run).filter(|_| with_output) {
                    shown["output_tail"] = tail.as_str().into();
                }
                shown
            })
            .collect();
        json!({
            "id": notice.id, "kind": facts.kind.word(), "at": iso(Some(notice.at)), "summary": facts.summary(),
            "job": facts.job, "group": facts.group, "description": facts.description, "instance": facts.instance,
            "due": iso(facts.due), "started": iso(facts.started), "ended": iso(facts.ended),
            "failing_since": iso(facts.failing_since), "failures": facts.failures, "machines_total": facts.total,
            "machines_failed": facts.failed, "machines": machines, "note": facts.note,
            "reminder": facts.is_reminder, "revised": facts.is_revised,
        })
    }

    /// In the order of their first notices.
    fn by_job(&self) -> Vec<OfJob<'_>> {
        let mut jobs: Vec<OfJob<'_>> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        for notice in self.notices {
            let facts = &*notice.facts;
            match places.get(facts.job.as_str()) {
                Some(place) => {
                    jobs[*place].last = facts;
                    jobs[*place].count += 1;
                }
                None => {
                    places.insert(&facts.job, jobs.len());
                    jobs.push(OfJob {
                        first: facts,
                        last: facts,
                        count: 1,
                    });
                }
            }
        }
        jobs
    }
}

/// What has recovered meanwhile is one line.
fn line_of(job: &OfJob<'_>) -> String {
    let has_failed = matches!(job.first.kind, NoticeKind::Failure | NoticeKind::Lost);
    if has_failed && job.last.kind == NoticeKind::Recovery {
        let run = job.last.instance.as_deref().unwrap_or(&job.last.job);
        return printable(&format!(
            "{} failed and has recovered meanwhile: {run} succeeded",
            job.last.job
        ));
    }
    let summary = job.last.summary();
    match job.count {
        1 => summary,
        count => format!("{summary} (and {} earlier notices)", count - 1),
    }
}

fn details(facts: &NoticeFacts) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            lines.push(format!("{name}: {}", printable(&value)));
        }
    };
    let time = |at: Option<Wall>| at.map(Wall::iso);
    add("run", facts.instance.clone());
    add("group", Some(facts.group.clone()));
    add("description", Some(facts.description.clone()));
    add("due", time(facts.due));
    add("started", time(facts.started));
    add("ended", time(facts.ended));
    add("failing since", time(facts.failing_since));
    for machine in &facts.machines {
        add(
            &machine.machine,
            Some(format!("exit code {} ({})", machine.retcode, machine.outcome)),
        );
    }
    lines
}

fn iso(at: Option<Wall>) -> Value {
    at.map_or(Value::Null, |at| at.iso().into())
}

/// Without anything that moves a cursor, begins a line or reverses a text.
fn printable(text: &str) -> String {
    let is_odd = |c: char| {
        c.is_control() && c != '\t' || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if is_odd(c) { ' ' } else { c }).collect()
}
