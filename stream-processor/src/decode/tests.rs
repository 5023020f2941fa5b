use std::collections::BTreeMap;

use proto::{
    archive::shards::Slots,
    position::Epoch,
    telemetry::{HEADER_BYTES, delta_encode},
    wire::telemetry::{GapReason, MachineReadings, SealTime, SensorColumn},
};

use super::*;
use crate::intake::EpochsLeft;

fn site() -> AssetId {
    AssetId::new("mill").unwrap()
}

fn agent() -> AgentKey {
    AgentKey { site: site(), agent: AssetId::new("gw").unwrap() }
}

fn batch() -> TelemetryBatch {
    let sensors =
        vec![SensorColumn { sensor: "sound".into(), value: vec![70.0, 71.0], quality: vec![], reason: vec![] }];
    TelemetryBatch {
        sealed: Some(SealTime { time_ms: 3, ..Default::default() }),
        machines: vec![MachineReadings { machine: "m".into(), time_delta_ms: delta_encode(&[1, 2]), sensors }],
        ..Default::default()
    }
}

fn at(seq: u64) -> Position {
    Position { epoch: Epoch([1; 16]), seq }
}

fn frame(seq: u64) -> Frame {
    Frame::seal(at(seq), None, 2, &batch())
}

fn telemetry() -> String {
    Topic::new(&site(), &agent().agent, Channel::Telemetry).to_string()
}

fn arrival(topic: &str, payload: impl Into<Bytes>) -> Arrival {
    Arrival { topic: topic.into(), payload: payload.into(), received: Instant::now() }
}

/// As the first and only message of an agent.
fn decoded(topic: &str, payload: impl Into<Bytes>) -> Decoded {
    let mut intake = Intake::new(&BTreeMap::new(), EpochsLeft::new());
    decode(&mut intake, &site(), &arrival(topic, payload), PlantTime(9))
}

fn lost(decoded: Decoded) -> DeadLetter {
    match decoded {
        Decoded::Lost(letter) => letter,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_good_batch_is_taken_with_its_place() {
    let Decoded::Taken(taken) = decoded(&telemetry(), frame(1).encode()) else { panic!() };
    assert_eq!((taken.agent, taken.position, taken.last_seq), (agent(), at(1), 1));
    let Content::Batch { batch: content, readings: 2 } = taken.content else { panic!() };
    assert_eq!(content, batch());
}

#[test]
fn a_gap_is_taken_from_what_is_new_in_it() {
    let mut intake = Intake::new(&BTreeMap::from([(agent(), at(4))]), EpochsLeft::new());
    let gap = Gap { reason: GapReason::Evicted as i32, ..Default::default() };
    let message = arrival(&telemetry(), Frame::gap(at(3), 9, None, &gap).encode());
    let Decoded::Taken(taken) = decode(&mut intake, &site(), &message, PlantTime(9)) else { panic!() };
    assert_eq!((taken.position, taken.last_seq), (at(5), 9));
    assert!(matches!(taken.content, Content::Gap(g) if g == gap));
}

#[test]
fn what_has_no_place_is_kept_with_the_reason() {
    let foreign = Topic::new(&AssetId::new("other").unwrap(), &agent().agent, Channel::Telemetry).to_string();
    let status = Topic::new(&site(), &agent().agent, Channel::Status).to_string();
    let cases = [
        (foreign, frame(1).encode(), "site other is not ours"),
        (status, frame(1).encode(), "not the topic of telemetry"),
        ("a/b".into(), frame(1).encode(), "prefix"),
        (telemetry(), Bytes::from_static(b"{\"temperature\": 3}"), "too few"),
        (telemetry(), Bytes::from(vec![0; 200]), "magic"),
    ];
    for (topic, payload, reason) in cases {
        let letter = lost(decoded(&topic, payload.clone()));
        assert!(letter.reason.contains(reason), "{}", letter.reason);
        assert_eq!((letter.topic, letter.payload, letter.time), (topic, payload, PlantTime(9)));
    }
}

#[test]
fn agents_of_other_slots_are_not_taken_and_not_answered() {
    let own: Slots = agent().agent.slot().to_string().parse().unwrap();
    let others: Slots = ((agent().agent.slot() + 1) % 64).to_string().parse().unwrap();
    for (slots, outcome) in [(own, "received"), (others, "other_shard")] {
        let mut intake = Intake::new(&BTreeMap::new(), EpochsLeft::new()).limited_to(slots);
        let message = arrival(&telemetry(), frame(1).encode());
        assert_eq!(decode(&mut intake, &site(), &message, PlantTime(9)).outcome(), outcome);
        assert_eq!(intake.received(&agent()).is_some(), outcome == "received");
    }
}

#[test]
fn while_paused_letters_find_no_place_either() {
    let mut intake = Intake::new(&BTreeMap::new(), EpochsLeft::new());
    intake.set_paused(true);
    let message = arrival("a/b", vec![1]);
    assert_eq!(decode(&mut intake, &site(), &message, PlantTime(9)).outcome(), "dropped");
}

#[test]
fn an_oversized_message_is_kept_up_to_the_limit() {
    let letter = lost(decoded(&telemetry(), vec![7; FRAME_BYTES_MAX + 1]));
    assert_eq!(letter.payload.len(), FRAME_BYTES_MAX);
    assert!(letter.reason.contains("over the limit"));
}

#[test]
fn damage_on_the_way_is_not_taken() {
    let good = frame(1).encode();
    let mut flipped = good.to_vec();
    flipped[HEADER_BYTES + 1] ^= 1;
    for payload in [Bytes::from(flipped), good.slice(..good.len() - 1)] {
        assert!(matches!(decoded(&telemetry(), payload), Decoded::Refused(_, Refusal::Damaged)));
    }
}

#[test]
fn a_later_format_is_left_with_its_agent() {
    let mut payload = frame(1).encode().to_vec();
    payload[4] = 2;
    assert!(matches!(decoded(&telemetry(), payload), Decoded::Refused(_, Refusal::Version)));
}

#[test]
fn content_that_is_not_understood_takes_its_place_and_blocks_nothing() {
    let mut unsealed = batch();
    unsealed.sealed = None;
    let poison = [Frame::seal(at(1), None, 2, &unsealed), Frame::seal(at(1), None, 3, &batch())];
    for frame in poison {
        let mut intake = Intake::new(&BTreeMap::new(), EpochsLeft::new());
        let mut next = |payload: Bytes| decode(&mut intake, &site(), &arrival(&telemetry(), payload), PlantTime(9));
        let Decoded::Taken(taken) = next(frame.encode()) else { panic!() };
        let Content::DeadLetter(letter) = taken.content else { panic!() };
        assert_eq!(
            (taken.position, letter.payload, letter.readings),
            (at(1), frame.encode(), frame.header.readings.into())
        );
        assert_eq!(next(frame.encode()).outcome(), "duplicate");
        assert_eq!(next(self::frame(2).encode()).outcome(), "received");
    }
}

#[test]
fn another_batch_under_a_known_name_is_kept_and_told() {
    let mut intake = Intake::new(&BTreeMap::new(), EpochsLeft::new());
    let mut next = |payload: Bytes| decode(&mut intake, &site(), &arrival(&telemetry(), payload), PlantTime(9));
    assert_eq!(next(frame(1).encode()).outcome(), "received");
    let mut other = batch();
    other.machines[0].sensors[0].value[0] = 1.0;
    let Decoded::Conflict(who, letter) = next(Frame::seal(at(1), None, 2, &other).encode()) else { panic!() };
    assert_eq!((who, letter.readings), (agent(), 2));
}
