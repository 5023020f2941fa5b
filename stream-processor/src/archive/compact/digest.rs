//! A digest of rows that does not depend on their order, nor on how they are spread over files.
//!
//! The hash of a row is the first 16 bytes, little-endian, of the SHA-256 over its values that are not null, by column
//! name: the name's length (u32), the name, a letter for the kind, the value. Integers are 8 bytes (`i` signed, times
//! in ms too; `u` unsigned), floats the 8 bytes of the f64 (`f`), text and bytes their length (u32) and content (`s`,
//! `b`), booleans one byte (`t`); all little-endian. The digest is the sum of the hashes modulo 2^128. A null is
//! nothing, so a column that older files lack changes no digest.

use polars::prelude::{Column, DataFrame, DataType, PolarsError, PolarsResult};
use proto::archive::compaction::RowsDigest;
use sha2::{Digest, Sha256};

const ROWS_AT_ONCE: usize = 8_192;

pub fn digest(frame: &DataFrame) -> PolarsResult<RowsDigest> {
    let mut columns: Vec<&Column> = frame.columns().iter().collect();
    columns.sort_by(|a, b| a.name().cmp(b.name()));
    let (mut sum, mut rows) = (RowsDigest::default(), vec![Vec::new(); ROWS_AT_ONCE.min(frame.height())]);
    for first in (0..frame.height()).step_by(ROWS_AT_ONCE) {
        let many = ROWS_AT_ONCE.min(frame.height() - first);
        rows.iter_mut().for_each(Vec::clear);
        for column in &columns {
            append(&column.slice(first as i64, many), &mut rows)?;
        }
        sum = rows[..many].iter().fold(sum, |sum, row| sum.plus(row_hash(row)));
    }
    Ok(sum)
}

fn row_hash(row: &[u8]) -> RowsDigest {
    let mut first = [0; 16];
    first.copy_from_slice(&Sha256::digest(row)[..16]);
    RowsDigest(u128::from_le_bytes(first))
}

fn append(column: &Column, rows: &mut [Vec<u8>]) -> PolarsResult<()> {
    let name = column.name().as_str();
    let column = column.to_physical_repr();
    match column.dtype() {
        DataType::String => fill(rows, name, b's', column.str()?.iter(), |row, v| sized(row, v.as_bytes())),
        DataType::Binary => fill(rows, name, b'b', column.binary()?.iter(), sized),
        DataType::Boolean => fill(rows, name, b't', column.bool()?.iter(), |row, v| row.push(u8::from(v))),
        kind if kind.is_float() => {
            let floats = column.cast(&DataType::Float64)?;
            fill(rows, name, b'f', floats.f64()?.iter(), |row, v| row.extend(v.to_bits().to_le_bytes()));
        }
        kind if kind.is_unsigned_integer() => {
            let numbers = column.cast(&DataType::UInt64)?;
            fill(rows, name, b'u', numbers.u64()?.iter(), |row, v| row.extend(v.to_le_bytes()));
        }
        kind if kind.is_signed_integer() => {
            let numbers = column.cast(&DataType::Int64)?;
            fill(rows, name, b'i', numbers.i64()?.iter(), |row, v| row.extend(v.to_le_bytes()));
        }
        // A column without a single value, as a file may have it, is nothing.
        DataType::Null => {}
        other => {
            let reason = format!("column {name}: there is no digest of {other}");
            return Err(PolarsError::InvalidOperation(reason.into()));
        }
    }
    Ok(())
}

fn fill<V>(
    rows: &mut [Vec<u8>],
    name: &str,
    kind: u8,
    values: impl Iterator<Item = Option<V>>,
    put: impl Fn(&mut Vec<u8>, V),
) {
    for (row, value) in rows.iter_mut().zip(values) {
        if let Some(value) = value {
            sized(row, name.as_bytes());
            row.push(kind);
            put(row, value);
        }
    }
}

fn sized(row: &mut Vec<u8>, bytes: &[u8]) {
    row.extend((bytes.len() as u32).to_le_bytes());
    row.extend(bytes);
}

#[cfg(test)]
mod tests {
    use polars::prelude::{IntoColumn, NamedFrom, Series, df};

    use super::*;

    fn rows() -> DataFrame {
        df!("n" => [Some(1i64), None, Some(3)], "s" => ["a", "b", ""], "f" => [0.5, f64::NAN, -0.0]).unwrap()
    }

    #[test]
    fn neither_order_nor_files_nor_missing_columns_matter() {
        let whole = digest(&rows()).unwrap();
        let parts = [2i64, 0, 1].map(|row| digest(&rows().slice(row, 1)).unwrap());
        assert_eq!(parts.into_iter().fold(RowsDigest::default(), RowsDigest::plus), whole);
        let mut wider = rows();
        wider.with_column(Column::full_null("new".into(), 3, &DataType::UInt32)).unwrap();
        assert_eq!(digest(&wider).unwrap(), whole);
        assert_eq!(digest(&rows().select(["s", "f", "n"]).unwrap()).unwrap(), whole);
    }

    #[test]
    fn every_value_matters_and_so_does_every_repetition() {
        let whole = digest(&rows()).unwrap();
        let with = |column: Series| digest(rows().with_column(column.into_column()).unwrap()).unwrap();
        assert_ne!(with(Series::new("n".into(), [Some(1i64), Some(0), Some(3)])), whole);
        assert_ne!(with(Series::new("s".into(), ["b", "a", ""])), whole);
        assert_ne!(with(Series::new("f".into(), [0.5, f64::NAN, 0.0])), whole);
        assert_ne!(digest(&rows().vstack(&rows().slice(0, 1)).unwrap()).unwrap(), whole);
        let long = Series::new("n".into(), (0..ROWS_AT_ONCE as i64 + 5).collect::<Vec<_>>()).into_frame();
        let (front, back) = (long.slice(0, 9), long.slice(9, usize::MAX));
        assert_eq!(digest(&front).unwrap().plus(digest(&back).unwrap()), digest(&long).unwrap());
    }

    #[test]
    fn the_documented_digest_is_the_one_that_is_computed() {
        let row = [&[1, 0, 0, 0, b'n', b'i'][..], &7i64.to_le_bytes(), &[1, 0, 0, 0, b's', b's', 1, 0, 0, 0, b'x']];
        let frame = df!("s" => ["x"], "n" => [7i32]).unwrap();
        assert_eq!(digest(&frame).unwrap(), row_hash(&row.concat()));
    }
}
