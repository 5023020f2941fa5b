//! The models that the engine judges by. One that is offered is entered with a segment of its own, and in charge when that
//! is committed.

use std::sync::Arc;

use model::score::Scorer;
use tokio::sync::watch;

use crate::stream::{
    Loaded,
    schedule::{Charge, Schedule},
};

/// Who shall judge from now on, with all that it takes.
#[derive(Debug, Clone)]
pub struct Offer {
    pub charge: Charge,
    /// Every version of the charge.
    pub loaded: Loaded,
}

pub struct Models {
    offers: watch::Receiver<Option<Offer>>,
    loaded: Loaded,
    /// Answers people's questions.
    in_charge: watch::Sender<Option<Arc<Scorer>>>,
    /// So many segments of this incarnation must be committed for what was entered.
    entered_by: Option<u64>,
}

impl Models {
    /// `loaded`: all that the schedule names, as far as they can be used.
    pub fn new(
        offers: watch::Receiver<Option<Offer>>,
        loaded: Loaded,
        in_charge: watch::Sender<Option<Arc<Scorer>>>,
    ) -> Self {
        Models { offers, loaded, in_charge, entered_by: None }
    }

    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// What was offered last, if the schedule does not end with it.
    pub fn offer(&self, schedule: &Schedule) -> Option<Charge> {
        let charge = self.offers.borrow().as_ref()?.charge.clone();
        (schedule.newest() != Some(&charge)).then_some(charge)
    }

    /// The offer is being entered.
    pub fn keep_offered(&mut self) {
        let offered = self.offers.borrow().clone();
        self.loaded.extend(offered.into_iter().flat_map(|offer| offer.loaded));
    }

    /// A segment was submitted that carries what the stream has entered.
    pub fn submitted(&mut self, segments: u64) {
        self.entered_by.get_or_insert(segments);
    }

    /// True, and once: what was entered is among so many committed segments.
    pub fn committed(&mut self, segments: u64) -> bool {
        self.entered_by.take_if(|by| *by <= segments).is_some()
    }

    /// That judges what closes now; none: rules do.
    pub fn in_charge(&self) -> Option<Arc<Scorer>> {
        self.in_charge.borrow().clone()
    }

    /// Lets go of what is not needed any more. Gives the version in charge.
    pub fn follow(&mut self, schedule: &Schedule) -> Option<String> {
        self.loaded.retain(|version, _| schedule.versions().any(|needed| needed == version));
        let newest = schedule.newest().and_then(|charge| self.loaded.get(&charge.version)).cloned();
        let version = newest.as_ref().map(|scorer| scorer.version().to_owned());
        self.in_charge.send_replace(newest);
        version
    }
}
