//! From when on is learnt: all that is kept tells most of what is rare, and the newest alone of a plant that has changed. So a
//! few windows of time are each learnt from, and those rows decide that come after all that any of them was made of, and
//! before those that the gate judges on.

use std::fmt;

use proto::time::PlantTime;

use super::DAY_MS;
use crate::{
    artifact::Artifact,
    dataset::{Dataset, split::Split},
    evaluate::metrics::average_precision,
    gate::{GateSettings, contest::Said},
    settings::Borders,
    train::{Progress, TrainError, TrainSettings, Trained, plan::Plan, train},
};

/// Beside the whole of it, where they hold failures enough: a quarter of a year and a month.
const SHORTER_DAYS: [f64; 2] = [90.0, 30.0];
/// A window that is longer than this share of another one is no other.
const SHARE_MAX: f64 = 0.8;
/// Bounds the work of one retraining.
pub const WINDOWS_MAX: usize = 4;

/// One window of time, and how well what was learnt from it ranks the rows that decide.
#[derive(Debug, Clone, PartialEq)]
pub struct Tried {
    pub days: f64,
    pub average_precision: f64,
}

/// What was tried, and which of it was taken; the longest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Windows {
    pub tried: Vec<Tried>,
    pub taken: usize,
    /// What was taken begins here.
    pub from: PlantTime,
    /// Rows up to here have decided: they are none to be judged on.
    pub chosen_until: PlantTime,
}

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "learnt from the newest {:.0} days", self.tried[self.taken].days)?;
        if self.tried.len() > 1 {
            let tried = self.tried.iter().map(|t| format!("{:.0} days {:.3}", t.days, t.average_precision));
            write!(f, " (average precision: {})", tried.collect::<Vec<_>>().join(", "))?;
        }
        Ok(())
    }
}

/// Learns from each window of `dataset`, and gives the best. `changed`: since when the plant is another one.
pub fn best(
    dataset: &Dataset,
    changed: Option<PlantTime>,
    (settings, gate): (&TrainSettings, &GateSettings),
    created_ms: i64,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Trained, Windows), TrainError> {
    let newest = dataset.rows.iter().map(|row| row.end).max().unwrap_or_default();
    let oldest = dataset.rows.iter().map(|row| row.start).min().unwrap_or_default();
    let days = |from: PlantTime| (newest.millis() - from.millis()) as f64 / DAY_MS;
    let whole = Plan::new(dataset, settings)?;
    let mut starts: Vec<PlantTime> = SHORTER_DAYS.map(|days| newest.plus_millis(-(days * DAY_MS) as i64)).into();
    starts.extend(changed);
    starts.sort();
    let mut froms = vec![oldest];
    for from in starts {
        let is_other = froms.last().is_none_or(|last| days(from) < SHARE_MAX * days(*last));
        if is_other && froms.len() < WINDOWS_MAX && holds_enough(&dataset.since(from), &whole, settings, gate) {
            froms.push(from);
        }
    }
    let decides = froms.last().filter(|_| froms.len() > 1).map(|from| {
        let borders = Borders::of(&dataset.since(*from), settings.split);
        (Split::at(dataset, &borders).validation, borders.validation_end)
    });
    let (mut tried, mut best) = (Vec::<Tried>::new(), None::<(usize, Trained)>);
    for from in &froms {
        let trained = train(&dataset.since(*from), settings, created_ms, progress)?;
        let average_precision = decides.as_ref().map_or(0.0, |(rows, _)| ranks(dataset, rows, &trained.artifact));
        let is_better = |(place, _): &(usize, Trained)| average_precision > tried[*place].average_precision;
        if best.as_ref().is_none_or(is_better) {
            best = Some((tried.len(), trained));
        }
        tried.push(Tried { days: days(*from), average_precision });
    }
    // There is always the whole.
    let (taken, trained) =
        best.ok_or(TrainError::TooShort { slice: "training", horizon_hours: settings.horizon_hours })?;
    let chosen_until = decides.map_or(PlantTime::MIN, |(_, until)| until);
    Ok((trained, Windows { tried, taken, from: froms[taken], chosen_until }))
}

/// Every mode that the whole can teach, and failures for the gate after it.
fn holds_enough(part: &Dataset, whole: &Plan, settings: &TrainSettings, gate: &GateSettings) -> bool {
    let Ok(plan) = Plan::new(part, settings) else { return false };
    let test = Split::at(part, &plan.borders).test;
    let failures: usize = (0..part.modes.len()).map(|mode| part.failures_ahead(&test, mode)).sum();
    whole.modes.iter().all(|mode| plan.modes.contains(mode)) && failures >= gate.events_min
}

/// Mean average precision over the modes that occur; one that the model does not know counts as 0.
fn ranks(dataset: &Dataset, rows: &[usize], model: &Artifact) -> f64 {
    let said = Said::of(dataset, rows, model);
    let of_mode = |(mode, said): (usize, &Option<crate::gate::contest::Mode>)| {
        let positive = dataset.positive(rows, mode);
        let ranked = said.as_ref().map(|said| average_precision(&said.probabilities, &positive));
        positive.contains(&true).then(|| ranked.unwrap_or(0.0))
    };
    let values: Vec<f64> = said.modes.iter().enumerate().filter_map(of_mode).collect();
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::synthetic;

    const SEED: u64 = 11;
    const DAY: i64 = 86_400_000;

    fn settings() -> TrainSettings {
        TrainSettings { horizon_hours: 12.0, epochs_max: 16, rows_max: 2_500, ..TrainSettings::default() }
    }

    /// A plant in which the signs of the two modes change places on that day, so that what was learnt before misleads.
    fn turned(days: i64, turned_at: i64) -> Dataset {
        let mut dataset = synthetic::xor_plant(SEED, 12, days);
        for row in dataset.rows.iter_mut().filter(|row| row.start.millis() >= turned_at * DAY) {
            row.fails = [0, 2, 1, 3][row.fails as usize & 3];
        }
        let swapped = |f: &mut crate::dataset::label::Failure| f.mode = f.mode.map(|mode| 1 - mode);
        let failures = dataset.machines.iter_mut().flat_map(|machine| &mut machine.life.failures);
        failures.filter(|f| f.at.millis() >= turned_at * DAY).for_each(swapped);
        dataset
    }

    fn taken(dataset: &Dataset, changed: Option<PlantTime>) -> Windows {
        let gate = GateSettings { events_min: 20, ..GateSettings::default() };
        best(dataset, changed, (&settings(), &gate), 0, &mut |_| {}).unwrap().1
    }

    #[test]
    fn of_a_plant_that_has_changed_the_newest_is_learnt_from() {
        let dataset = turned(110, 78);
        let windows = taken(&dataset, None);
        assert!(windows.tried.len() >= 2 && windows.tried[windows.taken].days < 31.0, "seed {SEED}: {windows}");
        let newest = dataset.rows.iter().map(|row| row.end).max().unwrap();
        assert!(
            windows.chosen_until < newest.plus_millis(-5 * DAY),
            "the gate's rows have decided nothing: {windows:?}"
        );
    }

    #[test]
    fn since_when_it_has_changed_is_a_window_too() {
        let dataset = turned(80, 45);
        let windows = taken(&dataset, Some(PlantTime(46 * DAY)));
        assert!(windows.tried.len() >= 2 && windows.tried[windows.taken].days < 35.0, "seed {SEED}: {windows}");
    }

    #[test]
    fn too_few_failures_make_no_window() {
        let windows = taken(&synthetic::xor_plant(SEED, 4, 40), Some(PlantTime(35 * DAY)));
        assert_eq!((windows.tried.len(), windows.taken, windows.chosen_until), (1, 0, PlantTime::MIN));
        assert_eq!(windows.to_string(), "learnt from the newest 40 days");
    }
}
