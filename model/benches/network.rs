//! How fast the network learns and scores: a plain one of 32-64-32-1, and the shipped default beside it.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p model --bench network`; CPU time of one thread (Linux), so that what else the
//! machine does counts little.

use std::{fs, hint::black_box};

use model::{
    forward::{Bins, Network},
    mlp::Mlp,
    settings::TrainSettings,
    train::table::{Parts, Table, fit_classifier},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const INPUTS: usize = 32;
/// Features of five sensors, and three kinds.
const SHIPPED_INPUTS: usize = 88;
const SHIPPED_HEADS: usize = 5;
const TRAINED_ROWS: usize = 100_000;
const EPOCHS: usize = 20;
const BATCH: usize = 1024;
const CPU_SECONDS_MIN: f64 = 1.0;

fn main() {
    // Candle's own threads would wait for each other over so little work.
    println!("threads: {}", std::env::var("RAYON_NUM_THREADS").unwrap_or("RAYON_NUM_THREADS is not set".into()));
    let plain = TrainSettings { members: 1, bins: 0, ..TrainSettings::default() };
    scoring("plain 32-64-32-1", &network(&plain, INPUTS, 1), INPUTS);
    let shipped = TrainSettings::default();
    let name = format!("shipped {SHIPPED_INPUTS}-{:?}-{SHIPPED_HEADS}", shipped.hidden);
    scoring(&name, &network(&shipped, SHIPPED_INPUTS, SHIPPED_HEADS), SHIPPED_INPUTS);
    let bare = TrainSettings { dropout: 0.0, input_noise: 0.0, epochs_max: EPOCHS, batch_rows: 256, ..plain };
    training("plain 32-64-32-1, batches of 256", &bare);
    training("shipped default, 32 inputs and one head", &TrainSettings { epochs_max: EPOCHS, ..shipped });
}

fn network(settings: &TrainSettings, inputs: usize, heads: usize) -> Network {
    let sizes = [&[inputs], &settings.hidden[..], &[heads]].concat();
    let column = |_| (0..1_000).map(|i| (i as f32 / 250.0) - 2.0).collect();
    let bins = Bins::fit((0..inputs).map(column), settings.bins, settings.tail_halvings);
    let mlp = Mlp::new(&sizes, bins, settings.members, &mut ChaCha8Rng::seed_from_u64(1)).expect("a network");
    let layers = mlp.layers(&mlp.values().expect("weights"));
    Network::ensemble(mlp.bins().clone(), mlp.members(), layers).expect("shapes that fit")
}

fn rows(n: usize, inputs: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    (0..n * inputs).map(|_| rng.random_range(-2.0..2.0)).collect()
}

fn scoring(name: &str, network: &Network, inputs: usize) {
    let rows = rows(BATCH, inputs);
    let one_by_one = || rows.chunks_exact(inputs).for_each(|row| drop(black_box(network.logits(row))));
    let single = mean(one_by_one) / BATCH as f64;
    let batched = mean(|| drop(black_box(network.all_logits(&rows)))) / BATCH as f64;
    println!("{name}: one window {:.2} us", single * 1e6);
    println!("{name}: {BATCH} windows {:.3} us each, {:.2} M/s", batched * 1e6, 1e-6 / batched);
}

fn training(name: &str, settings: &TrainSettings) {
    let values = rows(TRAINED_ROWS, INPUTS);
    let table = Table { width: INPUTS, values: &values };
    let label = (0..TRAINED_ROWS).map(|row| table.row(row)[0] * table.row(row)[1] > 1.5).collect();
    let rows: Vec<usize> = (0..TRAINED_ROWS).collect();
    let begun = cpu_seconds();
    let parts = Parts { train: &rows, ..Parts::default() };
    black_box(fit_classifier(table, &[label], parts, settings).expect("a network"));
    println!("{name}: {TRAINED_ROWS} rows, {EPOCHS} epochs in {:.2} s", cpu_seconds() - begun);
}

/// Seconds per call.
fn mean(mut call: impl FnMut()) -> f64 {
    let (begun, mut calls) = (cpu_seconds(), 0.0);
    loop {
        call();
        calls += 1.0;
        let spent = cpu_seconds() - begun;
        if spent >= CPU_SECONDS_MIN {
            return spent / calls;
        }
    }
}

/// That this thread has been given.
fn cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).expect("a number") / 1e9
}
