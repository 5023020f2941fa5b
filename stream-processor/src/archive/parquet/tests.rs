use std::{io::Cursor, sync::Arc, time::Instant};

use model::features::clean::unit_code;
use polars::prelude::*;
use polars_io::{SerReader, parquet::read::ParquetReader};
use proto::{
    asset::Unit,
    position::{Epoch, Position},
    wire::{
        alert::{Alert, AlertSource, AlertState},
        prediction::{ModeProbability, Prediction},
        telemetry::{
            EventKind, EventRecord, MachineReadings, Quality, QualityReason, SealTime, SensorColumn, TelemetryBatch,
            Verdict,
        },
    },
};

use super::*;
use crate::{
    archive::readings::{Names, sample},
    decode::{AgentKey, Content, DeadLetter, Taken},
    stream::{KnownEvent, Stream, StreamConfig},
};

fn content() -> SegmentContent {
    let features = ["sound.mean".to_string(), "sound.std".to_string()];
    SegmentContent::new(AssetId::new("mill").unwrap(), features.into())
}

fn read(file: &Encoded) -> DataFrame {
    let frame = ParquetReader::new(Cursor::new(&file.bytes)).finish().unwrap();
    assert_eq!(frame.height() as u64, file.rows);
    frame
}

fn text(frame: &DataFrame, name: &str) -> Vec<String> {
    frame.column(name).unwrap().str().unwrap().iter().map(|s| s.unwrap_or("null").to_owned()).collect()
}

#[test]
fn readings_are_split_by_site_and_day_and_keep_their_order() {
    let mut content = content();
    content.readings.append(sample(&[("mill", 5, 1.0), ("annex", 7, f64::NAN), ("mill", DAY_MS, 2.0)]));
    content.readings.append(sample(&[("mill", 3, f64::INFINITY)]));
    let files = encode(&content).unwrap();
    let place: Vec<_> = files.iter().map(|f| (f.site.as_str(), f.date.as_str(), f.rows)).collect();
    assert_eq!(place, [("annex", "1970-01-01", 1), ("mill", "1970-01-01", 2), ("mill", "1970-01-02", 1)]);
    assert_eq!((files[1].min_time_ms, files[1].max_time_ms), (3, 5));
    assert!(files.iter().all(|f| f.table == Table::Readings && f.sha256 == sha256(&f.bytes)));
    let frame = read(&files[1]);
    let schema = ParquetReader::new(Cursor::new(&files[1].bytes)).schema().unwrap();
    let stamp = &schema.get(column::TIME).unwrap().dtype;
    let utc = DataType::Datetime(TimeUnit::Milliseconds, Some(TimeZone::UTC));
    assert_eq!(stamp, &utc.to_arrow(CompatLevel::newest()));
    let values: Vec<f64> = frame.column(column::VALUE).unwrap().f64().unwrap().into_no_null_iter().collect();
    assert_eq!(values, [1.0, f64::INFINITY]);
    assert!(read(&files[0]).column(column::VALUE).unwrap().f64().unwrap().get(0).unwrap().is_nan());
}

#[test]
fn readings_have_names_in_the_file_whatever_they_were_by_inside() {
    let name = |name: &str| AssetId::new(name).unwrap();
    let mut content = content();
    content.readings = sample(&[("mill", 1, 1.0), ("mill", 2, 2.0), ("mill", 3, 3.0)]);
    let stretch = &mut content.readings.stretches[0];
    stretch.rows.with_column(Column::new(inner::SERIES.into(), [2u32, 0, 2])).unwrap();
    stretch.rows.with_column(Column::new(inner::UNIT.into(), [unit_code(Some(Unit::Celsius)), u8::MAX, 0])).unwrap();
    stretch.batches[1].1 = 10;
    content.readings.names = Arc::new(Names {
        machines: vec![name("press-1"), name("press-2"), name("press-3")],
        sensors: vec![name("sound"), name("heat")],
        series: vec![(0, 0), (1, 0), (2, 1)],
    });
    let frame = read(&encode(&content).unwrap()[0]);
    let all =
        ["agent", "seq", "machine", "sensor", "time", "value", "unit", "quality", "reason", "flags", "generation"];
    assert_eq!(frame.get_column_names(), all);
    assert_eq!(text(&frame, column::MACHINE), ["press-3", "press-1", "press-3"]);
    assert_eq!(text(&frame, column::SENSOR), ["heat", "sound", "heat"]);
    assert_eq!(text(&frame, column::UNIT), [Unit::Celsius.symbol(), "null", Unit::ALL[0].symbol()]);
    assert_eq!(text(&frame, column::AGENT), ["gw"; 3]);
    let seqs: Vec<u64> = frame.column(column::SEQ).unwrap().u64().unwrap().into_no_null_iter().collect();
    assert_eq!(seqs, [9, 10, 9]);
}

#[test]
fn a_bad_reading_is_found_with_its_reason() {
    let batch = TelemetryBatch {
        sealed: Some(SealTime { time_ms: 3, trusted: true, ..Default::default() }),
        machines: vec![MachineReadings {
            machine: "press-1".into(),
            time_delta_ms: vec![1, 1, 1],
            sensors: vec![SensorColumn {
                sensor: "sound".into(),
                value: vec![70.0, f64::NAN, f64::NAN],
                quality: vec![Quality::Good as i32, Quality::Bad as i32, Quality::Bad as i32],
                reason: vec![0, QualityReason::Disconnected as i32, QualityReason::Timeout as i32],
            }],
        }],
        ..Default::default()
    };
    let taken = Taken {
        agent: AgentKey { site: AssetId::new("mill").unwrap(), agent: AssetId::new("gw").unwrap() },
        position: Position { epoch: Epoch([1; 16]), seq: 1 },
        last_seq: 1,
        content: Content::Batch { batch, readings: 3 },
        received: Instant::now(),
    };
    let mut content = content();
    content.readings.append(Stream::new(StreamConfig::default()).apply(vec![taken], None).unwrap().readings);
    let frame = read(&encode(&content).unwrap()[0]);
    let codes = |name: &str| frame.column(name).unwrap().cast(&DataType::Int32).unwrap().i32().unwrap().clone();
    let found: Vec<_> = codes(column::QUALITY).iter().zip(codes(column::REASON).iter()).collect();
    let bad = |reason: QualityReason| (Some(Quality::Bad as i32), Some(reason as i32));
    assert_eq!(found, [(Some(0), Some(0)), bad(QualityReason::Disconnected), bad(QualityReason::Timeout)]);
}

#[test]
fn broken_clocks_do_not_get_a_file_each() {
    let wild: Vec<i64> = (0..500).map(|day| day * DAY_MS).chain([i64::MIN, i64::MAX, 499 * DAY_MS]).collect();
    let mut content = content();
    content.readings.append(sample(&wild.iter().map(|ms| ("mill", *ms, 0.0)).collect::<Vec<_>>()));
    let files = encode(&content).unwrap();
    assert!(files.len() <= DAYS_PER_TABLE_MAX + 1, "{}", files.len());
    assert_eq!(files.iter().map(|f| f.rows).sum::<u64>(), wild.len() as u64);
    assert!(files.iter().any(|f| f.date == "1971-05-15" && f.rows == 2), "the day with the most rows has its own");
    let rest = files.iter().find(|f| f.date == "1970-01-01").unwrap();
    assert_eq!((rest.min_time_ms, rest.max_time_ms), (i64::MIN, i64::MAX));
}

#[test]
fn windows_have_a_column_per_feature_and_null_for_no_value() {
    let mut content = content();
    content.windows.push(model::features::WindowFeatures {
        machine: AssetId::new("press-1").unwrap(),
        kind: AssetId::new("press").unwrap(),
        start: PlantTime(DAY_MS - 600_000),
        end: PlantTime(DAY_MS),
        generation: 0,
        revision: 0,
        sensors: vec![],
        features: vec![1.5, f64::NAN],
        normal: vec![0.0, 0.0],
    });
    let files = encode(&content).unwrap();
    assert_eq!((files[0].table, files[0].date.as_str()), (Table::Features, "1970-01-02"));
    let frame = read(&files[0]);
    let cell = |name: &str| frame.column(name).unwrap().f64().unwrap().get(0);
    assert_eq!((cell("sound.mean"), cell("sound.std")), (Some(1.5), None));
    assert_eq!(text(&frame, column::MACHINE), ["press-1"]);
}

#[test]
fn predictions_have_a_row_per_mode() {
    let mode = |mode: &str, probability| ModeProbability { mode: mode.into(), probability, ..Default::default() };
    let prediction = Prediction {
        id: "p".into(),
        machine: "press-1".into(),
        window_end_ms: 9,
        modes: vec![mode("heat", 0.25), mode("slip", 0.5)],
        ..Prediction::default()
    };
    let mut content = content();
    content.predictions = vec![prediction, Prediction::default()];
    let frame = read(&encode(&content).unwrap()[0]);
    assert_eq!(text(&frame, column::MODE), ["heat", "slip"]);
    assert_eq!(text(&frame, column::ID), ["p", "p"]);
    assert_eq!(frame.column(column::PROBABILITY).unwrap().f64().unwrap().get(1), Some(0.5));
}

#[test]
fn alerts_events_and_dead_letters_are_rows_too() {
    let site = AssetId::new("mill").unwrap();
    let agent = AgentKey { site: site.clone(), agent: AssetId::new("gw").unwrap() };
    let event = EventRecord {
        machine: "press-1".into(),
        time_ms: 7,
        kind: EventKind::Failure.into(),
        verdict: Verdict::FalseAlarm.into(),
        ..EventRecord::default()
    };
    let mut content = content();
    content.alerts.push(Alert {
        source: AlertSource::Rule.into(),
        state: AlertState::Acknowledged.into(),
        probability: 0.0,
        updated_ms: 3,
        ..Alert::default()
    });
    content.events.push(KnownEvent { agent: Some(agent), seq: 4, event: event.clone(), known: None });
    let from_a_person = EventRecord { kind: 0, ..event };
    content.events.push(KnownEvent { agent: None, seq: 0, event: from_a_person, known: Some(PlantTime(9)) });
    let payload = bytes::Bytes::from_static(&[0, 255, 1]);
    content.dead_letters.push(DeadLetter {
        topic: "t".into(),
        payload: payload.clone(),
        reason: "r".into(),
        time: PlantTime(2),
        readings: 0,
    });
    let files = encode(&content).unwrap();
    assert_eq!(files.iter().map(|f| f.table).collect::<Vec<_>>(), [Table::Alerts, Table::Events, Table::DeadLetter]);
    let [alerts, events, letters] = [read(&files[0]), read(&files[1]), read(&files[2])];
    assert_eq!(
        (text(&alerts, column::SOURCE), text(&alerts, column::STATE)),
        (vec!["rule".into()], vec!["acknowledged".into()])
    );
    assert_eq!(alerts.column(column::PROBABILITY).unwrap().null_count(), 1, "a rule has no probability");
    assert_eq!(text(&events, column::KIND), ["failure", ""]);
    assert_eq!(text(&events, column::VERDICT), ["false_alarm", "false_alarm"]);
    assert_eq!(text(&events, column::AGENT), ["gw", "null"]);
    let known = events.column(column::KNOWN).unwrap().to_physical_repr().i64().unwrap().clone();
    assert_eq!((known.get(0), known.get(1)), (None, Some(9)));
    assert_eq!(events.column(column::SEQ).unwrap().u64().unwrap().get(0), Some(4));
    assert_eq!(letters.column(column::PAYLOAD).unwrap().binary().unwrap().get(0), Some(payload.as_ref()));
}

#[test]
fn nothing_makes_no_file() {
    assert!(encode(&content()).unwrap().is_empty());
}

/// `model import` writes them too.
#[test]
fn tables_that_others_write_have_one_schema() {
    let shape = |frame: &DataFrame| (*frame.drop(SITE).unwrap().schema()).clone();
    let births = shape(&crate::stream::tables::Births::default().frame().unwrap());
    assert!(*births == model::store::schema::births());
    let mut content = content();
    content.events.push(KnownEvent { agent: None, seq: 0, event: EventRecord::default(), known: None });
    assert!(*shape(&rows::events(&content).unwrap()) == model::store::schema::events());
}
