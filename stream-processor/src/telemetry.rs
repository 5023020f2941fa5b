//! Every metric of the processor, and the logs. OpenTelemetry inside, Prometheus text outside.

mod model;

use std::io::IsTerminal;

use ::model::registry::Action;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Histogram, Meter, MeterProvider},
};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Encoder, Registry, TextEncoder};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

pub use self::model::ModelMetrics;
use crate::trigger::desk::{Decision, Run};

/// Bounds of the latency histograms, seconds: from a window's kernel to a stalled archive.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
/// Bounds of the delay between a sensor and its alert, plant seconds: windows are minutes long.
const PLANT_SECONDS: [f64; 9] = [10.0, 30.0, 60.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0, 14_400.0];

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("metrics can't be exported: {0}")]
    Exporter(#[from] opentelemetry_sdk::error::OTelSdkError),
}

/// The registry behind `/metrics`.
#[derive(Clone)]
pub struct Exporter {
    registry: Registry,
    provider: SdkMeterProvider,
}

impl Exporter {
    /// Also becomes the global meter provider, for code that is too far down to be handed one.
    pub fn install() -> Result<Self, TelemetryError> {
        let registry = Registry::new();
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()?;
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        opentelemetry::global::set_meter_provider(provider.clone());
        Ok(Exporter { registry, provider })
    }

    pub fn meter(&self) -> Meter {
        self.provider.meter("millwright")
    }

    /// Prometheus text format.
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        if let Err(e) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::warn!(error = %e, "metrics can't be encoded");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// What the engine counts. Every arrival ends in exactly one of the batch outcomes.
pub struct Metrics {
    pub readings_received: Counter<u64>,
    pub readings_archived: Counter<u64>,
    pub readings_dead_lettered: Counter<u64>,
    pub readings_late: Counter<u64>,
    pub readings_revising: Counter<u64>,
    pub readings_foreign: Counter<u64>,
    pub readings_duplicate: Counter<u64>,
    readings_lost: Counter<u64>,
    batches: Counter<u64>,
    batches_lost: Counter<u64>,
    log_breaks: Counter<u64>,
    pub installs_alternating: Counter<u64>,
    pub batches_committed: Counter<u64>,
    pub batches_pending: Gauge<u64>,
    pub batches_staged: Gauge<u64>,
    pub windows_closed: Counter<u64>,
    pub windows_revised: Counter<u64>,
    pub predictions: Counter<u64>,
    unscored: Counter<u64>,
    alerts: Counter<u64>,
    pub watermark_lag: Gauge<f64>,
    pub newest_batch_age: Gauge<f64>,
    pub queue_depth: Gauge<u64>,
    pub staged_bytes: Gauge<u64>,
    pub staged_segments: Gauge<u64>,
    pub manifest: Gauge<u64>,
    pub machines: Gauge<u64>,
    pub paused: Gauge<u64>,
    model: Gauge<u64>,
    pub batch_seconds: Histogram<f64>,
    pub window_seconds: Histogram<f64>,
    pub scoring_seconds: Histogram<f64>,
    pub sensor_to_alert_seconds: Histogram<f64>,
}

impl Metrics {
    pub fn new(meter: &Meter) -> Self {
        let counter = |name: &'static str, text: &'static str| meter.u64_counter(name).with_description(text).build();
        let gauge = |name: &'static str, text: &'static str| meter.u64_gauge(name).with_description(text).build();
        let seconds = |name: &'static str, text: &'static str, bounds: &[f64]| {
            let histogram = meter.f64_histogram(name).with_unit("s").with_description(text);
            histogram.with_boundaries(bounds.to_vec()).build()
        };
        Metrics {
            readings_received: counter("millwright_readings_received", "Readings in batches that were taken"),
            readings_archived: counter("millwright_readings_archived", "Readings whose manifest is in S3"),
            readings_dead_lettered: counter("millwright_readings_dead_lettered", "Readings in dead-lettered batches"),
            readings_late: counter("millwright_readings_late", "Readings that came too late to revise their window"),
            readings_revising: counter(
                "millwright_readings_revising",
                "Readings that came after their window had closed, and revised it",
            ),
            readings_foreign: counter(
                "millwright_readings_foreign",
                "Readings of machines that are another gateway's: archived, and in no window",
            ),
            readings_duplicate: counter("millwright_readings_duplicate", "Readings in batches that were sent again"),
            readings_lost: counter("millwright_readings_lost", "Readings that gateways declared as lost, where known"),
            batches: counter("millwright_batches", "Messages that arrived, by outcome"),
            installs_alternating: counter(
                "millwright_installs_alternating",
                "Births of an installation that another one under the same name had followed",
            ),
            log_breaks: counter("millwright_log_breaks", "Logs of gateways that went on elsewhere, by reason"),
            batches_lost: counter("millwright_batches_lost", "Batches that gateways declared as lost, by reason"),
            batches_committed: counter("millwright_batches_committed", "Batches taken whose manifest is in S3"),
            batches_pending: gauge(
                "millwright_batches_pending",
                "Batches taken and not yet in a segment, or waiting for their model",
            ),
            batches_staged: gauge("millwright_batches_staged", "Batches in segments that wait for their commit"),
            windows_closed: counter("millwright_windows_closed", "Windows closed by their watermark"),
            windows_revised: counter("millwright_windows_revised", "Revisions of windows that had closed"),
            predictions: counter("millwright_predictions", "Windows scored by the version that decides"),
            unscored: counter("millwright_windows_unscored", "Windows that a version could not score"),
            alerts: counter("millwright_alerts", "Alerts opened or closed"),
            watermark_lag: meter
                .f64_gauge("millwright_watermark_lag")
                .with_unit("s")
                .with_description("Plant time by which the slowest machine's watermark is behind the plant clock")
                .build(),
            newest_batch_age: meter
                .f64_gauge("millwright_newest_batch_age")
                .with_unit("s")
                .with_description("Plant time since the newest batch that was applied was sealed")
                .build(),
            queue_depth: gauge("millwright_ingest_queue_depth", "Messages between MQTT and the engine"),
            staged_bytes: gauge("millwright_staging_bytes", "Bytes staged for upload"),
            staged_segments: gauge("millwright_staging_segments", "Segments staged for upload"),
            manifest: gauge("millwright_archive_manifest", "Number of the newest own manifest"),
            machines: gauge("millwright_machines", "Machines known"),
            paused: gauge("millwright_intake_paused", "1 while nothing is taken because staging is full"),
            model: gauge("millwright_model", "1 for the version in charge"),
            batch_seconds: seconds(
                "millwright_batch_duration",
                "From the receipt of a batch to its being applied",
                &SECONDS,
            ),
            window_seconds: seconds(
                "millwright_window_duration",
                "Cleaning, windows and features of one run of batches",
                &SECONDS,
            ),
            scoring_seconds: seconds(
                "millwright_scoring_duration",
                "Scores and alerts of the windows that one run of batches closed",
                &SECONDS,
            ),
            sensor_to_alert_seconds: seconds(
                "millwright_sensor_to_alert_delay",
                "Plant time from the end of an alert's window to its opening",
                &PLANT_SECONDS,
            ),
        }
    }

    pub fn batch(&self, outcome: &'static str) {
        self.batches.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    pub fn lost(&self, reason: &'static str, batches: u64, readings: u64) {
        self.batches_lost.add(batches, &[KeyValue::new("reason", reason)]);
        self.readings_lost.add(readings, &[]);
    }

    pub fn log_break(&self, reason: &'static str) {
        self.log_breaks.add(1, &[KeyValue::new("reason", reason)]);
    }

    pub fn alert(&self, state: &'static str, source: &'static str) {
        self.alerts.add(1, &[KeyValue::new("state", state), KeyValue::new("source", source)]);
    }

    pub fn unscored(&self, version: &str, windows: u64) {
        self.unscored.add(windows, &[KeyValue::new("version", version.to_owned())]);
    }

    /// Marks the version in charge, and takes the mark off the one before.
    pub fn model_in_charge(&self, before: Option<&str>, now: Option<&str>) {
        let version = |v: &str| [KeyValue::new("version", v.to_owned())];
        if let Some(before) = before {
            self.model.record(0, &version(before));
        }
        if let Some(now) = now {
            self.model.record(1, &version(now));
        }
    }
}

/// What the registry's history holds, by action.
pub struct Decisions(Gauge<u64>);

impl Decisions {
    pub fn new(meter: &Meter) -> Self {
        let gauge = meter.u64_gauge("millwright_model_decisions");
        Decisions(gauge.with_description("Decisions in the history of the model, by action").build())
    }

    pub fn record(&self, counts: Vec<(Action, u64)>) {
        for (action, count) in counts {
            self.0.record(count, &[KeyValue::new("action", action.text())]);
        }
    }
}

/// What the retraining trigger counts. All of it is there from the start, at zero.
#[derive(Clone)]
pub struct RetrainingMetrics {
    alerts: Counter<u64>,
    runs: Counter<u64>,
    notices_refused: Counter<u64>,
}

impl RetrainingMetrics {
    pub fn new(meter: &Meter) -> Self {
        let counter = |name: &'static str, text: &'static str| meter.u64_counter(name).with_description(text).build();
        let metrics = RetrainingMetrics {
            alerts: counter("millwright_retraining_alerts", "Alerts told by Alertmanager, by what was decided"),
            runs: counter("millwright_retraining_runs", "Retrainings that alerts asked for, by what became of them"),
            notices_refused: counter("millwright_retraining_notices_refused", "Notices that were none, or not allowed"),
        };
        Decision::ALL.into_iter().for_each(|decision| metrics.alerts.add(0, &[decision_label(decision)]));
        Run::ALL.into_iter().for_each(|run| metrics.runs.add(0, &[run_label(run)]));
        metrics.notices_refused.add(0, &[]);
        metrics
    }

    pub fn decided(&self, decision: Decision) {
        self.alerts.add(1, &[decision_label(decision)]);
    }

    pub fn run(&self, run: Run) {
        self.runs.add(1, &[run_label(run)]);
    }

    pub fn notice_refused(&self) {
        self.notices_refused.add(1, &[]);
    }
}

fn decision_label(decision: Decision) -> KeyValue {
    KeyValue::new("decision", decision.text())
}

fn run_label(run: Run) -> KeyValue {
    KeyValue::new("state", run.text())
}

/// For the champion's watch, which is no part of the engine.
pub fn models_refused(meter: &Meter) -> Counter<u64> {
    meter.u64_counter("millwright_models_refused").with_description("Champions that could not be used").build()
}

/// Human lines on a terminal, JSON otherwise. `default` is used where RUST_LOG is not set.
pub fn init_logs(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let registry = tracing_subscriber::registry().with(filter);
    let already = if std::io::stderr().is_terminal() {
        registry.with(fmt::layer().with_writer(std::io::stderr).with_target(false)).try_init()
    } else {
        registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init()
    };
    if already.is_err() {
        tracing::debug!("logs are set up already");
    }
}
