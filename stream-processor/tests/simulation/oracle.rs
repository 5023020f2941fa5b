//! One stream that nothing ever happens to reads what the manifests say was read, in their order. What it derives is what
//! they must hold, each id once.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::{
    archive::{ManifestKind, Shard},
    wire::alert::AlertState,
};
use serde::Deserialize;
use stream_processor::{
    alert::AlertDesk,
    decode::Taken,
    intake::EpochsLeft,
    stream::{Derived, Loaded, Stream, schedule::Schedule, shards},
};

use crate::{
    archive::{State, manifests},
    crew::{Answer, Ask, Crew},
    derived::{Book, Input},
    faults::Reached,
    models::config,
    output::Output,
    reshard::layout,
};

/// Of a snapshot, what is no sum.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "its text is compared")]
struct Lasting {
    desk: AlertDesk,
    schedule: Schedule,
}

/// What all manifests together have told.
#[derive(Default)]
struct Told {
    predictions: BTreeSet<String>,
    closed: BTreeSet<String>,
    alerts: BTreeSet<String>,
    requests: BTreeSet<String>,
}

pub fn check(
    objects: &BTreeMap<String, Bytes>,
    book: &Book,
    crew: Option<&Crew>,
    loaded: &Loaded,
    reached: &mut Reached,
) {
    let (mut ends, mut told) = (BTreeMap::<Shard, Option<Vec<u8>>>::new(), Told::default());
    for descent in layout(objects).shards {
        let before: Vec<Vec<u8>> = descent.predecessors.iter().filter_map(|p| ends[p].clone()).collect();
        let carved = (!before.is_empty()).then(|| shards::carve(&before, descent.slots).unwrap());
        let mut stream = carved.as_ref().map_or_else(|| Stream::new(config()), |bytes| restored(bytes));
        let mut has_state = carved.is_some();
        for manifest in manifests(objects, descent.shard, 0) {
            match manifest.kind {
                ManifestKind::Takeover => {
                    let said = book.begun.get(&(descent.shard, manifest.incarnation));
                    let open: BTreeSet<String> = stream.open_alerts().into_iter().map(|alert| alert.id).collect();
                    assert!(said.is_none_or(|said| *said == open), "{said:?} instead of {open:?} are open");
                }
                ManifestKind::Commit => {
                    let segment = &book.segments[&manifest.snapshot.as_ref().unwrap().key];
                    let output = derive(&mut stream, &segment.inputs, loaded, &mut told);
                    segment.output.assert_is(&output, manifest.number, descent.shard);
                    told.add(&output);
                    let (there, _) = State::decode(&objects[&manifest.snapshot.as_ref().unwrap().key]);
                    let here = stream.snapshot(&EpochsLeft::new()).unwrap();
                    let lasting =
                        |bytes: &[u8]| rounded(&format!("{:?}", rmp_serde::from_slice::<Lasting>(bytes).unwrap()));
                    let (found, expected) = (lasting(&there.stream.unwrap()), lasting(&here));
                    assert_eq!(found, expected, "manifest {} of shard {}", manifest.number, descent.shard);
                    has_state = true;
                }
                _ => {}
            }
        }
        ends.insert(descent.shard, has_state.then(|| stream.snapshot(&EpochsLeft::new()).unwrap()));
    }
    reached.add("prediction committed", told.predictions.len());
    reached.add("alert committed", told.alerts.len());
    let uncommitted: Vec<_> = book.confirmed.difference(&told.alerts).collect();
    assert!(uncommitted.is_empty(), "{uncommitted:?} were confirmed and are in no manifest");
    for call in crew.iter().flat_map(|crew| &crew.calls) {
        let done = !matches!(call.answered(), None | Some(Answer::Refused));
        assert!(!done || told.requests.contains(&call.request), "{call:?} is in no manifest");
    }
}

/// How batches are cut into runs shows in the last digits of a sum.
fn rounded(text: &str) -> String {
    let part = |part: &str| match part.parse::<f64>() {
        Ok(number) if part.contains('.') => format!("{number:.9}"),
        _ => part.to_owned(),
    };
    text.split(' ').map(|word| part(word.trim_end_matches(','))).collect::<Vec<_>>().join(" ")
}

/// All batches between two other inputs at once, however the processor has cut them.
fn derive(stream: &mut Stream, inputs: &[Input], loaded: &Loaded, told: &mut Told) -> Output {
    let (mut output, mut run) = (Output::default(), Vec::new());
    for input in inputs {
        if let Input::Batches(taken) = input {
            run.extend(taken.iter().cloned());
            continue;
        }
        output.add(&judged(stream, std::mem::take(&mut run), loaded));
        match input {
            Input::Batches(_) => {}
            Input::Enter(charge, at) => assert!(stream.enter(charge, *at)),
            Input::Settle => stream.settle(),
            Input::Call { request, ask, at } => {
                assert!(told.requests.insert(request.clone()), "{request} is done twice");
                match ask {
                    Ask::Acknowledge { alert } => {
                        let alert = stream.acknowledge(alert, "crew", "", *at).unwrap();
                        stream.requests.remember_acknowledged(request.clone(), &alert);
                        output.add_alert(&alert);
                    }
                    Ask::Record { event } => {
                        output.add(&stream.record(event.clone(), *at));
                        stream.requests.remember_recorded(request.clone());
                    }
                }
            }
        }
    }
    output.add(&judged(stream, run, loaded));
    stream.in_force();
    output
}

fn judged(stream: &mut Stream, run: Vec<Taken>, loaded: &Loaded) -> Derived {
    let steps = stream.read(run).unwrap();
    assert!(!stream.undecided(&steps));
    stream.judge(steps, loaded).unwrap()
}

fn restored(bytes: &[u8]) -> Stream {
    Stream::restore(config(), bytes).unwrap().0
}

impl Told {
    fn add(&mut self, output: &Output) {
        for (id, ..) in output.predictions.iter().chain(&output.shadows) {
            assert!(self.predictions.insert(id.clone()), "prediction {id} is there twice");
        }
        for (id, state, _) in &output.alerts {
            assert!(!self.closed.contains(id), "alert {id} goes on after its end");
            if *state == AlertState::Closed {
                self.closed.insert(id.clone());
            }
        }
        self.alerts.extend(output.alerts.iter().map(|(id, ..)| id.clone()));
    }
}
