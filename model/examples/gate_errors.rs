//! How often the gate errs: 200 comparisons of two models that are equally good, and 200 with a challenger that is truly
//! worse, for slices of several sizes. `cargo run --release -p model --example gate_errors`
//!
//! Each failure is caught with a probability that depends on how plainly it shows, and both models see the same failures,
//! so that their successes go together as those of real models do.

use model::gate::{
    Comparison, GateSettings, Verdict, by_kind, by_mode,
    contest::{Episode, Events, Standing, whole},
};
use proto::time::PlantTime;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SEED: u64 = 7;
const COMPARISONS: usize = 200;
const KINDS: usize = 5;
const MODES: usize = 3;
/// Of all failures, by a good model.
const CAUGHT: f64 = 0.85;
/// False alarms per machine-episode of a good model.
const FALSE_ALARMS: f64 = 0.15;

/// A challenger's true weakness.
struct Weakness {
    name: &'static str,
    /// Of what a good model would catch, missed.
    missed: f64,
    more_false_alarms: f64,
    /// Only for this mode.
    mode: Option<usize>,
}

const WEAKNESSES: [Weakness; 4] = [
    Weakness { name: "equally good (A/A)", missed: 0.0, more_false_alarms: 0.0, mode: None },
    Weakness { name: "a little worse", missed: 0.07, more_false_alarms: 0.03, mode: None },
    Weakness { name: "worse", missed: 0.2, more_false_alarms: 0.1, mode: None },
    Weakness { name: "worse in one mode", missed: 0.5, more_false_alarms: 0.0, mode: Some(0) },
];

fn main() {
    println!("seed {SEED}, {COMPARISONS} comparisons a line\n");
    println!(
        "{:<20} {:>8} {:>12} {:>9} {:>8} {:>6}",
        "challenger", "failures", "true F1", "promoted", "refused", "waits"
    );
    for weakness in &WEAKNESSES {
        for failures in [20, 40, 80, 160, 320] {
            line(weakness, failures);
        }
    }
}

fn line(weakness: &Weakness, failures: usize) {
    let (mut promoted, mut refused, mut waits, mut difference) = (0, 0, 0, 0.0);
    for i in 0..COMPARISONS {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        rng.set_stream(i as u64 + 1);
        let comparison = comparison((0..failures).map(|_| episode(weakness, &mut rng)).collect());
        difference += comparison.all.difference.mean / COMPARISONS as f64;
        match comparison.verdict {
            Verdict::Promote => promoted += 1,
            Verdict::Refuse(_) => refused += 1,
            Verdict::Wait(_) => waits += 1,
        }
    }
    let share = |n: usize| format!("{:.1} %", n as f64 * 100.0 / COMPARISONS as f64);
    let (promoted, refused, waits) = (share(promoted), share(refused), share(waits));
    println!("{:<20} {failures:>8} {difference:>+12.3} {promoted:>9} {refused:>8} {waits:>6}", weakness.name);
}

/// A machine's time up to a failure of one mode.
fn episode(weakness: &Weakness, rng: &mut ChaCha8Rng) -> Episode {
    let (kind, failing) = (rng.random_range(0..KINDS), rng.random_range(0..MODES));
    let plain: f64 = rng.random();
    let mut side = |weak: bool| -> Vec<Events> {
        let concerns = |mode: usize| weak && weakness.mode.is_none_or(|m| m == mode);
        let of_mode = |mode: usize| {
            let (missed, more) =
                if concerns(mode) { (weakness.missed, weakness.more_false_alarms) } else { (0.0, 0.0) };
            // Two in three failures are clear to both or to neither; of the others each has its own luck.
            let luck: f64 = if plain < 0.67 { plain / 0.67 } else { rng.random() };
            let caught = mode == failing && luck < CAUGHT && rng.random::<f64>() >= missed;
            let false_alarm = rng.random::<f64>() < (FALSE_ALARMS + more) / MODES as f64;
            let one = |yes: bool| f64::from(u8::from(yes));
            Events { failures: one(mode == failing), caught: one(caught), false_alarms: one(false_alarm) }
        };
        (0..MODES).map(of_mode).collect()
    };
    Episode { kind, champion: side(false), challenger: side(true) }
}

fn comparison(episodes: Vec<Episode>) -> Comparison {
    let settings = GateSettings::default();
    let names = |what: &str, n: usize| (0..n).map(|i| format!("{what} {i}")).collect::<Vec<_>>();
    let mut comparison = Comparison {
        champion: "champion".into(),
        challenger: "challenger".into(),
        from: PlantTime(0),
        until: PlantTime(0),
        windows: 0,
        episodes: episodes.len(),
        all: Standing::of(&episodes, whole),
        kinds: by_kind(&names("kind", KINDS), &episodes, &settings),
        modes: by_mode(&names("mode", MODES), &episodes, &settings),
        calibration_error: [0.0; 2],
        latency_us: 0.0,
        baselines: vec![],
        golden: None,
        drifted: vec![],
        verdict: Verdict::Promote,
    };
    comparison.verdict = comparison.judge(&settings);
    comparison
}
