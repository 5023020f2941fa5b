use proto::{asset::AssetId, position::Epoch};

use super::*;

const MS: Duration = Duration::from_millis(1);

fn agent(name: &str) -> AgentKey {
    AgentKey { site: AssetId::new("mill").unwrap(), agent: AssetId::new(name).unwrap() }
}

fn at(seq: u64) -> Position {
    Position { epoch: Epoch([1; 16]), seq }
}

fn acks() -> Acks {
    Acks::new(ArchiveId([7; 16]), 3, &BTreeMap::new())
}

/// Received and committed of what is published.
fn due(acks: &mut Acks, now: Duration) -> Vec<(u64, u64)> {
    let seq = |p: Option<Position>| p.map_or(0, |p| p.seq);
    let due = acks.take_due(now, PlantTime(5)).into_iter();
    due.map(|(_, ack)| (seq(ack.received), seq(ack.committed))).collect()
}

#[test]
fn a_new_incarnation_announces_itself_to_all_it_knows() {
    let committed = [("a", 4), ("b", 9)].map(|(name, seq)| (agent(name), at(seq))).into();
    let mut acks = Acks::new(ArchiveId([7; 16]), 3, &committed);
    let published = acks.take_due(Duration::ZERO, PlantTime(5));
    assert_eq!(published[1].0.to_string(), Topic::new(&agent("b").site, &agent("b").agent, Channel::Ack).to_string());
    let (archive, incarnation) = (ArchiveId([7; 16]), 3);
    let (received, committed) = (Some(at(9)), Some(at(9)));
    let expected = Ack { archive, incarnation, received, committed, paused: false, plant_time: PlantTime(5) };
    assert_eq!((published.len(), published[1].1), (2, expected));
}

#[test]
fn changes_within_an_interval_go_out_as_one() {
    let mut acks = acks();
    acks.received(&agent("a"), at(1));
    assert_eq!(due(&mut acks, 10 * MS), [(1, 0)]);
    for seq in 2..50 {
        acks.received(&agent("a"), at(seq));
        assert!(due(&mut acks, 20 * MS).is_empty());
    }
    acks.committed(&[(agent("a"), at(30))].into());
    assert_eq!(due(&mut acks, 10 * MS + ACK_INTERVAL), [(49, 30)]);
    acks.committed(&[(agent("a"), at(30))].into());
    assert!(due(&mut acks, 10 * ACK_INTERVAL).is_empty(), "nothing new");
}

#[test]
fn a_repeat_is_answered_though_nothing_changed() {
    let mut acks = acks();
    acks.received(&agent("a"), at(1));
    assert_eq!(due(&mut acks, Duration::ZERO).len(), 1);
    acks.repeat(&agent("a"));
    assert_eq!(due(&mut acks, ACK_INTERVAL), [(1, 0)]);
    acks.repeat_all();
    assert_eq!(due(&mut acks, 2 * ACK_INTERVAL), [(1, 0)]);
}

#[test]
fn an_agent_that_only_an_earlier_incarnation_knew_is_told_that_nothing_is_received() {
    let mut acks = acks();
    acks.repeat(&agent("a"));
    assert_eq!(due(&mut acks, Duration::ZERO), [(0, 0)]);
}

#[test]
fn a_pause_is_said_at_once_and_again_and_its_end_too() {
    let mut acks = acks();
    acks.received(&agent("a"), at(1));
    assert_eq!(due(&mut acks, Duration::ZERO).len(), 1);
    let paused = |acks: &mut Acks, now| acks.take_due(now, PlantTime(0)).iter().map(|a| a.1.paused).collect::<Vec<_>>();
    let start = ACK_INTERVAL;
    acks.set_paused(true, start);
    assert_eq!(paused(&mut acks, start), [true]);
    assert!(paused(&mut acks, 2 * start).is_empty());
    assert_eq!(paused(&mut acks, start + PAUSED_ACK_INTERVAL), [true]);
    acks.set_paused(false, start + PAUSED_ACK_INTERVAL);
    assert_eq!(paused(&mut acks, 2 * start + PAUSED_ACK_INTERVAL), [false]);
    assert!(paused(&mut acks, 9 * start + PAUSED_ACK_INTERVAL).is_empty());
}
