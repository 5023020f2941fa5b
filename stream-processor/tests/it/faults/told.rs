//! What an archive says that was derived: windows, predictions and alerts, so that two archives can be compared.

use std::{collections::BTreeMap, fmt::Debug};

use model::store::Store;
use polars::prelude::{Column, DataFrame, DataType};
use proto::archive::{Manifest, Table, column};

use crate::archive;

/// The order in which readings were summed shows in the last digits.
const RELATIVE_MAX: f64 = 1e-9;

/// Columns that name a row, and the numbers in it.
type Rows = BTreeMap<Vec<String>, Vec<f64>>;

#[derive(Debug)]
pub struct Told {
    pub windows: Rows,
    pub predictions: Rows,
    /// One row per change.
    pub alerts: Rows,
}

impl Told {
    /// Up to a plant time, by the windows' ends.
    pub async fn read(store: &Store, manifests: &[Manifest], end_ms: i64) -> Told {
        const WINDOW: [&str; 4] = [column::MACHINE, column::KIND, column::WINDOW_END, column::WINDOW_START];
        const VERSION: [&str; 4] = [column::REVISION, column::GENERATION, column::MODEL_VERSION, column::MODE];
        const ALERT: [&str; 5] = [column::ID, column::STATE, column::MACHINE, column::KIND, column::MODE];
        let of = async |table, keys: &[&str], time| {
            let mut rows = Rows::new();
            for frame in archive::table(store, manifests, table).await {
                add(&frame, keys, time, end_ms, &mut rows);
            }
            rows
        };
        let windows = [&WINDOW[..], &VERSION[..2]].concat();
        let predictions = [&[column::ID], &WINDOW[..], &VERSION].concat();
        let alerts = [&ALERT[..], &[column::TIME, column::SOURCE, column::MODEL_VERSION, column::GENERATION]].concat();
        Told {
            windows: of(Table::Features, &windows, column::WINDOW_END).await,
            predictions: of(Table::Predictions, &predictions, column::WINDOW_END).await,
            alerts: of(Table::Alerts, &alerts, column::TIME).await,
        }
    }

    pub fn assert_like(&self, other: &Told) {
        assert_like("window", &self.windows, &other.windows);
        assert_like("prediction", &self.predictions, &other.predictions);
        assert_like("alert", &self.alerts, &other.alerts);
    }
}

fn add(frame: &DataFrame, keys: &[&str], time: &str, end_ms: i64, rows: &mut Rows) {
    let cast = |name: &str, to: &DataType| frame.column(name).unwrap().cast(to).unwrap();
    let text = |name: &&str| match frame.column(name).unwrap().dtype() {
        DataType::Datetime(..) => cast(name, &DataType::Int64).cast(&DataType::String).unwrap(),
        _ => cast(name, &DataType::String),
    };
    let named: Vec<_> = keys.iter().map(text).collect();
    let time = cast(time, &DataType::Int64);
    let numbers: Vec<_> = frame.columns().iter().filter(|c| c.dtype() == &DataType::Float64).collect();
    let number = |row| move |column: &&Column| column.f64().unwrap().get(row).unwrap_or(f64::NAN);
    for row in (0..frame.height()).filter(|row| time.i64().unwrap().get(*row).unwrap() <= end_ms) {
        let key: Vec<String> = named.iter().map(|c| c.str().unwrap().get(row).unwrap_or_default().into()).collect();
        let doubled = rows.insert(key.clone(), numbers.iter().map(number(row)).collect());
        assert!(doubled.is_none(), "twice: {key:?}");
    }
}

fn assert_like(what: &str, ours: &Rows, theirs: &Rows) {
    let missing = |a: &Rows, b: &Rows| a.keys().find(|key| !b.contains_key(*key)).cloned();
    assert_eq!((missing(theirs, ours), missing(ours, theirs)), (None, None), "{what}: missing, and not to be there");
    for (key, ours) in ours {
        let theirs = &theirs[key];
        let near = |(a, b): (&f64, &f64)| {
            (a.is_nan() && b.is_nan()) || (a - b).abs() <= RELATIVE_MAX * a.abs().max(b.abs()).max(1.0)
        };
        assert!(
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(near),
            "{what} {key:?}: {ours:?}, {theirs:?}"
        );
    }
}
