//! One order of the rows, whatever the order in which they came: what is learnt must not depend on how files were cut,
//! merged or named.

use std::borrow::Cow;

use super::{Dataset, Row};

impl Dataset {
    /// The same rows by machine and window; what came in this order is not copied.
    pub fn in_order(&self) -> Cow<'_, Dataset> {
        let mut machines: Vec<usize> = (0..self.machines.len()).collect();
        machines.sort_by(|a, b| self.machines[*a].name.cmp(&self.machines[*b].name));
        let mut place = vec![0; machines.len()];
        machines.iter().enumerate().for_each(|(at, machine)| place[*machine] = at);
        let mut rows: Vec<usize> = (0..self.rows.len()).collect();
        rows.sort_by(|a, b| {
            let key = |row: &Row| (place[row.machine], row.start, row.end, row.fails);
            let bits = |row: usize| self.features(row).iter().map(|v| v.to_bits());
            // Two generations of a machine may have windows of one time.
            key(&self.rows[*a]).cmp(&key(&self.rows[*b])).then_with(|| bits(*a).cmp(bits(*b)))
        });
        if machines.is_sorted() && rows.is_sorted() {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Dataset {
            machines: machines.iter().map(|machine| self.machines[*machine].clone()).collect(),
            features: rows.iter().flat_map(|row| self.features(*row)).copied().collect(),
            rows: rows.iter().map(|row| Row { machine: place[self.rows[*row].machine], ..self.rows[*row] }).collect(),
            config: self.config.clone(),
            modes: self.modes.clone(),
            kinds: self.kinds.clone(),
            ..*self
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rand::{SeedableRng, seq::SliceRandom};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::dataset::synthetic;

    /// The same machines and rows as they might come from another archive of the same plant.
    pub fn shuffled(dataset: &Dataset, seed: u64) -> Dataset {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut machines: Vec<usize> = (0..dataset.machines.len()).collect();
        machines.shuffle(&mut rng);
        let mut rows: Vec<usize> = (0..dataset.rows.len()).collect();
        rows.shuffle(&mut rng);
        let place = |machine: usize| machines.iter().position(|m| *m == machine).unwrap();
        let mut other = dataset.clone();
        other.machines = machines.iter().map(|m| dataset.machines[*m].clone()).collect();
        other.rows = rows.iter().map(|r| dataset.rows[*r]).collect();
        other.rows.iter_mut().for_each(|row| row.machine = place(row.machine));
        other.features = rows.iter().flat_map(|row| dataset.features(*row)).copied().collect();
        other
    }

    #[test]
    fn shuffled_rows_come_back_in_order_and_ordered_ones_are_not_copied() {
        let dataset = synthetic::xor_plant(3, 4, 10);
        let ordered = dataset.in_order();
        assert!(matches!(ordered, Cow::Borrowed(_)));
        let other = shuffled(&dataset, 8);
        assert_ne!(other.sha256(), dataset.sha256());
        let back = other.in_order();
        assert_eq!((back.sha256(), &back.rows), (dataset.sha256(), &dataset.rows));
        let names = |d: &Dataset| d.machines.iter().map(|m| m.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&back), names(&dataset));
    }
}
