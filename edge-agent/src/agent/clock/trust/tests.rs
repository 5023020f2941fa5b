use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::agent::identity::random_bytes;

const SECOND: i64 = 1_000;
const HOUR: i64 = 3_600 * SECOND;
const YEAR: i64 = 365 * DAY_MS;
/// Some day in the life of the plant.
const TODAY: i64 = FLOOR_MS + YEAR;
/// The end of 32-bit seconds.
const IN_2038: i64 = 2_147_483_648_000;
const BOOT: u64 = 7;

fn at(wall_ms: i64, monotonic_ms: i64) -> Moment {
    Moment { wall_ms, monotonic_ms, synchronised_ms: None }
}

/// At some time after the boot, right after a time service set the wall clock.
fn set(wall_ms: i64, monotonic_ms: i64) -> Moment {
    Moment { synchronised_ms: Some(wall_ms), ..at(wall_ms, monotonic_ms) }
}

fn known(wall_ms: i64) -> Option<Known> {
    Some(Known { wall_ms, boot_id: BOOT - 1, monotonic_ms: 99 * HOUR, confirmed: true })
}

/// A gateway whose wall clock is right, an hour after its boot.
fn right() -> WallTrust {
    let trust = WallTrust::start(BOOT, known(TODAY - DAY_MS), None, at(TODAY, HOUR));
    assert!(trust.is_trusted());
    trust
}

#[test]
fn a_plausible_wall_clock_is_trusted_at_once_and_followed() {
    for known in [None, known(TODAY - YEAR), known(TODAY + SECOND)] {
        let mut trust = WallTrust::start(BOOT, known, None, at(TODAY, HOUR));
        assert_eq!((trust.is_trusted(), trust.wall_ms(HOUR), trust.wall_behind_ms()), (true, TODAY, 0), "{known:?}");
        // A month in which it runs 100 ppm fast, with a step of two seconds by a time service in the middle.
        let era = trust.era();
        for minute in 1..30 * 1440 {
            let (monotonic, step) = (HOUR + minute * 60_000, if minute > 9_000 { -2 * SECOND } else { 0 });
            let wall = TODAY + minute * 60_006 + step;
            assert_eq!(trust.look(at(wall, monotonic)), None, "{known:?}");
            assert_eq!((trust.is_trusted(), trust.wall_ms(monotonic)), (true, wall), "{known:?}");
        }
        assert_eq!((trust.era(), trust.jumps()), (era, Jumps::default()));
    }
}

#[test]
fn in_1970_time_goes_on_from_the_last_known_good_one_until_a_time_service_steps() {
    let mut trust = WallTrust::start(BOOT, known(TODAY), None, at(9 * SECOND, 9 * SECOND));
    assert_eq!((trust.is_trusted(), trust.wall_ms(9 * SECOND)), (false, TODAY));
    assert_eq!(trust.look(at(HOUR, HOUR)), None);
    assert_eq!((trust.is_trusted(), trust.wall_ms(HOUR)), (false, TODAY + HOUR - 9 * SECOND));
    assert_eq!(trust.wall_behind_ms(), TODAY - 9 * SECOND, "this makes the wall clock right");
    assert_eq!(trust.known(HOUR), None, "an estimate is not stored");

    let era = trust.era();
    let now = TODAY + 3 * DAY_MS;
    assert_eq!(trust.look(at(now, 2 * HOUR)), Some(Turn::Gained));
    assert_eq!((trust.is_trusted(), trust.wall_ms(2 * HOUR), trust.wall_behind_ms()), (true, now, 0));
    assert_eq!((trust.era() - era, trust.jumps()), (1, Jumps { forward: 1, backward: 0 }));
    let stored = Known { wall_ms: now, boot_id: BOOT, monotonic_ms: 2 * HOUR, confirmed: false };
    assert_eq!(trust.known(2 * HOUR), Some(stored));
}

#[test]
fn in_1970_without_a_time_service_acks_say_which_time_it_is() {
    let mut trust = WallTrust::start(BOOT, known(TODAY), None, at(0, 0));
    let now = TODAY + 30 * DAY_MS;
    assert_eq!(trust.on_ack(at(HOUR, HOUR), 1_420_070_400_000), None, "an ack in 2015 is not by this clock");
    assert!(!trust.is_trusted());
    assert_eq!(trust.on_ack(at(HOUR, HOUR), now), Some(Turn::Gained));
    assert_eq!((trust.is_trusted(), trust.wall_ms(HOUR)), (true, now));
    let era = trust.era();
    assert_eq!(trust.look(at(2 * HOUR, 2 * HOUR)), None);
    assert_eq!(trust.wall_ms(2 * HOUR), now + HOUR, "the wall clock is still in 1970");
    // The next one was faster, and the one after it slower.
    trust.on_ack(at(2 * HOUR, 2 * HOUR), now + HOUR + 400);
    trust.on_ack(at(2 * HOUR, 2 * HOUR), now + HOUR - SECOND);
    assert_eq!((trust.wall_ms(2 * HOUR), trust.era()), (now + HOUR + 400, era));

    let wall = now + 2 * HOUR;
    assert_eq!(trust.look(at(wall, 3 * HOUR)), Some(Turn::Returned), "someone set the wall clock");
    assert_eq!((trust.wall_ms(3 * HOUR), trust.wall_behind_ms(), trust.era()), (wall, 0, era));
}

#[test]
fn a_first_start_in_1970_begins_at_the_floor() {
    let trust = WallTrust::start(BOOT, None, None, at(5 * SECOND, 5 * SECOND));
    assert_eq!((trust.is_trusted(), trust.wall_ms(5 * SECOND)), (false, FLOOR_MS));
}

#[test]
fn in_2038_and_at_the_ends_of_time_nothing_overflows_and_nothing_is_believed() {
    for wall in [i64::MIN, i64::MIN + 1, -IN_2038, FLOOR_MS - DAY_MS, IN_2038, 4 * IN_2038, i64::MAX - 1, i64::MAX] {
        for known in [None, known(TODAY), known(i64::MIN), known(i64::MAX)] {
            let mut trust = WallTrust::start(BOOT, known, Some(wall), at(wall, HOUR));
            trust.look(at(wall, 2 * HOUR));
            assert!(!trust.is_trusted(), "{wall} {known:?}");
            trust.on_ack(at(wall, 3 * HOUR), TODAY);
            assert_eq!((trust.is_trusted(), trust.wall_ms(3 * HOUR)), (true, TODAY), "{wall} {known:?}");
            for other in [i64::MIN, i64::MAX] {
                trust.look(at(other, 4 * HOUR));
                trust.on_ack(at(other, 4 * HOUR), i64::MAX - DAY_MS);
            }
            assert_eq!((trust.is_trusted(), trust.wall_ms(4 * HOUR)), (true, TODAY + HOUR), "{wall} {known:?}");
        }
    }
    // The day itself passes like any other.
    let mut trust = WallTrust::start(BOOT, known(IN_2038 - DAY_MS), None, at(IN_2038 - SECOND, 0));
    assert_eq!((trust.look(at(IN_2038 + SECOND, 2 * SECOND)), trust.is_trusted()), (None, true));
}

#[test]
fn a_jump_that_nobody_confirms_is_not_followed_and_ends_when_the_wall_returns() {
    for jump in [10 * YEAR, HOUR, -HOUR, -10 * YEAR, 11 * SECOND] {
        let mut trust = right();
        let era = trust.era();
        assert_eq!(trust.look(at(TODAY + 60 * SECOND + jump, HOUR + 60 * SECOND)), Some(Turn::Lost), "{jump}");
        assert_eq!(trust.look(at(TODAY + 90 * SECOND + jump, HOUR + 90 * SECOND)), None, "{jump}");
        assert_eq!((trust.is_trusted(), trust.wall_ms(HOUR + 90 * SECOND)), (false, TODAY + 90 * SECOND), "{jump}");
        assert_eq!(trust.look(at(TODAY + 99 * SECOND, HOUR + 99 * SECOND)), Some(Turn::Returned), "{jump}");
        assert_eq!((trust.is_trusted(), trust.wall_ms(HOUR + 99 * SECOND)), (true, TODAY + 99 * SECOND), "{jump}");
        assert_eq!((trust.era() - era, trust.jumps()), (2, Jumps { forward: 1, backward: 1 }), "lost and gained");
    }
}

#[test]
fn a_jump_that_a_time_service_or_an_ack_confirms_is_followed() {
    for jump in [HOUR, -HOUR, 10 * YEAR] {
        let mut trust = right();
        let era = trust.era();
        assert_eq!(trust.look(set(TODAY + jump, HOUR)), Some(Turn::Followed), "{jump}");
        assert_eq!((trust.is_trusted(), trust.wall_ms(HOUR), trust.era()), (true, TODAY + jump, era + 1), "{jump}");

        let mut trust = right();
        trust.look(at(TODAY + jump, HOUR));
        assert_eq!(trust.on_ack(at(TODAY + jump, HOUR), TODAY + jump - 3 * SECOND), Some(Turn::Gained), "{jump}");
        assert_eq!((trust.is_trusted(), trust.wall_ms(HOUR)), (true, TODAY + jump), "{jump}: to the millisecond");
    }
    // The service set the clock long before, and somebody else moved it since.
    let moved = Moment { synchronised_ms: Some(TODAY - SECOND), ..at(TODAY + HOUR, HOUR) };
    assert_eq!(right().look(moved), Some(Turn::Lost));
}

#[test]
fn a_confirmed_time_outlives_a_jump_of_the_wall() {
    let by_ack = |trust: &mut WallTrust| trust.on_ack(at(TODAY, HOUR), TODAY - SECOND);
    let by_service = |trust: &mut WallTrust| trust.look(set(TODAY, HOUR));
    for confirm in [by_ack as fn(&mut WallTrust) -> Option<Turn>, by_service] {
        let mut trust = right();
        assert_eq!(confirm(&mut trust), None);
        let era = trust.era();
        assert_eq!(trust.look(at(TODAY - HOUR, HOUR)), Some(Turn::Carried));
        assert_eq!((trust.is_trusted(), trust.wall_ms(2 * HOUR), trust.era()), (true, TODAY + HOUR, era));
        assert_eq!(trust.look(at(TODAY + HOUR, 2 * HOUR)), Some(Turn::Returned));
        assert_eq!(trust.era(), era, "no break at all");
    }
}

/// What a program that saves the time at every stop does: the wall clock goes on where the power was cut.
#[test]
fn an_ack_corrects_a_plausible_clock_that_nobody_confirmed_and_moves_no_confirmed_one() {
    let mut trust = WallTrust::start(BOOT, known(TODAY), None, at(TODAY, 0));
    assert!(trust.is_trusted());
    assert_eq!(trust.on_ack(at(TODAY, 0), TODAY + 3 * DAY_MS), Some(Turn::Corrected));
    assert_eq!((trust.is_trusted(), trust.wall_ms(0)), (true, TODAY + 3 * DAY_MS));

    let mut ahead = WallTrust::start(BOOT, None, None, at(TODAY + 4 * YEAR, 0));
    assert_eq!(ahead.on_ack(at(TODAY + 4 * YEAR, 0), TODAY), Some(Turn::Corrected));
    assert_eq!((ahead.is_trusted(), ahead.wall_ms(0)), (true, TODAY));
    assert_eq!(ahead.on_ack(at(TODAY + 4 * YEAR, 0), IN_2038), Some(Turn::Contradicted), "the processor is in 2038");

    let mut trust = right();
    assert_eq!(trust.on_ack(at(TODAY, HOUR), IN_2038), Some(Turn::Contradicted));
    assert_eq!(trust.on_ack(at(TODAY, HOUR), TODAY), None);
    assert_eq!(trust.on_ack(at(TODAY, HOUR), TODAY + HOUR), Some(Turn::Contradicted), "it is confirmed now");
    assert_eq!(trust.on_ack(at(TODAY, HOUR), TODAY + HOUR), None, "said once");
    assert_eq!((trust.is_trusted(), trust.wall_ms(HOUR)), (true, TODAY));
}

#[test]
fn time_asleep_is_no_jump() {
    let mut trust = right();
    assert_eq!(trust.look(at(TODAY + 9 * HOUR, 10 * HOUR)), None);
    assert_eq!((trust.is_trusted(), trust.jumps()), (true, Jumps::default()));
}

#[test]
fn a_restart_within_one_boot_keeps_a_confirmed_time() {
    let before = |confirmed| Known { wall_ms: TODAY, boot_id: BOOT, monotonic_ms: HOUR, confirmed };
    let trust = WallTrust::start(BOOT, Some(before(true)), None, at(2 * HOUR, 2 * HOUR));
    assert_eq!((trust.is_trusted(), trust.wall_ms(2 * HOUR)), (true, TODAY + HOUR), "the wall is in 1970 all along");
    let trust = WallTrust::start(BOOT, Some(before(false)), None, at(2 * HOUR, 2 * HOUR));
    assert_eq!((trust.is_trusted(), trust.wall_ms(2 * HOUR)), (false, TODAY + HOUR));
    let trust = WallTrust::start(BOOT + 1, Some(before(true)), None, at(HOUR, HOUR));
    assert_eq!((trust.is_trusted(), trust.wall_ms(HOUR)), (false, TODAY), "another boot");
    let trust = WallTrust::start(BOOT, Some(before(true)), None, set(TODAY + 2 * HOUR, 2 * HOUR));
    assert_eq!((trust.is_trusted(), trust.wall_ms(2 * HOUR)), (true, TODAY + 2 * HOUR), "set while it was down");
}

#[test]
fn an_estimate_does_not_fall_behind_what_is_sealed() {
    let start = |known, sealed| WallTrust::start(BOOT, known, Some(sealed), at(0, 0)).wall_ms(0);
    assert_eq!(start(known(TODAY), TODAY + 600 * SECOND), TODAY + 600 * SECOND);
    assert_eq!(start(known(TODAY), TODAY - SECOND), TODAY);
    assert_eq!(start(None, TODAY), TODAY, "the known time was damaged");
    assert_eq!(start(known(TODAY), IN_2038), TODAY, "sealed by a clock that was wrong");
    assert_eq!(start(None, IN_2038), FLOOR_MS);
}

#[test]
fn a_last_known_good_time_in_the_future_is_overruled_by_an_ack() {
    let mut trust = WallTrust::start(BOOT, known(IN_2038), None, at(TODAY, 0));
    assert!(!trust.is_trusted());
    assert_eq!(trust.on_ack(at(TODAY + HOUR, HOUR), TODAY + HOUR - SECOND), Some(Turn::Gained));
    assert_eq!((trust.is_trusted(), trust.wall_ms(HOUR)), (true, TODAY + HOUR));
    assert_eq!(trust.known(HOUR).unwrap().wall_ms, TODAY + HOUR, "and is replaced");
}

/// Steps of all sizes, acks that come and go, a time service now and then. Acks and the service are right.
#[test]
fn time_never_falls_untold_and_trust_is_never_claimed_for_a_time_that_is_known_to_be_wrong() {
    let seed = u64::from_le_bytes(*random_bytes().unwrap().first_chunk().unwrap());
    println!("seed {seed}");
    for round in 0..300 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(round));
        // The truth is TODAY + monotonic; the wall clock is off by this.
        let steps = [1, SECOND, 9 * SECOND, 11 * SECOND, HOUR, DAY_MS, 10 * YEAR, TODAY];
        let step = |rng: &mut ChaCha8Rng| steps[rng.random_range(0..steps.len())] * [1, -1][rng.random_range(0..2)];
        let mut off = if rng.random_bool(0.5) { 0 } else { step(&mut rng) };
        let mut now = Moment { wall_ms: TODAY + off, monotonic_ms: 0, synchronised_ms: None };
        let last = known(TODAY - rng.random_range(0..2 * YEAR)).filter(|_| rng.random_bool(0.7));
        let mut trust = WallTrust::start(BOOT, last, None, now);
        let (mut time, mut era) = (trust.wall_ms(0), trust.era());
        let mut serviced = None;
        for _ in 0..200 {
            now.monotonic_ms += rng.random_range(0..5 * SECOND);
            let truth = TODAY + now.monotonic_ms;
            match rng.random_range(0..20) {
                0 => off = step(&mut rng),
                1 => off = 0,
                2 => (off, serviced) = (0, Some(truth)),
                3 => off += rng.random_range(-8 * SECOND..8 * SECOND),
                _ => {}
            }
            now.wall_ms = truth + off;
            now.synchronised_ms = serviced;
            let (told, by_ack) = match rng.random_bool(0.1) {
                false => (trust.look(now), false),
                true => {
                    let looked = trust.look(now);
                    (trust.on_ack(now, truth - rng.random_range(0..SECOND)).or(looked), true)
                }
            };
            let next = trust.wall_ms(now.monotonic_ms);
            let why = format!("seed {seed} round {round}: {told:?} {trust:?}");
            if next < time - NEAR_MS {
                assert!(trust.is_trusted() && told.is_some() && trust.era() > era, "{why}: fell by {}", time - next);
            }
            if next.abs_diff(time) > 5 * SECOND as u64 + NEAR_MS as u64 {
                assert!(trust.era() > era, "{why}: a break is an era");
            }
            // An ack has the last word over everything but a confirmed wall clock, which it contradicts.
            if by_ack && trust.is_trusted() && !trust.contradicted {
                assert!(near(next, truth) || near(next, truth - SECOND), "{why}: off by {}", next - truth);
            }
            if by_ack {
                assert!(trust.is_trusted(), "{why}");
            }
            if !trust.is_trusted() {
                assert!(trust.known(0).is_none() && now.wall_ms != next, "{why}");
            }
            assert_eq!(trust.wall_behind_ms() == 0, matches!(trust.basis, Basis::Wall { .. }), "{why}");
            assert!(near(now.wall_ms.saturating_add(trust.wall_behind_ms()), next), "{why}: one truth");
            (time, era) = (next, trust.era());
        }
    }
}
