use proto::{
    position::{Epoch, Position},
    time::PlantTime,
};

use super::*;
use crate::spool::log::Place;

const MS: Duration = Duration::from_millis(1);
const BYTES: u32 = 100;
const NOTHING: [u64; 0] = [];

fn at(epoch: u8, seq: u64) -> Position {
    Position { epoch: Epoch([epoch; 16]), seq }
}

fn log(frames: u64) -> Log {
    let mut log = Log::new(None);
    for seq in 1..=frames {
        push(&mut log, at(1, seq));
    }
    log
}

fn push(log: &mut Log, position: Position) {
    let place = Place::default();
    log.push(Extent { position, last_seq: position.seq, bytes: BYTES, readings: 1, gap: false, place });
}

fn ack(incarnation: u64, received: Option<Position>, committed: Option<Position>) -> Ack {
    let archive = ArchiveId([7; 16]);
    Ack { archive, incarnation, received, committed, paused: false, plant_time: PlantTime(0) }
}

/// Connected, with room for five frames, and past the first wait.
fn window() -> (SendWindow, Duration) {
    let config = WindowConfig {
        window_bytes_max: 5 * u64::from(BYTES),
        resend_after: 100 * MS,
        resend_after_max: 400 * MS,
        bytes_per_second: 1_000_000,
        return_jitter_max: 10 * MS,
        ..Default::default()
    };
    let mut window = SendWindow::new(config, 42);
    window.on_connected(Duration::ZERO);
    (window, 20 * MS)
}

fn sent(window: &mut SendWindow, log: &Log, now: Duration) -> Vec<u64> {
    std::iter::from_fn(|| window.next(log, now)).map(|p| p.seq).collect()
}

#[test]
fn frames_go_out_in_order_until_the_window_is_full() {
    let (log, (mut window, now)) = (log(20), window());
    assert_eq!(sent(&mut window, &log, now), [1, 2, 3, 4, 5]);
    window.on_ack(&log, &ack(1, Some(at(1, 2)), None), now);
    assert_eq!(sent(&mut window, &log, now), [6, 7]);
    window.on_ack(&log, &ack(1, Some(at(1, 1)), None), now);
    assert_eq!(sent(&mut window, &log, now), NOTHING, "received positions of one writer never shrink");
}

#[test]
fn nothing_is_sent_without_a_connection_or_while_paused() {
    let (log, (mut window, now)) = (log(3), window());
    window.on_disconnected();
    assert_eq!((window.next(&log, now), window.next_wakeup(&log, now)), (None, None));
    window.on_connected(now);
    let paused = Ack { paused: true, ..ack(1, None, None) };
    window.on_ack(&log, &paused, now);
    assert_eq!((window.next(&log, 2 * now), window.next_wakeup(&log, 2 * now)), (None, Some(now + PAUSE_MAX)));
    window.on_ack(&log, &ack(1, None, None), 2 * now);
    assert_eq!(sent(&mut window, &log, 3 * now), [1, 2, 3]);
}

#[test]
fn a_pause_that_is_not_repeated_ends() {
    let (log, (mut window, now)) = (log(3), window());
    let paused = Ack { paused: true, ..ack(1, None, None) };
    window.on_ack(&log, &paused, now);
    window.on_ack(&log, &paused, now + PAUSE_MAX / 2);
    assert_eq!(sent(&mut window, &log, now + PAUSE_MAX), NOTHING);
    let end = window.next_wakeup(&log, now).unwrap();
    assert_eq!(end, now + PAUSE_MAX * 3 / 2);
    assert_eq!(sent(&mut window, &log, end), NOTHING, "jitter first");
    assert_eq!(sent(&mut window, &log, end + 10 * MS), [1, 2, 3]);
}

#[test]
fn what_was_sent_into_a_pause_is_sent_again() {
    let (log, (mut window, now)) = (log(3), window());
    assert_eq!(sent(&mut window, &log, now), [1, 2, 3]);
    window.on_ack(&log, &Ack { paused: true, ..ack(1, Some(at(1, 1)), None) }, now);
    window.on_ack(&log, &ack(1, Some(at(1, 1)), None), now);
    assert_eq!(sent(&mut window, &log, now + 10 * MS), [2, 3]);
}

#[test]
fn an_ack_that_stands_still_sends_the_window_back_with_doubling_patience() {
    let (log, (mut window, mut now)) = (log(3), window());
    assert_eq!(sent(&mut window, &log, now), [1, 2, 3]);
    window.on_ack(&log, &ack(1, Some(at(1, 1)), None), now);
    for patience in [100, 200, 400, 400] {
        window.on_ack(&log, &ack(1, Some(at(1, 1)), None), now + 99 * MS);
        assert_eq!(sent(&mut window, &log, now + (patience - 1) * MS), NOTHING);
        let deadline = window.next_wakeup(&log, now).unwrap();
        assert!(deadline >= now + patience * MS && deadline <= now + patience * MS * 5 / 4);
        assert_eq!(sent(&mut window, &log, deadline), NOTHING, "jitter first");
        now = window.next_wakeup(&log, deadline).unwrap();
        assert_eq!(sent(&mut window, &log, now), [2, 3]);
    }
    assert_eq!(window.counters().timeouts, 4);
    window.on_ack(&log, &ack(1, Some(at(1, 2)), None), now);
    let deadline = window.next_wakeup(&log, now).unwrap();
    assert!(deadline <= now + 125 * MS, "progress restores the patience");
}

#[test]
fn a_higher_incarnation_begins_where_it_says_and_a_lower_one_is_ignored() {
    let (log, (mut window, now)) = (log(5), window());
    window.on_ack(&log, &ack(4, None, None), now);
    assert_eq!(sent(&mut window, &log, now), [1, 2, 3, 4, 5]);
    window.on_ack(&log, &ack(4, Some(at(1, 4)), None), now);
    window.on_ack(&log, &ack(3, Some(at(1, 1)), Some(at(1, 5))), now);
    assert_eq!(sent(&mut window, &log, now + 10 * MS), NOTHING);
    assert_eq!(window.counters().acks_of_lower_incarnation, 1);
    window.on_ack(&log, &ack(5, Some(at(1, 2)), None), now);
    assert_eq!(sent(&mut window, &log, now + 10 * MS), [3, 4, 5]);
}

#[test]
fn what_went_out_before_there_was_a_writer_is_sent_again_at_once() {
    let (log, (mut window, now)) = (log(3), window());
    assert_eq!(sent(&mut window, &log, now), [1, 2, 3]);
    window.on_ack(&log, &ack(1, None, None), now);
    assert_eq!(sent(&mut window, &log, now + 10 * MS), [1, 2, 3]);
    window.on_ack(&log, &ack(1, None, None), now + 10 * MS);
    assert_eq!(sent(&mut window, &log, now + 30 * MS), NOTHING, "once");
}

#[test]
fn another_archive_is_not_believed() {
    let (log, (mut window, now)) = (log(2), window());
    window.on_ack(&log, &ack(1, None, None), now);
    let other = Ack { archive: ArchiveId([8; 16]), ..ack(9, Some(at(1, 2)), Some(at(1, 2))) };
    assert_eq!(window.on_ack(&log, &other, now), None);
    assert_eq!(window.counters().acks_of_other_archive, 1);
    assert_eq!(sent(&mut window, &log, now), [1, 2]);
}

#[test]
fn a_reconnect_goes_back_to_what_was_received_within_the_jitter() {
    let (log, (mut window, now)) = (log(4), window());
    assert_eq!(sent(&mut window, &log, now), [1, 2, 3, 4]);
    window.on_ack(&log, &ack(1, Some(at(1, 2)), None), now);
    window.on_disconnected();
    window.on_connected(now);
    assert_eq!(sent(&mut window, &log, now + 4 * MS), NOTHING);
    assert_eq!(sent(&mut window, &log, now + 10 * MS), [3, 4]);
    assert_eq!(window.counters().resent, 2);
}

#[test]
fn only_what_the_log_holds_is_freed() {
    let (mut log, (mut window, now)) = (log(4), window());
    let committed = |window: &mut SendWindow, log: &Log, p| window.on_ack(log, &ack(1, None, p), now);
    assert_eq!(committed(&mut window, &log, Some(at(1, 3))), Some(at(1, 3)));
    log.free(at(1, 3));
    assert_eq!(committed(&mut window, &log, Some(at(9, 1))), None, "another log's epoch");
    assert_eq!(committed(&mut window, &log, Some(at(1, 2))), None, "committed positions never shrink");
    assert_eq!(committed(&mut window, &log, None), None);
}

#[test]
fn a_claim_beyond_the_log_is_believed_as_far_as_it_is_held_and_judged_again() {
    let (mut log, (mut window, now)) = (log(4), window());
    assert_eq!(window.on_ack(&log, &ack(1, None, Some(at(1, 6))), now), Some(at(1, 4)));
    log.free(at(1, 4));
    assert_eq!(window.freeable(&log), None);
    for seq in 5..=7 {
        push(&mut log, at(1, seq));
    }
    assert_eq!(window.freeable(&log), Some(at(1, 6)), "without another ack");
    assert_eq!(window.on_ack(&log, &ack(1, None, Some(at(1, 2))), now), Some(at(1, 6)), "kept");
    log.free(at(1, 6));

    assert_eq!(window.on_ack(&log, &ack(2, None, Some(at(2, 1))), now), None, "not an epoch of this log yet");
    push(&mut log, at(2, 1));
    assert_eq!(window.on_ack(&log, &ack(2, None, Some(at(2, 1))), now), Some(at(2, 1)));
}

#[test]
fn a_position_that_the_log_does_not_know_starts_from_the_oldest_held() {
    let (log, (mut window, now)) = (log(2), window());
    window.on_ack(&log, &ack(1, Some(at(9, 77)), None), now);
    assert_eq!(sent(&mut window, &log, now), [1, 2]);
}

#[test]
fn the_window_follows_the_chain_into_the_next_epoch() {
    let (mut log, (mut window, now)) = (log(2), window());
    window.on_ack(&log, &ack(1, Some(at(1, 9)), None), now);
    assert_eq!(sent(&mut window, &log, now), NOTHING, "believed up to what is held");
    push(&mut log, at(2, 1));
    assert_eq!(window.next(&log, now), Some(at(2, 1)));
    window.on_ack(&log, &ack(1, Some(at(2, 1)), None), now);
    assert_eq!(window.next_wakeup(&log, now), None);
}

#[test]
fn a_backlog_passes_through_the_bucket_and_so_do_its_repeats() {
    let log = log(5);
    let config = WindowConfig { bytes_per_second: 250, return_jitter_max: Duration::ZERO, ..Default::default() };
    let mut window = SendWindow::new(config, 42);
    window.on_connected(Duration::ZERO);
    assert_eq!(sent(&mut window, &log, Duration::ZERO), [1, 2, 3], "a second's worth, and what is begun");
    let ready = window.next_wakeup(&log, Duration::ZERO).unwrap();
    assert!(ready > 199 * MS && ready < 210 * MS, "{ready:?}");
    assert_eq!(sent(&mut window, &log, ready), [4]);
    window.on_connected(ready);
    assert_eq!(sent(&mut window, &log, ready), NOTHING, "repeats do not have a bucket of their own");
    let ready = window.next_wakeup(&log, ready).unwrap();
    assert_eq!(sent(&mut window, &log, ready), [1]);
}

#[test]
fn history_goes_out_at_twenty_megabytes_a_second_unless_told_otherwise() {
    assert!(WindowConfig::default().bytes_per_second >= 20_000_000);
}

#[test]
fn many_small_batches_pass_through_a_bucket_of_their_own_whose_rate_can_be_changed() {
    let (log, now) = (log(300), Duration::from_secs(1));
    let config = WindowConfig { batches_per_second: 10, return_jitter_max: Duration::ZERO, ..Default::default() };
    let mut window = SendWindow::new(config.clone(), 1);
    window.on_connected(now);
    assert_eq!(sent(&mut window, &log, now).len(), 10, "a second's worth at once");
    let next = window.next_wakeup(&log, now).unwrap();
    assert!(next > now && sent(&mut window, &log, next).len() == 1);
    let second = next + Duration::from_secs(1);
    assert!((10..=11).contains(&sent(&mut window, &log, second).len()));
    window.reconfigure(WindowConfig { batches_per_second: 100, ..config });
    assert!((100..=101).contains(&sent(&mut window, &log, second + Duration::from_secs(1)).len()));
}
