use super::*;
use model::{
    artifact::{Artifact, Head, Origin},
    calibration::{Calibration, Platt},
    features::FeatureSchema,
    forward::{Dense, Encoder, Network},
};
use proto::telemetry::check_batch;

use crate::stream::{Derived, fleet::Fleet};

const MINUTE: i64 = 60_000;

fn press() -> AssetId {
    AssetId::new("press").unwrap()
}

fn scorer(config: &StreamConfig) -> Scorer {
    scorer_with(config, 0.5)
}

/// Another threshold is another version.
pub fn scorer_with(config: &StreamConfig, threshold: f64) -> Scorer {
    Scorer::new(artifact(config, threshold)).unwrap()
}

/// Whatever it is asked, its answer is no number.
pub fn speechless(config: &StreamConfig) -> Scorer {
    let mut model = artifact(config, 0.5);
    let nothing = Calibration::from(Platt { slope: 0.1, intercept: f64::NAN });
    model.heads.iter_mut().for_each(|head| head.calibration = nothing.clone());
    Scorer::new(model).unwrap()
}

/// One layer that listens to the means of its sensors.
pub fn artifact(config: &StreamConfig, threshold: f64) -> Artifact {
    let names = FeatureSchema::of(&config.features).names;
    let listens = |mode: usize, name: &str| if name.ends_with(".mean") { 0.3 + mode as f32 } else { 0.01 };
    let row = |mode: usize| names.iter().map(move |name| listens(mode, name)).chain([0.1]);
    let weight: Vec<f32> = (0..2).flat_map(row).collect();
    let dense = Dense { inputs: names.len() + 1, outputs: 2, weight, bias: vec![0.1, -0.2] };
    let (mean, std) = (vec![20.0; names.len()], vec![50.0; names.len()]);
    let calibration = Calibration::from(Platt { slope: 0.1, intercept: 0.0 });
    let head = |mode: &str| Head { mode: mode.into(), calibration: calibration.clone(), calibrated: true, threshold };
    Artifact {
        config: config.features.clone(),
        horizon_ms: 1,
        encoder: Encoder { kinds: vec![press()], mean, std },
        network: Network::new(vec![dense]).unwrap(),
        heads: vec![head("bearing_wear"), head("imbalance")],
        golden: vec![],
        origin: Origin::default(),
    }
}

fn sensor(name: &str, unit: &str, minutes: std::ops::Range<i64>, skip: i64) -> SensorReadings {
    let minutes = minutes.filter(|i| skip == 0 || i % skip != 1);
    let reading = |i: i64| RawReading { time_ms: i * MINUTE, value: 60.0 + ((i * 37) % 11) as f64 };
    SensorReadings { sensor: name.into(), unit: unit.into(), readings: minutes.map(reading).collect() }
}

pub fn question() -> Vec<SensorReadings> {
    let temperature = sensor("temperature", "F", 3..48, 0);
    vec![temperature, sensor("vibration", "in/s", 3..48, 7), sensor("rotation_speed", "rpm", 25..48, 0)]
}

/// As a gateway says it: ranges, and a sensor that no question names.
fn birth() -> Birth {
    let info = |name: &str, unit: &str, range_low, range_high| SensorInfo {
        sensor: name.into(),
        unit: unit.into(),
        range_low,
        range_high,
        interval_ms: MINUTE as u64,
    };
    let machine = MachineInfo {
        machine: "press-1".into(),
        kind: "press".into(),
        sensors: vec![
            info("temperature", "F", -40.0, 300.0),
            info("vibration", "in/s", 0.0, 100.0),
            info("rotation_speed", "rpm", 0.0, 3_000.0),
            info("humidity", "%", 0.0, 100.0),
        ],
        ..Default::default()
    };
    Birth { machines: vec![machine], ..Default::default() }
}

fn gateway() -> AgentKey {
    AgentKey { site: press(), agent: press() }
}

pub fn kinds(config: &StreamConfig) -> Kinds {
    let mut fleet = Fleet::default();
    let batch = TelemetryBatch { birth: Some(birth()), ..Default::default() };
    fleet.meet(&gateway(), &batch, &config.features).unwrap();
    fleet.kinds()
}

fn live(config: &StreamConfig, question: &[SensorReadings], minutes: i64) -> Prediction {
    derived(config, question, minutes).predictions.into_iter().next_back().unwrap()
}

/// Of the same readings as a gateway would report them: minute by minute, all sensors in one batch.
pub fn derived(config: &StreamConfig, question: &[SensorReadings], minutes: i64) -> Derived {
    let mut birth = Some(birth());
    let batches = (0..minutes).map(|minute| {
        let at = minute * MINUTE;
        let now = |s: &SensorReadings| s.readings.iter().filter(|r| r.time_ms == at).copied().collect::<Vec<_>>();
        let machine = AssetId::new("press-1").unwrap();
        TelemetryBatch {
            sealed: Some(SealTime { time_ms: at, trusted: true, ..Default::default() }),
            birth: birth.take(),
            machines: question.iter().map(|s| column(&machine, &s.sensor, &now(s))).collect(),
            ..Default::default()
        }
    });
    let log = (1..).zip(batches).map(|(seq, batch)| Taken {
        agent: gateway(),
        position: Position { epoch: Epoch([1; 16]), seq },
        last_seq: seq,
        content: Content::Batch { readings: check_batch(&batch).unwrap(), batch },
        received: Instant::now(),
    });
    Stream::new(config.clone()).apply(log.collect(), Some(&scorer(config))).unwrap()
}

/// The question's answer, and the stream's as if it had been about the same machine; by text, since a normal that is
/// not known is NaN.
fn both(
    config: &StreamConfig,
    kinds: &Kinds,
    question: &[SensorReadings],
    minutes: i64,
) -> (Prediction, String, String) {
    let asked = predict_raw(config, &scorer(config), kinds, &press(), question).unwrap();
    let mut live = live(config, question, minutes);
    live.id.clone_from(&asked.id);
    live.machine.clone_from(&asked.machine);
    let texts = (format!("{asked:?}"), format!("{live:?}"));
    (asked, texts.0, texts.1)
}

#[test]
fn a_question_gets_the_streams_answer() {
    let config = StreamConfig::default();
    let (asked, answer, live) = both(&config, &kinds(&config), &question(), 50);
    assert_eq!(asked.window_end_ms, 40 * MINUTE);
    let explained = |c: &Contribution| c.sensor == "temperature" && c.unit == "C" && c.value < 30.0;
    assert!(asked.modes.iter().all(|m| m.contributions.iter().any(explained)));
    assert_eq!(answer, live);
}

#[test]
fn outliers_and_a_standing_machine_are_judged_as_in_the_stream_with_the_machines_normal_known() {
    const WINDOWS: i64 = 200;
    let config = StreamConfig::default();
    let minutes = WINDOWS * config.features.window_ms / MINUTE + 2;
    let mut question = vec![
        sensor("temperature", "F", 0..minutes, 0),
        sensor("vibration", "in/s", 0..minutes, 0),
        sensor("rotation_speed", "rpm", 0..minutes, 0),
    ];
    let last = |s: &mut SensorReadings, count: usize, value: f64| {
        let from = s.readings.len() - count;
        s.readings[from..].iter_mut().for_each(|r| r.value = value);
    };
    last(&mut question[0], 5, 5_000.0);
    last(&mut question[2], 2 * config.features.stuck_after as usize, 0.0);
    let (asked, answer, live) = both(&config, &kinds(&config), &question, minutes + 2);
    assert_eq!(asked.window_end_ms, WINDOWS * config.features.window_ms);
    assert_eq!(answer, live);
    let said = |sensor: &str| asked.modes[0].contributions.iter().find(|c| c.sensor == sensor).unwrap().clone();
    assert!(said("temperature").normal.is_finite() && said("temperature").value < 30.0);
    assert_eq!(said("rotation_speed").value, 0.0, "a machine at rest is not a stuck sensor");
    // In another unit of the same thing it is the same question.
    for reading in &mut question[2].readings {
        reading.value /= 60.0;
    }
    question[2].unit = "Hz".into();
    let again = predict_raw(&config, &scorer(&config), &kinds(&config), &press(), &question).unwrap();
    assert!((again.modes[0].probability - asked.modes[0].probability).abs() < 1e-6);
    // Without the fleet's knowledge the answer would be another one.
    assert_ne!(both(&config, &Kinds::new(), &question, minutes + 2).1, answer);
}

#[test]
fn what_is_wrong_is_named_by_its_field() {
    let config = StreamConfig::default();
    let ask =
        |sensors: &[SensorReadings]| match predict_raw(&config, &scorer(&config), &kinds(&config), &press(), sensors) {
            Err(PredictError::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        };
    let with = |change: fn(&mut Vec<SensorReadings>)| {
        let mut sensors = question();
        change(&mut sensors);
        ask(&sensors)
    };
    assert_eq!(with(|s| s[2].unit = "furlong".into()), "sensors[2].unit");
    assert_eq!(with(|s| s[2].unit = "C".into()), "sensors[2].unit");
    assert_eq!(with(|s| s[1].sensor = "a/b".into()), "sensors[1].sensor");
    assert_eq!(with(|s| s[1].sensor = "temperature".into()), "sensors[1].sensor");
    assert_eq!(with(|s| s.clear()), "sensors");
    assert_eq!(with(|s| s.iter_mut().for_each(|s| s.readings.retain(|r| r.time_ms < 9 * MINUTE))), "sensors");
    assert_eq!(with(|s| s.iter_mut().for_each(|s| s.sensor.push('x'))), "sensors");
    let corrugator = AssetId::new("corrugator").unwrap();
    let unknown = predict_raw(&config, &scorer(&config), &kinds(&config), &corrugator, &question()).unwrap_err();
    assert_eq!(unknown.to_string(), "kind: the model knows no `corrugator`, but press");
}
