//! Scores readings that came with a question: a stream with no past takes them as one machine's log.

use std::{
    collections::{BTreeMap, HashSet},
    time::Instant,
};

use model::score::{ScoreError, Scorer};
use proto::{
    asset::{AssetId, Unit},
    position::{Epoch, Position},
    telemetry::delta_encode,
    wire::{
        prediction::{Contribution, Prediction, RawReading, SensorReadings},
        telemetry::{Birth, MachineInfo, MachineReadings, SealTime, SensorColumn, SensorInfo, TelemetryBatch},
    },
};

use super::{Stream, StreamConfig, StreamError, prediction};
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
    kind: &AssetId,
    sensors: &[SensorReadings],
) -> Result<Prediction, PredictError> {
    let (batch, readings, newest) = as_batch(kind, sensors)?;
    let window_ms = config.features.window_ms;
    let end = newest.div_euclid(window_ms).saturating_mul(window_ms);
    let seal_of = |ms| Some(SealTime { time_ms: ms, ..Default::default() });
    let first = TelemetryBatch { sealed: seal_of(newest), ..batch };
    let last =
        TelemetryBatch { sealed: seal_of(end.saturating_add(config.features.lateness_ms)), ..Default::default() };
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

fn no_window(config: &StreamConfig) -> String {
    let known: Vec<&str> = config.features.sensors.iter().map(AssetId::as_str).collect();
    format!(
        "no complete window of {} s with a usable reading of {}",
        config.features.window_ms / 1_000,
        known.join(", ")
    )
}

/// The readings as a gateway would have sent them, how many they are, and the newest stamp.
fn as_batch(kind: &AssetId, sensors: &[SensorReadings]) -> Result<(TelemetryBatch, u64, i64), PredictError> {
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
        AssetId::new(&sensor.sensor).map_err(|e| field(at("sensor"), e))?;
        sensor.unit.parse::<Unit>().map_err(|e| field(at("unit"), e))?;
        if !names.insert(sensor.sensor.as_str()) {
            return Err(field(at("sensor"), format!("`{}` is there twice", sensor.sensor)));
        }
        let mut readings = sensor.readings.clone();
        readings.sort_by_key(|r| r.time_ms);
        info.sensors.push(SensorInfo {
            sensor: sensor.sensor.clone(),
            unit: sensor.unit.clone(),
            interval_ms: interval_ms(&readings),
            ..Default::default()
        });
        machines.push(column(kind, &sensor.sensor, &readings));
    }
    let birth = Some(Birth { machines: vec![info], ..Default::default() });
    Ok((TelemetryBatch { birth, machines, ..Default::default() }, count as u64, newest))
}

fn column(machine: &AssetId, sensor: &str, readings: &[RawReading]) -> MachineReadings {
    let stamps: Vec<i64> = readings.iter().map(|r| r.time_ms).collect();
    let value = readings.iter().map(|r| r.value).collect();
    MachineReadings {
        machine: machine.to_string(),
        time_delta_ms: delta_encode(&stamps),
        sensors: vec![SensorColumn { sensor: sensor.into(), value, quality: vec![] }],
    }
}

/// A question does not say how often its sensors are read: the median step.
fn interval_ms(readings: &[RawReading]) -> u64 {
    let mut steps: Vec<u64> = readings.windows(2).map(|r| r[0].time_ms.abs_diff(r[1].time_ms)).collect();
    let middle = steps.len() / 2;
    if steps.is_empty() { 0 } else { *steps.select_nth_unstable(middle).1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{
        artifact::{Artifact, Head, Origin},
        calibration::Platt,
        features::FeatureSchema,
        forward::{Dense, Encoder, Network},
    };
    use proto::telemetry::check_batch;

    const MINUTE: i64 = 60_000;

    fn press() -> AssetId {
        AssetId::new("press").unwrap()
    }

    /// One layer that listens to the means of its sensors.
    fn scorer(config: &StreamConfig) -> Scorer {
        let names = FeatureSchema::of(&config.features).names;
        let listens = |mode: usize, name: &str| if name.ends_with(".mean") { 0.3 + mode as f32 } else { 0.01 };
        let row = |mode: usize| names.iter().map(move |name| listens(mode, name)).chain([0.1]);
        let weight: Vec<f32> = (0..2).flat_map(row).collect();
        let dense = Dense { inputs: names.len() + 1, outputs: 2, weight, bias: vec![0.1, -0.2] };
        let (mean, std) = (vec![20.0; names.len()], vec![50.0; names.len()]);
        let platt = Platt { slope: 0.1, intercept: 0.0 };
        let head = |mode: &str| Head { mode: mode.into(), platt, calibrated: true, threshold: 0.5 };
        let model = Artifact {
            config: config.features.clone(),
            horizon_ms: 1,
            encoder: Encoder { kinds: vec![press()], mean, std },
            network: Network::new(vec![dense]).unwrap(),
            heads: vec![head("bearing_wear"), head("imbalance")],
            golden: vec![],
            origin: Origin::default(),
        };
        Scorer::new(model).unwrap()
    }

    fn sensor(name: &str, unit: &str, minutes: std::ops::Range<i64>, skip: i64) -> SensorReadings {
        let minutes = minutes.filter(|i| skip == 0 || i % skip != 1);
        let reading = |i: i64| RawReading { time_ms: i * MINUTE, value: 60.0 + ((i * 37) % 11) as f64 };
        SensorReadings { sensor: name.into(), unit: unit.into(), readings: minutes.map(reading).collect() }
    }

    fn question() -> Vec<SensorReadings> {
        let temperature = sensor("temperature", "F", 3..48, 0);
        vec![temperature, sensor("vibration", "in/s", 3..48, 7), sensor("rotation_speed", "rpm", 25..48, 0)]
    }

    /// The same readings as a gateway would report them: minute by minute, all sensors in one batch.
    fn live(config: &StreamConfig, question: &[SensorReadings]) -> Vec<Prediction> {
        let info = |s: &SensorReadings| SensorInfo {
            sensor: s.sensor.clone(),
            unit: s.unit.clone(),
            interval_ms: MINUTE as u64,
            ..Default::default()
        };
        let machine = MachineInfo {
            machine: "press-1".into(),
            kind: "press".into(),
            sensors: question.iter().map(info).collect(),
            ..Default::default()
        };
        let mut birth = Some(Birth { machines: vec![machine], ..Default::default() });
        let batches = (0..50).map(|minute| {
            let at = minute * MINUTE;
            let now = |s: &SensorReadings| s.readings.iter().filter(|r| r.time_ms == at).copied().collect::<Vec<_>>();
            let machine = AssetId::new("press-1").unwrap();
            TelemetryBatch {
                sealed: Some(SealTime { time_ms: at, ..Default::default() }),
                birth: birth.take(),
                machines: question.iter().map(|s| column(&machine, &s.sensor, &now(s))).collect(),
                ..Default::default()
            }
        });
        let agent = AgentKey { site: press(), agent: press() };
        let log = (1..).zip(batches).map(|(seq, batch)| Taken {
            agent: agent.clone(),
            position: Position { epoch: Epoch([1; 16]), seq },
            last_seq: seq,
            content: Content::Batch { readings: check_batch(&batch).unwrap(), batch },
            received: Instant::now(),
        });
        Stream::new(config.clone()).apply(log.collect(), Some(&scorer(config))).unwrap().predictions
    }

    #[test]
    fn a_question_gets_the_streams_answer() {
        let config = StreamConfig::default();
        let asked = predict_raw(&config, &scorer(&config), &press(), &question()).unwrap();
        let mut live = live(&config, &question()).pop().unwrap();
        assert_eq!(live.window_end_ms, 40 * MINUTE);
        let explained = |c: &Contribution| c.sensor == "temperature" && c.unit == "C" && c.value < 30.0;
        assert!(asked.modes.iter().all(|m| m.contributions.iter().any(explained)));
        live.id.clone_from(&asked.id);
        live.machine.clone_from(&asked.machine);
        // By text, since a normal that is not known is NaN.
        assert_eq!(format!("{asked:?}"), format!("{live:?}"));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_field() {
        let config = StreamConfig::default();
        let ask = |sensors: &[SensorReadings]| match predict_raw(&config, &scorer(&config), &press(), sensors) {
            Err(PredictError::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        let with = |change: fn(&mut Vec<SensorReadings>)| {
            let mut sensors = question();
            change(&mut sensors);
            ask(&sensors)
        };
        assert_eq!(with(|s| s[2].unit = "furlong".into()), "sensors[2].unit");
        assert_eq!(with(|s| s[1].sensor = "a/b".into()), "sensors[1].sensor");
        assert_eq!(with(|s| s[1].sensor = "temperature".into()), "sensors[1].sensor");
        assert_eq!(with(|s| s.clear()), "sensors");
        assert_eq!(with(|s| s.iter_mut().for_each(|s| s.readings.retain(|r| r.time_ms < 9 * MINUTE))), "sensors");
        assert_eq!(with(|s| s.iter_mut().for_each(|s| s.sensor.push('x'))), "sensors");
    }
}
