//! The newest events, numbered from 1.

use std::{collections::VecDeque, sync::Arc};

#[derive(Debug)]
pub struct Ring<T> {
    events: VecDeque<Arc<T>>,
    events_max: usize,
    last: u64,
}

/// What came after a reader's cursor.
#[derive(Debug)]
pub enum Since<T> {
    Events(Vec<(u64, Arc<T>)>),
    /// So many events are no longer there.
    Missed(u64),
    /// The cursor is not of these events: another incarnation's.
    Other,
}

impl<T> Ring<T> {
    pub fn new(events_max: usize) -> Self {
        Ring { events: VecDeque::new(), events_max, last: 0 }
    }

    pub fn push(&mut self, event: Arc<T>) {
        if self.events.len() == self.events_max {
            self.events.pop_front();
        }
        self.events.push_back(event);
        self.last += 1;
    }

    /// Number of the newest event; 0: there was none.
    pub fn last(&self) -> u64 {
        self.last
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, &Arc<T>)> {
        (self.first()..).zip(&self.events)
    }

    fn first(&self) -> u64 {
        self.last + 1 - self.events.len() as u64
    }

    pub fn since(&self, number: u64) -> Since<T> {
        if number > self.last {
            Since::Other
        } else if number + 1 < self.first() {
            Since::Missed(self.first() - number - 1)
        } else {
            let skip = (number + 1 - self.first()) as usize;
            Since::Events(self.iter().skip(skip).map(|(n, event)| (n, event.clone())).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(ring: &Ring<u64>, since: u64) -> Result<Vec<u64>, u64> {
        match ring.since(since) {
            Since::Events(events) => {
                Ok(events.into_iter().inspect(|(n, e)| assert_eq!(*n, **e)).map(|e| e.0).collect())
            }
            Since::Missed(count) => Err(count),
            Since::Other => Err(u64::MAX),
        }
    }

    #[test]
    fn a_reader_gets_each_event_once_or_learns_what_it_missed() {
        let mut ring = Ring::new(3);
        assert_eq!(numbers(&ring, 0), Ok(vec![]));
        (1..=5).for_each(|n| ring.push(Arc::new(n)));
        assert_eq!(numbers(&ring, 5), Ok(vec![]));
        assert_eq!(numbers(&ring, 2), Ok(vec![3, 4, 5]));
        assert_eq!(numbers(&ring, 4), Ok(vec![5]));
        assert_eq!(numbers(&ring, 0), Err(2));
        assert_eq!(numbers(&ring, 6), Err(u64::MAX));
    }
}
