//! The rules, manifest by manifest and record by record. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    archive::{
        Manifest, ManifestKind, ObjectRef, Shard, Table,
        compaction::{Compaction, Listed},
    },
    asset::AssetId,
    position::Position,
};

use super::{Fault, Verified};

#[derive(Debug, Default)]
pub struct Audit {
    pub out: Verified,
    /// What counts so far, by key.
    pub live: BTreeMap<String, Listed>,
    /// The newest one: recovery starts from it.
    pub snapshot: Option<ObjectRef>,
    /// Ever named by a manifest.
    named: BTreeSet<String>,
    before: Option<Manifest>,
    covered: u64,
}

impl Audit {
    pub fn manifest(&mut self, manifest: &Manifest) {
        self.out.manifests += 1;
        self.writer(manifest);
        self.positions(manifest);
        self.balance(manifest);
        for listed in model::store::listing::listed(manifest) {
            let key = listed.object.object.key.clone();
            if !self.named.insert(key.clone()) {
                self.out.fault(Fault::NamedTwice { number: manifest.number, key: key.clone() });
            }
            self.live.insert(key, listed);
        }
        self.snapshot = manifest.snapshot.clone();
        self.before = Some(Manifest { objects: vec![], ..manifest.clone() });
    }

    fn writer(&mut self, manifest: &Manifest) {
        use ManifestKind::{Closed, Opened, Takeover};
        let takeover = matches!(manifest.kind, Takeover | Closed | Opened);
        let reason = match &self.before {
            Some(before) if before.kind == Closed => "the shard was closed before",
            Some(before) if manifest.kind == Opened || before.slots != manifest.slots => "slots come to an open shard",
            Some(before) if before.archive != manifest.archive => "of another archive",
            Some(before) if !takeover && before.incarnation != manifest.incarnation => {
                "of a writer that has not taken over"
            }
            None if !takeover => "the first one takes nothing over",
            _ if takeover && manifest.incarnation != manifest.number => {
                "a takeover whose incarnation is not its number"
            }
            _ => return,
        };
        self.out.fault(Fault::Manifest { number: manifest.number, reason: reason.into() });
    }

    /// The first manifest of a successor, and the last ones of its predecessors.
    pub fn descent(&mut self, opened: &Manifest, closed: &[Manifest]) {
        let is_one = |m: &Manifest| m.kind == ManifestKind::Closed && m.archive == opened.archive;
        let after = |m: &Manifest| m.number < opened.number;
        let taken: BTreeMap<_, _> = closed.iter().flat_map(Manifest::positions).collect();
        let here = |((_, agent), _): &(&(AssetId, AssetId), &Position)| opened.slots.holds(agent);
        let taken: BTreeMap<_, _> = taken.iter().filter(here).map(|(k, v)| (k.clone(), *v)).collect();
        let reason = match opened.kind {
            ManifestKind::Opened if closed.len() != opened.predecessors.len() => {
                "a predecessor's last manifest is missing"
            }
            ManifestKind::Opened if !closed.iter().all(is_one) => "a predecessor is not closed, or of another archive",
            ManifestKind::Opened if !closed.iter().all(after) => "not numbered above its predecessors' last ones",
            ManifestKind::Opened if taken != opened.positions() => "its positions are not those of its predecessors",
            ManifestKind::Opened => return,
            _ if opened.shard == Shard::FIRST => return,
            _ => "a shard that was never opened",
        };
        self.out.fault(Fault::Manifest { number: opened.number, reason: reason.into() });
    }

    fn positions(&mut self, manifest: &Manifest) {
        let Some(before) = &self.before else { return };
        // A restored card may bring back an older end of its epoch, and says so.
        let declared = manifest.objects.iter().any(|o| o.table == Table::Gaps);
        let (number, now) = (manifest.number, manifest.positions());
        let mut faults = Vec::new();
        for (agent, from) in before.positions() {
            let name = |(site, agent): &(AssetId, AssetId)| format!("{site}/{agent}");
            match now.get(&agent) {
                None => faults.push(Fault::AgentGone { number, agent: name(&agent) }),
                Some(to) if to.epoch == from.epoch && to.seq < from.seq && !declared => {
                    let text = |p: &Position| format!("{}:{}", p.epoch, p.seq);
                    faults.push(Fault::Position { number, agent: name(&agent), from: text(&from), to: text(to) });
                }
                Some(_) => {}
            }
        }
        faults.into_iter().for_each(|fault| self.out.fault(fault));
    }

    fn balance(&mut self, manifest: &Manifest) {
        let (number, b) = (manifest.number, manifest.balance);
        let (taken, archived, dead_lettered) = (b.readings_taken, b.readings_archived, b.readings_dead_lettered);
        self.out.readings_taken += taken;
        self.out.readings_archived += archived;
        self.out.readings_dead_lettered += dead_lettered;
        if taken != archived + dead_lettered {
            self.out.fault(Fault::Balance { number, taken, archived, dead_lettered });
        }
        let rows = manifest.objects.iter().filter(|o| o.table == Table::Readings).map(|o| o.rows).sum();
        if rows != archived {
            self.out.fault(Fault::Readings { number, rows, archived });
        }
    }

    /// After the manifests that it covers.
    pub fn compaction(&mut self, record: &Compaction) {
        self.out.compactions += 1;
        let number = record.number;
        if record.manifest < self.covered {
            let reason =
                format!("it covers manifests up to {}, the one before up to {}", record.manifest, self.covered);
            self.out.fault(Fault::Compaction { number, reason });
        }
        self.covered = record.manifest;
        if self.before.as_ref().is_some_and(|m| m.archive != record.archive) {
            self.out.fault(Fault::Compaction { number, reason: "of another archive".into() });
        }
        for replacement in &record.replacements {
            let keys = replacement.replaced.iter().map(|l| &l.object.object.key);
            let mut listed: Vec<Listed> = keys.filter_map(|key| self.live.remove(key)).collect();
            match replacement.apply(&mut listed) {
                Ok(()) => {}
                Err(error) => self.out.fault(Fault::Replacement { number, error }),
            }
            let by = &replacement.by;
            self.live.insert(by.object.object.key.clone(), by.clone());
        }
    }

    /// What the newest record's parts list, when all that it covers has been walked and nothing more.
    pub fn parts(&mut self, number: u64, listed: Vec<Listed>) {
        let parts: BTreeMap<String, Listed> = listed.into_iter().map(|l| (l.object.object.key.clone(), l)).collect();
        let differ = |(key, listed): &(&String, &Listed)| self.live.get(*key) != Some(listed);
        let different = parts.iter().filter(differ).map(|(key, _)| key);
        let missing = self.live.keys().filter(|key| !parts.contains_key(*key));
        let keys: Vec<String> = different.chain(missing).cloned().collect();
        for key in keys {
            self.out.fault(Fault::Parts { number, key });
        }
    }
}
