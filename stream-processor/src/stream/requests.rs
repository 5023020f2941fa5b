//! What people have asked for already. Part of the state, so that a call that is repeated after a crash changes nothing
//! twice and gets the same answer.

use std::collections::VecDeque;

use proto::wire::alert::Alert;
use serde::{Deserialize, Serialize};

/// Request ids whose answers are remembered, of each kind.
const REQUESTS_KEPT_MAX: usize = 256;

/// An empty id is never a repeat.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    acknowledged: VecDeque<(String, Alert)>,
    recorded: VecDeque<String>,
}

impl Requests {
    pub fn remember_acknowledged(&mut self, request: String, alert: &Alert) {
        if !request.is_empty() {
            self.acknowledged.push_back((request, alert.clone()));
            forget_oldest(&mut self.acknowledged);
        }
    }

    pub fn acknowledged(&self, request: &str) -> Option<&Alert> {
        self.acknowledged.iter().find(|(id, _)| id == request).map(|(_, alert)| alert)
    }

    pub fn remember_recorded(&mut self, request: String) {
        if !request.is_empty() {
            self.recorded.push_back(request);
            forget_oldest(&mut self.recorded);
        }
    }

    pub fn recorded(&self, request: &str) -> bool {
        self.recorded.iter().any(|id| id == request)
    }

    /// Takes over what another shard was asked for.
    pub fn move_in(&mut self, from: &Requests) {
        from.acknowledged.iter().for_each(|(request, alert)| self.remember_acknowledged(request.clone(), alert));
        from.recorded.iter().for_each(|request| self.remember_recorded(request.clone()));
    }
}

fn forget_oldest<T>(memory: &mut VecDeque<T>) {
    memory.drain(..memory.len().saturating_sub(REQUESTS_KEPT_MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_request_is_known_and_the_memory_is_bounded() {
        let mut requests = Requests::default();
        for i in 0..2 * REQUESTS_KEPT_MAX {
            requests.remember_recorded(format!("r{i}"));
        }
        assert!(requests.recorded(&format!("r{}", 2 * REQUESTS_KEPT_MAX - 1)));
        assert!(!requests.recorded("r0"));
        assert_eq!(requests.recorded.len(), REQUESTS_KEPT_MAX);
        requests.remember_recorded(String::new());
        assert!(!requests.recorded(""));
    }
}
