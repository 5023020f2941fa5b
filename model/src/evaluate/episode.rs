//! What the crew would have seen: windows above the threshold become alerts, and alerts meet failures or do not.

use std::ops::AddAssign;

use proto::time::PlantTime;

use crate::dataset::Dataset;

/// m of n windows open an alert; it ends when so many windows in a row lie below the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlertRule {
    pub open_windows: usize,
    pub of_windows: i64,
    pub close_windows: usize,
}

impl Default for AlertRule {
    /// As the processor's alert policy.
    fn default() -> Self {
        AlertRule { open_windows: 3, of_windows: 4, close_windows: 6 }
    }
}

/// An alert of one machine and mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Episode {
    pub opened: PlantTime,
    pub last: PlantTime,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    pub failures: usize,
    /// Failures that an alert of their mode was open for.
    pub caught: usize,
    /// Of the caught ones, from opening to failure.
    pub lead_hours: Vec<f64>,
    /// Alerts that no failure of their mode followed.
    pub false_alarms: usize,
    pub machine_hours: f64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.failures += other.failures;
        self.caught += other.caught;
        self.lead_hours.extend(other.lead_hours);
        self.false_alarms += other.false_alarms;
        self.machine_hours += other.machine_hours;
    }
}

/// `windows`: end of each window, in time, and whether it crossed. A window that is missing did not cross.
pub fn episodes(windows: impl Iterator<Item = (PlantTime, bool)>, window_ms: i64, rule: AlertRule) -> Vec<Episode> {
    let mut found: Vec<Episode> = Vec::new();
    let mut crossed: Vec<PlantTime> = Vec::new();
    let mut open = false;
    for (end, above) in windows {
        let oldest = end.millis() - rule.of_windows * window_ms;
        crossed.retain(|at| at.millis() > oldest);
        if let Some(last) = found.last_mut().filter(|_| open) {
            if above {
                last.last = end;
            } else if end.millis() - last.last.millis() >= rule.close_windows as i64 * window_ms {
                open = false;
            }
        }
        if above {
            crossed.push(end);
        }
        if !open && crossed.len() >= rule.open_windows {
            found.push(Episode { opened: end, last: end });
            open = true;
        }
    }
    found
}

/// Meets the alerts of one machine and mode with its failures. `rows`: the machine's rows in time; `above`: which of
/// them crossed. A failure counts if windows before it lie in `rows`; an alert is right if its mode fails while it is
/// open or within the horizon after its last crossing.
pub fn tally_machine(
    dataset: &Dataset,
    machine: usize,
    rows: &[usize],
    above: &[bool],
    mode: usize,
    rule: AlertRule,
) -> Tally {
    let window_ms = dataset.config.window_ms;
    let windows = rows.iter().zip(above).map(|(row, above)| (dataset.rows[*row].end, *above));
    let episodes = episodes(windows, window_ms, rule);
    let positive = || rows.iter().map(|r| &dataset.rows[*r]).filter(|r| r.is_positive(mode));
    let ahead_of = |at: PlantTime| positive().any(|r| r.end <= at && at <= r.end.plus_millis(dataset.horizon_ms));
    let own = dataset.machines[machine].failures.iter().filter(|f| f.mode == Some(mode));
    let mut tally = Tally { machine_hours: rows.len() as f64 * window_ms as f64 / 3_600_000.0, ..Tally::default() };
    let mut right = vec![false; episodes.len()];
    for failure in own.filter(|f| ahead_of(f.at)) {
        tally.failures += 1;
        let before = |e: &Episode| e.opened <= failure.at && failure.at <= e.last.plus_millis(dataset.horizon_ms);
        let mut meets = episodes.iter().enumerate().filter(|(_, e)| before(e)).peekable();
        if let Some((_, first)) = meets.peek() {
            tally.caught += 1;
            tally.lead_hours.push((failure.at.millis() - first.opened.millis()) as f64 / 3_600_000.0);
        }
        meets.for_each(|(i, _)| right[i] = true);
    }
    tally.false_alarms = right.iter().filter(|r| !**r).count();
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: i64 = 10;

    fn found(windows: &str) -> Vec<(i64, i64)> {
        let windows = windows.chars().enumerate().filter(|(_, c)| *c != ' ');
        let windows = windows.map(|(i, c)| (PlantTime(i as i64 * WINDOW), c == 'x'));
        episodes(windows, WINDOW, AlertRule::default())
            .into_iter()
            .map(|e| (e.opened.millis() / WINDOW, e.last.millis() / WINDOW))
            .collect()
    }

    #[test]
    fn three_of_four_windows_open_an_alert() {
        assert_eq!(found(".xx.."), []);
        assert_eq!(found(".xxx."), [(3, 3)]);
        assert_eq!(found("xx.x."), [(3, 3)]);
        assert_eq!(found("xx..x"), []);
        assert_eq!(found("xx    x"), [], "a missing window did not cross");
    }

    #[test]
    fn six_quiet_windows_close_it() {
        assert_eq!(found("xxx.....x....."), [(2, 8)]);
        assert_eq!(found("xxx......xxx"), [(2, 2), (11, 11)]);
    }
}
