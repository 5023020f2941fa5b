//! A text file as rows of fields, one line at a time, each with its line number for whoever has to mend it.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use csv::StringRecord;

use super::config::{Column, Separator};
use crate::source::SourceError;

const LINE_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug)]
pub(super) struct Table {
    path: PathBuf,
    reader: BufReader<File>,
    separator: Separator,
    /// Names of the columns, if the file has any.
    header: Option<StringRecord>,
    line: u64,
    text: String,
    row: StringRecord,
}

impl Table {
    pub(super) fn open(path: &Path, separator: Separator, header: bool) -> Result<Self, SourceError> {
        let file = File::open(path).map_err(|e| file_error(path, e.to_string()))?;
        let reader = BufReader::new(file);
        let (text, row) = (String::new(), StringRecord::new());
        let mut table = Self { path: path.into(), reader, separator, header: None, line: 0, text, row };
        if header {
            if !table.advance()? {
                return Err(file_error(path, "is empty, it should begin with the names of its columns".into()));
            }
            table.header = Some(table.row.iter().map(str::trim).collect());
        }
        Ok(table)
    }

    /// The place of a column in every row.
    pub(super) fn find(&self, column: &Column) -> Result<usize, SourceError> {
        match (column, &self.header) {
            (Column::Number(0), _) => Err(file_error(&self.path, "columns are counted from 1".into())),
            (Column::Number(n), _) => Ok(n - 1),
            (Column::Name(name), None) => {
                Err(file_error(&self.path, format!("has no header: give column `{name}` by its number")))
            }
            (Column::Name(name), Some(header)) => header.iter().position(|h| h == name).ok_or_else(|| {
                let all = header.iter().collect::<Vec<_>>().join(", ");
                file_error(&self.path, format!("has no column `{name}`; it has: {all}"))
            }),
        }
    }

    /// Goes to the next row; false at the end. Empty lines are passed over.
    pub(super) fn advance(&mut self) -> Result<bool, SourceError> {
        loop {
            self.text.clear();
            self.line += 1;
            let mut bounded = (&mut self.reader).take(LINE_BYTES_MAX);
            let bytes = bounded.read_line(&mut self.text).map_err(|e| self.error(e.to_string()))?;
            if bytes == 0 {
                return Ok(false);
            }
            if bytes as u64 == LINE_BYTES_MAX {
                return Err(self.error(format!("is longer than {LINE_BYTES_MAX} bytes")));
            }
            let mut text = self.text.trim_end_matches(['\r', '\n']);
            if self.line == 1 {
                // A mark that some programs set before UTF-8 text.
                text = text.trim_start_matches('\u{feff}');
            }
            if !text.trim().is_empty() {
                self.row = split(text, self.separator).map_err(|reason| self.error(reason))?;
                return Ok(true);
            }
        }
    }

    pub(super) fn field(&self, column: usize) -> Result<&str, SourceError> {
        let field = self.row.get(column).map(str::trim);
        field.ok_or_else(|| self.error(format!("has {} columns, not {}", self.row.len(), column + 1)))
    }

    /// An error about the current line.
    pub(super) fn error(&self, reason: String) -> SourceError {
        SourceError::Line { file: self.path.display().to_string(), line: self.line, reason }
    }
}

pub(super) fn file_error(path: &Path, reason: String) -> SourceError {
    SourceError::File { file: path.display().to_string(), reason }
}

/// Splits one line; a quoted field may hold the separator, but no line break.
fn split(line: &str, separator: Separator) -> Result<StringRecord, String> {
    let delimiter = match separator {
        Separator::Whitespace => return Ok(line.split_whitespace().collect::<Vec<_>>().into()),
        Separator::Comma => b',',
        Separator::Semicolon => b';',
        Separator::Tab => b'\t',
    };
    if !line.contains('"') {
        return Ok(line.split(char::from(delimiter)).collect::<Vec<_>>().into());
    }
    let mut reader = csv::ReaderBuilder::new().has_headers(false).delimiter(delimiter).from_reader(line.as_bytes());
    let mut row = StringRecord::new();
    reader.read_record(&mut row).map_err(|e| e.to_string())?;
    Ok(row)
}
