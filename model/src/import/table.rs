//! A CSV file from outside, line by line: one record is one line, cells may be quoted, and nothing grows with the file.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use super::{ImportError, mapping::Source};

pub const LINE_BYTES_MAX: u64 = 64 * 1024;
pub const COLUMNS_MAX: usize = 1024;

pub struct Table {
    path: PathBuf,
    reader: BufReader<File>,
    delimiter: char,
    columns: Vec<String>,
    /// Counts from 1.
    line: u64,
    text: String,
    cells: Vec<String>,
}

impl Table {
    pub fn open(folder: &Path, source: &Source) -> Result<Self, ImportError> {
        let path = folder.join(&source.file);
        let file = File::open(&path).map_err(|error| ImportError::File { file: path.clone(), error })?;
        let mut table = Table {
            path,
            reader: BufReader::new(file),
            delimiter: source.delimiter,
            columns: source.columns.clone(),
            line: 0,
            text: String::new(),
            cells: vec![],
        };
        if table.columns.is_empty() {
            if !table.next()? {
                return Err(table.wrong_line("the file is empty: a header was expected"));
            }
            table.columns = std::mem::take(&mut table.cells);
        }
        if table.columns.len() > COLUMNS_MAX {
            return Err(table.wrong_line(&format!("more than {COLUMNS_MAX} columns")));
        }
        Ok(table)
    }

    /// The place of a column; its name must be there.
    pub fn column(&self, name: &str) -> Result<usize, ImportError> {
        let place = self.columns.iter().position(|c| c == name);
        place.ok_or_else(|| {
            self.wrong_line(&format!("there is no column `{name}`; there are {}", self.columns.join(", ")))
        })
    }

    /// Goes on to the next line that is not empty. False: that was the last one.
    pub fn next(&mut self) -> Result<bool, ImportError> {
        loop {
            self.text.clear();
            self.line += 1;
            let mut bounded = self.reader.by_ref().take(LINE_BYTES_MAX);
            let read = bounded.read_line(&mut self.text);
            let read = read.map_err(|error| ImportError::File { file: self.path.clone(), error })?;
            if read as u64 == LINE_BYTES_MAX {
                return Err(self.wrong_line(&format!("a line of more than {LINE_BYTES_MAX} bytes")));
            }
            if read == 0 {
                return Ok(false);
            }
            if !self.text.trim().is_empty() {
                break;
            }
        }
        let line = self.text.trim_end_matches(['\r', '\n']);
        self.cells = split(line, self.delimiter).map_err(|reason| self.wrong_line(reason))?;
        // Files of columns padded with blanks end in some.
        while self.cells.len() > self.columns.len()
            && self.cells.last().is_some_and(String::is_empty)
            && !self.columns.is_empty()
        {
            self.cells.pop();
        }
        let (found, expected) = (self.cells.len(), self.columns.len());
        if expected > 0 && found != expected {
            return Err(self.wrong_line(&format!("{found} cells, {expected} were expected")));
        }
        Ok(true)
    }

    pub fn cell(&self, column: usize) -> &str {
        self.cells.get(column).map_or("", |cell| cell.trim())
    }

    /// The cell as `read` takes it; its error comes with its place.
    pub fn read<T, E: ToString>(&self, column: usize, read: impl Fn(&str) -> Result<T, E>) -> Result<T, ImportError> {
        read(self.cell(column)).map_err(|e| ImportError::Cell {
            file: self.path.clone(),
            line: self.line,
            column: self.columns[column].clone(),
            reason: e.to_string(),
        })
    }

    fn wrong_line(&self, reason: &str) -> ImportError {
        ImportError::Line { file: self.path.clone(), line: self.line, reason: reason.into() }
    }
}

fn split(line: &str, delimiter: char) -> Result<Vec<String>, &'static str> {
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => cell.extend(rest.next()),
            '"' if quoted || cell.is_empty() => quoted = !quoted,
            c if c == delimiter && !quoted => cells.push(std::mem::take(&mut cell)),
            c => cell.push(c),
        }
    }
    cells.push(cell);
    if quoted { Err("a quote is not closed") } else { Ok(cells) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_may_be_quoted() {
        assert_eq!(split(r#"a,"b,""c""",,d"#, ','), Ok(vec!["a".into(), r#"b,"c""#.into(), String::new(), "d".into()]));
        assert_eq!(split(r#"a,"b"#, ','), Err("a quote is not closed"));
    }
}
