//! Which blocks to read so that every sensor is read with few requests. Pure.

use serde::Deserialize;

/// What one request may ask for, by the specification.
pub const REGISTERS_PER_READ_MAX: u16 = 125;
pub const BITS_PER_READ_MAX: u16 = 2_000;
/// Registers that nobody wants and that are read all the same, to save a request.
pub const GAP_REGISTERS_MAX: u16 = 16;
pub const GAP_BITS_MAX: u16 = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    Coil,
    Discrete,
    Holding,
    Input,
}

impl Table {
    pub fn is_bits(self) -> bool {
        matches!(self, Table::Coil | Table::Discrete)
    }
}

/// Registers (or bits) that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub unit_id: u8,
    pub table: Table,
    pub address: u16,
    pub count: u16,
}

impl Span {
    /// The end may be 65536.
    fn end(&self) -> u32 {
        u32::from(self.address) + u32::from(self.count)
    }

    /// One span over both, if one request can read it and little in between is not wanted. `next` begins no earlier.
    fn merged(&self, next: &Span) -> Option<Span> {
        let (most, gap_max) = match self.table.is_bits() {
            true => (BITS_PER_READ_MAX, GAP_BITS_MAX),
            false => (REGISTERS_PER_READ_MAX, GAP_REGISTERS_MAX),
        };
        let count = u16::try_from(self.end().max(next.end()) - u32::from(self.address)).ok()?;
        let near = u32::from(next.address) <= self.end() + u32::from(gap_max);
        let same = (self.unit_id, self.table) == (next.unit_id, next.table);
        (same && near && count <= most).then_some(Span { count, ..*self })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub span: Span,
    /// Which of the planned spans are in it.
    pub members: Vec<usize>,
}

/// Blocks in the order of unit, table and address. Every span is in exactly one of them.
pub fn plan(spans: &[Span]) -> Vec<Block> {
    let mut order: Vec<usize> = (0..spans.len()).collect();
    order.sort_by_key(|at| spans[*at]);
    let mut blocks: Vec<Block> = Vec::new();
    for at in order {
        match blocks.last_mut().and_then(|last| Some((last.span.merged(&spans[at])?, last))) {
            Some((span, last)) => {
                last.span = span;
                last.members.push(at);
            }
            None => blocks.push(Block { span: spans[at], members: vec![at] }),
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn span(unit_id: u8, table: Table, address: u16, count: u16) -> Span {
        Span { unit_id, table, address, count }
    }

    fn blocks(spans: &[Span]) -> Vec<(u16, u16, Vec<usize>)> {
        plan(spans).into_iter().map(|b| (b.span.address, b.span.count, b.members)).collect()
    }

    #[test]
    fn what_is_near_is_read_at_once() {
        use Table::*;
        // 22..37 is a gap of 15, and 0..2 overlaps with 1..5.
        let near = [span(1, Input, 20, 2), span(1, Input, 0, 2), span(1, Input, 1, 4), span(1, Input, 37, 1)];
        assert_eq!(blocks(&near), [(0, 38, vec![1, 2, 0, 3])]);
        let far = [span(1, Input, 0, 2), span(1, Input, 19, 1)];
        assert_eq!(blocks(&far), [(0, 2, vec![0]), (19, 1, vec![1])]);
    }

    #[test]
    fn neither_tables_nor_units_nor_the_largest_request_are_crossed() {
        use Table::*;
        let apart = [span(1, Input, 0, 1), span(1, Holding, 1, 1), span(2, Input, 2, 1), span(1, Coil, 3, 1)];
        assert_eq!(plan(&apart).len(), 4);
        let row: Vec<_> = (0..130).map(|n| span(1, Input, n, 1)).collect();
        let sizes: Vec<_> = plan(&row).iter().map(|b| b.span.count).collect();
        assert_eq!(sizes, [125, 5]);
        let last = [span(1, Input, 65_532, 4), span(1, Input, 65_530, 1)];
        assert_eq!(blocks(&last), [(65_530, 6, vec![1, 0])]);
        let bits: Vec<_> = (0..2_001).map(|n| span(1, Coil, n, 1)).collect();
        let sizes: Vec<_> = plan(&bits).iter().map(|b| b.span.count).collect();
        assert_eq!(sizes, [2_000, 1]);
    }

    #[test]
    fn every_span_lies_in_one_block() {
        let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        println!("seed {seed}");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..300 {
            let tables = [Table::Coil, Table::Discrete, Table::Holding, Table::Input];
            let spans: Vec<_> = (0..rng.random_range(0..80))
                .map(|_| {
                    let (table, wide) = (tables[rng.random_range(0..4)], rng.random_range(1..5));
                    let count = if table.is_bits() { 1 } else { wide };
                    span(rng.random_range(1..3), table, rng.random_range(0..1_000), count)
                })
                .collect();
            let mut seen = vec![0; spans.len()];
            for block in plan(&spans) {
                let most = if block.span.table.is_bits() { BITS_PER_READ_MAX } else { REGISTERS_PER_READ_MAX };
                assert!(block.span.count <= most);
                for member in block.members {
                    seen[member] += 1;
                    let span = spans[member];
                    assert_eq!((span.unit_id, span.table), (block.span.unit_id, block.span.table));
                    assert!(span.address >= block.span.address && span.end() <= block.span.end());
                }
            }
            assert!(seen.iter().all(|times| *times == 1));
        }
    }
}
