//! Columns and types of the Parquet tables that more than one writer fills: the processor and `model import`.

use polars::prelude::{DataType, Schema, TimeUnit, TimeZone};
use proto::archive::column;

/// Plant time, ms.
pub fn time_type() -> DataType {
    DataType::Datetime(TimeUnit::Milliseconds, Some(TimeZone::UTC))
}

pub fn readings() -> Schema {
    schema([
        (column::AGENT, DataType::String),
        (column::SEQ, DataType::UInt64),
        (column::MACHINE, DataType::String),
        (column::SENSOR, DataType::String),
        (column::TIME, time_type()),
        (column::VALUE, DataType::Float64),
        (column::UNIT, DataType::String),
        (column::QUALITY, DataType::UInt8),
        (column::REASON, DataType::UInt8),
        (column::FLAGS, DataType::UInt32),
        (column::GENERATION, DataType::UInt32),
    ])
}

pub fn births() -> Schema {
    schema([
        (column::AGENT, DataType::String),
        (column::SEQ, DataType::UInt64),
        (column::TIME, time_type()),
        (column::MACHINE, DataType::String),
        (column::KIND, DataType::String),
        (column::MAKE, DataType::String),
        (column::MODEL, DataType::String),
        (column::INSTALLED, time_type()),
        (column::SENSOR, DataType::String),
        (column::UNIT, DataType::String),
        (column::RANGE_LOW, DataType::Float64),
        (column::RANGE_HIGH, DataType::Float64),
        (column::INTERVAL_MS, DataType::UInt64),
    ])
}

pub fn events() -> Schema {
    schema([
        (column::AGENT, DataType::String),
        (column::SEQ, DataType::UInt64),
        (column::MACHINE, DataType::String),
        (column::TIME, time_type()),
        (column::KIND, DataType::String),
        (column::CODE, DataType::String),
        (column::MODE, DataType::String),
        (column::NOTE, DataType::String),
        (column::AUTHOR, DataType::String),
        (column::ALERT_ID, DataType::String),
        (column::VERDICT, DataType::String),
        (column::KNOWN, time_type()),
    ])
}

fn schema<const N: usize>(columns: [(&str, DataType); N]) -> Schema {
    Schema::from_iter(columns.map(|(name, dtype)| (name.into(), dtype)))
}
