use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::*;

#[test]
fn what_tells_which_hours_are_there_is_refused() {
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    guard(&names(&["volt.mean", "volt.slope_over_24h", "event.error.error1.count_24h", "machine.age"])).unwrap();
    for leak in ["volt.missing", "volt.count", "volt.gap", "volt.run", "clock.hour", "src", "event.failure.count_24h"] {
        assert!(guard(&names(&["volt.mean", leak])).is_err(), "{leak}");
    }
}

#[tokio::test]
async fn shuffled_labels_fall_to_chance() {
    let Some(folder) = std::env::var_os("MILLWRIGHT_DATA") else {
        println!("SKIPPED: MILLWRIGHT_DATA names no folder with the public data sets");
        return;
    };
    let (seed, ends) = (3, TRAIN_ENDS[0].1);
    let task = load(Path::new(&folder)).await.unwrap();
    let rows = &task.dataset.rows;
    let mut label: Vec<bool> = rows.iter().map(|row| row.fails != 0).collect();
    label.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let of = |wanted: Part| (0..rows.len()).filter(|row| part(&task, *row, ends) == wanted).collect::<Vec<_>>();
    let (train, test) = (of(Part::Learnt), of(Part::Asked(0)));
    let settings = TrainSettings { seed, epochs_max: 2, rows_max: 8_000, ..TrainSettings::default() };
    let end = |row: usize| rows[row].end.millis();
    let model = network_of(task.table(), std::slice::from_ref(&label), &end, &train, &[settings]).unwrap();
    let found = mean_average_precision(&model, task.table(), std::slice::from_ref(&label), &test);
    let chance = test.iter().filter(|row| label[**row]).count() as f64 / test.len() as f64;
    assert!((found - chance).abs() < 0.03, "seed {seed}: {found}, the share of failures is {chance}");
}

/// On the months that are learnt from alone.
#[tokio::test]
async fn an_error_announces_the_component_that_it_is_a_cause_of() {
    let Some(folder) = std::env::var_os("MILLWRIGHT_DATA") else {
        println!("SKIPPED: MILLWRIGHT_DATA names no folder with the public data sets");
        return;
    };
    let task = load(Path::new(&folder)).await.unwrap();
    let learnt = failures(&task.dataset, 0);
    for code in ["error1", "error2", "error3", "error4", "error5"] {
        let errors = || task.events.iter().filter(|e| e.code == code && e.time.millis() <= TRAIN_ENDS[0].1 - DAY_MS);
        let failed_within_a_day = |mode: usize| {
            let fails = |event: &&Event| {
                let machine = task.dataset.machines.iter().position(|m| m.name == event.machine).unwrap();
                let times = learnt.get(&(machine, mode)).into_iter().flatten();
                times.into_iter().any(|at| (1..=DAY_MS).contains(&(at - event.time.millis())))
            };
            errors().filter(fails).count()
        };
        let announced = (0..4).max_by_key(|mode| failed_within_a_day(*mode)).unwrap();
        let cause = CAUSES.iter().position(|(_, causes)| causes.contains(&code)).unwrap();
        assert_eq!(announced, cause, "{code}: {:?}", (0..4).map(failed_within_a_day).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_row_knows_the_component_that_fails_and_no_repair_that_comes_of_it() {
    let Some(folder) = std::env::var_os("MILLWRIGHT_DATA") else {
        println!("SKIPPED: MILLWRIGHT_DATA names no folder with the public data sets");
        return;
    };
    let task = load(Path::new(&folder)).await.unwrap();
    assert_eq!(task.dataset.modes, ["comp1", "comp2", "comp3", "comp4"]);
    let since = task.names.iter().position(|n| n == "event.replacement.comp4.hours_since").unwrap();
    // Machine 1: component 4 failed and was replaced on 2015-01-05 at 6.
    let at = 1_420_437_600_000;
    let machine = task.dataset.machines.iter().position(|m| m.name.as_str() == "m1").unwrap();
    let row = |end: i64| {
        let found = |r: &usize| task.dataset.rows[*r].machine == machine && task.dataset.rows[*r].end.millis() == end;
        (0..task.dataset.rows.len()).find(found).unwrap()
    };
    let hours = |end| task.table().row(row(end))[since];
    assert!(task.dataset.rows[row(at)].is_positive(3) && !task.dataset.rows[row(at + HOUR_MS)].is_positive(3));
    assert!(hours(at) > 24.0, "{}", hours(at));
    assert_eq!(hours(at + HOUR_MS), 1.0);
}
