//! Everything there is, and what breaks it.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use bytes::Bytes;
use model::trial::Trial;
use proto::{archive::Shard, asset::AssetId, topic::Topic};
use rand::{
    Rng, SeedableRng,
    seq::{IndexedMutRandom, IndexedRandom},
};
use rand_chacha::ChaCha8Rng;
use stream_processor::stream::{Loaded, schedule::Charge};

use crate::{
    TICKS_WITH_FAULTS,
    archive::Ledger,
    broker::Broker,
    crew::Crew,
    derived::{Book, Derivation, Plant},
    faults::{Faults, Reached, TICK},
    gateway::Gateway,
    instruments::{Instruments, plant_time},
    processor::Processor,
    reshard::{CHANGES_MAX, Operator, layout},
    running::Running,
    s3::{Answer, S3, Ticket},
};

pub struct World {
    pub rng: ChaCha8Rng,
    pub now: Duration,
    site: AssetId,
    pub faults: Faults,
    pub gateways: Vec<Gateway>,
    broker: Broker,
    /// More than one of a shard only while the later one has not thrown the earlier one out.
    processors: Vec<Processor>,
    operator: Operator,
    pub s3: S3,
    ledger: Ledger,
    /// As whom a processor of a name last wrote to a shard.
    remembered: BTreeMap<(String, Shard), u64>,
    /// What was in buckets that nobody writes to any more.
    pub left: Vec<BTreeMap<String, Bytes>>,
    /// Not where only the protocol is looked at.
    pub plant: Option<Plant>,
    /// Not while slots move: people ask one shard.
    pub crew: Option<Crew>,
}

impl World {
    pub fn new(seed: u64, plant: Option<&Rc<Loaded>>) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let site = AssetId::new("mill").unwrap();
        let sharded = plant.is_none() || rng.random_bool(0.3);
        let count = rng.random_range(1..4);
        let instruments = |n| plant.map(|_| Instruments::new(n, count > 1 && !sharded));
        let gateways = (0..count).map(|n| Gateway::new(&site, n, instruments(n), &mut rng)).collect();
        let mut faults = Faults::drawn(&mut rng);
        if plant.is_some() {
            faults.archive_exchanged = 0.0;
        }
        let (broker, s3) = (Broker::default(), S3::default());
        let (now, processors, ledger) = (Duration::ZERO, vec![], Ledger::default());
        let operator = Operator::new(TICK * TICKS_WITH_FAULTS, if sharded { CHANGES_MAX } else { 0 }, &mut rng);
        let book = Rc::new(RefCell::new(Book::new(sharded)));
        let plant = plant.map(|loaded| Plant { loaded: loaded.clone(), book });
        let crew = (!sharded).then(Crew::default);
        let (left, remembered) = (vec![], BTreeMap::new());
        World {
            rng,
            now,
            site,
            faults,
            gateways,
            broker,
            processors,
            operator,
            s3,
            ledger,
            remembered,
            left,
            plant,
            crew,
        }
    }

    pub fn tick(&mut self, reached: &mut Reached) {
        self.now += TICK;
        self.break_things(reached);
        self.change_models();
        self.run_gateways(reached);
        self.run_processors(reached);
    }

    fn break_things(&mut self, reached: &mut Reached) {
        for gateway in &mut self.gateways {
            if self.rng.random_bool(self.faults.agent_killed) {
                gateway.kill(&mut self.rng, reached);
                reached.count("agent killed");
            }
            if self.rng.random_bool(self.faults.disk_failing) {
                let until = self.now + Duration::from_millis(self.rng.random_range(50..2_000));
                gateway.fail_disk(until, reached);
            }
            gateway.tick(self.now);
            if self.rng.random_bool(self.faults.disk_copied) {
                gateway.save_image(&mut self.rng);
            }
            if self.rng.random_bool(self.faults.disk_exchanged) {
                gateway.restore(&self.faults, &mut self.rng, reached);
            }
            if self.rng.random_bool(self.faults.batch_refused) {
                gateway.quarantine(&mut self.rng, reached);
            }
            if self.rng.random_bool(self.faults.frame_damaged) {
                gateway.damage(&mut self.rng, reached);
            }
            if self.rng.random_bool(self.faults.agent_updated) {
                let until = self.now + Duration::from_secs(self.rng.random_range(1..4));
                gateway.update(until, reached);
            }
            if let Some(instruments) = &mut gateway.instruments {
                if self.rng.random_bool(self.faults.clock_stepped) {
                    instruments.step_clock(&mut self.rng, reached);
                }
                if self.rng.random_bool(self.faults.machine_moved) {
                    instruments.take_over();
                }
            }
            if self.rng.random_bool(self.faults.agent_disconnected)
                && let Some(agent) = &mut gateway.agent
            {
                agent.disconnect();
            }
        }
        if self.rng.random_bool(self.faults.broker_restarted) {
            self.broker.restart();
            self.gateways.iter_mut().filter_map(|g| g.agent.as_mut()).for_each(|a| a.disconnect());
            reached.count("broker restarted");
        }
        if self.rng.random_bool(self.faults.processor_killed) && !self.processors.is_empty() {
            let at = self.rng.random_range(0..self.processors.len());
            let mut killed = self.processors.remove(at);
            reached.count("processor killed");
            if killed.running().and_then(Running::derivation).is_some_and(|d| d.has_entered()) {
                reached.count("processor killed with a model on its way into a manifest");
            }
        }
        if self.rng.random_bool(self.faults.processor_stopped) && !self.processors.is_empty() {
            let at = self.rng.random_range(0..self.processors.len());
            self.processors[at].stop();
            reached.count("processor stopped");
        }
        if self.rng.random_bool(self.faults.s3_outage) {
            self.s3.outage(self.now + Duration::from_secs(self.rng.random_range(1..8)));
        }
        if self.rng.random_bool(self.faults.archive_exchanged) && !self.s3.objects.is_empty() {
            self.exchange_archive(reached);
        }
        for processor in &mut self.processors {
            let (name, shard) = (processor.name().to_owned(), processor.shard);
            if let Some(running) = processor.running() {
                self.remembered.insert((name, shard), running.incarnation());
            }
        }
        self.processors.retain(|p| !p.is_over());
        let layout = layout(&self.s3.objects);
        for descent in &layout.shards {
            let shard = descent.shard;
            let running = self.processors.iter().filter(|p| p.shard == shard).count();
            let has_slots = layout.successors(shard).is_empty();
            // Somebody may also start one for a shard whose slots have gone to others.
            let doubled = running <= 1 && self.rng.random_bool(self.faults.processor_doubled);
            if doubled && running == 1 {
                reached.count("processor doubled");
            }
            if doubled || (running == 0 && has_slots) {
                // Of the same name it takes over at once, of another it waits.
                let name = format!("p{}", self.rng.random_range(0..2));
                let last = self.remembered.get(&(name.clone(), shard)).copied();
                let last = last.filter(|_| self.rng.random_bool(0.5));
                self.processors.push(Processor::new(name, &self.site, shard, self.plant.clone(), last));
            }
        }
    }

    /// Somebody trains, promotes and tries models.
    fn change_models(&mut self) {
        let Some(plant) = self.plant.as_ref().filter(|_| self.rng.random_bool(self.faults.model_changed)) else {
            return;
        };
        let versions: Vec<&String> = plant.loaded.keys().collect();
        let two: Vec<String> = versions.choose_multiple(&mut self.rng, 2).map(|version| (*version).clone()).collect();
        let [version, other] = two.try_into().unwrap();
        let share = [None, Some(0.0), Some(0.5)][self.rng.random_range(0..3)];
        let trial = share.map(|share| Trial { version: other, share });
        plant.book.borrow_mut().offer(Charge { version, trial });
    }

    fn run_crew(&mut self, reached: &mut Reached) {
        let (Some(crew), at) = (&mut self.crew, plant_time(self.now)) else { return };
        let mut derivations: Vec<&mut Derivation> =
            self.processors.iter_mut().filter_map(|p| p.running()?.derivation()).collect();
        let Some(asked) = derivations.choose_mut(&mut self.rng) else { return };
        if self.faults.people_ask {
            let machines: Vec<String> = asked.machines();
            crew.think(&asked.open_alerts(), &machines, at, &mut self.rng);
        }
        for call in crew.due(self.now) {
            asked.obey(&call, at, reached);
        }
    }

    /// Everybody is pointed to an empty bucket.
    fn exchange_archive(&mut self, reached: &mut Reached) {
        self.processors.clear();
        self.left.push(self.s3.exchange());
        self.ledger = Ledger::default();
        self.remembered.clear();
        self.operator = Operator::new(TICK * TICKS_WITH_FAULTS, CHANGES_MAX, &mut self.rng);
        reached.count("archive exchanged");
    }

    fn run_operator(&mut self, answers: &[(Ticket, Answer)], reached: &mut Reached) {
        answers.iter().for_each(|(ticket, answer)| self.operator.answer(*ticket, answer));
        self.operator.tick(self.now, &mut self.s3, &self.faults, &mut self.rng, reached);
    }

    fn run_gateways(&mut self, reached: &mut Reached) {
        for (to, ack) in self.broker.acks(self.now) {
            self.gateways[to].hear(&ack, true, self.now);
        }
        for (number, gateway) in self.gateways.iter_mut().enumerate() {
            if gateway.agent.is_none() && self.rng.random_bool(0.2) {
                gateway.start(self.now, &self.faults, &mut self.rng);
            }
            let Some(agent) = &mut gateway.agent else { continue };
            if !agent.connected && self.rng.random_bool(0.2) {
                agent.connect(self.now);
                if let Some(ack) = self.broker.retained(number) {
                    gateway.hear(&ack, false, self.now);
                }
            }
            for frame in gateway.send(self.now, &self.faults, &mut self.rng, reached) {
                self.broker.publish(number, frame, self.now, &self.faults, &mut self.rng, reached);
            }
        }
    }

    pub fn produce(&mut self, reached: &mut Reached) {
        for gateway in &mut self.gateways {
            for _ in 0..self.rng.random_range(0..3) {
                let poisoned = self.rng.random_bool(self.faults.batch_poisoned);
                gateway.append(poisoned, self.now, &mut self.rng, reached);
            }
            if self.rng.random_bool(0.5) {
                gateway.sync();
            }
        }
    }

    fn run_processors(&mut self, reached: &mut Reached) {
        let frames = self.broker.frames(self.now);
        let answers = self.s3.answers(self.now, reached);
        self.ledger.catch_up(&self.s3.objects);
        self.run_operator(&answers, reached);
        self.run_crew(reached);
        for processor in &mut self.processors {
            for (from, frame) in &frames {
                processor.take(&self.gateways[*from].key, frame.clone(), reached);
            }
            for (ticket, answer) in &answers {
                processor.answer(*ticket, answer, self.now, reached);
            }
            for (topic, ack) in processor.tick(self.now, &mut self.s3, &self.faults, &mut self.rng, reached) {
                let to = agent_number(&self.gateways, &topic);
                let agent = &self.gateways[to].key;
                let honest = ack.committed.is_none_or(|p| self.ledger.holds(agent, p));
                assert!(honest, "{agent:?} is told that {:?} is committed", ack.committed);
                self.broker.publish_ack(to, ack, self.now, &self.faults, &mut self.rng);
            }
        }
    }

    pub fn at_rest(&self) -> bool {
        self.operator.is_done()
            && self.crew.as_ref().is_none_or(Crew::is_done)
            && self.processors.iter().all(Processor::is_idle)
            && self.gateways.iter().all(Gateway::is_empty)
    }
}

fn agent_number(gateways: &[Gateway], topic: &Topic) -> usize {
    gateways.iter().position(|g| g.key.agent == topic.agent).unwrap()
}
