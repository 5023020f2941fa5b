//! Changes of model while a log is read, with crashes at any time: what was once told of a window is never told otherwise.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::{score::Scorer, trial::Trial};
use proto::{
    telemetry::delta_encode,
    wire::telemetry::{MachineReadings, SensorColumn},
};
use rand::seq::IndexedRandom;

use super::{
    super::schedule::{CHARGES_MAX, Charge},
    *,
};
use crate::{
    clean::trusted_seal_ms,
    stream::predict::tests::{scorer_with, speechless},
};

/// Machine, generation and start.
type Window = (AssetId, u32, PlantTime);

fn charge(version: &str) -> Charge {
    Charge::of(version)
}

fn trial(version: &str, beside: &str, share: f64) -> Charge {
    Charge { trial: Some(Trial { version: version.into(), share }), ..charge(beside) }
}

fn loaded(scorers: impl IntoIterator<Item = Scorer>) -> (Loaded, Vec<String>) {
    let scorers: Vec<_> = scorers.into_iter().map(|scorer| (scorer.version().to_owned(), Arc::new(scorer))).collect();
    let versions = scorers.iter().map(|(version, _)| version.clone()).collect();
    (scorers.into_iter().collect(), versions)
}

/// A processor as far as it matters here, and what is durable of it.
struct Life {
    stream: Stream,
    next: usize,
    /// Segments on their way into the archive: the state behind them, and the batch that follows.
    submitted: VecDeque<(Vec<u8>, usize)>,
    /// So many more until what was entered is committed.
    entered_by: Option<usize>,
    committed: (Vec<u8>, usize),
    /// How far earlier lives have read.
    replayed_at: usize,
}

impl Life {
    fn begin(committed: (Vec<u8>, usize), replayed_at: usize) -> Self {
        let (stream, _) = Stream::restore(config(), &committed.0).unwrap();
        Life { stream, next: committed.1, submitted: VecDeque::new(), entered_by: None, committed, replayed_at }
    }

    fn cut(&mut self) {
        if self.next >= self.replayed_at {
            self.stream.settle();
        }
        self.submitted.push_back((self.stream.snapshot(&EpochsLeft::new()).unwrap(), self.next));
        if self.stream.has_entered() {
            self.entered_by.get_or_insert(self.submitted.len());
        }
    }

    fn commit(&mut self) {
        let Some(committed) = self.submitted.pop_front() else { return };
        self.committed = committed;
        self.entered_by = self.entered_by.map(|by| by - 1);
        if self.entered_by.take_if(|by| *by == 0).is_some() {
            self.stream.in_force();
        }
    }
}

#[test]
fn no_crash_lets_another_model_judge_a_window_that_was_judged_before() {
    let (seed, mut rng) = rng();
    let (loaded, versions) = loaded([0.2, 0.4, 0.6, 0.8].map(|threshold| scorer_with(&config(), threshold)));
    let logs: Vec<Vec<Taken>> = (0..3).map(|agent| log(agent, 600, &mut rng)).collect();
    let order = interleave(&logs, &mut rng);
    let expected = oracle::read(&logs, &config().features).windows.len();

    // As a processor begins that finds a model in charge.
    let mut life = Life::begin((Stream::new(config()).snapshot(&EpochsLeft::new()).unwrap(), 0), 0);
    assert!(life.stream.enter(&charge(&versions[0]), PlantTime(0)));
    life.cut();
    life.commit();
    // Which version decided, and which scored beside it.
    let mut told = BTreeMap::<Window, [Option<String>; 2]>::new();
    let mut revisions = BTreeSet::new();
    let (mut now, mut crashes, mut waits) = (0, 0, 0);
    while life.next < order.len() {
        match rng.random_range(0..40) {
            // As many as never have to give way.
            0 if life.stream.schedule().versions().count() + 1 < CHARGES_MAX => {
                let [champion, other] = [0, 1].map(|_| versions.choose(&mut rng).unwrap());
                let charge = match rng.random_range(0..3) {
                    0 => charge(champion),
                    1 => trial(other, champion, 0.0),
                    _ => trial(other, champion, rng.random_range(0.2..0.8)),
                };
                if life.stream.enter(&charge, PlantTime(now)) {
                    life.cut();
                }
            }
            1..4 => life.cut(),
            4..7 => life.commit(),
            7 => {
                crashes += 1;
                life = Life::begin(life.committed, life.replayed_at.max(life.next));
            }
            _ => {
                let run = &order[life.next..order.len().min(life.next + rng.random_range(1..9))];
                life.next += run.len();
                now = run.iter().filter_map(trusted_seal_ms).fold(now, i64::max);
                let steps = life.stream.read(run.to_vec()).unwrap();
                while life.stream.undecided(&steps) {
                    waits += 1;
                    life.commit();
                }
                let derived = life.stream.judge(steps, &loaded).unwrap();
                let mut predictions = derived.predictions.iter().peekable();
                let mut shadows = derived.shadows.iter().peekable();
                assert!(derived.shadows.iter().all(|p| p.role() == Role::Shadow), "seed {seed}");
                for window in &derived.windows {
                    let own = |p: &&Prediction| {
                        p.machine == window.machine.as_str()
                            && (p.generation, p.window_start_ms, p.revision)
                                == (window.generation, window.start.millis(), window.revision)
                    };
                    let version = [&mut predictions, &mut shadows]
                        .map(|told| told.next_if(own).map(|prediction| prediction.model_version.clone()));
                    revisions.insert(place(window));
                    let own = (window.machine.clone(), window.generation, window.start);
                    let before = told.insert(own, version.clone());
                    assert!(
                        before.is_none_or(|before| before == version),
                        "seed {seed}: {window:?} by {version:?} now"
                    );
                }
                assert_eq!((predictions.next(), shadows.next()), (None, None), "seed {seed}");
            }
        }
    }
    assert_eq!(revisions.len(), expected, "seed {seed}");
    let by: BTreeSet<_> = told.values().collect();
    let beside = told.values().filter(|[_, beside]| beside.is_some()).count();
    println!("{expected} windows, judged by {}, {beside} also beside; {crashes} crashes, {waits} waits", by.len());
    assert!(by.len() > 2 && beside > 0 && crashes > 5, "seed {seed}");
}

/// A batch a second, sealed at its number.
fn steady(agent: usize, batches: u64) -> Vec<Taken> {
    let key = AgentKey { site: AssetId::new("mill").unwrap(), agent: AssetId::new(&format!("gw-{agent}")).unwrap() };
    let machine = format!("press-{agent}");
    let batch = |seq: u64| {
        let end = seq as i64 * log::WINDOW_MS;
        let value = vec![50.0, 51.0 + seq as f64 / 1e3];
        let sensor = SensorColumn { sensor: "temperature".into(), value, quality: vec![], reason: vec![] };
        let stamps = delta_encode(&[end - log::WINDOW_MS, end - log::INTERVAL_MS]);
        let readings = MachineReadings { machine: machine.clone(), time_delta_ms: stamps, sensors: vec![sensor] };
        TelemetryBatch {
            sealed: Some(SealTime { time_ms: end, trusted: true, ..Default::default() }),
            birth: (seq == 1).then(|| log::birth(std::slice::from_ref(&machine))),
            machines: vec![readings],
            ..Default::default()
        }
    };
    (1..=batches).map(|seq| taken::batch(&key, seq, batch(seq))).collect()
}

#[test]
fn a_change_holds_from_its_line_on_and_the_model_before_is_kept_until_nobody_needs_it() {
    let (mut slow, mut quick) = (steady(0, 600), steady(1, 600));
    let mut stream = Stream::new(config());
    let (first, second) = (charge("first"), charge("second"));
    assert!(stream.enter(&first, PlantTime(0)) && !stream.enter(&second, PlantTime(0)));
    stream.in_force();
    assert!(!stream.enter(&first, PlantTime(0)), "it is in charge");
    stream.apply(slow.drain(..100).chain(quick.drain(..100)).collect(), None).unwrap();

    let now = PlantTime(105_000);
    assert!(stream.enter(&second, now));
    let line = now.plus_millis(schedule::CHANGE_MARGIN_MS).millis();
    let versions = |stream: &Stream, derived: &Derived| -> Vec<(i64, String)> {
        let version = |w| stream.schedule().scorers(w).unwrap().decides.to_owned();
        derived.windows.iter().map(|w| (w.end.millis(), version(w))).collect()
    };
    let steps = stream.read(quick.drain(..10).collect()).unwrap();
    assert!(!stream.undecided(&steps), "the line is further ahead");
    stream.in_force();
    stream.judge(steps, &Loaded::new()).unwrap();
    let derived = stream.apply(quick.drain(..200).collect(), None).unwrap();
    let (before, after): (Vec<_>, Vec<_>) = versions(&stream, &derived).into_iter().partition(|(end, _)| *end <= line);
    assert!(before.len() > 10 && before.iter().all(|(_, version)| version == "first"), "{before:?}");
    assert!(after.len() > 10 && after.iter().all(|(_, version)| version == "second"), "{after:?}");
    stream.settle();
    stream.in_force();
    let loaded: Vec<_> = stream.schedule().versions().map(str::to_owned).collect();
    assert_eq!(loaded, ["first", "second"], "the other gateway is behind the line");

    stream.apply(slow.drain(..200).collect(), None).unwrap();
    let (mut restored, _) = Stream::restore(config(), &stream.snapshot(&EpochsLeft::new()).unwrap()).unwrap();
    assert_eq!(restored.schedule(), stream.schedule());
    restored.settle();
    assert!(restored.has_entered());
    assert_eq!(restored.schedule().versions().count(), 2, "not before it is in a manifest");
    restored.in_force();
    assert_eq!(restored.schedule().versions().collect::<Vec<_>>(), ["second"]);

    for number in 1..CHARGES_MAX {
        assert!(restored.enter(&charge(&format!("{number}")), now));
        restored.in_force();
    }
    assert!(!restored.enter(&charge("one more"), now), "none can give way yet");
    let later = now.plus_millis(schedule::CHANGE_MARGIN_MS);
    assert!(restored.enter(&charge("one more"), later));
    restored.in_force();
    assert_eq!(restored.schedule().versions().count(), CHARGES_MAX);
}

/// What a plant of eight machines is told, from its second batch on, while this charge judges it.
fn judged(charge: &Charge, loaded: &Loaded) -> Derived {
    let mut stream = Stream::new(config());
    assert!(stream.enter(charge, PlantTime(0)));
    stream.in_force();
    let taken = (0..8).flat_map(|agent| steady(agent, 200)).collect();
    let steps = stream.read(taken).unwrap();
    stream.judge(steps, loaded).unwrap()
}

const NEVER: f64 = 0.999_999;
const ALWAYS: f64 = 1e-6;

#[test]
fn a_shadow_scores_every_window_and_alerts_of_none() {
    let (loaded, versions) = loaded([NEVER, ALWAYS].map(|threshold| scorer_with(&config(), threshold)));
    let quiet = judged(&trial(&versions[1], &versions[0], 0.0), &loaded);
    assert!(quiet.windows.len() > 1_000 && quiet.alerts.is_empty(), "{:?}", quiet.alerts.first());
    let windows = |predictions: &[Prediction]| -> Vec<_> {
        predictions.iter().map(|p| (p.machine.clone(), p.window_start_ms)).collect()
    };
    assert_eq!((quiet.predictions.len(), windows(&quiet.predictions)), (quiet.windows.len(), windows(&quiet.shadows)));
    assert!(quiet.predictions.iter().all(|p| p.model_version == versions[0] && p.role() == Role::Champion));
    assert!(quiet.shadows.iter().all(|p| p.model_version == versions[1] && p.role() == Role::Shadow));
    let alarming = judged(&charge(&versions[1]), &loaded);
    assert!(!alarming.alerts.is_empty() && alarming.shadows.is_empty());
}

#[test]
fn a_canary_decides_on_its_share_of_the_machines_and_is_scored_beside_there() {
    let (loaded, versions) = loaded([NEVER, ALWAYS].map(|threshold| scorer_with(&config(), threshold)));
    let charge = trial(&versions[1], &versions[0], 0.5);
    let derived = judged(&charge, &loaded);
    assert_eq!(derived.predictions.len(), derived.windows.len());
    let own = |machine: &str| AssetId::new(machine).unwrap().fraction() < 0.5;
    for prediction in &derived.predictions {
        let by = if own(&prediction.machine) { (&versions[1], Role::Canary) } else { (&versions[0], Role::Champion) };
        assert_eq!((&prediction.model_version, prediction.role()), by, "{}", prediction.machine);
    }
    let on_trial = derived.windows.iter().filter(|w| own(w.machine.as_str())).count();
    assert!(on_trial > 0 && on_trial < derived.windows.len());
    assert!(derived.shadows.len() == on_trial && derived.shadows.iter().all(|p| p.model_version == versions[0]));
    assert!(
        !derived.alerts.is_empty() && derived.alerts.iter().all(|a| own(&a.machine) && a.model_version == versions[1])
    );
}

#[test]
fn windows_that_a_canary_cannot_score_are_decided_by_the_version_in_charge() {
    let (mut loaded, versions) = loaded([scorer_with(&config(), ALWAYS), speechless(&config())]);
    let charge = trial(&versions[1], &versions[0], 0.5);
    let derived = judged(&charge, &loaded);
    assert_eq!(derived.predictions.len(), derived.windows.len());
    assert!(derived.predictions.iter().all(|p| p.model_version == versions[0] && p.role() == Role::Champion));
    let unscored = *derived.unscored.get(&versions[1]).unwrap() as usize;
    assert!(unscored > 0 && unscored < derived.windows.len() && derived.shadows.is_empty());
    // Nor does it matter that it is not there at all.
    loaded.remove(&versions[1]);
    let without = judged(&charge, &loaded);
    let told = |derived: &Derived| -> Vec<_> {
        let predictions = derived.predictions.iter().map(|p| (p.id.clone(), p.role()));
        predictions.chain(derived.alerts.iter().map(|a| (a.id.clone(), Role::Unspecified))).collect()
    };
    assert_eq!(told(&without), told(&derived));
}
