//! The scores of closed windows: of the version that decides, and of the one beside it where one is on trial.

use std::{collections::BTreeMap, ptr};

use model::{
    features::{FeatureConfig, WindowFeatures},
    score::{ModeHead, Score, Scorer},
};
use proto::wire::prediction::{Prediction, Role};

use super::{Loaded, prediction, schedule::Scorers};

/// Of some windows.
#[derive(Default)]
pub struct Scored<'a> {
    /// One per window, with the heads that it was scored by; none: rules judge it.
    pub decided: Vec<Option<(Prediction, &'a [ModeHead])>>,
    pub beside: Vec<Prediction>,
    /// Windows that a version could not score.
    pub unscored: BTreeMap<String, u64>,
}

/// Those of the versions that are loaded; where the canary is not, the version in charge decides.
pub fn found<'a>(versions: Scorers<&str>, loaded: &'a Loaded) -> Option<Scorers<&'a Scorer>> {
    let scorer = |version: &str| loaded.get(version).map(|scorer| &**scorer);
    let beside = versions.beside.and_then(scorer);
    match (scorer(versions.decides), versions.role) {
        (Some(decides), role) => Some(Scorers { decides, role, beside }),
        (None, Role::Canary) => Some(Scorers { decides: beside?, role: Role::Champion, beside: None }),
        (None, _) => None,
    }
}

/// All windows that follow each other and have the same scorers at once. One that its canary can't score is decided by the
/// version in charge, which has scored it too.
pub fn score<'a>(
    features: &FeatureConfig,
    windows: &[WindowFeatures],
    scorers: &[Option<Scorers<&'a Scorer>>],
) -> Scored<'a> {
    let mut out = Scored::default();
    for by in scorers.chunk_by(same) {
        let windows = &windows[out.decided.len()..][..by.len()];
        let Some(Scorers { decides, role, beside }) = by[0] else {
            out.decided.extend(windows.iter().map(|_| None));
            continue;
        };
        let own = out.of(features, windows, decides, role);
        let other = match beside {
            Some(beside) => out.of(features, windows, beside, Role::Shadow),
            None => vec![None; windows.len()],
        };
        for (own, other) in own.into_iter().zip(other) {
            let stands_in = |mut prediction: Prediction| {
                prediction.role = Role::Champion.into();
                Some((prediction, beside?.heads()))
            };
            let (decided, other) = match (own, other) {
                (Some(own), other) => (Some((own, decides.heads())), other),
                (None, Some(other)) if role == Role::Canary => (stands_in(other), None),
                (None, other) => (None, other),
            };
            out.decided.push(decided);
            out.beside.extend(other);
        }
    }
    out
}

fn same(a: &Option<Scorers<&Scorer>>, b: &Option<Scorers<&Scorer>>) -> bool {
    let key = |scorers: &Option<Scorers<&Scorer>>| {
        scorers.map(|s| (ptr::from_ref(s.decides), s.role, s.beside.map(ptr::from_ref)))
    };
    key(a) == key(b)
}

impl Scored<'_> {
    /// One per window; none if the model fails, was made for other features, or says what is no probability.
    fn of(
        &mut self,
        features: &FeatureConfig,
        windows: &[WindowFeatures],
        scorer: &Scorer,
        role: Role,
    ) -> Vec<Option<Prediction>> {
        let scores = match scorer.config().means(features) {
            true => scorer.score(windows).map_err(|e| e.to_string()),
            false => Err("the model was made for other windows or sensors".into()),
        };
        let (scores, mut reason) = scores.map_or_else(|reason| (vec![], reason), |scores| (scores, String::new()));
        let model = prediction::Model {
            heads: scorer.heads(),
            version: scorer.version(),
            horizon_ms: scorer.horizon_ms(),
            role,
        };
        let of_window = |(n, window)| {
            let score: &Score = scores.get(n)?;
            let finite = score.probabilities.iter().all(|probability| probability.is_finite());
            finite.then(|| prediction::prediction(window, score, &model))
        };
        let predictions: Vec<_> = windows.iter().enumerate().map(of_window).collect();
        let unscored = predictions.iter().filter(|prediction| prediction.is_none()).count();
        if unscored > 0 {
            if reason.is_empty() {
                reason = "a probability is not a number".into();
            }
            let version = scorer.version();
            match role {
                Role::Canary | Role::Shadow => {
                    let role = role.as_str_name();
                    tracing::warn!(version, role, reason, windows = unscored, "windows of a trial are not scored");
                }
                _ => tracing::error!(version, reason, windows = unscored, "windows are not scored"),
            }
            *self.unscored.entry(version.into()).or_default() += unscored as u64;
        }
        predictions
    }
}
