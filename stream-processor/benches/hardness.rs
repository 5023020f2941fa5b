//! Whether the simulated plant is hard enough for a network to be worth having:
//! on the default seed no limit on a single sensor reaches an average precision of 0.6, and the network beats limits
//! and logistic regression, with a paired interval above zero, on the default seed and on three that nothing was ever
//! tuned on. Prints the tables of `model evaluate`; fails if the claim does not hold.
//!
//! `cargo bench -p stream-processor --bench hardness [-- SEED ...]`

use std::{process::ExitCode, time::Instant};

use edge_agent::source::simulator::SimulatorConfig;
use model::{
    evaluate::{Evaluation, evaluate},
    train::{TrainSettings, train},
};

#[path = "../tests/model/plant.rs"]
mod plant;

const DEFAULT_SEED: u64 = 1;
/// Never look at these while features, training or the simulator are being changed: they are what tells whether it
/// was for the better.
const HELD_OUT: [u64; 3] = [101, 202, 303];
/// As the embedded factory's first start.
const WEEKS: i64 = 6;
const SINGLE_SENSOR_MAX: f64 = 0.6;

fn main() -> ExitCode {
    let given: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let seeds = if given.is_empty() { [&[DEFAULT_SEED], &HELD_OUT[..]].concat() } else { given };
    let broken: Vec<String> = seeds.into_iter().flat_map(measure).collect();
    broken.iter().for_each(|claim| println!("does not hold: {claim}"));
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Claims that this seed breaks.
fn measure(seed: u64) -> Vec<String> {
    let config = SimulatorConfig { seed, ..SimulatorConfig::default() };
    let settings = TrainSettings::default();
    let begun = Instant::now();
    let dataset = plant::dataset(&config, WEEKS, settings.horizon_ms());
    let simulated = begun.elapsed();
    let begun = Instant::now();
    let trained = train(&dataset, &settings, 0, &mut |_| {}).expect("enough failures");
    let (took, rows) = (begun.elapsed(), trained.report.rows);
    let evaluation = evaluate(&dataset, &trained.artifact, Some(&plant::truth(&config, WEEKS))).expect("unseen rows");
    println!("seed {seed}: {} windows in {simulated:.1?}; trained in {took:.1?}, {rows:?}", dataset.rows.len());
    trained.report.refused.iter().for_each(|refused| println!("left to the rules: {refused}"));
    trained.report.heads.iter().filter(|h| !h.calibrated).for_each(|h| println!("not calibrated: {}", h.mode));
    println!("{evaluation}");
    for contender in &evaluation.contenders {
        let mean = evaluation.average_precision(contender.name).unwrap_or_default();
        println!("  {:<20} mean average precision {mean:.3}", contender.name);
    }
    println!();
    claims(seed, &evaluation).into_iter().filter(|(_, holds)| !holds).map(|(claim, _)| claim).collect()
}

fn claims(seed: u64, evaluation: &Evaluation) -> Vec<(String, bool)> {
    let single = evaluation.contenders.iter().find(|c| c.name == "single sensor").expect("a contender");
    let below = |m: &model::evaluate::ModeResult| {
        let claim = format!("seed {seed}: {} by a single sensor below {SINGLE_SENSOR_MAX}", m.windows.mode);
        (claim, seed != DEFAULT_SEED || m.windows.average_precision < SINGLE_SENSOR_MAX)
    };
    let leads = [("a single sensor", evaluation.lead_over_threshold), ("a line", evaluation.lead_over_logistic)];
    let lead = leads.map(|(over, lead)| (format!("seed {seed}: the network beats {over}, {lead:?}"), lead.low > 0.0));
    single.modes.iter().map(below).chain(lead).collect()
}
