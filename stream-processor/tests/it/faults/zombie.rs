//! A processor that is frozen, taken over, and thawed: it destroys nothing, commits nothing, says why, and stops.

use std::time::Duration;

use proto::{archive::ManifestKind, time::PlantTime};
use tokio::time::sleep;

use super::{
    hall::{BROKER_LOST, Hall, Life, S3_AWAY, check_balance},
    plant::{FIRST_STEP, Plant, STEP_MS, in_turns},
    proxy::{Asked, Fate},
};
use crate::{
    archive::{self, assert_same},
    components::POLL,
};

const SPEED: f64 = 20.0;
/// A supervisor's code for "wait before you start it again".
const EXIT_FENCED: i32 = 3;
/// Readings by which an archive must grow before it counts as at work.
const AT_WORK: u64 = 500;
const LAST_WORDS: [&str; 2] = [
    "another writer has taken over this shard: this one writes no more",
    "another processor has taken over this shard; this one stops, and destroys nothing",
];

/// What the zombie has on its way when it is frozen.
#[derive(Debug, Clone, Copy)]
enum InFlight {
    Nothing,
    /// S3 has been away for it: segments wait on its disk.
    Staged,
    Object,
    Manifest,
}

impl InFlight {
    fn holds(self, asked: &Asked) -> bool {
        match self {
            InFlight::Nothing | InFlight::Staged => false,
            InFlight::Object => asked.puts("archive/v1/readings/"),
            InFlight::Manifest => asked.puts("manifest/v1/"),
        }
    }
}

/// Freezes the processor, starts another one, thaws the first, and gives back the other.
async fn taken_over(hall: &mut Hall, mut zombie: Life, owner: &str, in_flight: InFlight) -> Life {
    match in_flight {
        InFlight::Nothing => {}
        InFlight::Staged => {
            hall.proxy.rule(|asked| if asked.method == "PUT" { Fate::ResetBefore } else { Fate::Pass });
            zombie.until_said(S3_AWAY).await;
        }
        InFlight::Object | InFlight::Manifest => {
            let mut one = true;
            hall.proxy.rule(move |asked| match in_flight.holds(asked) && std::mem::take(&mut one) {
                true => Fate::Hold,
                false => Fate::Pass,
            });
            while hall.proxy.held().is_empty() {
                sleep(POLL).await;
            }
        }
    }
    zombie.signal("STOP");
    let held = hall.proxy.held();
    hall.proxy.rule(|asked| match asked.method.as_str() {
        // The only thing that anybody deletes here.
        "DELETE" if !asked.key.starts_with("manifest/probe/") => panic!("{asked:?}"),
        _ => Fate::Pass,
    });
    let before = hall.archived().await;
    // It waits until the frozen one has been quiet for long enough.
    let mut heir = hall.processor(owner, "");
    heir.until_said("the archive is ours").await;
    hall.until_archived(before + AT_WORK).await;

    hall.proxy.let_through();
    // Carried out while it can't hear the answer.
    sleep(Duration::from_millis(200)).await;
    zombie.signal("CONT");
    assert_eq!(zombie.exit_code(), Some(EXIT_FENCED), "{in_flight:?}: {:#?}", zombie.lines());
    for text in LAST_WORDS {
        assert!(zombie.said(text), "{in_flight:?}: {:#?}", zombie.lines());
    }
    is_void(hall, in_flight, &held).await;
    // Its requests and its connection were frozen, too.
    zombie.expect_only(&[&LAST_WORDS[..], &[BROKER_LOST, S3_AWAY, "the engine stops; nothing is lost"]].concat());
    heir
}

/// What was in flight is there, and counts for nothing.
async fn is_void(hall: &Hall, in_flight: InFlight, held: &[Asked]) {
    let manifests = archive::manifests(&hall.store).await;
    for Asked { key, .. } in held {
        let named = manifests.iter().flat_map(|m| &m.objects).any(|o| o.object.key == *key);
        let theirs = manifests.iter().find(|m| m.key() == *key).is_some_and(|m| m.kind == ManifestKind::Takeover);
        let there = hall.store.head(key).await.unwrap().is_some();
        let as_it_is_to_be = (there, named, theirs) == (true, false, matches!(in_flight, InFlight::Manifest));
        assert!(as_it_is_to_be, "{in_flight:?} {key}: {there} {named} {theirs}");
        println!("in flight while another one took over, and void: {key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_destroys_nothing_commits_nothing_and_says_why_it_stops() {
    let Some(mut hall) = Hall::new(PlantTime(FIRST_STEP * STEP_MS), SPEED).await else { return };
    let plant = Plant::new(2, 3, in_turns);
    let agents = hall.agents(&plant);
    let mut processor = hall.processor("processor-0", "");
    hall.until_archived(AT_WORK).await;
    let cases = [
        (InFlight::Nothing, "processor-1"),
        (InFlight::Object, "processor-0"),
        (InFlight::Manifest, "processor-1"),
        (InFlight::Staged, "processor-1"),
        (InFlight::Manifest, "processor-1"),
    ];
    for (in_flight, owner) in cases {
        processor = taken_over(&mut hall, processor, owner, in_flight).await;
    }
    plant.end_at(hall.now_step());
    hall.until_archived(plant.readings()).await;
    processor.stop(&[BROKER_LOST]);
    drop(agents);

    let manifests = archive::manifests(&hall.store).await;
    manifests.iter().for_each(check_balance);
    let takeovers: Vec<u64> = manifests.iter().filter(|m| m.kind == ManifestKind::Takeover).map(|m| m.number).collect();
    assert_eq!(takeovers.len(), 1 + cases.len());
    let newest = |number: u64| takeovers.iter().rev().find(|t| **t <= number).copied();
    assert!(manifests.iter().all(|m| Some(m.incarnation) == newest(m.number)), "nobody writes after a takeover");
    assert_same(&plant.sent(), &archive::readings(&hall.store, &manifests).await);
}
