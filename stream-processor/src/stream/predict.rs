//! Scores readings that came with a question: a stream with no past takes them as one machine's log. What the question
//! does not say of its sensors (ranges, intervals) is taken from the fleet's machines of the same kind, so that the
//! answer is the stream's.

use std::{
    collections::{BTreeMap, HashSet},
    time::Instant,
};

use model::{
    features::catalogue::SensorSpec,
    score::{ScoreError, Scorer},
};
use proto::{
    asset::{AssetId, Unit},
    position::{Epoch, Position},
    telemetry::delta_encode,
    wire::{
        prediction::{Contribution, Prediction, RawReading, SensorReadings},
        telemetry::{Birth, MachineInfo, MachineReadings, SealTime, SensorColumn, SensorInfo, TelemetryBatch},
    },
};

use super::{
    Stream, StreamConfig, StreamError,
    fleet::{Kinds, SensorSpecs},
    prediction,
};
use crate::decode::{AgentKey, Content, Taken};

/// In one question.
pub const READINGS_MAX: usize = 200_000;
pub const SENSORS_MAX: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// Something in the question is wrong: `field` says where, `reason` says what.
    #[error("{field}: {reason}")]
    Field { field: String, reason: String },
    /// The model could not score the window.
    #[error("the model could not score these readings")]
    Unscored,
    #[error(transparent)]
    Score(ScoreError),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

fn field(field: impl Into<String>, reason: impl ToString) -> PredictError {
    PredictError::Field { field: field.into(), reason: reason.to_string() }
}

/// The prediction for the last complete window of `sensors`: what the stream would say of a machine of this `kind`
/// that has these readings and no others. A window is complete when a reading is stamped at its end or later.
pub fn predict_raw(
    config: &StreamConfig,
    scorer: &Scorer,
    kinds: &Kinds,
    kind: &AssetId,
    sensors: &[SensorReadings],
) -> Result<Prediction, PredictError> {
    check_kind(scorer, kind)?;
    let nothing = SensorSpecs::new();
    let (batch, readings, newest) = as_batch(kind, kinds.get(kind).unwrap_or(&nothing), sensors)?;
    let slide_ms = config.features.slide_ms();
    let end = newest.div_euclid(slide_ms).saturating_mul(slide_ms);
    let seal_of = |ms| Some(SealTime { time_ms: ms, trusted: true, ..Default::default() });
    let first = TelemetryBatch { sealed: seal_of(newest), ..batch };
    // Never behind the first one, or time would begin anew.
    let waited = end.saturating_add(config.features.lateness_ms).max(newest);
    let last = TelemetryBatch { sealed: seal_of(waited), ..Default::default() };
    let mut stream = Stream::new(config.clone());
    let agent = AgentKey { site: kind.clone(), agent: kind.clone() };
    let log = [(1, first, readings), (2, last, 0)].map(|(seq, batch, readings)| Taken {
        agent: agent.clone(),
        position: Position { epoch: Epoch([1; 16]), seq },
        last_seq: seq,
        content: Content::Batch { batch, readings },
        received: Instant::now(),
    });
    let mut derived = stream.apply(log.into(), Some(scorer))?;
    // The second seal may close a window that is not complete, where the lateness is longer than a window.
    derived.windows.retain(|w| w.end.millis() <= end);
    match (derived.windows.len(), derived.predictions.len()) {
        (0, _) => Err(field("sensors", no_window(config))),
        (windows, predictions) if predictions < windows => Err(PredictError::Unscored),
        (windows, _) => Ok(derived.predictions.swap_remove(windows - 1)),
    }
}

/// The prediction for features by their names in the model's schema, all of them. Without a machine there is no normal
/// to explain it by.
pub fn predict_features(
    scorer: &Scorer,
    kind: &AssetId,
    values: &BTreeMap<String, f64>,
) -> Result<Prediction, PredictError> {
    check_kind(scorer, kind)?;
    let score = scorer.score_features(kind, values).map_err(|e| match &e {
        ScoreError::Missing { name } | ScoreError::Unknown { name } => field(format!("features.{name}"), e),
        _ => PredictError::Score(e),
    })?;
    Ok(Prediction {
        machine_kind: kind.to_string(),
        model_version: scorer.version().into(),
        horizon_ms: scorer.horizon_ms(),
        modes: prediction::modes(scorer.heads(), &score, |_| Contribution::default()),
        ..Default::default()
    })
}

/// The stream scores a machine of a new kind as one of none. Whoever asks can be told that the name is not known.
fn check_kind(scorer: &Scorer, kind: &AssetId) -> Result<(), PredictError> {
    if scorer.kinds().contains(kind) {
        return Ok(());
    }
    let known: Vec<&str> = scorer.kinds().iter().map(AssetId::as_str).collect();
    Err(field("kind", format!("the model knows no `{kind}`, but {}", known.join(", "))))
}

fn no_window(config: &StreamConfig) -> String {
    let known: Vec<&str> = config.features.sensors.iter().map(AssetId::as_str).collect();
    format!(
        "no complete window of {} s with a usable reading of {}",
        config.features.window_ms / 1_000,
        known.join(", ")
    )
}

/// The readings as a gateway would have sent them, how many they are, and the newest stamp.
fn as_batch(
    kind: &AssetId,
    specs: &SensorSpecs,
    sensors: &[SensorReadings],
) -> Result<(TelemetryBatch, u64, i64), PredictError> {
    let count = sensors.iter().map(|s| s.readings.len()).sum::<usize>();
    if count > READINGS_MAX {
        return Err(field("sensors", format!("{count} readings, at most {READINGS_MAX} are allowed")));
    }
    if sensors.len() > SENSORS_MAX {
        return Err(field("sensors", format!("{} sensors, at most {SENSORS_MAX} are allowed", sensors.len())));
    }
    let newest = sensors.iter().flat_map(|s| &s.readings).map(|r| r.time_ms).max();
    let newest = newest.ok_or_else(|| field("sensors", "no readings"))?;
    let mut names = HashSet::new();
    let mut info = MachineInfo { machine: kind.to_string(), kind: kind.to_string(), ..Default::default() };
    let mut machines = Vec::new();
    for (i, sensor) in sensors.iter().enumerate() {
        let at = |part: &str| format!("sensors[{i}].{part}");
        let name = AssetId::new(&sensor.sensor).map_err(|e| field(at("sensor"), e))?;
        let unit = sensor.unit.parse::<Unit>().map_err(|e| field(at("unit"), e))?;
        if !names.insert(sensor.sensor.as_str()) {
            return Err(field(at("sensor"), format!("`{}` is there twice", sensor.sensor)));
        }
        let mut readings = sensor.readings.clone();
        readings.sort_by_key(|r| r.time_ms);
        let mut described = SensorInfo { interval_ms: interval_ms(&readings), ..info_of(&name, unit, None) };
        if let Some(spec) = specs.get(&name) {
            if spec.unit.canonical() != unit.canonical() {
                return Err(field(at("unit"), format!("`{name}` of a {kind} is given in {}", spec.unit)));
            }
            described = info_of(&name, unit, Some(spec));
        }
        info.sensors.push(described);
        machines.push(column(kind, &sensor.sensor, &readings));
    }
    // A machine of this kind has these, too; here they are silent.
    let silent = specs.iter().filter(|(name, _)| !names.contains(name.as_str()));
    info.sensors.extend(silent.map(|(name, spec)| info_of(name, spec.unit, Some(spec))));
    let birth = Some(Birth { machines: vec![info], ..Default::default() });
    Ok((TelemetryBatch { birth, machines, ..Default::default() }, count as u64, newest))
}

/// A sensor that reports in `unit`; its range is the one that is known, in that unit.
fn info_of(sensor: &AssetId, unit: Unit, spec: Option<&SensorSpec>) -> SensorInfo {
    let (mut range_low, mut range_high, interval_ms) = spec.map_or((0.0, 0.0, 0), |s| (s.low, s.high, s.interval_ms));
    if let Some(spec) = spec.filter(|spec| spec.unit != unit) {
        let ((scale, offset), (to_scale, to_offset)) = (spec.unit.to_canonical(), unit.to_canonical());
        let convert = |value: f64| (value * scale + offset - to_offset) / to_scale;
        (range_low, range_high) = (convert(range_low), convert(range_high));
    }
    SensorInfo { sensor: sensor.to_string(), unit: unit.symbol().into(), range_low, range_high, interval_ms }
}

fn column(machine: &AssetId, sensor: &str, readings: &[RawReading]) -> MachineReadings {
    let stamps: Vec<i64> = readings.iter().map(|r| r.time_ms).collect();
    let value = readings.iter().map(|r| r.value).collect();
    MachineReadings {
        machine: machine.to_string(),
        time_delta_ms: delta_encode(&stamps),
        sensors: vec![SensorColumn { sensor: sensor.into(), value, quality: vec![], reason: vec![] }],
    }
}

/// How often a sensor is read that nothing is known of: the median step.
fn interval_ms(readings: &[RawReading]) -> u64 {
    let mut steps: Vec<u64> = readings.windows(2).map(|r| r[0].time_ms.abs_diff(r[1].time_ms)).collect();
    let middle = steps.len() / 2;
    if steps.is_empty() { 0 } else { *steps.select_nth_unstable(middle).1 }
}

#[cfg(test)]
pub mod tests;
