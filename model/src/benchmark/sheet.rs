//! References in other languages: a sheet of the rows that they learn from and are asked, and what they said.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use crate::train::table::Table;

#[derive(Debug, thiserror::Error)]
pub enum SheetError {
    #[error("{}: {error}", .file.display())]
    File { file: PathBuf, error: io::Error },
    #[error("{}: {error}", .file.display())]
    Json { file: PathBuf, error: serde_json::Error },
    #[error("{}: {reference} says another number of things than was asked", .file.display())]
    Shape { file: PathBuf, reference: String },
}

/// Which rows are for what in one split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Learnt from by all.
    Learnt,
    /// Asked by this number, and learnt from by the others.
    Asked(usize),
    Left,
}

/// All that a reference gets, and the name of the file that it is in.
pub struct Sheet<'a> {
    pub name: String,
    pub columns: &'a [String],
    pub table: Table<'a>,
    /// Name, and a number for each row.
    pub labels: Vec<(String, Vec<f32>)>,
    /// Per split the part of each row.
    pub splits: Vec<Vec<Part>>,
}

/// Per run and label a number for each row that was asked, in the order of the sheet.
pub type Answers = Vec<Vec<Vec<f64>>>;

impl Sheet<'_> {
    /// As CSV: columns, `label.NAME` and `split.N`, in which an empty cell takes no part and -1 is learnt from by all.
    pub fn write(&self, folder: &Path) -> Result<(), SheetError> {
        let file = folder.join(format!("{}.csv", self.name));
        self.try_write(&file).map_err(|error| SheetError::File { file, error })
    }

    fn try_write(&self, file: &Path) -> io::Result<()> {
        let mut out = BufWriter::new(File::create(file)?);
        let labels = self.labels.iter().map(|(name, _)| format!("label.{name}"));
        let splits = (0..self.splits.len()).map(|split| format!("split.{split}"));
        let header: Vec<String> = self.columns.iter().cloned().chain(labels).chain(splits).collect();
        writeln!(out, "{}", header.join(","))?;
        let number = |value: f32| if value.is_finite() { value.to_string() } else { String::new() };
        for row in 0..self.table.values.len() / self.table.width {
            let part = |split: &Vec<Part>| match split[row] {
                Part::Learnt => "-1".to_owned(),
                Part::Asked(number) => number.to_string(),
                Part::Left => String::new(),
            };
            let values = self.table.row(row).iter().map(|value| number(*value));
            let labels = self.labels.iter().map(|(_, label)| number(label[row]));
            let cells: Vec<String> = values.chain(labels).chain(self.splits.iter().map(part)).collect();
            writeln!(out, "{}", cells.join(","))?;
        }
        out.flush()
    }
}

/// What references said of the sheet of this name: a JSON object with [`Answers`] for each; `asked` rows in each run.
pub fn answers(folder: &Path, name: &str, labels: usize, asked: usize) -> Result<Vec<(String, Answers)>, SheetError> {
    let file = folder.join(format!("{name}.json"));
    let open = match File::open(&file) {
        Err(error) => return Err(SheetError::File { file, error }),
        Ok(open) => BufReader::new(open),
    };
    let said: BTreeMap<String, Answers> = match serde_json::from_reader(open) {
        Err(error) => return Err(SheetError::Json { file, error }),
        Ok(said) => said,
    };
    let fits = |answers: &Answers| {
        let run = |run: &Vec<Vec<f64>>| run.len() == labels && run.iter().all(|label| label.len() == asked);
        !answers.is_empty() && answers.iter().all(run)
    };
    match said.iter().find(|(_, answers)| !fits(answers)) {
        Some((reference, _)) => Err(SheetError::Shape { file, reference: reference.clone() }),
        None => Ok(said.into_iter().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_says_what_is_learnt_and_asked_and_answers_must_fit_it() {
        let folder = tempfile::tempdir().unwrap();
        let sheet = Sheet {
            name: "set".into(),
            columns: &["a.mean".to_owned(), "b.mean".to_owned()],
            table: Table { width: 2, values: &[0.5, f32::NAN, 3.0, 4.0, 5.0, 6.0] },
            labels: vec![("failure".into(), vec![0.0, 1.0, 0.0])],
            splits: vec![vec![Part::Learnt, Part::Asked(0), Part::Left]],
        };
        sheet.write(folder.path()).unwrap();
        let text = std::fs::read_to_string(folder.path().join("set.csv")).unwrap();
        assert_eq!(text, "a.mean,b.mean,label.failure,split.0\n0.5,,0,-1\n3,4,1,0\n5,6,0,\n");
        let answer = |json: &str| {
            std::fs::write(folder.path().join("set.json"), json).unwrap();
            answers(folder.path(), "set", 1, 1)
        };
        assert_eq!(answer(r#"{"forest": [[[0.25]]]}"#).unwrap(), vec![("forest".to_owned(), vec![vec![vec![0.25]]])]);
        assert!(matches!(answer(r#"{"forest": [[[0.25, 1.0]]]}"#), Err(SheetError::Shape { .. })));
        assert!(matches!(answers(folder.path(), "other", 1, 1), Err(SheetError::File { .. })));
    }
}
