use rand::seq::SliceRandom;

use super::*;
use crate::settings::TrainSettings;

fn data() -> Option<std::path::PathBuf> {
    let data = std::env::var_os("MILLWRIGHT_DATA");
    if data.is_none() {
        println!("SKIPPED: MILLWRIGHT_DATA names no folder with the public data sets");
    }
    data.map(Into::into)
}

/// The row's number in the file.
fn uid(dataset: &Dataset, row: usize) -> u64 {
    (dataset.rows[row].start.millis() / WINDOW_MS).unsigned_abs()
}

#[test]
fn modes_and_ids_are_refused_by_their_names() {
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    guard(&names(&["air.mean", "derived.power", "machine.kind.L"])).unwrap();
    for leak in ["TWF.mean", "UID.mean", "machine.age", "event.failure.count_24h", "event.maintenance.hours_since"] {
        assert!(matches!(guard(&names(&["air.mean", leak])), Err(BenchmarkError::Leak { .. })), "{leak}");
    }
}

#[test]
fn whoever_learnt_too_well_to_be_honest_is_an_error() {
    let of = |name: &str, f1| Contender { name: name.into(), figures: vec![f1] };
    honest(&[of("network", 0.95), of(RULES, 0.99)]).unwrap();
    let leak = honest(&[of("always no", 0.0), of("network", 0.951)]).unwrap_err();
    assert!(matches!(&leak, BenchmarkError::TooGood { contender, .. } if contender == "network"), "{leak}");
}

#[tokio::test]
async fn every_row_comes_in_with_its_label_and_nothing_else() {
    let Some(folder) = data() else { return };
    let (task, _) = load(&folder, Set::Engineered).await.unwrap();
    assert_eq!(task.positive.len(), 10_000);
    assert_eq!(task.positive.iter().filter(|p| **p).count(), 339);
    assert_eq!(task.names.len(), 5 + 4 + 3, "{:?}", task.names);
    let first = (0..10_000).find(|row| uid(&task.dataset, *row) == 1).unwrap();
    let row = task.table().row(first);
    let expected = [25.0, 35.5, 1551.0, 42.8, 0.0, 10.5, 42.8 * 1551.0 * 0.104_719_76, 0.0, 0.0];
    assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-2 * b.abs().max(0.1)), "{row:?}");
    // Without a rule for wear out, whose failures come at random.
    let said: Vec<f64> = (0..10_000).map(|row| rules(&task.dataset, row)).collect();
    let f1 = Counts::at(&said, &task.positive, THRESHOLD).f1();
    assert!((f1 - 0.896).abs() < 0.002, "{f1}");
}

#[tokio::test]
async fn shuffled_labels_fall_to_chance() {
    let Some(folder) = data() else { return };
    let seed = 3;
    let (mut task, _) = load(&folder, Set::Engineered).await.unwrap();
    task.positive.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let (train, test): (Vec<usize>, Vec<usize>) = (0..10_000).partition(|row| row % 5 != 0);
    let settings = TrainSettings { seed, epochs_max: 8, ..TrainSettings::default() };
    let (table, positive) = (task.table(), &task.positive);
    let network = said(&network(table, positive, &train, &[settings]).unwrap(), table, &test);
    let line = logistic(table, positive, &train, &test).unwrap();
    let known: Vec<bool> = test.iter().map(|row| positive[*row]).collect();
    for (contender, said) in [("network", network), ("logistic regression", line)] {
        let precision = average_precision(&said, &known);
        assert!(precision < 0.06, "seed {seed}, {contender}: {precision}, the share of failures is 0.034");
    }
}
