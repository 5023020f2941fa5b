//! The situations that the seeds must lead into, or the simulation proves nothing. Names of outcomes of a message are the
//! program's own (`Decoded::outcome`).
//!
//! | DESIGN.md section 2 | shown by |
//! |---|---|
//! | 1, 2: the log, epochs, group commit | `agent killed`, `gateway's disk failing` |
//! | 3: gaps, with each reason | `gap taken: evicted`, `damaged`, `quarantined`; `rest of a gap taken` |
//! | 4, 5: the window, going back | `duplicate`, `out_of_order`, `acks stood still`, `ack of a lower incarnation ignored` |
//! | 7: segments | `committed`, `commit of nothing`, `manifest was there already`, `S3 request done, but not answered` |
//! | 8: recovery, fencing | `takeover`, `takeover repeated`, `writer fenced`, `processor killed`, `processor doubled` |
//! | 9: S3 away | `intake paused`, `paused`, `dropped` |
//! | nothing in silence | `dead_lettered`, `dead_lettered_in_place`, `damaged`, `conflict` |
//! | bridge | `break declared`, `break taken: released`, `tail lost`, `chain lost`, `new install`, `repeated`; `epoch drawn again` |
//! | archive id | `archive exchanged`, `archive adopted`, `retained ack of another archive ignored` |
//! | shards | `change carried out`, `change left to the successors`, `other_shard`, `closed shard not taken` |
//! | takeover | `another owner waited for`, `own name waited for`, `another owner taken over`, `released shard taken`, `renewed` |
//! | time | `window of a later clock generation`, `sealed before the clock is trusted`, `clock stepped` |
//! | inputs outside the logs | `event recorded`, `alert acknowledged`, `request repeated`, `model entered`, `model in force`, `model settled`, `windows waited for their model`, `canary decided`, `shadow scored`, `processor killed with a model on its way into a manifest` |
//! | one machine, one agent | `foreign readings`, `machine moved to another agent` |
//! | alerts before their commit | `provisional alert shown`, `provisional alerts confirmed`, `provisional alert void after a reset` |
//! | staging | `segments taken by one manifest`, `batch quarantined`, `unknown_version`, `agent updated first` |
//!
//! Not here, since they are no matter of these cores: how often a broker must close before a batch is quarantined (the
//! agent's `publish::suspects`), the probe of the endpoint (10), two install ids under one name (`installs`), the token
//! bucket's pace, the bound on a snapshot's size, and other window and policy settings at a start, which are no call. Nor is
//! the model that gives way because too many followed it: a gateway that was silent over all of them is judged by another
//! one, by design.

use proto::wire::telemetry::GapReason;

/// Where only the protocol is looked at.
pub const PROTOCOL: &[&str] = &[
    "received",
    "commit of nothing",
    "duplicate",
    "out_of_order",
    "damaged",
    "dead_lettered",
    "dead_lettered_in_place",
    "conflict",
    "twin has spoken",
    "epoch drawn again",
    "unknown_version",
    "agent updated first",
    "paused",
    "dropped",
    "gap",
    "gap taken: evicted",
    "gap taken: damaged",
    "gap taken: quarantined",
    "rest of a gap taken",
    "frame on the disk damaged",
    "gateway's disk failing",
    "message lost",
    "acks stood still",
    "ack of a lower incarnation ignored",
    "committed",
    "segments taken by one manifest",
    "takeover",
    "takeover repeated",
    "another owner taken over",
    "another owner waited for",
    "shard released",
    "released shard taken",
    "renewed",
    "writer fenced",
    "manifest was there already",
    "S3 request done, but not answered",
    "intake paused",
    "agent killed",
    "processor killed",
    "processor stopped",
    "processor doubled",
    "broker restarted",
    "disk image restored",
    "spool lost",
    "archive exchanged",
    "archive adopted",
    "batch quarantined",
    "break",
    "break declared",
    "break taken: new install",
    "break taken: released",
    "change carried out",
    "change left to the successors",
    "operator killed",
    "other_shard",
    "closed shard not taken",
];

/// Where few seeds lead: asked for in a long run only.
pub const PROTOCOL_RARE: &[&str] = &[
    "break taken: chain lost",
    "break taken: tail lost",
    "break taken: repeated",
    "own name waited for",
    "retained ack of another archive ignored",
];

/// Where the stream is in it.
pub const DERIVED: &[&str] = &[
    "committed",
    "segments taken by one manifest",
    "takeover",
    "writer fenced",
    "prediction committed",
    "alert committed",
    "window revised",
    "reading too late for its window",
    "window of a later clock generation",
    "sealed by a trusted clock",
    "sealed before the clock is trusted",
    "clock stepped",
    "foreign readings",
    "machine moved to another agent",
    "event recorded",
    "alert acknowledged",
    "request repeated",
    "model entered",
    "model in force",
    "model settled",
    "canary decided",
    "shadow scored",
    "provisional alert shown",
    "provisional alerts confirmed",
    "change carried out",
    "conflict",
    "dead_lettered_in_place",
    "gap",
    "processor killed",
    "processor doubled",
];

pub const DERIVED_RARE: &[&str] = &[
    "windows waited for their model",
    "processor killed with a model on its way into a manifest",
    "provisional alert void after a reset",
    "request refused",
];

/// A gap was taken.
pub fn lost(reason: GapReason) -> &'static str {
    match reason {
        GapReason::Evicted => "gap taken: evicted",
        GapReason::Damaged => "gap taken: damaged",
        GapReason::Quarantined => "gap taken: quarantined",
        other => panic!("a gap because of {other:?}"),
    }
}

/// A break was taken.
pub fn broken(reason: GapReason) -> &'static str {
    match reason {
        GapReason::Released => "break taken: released",
        GapReason::TailLost => "break taken: tail lost",
        GapReason::ChainLost => "break taken: chain lost",
        GapReason::NewInstall => "break taken: new install",
        GapReason::Repeated => "break taken: repeated",
        other => panic!("a break because of {other:?}"),
    }
}
