//! Where a new writer starts: a pure function of the newest manifest.

use std::collections::BTreeMap;

use proto::{
    ack::{ArchiveId, Incarnation},
    archive::{Balance, MANIFEST_VERSION, Manifest, ManifestKind, Shard, shards::Slots},
    position::Position,
};

use crate::decode::AgentKey;

/// Who wants to write.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Random; taken only if there is no archive yet.
    pub fresh: ArchiveId,
    pub shard: Shard,
    /// Stable id of the instance.
    pub owner: String,
    pub wall_ms: i64,
}

/// What the archive knows, and as whom to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    pub archive_id: ArchiveId,
    pub incarnation: Incarnation,
    /// What the shard owns.
    pub slots: Slots,
    pub positions: BTreeMap<AgentKey, Position>,
    /// State to go on from; none: nothing was committed yet.
    pub snapshot: Option<Vec<u8>>,
}

/// The manifest to put after the newest one: everything as it stands there, under a new incarnation. If its number is
/// taken by now, somebody else was faster: read the newest again.
pub fn takeover(newest: Option<&Manifest>, claim: &Claim) -> Manifest {
    let number = newest.map_or(0, |m| m.number) + 1;
    Manifest {
        version: MANIFEST_VERSION,
        archive: newest.map_or(claim.fresh, |m| m.archive),
        shard: claim.shard,
        number,
        incarnation: number,
        kind: ManifestKind::Takeover,
        owner: claim.owner.clone(),
        written_ms: claim.wall_ms,
        objects: vec![],
        agents: newest.map(|m| m.agents.clone()).unwrap_or_default(),
        snapshot: newest.and_then(|m| m.snapshot.clone()),
        balance: Balance::default(),
        slots: newest.map_or(Slots::ALL, |m| m.slots),
        successors: vec![],
        predecessors: vec![],
    }
}

impl Recovered {
    /// `snapshot`: what the takeover's snapshot reference names.
    pub fn new(takeover: &Manifest, snapshot: Option<Vec<u8>>) -> Self {
        Recovered {
            archive_id: takeover.archive,
            incarnation: takeover.incarnation,
            slots: takeover.slots,
            positions: positions(takeover),
            snapshot,
        }
    }
}

pub fn positions(manifest: &Manifest) -> BTreeMap<AgentKey, Position> {
    let key = |(site, agent)| AgentKey { site, agent };
    manifest.positions().into_iter().map(|(agent, position)| (key(agent), position)).collect()
}

#[cfg(test)]
mod tests {
    use proto::{
        archive::{AgentPosition, ObjectRef},
        asset::AssetId,
        position::Epoch,
    };

    use super::*;

    fn claim(owner: &str) -> Claim {
        Claim { fresh: ArchiveId([owner.as_bytes()[0]; 16]), shard: Shard(0), owner: owner.into(), wall_ms: 7 }
    }

    #[test]
    fn the_first_writer_names_the_archive() {
        let manifest = takeover(None, &claim("a"));
        assert_eq!((manifest.number, manifest.incarnation, manifest.archive), (1, 1, ArchiveId([b'a'; 16])));
        assert_eq!(manifest.kind, ManifestKind::Takeover);
        let recovered = Recovered::new(&manifest, None);
        assert!(recovered.positions.is_empty() && recovered.snapshot.is_none());
    }

    #[test]
    fn a_later_writer_goes_on_where_the_newest_manifest_stands() {
        let position = Position { epoch: Epoch([3; 16]), seq: 12 };
        let agent = AgentKey { site: AssetId::new("mill").unwrap(), agent: AssetId::new("gw").unwrap() };
        let newest = Manifest {
            number: 8,
            incarnation: 5,
            kind: ManifestKind::Commit,
            agents: vec![AgentPosition { site: agent.site.clone(), agent: agent.agent.clone(), position }],
            snapshot: Some(ObjectRef { key: "k".into(), bytes: 2, sha256: "00".into() }),
            balance: Balance { batches: 4, ..Balance::default() },
            ..takeover(None, &claim("a"))
        };
        let manifest = takeover(Some(&newest), &claim("b"));
        assert_eq!((manifest.number, manifest.incarnation, manifest.archive), (9, 9, newest.archive));
        assert_eq!((manifest.owner.as_str(), manifest.snapshot.clone()), ("b", newest.snapshot));
        assert_eq!(manifest.balance, Balance::default(), "it takes nothing");
        assert_eq!(Recovered::new(&manifest, Some(vec![1])).positions, BTreeMap::from([(agent, position)]));
    }
}
