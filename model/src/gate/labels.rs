//! Labels that cannot be true, found before anything is learnt from them.

use super::golden::Golden;
use crate::dataset::Dataset;

/// A machine that is about to fail in more of its windows than this would hardly have run.
const MACHINE_SHARE_MAX: f64 = 0.8;
/// Horizons of windows below which a machine's share says nothing: it came, failed, and was taken out.
const MACHINE_HORIZONS_MIN: f64 = 3.0;
/// So many times as many windows before failures as in the golden set are another plant, or no failures.
const RATE_RATIO_MAX: f64 = 4.0;

/// What is wrong with the labels as a whole; none: nothing that shows without a model.
pub fn suspicion(dataset: &Dataset, golden: Option<&Golden>) -> Option<String> {
    stuck_machine(dataset).or_else(|| golden.and_then(|golden| rate(dataset, golden.dataset())))
}

fn stuck_machine(dataset: &Dataset) -> Option<String> {
    let rows: Vec<usize> = (0..dataset.rows.len()).collect();
    let windows_min = MACHINE_HORIZONS_MIN * dataset.horizon_ms as f64 / dataset.config.slide_ms() as f64;
    dataset.by_machine(&rows).into_iter().find_map(|(machine, own)| {
        let share = positive_share(dataset, own);
        let name = &dataset.machines[machine].name;
        let stuck = own.len() as f64 >= windows_min && share > MACHINE_SHARE_MAX;
        stuck.then(|| format!("{name} is said to fail soon in {:.0} % of its windows", share * 100.0))
    })
}

fn rate(dataset: &Dataset, golden: &Dataset) -> Option<String> {
    let rows = |d: &Dataset| (0..d.rows.len()).collect::<Vec<_>>();
    let (now, then) = (positive_share(dataset, &rows(dataset)), positive_share(golden, &rows(golden)));
    let text = || {
        format!(
            "{:.1} % of all windows are said to come before a failure, and {:.1} % in the golden set",
            now * 100.0,
            then * 100.0
        )
    };
    (now > RATE_RATIO_MAX * then).then(text)
}

fn positive_share(dataset: &Dataset, rows: &[usize]) -> f64 {
    rows.iter().filter(|row| dataset.rows[**row].fails != 0).count() as f64 / rows.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::synthetic;

    #[test]
    fn true_labels_raise_no_suspicion_and_a_machine_that_always_fails_does() {
        let mut dataset = synthetic::xor_plant(2, 4, 30);
        assert_eq!(suspicion(&dataset, None), None);
        dataset.rows.iter_mut().filter(|r| r.machine == 2).for_each(|r| r.fails = 1);
        assert_eq!(suspicion(&dataset, None).unwrap(), "m2 is said to fail soon in 100 % of its windows");
    }
}
