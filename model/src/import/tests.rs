use std::{
    io::Cursor,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use polars::prelude::{AnyValue, DataFrame, SerReader};
use polars_io::parquet::read::ParquetReader;
use proto::archive::{Shard, Table as ArchiveTable};

use super::*;
use crate::{
    dataset::archive::{self, Scope},
    features::FeatureConfig,
    store::{ObjectMeta, Operation, PutOutcome, listing::resolve_all, memory::MemoryObjects, objects::Answer, schema},
};

const MAPPING: &str = r#"
site = "hall"
source = "import"
[readings]
source = { file = "readings.csv" }
machine = { column = "id", prefix = "m", kind = { column = "what" } }
time = { column = "at", format = "%Y-%m-%d %H:%M" }
sensors = [
  { column = "heat", name = "temperature", unit = "F", range = [0.0, 500.0], interval_ms = 60000 },
  { column = "shake", name = "vibration", unit = "mm/s" },
]
[machines]
source = { file = "machines.csv" }
column = "id"
make = "maker"
model = "type"
age = { column = "age", on = "2020-01-01" }
[[events]]
source = { file = "events.csv", delimiter = ";", columns = ["at", "id", "a", "b", "bad"] }
machine = { column = "id", prefix = "m" }
time = { column = "at", each_ms = 1000 }
kind = "failure"
code = { flags = ["a", "b"] }
mode = { always = "heat" }
only = { column = "bad", is = "yes" }
"#;
const READINGS: &str = "id,what,at,heat,shake\n\
    1,press,2020-01-02 23:59,212.5,1.5\n\
    1,press,2020-01-03 00:00,,2.5\n\
    \"2\",baler,2020-01-03 00:01,100,\n";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("readings.csv", READINGS);
    write("machines.csv", "id,maker,type,age\n1,Acme,X,2\n2,Bolt,Y,0\n3,Acme,X,9\n");
    write("events.csv", "1577923200;1;1;1;yes\n1577923201;2;0;0;no\n");
    folder
}

async fn run(store: &dyn Objects, folder: &Path) -> Result<Imported, ImportError> {
    import(store, &Mapping::parse("m.toml", MAPPING).unwrap(), MAPPING, folder, 5).await
}

async fn frames(store: &dyn Objects, table: ArchiveTable) -> Vec<DataFrame> {
    let listed = resolve_all(store, None, &[table]).await.unwrap().unwrap();
    let mut frames = Vec::new();
    for listed in listed {
        let bytes = store.get(&listed.object.object.key).await.unwrap().unwrap();
        frames.push(ParquetReader::new(Cursor::new(bytes)).finish().unwrap());
    }
    frames
}

fn names(frame: &DataFrame) -> Vec<String> {
    frame.columns().iter().map(|c| format!("{} {:?}", c.name(), c.dtype())).collect()
}

fn rows(frames: &[DataFrame], columns: &[&str]) -> Vec<String> {
    let cell = |frame: &DataFrame, column: &&str, row: usize| match frame.column(column).unwrap().get(row).unwrap() {
        AnyValue::Datetime(ms, ..) | AnyValue::DatetimeOwned(ms, ..) => ms.to_string(),
        AnyValue::String(text) => text.to_owned(),
        AnyValue::StringOwned(text) => text.to_string(),
        other => other.to_string(),
    };
    let of = |frame: &DataFrame, row| columns.iter().map(|c| cell(frame, c, row)).collect::<Vec<_>>().join(" ");
    frames.iter().flat_map(|f| (0..f.height()).map(|row| of(f, row)).collect::<Vec<_>>()).collect()
}

#[tokio::test]
async fn foreign_rows_become_the_archives() {
    let (store, folder) = (MemoryObjects::default(), folder());
    let imported = run(&store, folder.path()).await.unwrap();
    assert_eq!(imported, Imported { readings: 4, events: 1, machines: 2, commits_found: 0 });
    let readings = frames(&store, ArchiveTable::Readings).await;
    assert_eq!(readings.len(), 2, "a file a day");
    assert!(**readings[0].schema() == schema::readings(), "{:?}", names(&readings[0]));
    let expected = [
        "m1 temperature 1578009540000 212.5 F",
        "m1 vibration 1578009540000 1.5 mm/s",
        "m1 vibration 1578009600000 2.5 mm/s",
        "m2 temperature 1578009660000 100.0 F",
    ];
    assert_eq!(rows(&readings, &["machine", "sensor", "time", "value", "unit"]), expected);
    let births = frames(&store, ArchiveTable::Births).await;
    assert!(**births[0].schema() == schema::births(), "{:?}", names(&births[0]));
    let two_years = 1_577_836_800_000_i64 - 2 * 31_557_600_000;
    let born = rows(&births, &["machine", "kind", "make", "model", "installed", "sensor"]);
    assert!(born.contains(&format!("m1 press Acme X {two_years} vibration")), "{born:?}");
    let events = frames(&store, ArchiveTable::Events).await;
    assert!(**events[0].schema() == schema::events(), "{:?}", names(&events[0]));
    assert_eq!(rows(&events, &["machine", "kind", "code", "mode", "time"]), ["m1 failure a+b heat 1577923200000"]);
    let archive = archive::read(&store, Scope::default(), &mut |_| {}).await.unwrap();
    assert_eq!(archive.readings(), 4);
    archive.into_dataset(&FeatureConfig::default(), 3_600_000).unwrap();
}

#[tokio::test]
async fn what_is_wrong_in_a_file_is_said_with_its_place() {
    let wrong = async |name: &str, text: &str| {
        let folder = folder();
        std::fs::write(folder.path().join(name), text).unwrap();
        let error = run(&MemoryObjects::default(), folder.path()).await.unwrap_err().to_string();
        let place = format!("{}/", folder.path().display());
        error.strip_prefix(&place).unwrap_or_else(|| panic!("{error}")).to_owned()
    };
    let number = wrong("readings.csv", &READINGS.replace("1.5", "fast")).await;
    assert_eq!(number, "readings.csv:2: column `shake`: invalid float literal");
    let time = wrong("readings.csv", &READINGS.replace("2020-01-03 00:01", "tomorrow")).await;
    assert!(time.starts_with("readings.csv:4: column `at`: `tomorrow` is not a time like"), "{time}");
    let cells = wrong("events.csv", "1577923200;1;1\n").await;
    assert_eq!(cells, "events.csv:1: 3 cells, 5 were expected");
    let column = wrong("machines.csv", "id,maker,age\n").await;
    assert_eq!(column, "machines.csv:1: there is no column `type`; there are id, maker, age");
    let name = wrong("readings.csv", &READINGS.replace("\"2\"", "a/b")).await;
    assert!(name.starts_with("readings.csv:4: column `id`: `ma/b` is not a valid name"), "{name}");
    let long = wrong("events.csv", &"1".repeat(table::LINE_BYTES_MAX as usize)).await;
    assert_eq!(long, "events.csv:1: a line of more than 65536 bytes");
}

#[tokio::test]
async fn nothing_is_imported_twice_nor_beside_other_data() {
    let (store, folder) = (MemoryObjects::default(), folder());
    run(&store, folder.path()).await.unwrap();
    assert!(matches!(run(&store, folder.path()).await, Err(ImportError::Imported)));
    std::fs::write(folder.path().join("readings.csv"), READINGS.replace("1.5", "1.6")).unwrap();
    assert!(matches!(run(&store, folder.path()).await, Err(ImportError::Taken { number: 1 })));
    assert_eq!(rows(&frames(&store, ArchiveTable::Readings).await, &["value"])[1], "1.5");
}

/// Takes so many writes.
struct Fails<'a>(&'a MemoryObjects, AtomicUsize);

impl Fails<'_> {
    fn fails(&self) -> bool {
        self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

impl Objects for Fails<'_> {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Bytes>> {
        self.0.get(key)
    }
    fn get_file<'a>(&'a self, key: &'a str, path: &'a Path) -> Answer<'a, Option<u64>> {
        self.0.get_file(key, path)
    }
    fn head<'a>(&'a self, key: &'a str) -> Answer<'a, Option<ObjectMeta>> {
        self.0.head(key)
    }
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> Answer<'a, Vec<ObjectMeta>> {
        self.0.list(prefix, after)
    }
    fn put<'a>(&'a self, key: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        match self.fails() {
            true => Box::pin(async move { Err(StoreError::no_answer(Operation::Put, key, "no")) }),
            false => self.0.put(key, bytes),
        }
    }
    fn put_file<'a>(&'a self, key: &'a str, path: &'a Path) -> Answer<'a, ()> {
        self.0.put_file(key, path)
    }
    fn put_if_absent<'a>(&'a self, key: &'a str, bytes: Bytes) -> Answer<'a, PutOutcome> {
        match self.fails() {
            true => Box::pin(async move { Err(StoreError::no_answer(Operation::PutConditional, key, "no")) }),
            false => self.0.put_if_absent(key, bytes),
        }
    }
    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        self.0.delete(key)
    }
}

#[tokio::test]
async fn an_import_that_was_cut_short_anywhere_is_gone_on_with() {
    let folder = folder();
    let whole = MemoryObjects::default();
    run(&whole, folder.path()).await.unwrap();
    let all = resolve_all(&whole, None, &ArchiveTable::ALL).await.unwrap();
    let mut writes = 0;
    loop {
        let store = MemoryObjects::default();
        match run(&Fails(&store, AtomicUsize::new(writes)), folder.path()).await {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, ImportError::Store(_)), "after {writes} writes: {error}"),
        }
        run(&store, folder.path()).await.unwrap();
        let found = resolve_all(&store, Some(Shard::FIRST), &ArchiveTable::ALL).await.unwrap();
        assert_eq!(found, all, "cut short after {writes} writes");
        writes += 1;
    }
    assert!(writes > 5);
}

#[tokio::test]
async fn twenty_machines_of_azure_are_read_back_row_for_row() {
    let Some(data) = std::env::var_os("MILLWRIGHT_DATA") else {
        println!("SKIPPED: MILLWRIGHT_DATA names no folder with the public data sets");
        return;
    };
    let (text, store) = (include_str!("../../benchmarks/azure-20-machines.toml"), MemoryObjects::default());
    let imported = import(&store, &Mapping::parse("azure", text).unwrap(), text, Path::new(&data), 0).await.unwrap();
    assert_eq!((imported.readings, imported.machines), (4 * 43_200, 20));
    let read = rows(&frames(&store, ArchiveTable::Readings).await, &["machine", "sensor", "time", "value"]);
    let mut found: Vec<String> = read;
    found.sort();
    let file = std::fs::read_to_string(Path::new(&data).join("azure-pdm/PdM_telemetry_20machines_90days.csv")).unwrap();
    let expected = file.lines().skip(1).flat_map(|line| {
        let cells: Vec<&str> = line.split(',').collect();
        let time = chrono::NaiveDateTime::parse_from_str(cells[0], "%Y-%m-%d %H:%M:%S").unwrap();
        let row = move |(sensor, cell): (&str, &str)| {
            let value = AnyValue::Float64(cell.parse().unwrap());
            format!("m{} {sensor} {} {value}", cells[1], time.and_utc().timestamp_millis())
        };
        let sensors = ["volt", "rotate", "pressure", "vibration"];
        sensors.into_iter().zip(line.split(',').skip(2).collect::<Vec<_>>()).map(row).collect::<Vec<_>>()
    });
    let mut expected: Vec<String> = expected.collect();
    expected.sort();
    assert!(found == expected, "{} rows, {} expected", found.len(), expected.len());
}
