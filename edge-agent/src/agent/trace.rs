//! Which batches begin a trace. The gateway gives out the ids only: what became of the batch, the processor tells the collector,
//! which the factory floor need not reach.

use proto::wire::telemetry::TraceContext;

use super::identity::random_bytes;

const SPAN_ID_BYTES: usize = 8;

#[derive(Debug)]
pub struct TraceSampler {
    every: u32,
    /// Batches with readings since the last one that was traced.
    passed: u32,
}

impl TraceSampler {
    /// The first batch with readings begins a trace, and each `every`-th after it; 0: none.
    pub fn one_in(every: u32) -> Self {
        TraceSampler { every, passed: every.saturating_sub(1) }
    }

    /// The context for the next batch, if it begins a trace.
    pub fn next(&mut self, readings: u32) -> Option<TraceContext> {
        if self.every == 0 || readings == 0 {
            return None;
        }
        self.passed += 1;
        if self.passed < self.every {
            return None;
        }
        self.passed = 0;
        // A system that has no random bytes has no traces.
        let (trace_id, span_id) = (random_bytes().ok()?, random_bytes().ok()?);
        Some(TraceContext { trace_id: trace_id.to_vec(), span_id: span_id[..SPAN_ID_BYTES].to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_so_many_with_readings_begins_a_trace() {
        let traced = |every, readings: &[u32]| {
            let mut sampler = TraceSampler::one_in(every);
            readings.iter().map(|readings| sampler.next(*readings).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(traced(3, &[0, 5, 5, 0, 5, 5, 5]), [false, true, false, false, false, true, false]);
        assert_eq!(traced(1, &[0, 1, 1]), [false, true, true]);
        assert_eq!(traced(0, &[1, 1]), [false, false]);
    }

    #[test]
    fn no_two_traces_have_the_same_ids() {
        let mut sampler = TraceSampler::one_in(1);
        let (a, b) = (sampler.next(1).unwrap(), sampler.next(1).unwrap());
        assert_eq!((a.trace_id.len(), a.span_id.len()), (16, 8));
        assert!(a.trace_id != b.trace_id && a.span_id != b.span_id);
    }
}
