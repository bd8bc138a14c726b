//! Stalls for want of a resource (PSI), as the kernel tells them. Pure.

use serde::Serialize;

/// Stalls of all tasks and of some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// When all tasks that could run were held up.
    pub full: Stall,
    /// When at least one was.
    pub some: Stall,
}

/// One line of a pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stall {
    /// Microseconds since the beginning.
    pub total: u64,
    /// Percent of the last 10 s.
    pub avg10: f64,
    /// Percent of the last 60 s.
    pub avg60: f64,
    /// Percent of the last 300 s.
    pub avg300: f64,
}

/// The content of a pressure file; what it does not hold is zero.
pub(super) fn parse(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let stall = match words.next() {
            Some("full") => &mut pressure.full,
            Some("some") => &mut pressure.some,
            _ => continue,
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let average = || value.parse().unwrap_or(0.0);
            match key {
                "total" => stall.total = value.parse().unwrap_or(0),
                "avg10" => stall.avg10 = average(),
                "avg60" => stall.avg60 = average(),
                "avg300" => stall.avg300 = average(),
                _ => {}
            }
        }
    }
    pressure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_are_read_and_others_left_alone() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.01 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\nx y=1\n";
        let pressure = parse(text);
        assert_eq!(pressure.some, Stall { total: 1234, avg10: 1.5, avg60: 0.25, avg300: 0.01 });
        assert_eq!(pressure.full, Stall { total: 7, ..Stall::default() });
        assert_eq!(parse("nonsense\nsome total=x"), Pressure::default());
    }
}
