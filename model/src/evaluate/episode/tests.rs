use proto::{asset::AssetId, wire::telemetry::EventKind};

use super::*;
use crate::{
    dataset::{
        Machine, Row,
        label::{Event as Record, Labeller},
    },
    features::FeatureConfig,
};

const HOUR: i64 = 3_600_000;
const HORIZON: i64 = 12;

/// One machine in windows of an hour, the first of which ends at hour 1. `x` crosses, `o` lies between the lines, `.`
/// below both; a blank is no row. Events are hours, kinds and modes.
fn tally(windows: &str, events: &[(i64, EventKind, &str)]) -> Tally {
    let machine = AssetId::new("m").unwrap();
    // A failure long ago, so that the mode is known.
    let known = [(-1_000, EventKind::Failure, "slip"), (-999, EventKind::Maintenance, "slip")];
    let record = |(hour, kind, mode): &(i64, EventKind, &str)| {
        let time = PlantTime(hour * HOUR);
        let (code, answer) = Default::default();
        Record { machine: machine.clone(), time, kind: *kind, code, mode: (*mode).into(), answer, known: time }
    };
    let records: Vec<Record> = known.iter().chain(events).map(record).collect();
    let labeller = Labeller::new(&records, HORIZON * HOUR, PlantTime(1_000_000 * HOUR));
    let mut dataset = Dataset::new(FeatureConfig { window_ms: HOUR, ..FeatureConfig::default() }, &labeller);
    dataset.machines.push(Machine { name: machine.clone(), kind: 0, life: labeller.life(&machine) });
    let strengths: Vec<(i64, f64)> = (0..)
        .zip(windows.chars())
        .filter_map(|(hour, c)| Some((hour, [('x', 1.5), ('o', 0.8), ('.', 0.1)].iter().find(|s| s.0 == c)?.1)))
        .collect();
    let row = |(hour, _): &(i64, f64)| Row {
        machine: 0,
        start: PlantTime(hour * HOUR),
        end: PlantTime((hour + 1) * HOUR),
        fails: 0,
    };
    dataset.rows = strengths.iter().map(row).collect();
    let rows: Vec<usize> = (0..dataset.rows.len()).collect();
    let strengths: Vec<f64> = strengths.iter().map(|s| s.1).collect();
    let mode = dataset.modes.iter().position(|m| m == "slip").unwrap();
    tally_machine(&dataset, 0, &rows, &strengths, mode, &AlertPolicy::default())
}

fn counts(windows: &str, events: &[(i64, EventKind, &str)]) -> (usize, usize, usize) {
    let tally = tally(windows, events);
    (tally.failures, tally.caught, tally.false_alarms)
}

const FAILS: EventKind = EventKind::Failure;
const MENDED: EventKind = EventKind::Maintenance;

#[test]
fn three_of_four_windows_open_and_six_below_the_lower_line_close() {
    assert_eq!(counts(".xx..........", &[]), (0, 0, 0));
    assert_eq!(counts(".xxx.........", &[]), (0, 0, 1));
    assert_eq!(counts("xx.x.........", &[]), (0, 0, 1));
    assert_eq!(counts("xx    x......", &[]), (0, 0, 0), "a missing window did not cross");
    assert_eq!(counts("xxx.....xxx", &[]), (0, 0, 1), "it stood still");
    assert_eq!(counts("xxx......xxx", &[]), (0, 0, 2), "it had closed");
    assert_eq!(counts("xxxoooooooxx", &[]), (0, 0, 1), "between the lines nothing closes");
}

#[test]
fn an_alarm_before_its_failure_is_right_and_its_lead_counts_from_its_opening() {
    let found = tally("....xxxxx.", &[(10, FAILS, "slip")]);
    assert_eq!((found.failures, found.caught, found.false_alarms), (1, 1, 0));
    assert_eq!(found.lead_hours, [3.0]);
    assert_eq!(counts("..........", &[(10, FAILS, "slip")]), (1, 0, 0));
    assert_eq!(counts("....xxxxx.", &[(10, FAILS, "heat")]), (0, 0, 1), "another mode");
    assert_eq!(counts("xxx........", &[(14, FAILS, "slip")]), (1, 1, 0), "closed, and its promise came true");
    assert_eq!(counts("xxx...........", &[(16, FAILS, "slip")]), (1, 0, 1), "closed, and the promise was broken");
}

#[test]
fn an_alarm_that_stands_for_ever_pays_for_every_horizon_and_earns_no_longer_lead() {
    let found = tally(&"x".repeat(40), &[(40, FAILS, "slip")]);
    assert_eq!((found.failures, found.caught, found.lead_hours.as_slice()), (1, 1, [12.0].as_slice()));
    assert_eq!(found.false_alarms, 3, "37 hours: three broken promises of twelve, then the one that came true");
    assert_eq!(counts(&"x".repeat(40), &[]), (0, 0, 4));
}

#[test]
fn failures_and_repairs_cut_what_was_said_before() {
    let mended = [(5, FAILS, "slip"), (7, MENDED, "slip"), (20, FAILS, "slip")];
    // One alarm would have stood from hour 3 to 20; the processor closes it, and opens another after the quiet time.
    let found = tally("xxxxx  xxxxxxxxxxxxx", &mended);
    assert_eq!((found.failures, found.caught, found.false_alarms), (2, 2, 0));
    assert_eq!(found.lead_hours, [2.0, 8.0], "quiet until hour 9, then three windows");
    // Quiet is the time after the repair, whatever crosses then.
    assert_eq!(counts("...  xx......", &[(3, FAILS, "slip"), (5, MENDED, "slip")]), (1, 0, 0));
    // Mended before it could fail: nobody knows, unless it stood too long already.
    assert_eq!(counts("xxxxx.....", &[(6, MENDED, "")]), (0, 0, 0));
    assert_eq!(counts(&"x".repeat(20), &[(20, MENDED, "slip")]), (0, 0, 1));
    assert_eq!(counts("xxxxx.........", &[(4, MENDED, "heat")]), (0, 0, 1), "mended what it did not speak of");
}

#[test]
fn a_failure_counts_where_a_row_looks_ahead_to_it() {
    assert_eq!(counts("..........", &[(22, FAILS, "slip")]), (1, 0, 0));
    assert_eq!(counts(".......xxx", &[(23, FAILS, "slip")]), (0, 0, 1));
}
