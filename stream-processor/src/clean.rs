//! Taken batches as one frame of readings, with what only the log can tell about each: late, future, foreign.
//! The cleaning rules themselves are the model's (`model::features::clean`): there is one way from readings to features.

use std::collections::{BTreeMap, HashMap};

use model::features::{
    FeatureConfig,
    aggregate::bin_of,
    clean::{flag, inner, unit_code},
};
use polars::prelude::{Column, DataFrame, PolarsResult};
use proto::{
    telemetry::delta_decode,
    wire::telemetry::{MachineReadings, Quality, QualityReason, SensorColumn, TelemetryBatch},
};

use crate::{
    decode::{AgentKey, Content, Taken},
    stream::fleet::Fleet,
    window::watermark::Frontier,
};

/// Readings of a run of taken batches as columns, in log order.
#[derive(Default)]
pub struct Rows {
    /// Place of the reading's batch in the run.
    pub taken: Vec<u32>,
    series: Vec<u32>,
    time: Vec<i64>,
    value: Vec<f64>,
    unit: Vec<u8>,
    quality: Vec<u8>,
    /// `QualityReason` of the wire; says nothing to the cleaning rules.
    pub reason: Vec<u8>,
    flags: Vec<u32>,
    /// Rows with the flag LATE.
    pub late: u64,
    /// Rows with the flag FOREIGN, by machine id and who sent them.
    pub foreign: BTreeMap<(u32, AgentKey), u64>,
}

impl Rows {
    /// All machines and sensors of the run are known to the fleet.
    pub fn of(run: &[Taken], fleet: &Fleet, config: &FeatureConfig) -> Self {
        let readings = |t: &Taken| if let Content::Batch { readings, .. } = t.content { readings as usize } else { 0 };
        let mut rows = Rows::with_capacity(run.iter().map(readings).sum());
        let mut frontiers: HashMap<&AgentKey, Frontier> = HashMap::new();
        for (at, taken) in (0..).zip(run) {
            let Content::Batch { batch, .. } = &taken.content else { continue };
            let frontier = frontiers.entry(&taken.agent).or_insert_with(|| fleet.frontier(&taken.agent));
            let trusted = is_trusted(batch);
            let border = Border { frontier: *frontier, sealed_ms: sealed_ms(batch), trusted, config };
            for machine in &batch.machines {
                rows.push_machine(at, machine, &taken.agent, &border, fleet);
            }
            if trusted {
                frontier.advance(border.sealed_ms, config);
            }
        }
        rows
    }

    fn with_capacity(rows: usize) -> Self {
        Rows {
            taken: Vec::with_capacity(rows),
            series: Vec::with_capacity(rows),
            time: Vec::with_capacity(rows),
            value: Vec::with_capacity(rows),
            unit: Vec::with_capacity(rows),
            quality: Vec::with_capacity(rows),
            reason: Vec::with_capacity(rows),
            flags: Vec::with_capacity(rows),
            late: 0,
            foreign: BTreeMap::new(),
        }
    }

    fn push_machine(&mut self, at: u32, machine: &MachineReadings, agent: &AgentKey, border: &Border, fleet: &Fleet) {
        let Some(id) = fleet.catalogue().id(&machine.machine) else { return };
        let stamps = delta_decode(&machine.time_delta_ms);
        let foreign = if fleet.owns(agent, id) { 0 } else { flag::FOREIGN };
        let flags: Vec<u32> = stamps.iter().map(|&time| foreign | border.flags(time)).collect();
        let before = self.value.len();
        for column in &machine.sensors {
            let Some((series, unit)) = fleet.series(id, &column.sensor) else { continue };
            let from = self.series.len();
            self.push_column(column, &stamps, &flags);
            self.series.resize(self.value.len(), series);
            self.taken.resize(self.value.len(), at);
            self.unit.resize(self.value.len(), unit_code(unit));
            self.late += self.flags[from..].iter().filter(|f| *f & flag::LATE != 0).count() as u64;
        }
        if foreign != 0 {
            *self.foreign.entry((id, agent.clone())).or_default() += (self.value.len() - before) as u64;
        }
    }

    fn push_column(&mut self, column: &SensorColumn, stamps: &[i64], flags: &[u32]) {
        if column.quality.is_empty() {
            self.time.extend_from_slice(stamps);
            self.value.extend_from_slice(&column.value);
            self.flags.extend_from_slice(flags);
            self.quality.resize(self.value.len(), Quality::Good as u8);
            self.reason.resize(self.value.len(), QualityReason::None as u8);
            return;
        }
        let present = |i: &usize| column.quality[*i] != Quality::Absent as i32;
        for i in (0..stamps.len()).filter(present) {
            self.time.push(stamps[i]);
            self.value.push(column.value[i]);
            self.flags.push(flags[i]);
            // A quality that is not known here is not a good one.
            self.quality.push(u8::try_from(column.quality[i]).unwrap_or(u8::MAX));
            let reason = column.reason.get(i).copied().unwrap_or(QualityReason::None as i32);
            self.reason.push(u8::try_from(reason).unwrap_or(u8::MAX));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.value.is_empty()
    }

    /// As the cleaning rules expect it.
    pub fn frame(self) -> PolarsResult<DataFrame> {
        let columns = vec![
            Column::new(inner::SERIES.into(), self.series),
            Column::new(inner::TIME.into(), self.time),
            Column::new(inner::VALUE.into(), self.value),
            Column::new(inner::UNIT.into(), self.unit),
            Column::new(inner::QUALITY.into(), self.quality),
            Column::new(inner::FLAGS.into(), self.flags),
        ];
        DataFrame::new_infer_height(columns)
    }
}

/// Checked by intake: a batch without a seal is not taken.
pub fn sealed_ms(batch: &TelemetryBatch) -> i64 {
    batch.sealed.as_ref().map_or(i64::MIN, |s| s.time_ms)
}

/// False: the gateway did not know what time it is. Its estimate goes into the archive, moves no watermark and enters no
/// window.
pub fn is_trusted(batch: &TelemetryBatch) -> bool {
    batch.sealed.as_ref().is_some_and(|s| s.trusted)
}

/// None: not a batch with a seal that can be trusted.
pub fn trusted_seal_ms(taken: &Taken) -> Option<i64> {
    match &taken.content {
        Content::Batch { batch, .. } if is_trusted(batch) => Some(sealed_ms(batch)),
        _ => None,
    }
}

/// What time means to the rows of one batch.
struct Border<'a> {
    /// Before the batch.
    frontier: Frontier,
    sealed_ms: i64,
    trusted: bool,
    config: &'a FeatureConfig,
}

impl Border<'_> {
    fn flags(&self, time_ms: i64) -> u32 {
        if !self.trusted {
            return flag::UNTRUSTED;
        }
        let pane = bin_of(time_ms, self.config.slide_ms());
        let late = if self.frontier.settles(pane, self.config) {
            flag::LATE
        } else if self.frontier.closes(pane, self.config) {
            flag::REVISING
        } else {
            0
        };
        // A device's clock may run ahead of its gateway's by as much as it may be behind. Further ahead, the stamp
        // says nothing, and its window would stay open for as long as it likes.
        let future = time_ms > self.sealed_ms.saturating_add(self.config.lateness_ms);
        late | if future { flag::FUTURE } else { 0 }
    }
}
