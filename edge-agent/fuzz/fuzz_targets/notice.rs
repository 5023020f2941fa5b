//! What Alertmanager's webhook brings to the retraining trigger, in its own source file: bytes of anybody who reaches the port.
//! What is read of them is short, on one line, and fit for a log, an environment and an annotation.
#![no_main]

#[path = "../../../stream-processor/src/trigger/notice.rs"]
#[allow(dead_code)]
mod notice;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(alerts) = notice::decode(bytes) else { return };
    for alert in alerts {
        assert!((1..=64).contains(&alert.fingerprint.len()) && alert.fingerprint.is_ascii());
        assert!(alert.why.chars().count() <= 300 && !alert.why.chars().any(char::is_control));
    }
});
