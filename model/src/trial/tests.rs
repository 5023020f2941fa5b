use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const STEP_MS: i64 = 600_000;
const THRESHOLD: f64 = 0.5;

fn machine(n: usize) -> AssetId {
    AssetId::new(&format!("press-{n}")).unwrap()
}

fn sums(probability: f64) -> Sums {
    let mut sums = Sums::default();
    sums.add(probability, THRESHOLD);
    sums
}

fn watch(share: f64) -> TrialWatch {
    TrialWatch::new(Trial { version: "new".into(), share })
}

/// So many windows of 24 machines; what both versions say of one, by machine and window.
fn told(watch: &mut TrialWatch, windows: usize, says: impl Fn(usize, usize) -> (f64, f64)) {
    for window in 0..windows {
        for n in 0..24 {
            let (of_new, of_old) = says(n, window);
            if watch.trial.is_shadow() || watch.trial.judges(&machine(n)) {
                watch.scored("new", &machine(n), sums(of_new), false);
                watch.scored("old", &machine(n), sums(of_old), false);
            } else {
                watch.scored("old", &machine(n), sums(of_old), true);
            }
        }
        watch.passes(PlantTime(window as i64 * STEP_MS));
    }
}

/// Two in three machines have a bad hour a day.
fn usual(n: usize, window: usize) -> f64 {
    if !n.is_multiple_of(3) && window % 144 < 6 { 0.8 } else { 0.02 }
}

#[test]
fn it_passes_when_nothing_spoke_against_it_for_its_probation_and_not_before() {
    let mut watch = watch(0.5);
    told(&mut watch, 400, |n, window| (usual(n, window), usual(n, window)));
    assert_eq!(watch.outcome(Some(72.0), None, false), Outcome::GoesOn, "{} h", watch.hours());
    told(&mut watch, 34, |n, window| (usual(n, window), usual(n, window)));
    assert_eq!(watch.outcome(None, None, false), Outcome::GoesOn, "a person decides");
    let Outcome::Passes(why) = watch.outcome(Some(72.0), None, false) else { panic!("{watch:?}") };
    assert_eq!(why, "nothing spoke against it in 72 h as canary on 50 % of the machines");
}

#[test]
fn hours_alone_are_no_evidence() {
    let mut watch = watch(0.5);
    let usual = |n, window| (usual(n, window), usual(n, window));
    told(&mut watch, 1, usual);
    // The plant stood still meanwhile.
    (1..=7).for_each(|day| watch.passes(PlantTime(day * 144 * STEP_MS)));
    assert!(watch.hours() >= 168.0);
    assert_eq!(watch.outcome(Some(72.0), None, false), Outcome::GoesOn);
    told(&mut watch, 100, usual);
    assert!(matches!(watch.outcome(Some(72.0), None, false), Outcome::Passes(_)), "{watch:?}");
}

#[test]
fn a_clock_that_jumps_ahead_and_back_is_no_probation() {
    let mut watch = watch(0.5);
    told(&mut watch, 200, |n, window| (usual(n, window), usual(n, window)));
    let (now, ran) = (PlantTime(199 * STEP_MS), watch.hours());
    watch.passes(now.plus_millis(30 * 144 * STEP_MS));
    watch.passes(now);
    assert!(watch.hours() <= ran + 24.0, "{} h, then {} h", ran, watch.hours());
    watch.passes(now.plus_millis(STEP_MS));
    assert_eq!(watch.outcome(Some(72.0), None, false), Outcome::GoesOn, "{} h", watch.hours());
}

#[test]
fn one_window_without_a_score_is_enough() {
    let mut watch = watch(0.5);
    watch.failed("old", 3);
    assert_eq!(watch.outcome(None, None, false), Outcome::GoesOn);
    watch.failed("new", 1);
    assert_eq!(watch.outcome(Some(0.0), None, false), Outcome::Fails("it could not score 1 of its windows".into()));
}

#[test]
fn its_alerts_are_held_against_those_on_the_other_machines() {
    let mut watch = watch(0.5);
    told(&mut watch, 200, |n, window| (usual(n, window), usual(n, window)));
    let (own, others): (Vec<usize>, Vec<usize>) = (0..24).partition(|n| watch.trial.judges(&machine(*n)));
    others.iter().for_each(|n| watch.alerted("old", &machine(*n)));
    // Opened before the trial began on one of its machines.
    own.iter().for_each(|n| watch.alerted("old", &machine(*n)));
    own.iter().for_each(|n| watch.alerted("new", &machine(*n)));
    assert_eq!(watch.outcome(None, None, false), Outcome::GoesOn, "{watch:?}");
    for _ in 0..9 {
        own.iter().for_each(|n| watch.alerted("new", &machine(*n)));
    }
    let Outcome::Fails(why) = watch.outcome(Some(0.0), None, false) else { panic!("{watch:?}") };
    assert!(why.starts_with("it alerts ") && why.contains("the other version"), "{why}");
}

#[test]
fn a_surely_lower_estimated_f1_takes_it_back_also_as_a_shadow() {
    for share in [0.5, 0.0] {
        let doubtful = |n, window| if usual(n, window) > THRESHOLD { 0.45 } else { 0.02 };
        let mut of_few = watch(share);
        told(&mut of_few, 20, |n, window| (doubtful(n, window), usual(n, window)));
        assert_eq!(of_few.outcome(None, None, false), Outcome::GoesOn, "too little to tell");
        let mut watch = watch(share);
        told(&mut watch, 300, |n, window| (doubtful(n, window), usual(n, window)));
        let Outcome::Fails(why) = watch.outcome(None, None, false) else { panic!("{watch:?}") };
        assert!(why.starts_with("its estimated F1 is "), "{why}");
        assert_eq!(
            watch.outcome(None, None, true),
            Outcome::GoesOn,
            "what the version in charge expects is no measure"
        );
    }
}

/// Machines differ, and so do the versions by chance; neither is better.
#[test]
fn an_equally_good_version_is_hardly_ever_taken_back() {
    let seed = 5;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut taken_back = 0;
    for _ in 0..200 {
        let mut watch = watch(0.25);
        for n in (0..24).filter(|n| machine(*n).fraction() < 0.25) {
            let failing = rng.random_bool(0.3);
            let lean: f64 = rng.random_range(-0.15..0.15);
            for window in 0..432 {
                let says = |lean: f64, noise: f64| match failing && window > 300 {
                    true => 0.55 + lean + noise,
                    false => 0.03,
                };
                let (a, b) = (rng.random_range(-0.2..0.2), rng.random_range(-0.2..0.2));
                watch.scored("new", &machine(n), sums(says(lean, a)), false);
                watch.scored("old", &machine(n), sums(says(-lean, b)), false);
            }
        }
        taken_back += usize::from(matches!(watch.outcome(None, None, false), Outcome::Fails(_)));
    }
    println!("{taken_back} of 200 taken back");
    assert!(taken_back <= 10, "seed {seed}: {taken_back} of 200");
}

#[test]
fn a_share_that_would_hold_none_or_all_divides_nothing() {
    let machines: Vec<AssetId> = (0..3).map(machine).collect();
    let least = machines.iter().map(AssetId::fraction).fold(1.0, f64::min);
    assert!(!divides(least, machines.iter()), "none");
    assert!(divides(least + 0.01, machines.iter()));
    assert!(!divides(0.999_999, machines.iter()), "all");
    assert!(!divides(0.0, machines.iter()));
}
