//! Which of the matched machines take part, and in which order: maintenance, `number_of_targets`, `batch_size`.
//! Pure functions. Must not know: runs in progress.

use std::collections::BTreeSet;

use crate::engine::random::Random;

/// The parts into which the matched machines fall.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// To be started, in this order.
    pub start: Vec<String>,
    /// Did not answer, and the run counts on them.
    pub down: Vec<String>,
    /// Did not answer, but enough others are up (rules.md 9).
    pub down_not_needed: Vec<String>,
    /// Left out of every run.
    pub in_maintenance: Vec<String>,
}

/// Draws and orders. `number` and `batch` 0: all, at once. The order is by chance where either is asked for.
pub fn divide(
    up: Vec<String>,
    down: Vec<String>,
    maintenance: &BTreeSet<String>,
    number: usize,
    batch: usize,
    random: &mut Random,
) -> Parts {
    let mut parts = Parts::default();
    let mut sort_out = |machines: Vec<String>| -> Vec<String> {
        let (out, rest): (Vec<_>, Vec<_>) = machines
            .into_iter()
            .partition(|machine| maintenance.contains(machine));
        parts.in_maintenance.extend(out);
        rest
    };
    let mut up = sort_out(up);
    let down = sort_out(down);
    if number > 0 || batch > 0 {
        random.shuffle(&mut up);
    }
    let enough = number > 0 && up.len() >= number;
    if number > 0 {
        up.truncate(number);
    }
    parts.start = up;
    if enough {
        parts.down_not_needed = down;
    } else {
        parts.down = down;
    }
    parts
}

/// How many more may start when `unfinished` are at it.
pub fn room(batch: usize, unfinished: usize) -> usize {
    if batch == 0 {
        usize::MAX
    } else {
        batch.saturating_sub(unfinished)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(prefix: &str, count: usize) -> Vec<String> {
        (0..count).map(|number| format!("{prefix}{number}")).collect()
    }

    #[test]
    fn machines_that_are_down_count_only_if_too_few_are_up() {
        let mut random = Random::new([0; 32]);
        let none = BTreeSet::new();
        let parts = divide(names("up", 5), names("down", 2), &none, 3, 0, &mut random);
        assert_eq!(
            (parts.start.len(), parts.down.len(), parts.down_not_needed.len()),
            (3, 0, 2)
        );
        let parts = divide(names("up", 2), names("down", 2), &none, 3, 0, &mut random);
        assert_eq!(
            (parts.start.len(), parts.down.len(), parts.down_not_needed.len()),
            (2, 2, 0)
        );
    }

    #[test]
    fn a_machine_in_maintenance_is_neither_up_nor_down() {
        let mut random = Random::new([0; 32]);
        let maintenance = BTreeSet::from(["up0".to_string(), "down1".to_string()]);
        let parts = divide(names("up", 2), names("down", 2), &maintenance, 0, 0, &mut random);
        assert_eq!(parts.start, ["up1"]);
        assert_eq!(parts.down, ["down0"]);
        assert_eq!(parts.in_maintenance, ["up0", "down1"]);
    }
}
