//! Reads an archive back through the S3 API, with nothing of the writer's code but the manifest's format.

use std::{collections::BTreeMap, io::Cursor};

use model::store::{Store, manifests};
use polars::prelude::{DataFrame, DataType, SerReader};
use polars_io::parquet::read::ParquetReader;
use proto::archive::{Manifest, Shard, Table, column};
use sha2::{Digest, Sha256};

/// By (machine, sensor): time and the value's bits, in time.
pub type Readings = BTreeMap<(String, String), Vec<(i64, u64)>>;

/// All manifests, oldest first; checks that their numbers have no gap.
pub async fn manifests(store: &Store) -> Vec<Manifest> {
    let newest = manifests::newest_number(store, Shard(0), 0).await.unwrap();
    let mut all = Vec::new();
    for number in 1..=newest.unwrap_or(0) {
        all.push(
            manifests::read_manifest(store, Shard(0), number).await.unwrap().expect("manifest numbers have no gaps"),
        );
    }
    all
}

/// Every row of a table, object by object; checks each object against what its manifest says of it.
pub async fn table(store: &Store, manifests: &[Manifest], table: Table) -> Vec<DataFrame> {
    let mut frames = Vec::new();
    for object in manifests.iter().flat_map(|m| &m.objects).filter(|o| o.table == table) {
        let bytes = store.get(&object.object.key).await.unwrap().expect("a manifest names only what is there");
        assert_eq!(bytes.len() as u64, object.object.bytes);
        let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(digest, object.object.sha256);
        let frame = ParquetReader::new(Cursor::new(bytes)).finish().unwrap();
        assert_eq!(frame.height() as u64, object.rows);
        frames.push(frame);
    }
    frames
}

pub async fn readings(store: &Store, manifests: &[Manifest]) -> Readings {
    readings_of(&table(store, manifests, Table::Readings).await)
}

pub fn readings_of(frames: &[DataFrame]) -> Readings {
    let mut readings = Readings::new();
    for frame in frames {
        let text = |name| frame.column(name).unwrap().cast(&DataType::String).unwrap();
        let (machine, sensor) = (text(column::MACHINE), text(column::SENSOR));
        let time = frame.column(column::TIME).unwrap().cast(&DataType::Int64).unwrap();
        let value = frame.column(column::VALUE).unwrap().cast(&DataType::Float64).unwrap();
        let (machine, sensor) = (machine.str().unwrap(), sensor.str().unwrap());
        let (time, value) = (time.i64().unwrap(), value.f64().unwrap());
        for row in 0..frame.height() {
            let key = (machine.get(row).unwrap(), sensor.get(row).unwrap());
            let value = value.get(row).unwrap_or(f64::NAN);
            let at = (time.get(row).unwrap(), canonical_bits(value));
            match readings.get_mut(&(key.0.to_owned(), key.1.to_owned())) {
                Some(column) => column.push(at),
                None => drop(readings.insert((key.0.to_owned(), key.1.to_owned()), vec![at])),
            }
        }
    }
    readings.values_mut().for_each(|column| column.sort_unstable());
    readings
}

/// All NaNs are one.
pub fn canonical_bits(value: f64) -> u64 {
    if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }
}

pub fn count(readings: &Readings) -> usize {
    readings.values().map(Vec::len).sum()
}

/// Sent and archived must be the same, row for row; says where they first differ.
pub fn assert_same(sent: &Readings, archived: &Readings) {
    let keys = |r: &Readings| r.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(sent), keys(archived));
    for (key, sent) in sent {
        let archived = &archived[key];
        let first = sent.iter().zip(archived).position(|(a, b)| a != b);
        assert!(
            first.is_none(),
            "{key:?}: row {first:?}: sent {:?}, archived {:?}",
            sent[first.unwrap()],
            archived[first.unwrap()]
        );
        assert_eq!(sent.len(), archived.len(), "{key:?}");
    }
}
