//! `success`: how many machines have to succeed for the run to have succeeded.
//! Must not know: which machines count.

use serde::{Deserialize, Serialize};

use super::node::Node;
use super::value;

/// How many of the machines that count have to succeed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Success {
    #[default]
    All,
    Any,
    /// So many, 1 or more.
    Machines(usize),
    /// Of a hundred, 1 to 100.
    Percent(u64),
}

impl Success {
    /// Whether it is the default.
    pub fn is_all(&self) -> bool {
        *self == Success::All
    }

    /// Whether `succeeded` of `counted` machines are enough. No machine at all is never enough.
    pub fn is_reached(self, succeeded: usize, counted: usize) -> bool {
        let (is_enough, some) = match self {
            Success::All => (succeeded == counted, counted),
            Success::Any => (true, succeeded),
            Success::Machines(wanted) => (succeeded >= wanted, succeeded),
            Success::Percent(percent) => {
                let percent = u128::from(percent);
                (succeeded as u128 * 100 >= counted as u128 * percent, succeeded)
            }
        };
        is_enough && some > 0
    }
}

/// Reads `all`, `any`, a number of machines or a share as in `80%`.
pub(super) fn read(node: &Node) -> Result<Option<Success>, String> {
    let wrong = || {
        let shown = value::shown(node);
        format!("must be all, any, a number of machines (1 or more) or a share (1% to 100%), not {shown}")
    };
    let text = match node {
        Node::Null => return Ok(None),
        Node::Text(text) => text.trim(),
        _ => "",
    };
    let success = match text {
        "all" => Success::All,
        "any" => Success::Any,
        _ => match text.strip_suffix('%') {
            Some(share) => {
                let percent = share.trim_end().parse().ok();
                let percent = percent.filter(|percent| (1..=100).contains(percent));
                Success::Percent(percent.ok_or_else(wrong)?)
            }
            None => {
                let count = value::whole(node).ok().flatten().filter(|count| *count > 0);
                let count = count.ok_or_else(wrong)?;
                Success::Machines(usize::try_from(count).unwrap_or(usize::MAX))
            }
        },
    };
    Ok(Some(success))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_never_rounded_down_and_no_machine_is_no_success() {
        for success in [
            Success::All,
            Success::Any,
            Success::Machines(1),
            Success::Percent(1),
        ] {
            assert!(!success.is_reached(0, 0), "{success:?}");
            assert!(!success.is_reached(0, 3), "{success:?}");
            assert!(success.is_reached(3, 3), "{success:?}");
        }
        assert!(!Success::All.is_reached(2, 3));
        assert!(Success::Any.is_reached(1, 3));
        assert!(!Success::Machines(2).is_reached(1, 1));
        assert!(!Success::Percent(67).is_reached(2, 3) && Success::Percent(66).is_reached(2, 3));
        assert!(!Success::Percent(100).is_reached(199, 200));
    }

    #[test]
    fn it_is_a_word_a_number_or_a_share() {
        let text = |text: &str| read(&Node::Text(text.into()));
        assert_eq!(text("any"), Ok(Some(Success::Any)));
        assert_eq!(text("80%"), Ok(Some(Success::Percent(80))));
        assert_eq!(text("3"), Ok(Some(Success::Machines(3))));
        assert_eq!(read(&Node::Null), Ok(None));
        for wrong in ["0", "0%", "101%", "-1", "most", "%", ""] {
            assert!(text(wrong).is_err(), "{wrong}");
        }
    }
}
