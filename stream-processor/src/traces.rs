//! What became of a batch that its gateway has chosen to be traced, as spans for an OTLP collector.
//!
//! ```text
//! batch (the gateway: oldest reading to seal) ─> take (arrival to derived) ─> score ─> alert
//! ```
//!
//! The gateway's span is told here, too, by the ids and times in the batch: a collector need not be reachable from a factory
//! floor, and the gateway's program stays small. Spans are made from what is known when all is done, so the stages know of none.

use std::time::{Duration, Instant, SystemTime};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor},
};
use proto::{
    time::{PlantClock, PlantTime},
    wire::{alert::Alert, telemetry::TelemetryBatch},
};
use serde::Deserialize;

use crate::decode::{AgentKey, Content, Taken};

/// A collector that does not answer is waited for so long, at the end.
const CLOSE_MAX: Duration = Duration::from_millis(500);
/// Spans of one run of batches; an alarm of a whole plant is not told alert by alert.
const ALERTS_MAX: usize = 32;

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracesConfig {
    /// OTLP over gRPC, for example `http://collector:4317`. None: traces go nowhere.
    pub endpoint: Option<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("`traces.endpoint`: {0}")]
pub struct TracesError(#[from] ExporterBuildError);

/// A batch that is traced, before the stages take it.
#[derive(Debug, Clone, PartialEq)]
pub struct Traced {
    pub agent: AgentKey,
    trace_id: TraceId,
    span_id: SpanId,
    position: String,
    readings: u64,
    /// Plant times of the oldest reading and of the seal.
    oldest: PlantTime,
    sealed: PlantTime,
    received: Instant,
}

impl Traced {
    /// None: most batches are not traced, and one with wrong ids is not either.
    pub fn of(taken: &Taken) -> Option<Traced> {
        let Content::Batch { batch, readings } = &taken.content else { return None };
        let context = batch.trace.as_ref()?;
        let trace_id = TraceId::from_bytes(context.trace_id.as_slice().try_into().ok()?);
        let span_id = SpanId::from_bytes(context.span_id.as_slice().try_into().ok()?);
        if trace_id == TraceId::INVALID || span_id == SpanId::INVALID {
            return None;
        }
        let sealed = PlantTime(batch.sealed.as_ref()?.time_ms);
        Some(Traced {
            agent: taken.agent.clone(),
            trace_id,
            span_id,
            position: taken.position.to_string(),
            readings: *readings,
            oldest: oldest(batch).unwrap_or(sealed).min(sealed),
            sealed,
            received: taken.received,
        })
    }
}

fn oldest(batch: &TelemetryBatch) -> Option<PlantTime> {
    batch.machines.iter().filter_map(|m| m.time_delta_ms.first()).min().copied().map(PlantTime)
}

/// What a run of batches led to at the machines of one agent.
#[derive(Debug, Default)]
pub struct Outcome<'d> {
    pub windows: usize,
    pub alerts: Vec<&'d Alert>,
}

/// When the stages of one run began, and when all was done.
#[derive(Debug, Clone, Copy)]
pub struct Stages {
    pub scoring: Instant,
    pub scored: Instant,
    pub done: Instant,
}

/// The gateway's span, and those of this processor.
pub struct Spans {
    pub gateway: SpanData,
    pub processor: Vec<SpanData>,
}

/// `now`: the same moment by the three clocks.
pub fn spans(
    traced: &Traced,
    outcome: &Outcome,
    stages: Stages,
    clock: &PlantClock,
    now: (Instant, SystemTime),
) -> Spans {
    let at = |moment: Instant| now.1.checked_sub(now.0.saturating_duration_since(moment)).unwrap_or(now.1);
    let wall = |plant| Some(SystemTime::UNIX_EPOCH + Duration::from_millis(clock.wall_ms(plant)?.try_into().ok()?));
    let received = at(traced.received);
    let (began, sealed) = wall(traced.oldest).zip(wall(traced.sealed)).unwrap_or((received, received));
    let site = KeyValue::new("millwright.site", traced.agent.site.to_string());
    let agent = KeyValue::new("millwright.agent", traced.agent.agent.to_string());
    let gateway = Span { name: "batch", kind: SpanKind::Producer, parent: SpanId::INVALID, remote: false }.data(
        traced,
        traced.span_id,
        (began, sealed),
        vec![
            site,
            agent,
            KeyValue::new("millwright.position", traced.position.clone()),
            KeyValue::new("millwright.readings", i64::try_from(traced.readings).unwrap_or(i64::MAX)),
        ],
    );
    let take = Span { name: "take", kind: SpanKind::Consumer, parent: traced.span_id, remote: true };
    let take = take.data(traced, new_id(), (received, at(stages.done)), Vec::new());
    let score = Span { name: "score", kind: SpanKind::Internal, parent: take.span_context.span_id(), remote: false };
    let windows = KeyValue::new("millwright.windows", outcome.windows as i64);
    let score = score.data(traced, new_id(), (at(stages.scoring), at(stages.scored)), vec![windows]);
    let alert = Span { name: "alert", kind: SpanKind::Internal, parent: score.span_context.span_id(), remote: false };
    let alerts = outcome.alerts.iter().take(ALERTS_MAX).map(|told| {
        let attributes = vec![
            KeyValue::new("millwright.alert.id", told.id.clone()),
            KeyValue::new("millwright.alert.state", told.state().as_str_name()),
            KeyValue::new("millwright.machine", told.machine.clone()),
            KeyValue::new("millwright.mode", told.mode.clone()),
        ];
        alert.data(traced, new_id(), (at(stages.scored), at(stages.done)), attributes)
    });
    let alerts: Vec<SpanData> = alerts.collect();
    Spans { gateway, processor: [take, score].into_iter().chain(alerts).collect() }
}

struct Span {
    name: &'static str,
    kind: SpanKind,
    parent: SpanId,
    /// The parent is another program's.
    remote: bool,
}

impl Span {
    fn data(
        &self,
        traced: &Traced,
        id: SpanId,
        (start_time, end_time): (SystemTime, SystemTime),
        attributes: Vec<KeyValue>,
    ) -> SpanData {
        let state = TraceState::default();
        SpanData {
            span_context: SpanContext::new(traced.trace_id, id, TraceFlags::SAMPLED, false, state),
            parent_span_id: self.parent,
            parent_span_is_remote: self.remote,
            span_kind: self.kind.clone(),
            name: self.name.into(),
            start_time,
            end_time,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder("millwright").build(),
        }
    }
}

fn new_id() -> SpanId {
    SpanId::from_bytes(rand::random())
}

/// Sends spans in the background; a collector that is away or too slow costs spans and nothing else.
pub struct Traces {
    gateway: BatchSpanProcessor,
    processor: BatchSpanProcessor,
}

impl Traces {
    /// None without an endpoint. Connects to nothing yet.
    pub fn start(config: &TracesConfig) -> Result<Option<Self>, TracesError> {
        let Some(endpoint) = &config.endpoint else { return Ok(None) };
        let sender = |service: &'static str| -> Result<BatchSpanProcessor, TracesError> {
            let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
            let mut processor = BatchSpanProcessor::builder(exporter).build();
            processor.set_resource(&Resource::builder_empty().with_service_name(service).build());
            Ok(processor)
        };
        Ok(Some(Traces { gateway: sender("edge-agent")?, processor: sender("stream-processor")? }))
    }

    pub fn tell(&self, spans: Spans) {
        self.gateway.on_end(spans.gateway);
        spans.processor.into_iter().for_each(|span| self.processor.on_end(span));
    }

    /// What is still on its way is sent, if the collector takes it soon.
    pub fn close(&self) {
        for processor in [&self.gateway, &self.processor] {
            if let Err(error) = processor.shutdown_with_timeout(CLOSE_MAX) {
                tracing::debug!(%error, "the last spans were not sent");
            }
        }
    }
}

#[cfg(test)]
mod tests;
