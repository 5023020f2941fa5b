use proto::{asset::AssetId, telemetry::Codec};

use super::*;

fn agent() -> AgentKey {
    AgentKey { site: AssetId::new("mill").unwrap(), agent: AssetId::new("gw").unwrap() }
}

fn at(epoch: u8, seq: u64) -> Position {
    Position { epoch: Epoch([epoch; 16]), seq }
}

fn data(position: Position, previous: Option<Position>) -> FrameHeader {
    FrameHeader {
        kind: FrameKind::Data,
        codec: Codec::Plain,
        position,
        last_seq: position.seq,
        previous,
        readings: 1,
        payload_bytes: 1,
        payload_crc: position.seq as u32,
    }
}

fn gap(position: Position, last_seq: u64, previous: Option<Position>) -> FrameHeader {
    FrameHeader { kind: FrameKind::Gap, last_seq, ..data(position, previous) }
}

fn intake(committed: Option<Position>) -> Intake {
    Intake::new(&committed.map(|p| (agent(), p)).into_iter().collect(), EpochsLeft::new())
}

fn offers(intake: &mut Intake, headers: &[FrameHeader]) -> Vec<Decision> {
    headers.iter().map(|h| intake.offer(&agent(), h, true)).collect()
}

use Decision::{Bridge, Conflict, Damaged, Duplicate, OutOfOrder, Paused, Take};

#[test]
fn only_the_next_batch_is_taken() {
    let mut intake = intake(None);
    let d = |seq| data(at(1, seq), None);
    let took = offers(&mut intake, &[d(2), d(1), d(1), d(3), d(2), d(1), d(3)]);
    let expected = [OutOfOrder, Take { from: 1 }, Duplicate, OutOfOrder, Take { from: 2 }, Duplicate, Take { from: 3 }];
    assert_eq!(took, expected);
    assert_eq!(intake.received(&agent()), Some(at(1, 3)));
}

#[test]
fn an_epoch_begins_only_behind_exactly_our_position() {
    let mut intake = intake(Some(at(1, 5)));
    let early = offers(
        &mut intake,
        &[data(at(2, 1), Some(at(1, 6))), data(at(2, 1), Some(at(1, 4))), data(at(2, 1), None), data(at(2, 2), None)],
    );
    assert_eq!(early, [OutOfOrder; 4]);
    assert_eq!(offers(&mut intake, &[data(at(2, 1), Some(at(1, 5)))]), [Take { from: 1 }]);
    let late = offers(&mut intake, &[data(at(1, 5), None), data(at(1, 6), None), data(at(1, 1), Some(at(2, 2)))]);
    assert_eq!(late, [Duplicate, OutOfOrder, Duplicate], "an epoch left behind never begins again");
}

#[test]
fn an_unknown_agent_begins_at_the_very_beginning_of_its_log_only() {
    let begin = data(at(2, 1), Some(at(1, 9)));
    assert_eq!(offers(&mut intake(None), &[begin, data(at(2, 2), None)]), [OutOfOrder; 2]);
    assert_eq!(offers(&mut intake(None), &[gap(at(2, 1), 7, None)]), [Take { from: 1 }]);
}

fn bridge(from: Option<Position>, to: Position) -> FrameHeader {
    FrameHeader { kind: FrameKind::Bridge, ..data(to, from) }
}

#[test]
fn a_break_is_taken_only_from_exactly_where_we_are() {
    let mut strangers = intake(None);
    assert_eq!(offers(&mut strangers, &[bridge(Some(at(1, 4)), at(2, 0))]), [OutOfOrder]);
    assert_eq!(offers(&mut strangers, &[bridge(None, at(2, 6))]), [Bridge { from: None, to: at(2, 6) }]);
    let mut intake = intake(Some(at(1, 5)));
    assert_eq!(offers(&mut intake, &[bridge(None, at(2, 0)), bridge(Some(at(1, 4)), at(2, 0))]), [OutOfOrder; 2]);
    let (stands, to) = (Some(at(1, 5)), at(2, 0));
    let took = offers(&mut intake, &[bridge(stands, to), bridge(stands, to), data(at(2, 1), Some(at(9, 9)))]);
    assert_eq!(took, [Bridge { from: stands, to }, Duplicate, Take { from: 1 }], "behind it, no link is asked for");
    assert_eq!(
        offers(&mut intake, &[bridge(Some(at(2, 1)), at(3, 7))]),
        [Bridge { from: Some(at(2, 1)), to: at(3, 7) }]
    );
}

#[test]
fn what_a_restored_disk_brings_again_is_passed_over() {
    let left = EpochsLeft::from([(agent(), vec![at(1, 5), at(2, 3)])]);
    let mut intake = Intake::new(&BTreeMap::from([(agent(), at(3, 2))]), left);
    let (stands, known) = (Some(at(3, 2)), at(1, 5));
    assert_eq!(offers(&mut intake, &[bridge(stands, at(1, 1))]), [Bridge { from: stands, to: known }]);
    assert_eq!(offers(&mut intake, &[data(at(1, 2), None), data(at(1, 5), None)]), [Duplicate; 2]);
    let again = data(at(2, 1), Some(known));
    assert_eq!(offers(&mut intake, &[again]), [Bridge { from: Some(known), to: at(2, 3) }]);
    assert_eq!(offers(&mut intake, &[data(at(2, 4), None)]), [Take { from: 4 }]);
    assert_eq!(intake.left(), EpochsLeft::from([(agent(), vec![at(3, 2), known])]));
}

#[test]
fn a_gap_is_taken_from_where_we_are() {
    let mut intake = intake(Some(at(1, 5)));
    assert_eq!(offers(&mut intake, &[gap(at(1, 7), 9, None)]), [OutOfOrder]);
    assert_eq!(offers(&mut intake, &[gap(at(1, 2), 5, None)]), [Duplicate]);
    assert_eq!(offers(&mut intake, &[gap(at(1, 2), 9, None)]), [Take { from: 6 }]);
    assert_eq!(intake.received(&agent()), Some(at(1, 9)));
    assert_eq!(offers(&mut intake, &[gap(at(2, 1), 3, Some(at(1, 9)))]), [Take { from: 1 }]);
    assert_eq!(intake.received(&agent()), Some(at(2, 3)));
}

#[test]
fn other_content_under_a_known_name_is_a_conflict_unless_it_is_a_gap() {
    let mut intake = intake(None);
    assert_eq!(offers(&mut intake, &[data(at(1, 1), None)]), [Take { from: 1 }]);
    let other = FrameHeader { payload_crc: 99, ..data(at(1, 1), None) };
    let replaced = FrameHeader { payload_crc: 99, ..gap(at(1, 1), 1, None) };
    assert_eq!(offers(&mut intake, &[other, replaced]), [Conflict, Duplicate]);
}

#[test]
fn damage_and_pause_move_nothing() {
    let mut intake = intake(Some(at(1, 5)));
    let next = data(at(1, 6), None);
    assert_eq!(intake.offer(&agent(), &next, false), Damaged);
    intake.set_paused(true);
    assert_eq!(
        offers(&mut intake, &[next, data(at(1, 5), None), data(at(1, 9), None)]),
        [Paused, Duplicate, OutOfOrder]
    );
    intake.set_paused(false);
    assert_eq!(offers(&mut intake, &[next]), [Take { from: 6 }]);
    assert_eq!(intake.positions().into_values().collect::<Vec<_>>(), [at(1, 6)]);
}
