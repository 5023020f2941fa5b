use proto::{
    asset::AssetId,
    position::{Epoch, Position},
    telemetry::delta_encode,
    wire::{
        alert::AlertState,
        telemetry::{MachineReadings, SealTime, TraceContext},
    },
};

use super::*;

const SEALED_MS: i64 = 1_700_000_005_000;

fn taken(trace: Option<TraceContext>) -> Taken {
    let name = |name| AssetId::new(name).unwrap();
    let machine = |first| MachineReadings { time_delta_ms: delta_encode(&[first, first + 500]), ..Default::default() };
    let sealed = SealTime { time_ms: SEALED_MS, trusted: true, ..Default::default() };
    let machines = vec![machine(SEALED_MS - 1_000), machine(SEALED_MS - 3_000)];
    let batch = TelemetryBatch { sealed: Some(sealed), machines, trace, ..Default::default() };
    Taken {
        agent: AgentKey { site: name("mill"), agent: name("gateway-1") },
        position: Position { epoch: Epoch([1; 16]), seq: 7 },
        last_seq: 7,
        content: Content::Batch { batch, readings: 4 },
        received: Instant::now(),
    }
}

fn context() -> TraceContext {
    TraceContext { trace_id: vec![1; 16], span_id: vec![2; 8] }
}

#[test]
fn each_span_is_the_child_of_the_step_before() {
    let traced = Traced::of(&taken(Some(context()))).unwrap();
    let ms = Duration::from_millis;
    let stages =
        Stages { scoring: traced.received + ms(2), scored: traced.received + ms(5), done: traced.received + ms(6) };
    let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(SEALED_MS as u64 + 100);
    let now = (traced.received + ms(10), wall);
    let alert = Alert { id: "a".into(), state: AlertState::Open.into(), ..Default::default() };
    let outcome = Outcome { windows: 3, alerts: vec![&alert] };
    let clock = PlantClock::WALL;
    let Spans { gateway, processor } = spans(&traced, &outcome, stages, &clock, now);

    assert_eq!(gateway.span_context.span_id(), SpanId::from_bytes([2; 8]));
    assert_eq!(gateway.parent_span_id, SpanId::INVALID);
    let sealed = SystemTime::UNIX_EPOCH + Duration::from_millis(SEALED_MS as u64);
    assert_eq!((gateway.start_time, gateway.end_time), (sealed - ms(3_000), sealed));

    let names: Vec<_> = processor.iter().map(|span| span.name.as_ref()).collect();
    assert_eq!(names, ["take", "score", "alert"]);
    let mut parent = gateway.span_context.span_id();
    for span in &processor {
        assert_eq!(span.span_context.trace_id(), TraceId::from_bytes([1; 16]));
        assert_eq!(span.parent_span_id, parent, "{}", span.name);
        parent = span.span_context.span_id();
    }
    let times: Vec<_> = processor.iter().map(|span| (span.start_time, span.end_time)).collect();
    assert_eq!(times[0], (wall - ms(10), wall - ms(4)));
    assert_eq!(times[1], (wall - ms(8), wall - ms(5)));
    assert_eq!(times[2], (wall - ms(5), wall - ms(4)));
}

#[test]
fn a_batch_without_ids_or_with_wrong_ones_is_not_traced() {
    assert_eq!(Traced::of(&taken(None)), None);
    let zero = TraceContext { trace_id: vec![0; 16], ..context() };
    let short = TraceContext { span_id: vec![2; 7], ..context() };
    for wrong in [zero, short, TraceContext::default()] {
        assert_eq!(Traced::of(&taken(Some(wrong.clone()))), None, "{wrong:?}");
    }
}
