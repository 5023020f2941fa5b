//! The content of a batch: delta-coded stamps, and the checks that make a decoded batch safe to use.

use crate::{
    asset::{AssetId, InvalidAssetId, Unit, UnknownUnit},
    wire::telemetry::{MachineReadings, Quality, TelemetryBatch},
};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error(transparent)]
    Name(#[from] InvalidAssetId),
    #[error(transparent)]
    Unit(#[from] UnknownUnit),
    #[error("the batch has no seal time")]
    Unsealed,
    #[error(
        "machine {machine}, sensor {sensor}: {stamps} time stamps, but {values} values, {qualities} qualities and \
         {reasons} reasons"
    )]
    Columns { machine: String, sensor: String, stamps: usize, values: usize, qualities: usize, reasons: usize },
    #[error("machine {machine}: {reason}")]
    Machine { machine: String, reason: &'static str },
    #[error("the header counts {header} readings, the batch has {batch}")]
    Count { header: u32, batch: u64 },
}

/// Absolute stamps to the wire's form: the first absolute, each further one as a difference.
pub fn delta_encode(stamps: &[i64]) -> Vec<i64> {
    let mut before = 0i64;
    stamps.iter().map(|&t| t.wrapping_sub(std::mem::replace(&mut before, t))).collect()
}

/// The inverse of [`delta_encode`]; wraps instead of failing on overflow.
pub fn delta_decode(deltas: &[i64]) -> Vec<i64> {
    let mut at = 0i64;
    deltas
        .iter()
        .map(|d| {
            at = at.wrapping_add(*d);
            at
        })
        .collect()
}

/// Readings in the machine's columns, absent ones not counted.
pub fn count_readings(machine: &MachineReadings) -> u64 {
    let absent = |q: &&i32| **q == Quality::Absent as i32;
    machine.sensors.iter().map(|s| s.value.len() as u64 - s.quality.iter().filter(absent).count() as u64).sum()
}

/// Everything that must hold before a batch may be used; returns the number of readings.
pub fn check_batch(batch: &TelemetryBatch) -> Result<u64, BatchError> {
    if batch.sealed.is_none() {
        return Err(BatchError::Unsealed);
    }
    for machine in batch.birth.iter().flat_map(|b| &b.machines) {
        AssetId::check(&machine.machine)?;
        AssetId::check(&machine.kind)?;
        for sensor in &machine.sensors {
            AssetId::check(&sensor.sensor)?;
            sensor.unit.parse::<Unit>()?;
        }
    }
    for event in &batch.events {
        AssetId::check(&event.machine)?;
    }
    let mut readings = 0;
    for machine in &batch.machines {
        AssetId::check(&machine.machine)?;
        check_columns(machine)?;
        readings += count_readings(machine);
    }
    Ok(readings)
}

fn check_columns(machine: &MachineReadings) -> Result<(), BatchError> {
    let stamps = machine.time_delta_ms.len();
    for s in &machine.sensors {
        AssetId::check(&s.sensor)?;
        let (values, qualities, reasons) = (s.value.len(), s.quality.len(), s.reason.len());
        if values != stamps || [qualities, reasons].iter().any(|many| ![0, stamps].contains(many)) {
            return Err(BatchError::Columns {
                machine: machine.machine.clone(),
                sensor: s.sensor.clone(),
                stamps,
                values,
                qualities,
                reasons,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::telemetry::{SealTime, SensorColumn};

    #[test]
    fn stamps_survive_in_any_order() {
        for stamps in [vec![], vec![5], vec![1_000, 2_000, 1_500, i64::MAX, i64::MIN, 0]] {
            assert_eq!(delta_decode(&delta_encode(&stamps)), stamps);
        }
    }

    fn batch(values: Vec<f64>, quality: Vec<i32>) -> TelemetryBatch {
        TelemetryBatch {
            sealed: Some(SealTime::default()),
            machines: vec![MachineReadings {
                machine: "m1".into(),
                time_delta_ms: vec![1_000, 1_000],
                sensors: vec![SensorColumn {
                    sensor: "temperature".into(),
                    value: values,
                    quality,
                    ..Default::default()
                }],
            }],
            ..Default::default()
        }
    }

    #[test]
    fn absent_readings_do_not_count() {
        assert_eq!(check_batch(&batch(vec![1.0, 2.0], vec![])), Ok(2));
        assert_eq!(check_batch(&batch(vec![1.0, f64::NAN], vec![0, 3])), Ok(1));
    }

    #[test]
    fn columns_that_do_not_fit_are_refused() {
        assert!(matches!(check_batch(&batch(vec![1.0], vec![])), Err(BatchError::Columns { .. })));
        assert!(matches!(check_batch(&batch(vec![1.0, 2.0], vec![0])), Err(BatchError::Columns { .. })));
        let mut short = batch(vec![1.0, 2.0], vec![]);
        short.machines[0].sensors[0].reason = vec![1];
        assert!(matches!(check_batch(&short), Err(BatchError::Columns { reasons: 1, .. })));
        let mut bad = batch(vec![1.0, 2.0], vec![]);
        bad.machines[0].machine = "../x".into();
        assert!(matches!(check_batch(&bad), Err(BatchError::Name(_))));
    }
}
