//! Whether a new version takes the place of the one in charge.
//!
//! ```text
//! newest closed slice ─> champion, challenger ─> events per machine-episode ─> paired bootstrap ─┐
//!   (after all that both                        └> per kind, per mode                            ├─> promote, wait, refuse
//!    were made with)    ─> calibration, latency, baselines                                       │
//! golden set, frozen when the first version came ─> challenger ───────────────────────────────────┘
//! ```
//!
//! The burden of proof is the challenger's: it is promoted if it is surely not worse, and where too little happened to
//! know, everybody waits.

pub mod contest;
pub mod error_rates;
pub mod golden;
pub mod labels;
mod table;

use std::time::Instant;

use proto::time::PlantTime;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::Artifact,
    dataset::{Dataset, Row},
    evaluate::{EvaluateError, bootstrap::Interval, evaluate, metrics::calibration_error},
    explain::Explainer,
    features::WindowFeatures,
    probation::Rate,
    train::TrainError,
};
use contest::{Episode, Events, Said, Standing, episodes, whole};
use golden::{Golden, GoldenScore};

/// Windows whose scoring is timed, and how often: the fastest round says what the model costs, the others what else ran.
const TIMED_WINDOWS: usize = 200;
const TIMED_ROUNDS: usize = 5;

/// What a challenger has to show.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GateSettings {
    /// The lower bound of the difference in F1 must lie above minus this.
    pub epsilon: f64,
    /// By more than this no kind of machine and no mode may get worse, in F1.
    pub delta: f64,
    /// Fewer failures in the slice say nothing: wait.
    pub events_min: usize,
    /// A kind or mode with fewer failures is pooled and does not veto.
    pub part_events_min: usize,
    /// Mean distance of a stated probability from the share that failed.
    pub calibration_error_max: f64,
    /// Of scoring and explaining one window, microseconds.
    pub latency_us_max: f64,
    /// On the golden set average precision may lie so far below the first version's.
    pub golden_margin: f64,
}

impl Default for GateSettings {
    fn default() -> Self {
        GateSettings {
            epsilon: 0.05,
            delta: 0.1,
            events_min: 30,
            part_events_min: 10,
            calibration_error_max: 0.05,
            latency_us_max: 1_000.0,
            golden_margin: 0.1,
        }
    }
}

impl GateSettings {
    /// What a type can't say: the setting that is wrong, and what is allowed.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let share = |v: f64| (0.0..=1.0).contains(&v);
        let demands = [
            (share(self.epsilon), "gate.epsilon", "from 0 to 1"),
            (share(self.delta), "gate.delta", "from 0 to 1"),
            (self.events_min >= 1, "gate.events_min", "1 or more"),
            (self.part_events_min >= 1, "gate.part_events_min", "1 or more"),
            (share(self.calibration_error_max), "gate.calibration_error_max", "from 0 to 1"),
            (self.latency_us_max > 0.0, "gate.latency_us_max", "above 0"),
            (share(self.golden_margin), "gate.golden_margin", "from 0 to 1"),
        ];
        demands.into_iter().find(|(met, ..)| !met).map_or(Ok(()), |(_, key, allowed)| Err((key, allowed)))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error("{who} was made for other features than this archive's: they can't be compared")]
    Schema { who: &'static str },
    #[error("{who} looks {theirs_ms} ms ahead, the labels {labels_ms} ms")]
    Horizon { who: &'static str, theirs_ms: i64, labels_ms: i64 },
}

impl GateError {
    /// The two models and these labels can't be held against each other: one that can be said, and no failure of this run.
    pub fn is_of_the_models(&self) -> bool {
        use crate::train::fit::FitError;
        use EvaluateError::{Horizon, Schema, Train, UnknownMode};
        matches!(
            self,
            GateError::Schema { .. }
                | GateError::Horizon { .. }
                | GateError::Evaluate(
                    UnknownMode | Schema | Horizon { .. } | Train(TrainError::Fit(FitError::Diverged(_)))
                )
        )
    }
}

/// What a comparison depends on beside the two and the settings.
#[derive(Debug, Clone, Default)]
pub struct Circumstances<'a> {
    pub golden: Option<&'a Golden>,
    /// See [`crate::watch::plant_change`].
    pub drifted: Vec<String>,
    /// Rows up to here have decided what the challenger was learnt from.
    pub chosen_until: PlantTime,
}

/// Everything that the verdict follows from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub champion: String,
    pub challenger: String,
    /// The slice: windows that start here or later, up to the newest whose outcome is known.
    pub from: PlantTime,
    pub until: PlantTime,
    pub windows: usize,
    pub episodes: usize,
    pub all: Standing,
    pub kinds: Vec<Part>,
    pub modes: Vec<Part>,
    /// Champion's and challenger's, mean over the modes of the challenger.
    pub calibration_error: [f64; 2],
    pub latency_us: f64,
    /// Average precision of the challenger less that of what is cheaper.
    pub baselines: Vec<Baseline>,
    pub golden: Option<GoldenScore>,
    /// What looks otherwise, if the plant is another one than the champion was made of. The golden set is of the plant
    /// before: it is told and no veto then.
    #[serde(default)]
    pub drifted: Vec<String>,
    pub verdict: Verdict,
}

/// A kind of machine or a mode; or those of them together that are too few to judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub names: Vec<String>,
    pub judged: bool,
    pub standing: Standing,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    pub name: String,
    pub lead: Interval,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", content = "reasons", rename_all = "kebab-case")]
pub enum Verdict {
    Promote,
    /// Too little has happened to tell.
    Wait(Vec<String>),
    Refuse(Vec<String>),
}

/// Holds `challenger` against `champion` on the windows after all that either was made with, and whose outcome is known.
/// `latency_us`: see [`latency_us`].
pub fn compare(
    dataset: &Dataset,
    champion: &Artifact,
    challenger: &Artifact,
    Circumstances { golden, drifted, chosen_until }: Circumstances,
    latency_us: f64,
    settings: &GateSettings,
) -> Result<Comparison, GateError> {
    fits(dataset, champion, "the champion")?;
    fits(dataset, challenger, "the challenger")?;
    let evaluation = evaluate(dataset, challenger, None)?;
    let seen = |model: &Artifact| model.origin.borders.calibration_end;
    let from = seen(champion).max(seen(challenger)).max(chosen_until);
    let rows: Vec<usize> = (0..dataset.rows.len()).filter(|row| dataset.rows[*row].start >= from).collect();
    let (a, b) = (Said::of(dataset, &rows, champion), Said::of(dataset, &rows, challenger));
    let episodes = episodes(dataset, &rows, &a, &b);
    let kinds: Vec<String> = dataset.kinds.iter().map(|kind| kind.to_string()).collect();
    let mut comparison = Comparison {
        champion: champion.version().map_err(TrainError::from)?,
        challenger: evaluation.version.clone(),
        from,
        until: rows.iter().map(|row| dataset.rows[*row].end).max().unwrap_or(from),
        windows: rows.len(),
        episodes: episodes.len(),
        all: Standing::of(&episodes, whole),
        kinds: by_kind(&kinds, &episodes, settings),
        modes: by_mode(&dataset.modes, &episodes, settings),
        calibration_error: [&a, &b].map(|said| mean_calibration_error(dataset, &rows, said, &b)),
        latency_us,
        baselines: vec![
            Baseline { name: "single sensor".into(), lead: evaluation.lead_over_threshold },
            Baseline { name: "logistic regression".into(), lead: evaluation.lead_over_logistic },
        ],
        golden: golden.map(|golden| golden.score(challenger)),
        drifted,
        verdict: Verdict::Promote,
    };
    comparison.verdict = comparison.judge(settings);
    Ok(comparison)
}

fn fits(dataset: &Dataset, model: &Artifact, who: &'static str) -> Result<(), GateError> {
    if model.config != dataset.config {
        return Err(GateError::Schema { who });
    }
    if model.horizon_ms != dataset.horizon_ms {
        return Err(GateError::Horizon { who, theirs_ms: model.horizon_ms, labels_ms: dataset.horizon_ms });
    }
    Ok(())
}

/// Time to score and explain one window as the processor does, microseconds; measured here and now.
pub fn latency_us(model: &Artifact, dataset: &Dataset) -> f64 {
    let window = |row: usize| {
        let features: Vec<f64> = dataset.features(row).iter().map(|v| f64::from(*v)).collect();
        let Row { machine, start, end, .. } = dataset.rows[row];
        WindowFeatures {
            machine: dataset.machines[machine].name.clone(),
            kind: dataset.kind(row).clone(),
            generation: 0,
            start,
            end,
            revision: 0,
            sensors: vec![],
            normal: features.clone(),
            features,
        }
    };
    let windows: Vec<WindowFeatures> = (0..dataset.rows.len().min(TIMED_WINDOWS)).map(window).collect();
    let explainer = Explainer::new(model, &model.schema());
    let round = |_| {
        let began = Instant::now();
        for window in &windows {
            std::hint::black_box(explainer.explain(model, window));
        }
        began.elapsed().as_secs_f64() * 1e6 / windows.len().max(1) as f64
    };
    (0..TIMED_ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}

/// The kinds of machine by themselves, as [`Part`] says; `names` in the order of [`Episode::kind`].
fn by_kind(names: &[String], episodes: &[Episode], settings: &GateSettings) -> Vec<Part> {
    parts(names, settings, |kinds: &[usize]| {
        Standing::of(episodes, |e| kinds.contains(&e.kind).then(|| whole(e)).flatten())
    })
}

/// The modes by themselves; `names` in the order of the episodes' modes.
fn by_mode(names: &[String], episodes: &[Episode], settings: &GateSettings) -> Vec<Part> {
    parts(names, settings, |modes: &[usize]| {
        let sum = |by_mode: &[Events]| {
            let mut sum = Events::default();
            modes.iter().for_each(|mode| sum += &by_mode[*mode]);
            sum
        };
        Standing::of(episodes, |e| Some([sum(&e.champion), sum(&e.challenger)]))
    })
}

/// Each by itself that has events enough, and the others as one.
fn parts(names: &[String], settings: &GateSettings, standing: impl Fn(&[usize]) -> Standing) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut few = Vec::new();
    for (place, name) in names.iter().enumerate() {
        let alone = standing(&[place]);
        match alone.failures() >= settings.part_events_min {
            true => parts.push(Part { names: vec![name.clone()], judged: true, standing: alone }),
            false => few.push(place),
        }
    }
    if !few.is_empty() {
        let names = few.iter().map(|place| names[*place].clone()).collect();
        parts.push(Part { names, judged: false, standing: standing(&few) });
    }
    parts
}

/// Over the modes that `known` knows: what another model does not know can't be held against it here.
fn mean_calibration_error(dataset: &Dataset, rows: &[usize], said: &Said, known: &Said) -> f64 {
    let of_mode = |mode: usize| {
        known.modes[mode].as_ref()?;
        let said = said.modes[mode].as_ref()?;
        Some(calibration_error(&said.probabilities, &dataset.positive(rows, mode)))
    };
    let errors: Vec<f64> = (0..dataset.modes.len()).filter_map(of_mode).collect();
    errors.iter().sum::<f64>() / errors.len().max(1) as f64
}

impl Comparison {
    /// How often the challenger would have alerted the crew.
    pub fn alert_rate(&self) -> Rate {
        let Events { caught, false_alarms, .. } = self.all.challenger;
        Rate { alerts: (caught + false_alarms) as u64, windows: self.windows as u64 }
    }

    /// What follows from all the rest.
    pub fn judge(&self, settings: &GateSettings) -> Verdict {
        let failures = self.all.failures();
        if failures < settings.events_min {
            let needed = settings.events_min;
            return Verdict::Wait(vec![format!("{failures} failures since {}, {needed} are needed", self.from)]);
        }
        let mut reasons = Vec::new();
        let low = self.all.difference.low;
        if low <= -settings.epsilon {
            reasons.push(format!("F1 may be worse by {:.3}, allowed is {:.3}", -low, settings.epsilon));
        }
        let worse = |part: &&Part| {
            let difference = part.standing.difference;
            part.judged && difference.mean < -settings.delta && difference.high < 0.0
        };
        for part in self.kinds.iter().chain(&self.modes).filter(worse) {
            let by = -part.standing.difference.mean;
            reasons.push(format!("{} gets worse by {by:.3}, allowed is {:.3}", part.names.join(", "), settings.delta));
        }
        let [_, error] = self.calibration_error;
        if error > settings.calibration_error_max {
            let max = settings.calibration_error_max;
            reasons.push(format!("its probabilities are off by {error:.3}, allowed is {max:.3}"));
        }
        if self.latency_us > settings.latency_us_max {
            let (is, max) = (self.latency_us, settings.latency_us_max);
            reasons.push(format!("a window takes {is:.0} us to score, allowed is {max:.0} us"));
        }
        for baseline in self.baselines.iter().filter(|b| b.lead.mean <= 0.0) {
            let by = -baseline.lead.mean;
            reasons.push(format!("it ranks no better than {}: average precision is {by:.3} less", baseline.name));
        }
        if self.all.challenger.caught == 0.0 {
            reasons.push("it catches nothing, as one that never alerts".into());
        }
        let golden = self.golden.as_ref().filter(|_| self.drifted.is_empty());
        reasons.extend(golden.and_then(|golden| golden.falls_short(settings.golden_margin)));
        if reasons.is_empty() { Verdict::Promote } else { Verdict::Refuse(reasons) }
    }
}

impl Verdict {
    /// On one line.
    pub fn text(&self) -> String {
        match self {
            Verdict::Promote => "promoted: surely not worse than the one in charge".into(),
            Verdict::Wait(reasons) => format!("waits: {}", reasons.join("; ")),
            Verdict::Refuse(reasons) => format!("refused: {}", reasons.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests;
