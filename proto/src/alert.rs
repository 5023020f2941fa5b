//! What a failure mode or rule means to the crew, and the ids of predictions and alerts.

use sha2::{Digest, Sha256};

use crate::time::PlantTime;

/// A failure mode that the crew knows what to do about. Modes that are not listed still get alerts, with general words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModeText {
    pub mode: &'static str,
    /// What is wrong.
    pub summary: &'static str,
    /// What to do.
    pub action: &'static str,
}

const MODES: [ModeText; 5] = [
    ModeText {
        mode: "bearing_wear",
        summary: "a bearing is wearing out",
        action: "Order the bearing set; listen at both ends of the main shaft and replace the louder one at the next stop.",
    },
    ModeText {
        mode: "overheating",
        summary: "the drive is overheating",
        action: "Clean the air filter and cooling fins, check the fan and the load; slow the line down until it is done.",
    },
    ModeText {
        mode: "imbalance",
        summary: "a rotor is out of balance",
        action: "Clean glue and dust off the rotor, check for a lost weight or loose bolt, then balance it.",
    },
    ModeText {
        mode: "belt_slip",
        summary: "the drive belt is slipping",
        action: "Check belt tension and wear; tighten it, or replace the belt if it is glazed.",
    },
    ModeText {
        mode: "lubrication_loss",
        summary: "lubrication is failing",
        action: "Check oil level, pump and lines for a leak; grease the bearings before the next shift.",
    },
];

const OTHER: ModeText = ModeText {
    mode: "",
    summary: "it does not run as it normally does",
    action: "Inspect the machine; look first at the sensors named here.",
};

pub fn mode_text(mode: &str) -> ModeText {
    MODES.into_iter().find(|m| m.mode == mode).unwrap_or(OTHER)
}

/// 32 hexadecimal digits, the same for the same parts. The first generation has no part in it: ids from before there
/// were generations stay what they are.
fn id(parts: &[&[u8]], generation: u32) -> String {
    let mut hash = Sha256::new();
    let generation = (generation != 0).then(|| generation.to_le_bytes());
    for part in parts.iter().copied().chain(generation.as_ref().map(<[u8; 4]>::as_slice)) {
        // The length keeps ("ab", "c") apart from ("a", "bc").
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect()
}

/// hash(machine, generation, window, revision, model version): a replay repeats none.
pub fn prediction_id(
    machine: &str,
    generation: u32,
    window_start: PlantTime,
    revision: u32,
    model_version: &str,
) -> String {
    let (start, revision) = (window_start.millis().to_le_bytes(), revision.to_le_bytes());
    id(&[b"prediction", machine.as_bytes(), &start, &revision, model_version.as_bytes()], generation)
}

/// hash(machine, generation, mode, event time of the first window of the m-of-n that opened it).
pub fn alert_id(machine: &str, generation: u32, mode: &str, first_window: PlantTime) -> String {
    id(&[b"alert", machine.as_bytes(), mode.as_bytes(), &first_window.millis().to_le_bytes()], generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_where_their_parts_differ() {
        let a = alert_id("press-1", 0, "imbalance", PlantTime(1));
        assert_eq!(a, alert_id("press-1", 0, "imbalance", PlantTime(1)));
        assert_eq!(a.len(), 32);
        assert_ne!(a, alert_id("press-1", 0, "imbalance", PlantTime(2)));
        assert_ne!(a, alert_id("press-1i", 0, "mbalance", PlantTime(1)));
        assert_ne!(a, alert_id("press-1", 1, "imbalance", PlantTime(1)));
    }

    #[test]
    fn ids_of_the_first_generation_are_what_they_were_before_there_were_any() {
        assert_eq!(alert_id("press-1", 0, "imbalance", PlantTime(600_000)), "14bc0eb1e9c85ffa5c3ce849592b939c");
        assert_eq!(prediction_id("press-1", 0, PlantTime(600_000), 0, "v1"), "436bbc94faa8e84f5448cda3331f2b6e");
        assert_ne!(
            prediction_id("press-1", 1, PlantTime(600_000), 0, "v1"),
            prediction_id("press-1", 2, PlantTime(600_000), 0, "v1")
        );
    }

    #[test]
    fn an_unknown_mode_still_has_words() {
        assert_eq!(mode_text("belt_slip").mode, "belt_slip");
        assert!(!mode_text("gremlins").action.is_empty());
    }
}
