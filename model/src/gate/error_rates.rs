//! How often the gate errs, in simulated comparisons whose truth is known.
//!
//! Each failure is caught with a probability that depends on how plainly it shows, and both models see the same failures,
//! so that their successes go together as those of real models do.

use proto::time::PlantTime;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    Comparison, GateSettings, Verdict, by_kind, by_mode,
    contest::{Episode, Events, Standing, whole},
};

pub const SEED: u64 = 7;
const KINDS: usize = 5;
const MODES: usize = 3;
/// Of all failures, by a good model.
const CAUGHT: f64 = 0.85;
/// False alarms per machine-episode of a good model.
const FALSE_ALARMS: f64 = 0.15;

/// A challenger's true weakness.
pub struct Weakness {
    pub name: &'static str,
    /// Of what a good model would catch, missed.
    missed: f64,
    more_false_alarms: f64,
    /// Only for this mode.
    mode: Option<usize>,
}

pub const EQUALLY_GOOD: Weakness =
    Weakness { name: "equally good (A/A)", missed: 0.0, more_false_alarms: 0.0, mode: None };
pub const A_LITTLE_WORSE: Weakness =
    Weakness { name: "a little worse", missed: 0.07, more_false_alarms: 0.03, mode: None };
pub const WORSE: Weakness = Weakness { name: "worse", missed: 0.2, more_false_alarms: 0.1, mode: None };
pub const WORSE_IN_ONE_MODE: Weakness =
    Weakness { name: "worse in one mode", missed: 0.5, more_false_alarms: 0.0, mode: Some(0) };

/// What came of some comparisons.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    pub comparisons: usize,
    pub promoted: usize,
    pub refused: usize,
    pub waits: usize,
    /// Mean of the challenger's F1 less the champion's.
    pub difference: f64,
}

/// Of so many comparisons over so many failures each.
pub fn rates(weakness: &Weakness, failures: usize, comparisons: usize) -> Rates {
    let mut rates = Rates { comparisons, ..Rates::default() };
    for i in 0..comparisons {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        rng.set_stream(i as u64 + 1);
        let comparison = comparison((0..failures).map(|_| episode(weakness, &mut rng)).collect());
        rates.difference += comparison.all.difference.mean / comparisons as f64;
        match comparison.verdict {
            Verdict::Promote => rates.promoted += 1,
            Verdict::Refuse(_) => rates.refused += 1,
            Verdict::Wait(_) => rates.waits += 1,
        }
    }
    rates
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

#[cfg(test)]
mod tests {
    use super::*;

    const COMPARISONS: usize = 200;

    /// In hundredths.
    fn promoted(weakness: &Weakness, failures: usize) -> f64 {
        rates(weakness, failures, COMPARISONS).promoted as f64 * 100.0 / COMPARISONS as f64
    }

    #[test]
    fn one_that_is_as_good_gets_in_where_enough_happened_to_tell() {
        let (some, many) = (promoted(&EQUALLY_GOOD, 80), promoted(&EQUALLY_GOOD, 320));
        assert!((25.0..75.0).contains(&some) && many > 80.0, "seed {SEED}: {some} %, {many} %");
    }

    #[test]
    fn one_that_is_truly_worse_hardly_ever_gets_in() {
        for failures in [40, 80, 320] {
            let (little, all, one) = (
                promoted(&A_LITTLE_WORSE, failures),
                promoted(&WORSE, failures),
                promoted(&WORSE_IN_ONE_MODE, failures),
            );
            assert!(little < 12.0 && all < 2.0 && one < 2.0, "seed {SEED}, {failures}: {little} %, {all} %, {one} %");
        }
        assert!(rates(&WORSE, 320, COMPARISONS).difference < -0.1, "it is worse");
    }

    #[test]
    fn where_too_little_happened_everybody_waits() {
        for weakness in [EQUALLY_GOOD, WORSE] {
            assert_eq!(rates(&weakness, 20, 20).waits, 20, "{}", weakness.name);
        }
    }
}
