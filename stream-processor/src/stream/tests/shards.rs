//! A split and a merge at any time change nothing that comes out.

use std::collections::BTreeMap;

use model::policy::Policy;
use proto::{archive::shards::Slots, position::Position};

use super::{super::shards::carve, *};
use crate::alert::{AlertConfig, config::RuleConfig};

const AGENTS: usize = 8;
const BATCHES: u64 = 60;
const SHARDS: usize = 4;

/// Rules that open alerts on the random logs.
fn eager() -> StreamConfig {
    let policy = Policy { open_windows: 1, of_windows: 3, close_factor: 0.9, close_windows: 1 };
    let rules = RuleConfig { policy, ..RuleConfig::default() };
    StreamConfig { alert: AlertConfig { rules, quiet_after_repair_ms: 1_000, ..AlertConfig::default() }, ..config() }
}

/// Everything that each machine gave, in its own order.
#[derive(Debug, Default)]
struct Given {
    /// As texts, since NaN is not equal to itself.
    windows: BTreeMap<AssetId, Vec<String>>,
    alerts: BTreeMap<String, Vec<String>>,
    /// Rows, and those that came late.
    readings: u64,
    late: u64,
}

impl Given {
    fn add(&mut self, derived: &[Derived]) {
        for d in derived {
            for window in &d.windows {
                self.windows.entry(window.machine.clone()).or_default().push(format!("{window:?}"));
            }
            for alert in &d.alerts {
                self.alerts.entry(alert.machine.clone()).or_default().push(format!("{alert:?}"));
            }
            self.readings += d.balance.readings_archived;
            self.late += d.late;
        }
    }
}

fn left(logs: &[Vec<Taken>]) -> EpochsLeft {
    logs.iter().map(|log| (log[0].agent.clone(), vec![Position { seq: 9, ..log[0].position }])).collect()
}

#[test]
fn a_split_into_four_and_a_merge_leave_windows_and_alerts_as_they_are() {
    let (seed, mut rng) = rng();
    let logs: Vec<Vec<Taken>> = (0..AGENTS).map(|agent| log(agent, BATCHES, &mut rng)).collect();
    let order = interleave(&logs, &mut rng);
    let (mut whole, mut divided) = (Given::default(), Given::default());
    // Batch by batch: the last bits of a sum depend on how a log is cut into frames.
    whole.add(&run(&mut Stream::new(eager()), order.clone(), &mut rng, 1));
    assert!(whole.alerts.values().any(|alerts| alerts.len() > 1), "seed {seed}: alerts prove nothing");

    let mut rest = order;
    let mut second = rest.split_off(rng.random_range(1..rest.len()));
    let third = second.split_off(rng.random_range(0..=second.len()));
    let mut one = Stream::new(eager());
    divided.add(&run(&mut one, rest, &mut rng, 1));
    let before = one.snapshot(&left(&logs)).unwrap();

    let mut after = Vec::new();
    for slots in Slots::ALL.parts(SHARDS) {
        let state = carve(std::slice::from_ref(&before), slots).unwrap();
        let (mut shard, left) = Stream::restore(eager(), &state).unwrap();
        assert!(left.keys().all(|agent| slots.holds(&agent.agent)));
        let own = second.iter().filter(|t| slots.holds(&t.agent.agent)).cloned().collect();
        divided.add(&run(&mut shard, own, &mut rng, 1));
        after.push(shard.snapshot(&left).unwrap());
    }
    assert_eq!(after.len(), SHARDS);

    let state = carve(&after, Slots::ALL).unwrap();
    let (mut merged, left_again) = Stream::restore(eager(), &state).unwrap();
    assert_eq!(left_again, left(&logs), "seed {seed}: where epochs ended is known to somebody all the time");
    divided.add(&run(&mut merged, third, &mut rng, 1));
    assert_eq!((divided.readings, divided.late), (whole.readings, whole.late), "seed {seed}");
    for (machine, windows) in &whole.windows {
        let other = divided.windows.get(machine).unwrap_or_else(|| panic!("seed {seed}: no windows of {machine}"));
        let first = windows.iter().zip(other).find(|(a, b)| a != b);
        assert!(first.is_none() && windows.len() == other.len(), "seed {seed}: {machine}: {first:#?}");
    }
    assert!(divided.alerts == whole.alerts, "seed {seed}: other alerts");
    assert_eq!(divided.windows.len(), whole.windows.len(), "seed {seed}");
}

#[test]
fn a_machine_that_two_shards_have_known_goes_on_where_its_living_agent_is() {
    let (seed, mut rng) = rng();
    let mut states = Vec::new();
    let mut names = BTreeMap::new();
    for (batches, agent) in [(10, 0), (40, 1)] {
        // The newer gateway has the older one's machine.
        let mut log = log(agent, batches, &mut rng);
        for taken in &mut log {
            let Content::Batch { batch, .. } = &mut taken.content else { panic!("a batch") };
            let machines = batch.birth.iter_mut().flat_map(|b| &mut b.machines).map(|m| &mut m.machine);
            machines.chain(batch.machines.iter_mut().map(|m| &mut m.machine)).for_each(|machine| {
                *machine = machine.replace("press-1-", "press-0-");
            });
            let sealed = batch.sealed.as_mut().unwrap();
            (sealed.time_ms, sealed.trusted) = (sealed.time_ms + 10_000_000 * agent as i64, true);
        }
        names.insert(agent, log[0].agent.clone());
        let mut stream = Stream::new(config());
        run(&mut stream, log, &mut rng, 5);
        states.push(stream.snapshot(&EpochsLeft::new()).unwrap());
    }
    let (merged, _) = Stream::restore(config(), &carve(&states, Slots::ALL).unwrap()).unwrap();
    let fleet = merged.fleet();
    assert_eq!(fleet.catalogue().machines().len(), 2, "seed {seed}: each once");
    assert!(fleet.known().all(|(_, _, agent)| agent == Some(&names[&1])), "seed {seed}");
    assert_eq!(fleet.machines_of(&names[&1]).len(), 2);
    assert!(fleet.machines_of(&names[&0]).is_empty(), "the one that was replaced has none");
}

/// Whose scores these windows of each machine get.
fn judges(stream: &Stream, machines: &[&str], ends: &[i64]) -> Vec<Vec<String>> {
    let window = |machine: &str, end: i64| WindowFeatures {
        machine: AssetId::new(machine).unwrap(),
        kind: AssetId::new("press").unwrap(),
        generation: 0,
        start: PlantTime(end - log::WINDOW_MS),
        end: PlantTime(end),
        revision: 0,
        sensors: vec![],
        features: vec![],
        normal: vec![],
    };
    let judge = |machine, end| stream.schedule().scorers(&window(machine, end)).unwrap().decides.to_owned();
    machines.iter().map(|machine| ends.iter().map(|end| judge(machine, *end)).collect()).collect()
}

/// Found by the simulation: a model that had come back judged the windows between, too, once slots had moved.
#[test]
fn a_model_that_came_back_judges_its_own_windows_only_after_a_split_and_a_merge() {
    let (_, mut rng) = rng();
    let mut stream = Stream::new(config());
    run(&mut stream, (0..AGENTS).map(|agent| log(agent, 1, &mut rng).remove(0)).collect(), &mut rng, 5);
    let machines: Vec<String> = (0..AGENTS).map(|agent| format!("press-{agent}-0")).collect();
    let machines: Vec<&str> = machines.iter().map(String::as_str).collect();
    let enter = |stream: &mut Stream, version: &str, now_ms: i64| {
        assert!(stream.enter(&schedule::Charge::of(version), PlantTime(now_ms)));
        stream.in_force();
    };
    // Each line is a minute later.
    let minutes = |minute: i64| 10_000_000 + minute * schedule::CHANGE_MARGIN_MS;
    for (version, minute) in [("a", 0), ("b", 1), ("a", 2), ("c", 3)] {
        enter(&mut stream, version, minutes(minute));
    }
    let ends: Vec<i64> = [1, 2, 3, 4, 5].iter().map(|minute| minutes(*minute)).collect();
    assert_eq!(judges(&stream, &machines, &ends)[0], ["a", "a", "b", "a", "c"]);
    let before = judges(&stream, &machines, &ends);

    let state = stream.snapshot(&EpochsLeft::new()).unwrap();
    let mut after = Vec::new();
    for (n, slots) in Slots::ALL.parts(SHARDS).into_iter().enumerate() {
        let (mut shard, left) =
            Stream::restore(config(), &carve(std::slice::from_ref(&state), slots).unwrap()).unwrap();
        let own: Vec<&str> = machines.iter().copied().filter(|m| shard.fleet().catalogue().id(m).is_some()).collect();
        let place = |own: &&str| machines.iter().position(|machine| machine == own).unwrap();
        let expected: Vec<_> = own.iter().map(|own| before[place(own)].clone()).collect();
        assert_eq!(judges(&shard, &own, &ends), expected, "shard {n}");
        // A change that the other shards have missed.
        if n == 0 {
            enter(&mut shard, "d", minutes(6));
            enter(&mut shard, "c", minutes(7));
        }
        after.push(shard.snapshot(&left).unwrap());
    }
    let (merged, _) = Stream::restore(config(), &carve(&after, Slots::ALL).unwrap()).unwrap();
    assert_eq!(judges(&merged, &machines, &ends), before);
    let late = judges(&merged, &machines, &[minutes(7), minutes(8), minutes(9)]);
    assert!(late.contains(&["c", "d", "c"].map(str::to_owned).to_vec()), "{late:?}");
    assert!(late.contains(&["c", "c", "c"].map(str::to_owned).to_vec()), "{late:?}");
}
