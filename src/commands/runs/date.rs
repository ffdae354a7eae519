//! Dates in words, in UTC: what the standard library knows of time has no zones.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment as `2026-11-27T09:08Z`.
pub fn utc(moment: SystemTime) -> String {
    let minutes = moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60;
    let (year, month, day) = date(minutes / (24 * 60));
    format!("{year}-{month:02}-{day:02}T{:02}:{:02}Z", minutes / 60 % 24, minutes % 60)
}

/// The date so many days after 1 January 1970, as year, month and day.
fn date(days: u64) -> (u64, u64, u64) {
    // Years that begin in March have the leap day at their end (Howard Hinnant, "chrono-compatible low-level date
    // algorithms").
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn moments_are_those_that_other_programs_write() {
        // As `date -u -d @SECONDS` says.
        for (seconds, expected) in [
            (0, "1970-01-01T00:00Z"),
            (951_782_399, "2000-02-28T23:59Z"),
            (951_782_400, "2000-02-29T00:00Z"),
            (1_709_251_200, "2024-03-01T00:00Z"),
            (1_795_770_480, "2026-11-27T09:08Z"),
            (4_107_542_400, "2100-03-01T00:00Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }
}
