//! What a processor derives: the real stream, and what the engine does around it. Inputs and outputs of each segment are
//! noted under the key of its snapshot, so that they can be held against the manifests.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    time::Duration,
};

use model::features::WindowFeatures;
use proto::{
    archive::Shard,
    asset::AssetId,
    time::PlantTime,
    wire::{alert::Alert, prediction::Role},
};
use stream_processor::{
    decode::{AgentKey, Content, Taken},
    intake::EpochsLeft,
    serve::board::Board,
    stream::{
        Derived, Loaded, Steps, Stream,
        schedule::{CHARGES_MAX, Charge},
    },
};

use crate::{
    crew::{Answer, Ask, Call},
    faults::Reached,
    instruments::ROVING,
    models::config,
    output::{Output, Window},
};

/// What moves the state of a stream.
#[derive(Clone)]
pub enum Input {
    Batches(Vec<Taken>),
    Call { request: String, ask: Ask, at: PlantTime },
    Enter(Charge, PlantTime),
    Settle,
}

#[derive(Default)]
pub struct Segment {
    pub inputs: Vec<Input>,
    pub output: Output,
}

impl Segment {
    fn follow(&mut self, later: Segment) {
        self.inputs.extend(later.inputs);
        self.output.follow(later.output);
    }
}

/// What everybody who lives through it all knows.
#[derive(Default)]
pub struct Book {
    pub segments: BTreeMap<String, Segment>,
    /// Which version has judged a window first, whether or not that was committed.
    told: BTreeMap<Window, String>,
    /// Windows that were told of and are in no manifest yet, with the incarnation that told last.
    open: BTreeMap<Window, u64>,
    /// Shown to the crew, and not known to be committed.
    provisional: BTreeSet<String>,
    /// Shown as certain.
    pub confirmed: BTreeSet<String>,
    /// What each incarnation said was open when it began.
    pub begun: BTreeMap<(Shard, u64), BTreeSet<String>>,
    /// Who shall judge, and how many it has been.
    offered: Option<Charge>,
    offers: usize,
    /// Slots move between shards.
    sharded: bool,
}

impl Book {
    pub fn new(sharded: bool) -> Self {
        Book { sharded, ..Book::default() }
    }

    /// As many as never have to give way: a gateway that was silent over more is judged by a newer one.
    pub fn offer(&mut self, charge: Charge) {
        if self.offers + 2 < CHARGES_MAX {
            self.offers += 1;
            self.offered = Some(charge);
        }
    }
}

/// What processors of all times share.
#[derive(Clone)]
pub struct Plant {
    pub loaded: Rc<Loaded>,
    pub book: Rc<RefCell<Book>>,
}

/// As the engine has it.
pub struct Derivation {
    pub stream: Stream,
    plant: Plant,
    board: Board,
    incarnation: u64,
    open: Segment,
    promises: Promises,
    submitted: VecDeque<Promises>,
    committed: u64,
    /// So many segments must be committed for what was entered.
    entered_by: Option<u64>,
    held: Option<(Vec<Taken>, Steps)>,
    held_since: Duration,
}

/// What a commit makes true.
#[derive(Default)]
struct Promises {
    answers: Vec<(Rc<Call>, Answer)>,
    acknowledged: Vec<Alert>,
    alerts_up_to: Option<u64>,
    windows: Vec<Window>,
}

impl Derivation {
    pub fn new(
        snapshot: Option<&[u8]>,
        (shard, incarnation): (Shard, u64),
        plant: Plant,
        reached: &mut Reached,
    ) -> Self {
        let restored = |bytes: &[u8]| Stream::restore(config(), bytes).unwrap().0;
        let stream = snapshot.map_or_else(|| Stream::new(config()), restored);
        let board = Board::new();
        board.begin(incarnation, stream.open_alerts(), stream.closed_alerts());
        let open: BTreeSet<String> = board.read().open.keys().cloned().collect();
        let mut book = plant.book.borrow_mut();
        if !book.sharded {
            let void = std::mem::take(&mut book.provisional).difference(&open).count();
            reached.add("provisional alert void after a reset", void);
        }
        book.begun.insert((shard, incarnation), open);
        drop(book);
        Derivation {
            stream,
            plant,
            board,
            incarnation,
            open: Segment::default(),
            promises: Promises::default(),
            submitted: VecDeque::new(),
            committed: 0,
            entered_by: None,
            held: None,
            held_since: Duration::ZERO,
        }
    }

    /// Windows wait for the model that judges them.
    pub fn holds(&self) -> bool {
        self.held.is_some()
    }

    pub fn held_for(&self, now: Duration) -> Duration {
        self.held.as_ref().map_or(Duration::ZERO, |_| now - self.held_since)
    }

    pub fn read(&mut self, run: Vec<Taken>, now: Duration, reached: &mut Reached) {
        if run.is_empty() {
            return;
        }
        assert!(!self.holds());
        let owners = self.owners();
        let steps = self.stream.read(run.clone()).unwrap();
        let after = self.owners();
        reached.add("machine moved to another agent", owners.iter().filter(|(m, owner)| after[*m] != **owner).count());
        run.iter().for_each(|taken| self.count_foreign(taken, reached));
        self.held_since = now;
        self.judge(run, steps, reached);
    }

    fn owners(&self) -> BTreeMap<AssetId, AgentKey> {
        let owned =
            self.stream.fleet().known().filter_map(|(machine, _, agent)| Some((machine.clone(), agent?.clone())));
        owned.collect()
    }

    /// As the owners are after the run; in it they may have changed once more.
    fn count_foreign(&self, taken: &Taken, reached: &mut Reached) {
        let Content::Batch { batch, .. } = &taken.content else { return };
        let fleet = self.stream.fleet();
        let machines = batch.machines.iter().filter_map(|m| fleet.catalogue().id(&m.machine));
        reached.add("foreign readings", machines.filter(|id| !fleet.owns(&taken.agent, *id)).count());
    }

    /// A model is on its way into a manifest.
    pub fn has_entered(&self) -> bool {
        self.stream.has_entered()
    }

    /// What people ask for meanwhile comes first.
    fn judge(&mut self, run: Vec<Taken>, steps: Steps, reached: &mut Reached) {
        if self.stream.undecided(&steps) {
            reached.count("windows waited for their model");
            self.held = Some((run, steps));
            return;
        }
        self.open.inputs.push(Input::Batches(run));
        let derived = self.stream.judge(steps, &self.plant.loaded).unwrap();
        self.keep(&derived, reached);
    }

    fn keep(&mut self, derived: &Derived, reached: &mut Reached) {
        self.open.output.add(derived);
        let mut book = self.plant.book.borrow_mut();
        for p in &derived.predictions {
            let window = (p.machine.clone(), p.generation, p.window_start_ms);
            // When slots move no clock is asked: what a predecessor has told beyond its last commit, nobody knows.
            let unknown = book.sharded && book.open.get(&window).is_some_and(|teller| *teller != self.incarnation);
            let first = book.told.entry(window.clone()).or_insert_with(|| p.model_version.clone());
            if unknown && *first != p.model_version {
                reached.count("window of a predecessor judged by another model");
                first.clone_from(&p.model_version);
            }
            assert_eq!(*first, p.model_version, "{p:?} was judged by another model before");
            book.open.insert(window.clone(), self.incarnation);
            self.promises.windows.push(window);
        }
        let later = |w: &&WindowFeatures| w.generation > 0 && w.machine.as_str() != ROVING;
        reached.add("window of a later clock generation", derived.windows.iter().filter(later).count());
        reached.add("window revised", derived.windows.iter().filter(|w| w.revision > 0).count());
        reached.add("reading too late for its window", derived.late as usize);
        reached.add("canary decided", derived.predictions.iter().filter(|p| p.role() == Role::Canary).count());
        reached.add("shadow scored", derived.shadows.len());
        if derived.alerts.is_empty() {
            return;
        }
        let shown: Vec<Alert> =
            derived.alerts.iter().map(|a| Alert { incarnation: self.incarnation, ..a.clone() }).collect();
        assert!(shown.iter().all(|alert| alert.provisional), "{shown:?}");
        book.provisional.extend(shown.iter().map(|alert| alert.id.clone()));
        self.promises.alerts_up_to = Some(self.board.publish_alerts(&shown));
        reached.add("provisional alert shown", shown.len());
    }

    /// What people ask for changes the state now, and is answered after its commit.
    pub fn obey(&mut self, call: &Rc<Call>, at: PlantTime, reached: &mut Reached) {
        let request = call.request.clone();
        match &call.ask {
            Ask::Acknowledge { alert } => {
                if let Some(before) = self.stream.requests.acknowledged(&request) {
                    reached.count("request repeated");
                    self.promises.answers.push((call.clone(), Answer::Acknowledged(before.acknowledged_ms)));
                    return;
                }
                match self.stream.acknowledge(alert, "crew", "", at) {
                    Err(_) => {
                        reached.count("request refused");
                        call.answer(Answer::Refused);
                    }
                    Ok(alert) => {
                        self.stream.requests.remember_acknowledged(request.clone(), &alert);
                        self.open.output.add_alert(&alert);
                        self.open.inputs.push(Input::Call { request, ask: call.ask.clone(), at });
                        let answer = Answer::Acknowledged(alert.acknowledged_ms);
                        self.promises.acknowledged.push(alert);
                        reached.count("alert acknowledged");
                        self.promises.answers.push((call.clone(), answer));
                    }
                }
            }
            Ask::Record { event } => {
                if self.stream.requests.recorded(&request) {
                    reached.count("request repeated");
                } else {
                    let derived = self.stream.record(event.clone(), at);
                    self.stream.requests.remember_recorded(request.clone());
                    reached.count("event recorded");
                    self.open.inputs.push(Input::Call { request, ask: call.ask.clone(), at });
                    self.keep(&derived, reached);
                }
                self.promises.answers.push((call.clone(), Answer::Recorded));
            }
        }
    }

    /// Enters the charge that is offered; true: it needs a segment at once.
    pub fn change_model(&mut self, at: PlantTime, reached: &mut Reached) -> bool {
        let offered = self.plant.book.borrow().offered.clone();
        let Some(charge) = offered.filter(|charge| self.stream.schedule().newest() != Some(charge)) else {
            return false;
        };
        let entered = !self.holds() && self.stream.enter(&charge, at);
        if entered {
            self.open.inputs.push(Input::Enter(charge, at));
            reached.count("model entered");
        }
        entered
    }

    pub fn machines(&self) -> Vec<String> {
        self.stream.fleet().known().map(|(machine, ..)| machine.to_string()).collect()
    }

    pub fn open_alerts(&self) -> BTreeSet<String> {
        self.board.read().open.keys().cloned().collect()
    }

    pub fn has_news(&self) -> bool {
        !self.open.inputs.is_empty() || !self.promises.answers.is_empty()
    }

    /// The barrier: the state for the snapshot.
    pub fn snapshot(&mut self, left: &EpochsLeft, reached: &mut Reached) -> Vec<u8> {
        assert!(!self.holds());
        let entered = self.stream.has_entered();
        // The program has no book: it waits for so long that what an earlier life had read should have come again.
        if self.plant.book.borrow().open.values().all(|teller| *teller == self.incarnation) {
            self.stream.settle();
        }
        if self.stream.has_entered() && !entered {
            self.open.inputs.push(Input::Settle);
            reached.count("model settled");
        }
        self.stream.snapshot(left).unwrap()
    }

    /// The segment of that state is on its way. `folded`: in one manifest with those up to the one of this snapshot.
    pub fn submitted(&mut self, key: &str, folded: Option<&str>, batches: u64) {
        let balance = &self.open.output.balance;
        assert_eq!(balance.batches, batches);
        assert_eq!(balance.readings_taken, balance.readings_archived + balance.readings_dead_lettered);
        let mut book = self.plant.book.borrow_mut();
        let mut segment = folded.map_or_else(Segment::default, |before| book.segments.remove(before).unwrap());
        segment.follow(std::mem::take(&mut self.open));
        book.segments.insert(key.into(), segment);
        drop(book);
        self.submitted.push_back(std::mem::take(&mut self.promises));
        if self.stream.has_entered() {
            self.entered_by.get_or_insert(self.committed + self.submitted.len() as u64);
        }
    }

    /// So many more segments are in a manifest.
    pub fn committed(&mut self, segments: usize, reached: &mut Reached) {
        (0..segments).for_each(|_| self.kept(reached));
        if self.entered_by.take_if(|by| *by <= self.committed).is_some() {
            self.stream.in_force();
            reached.count("model in force");
        }
        if let Some((run, steps)) = self.held.take() {
            self.judge(run, steps, reached);
        }
    }

    fn kept(&mut self, reached: &mut Reached) {
        self.committed += 1;
        let promises = self.submitted.pop_front().unwrap();
        self.plant.book.borrow_mut().open.retain(|window, _| !promises.windows.contains(window));
        if let Some(number) = promises.alerts_up_to {
            self.board.confirm_alerts(number);
            let mut book = self.plant.book.borrow_mut();
            let (open, closed) = self.board.read().alerts(true);
            for alert in open.iter().chain(&closed).filter(|alert| !alert.provisional) {
                book.provisional.remove(&alert.id);
                book.confirmed.insert(alert.id.clone());
            }
            reached.count("provisional alerts confirmed");
        }
        promises.acknowledged.iter().for_each(|alert| self.board.acknowledged(alert));
        promises.answers.into_iter().for_each(|(call, answer)| call.answer(answer));
    }
}
