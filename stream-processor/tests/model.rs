//! The model's life against a simulated plant and a real store: what needs more crates than the model's own.

#[path = "model/live.rs"]
mod live;
#[path = "model/plant.rs"]
mod plant;
#[path = "model/registry.rs"]
mod registry;
#[path = "model/retraining.rs"]
mod retraining;

use edge_agent::source::simulator::{SimulatorConfig, truth};
use model::{
    evaluate::{evaluate, truth::Truth},
    train::{TrainSettings, train},
};
use proto::time::PlantTime;

const TEN_MINUTES: i64 = 600_000;

/// The claim of `benches/hardness.rs` in small, on the default seed: fewer weeks and readings, less training. Its
/// margins are wide, since small slices scatter.
#[test]
fn a_single_sensor_does_not_see_what_the_network_sees() {
    let config = SimulatorConfig { interval_ms: 150_000, ..SimulatorConfig::default() };
    let settings = TrainSettings { rows_max: 12_000, epochs_max: 8, ..TrainSettings::default() };
    let dataset = plant::dataset(&config, 6, settings.horizon_ms());
    let model = train(&dataset, &settings, 0, &mut |_| {}).unwrap().artifact;
    let evaluation = evaluate(&dataset, &model, Some(&plant::truth(&config, 6))).unwrap();
    println!("{evaluation}");
    let precision = |name| evaluation.average_precision(name).unwrap();
    assert!(precision("single sensor") < 0.6, "{evaluation}");
    assert!(precision("mlp") > precision("single sensor") + 0.05, "{evaluation}");
    assert!(precision("mlp") > precision("logistic regression") + 0.05, "{evaluation}");
    assert!(precision("oracle") > precision("mlp"), "{evaluation}");
}

#[test]
fn the_written_truth_is_read_as_it_was() {
    let config = SimulatorConfig { interval_ms: TEN_MINUTES, ..SimulatorConfig::default() };
    let until = config.start.plus_millis(plant::WEEK_MS);
    let mut lines = Vec::new();
    truth::write_wear(&config, until, TEN_MINUTES, &mut lines).unwrap();
    let read = Truth::parse(std::str::from_utf8(&lines).unwrap()).unwrap();
    let mut failed = 0;
    for fault in truth::degradations(&config, until).unwrap() {
        let share = |at: PlantTime| read.share(&fault.machine, fault.mode.name(), at);
        assert_eq!(share(fault.onset.plus_millis(-TEN_MINUTES)), 0.0, "{fault:?}");
        if let truth::Ending::Failed(at) = fault.ending {
            let middle = fault.onset.plus_millis((at.millis() - fault.onset.millis()) / 2 / TEN_MINUTES * TEN_MINUTES);
            assert!(share(middle) > 0.0 && share(middle) < share(at.plus_millis(-TEN_MINUTES)), "{fault:?}");
            assert_eq!((share(at), share(at.plus_millis(TEN_MINUTES))), (1.0, 0.0), "{fault:?}");
            failed += 1;
        }
    }
    assert!(failed > 10, "{failed}");
}
