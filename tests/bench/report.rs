//! Figures, printed as JSON lines.
//! Must not know: how anything is measured.

use serde_json::{Value, json};

/// The target of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Reach {
    AtMost(f64),
    AtLeast(f64),
    /// None: it accompanies another figure.
    Nothing,
}

/// One measured thing at one size.
#[derive(Debug)]
pub struct Figure<'a> {
    pub bench: &'a str,
    pub what: &'a str,
    /// Number and unit of the load, as in "10000 jobs".
    pub size: String,
    pub unit: &'a str,
    /// One for each repetition.
    pub samples: Vec<f64>,
    pub reach: Reach,
    /// Which of the samples must reach the target.
    pub by: By,
    /// Raw limits: description, and value in the same unit.
    pub raw: Vec<(&'a str, f64)>,
}

/// Which of the samples counts.
#[derive(Clone, Copy, Debug)]
pub enum By {
    Median,
    P99,
    Worst,
}

/// Prints figures and records errors.
pub struct Reporter {
    machine: Value,
    wrong: Vec<String>,
}

impl Reporter {
    pub fn new() -> Reporter {
        Reporter {
            machine: machine(),
            wrong: Vec::new(),
        }
    }

    /// Prints a figure.
    pub fn figure(&self, figure: Figure<'_>) {
        let mut sorted = figure.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let value = match (figure.by, figure.reach) {
            (By::Median, _) => quantile(&sorted, 0.5),
            (By::P99, _) => quantile(&sorted, 0.99),
            (By::Worst, Reach::AtLeast(_)) => quantile(&sorted, 0.0),
            (By::Worst, _) => quantile(&sorted, 1.0),
        };
        let (reach, ok) = match figure.reach {
            Reach::AtMost(most) => (json!(format!("<= {most}")), json!(value <= most)),
            Reach::AtLeast(least) => (json!(format!(">= {least}")), json!(value >= least)),
            Reach::Nothing => (Value::Null, Value::Null),
        };
        let mut line = json!({
            "bench": figure.bench, "what": figure.what, "size": figure.size, "unit": figure.unit,
            "value": tidy(value), "by": format!("{:?}", figure.by).to_lowercase(),
            "reach": reach, "ok": ok,
            "repetitions": sorted.len(),
            "spread": {
                "min": tidy(quantile(&sorted, 0.0)), "p50": tidy(quantile(&sorted, 0.5)),
                "p99": tidy(quantile(&sorted, 0.99)), "max": tidy(quantile(&sorted, 1.0)),
            },
            "machine": self.machine,
        });
        let raw = figure.raw.iter();
        line["raw"] = raw
            .map(|(what, raw)| json!({"what": what, "value": tidy(*raw), "ratio": tidy(value / raw)}))
            .collect();
        println!("{line}");
    }

    /// Reports an error: the exit code will be 1.
    pub fn wrong(&mut self, bench: &str, what: String) {
        println!("{}", json!({"bench": bench, "wrong": what}));
        self.wrong.push(what);
    }

    pub fn is_clean(&self) -> bool {
        self.wrong.is_empty()
    }
}

/// Nearest rank; NaN if there are no samples, which is null in JSON.
pub fn quantile(sorted: &[f64], part: f64) -> f64 {
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Rounds to four significant digits.
fn tidy(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_string())
    };
    let memory_kb = field(&read("/proc/meminfo"), "MemTotal")
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
        .unwrap_or(0);
    let busy = read("/proc/loadavg");
    json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": field(&read("/proc/cpuinfo"), "model name"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "memory_gb": memory_kb >> 20,
        "load_at_start": busy.split(' ').next(),
    })
}
