//! What is known of the model in charge. What is not known is not there: a gauge that is set keeps its number for ever (the
//! SDK passes over NaN), so these are asked whenever somebody reads them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use model::{
    drift::{BlockDrift, FeatureDrift},
    evaluate::bootstrap::Interval,
    quality::Realised,
};
use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Meter},
};

use crate::watch::report::ModelReport;

const PRECISION: &str = "precision";
const RECALL: &str = "recall";
const F1: &str = "f1";
const BRIER: &str = "brier";
const ESTIMATED_F1: &str = "estimated_f1";
const ESTIMATED_PRECISION: &str = "estimated_precision";
const ESTIMATED_RECALL: &str = "estimated_recall";
const TRAINED_F1: &str = "trained_f1";
const RESOLVED: &str = "resolved_episodes";
const COVERAGE: &str = "label_coverage";
const LABEL_DELAY: &str = "label_delay";
const FEATURE_DRIFT: &str = "feature_drift";
const FEATURE_PSI: &str = "feature_psi";
const FEATURE_KS: &str = "feature_ks";
const FEATURES_DRIFTED: &str = "features_drifted";
const TRIAL_SHARE: &str = "trial_share";
const HOUR_SECONDS: f64 = 3_600.0;

/// What is known of a figure, by labels.
type Series = Vec<(Vec<KeyValue>, f64)>;
type ByFigure = BTreeMap<&'static str, Series>;

#[derive(Clone, Default)]
struct Known(Arc<Mutex<ByFigure>>);

impl Known {
    fn lock(&self) -> MutexGuard<'_, ByFigure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For an instrument's callback.
    fn observed(&self, figure: &'static str) -> impl Fn(&dyn AsyncInstrument<f64>) + Send + Sync + 'static {
        let known = self.clone();
        move |instrument| {
            known
                .lock()
                .get(figure)
                .into_iter()
                .flatten()
                .for_each(|(labels, value)| instrument.observe(*value, labels));
        }
    }
}

/// Of the model in charge.
pub struct ModelMetrics(Known);

impl ModelMetrics {
    pub fn new(meter: &Meter) -> Self {
        let known = Known::default();
        let gauge = |name: &'static str, text: &'static str, figure| {
            meter.f64_observable_gauge(name).with_description(text).with_callback(known.observed(figure)).build();
        };
        let seconds = |name: &'static str, text: &'static str, figure| {
            let gauge = meter.f64_observable_gauge(name).with_unit("s").with_description(text);
            gauge.with_callback(known.observed(figure)).build();
        };
        gauge("millwright_model_precision", "Of the alerts with a verdict, those that were right", PRECISION);
        gauge("millwright_model_recall", "Of the failures and prevented ones, those that an alert preceded", RECALL);
        gauge("millwright_model_f1", "Harmonic mean of realised precision and recall", F1);
        gauge("millwright_model_brier", "Mean squared difference of probability and outcome", BRIER);
        gauge("millwright_model_estimated_f1", "F1 over windows that the probabilities expect", ESTIMATED_F1);
        gauge("millwright_model_estimated_precision", "Precision over windows, expected likewise", ESTIMATED_PRECISION);
        gauge("millwright_model_estimated_recall", "Recall over windows, expected likewise", ESTIMATED_RECALL);
        gauge("millwright_model_trained_f1", "The same on the test slice of the training", TRAINED_F1);
        gauge("millwright_model_resolved_episodes", "Alerts and failures that the realised figures rest on", RESOLVED);
        gauge("millwright_model_label_coverage", "Of the alerts a horizon ago, those with a verdict", COVERAGE);
        seconds(
            "millwright_model_label_delay",
            "Plant time from a failure or alert to the record of it, mean",
            LABEL_DELAY,
        );
        gauge(
            "millwright_feature_drift",
            "Distance from the training rows; above 1 it is over its limit",
            FEATURE_DRIFT,
        );
        gauge("millwright_feature_psi", "Population stability index of the newest week's windows", FEATURE_PSI);
        gauge("millwright_feature_ks", "Largest distance of the cumulative shares (Kolmogorov-Smirnov)", FEATURE_KS);
        gauge("millwright_features_drifted", "Features over their limit for several days in a row", FEATURES_DRIFTED);
        gauge(
            "millwright_model_trial_share",
            "Share of the machines that the version on trial judges; 0 for a shadow",
            TRIAL_SHARE,
        );
        ModelMetrics(known)
    }

    pub fn report(&self, report: &ModelReport) {
        let figures = &report.figures;
        let (realised, resolved) = match figures.realised {
            Realised::Known(known) => (Some(known), known.resolved),
            Realised::NotEnoughLabels { resolved } => (None, resolved),
        };
        let version = KeyValue::new("version", figures.version.clone());
        let bounds = |of: Option<Interval>| {
            let bound = |name: &'static str, value| (vec![version.clone(), KeyValue::new("bound", name)], value);
            of.map_or(vec![], |i| vec![bound("low", i.low), bound("mean", i.mean), bound("high", i.high)])
        };
        let one = |of: Option<f64>| of.map(|value| (vec![version.clone()], value)).into_iter().collect();
        let mut known = self.0.lock();
        known.insert(PRECISION, bounds(realised.map(|k| k.precision)));
        known.insert(RECALL, bounds(realised.map(|k| k.recall)));
        known.insert(F1, bounds(realised.map(|k| k.f1)));
        known.insert(BRIER, one(figures.brier));
        known.insert(ESTIMATED_F1, one(figures.estimated.map(|e| e.f1)));
        known.insert(ESTIMATED_PRECISION, one(figures.estimated.map(|e| e.precision)));
        known.insert(ESTIMATED_RECALL, one(figures.estimated.map(|e| e.recall)));
        known.insert(TRAINED_F1, one(report.estimated_then.map(|e| e.f1)));
        known.insert(RESOLVED, one(Some(resolved as f64)));
        known.insert(COVERAGE, one(figures.coverage));
        known.insert(LABEL_DELAY, one(figures.label_delay_hours.map(|hours| hours * HOUR_SECONDS)));
        known.insert(FEATURES_DRIFTED, vec![(vec![], report.drifted.len() as f64)]);
    }

    pub fn drift(&self, block: &BlockDrift) {
        let mut known = self.0.lock();
        let mut insert = |figure, value: fn(&FeatureDrift) -> f64| {
            let of = |f: &FeatureDrift| (vec![KeyValue::new("feature", f.name.clone())], value(f));
            known.insert(figure, block.features.iter().map(of).collect());
        };
        insert(FEATURE_DRIFT, |f| f.strength);
        insert(FEATURE_PSI, |f| f.psi);
        insert(FEATURE_KS, |f| f.ks);
    }

    /// None: nothing is on trial any more.
    pub fn trial(&self, trial: Option<(&str, f64)>) {
        let of = |(version, share): (&str, f64)| (vec![KeyValue::new("version", version.to_owned())], share);
        self.0.lock().insert(TRIAL_SHARE, trial.map(of).into_iter().collect());
    }

    /// Nothing is known of the version that is in charge now: figures of the one before must not look like its own.
    pub fn forget(&self) {
        let mut known = self.0.lock();
        known.retain(|figure, _| [FEATURES_DRIFTED, TRIAL_SHARE].contains(figure));
    }
}

#[cfg(test)]
mod tests {
    use model::quality::{Figures, Quality};
    use opentelemetry::metrics::MeterProvider;
    use opentelemetry_sdk::metrics::SdkMeterProvider;
    use prometheus::{Encoder, Registry, TextEncoder};

    use super::*;

    fn report(version: &str, brier: Option<f64>) -> ModelReport {
        let figures = Figures { brier, ..Quality::new(1, 1).figures(version) };
        let (estimated_then, drifted, other_plant, strongest, rates, trial) = Default::default();
        ModelReport { figures, estimated_then, drifted, other_plant, strongest, rates, trial }
    }

    #[test]
    fn what_is_not_known_any_more_is_not_shown_any_more() {
        let registry = Registry::new();
        let reader = opentelemetry_prometheus::exporter().with_registry(registry.clone()).build().unwrap();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        let metrics = ModelMetrics::new(&provider.meter("test"));
        let shown = |name: &str| {
            let mut text = Vec::new();
            TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).map(String::from).collect::<Vec<_>>()
        };
        metrics.report(&report("v1", Some(0.25)));
        metrics.trial(Some(("v2", 0.5)));
        let brier = shown("millwright_model_brier");
        assert!(brier.len() == 1 && brier[0].contains("version=\"v1\"") && brier[0].ends_with(" 0.25"), "{brier:?}");
        assert!(shown("millwright_model_trial_share")[0].contains("version=\"v2\""));
        // The version before is gone with the first report of the next, and so is what the next does not know.
        metrics.report(&report("v2", None));
        metrics.trial(None);
        assert!(shown("millwright_model_brier").is_empty());
        assert!(shown("millwright_model_trial_share").is_empty());
        let resolved = shown("millwright_model_resolved_episodes");
        assert!(resolved.len() == 1 && resolved[0].contains("version=\"v2\""), "{resolved:?}");
        metrics.forget();
        assert!(shown("millwright_model_resolved_episodes").is_empty());
    }
}
