//! How fast plant time runs, or whether it stands still for a while, decides when an agent seals its batches, and nothing
//! else: the same plant gives the same windows and the same alerts.

use std::time::Instant;

use edge_agent::{
    agent::{
        batch::{BATCH_BYTES_MAX, BatchBuilder},
        cutter::{Cutter, Polled},
    },
    source::{
        Source,
        simulator::{Simulator, SimulatorConfig},
    },
};
use model::features::{Stats, WindowFeatures};
use proto::{
    asset::AssetId,
    position::{Epoch, Position},
    telemetry::check_batch,
    time::PlantTime,
    wire::{
        alert::Alert,
        telemetry::{Birth, SealTime},
    },
};
use stream_processor::{
    decode::{AgentKey, Content, Taken},
    stream::{Stream, StreamConfig},
};

const MINUTE_MS: i64 = 60_000;
/// Coarse, and so quick.
const READING_MS: i64 = 150_000;
const MINUTES: i64 = 8 * 24 * 60;

/// By machine, and then in the order in which it was told.
struct Told {
    windows: Vec<(AssetId, PlantTime, Vec<Option<Stats>>)>,
    /// Without the values of sensors, in whose last digits it shows in which order they were summed.
    alerts: Vec<Alert>,
}

impl Told {
    fn assert_like(&self, other: &Told) {
        assert_eq!(self.windows.len(), other.windows.len());
        for (ours, theirs) in self.windows.iter().zip(&other.windows) {
            assert_eq!((&ours.0, ours.1), (&theirs.0, theirs.1));
            assert!(ours.2.iter().zip(&theirs.2).all(|(a, b)| same(a, b)), "{ours:?} {theirs:?}");
        }
        assert_eq!(self.alerts, other.alerts);
    }
}

/// Counts and extremes exactly; what is summed to 1e-9.
fn same(a: &Option<Stats>, b: &Option<Stats>) -> bool {
    let exact = |s: &Stats| (s.count, s.min, s.max, s.first, s.last);
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0);
    match (a, b) {
        (Some(a), Some(b)) => {
            exact(a) == exact(b) && near(a.mean, b.mean) && near(a.std, b.std) && near(a.slope, b.slope)
        }
        (a, b) => a.is_none() && b.is_none(),
    }
}

/// What a processor derives from a gateway that flushes at these minutes of plant time.
fn told(flushes: impl Iterator<Item = i64>) -> Told {
    let config = SimulatorConfig { interval_ms: READING_MS, ..SimulatorConfig::default() };
    let simulator = Simulator::new(&config, None).unwrap();
    let infos = simulator.machines();
    let builder = BatchBuilder::new(&infos).unwrap();
    let birth = Birth { machines: infos, ..Default::default() };
    let mut cutter = Cutter::new(vec![Box::new(simulator)], builder, BATCH_BYTES_MAX, birth, None);
    let mut stream = Stream::new(StreamConfig::default());
    let (mut windows, mut alerts, mut seq) = (Vec::new(), Vec::new(), 0);
    for minute in flushes {
        let now = config.start.plus_millis(minute * MINUTE_MS);
        let mut taken = Vec::new();
        while cutter.poll(now, None).unwrap() == Polled::More {
            while cutter.is_full(now) {
                taken.push(cut(&mut cutter, now, &mut seq));
            }
        }
        taken.push(cut(&mut cutter, now, &mut seq));
        let derived = stream.apply(taken, None).unwrap();
        let stats = |w: &WindowFeatures| w.sensors.iter().map(|s| s.stats).collect();
        windows.extend(derived.windows.into_iter().map(|w| (w.machine.clone(), w.start, stats(&w))));
        alerts.extend(derived.alerts.into_iter().map(|a| Alert { contributions: vec![], ..a }));
    }
    // Among machines the order is a matter of how many batches there were.
    windows.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    alerts.sort_by(|a, b| a.machine.cmp(&b.machine));
    Told { windows, alerts }
}

fn cut(cutter: &mut Cutter, now: PlantTime, seq: &mut u64) -> Taken {
    let name = |name: &str| AssetId::new(name).unwrap();
    let (batch, _) = cutter.cut(now, SealTime { trusted: true, ..Default::default() });
    *seq += 1;
    Taken {
        agent: AgentKey { site: name("mill"), agent: name("gateway-2") },
        position: Position { epoch: Epoch([1; 16]), seq: *seq },
        last_seq: *seq,
        content: Content::Batch { readings: check_batch(&batch).unwrap(), batch },
        received: Instant::now(),
    }
}

#[test]
fn a_plant_is_told_the_same_at_any_pace_and_over_a_pause() {
    let every = |minutes: usize| (0..=MINUTES).step_by(minutes);
    let slow = told(every(5));
    assert!(slow.windows.len() > 1_000 && slow.alerts.len() > 20, "{} {}", slow.windows.len(), slow.alerts.len());
    told(every(36)).assert_like(&slow);
    // A day in a batch: what happened in it must not lose its order.
    told(every(1_440)).assert_like(&slow);
    let pause = 1_200..1_900;
    told(every(10).filter(|minute| !pause.contains(minute))).assert_like(&slow);
}
