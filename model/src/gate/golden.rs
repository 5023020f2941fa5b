//! Episodes that are frozen when the first version comes, and that no version is ever trained on: each new one is held
//! against what the first could do on them, so that quality cannot sink a little with every promotion, nor by labels that
//! are wrong since. Every second machine of each kind: the others' windows of that time are learnt from.

use std::collections::BTreeSet;

use proto::{asset::AssetId, time::PlantTime};
use serde::{Deserialize, Serialize};

use super::contest::Said;
use crate::{
    artifact::{Artifact, ArtifactError, Tensors, TensorsBuilder},
    dataset::{Dataset, Machine, Row},
    evaluate::metrics::average_precision,
    features::{FeatureConfig, FeatureSchema},
};

pub const GOLDEN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Whole machines are left out beyond this.
const ROWS_MAX: usize = 20_000;
const FORMAT: u32 = 2;
/// Of a row beside its features: machine, start, end, label.
const ROW_FIELDS: usize = 4;

#[derive(Debug, Clone)]
pub struct Golden {
    dataset: Dataset,
    /// Modes that occur and that the first version knew, and its average precision on each.
    floors: Vec<(usize, f64)>,
}

/// Mean average precision over the modes that occur and that the first version knew; one that the challenger does not
/// know counts as 0, or a version would rise by what it no longer learns.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GoldenScore {
    pub first: f64,
    pub challenger: f64,
    /// Modes that the challenger does not know any more: one in five may weigh less than the margin, and is not seen again.
    #[serde(default)]
    pub lost: Vec<String>,
}

impl GoldenScore {
    /// Why it is not enough.
    pub fn falls_short(&self, margin: f64) -> Option<String> {
        let GoldenScore { first, challenger, lost } = self;
        if !lost.is_empty() {
            return Some(format!("it does not know any more what fails on the golden set: {}", lost.join(", ")));
        }
        let text =
            format!("on the golden set average precision is {challenger:.3}, the first version's was {first:.3}");
        (*challenger < first - margin).then_some(text)
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let of = values.len().max(1) as f64;
    values.sum::<f64>() / of
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    config: FeatureConfig,
    horizon_ms: i64,
    modes: Vec<String>,
    /// Those that have a floor.
    known: Vec<usize>,
    kinds: Vec<AssetId>,
    machines: Vec<Machine>,
    rows: usize,
}

impl Golden {
    /// What the first version has not seen of `dataset`; none: nothing failed there, so that it would say nothing.
    pub fn freeze(dataset: &Dataset, first: &Artifact) -> Option<Self> {
        let unseen = first.origin.borders.calibration_end;
        let rows: Vec<usize> = (0..dataset.rows.len()).filter(|row| dataset.rows[*row].start >= unseen).collect();
        let (mut kept, mut of_kind) = (Vec::new(), vec![0usize; dataset.kinds.len()]);
        for (machine, own) in dataset.by_machine(&rows) {
            let met = &mut of_kind[dataset.machines[machine].kind];
            if met.is_multiple_of(2) && kept.len() + own.len() <= ROWS_MAX {
                kept.extend_from_slice(own);
            }
            *met += 1;
        }
        let mut golden = Golden { dataset: dataset.of_rows(&kept), floors: vec![] };
        let known = (0..dataset.modes.len()).zip(golden.average_precisions(first));
        golden.floors = known.filter_map(|(mode, value)| Some((mode, value?))).collect();
        (mean(golden.floors.iter().map(|(_, floor)| *floor)) > 0.0).then_some(golden)
    }

    pub fn score(&self, challenger: &Artifact) -> GoldenScore {
        let now = self.average_precisions(challenger);
        let lost = |(mode, _): &(usize, f64)| self.dataset.modes[*mode].clone();
        GoldenScore {
            first: mean(self.floors.iter().map(|(_, floor)| *floor)),
            challenger: mean(self.floors.iter().map(|(mode, _)| now[*mode].unwrap_or(0.0))),
            lost: self.floors.iter().filter(|(mode, _)| now[*mode].is_none()).map(lost).collect(),
        }
    }

    /// By mode; none: it does not occur, or the model does not know it.
    fn average_precisions(&self, model: &Artifact) -> Vec<Option<f64>> {
        let rows: Vec<usize> = (0..self.dataset.rows.len()).collect();
        let said = Said::of(&self.dataset, &rows, model);
        let of_mode = |(mode, said): (usize, &Option<_>)| {
            let said: &super::contest::Mode = said.as_ref()?;
            let positive = self.dataset.positive(&rows, mode);
            positive.contains(&true).then(|| average_precision(&said.probabilities, &positive))
        };
        said.modes.iter().enumerate().map(of_mode).collect()
    }

    /// The mode that the first version knew least of.
    pub fn hardest(&self) -> &str {
        let least = self.floors.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        least.map_or("", |(mode, _)| self.dataset.modes[*mode].as_str())
    }

    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Whether a version may be judged by it: its features are others than those of today.
    pub fn fits(&self, config: &FeatureConfig, horizon_ms: i64) -> bool {
        self.dataset.config == *config && self.dataset.horizon_ms == horizon_ms
    }

    /// `dataset` without the rows that are in the golden set or that share an outcome with it.
    pub fn leave_out(&self, dataset: &Dataset) -> Dataset {
        let names: BTreeSet<&AssetId> =
            self.dataset.rows.iter().map(|row| &self.dataset.machines[row.machine].name).collect();
        let of = |at: fn(&Row) -> PlantTime| self.dataset.rows.iter().map(at);
        let (Some(from), Some(until)) = (of(|r| r.start).min(), of(|r| r.end).max()) else { return dataset.clone() };
        let horizon_ms = dataset.horizon_ms;
        let is_apart =
            |row: &Row| row.end.plus_millis(horizon_ms) <= from || row.start >= until.plus_millis(horizon_ms);
        let keep = |i: &usize| {
            let row = &dataset.rows[*i];
            is_apart(row) || !names.contains(&dataset.machines[row.machine].name)
        };
        dataset.of_rows(&(0..dataset.rows.len()).filter(keep).collect::<Vec<_>>())
    }

    pub fn encode(&self) -> Result<Vec<u8>, ArtifactError> {
        let Dataset { config, horizon_ms, modes, kinds, machines, rows, .. } = &self.dataset;
        let fields = |r: &Row| [r.machine as f64, r.start.millis() as f64, r.end.millis() as f64, f64::from(r.fails)];
        let mut tensors = TensorsBuilder::default();
        tensors.f64("floors", &self.floors.iter().map(|(_, floor)| *floor).collect::<Vec<f64>>());
        tensors.f64("rows", &rows.iter().flat_map(fields).collect::<Vec<f64>>());
        let features = (0..rows.len()).flat_map(|row| self.dataset.features(row)).map(|v| f64::from(*v));
        tensors.f64("features", &features.collect::<Vec<f64>>());
        let (config, modes, kinds) = (config.clone(), modes.clone(), kinds.clone());
        let (machines, rows, horizon_ms) = (machines.clone(), rows.len(), *horizon_ms);
        let known = self.floors.iter().map(|(mode, _)| *mode).collect();
        let header = Header { format: FORMAT, config, horizon_ms, modes, known, kinds, machines, rows };
        let header = serde_json::to_string(&header).map_err(|e| ArtifactError::Format(e.to_string()))?;
        tensors.seal(&header)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, ArtifactError> {
        let bad = |reason: String| ArtifactError::Format(reason);
        if bytes.len() > GOLDEN_BYTES_MAX {
            return Err(bad(format!("a golden set of {} bytes is too large", bytes.len())));
        }
        let tensors = Tensors::open(bytes)?;
        let header: Header = serde_json::from_str(&tensors.header).map_err(|e| bad(e.to_string()))?;
        let Header { format, config, horizon_ms, modes, known, kinds, machines, rows } = header;
        if format != FORMAT {
            return Err(ArtifactError::UnknownFormat { format });
        }
        config.check()?;
        let width = FeatureSchema::of(&config).names.len();
        if known.is_empty() || known.iter().any(|mode| *mode >= modes.len()) {
            return Err(bad("the first version's modes are not among the modes".into()));
        }
        let floors = known.iter().copied().zip(tensors.finite("floors", known.len())?).collect();
        let fields = tensors.finite("rows", rows.saturating_mul(ROW_FIELDS))?;
        let features = tensors.f64("features", rows.saturating_mul(width))?;
        if machines.iter().any(|m| m.kind >= kinds.len()) {
            return Err(bad("a machine's kind is not among the kinds".into()));
        }
        let row = |f: &[f64]| {
            let (machine, start, end) = (f[0] as usize, PlantTime(f[1] as i64), PlantTime(f[2] as i64));
            (machine < machines.len()).then_some(Row { machine, start, end, fails: f[3] as u32 })
        };
        let rows: Option<Vec<Row>> = fields.chunks_exact(ROW_FIELDS).map(row).collect();
        let rows = rows.ok_or_else(|| bad("a row's machine is not among the machines".into()))?;
        let features = features.into_iter().map(|v| v as f32).collect();
        let dataset = Dataset::from_parts(config, horizon_ms, modes, kinds, machines, rows, features);
        Ok(Golden { dataset, floors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dataset::synthetic, settings::TrainSettings, train::train};

    #[test]
    fn what_is_frozen_is_read_as_it_was_and_never_trained_on() {
        let seed = 5;
        let dataset = synthetic::xor_plant(seed, 6, 40);
        let settings = TrainSettings { horizon_hours: 12.0, epochs_max: 3, ..TrainSettings::default() };
        let first = train(&dataset, &settings, 0, &mut |_| {}).unwrap().artifact;
        let golden = Golden::freeze(&dataset, &first).unwrap();
        let bytes = golden.encode().unwrap();
        let read = Golden::decode(&bytes).unwrap();
        let score = read.score(&first);
        assert_eq!((&score, score.first), (&golden.score(&first), score.challenger), "seed {seed}");
        assert!(score.falls_short(0.0).is_none() && read.fits(&dataset.config, dataset.horizon_ms));

        let rest = read.leave_out(&dataset);
        let frozen_from = golden.dataset.rows.iter().map(|r| r.start).min().unwrap();
        let is_frozen = |r: &Row| r.machine.is_multiple_of(2) && r.end.plus_millis(dataset.horizon_ms) > frozen_from;
        assert!(rest.rows.iter().any(|r| r.start >= frozen_from) && !rest.rows.iter().any(is_frozen));
        let later = synthetic::xor_plant(seed, 6, 60);
        let rest = read.leave_out(&later);
        assert!(rest.rows.iter().any(|r| r.machine == 0 && r.start > frozen_from), "what came after is learnt from");

        let mut damaged = bytes;
        *damaged.last_mut().unwrap() ^= 1;
        assert!(Golden::decode(&damaged).is_err());
    }

    #[test]
    fn a_mode_that_a_version_no_longer_knows_counts_as_missed() {
        let seed = 5;
        let dataset = synthetic::xor_plant(seed, 6, 40);
        let settings = TrainSettings { horizon_hours: 12.0, epochs_max: 8, ..TrainSettings::default() };
        let first = train(&dataset, &settings, 0, &mut |_| {}).unwrap().artifact;
        let golden = Golden::freeze(&dataset, &first).unwrap();
        let worst = dataset.modes.iter().position(|mode| mode == golden.hardest()).unwrap();
        let mut without = dataset.clone();
        without.modes.push("unknown".into());
        let other = without.modes.len() - 1;
        let of_worst = |f: &&mut crate::dataset::label::Failure| f.mode == Some(worst);
        without
            .machines
            .iter_mut()
            .flat_map(|m| &mut m.life.failures)
            .filter(of_worst)
            .for_each(|f| f.mode = Some(other));
        for row in without.rows.iter_mut().filter(|row| row.is_positive(worst)) {
            row.fails = row.fails & !(1 << worst) | 1 << other;
        }
        let renamed = train(&without, &settings, 0, &mut |_| {}).unwrap().artifact;
        assert!(!renamed.heads.iter().any(|head| head.mode == dataset.modes[worst]), "seed {seed}");
        let score = golden.score(&renamed);
        assert!(score.challenger < 0.7 * score.first, "seed {seed}: {score:?}");
        assert_eq!(score.lost, [golden.hardest()]);
        assert!(score.falls_short(1.0).unwrap().ends_with(golden.hardest()), "whatever the margin");
    }

    #[test]
    fn a_version_that_knows_less_than_the_first_falls_short() {
        let of = |challenger| GoldenScore { first: 0.8, challenger, ..GoldenScore::default() };
        let score = of(0.69);
        assert!(score.falls_short(0.1).unwrap().contains("0.690"));
        assert_eq!(of(0.71).falls_short(0.1), None);
    }
}
