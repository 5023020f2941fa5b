//! The generated decoder's work on a batch, for its columns faster: it would grow every column value by value, of which a
//! gateway sends a hundred in a second. Everything else is left to it, and both accept and reject the same bytes.

use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint},
};

use crate::wire::telemetry::{MachineReadings, SensorColumn, TelemetryBatch};

/// Tags of the schema.
const MACHINES: u32 = 3;
const TIME_DELTA_MS: u32 = 2;
const SENSORS: u32 = 3;
const VALUE: u32 = 2;
const DOUBLE_BYTES: usize = 8;

/// As [`TelemetryBatch::decode`].
pub fn decode_batch(mut bytes: &[u8]) -> Result<TelemetryBatch, DecodeError> {
    let mut batch = TelemetryBatch::default();
    while let Some((tag, wire)) = key(&mut bytes)? {
        match within(tag == MACHINES, wire, bytes) {
            Some((machine, rest)) => {
                batch.machines.push(decode_machine(machine)?);
                bytes = rest;
            }
            None => batch.merge_field(tag, wire, &mut bytes, DecodeContext::default())?,
        }
    }
    Ok(batch)
}

fn decode_machine(mut bytes: &[u8]) -> Result<MachineReadings, DecodeError> {
    let mut machine = MachineReadings::default();
    while let Some((tag, wire)) = key(&mut bytes)? {
        if let Some((column, rest)) = within(tag == SENSORS, wire, bytes) {
            machine.sensors.push(decode_column(column)?);
            bytes = rest;
            continue;
        }
        if let Some((deltas, _)) = within(tag == TIME_DELTA_MS, wire, bytes) {
            // The last byte of each has no high bit.
            machine.time_delta_ms.reserve_exact(deltas.iter().filter(|byte| **byte < 0x80).count());
        }
        machine.merge_field(tag, wire, &mut bytes, DecodeContext::default())?;
    }
    Ok(machine)
}

fn decode_column(mut bytes: &[u8]) -> Result<SensorColumn, DecodeError> {
    let mut column = SensorColumn::default();
    while let Some((tag, wire)) = key(&mut bytes)? {
        match within(tag == VALUE, wire, bytes).map(|(packed, rest)| (packed.as_chunks::<DOUBLE_BYTES>(), rest)) {
            Some(((values, []), rest)) => {
                column.value.reserve_exact(values.len());
                column.value.extend(values.iter().map(|value| f64::from_le_bytes(*value)));
                bytes = rest;
            }
            _ => column.merge_field(tag, wire, &mut bytes, DecodeContext::default())?,
        }
    }
    Ok(column)
}

/// None: this was all.
fn key(bytes: &mut &[u8]) -> Result<Option<(u32, WireType)>, DecodeError> {
    if bytes.is_empty() { Ok(None) } else { decode_key(bytes).map(Some) }
}

/// A field's content and what is behind it; None unless it is of the kind that is `wanted` here and whole.
fn within(wanted: bool, wire: WireType, mut bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = (wanted && wire == WireType::LengthDelimited).then(|| decode_varint(&mut bytes).ok())??;
    bytes.split_at_checked(usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, seq::IndexedRandom};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::wire::telemetry::{Birth, EventRecord, SealTime};

    fn batch(rng: &mut ChaCha8Rng) -> TelemetryBatch {
        let name = |rng: &mut ChaCha8Rng| ["press-1", "", "vibration", "x"].choose(rng).unwrap().to_string();
        let column = |rng: &mut ChaCha8Rng| SensorColumn {
            sensor: name(rng),
            value: (0..rng.random_range(0..20)).map(|_| f64::from_bits(rng.random())).collect(),
            quality: (0..rng.random_range(0..3)).map(|_| rng.random_range(-2..6)).collect(),
            reason: (0..rng.random_range(0..3)).map(|_| rng.random_range(0..9)).collect(),
        };
        let machine = |rng: &mut ChaCha8Rng| MachineReadings {
            machine: name(rng),
            time_delta_ms: (0..rng.random_range(0..20))
                .map(|_| rng.random::<i64>() >> rng.random_range(0..64))
                .collect(),
            sensors: (0..rng.random_range(0..4)).map(|_| column(rng)).collect(),
        };
        TelemetryBatch {
            sealed: rng.random_bool(0.9).then(|| SealTime { time_ms: rng.random(), ..Default::default() }),
            birth: rng.random_bool(0.2).then(|| Birth { install_id: name(rng), ..Default::default() }),
            machines: (0..rng.random_range(0..4)).map(|_| machine(rng)).collect(),
            events: (0..rng.random_range(0..2))
                .map(|_| EventRecord { machine: name(rng), ..Default::default() })
                .collect(),
            trace: None,
        }
    }

    fn same(bytes: &[u8], seed: u64) {
        // NaN by its bits.
        let encoded = |decoded: Result<TelemetryBatch, DecodeError>| decoded.ok().map(|batch| batch.encode_to_vec());
        assert_eq!(encoded(decode_batch(bytes)), encoded(TelemetryBatch::decode(bytes)), "seed {seed}: {bytes:?}");
    }

    /// Whole, cut, damaged, or one behind the other, as protobuf lets messages be merged.
    #[test]
    fn the_same_comes_out_as_of_the_generated_decoder() {
        let seed = std::env::var("MILLWRIGHT_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("MILLWRIGHT_SEED={seed}");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..2_000 {
            let mut bytes = batch(&mut rng).encode_to_vec();
            same(&bytes, seed);
            same(&bytes[..rng.random_range(0..=bytes.len())], seed);
            bytes.extend(batch(&mut rng).encode_to_vec());
            same(&bytes, seed);
            for _ in 0..4.min(bytes.len()) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
                same(&bytes, seed);
            }
        }
    }
}
