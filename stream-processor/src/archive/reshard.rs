//! How slots go from shards to other shards, and why nothing is lost or doubled on the way.
//!
//! ```text
//! 1. layout     a record, put if absent, decides the change as a whole
//! 2. closed     each predecessor gets a last manifest, which throws its writer out by its number
//! 3. opened     each successor gets a first manifest, numbered above all of those, with the positions and the state of
//!               its slots as the predecessors' last manifests have them
//! ```
//!
//! Each manifest is one put-if-absent and follows from what lies in S3 by then. So a crash between any two leaves a state
//! that anybody can go on from: the command when it is given again, or the processor of a successor when it starts. What
//! a predecessor has not committed is not acknowledged either, and goes from the gateways to the successors; those see
//! a higher incarnation, as after any takeover, and nothing else.

pub mod work;

use std::collections::BTreeMap;

use proto::archive::{
    Manifest, ManifestKind, ObjectRef, Predecessor, Shard,
    shards::{Descent, Layout},
};

use super::recovery::{Claim, takeover};

/// What is to be done next so that a shard can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Put this shard's last manifest.
    Close(Shard),
    /// Put this shard's first manifest: all its predecessors are closed.
    Open(Shard),
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReshardError {
    #[error("there is no shard {0}: an archive begins with shard 0, and `shard split` makes others")]
    Unknown(Shard),
    #[error("the predecessors of shard {0} are of different archives")]
    Archives(Shard),
}

/// `newest`: manifests by shard, as far as there are any.
pub fn next(layout: &Layout, newest: &BTreeMap<Shard, Manifest>, shard: Shard) -> Result<Step, ReshardError> {
    let descent = layout.of(shard).ok_or(ReshardError::Unknown(shard))?;
    // The first shard begins with the takeover of its first writer.
    if newest.contains_key(&shard) || shard == Shard::FIRST {
        return Ok(Step::Done);
    }
    for predecessor in &descent.predecessors {
        match newest.get(predecessor) {
            Some(manifest) if manifest.kind == ManifestKind::Closed => {}
            None if *predecessor != Shard::FIRST => return next(layout, newest, *predecessor),
            _ => return Ok(Step::Close(*predecessor)),
        }
    }
    Ok(Step::Open(shard))
}

/// The last manifest of a shard after its newest one, which is no such; of an empty archive, the only one.
pub fn closing(newest: Option<&Manifest>, layout: &Layout, claim: &Claim) -> Manifest {
    let successors = layout.successors(claim.shard);
    Manifest { kind: ManifestKind::Closed, successors, ..takeover(newest, claim) }
}

/// The first manifest of a shard; `closed`: the last ones of all its predecessors. `snapshot`: the state of its slots.
pub fn opening(
    descent: &Descent,
    closed: &[Manifest],
    snapshot: Option<ObjectRef>,
    claim: &Claim,
) -> Result<Manifest, ReshardError> {
    let first = closed.first().ok_or(ReshardError::Unknown(descent.shard))?;
    if closed.iter().any(|m| m.archive != first.archive) {
        return Err(ReshardError::Archives(descent.shard));
    }
    let number = opening_number(closed);
    let agents = closed.iter().flat_map(|m| &m.agents).filter(|a| descent.slots.holds(&a.agent)).cloned().collect();
    let claim = Claim { shard: descent.shard, ..claim.clone() };
    Ok(Manifest {
        kind: ManifestKind::Opened,
        number,
        incarnation: number,
        agents,
        snapshot,
        slots: descent.slots,
        predecessors: closed.iter().map(|m| Predecessor { shard: m.shard, number: m.number }).collect(),
        ..takeover(Some(first), &claim)
    })
}

/// Above every predecessor's last one: so an agent sees its incarnations only rise.
pub fn opening_number(closed: &[Manifest]) -> u64 {
    closed.iter().map(|m| m.number).max().unwrap_or(0) + 1
}

#[cfg(test)]
mod tests {
    use proto::{
        ack::ArchiveId,
        archive::{AgentPosition, shards::ShardSlots},
        asset::AssetId,
        position::{Epoch, Position},
    };

    use super::*;

    fn claim(shard: u8) -> Claim {
        Claim { fresh: ArchiveId([9; 16]), shard: Shard(shard), owner: "a".into(), wall_ms: 7 }
    }

    fn new(shard: u8, slots: &str) -> ShardSlots {
        ShardSlots { shard: Shard(shard), slots: slots.parse().unwrap() }
    }

    fn agents() -> Vec<AgentPosition> {
        let agent = |n: u64| AgentPosition {
            site: AssetId::new("mill").unwrap(),
            agent: AssetId::new(&format!("gw-{n}")).unwrap(),
            position: Position { epoch: Epoch([n as u8; 16]), seq: n + 1 },
        };
        (0..40).map(agent).collect()
    }

    /// Carries everything out that is left to do; gives back what was done.
    fn carry_out(layout: &Layout, newest: &mut BTreeMap<Shard, Manifest>, shard: u8) -> Vec<Step> {
        let mut steps = Vec::new();
        loop {
            let step = next(layout, newest, Shard(shard)).unwrap();
            let manifest = match step {
                Step::Close(s) => closing(newest.get(&s), layout, &claim(s.0)),
                Step::Open(s) => {
                    let descent = layout.of(s).unwrap();
                    let closed: Vec<Manifest> = descent.predecessors.iter().map(|p| newest[p].clone()).collect();
                    opening(descent, &closed, None, &claim(s.0)).unwrap()
                }
                Step::Done => return steps,
            };
            steps.push(step);
            newest.insert(manifest.shard, manifest);
        }
    }

    #[test]
    fn a_split_and_a_merge_move_every_agent_once_and_raise_its_incarnation() {
        let split = Layout::default().change(&[Shard(0)], &[new(1, "0-20"), new(2, "21-63")], 0).unwrap();
        let open = Manifest { number: 7, incarnation: 5, agents: agents(), ..takeover(None, &claim(0)) };
        let mut newest = BTreeMap::from([(Shard(0), open.clone())]);
        assert_eq!(carry_out(&split, &mut newest, 2), [Step::Close(Shard(0)), Step::Open(Shard(2))]);
        assert_eq!(carry_out(&split, &mut newest, 1), [Step::Open(Shard(1))], "what another did is not done again");
        let closed = &newest[&Shard(0)];
        assert_eq!((closed.number, closed.incarnation, closed.kind), (8, 8, ManifestKind::Closed));
        assert_eq!((closed.successors.clone(), closed.agents.clone()), (split.successors(Shard(0)), agents()));
        let (one, two) = (&newest[&Shard(1)], &newest[&Shard(2)]);
        assert_eq!((one.number, one.incarnation, one.archive), (9, 9, open.archive));
        assert_eq!(one.predecessors, [Predecessor { shard: Shard(0), number: 8 }]);
        assert!(one.agents.iter().all(|a| one.slots.holds(&a.agent)) && !one.agents.is_empty());
        assert_eq!(one.agents.len() + two.agents.len(), agents().len());

        // One of them goes on for long, the other stays.
        newest.insert(Shard(2), Manifest { number: 90, ..two.clone() });
        let merged = split.change(&[Shard(1), Shard(2)], &[new(3, "0-63")], 0).unwrap();
        let steps = carry_out(&merged, &mut newest, 3);
        assert_eq!(steps, [Step::Close(Shard(1)), Step::Close(Shard(2)), Step::Open(Shard(3))]);
        let three = &newest[&Shard(3)];
        assert_eq!((three.number, three.agents.len()), (92, agents().len()));
        assert!(three.number > newest[&Shard(1)].number && three.number > newest[&Shard(2)].number);
    }

    #[test]
    fn predecessors_that_were_never_opened_are_opened_first() {
        let split = Layout::default().change(&[Shard(0)], &[new(1, "0-31"), new(2, "32-63")], 0).unwrap();
        let merged = split.change(&[Shard(1), Shard(2)], &[new(3, "0-63")], 0).unwrap();
        let mut newest = BTreeMap::new();
        use Step::{Close, Open};
        let steps = carry_out(&merged, &mut newest, 3);
        let of = |n: u8| [Open(Shard(n)), Close(Shard(n))];
        assert_eq!(steps, [&[Close(Shard(0))][..], &of(1), &of(2), &[Open(Shard(3))]].concat());
        assert_eq!(next(&merged, &newest, Shard(9)), Err(ReshardError::Unknown(Shard(9))));
    }

    #[test]
    fn shards_of_different_archives_are_not_merged() {
        let descent =
            Descent { shard: Shard(3), slots: "0-63".parse().unwrap(), predecessors: vec![Shard(1), Shard(2)] };
        let of = |n: u8| takeover(None, &Claim { fresh: ArchiveId([n; 16]), ..claim(n) });
        let opened = opening(&descent, &[of(1), of(2)], None, &claim(3));
        assert_eq!(opened, Err(ReshardError::Archives(Shard(3))));
    }
}
