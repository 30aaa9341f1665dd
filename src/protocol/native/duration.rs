//! Durations as text: `250ms`, `5s`, `2m`, `1h`, `7d`, or several units as in `2h30m`; a bare number is
//! seconds.

use std::fmt;
use std::time::Duration;

use crate::job::MAX_DURATION;
use crate::protocol::number::number;

/// A text is no duration. `Display` says the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadDuration;

impl fmt::Display for BadDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a duration is a whole number with d, h, m, s or ms behind it, or several in this order, as in 250ms or 2h30m (a ",
        )?;
        write!(f, "bare number is seconds), and at most {}s", MAX_DURATION.as_secs())
    }
}

impl std::error::Error for BadDuration {}

/// Reads a duration: whole numbers with `d`, `h`, `m`, `s` or `ms`, each unit once and in this order; a bare
/// number is seconds.
///
/// ```
/// use std::time::Duration;
/// use djqs::protocol::native::parse_duration;
/// assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
/// assert_eq!(parse_duration("2h30m"), Ok(Duration::from_secs(9000)));
/// assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
/// assert!(parse_duration("1.5h").is_err());
/// ```
///
/// # Errors
/// [`BadDuration`] if the text is no duration, or a longer one than [`MAX_DURATION`].
pub fn parse_duration(text: &str) -> Result<Duration, BadDuration> {
    duration(text.as_bytes())
}

/// [`parse_duration`] for bytes from a socket.
pub(super) fn duration(text: &[u8]) -> Result<Duration, BadDuration> {
    if let Some(seconds) = number(text) {
        return within_limit(seconds.checked_mul(1000));
    }
    let (mut rest, mut millis, mut last_unit) = (text, 0u64, u64::MAX);
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.iter().position(|byte| !byte.is_ascii_digit()).ok_or(BadDuration)?;
        let (count, behind) = rest.split_at(digits);
        let unit_end = behind.iter().position(u8::is_ascii_digit).unwrap_or(behind.len());
        let unit = match &behind[..unit_end] {
            b"ms" => 1,
            b"s" => 1_000,
            b"m" => 60_000,
            b"h" => 3_600_000,
            b"d" => 86_400_000,
            _ => return Err(BadDuration),
        };
        if unit >= last_unit {
            return Err(BadDuration);
        }
        let part = number(count).and_then(|count| count.checked_mul(unit)).ok_or(BadDuration)?;
        millis = millis.checked_add(part).ok_or(BadDuration)?;
        (rest, last_unit) = (&behind[unit_end..], unit);
    }
    within_limit(Some(millis))
}

fn within_limit(millis: Option<u64>) -> Result<Duration, BadDuration> {
    let duration = millis.map(Duration::from_millis).ok_or(BadDuration)?;
    if duration > MAX_DURATION { Err(BadDuration) } else { Ok(duration) }
}

/// Formats a duration with the largest unit that is exact: `90s`, but `2m` for 120 seconds; zero is `0s`.
/// A part of a millisecond is rounded up.
pub fn format_duration(duration: Duration) -> impl fmt::Display {
    InUnits(duration)
}

struct InUnits(Duration);

impl fmt::Display for InUnits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = in_units(self.0);
        write!(f, "{number}{unit}")
    }
}

/// The number and the unit that [`format_duration`] writes.
pub(super) fn in_units(duration: Duration) -> (u64, &'static str) {
    let part = u64::from(duration.subsec_nanos().div_ceil(1_000_000));
    let millis = duration.as_secs().saturating_mul(1000).saturating_add(part);
    if millis % 1000 != 0 {
        return (millis, "ms");
    }
    match millis / 1000 {
        0 => (0, "s"),
        seconds if seconds % 60 != 0 => (seconds, "s"),
        seconds if seconds % 3600 != 0 => (seconds / 60, "m"),
        seconds if seconds % 86_400 != 0 => (seconds / 3600, "h"),
        seconds => (seconds / 86_400, "d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_is_written_with_the_largest_exact_unit() {
        let written = |millis| format_duration(Duration::from_millis(millis)).to_string();
        let texts = [0, 250, 90_000, 120_000, 5_400_000, 3_600_000, 604_800_000, 1_001].map(written);
        assert_eq!(texts, ["0s", "250ms", "90s", "2m", "90m", "1h", "7d", "1001ms"]);
        assert_eq!(format_duration(Duration::from_micros(1)).to_string(), "1ms");
    }

    #[test]
    fn duration_reads_each_unit_and_a_bare_number_as_seconds() {
        let read = |text| parse_duration(text).map(|duration| duration.as_millis());
        let texts = ["250ms", "5s", "5", "2m", "1h", "7d", "0", "007s", "4294967295s"].map(read);
        let millis = [250, 5_000, 5_000, 120_000, 3_600_000, 604_800_000, 0, 7_000, 4_294_967_295_000];
        assert_eq!(texts, millis.map(Ok));
    }

    #[test]
    fn duration_of_several_units_is_their_sum() {
        let read = |text| parse_duration(text).map(|duration| duration.as_millis());
        let texts = ["2h30m", "1d1ms", "1m0s", "1s500ms", "1d2h3m4s5ms"].map(read);
        assert_eq!(texts, [9_000_000, 86_400_001, 60_000, 1_500, 93_784_005].map(Ok));
    }

    #[test]
    fn duration_that_breaks_the_rule_is_refused() {
        let texts = [
            "",
            "s",
            "5S",
            "1.5h",
            "-1s",
            "+1s",
            "5 s",
            "1e3",
            "4294967296s",
            "4294967295001ms",
            "5s5",
            "5s5s",
            "30m2h",
            "5ms5s",
            "1h m",
            "2h30",
            "h30m",
            "4294967295s1ms",
            "99999999999d1s",
        ];
        for text in texts {
            assert_eq!(parse_duration(text), Err(BadDuration), "{text:?}");
        }
        assert_eq!(parse_duration("99999999999999999999d"), Err(BadDuration));
    }
}
