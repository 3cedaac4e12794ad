//! A schedule as one text, as crontabs have it: `*/5 * * * *`, `@daily`.
//! Must not know: what the fields mean (schedule/), jobs.

use crate::schedule::Fields;

/// What crontabs abbreviate: minute, hour, day of month, month, day of week.
const SHORTHANDS: [(&str, [&str; 5]); 7] = [
    ("@yearly", ["0", "0", "1", "1", "*"]),
    ("@annually", ["0", "0", "1", "1", "*"]),
    ("@monthly", ["0", "0", "1", "*", "*"]),
    ("@weekly", ["0", "0", "*", "*", "0"]),
    ("@daily", ["0", "0", "*", "*", "*"]),
    ("@midnight", ["0", "0", "*", "*", "*"]),
    ("@hourly", ["0", "*", "*", "*", "*"]),
];

/// The seven fields that the text stands for: 5 words are `min hour dom mon dow`, 6 begin with `sec`, 7 end with `year`,
/// too. The error continues a sentence that begins with the field's name.
pub(super) fn fields(text: &str) -> Result<Fields, String> {
    let text = text.trim();
    if text.starts_with('@') {
        let known = SHORTHANDS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text));
        return match known {
            Some((_, five)) => Ok(of_five(five)),
            None if text.eq_ignore_ascii_case("@reboot") => {
                Err("cannot be '@reboot': jobs start at times, not when a machine starts".into())
            }
            None => {
                let names: Vec<&str> = SHORTHANDS.iter().map(|(name, _)| *name).collect();
                let shown = text.escape_debug();
                Err(format!(
                    "has an unknown shorthand '{shown}'; known are {}",
                    names.join(", ")
                ))
            }
        };
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        [min, hour, dom, mon, dow] => Ok(of_five(&[min, hour, dom, mon, dow])),
        [sec, min, hour, dom, mon, dow] => Ok(Fields {
            sec: sec.into(),
            ..of_five(&[min, hour, dom, mon, dow])
        }),
        [sec, min, hour, dom, mon, dow, year] => Ok(Fields {
            sec: sec.into(),
            year: year.into(),
            ..of_five(&[min, hour, dom, mon, dow])
        }),
        _ => Err(format!(
            "has {} fields; write 5 (min hour dom mon dow), 6 (sec first) or 7 (year last), or '@daily' and the like",
            words.len()
        )),
    }
}

fn of_five([min, hour, dom, mon, dow]: &[&str; 5]) -> Fields {
    Fields {
        min: (*min).into(),
        hour: (*hour).into(),
        dom: (*dom).into(),
        mon: (*mon).into(),
        dow: (*dow).into(),
        ..Fields::default()
    }
}
