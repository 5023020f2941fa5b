use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use proto::wire::telemetry::EventKind;

use super::*;
use crate::{
    dataset::{
        label::{Label, Labeller},
        warning::Warnings,
    },
    features::{Answer, Event},
};

const HOUR: i64 = 3_600_000;
const HORIZON: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY_MS;

fn machine(n: usize) -> AssetId {
    AssetId::new(&format!("m{n}")).unwrap()
}

fn at(hour: i64) -> PlantTime {
    PlantTime(hour * HOUR)
}

/// Of the mode that the alert is of.
fn repair(quality: &mut Quality, machine: &AssetId, hour: i64, alert_id: &str) {
    quality.repaired(machine, &Repair { mode: "slip", at: at(hour), known: at(hour), alert_id });
}

fn alerted(quality: &mut Quality, id: &str, hour: i64) {
    let (machine, mode, version) = (machine(0), "slip".into(), "v1".into());
    quality.alerted(Alerted { id: id.into(), machine, mode, version, at: at(hour) });
}

/// Thirty failures without an alert and a verdict elsewhere: so that figures are known. Caught and all failures.
fn caught(mut quality: Quality) -> (f64, f64) {
    for n in 0..30 {
        quality.failed(&machine(10 + n), "slip", at(50), at(50), "v1");
    }
    let elsewhere =
        Alerted { id: "elsewhere".into(), machine: machine(9), mode: "slip".into(), version: "v1".into(), at: at(50) };
    quality.alerted(elsewhere);
    quality.judged("elsewhere", false, at(51));
    quality.advance(at(200));
    let Realised::Known(known) = quality.figures("v1").realised else { panic!("{:?}", quality.figures("v1")) };
    let all = 30.0 / (1.0 - known.recall.mean);
    ((all - 30.0).round(), all.round())
}

#[test]
fn one_failure_is_caught_once_however_many_alerts_came_before_it() {
    let mut quality = Quality::new(HORIZON, YEAR);
    alerted(&mut quality, "a", 10);
    quality.judged("a", true, at(12));
    quality.closed("a", at(14));
    alerted(&mut quality, "b", 16);
    quality.failed(&machine(0), "slip", at(20), at(20), "v1");
    assert_eq!(caught(quality), (1.0, 31.0), "and nothing was prevented");
}

#[test]
fn only_a_repair_prevents_and_one_repair_one_failure() {
    let mut by_itself = Quality::new(HORIZON, YEAR);
    alerted(&mut by_itself, "a", 10);
    by_itself.judged("a", true, at(12));
    assert_eq!(caught(by_itself), (0.0, 30.0), "a fault that went away");
    let mut twice = Quality::new(HORIZON, YEAR);
    for (id, hour) in [("a", 10), ("b", 16)] {
        alerted(&mut twice, id, hour);
        twice.judged(id, true, at(hour + 1));
    }
    repair(&mut twice, &machine(0), 18, "b");
    assert_eq!(caught(twice), (1.0, 31.0));
}

#[test]
fn an_alert_that_stands_or_spoke_lately_comes_before_a_failure_as_in_the_gate() {
    let of = |crossed_until: i64, closed: Option<i64>| {
        let mut quality = Quality::new(HORIZON, YEAR);
        alerted(&mut quality, "a", 10);
        let over = |hour: i64| (at(hour - 1), at(hour));
        (11..=crossed_until).for_each(|h| quality.scored("v1", &machine(0), over(h), &[("slip", 0.9, 0.5)]));
        closed.into_iter().for_each(|hour| quality.closed("a", at(hour)));
        quality.failed(&machine(0), "slip", at(40), at(40), "v1");
        caught(quality).0
    };
    assert_eq!(of(11, None), 1.0, "opened 30 hours before, and stands");
    assert_eq!(of(20, Some(21)), 1.0, "closed, a horizon after its last window over the threshold is not over");
    assert_eq!(of(11, Some(21)), 0.0, "closed, and nobody spoke of it within a horizon");
    assert_eq!(of(11, Some(40)), 1.0, "closed by the failure");
}

#[test]
fn a_breakdown_that_two_tell_of_is_one_and_one_after_a_repair_another() {
    let mut quality = Quality::new(HORIZON, YEAR);
    quality.failed(&machine(0), "slip", at(20), at(20), "v1");
    quality.failed(&machine(0), "", at(21), at(22), "v1");
    assert_eq!(quality.episodes.failures.len(), 1);
    repair(&mut quality, &machine(0), 23, "");
    quality.failed(&machine(0), "slip", at(24), at(24), "v1");
    assert_eq!(quality.episodes.failures.len(), 2);
}

#[test]
fn a_clock_that_was_ahead_empties_nothing_for_longer_than_it_was() {
    let mut quality = Plant { precision: 0.7, recall: 0.8, acts: 0.5 }.live(100, 3);
    let now = quality.now;
    quality.window_ms = 365 * DAY_MS;
    let known = quality.figures("v1");
    quality.advance(now.plus_millis(30 * DAY_MS));
    quality.advance(now);
    assert_eq!(quality.figures("v1"), known);
}

/// What really is: faults that the model sees with `recall` and that end in a failure unless somebody acts, and alerts
/// for nothing. The crew looks after `acts` of the alerts, and finds what is there.
struct Plant {
    precision: f64,
    recall: f64,
    acts: f64,
}

impl Plant {
    fn live(&self, faults: usize, seed: u64) -> Quality {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut quality = Quality::new(HORIZON, YEAR);
        // So that, of all alerts, `precision` are right.
        let for_nothing = self.recall * (1.0 / self.precision - 1.0);
        for n in 0..faults {
            let hour = 10 + n as i64 * 5;
            let (of, id) = (machine(n % 20), format!("fault-{n}"));
            let alert = |id: &str, hour| Alerted {
                id: id.into(),
                machine: of.clone(),
                mode: "slip".into(),
                version: "v1".into(),
                at: at(hour),
            };
            let seen = rng.random_bool(self.recall);
            if seen {
                quality.alerted(alert(&id, hour));
            }
            if seen && rng.random_bool(self.acts) {
                quality.judged(&id, true, at(hour + 3));
                repair(&mut quality, &of, hour + 3, &id);
            } else {
                quality.failed(&of, "slip", at(hour + 12), at(hour + 13), "v1");
            }
            if rng.random_bool(for_nothing.min(1.0)) {
                let id = format!("nothing-{n}");
                quality.alerted(Alerted { machine: machine(100 + n % 20), ..alert(&id, hour) });
                if rng.random_bool(self.acts) {
                    quality.judged(&id, false, at(hour + 3));
                }
            }
        }
        quality.advance(at(10 + faults as i64 * 5 + 48));
        quality
    }
}

#[test]
fn realised_figures_are_unbiased_within_their_interval_whatever_share_the_crew_acts_on() {
    let (precision, recall) = (0.7, 0.8);
    let f1 = 2.0 * precision * recall / (precision + recall);
    let plants = 200;
    for acts in [0.2, 0.5, 0.9] {
        let (mut inside, mut means) = ([0usize; 3], [0.0f64; 3]);
        for seed in 0..plants {
            let quality = Plant { precision, recall, acts }.live(150, seed);
            let Realised::Known(known) = quality.figures("v1").realised else { panic!("seed {seed}") };
            let figures = [(known.precision, precision), (known.recall, recall), (known.f1, f1)];
            for (i, (interval, truth)) in figures.into_iter().enumerate() {
                inside[i] += usize::from((interval.low..=interval.high).contains(&truth));
                means[i] += interval.mean / plants as f64;
            }
        }
        for (mean, truth) in means.iter().zip([precision, recall, f1]) {
            assert!((mean - truth).abs() < 0.02, "acts {acts}, seeds 0..{plants}: {means:?}");
        }
        assert!(
            inside.iter().all(|n| *n >= 180),
            "acts {acts}, seeds 0..{plants}: {inside:?} of {plants} hold the truth"
        );
    }
}

#[test]
fn what_nobody_judged_is_coverage_and_too_little_is_said_to_be() {
    let quality = Plant { precision: 0.7, recall: 0.8, acts: 0.4 }.live(300, 3);
    let figures = quality.figures("v1");
    assert!((figures.coverage.unwrap() - 0.4).abs() < 0.08, "{figures:?}");
    assert!((figures.label_delay_hours.unwrap() - 2.0).abs() < 1.1, "{figures:?}");
    let few = Plant { precision: 0.7, recall: 0.8, acts: 0.4 }.live(12, 3);
    assert!(matches!(few.figures("v1").realised, Realised::NotEnoughLabels { resolved: 1..30 }));
    let nobody_looks = Plant { precision: 0.7, recall: 0.8, acts: 0.0 }.live(300, 3);
    let realised = nobody_looks.figures("v1").realised;
    assert!(matches!(realised, Realised::NotEnoughLabels { resolved: 300 }), "{realised:?}");
    assert!(matches!(quality.figures("v2").realised, Realised::NotEnoughLabels { resolved: 0 }));
}

#[test]
fn only_the_newest_stretch_counts() {
    let mut quality = Plant { precision: 0.7, recall: 0.8, acts: 0.5 }.live(100, 3);
    quality.window_ms = 10 * DAY_MS;
    quality.advance(at(10 + 100 * 5 + 48));
    let Realised::Known(known) = quality.figures("v1").realised else { panic!("{:?}", quality.figures("v1")) };
    assert!(known.resolved < 100, "{known:?}");
    quality.advance(at(5_000));
    assert_eq!(quality.figures("v1").realised, Realised::NotEnoughLabels { resolved: 0 });
}

#[test]
fn probabilities_are_held_against_what_came_unless_a_repair_was_first() {
    let mut quality = Quality::new(HORIZON, YEAR);
    let score = |quality: &mut Quality, n: usize, hour: i64, p: f64| {
        quality.scored("v1", &machine(n), (at(hour - 1), at(hour)), &[("slip", p, 0.5)]);
    };
    // Fails at hour 20; sound, with routine maintenance; repaired at hour 10 after an alert; and one whose horizon is not over.
    score(&mut quality, 0, 1, 0.9);
    score(&mut quality, 1, 1, 0.2);
    score(&mut quality, 2, 1, 0.8);
    score(&mut quality, 3, 50, 0.8);
    quality.failed(&machine(0), "slip", at(20), at(20), "v1");
    repair(&mut quality, &machine(1), 10, "");
    repair(&mut quality, &machine(2), 10, "a");
    // Nor is a window a label while the machine is down.
    score(&mut quality, 0, 21, 0.9);
    quality.advance(at(46));
    let brier = quality.figures("v1").brier.unwrap();
    assert!((brier - (0.01 + 0.04) / 2.0).abs() < 1e-12, "{brier}");
    // Two windows of a machine within the hour: one of them is enough.
    let window = |i: i64| (PlantTime((i - 1) * HOUR / 6), PlantTime(i * HOUR / 6));
    let mut often = Quality::new(HORIZON, YEAR);
    (0..6).for_each(|i| often.scored("v1", &machine(0), window(i), &[("slip", 0.5, 0.5)]));
    assert_eq!(often.outcomes.waiting(&machine(0)), 1);
}

/// The same records, told to training and to the figures: what is no label for the one is none for the other.
#[test]
fn what_training_leaves_out_the_realised_figures_leave_out() {
    let of = machine(0);
    let standing = |closed: Option<i64>| {
        let open = Told { id: "a", machine: &of, mode: Some("slip"), at: at(5), closed: false };
        [Some(open), closed.map(|hour| Told { at: at(hour), closed: true, ..open })].into_iter().flatten().collect()
    };
    let work = |hour, alert_id, mode, right| (hour, EventKind::Maintenance, alert_id, mode, right);
    let verdict = |hour, right| (hour, EventKind::Unspecified, "a", "", Some(right));
    let failure = |hour| (hour, EventKind::Failure, "", "slip", None);
    type Records = Vec<(i64, EventKind, &'static str, &'static str, Option<bool>)>;
    let plants: Vec<(&str, Vec<Told>, Records, Option<f64>)> = vec![
        ("routine", vec![], vec![work(10, "", "slip", None)], Some(0.81)),
        ("it names the alert", vec![], vec![work(10, "a", "slip", None)], None),
        ("it names none", standing(None), vec![work(10, "", "slip", None)], None),
        ("closed by it", standing(Some(10)), vec![work(10, "", "", None)], None),
        ("of another mode", standing(None), vec![work(10, "", "heat", None)], Some(0.81)),
        ("nothing was there", standing(None), vec![work(10, "a", "slip", Some(false))], Some(0.81)),
        ("found out later", standing(None), vec![work(10, "", "slip", None), verdict(12, false)], Some(0.81)),
        ("first nothing", standing(None), vec![verdict(9, false), work(10, "a", "slip", Some(true))], None),
        ("it failed first", standing(None), vec![failure(9), work(10, "", "slip", None)], Some(0.01)),
    ];
    for (plant, alerts, records, expected) in plants {
        let mut quality = Quality::new(HORIZON, YEAR);
        quality.scored("v1", &of, (at(0), at(1)), &[("slip", 0.9, 0.5)]);
        let (mut warnings, mut events) = (Warnings::default(), Vec::new());
        for told in alerts {
            quality.warned(told);
            warnings.tell(told);
        }
        for (hour, kind, alert_id, mode, right) in records {
            right.into_iter().for_each(|right| quality.judged(alert_id, right, at(hour)));
            match kind {
                EventKind::Failure => quality.failed(&of, mode, at(hour), at(hour), "v1"),
                EventKind::Maintenance => {
                    quality.repaired(&of, &Repair { mode, at: at(hour), known: at(hour), alert_id });
                }
                _ => {}
            }
            let (code, mode, answer) = (String::new(), mode.into(), Answer::new(alert_id, right));
            events.push(Event { machine: of.clone(), time: at(hour), kind, code, mode, answer, known: at(hour) });
        }
        quality.advance(at(40));
        let brier = quality.figures("v1").brier;
        assert!(brier.zip(expected).is_none_or(|(a, b)| (a - b).abs() < 1e-12), "{plant}: {brier:?}");
        assert_eq!(brier.is_some(), expected.is_some(), "{plant}: {brier:?}");
        let labeller = Labeller::with_warnings(&events, &warnings, HORIZON, at(40));
        let label = match labeller.label(&labeller.life(&of), at(0), at(1)) {
            Label::Out => None,
            Label::Known { fails: 0 } => Some(0.81),
            Label::Known { .. } => Some(0.01),
        };
        assert_eq!(label, expected, "{plant}");
    }
}

#[test]
fn of_several_verdicts_on_one_alert_the_newest_known_one_counts_once() {
    let judged = |verdicts: &[(bool, i64)]| {
        let mut quality = Plant { precision: 0.7, recall: 0.8, acts: 0.5 }.live(100, 3);
        alerted(&mut quality, "a", 10);
        verdicts.iter().for_each(|(right, known)| quality.judged("a", *right, at(*known)));
        quality.figures("v1").realised
    };
    let (right, wrong) = (judged(&[(true, 14)]), judged(&[(false, 14)]));
    assert_ne!(right, wrong);
    assert_eq!(judged(&[(false, 12), (true, 14)]), right);
    assert_eq!(judged(&[(true, 14), (false, 12)]), right, "whatever order they come in");
    assert_eq!(judged(&[(true, 12), (true, 12), (false, 14)]), wrong);
}

#[test]
fn the_estimate_needs_no_label_and_is_right_where_probabilities_are() {
    let seed = 4;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut sums = Sums::default();
    let (mut hit, mut wrong, mut missed) = (0.0, 0.0, 0.0);
    for _ in 0..100_000 {
        let probability: f64 = rng.random::<f64>().powi(3);
        sums.add(probability, 0.4);
        match (probability >= 0.4, rng.random_bool(probability)) {
            (true, true) => hit += 1.0,
            (true, false) => wrong += 1.0,
            (false, true) => missed += 1.0,
            (false, false) => {}
        }
    }
    let estimate = sums.estimate().unwrap();
    assert!((estimate.f1 - 2.0 * hit / (2.0 * hit + wrong + missed)).abs() < 0.01, "seed {seed}: {estimate:?}");
    assert!((estimate.precision - hit / (hit + wrong)).abs() < 0.01, "seed {seed}: {estimate:?}");
    assert_eq!(Sums::default().estimate(), None);
}
