//! Which frame ends the connection whenever it is sent, such as one beyond a broker's packet limit. Pure.
//!
//! A connection that ends says little about what was on its way: a line breaks, a broker is restarted. So what was out
//! at the end is sent again one by one, each alone on its way and only once the broker has answered to something else.
//! A frame with which, and with nothing else, the broker has closed several connections in a row is at fault.

use proto::position::Position;

use crate::spool::log::Log;

/// Connections in a row that the same frame alone must have ended.
pub const ENDS_MAX: u32 = 5;

#[derive(Debug, Default)]
pub struct Suspects {
    /// Frames up to here are sent alone.
    through: Option<Position>,
    /// The only one that was out at the last ends, and how many ends that were.
    blamed: Option<(Position, u32)>,
}

impl Suspects {
    /// May nothing else be out together with a frame?
    pub fn send_alone(&self) -> bool {
        self.through.is_some()
    }

    /// The broker has taken a frame.
    pub fn on_acknowledged(&mut self, log: &Log, frame: Position) {
        self.blamed = self.blamed.filter(|(blamed, _)| *blamed != frame);
        // One that is not held any more orders before every other.
        let passed = |through: Position| log.order(through) <= log.order(frame);
        self.through = self.through.filter(|through| !passed(*through));
    }

    /// A connection has ended with this on its way, in the order of sending; None is what was no frame. `closed`: by the
    /// broker, as far as can be seen. Returns the frame that is at fault, if it is beyond doubt.
    pub fn on_end(&mut self, out: &[Option<Position>], closed: bool) -> Option<Position> {
        let before = self.blamed.take();
        let last = out.iter().rev().find_map(|frame| *frame).filter(|_| closed)?;
        let [Some(only)] = out else {
            self.through = Some(last);
            return None;
        };
        self.through.get_or_insert(last);
        let ends = 1 + before.filter(|(blamed, _)| blamed == only).map_or(0, |(_, ends)| ends);
        if ends >= ENDS_MAX {
            return Some(*only);
        }
        self.blamed = Some((*only, ends));
        None
    }
}

#[cfg(test)]
mod tests {
    use proto::position::Epoch;

    use super::*;
    use crate::spool::log::{Extent, Place};

    fn at(seq: u64) -> Position {
        Position { epoch: Epoch([1; 16]), seq }
    }

    fn log(frames: u64) -> Log {
        let mut log = Log::new(None);
        for seq in 1..=frames {
            let place = Place::default();
            log.push(Extent { position: at(seq), last_seq: seq, bytes: 10, readings: 1, gap: false, place });
        }
        log
    }

    /// Sends 1..=9 as a driver would, to a broker that closes the connection at `poison`.
    fn find(poison: u64) -> (Option<Position>, u32) {
        let (log, mut suspects) = (log(9), Suspects::default());
        for ends in 1..=20 {
            let alone = suspects.send_alone();
            let out: Vec<_> = (1..=9).map(|seq| Some(at(seq))).collect();
            let out = match alone {
                // The broker's acknowledgements of those before are lost with the connection.
                false => &out[..],
                true => {
                    (1..poison).for_each(|seq| suspects.on_acknowledged(&log, at(seq)));
                    &[Some(at(poison))]
                }
            };
            if let Some(guilty) = suspects.on_end(out, true) {
                return (Some(guilty), ends);
            }
        }
        (None, 20)
    }

    #[test]
    fn the_frame_that_ends_the_connection_is_found_among_others() {
        for poison in [1, 4, 9] {
            assert_eq!(find(poison), (Some(at(poison)), 1 + ENDS_MAX), "{poison}");
        }
    }

    #[test]
    fn an_outage_blames_nobody() {
        let log = log(9);
        let only = [Some(at(3))];
        let blamed = || {
            let mut suspects = Suspects::default();
            (1..ENDS_MAX).for_each(|_| assert_eq!(suspects.on_end(&only, true), None));
            suspects
        };
        let mut suspects = blamed();
        assert_eq!(suspects.on_end(&only, false), None, "a line that fell silent");
        assert_eq!(suspects.on_end(&only, true), None, "begins anew after it");
        let mut suspects = blamed();
        assert_eq!(suspects.on_end(&[], true), None, "ended with nothing out");
        assert_eq!(suspects.on_end(&only, true), None);
        let mut suspects = blamed();
        assert_eq!(suspects.on_end(&[None, Some(at(3))], true), None, "ended before anything was answered");
        assert_eq!(suspects.on_end(&only, true), None);
        let mut suspects = blamed();
        suspects.on_acknowledged(&log, at(3));
        assert_eq!(suspects.on_end(&only, true), None, "it was taken once");
        let mut suspects = blamed();
        assert_eq!(suspects.on_end(&[Some(at(4))], true), None, "another one was out");
        assert_eq!(suspects.on_end(&only, true), None);
        assert_eq!(blamed().on_end(&only, true), Some(at(3)));
    }

    #[test]
    fn frames_go_together_again_once_all_that_were_out_are_taken() {
        let log = log(9);
        let mut suspects = Suspects::default();
        assert!(!suspects.send_alone());
        suspects.on_end(&[Some(at(2)), Some(at(3)), Some(at(4))], true);
        suspects.on_acknowledged(&log, at(3));
        assert!(suspects.send_alone());
        suspects.on_acknowledged(&log, at(4));
        assert!(!suspects.send_alone());

        suspects.on_end(&[Some(at(5))], true);
        let mut freed = log.clone();
        freed.free(at(9));
        freed.push(Extent { position: at(10), ..*log.covering(at(9)).unwrap() });
        suspects.on_acknowledged(&freed, at(9));
        assert!(!suspects.send_alone(), "it was received after all");
    }
}
