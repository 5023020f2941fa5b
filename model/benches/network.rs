//! How fast the network learns and scores: a plain one of 32-64-32-1 beside the same in candle's own layers and optimizer, and the
//! shipped default.
//!
//! `RAYON_NUM_THREADS=1 cargo bench -p model --bench network` (some four minutes; a word behind `--` chooses by name). What is
//! measured is the CPU time of one thread (Linux), so that what else the machine does counts little. At the end each figure
//! stands beside its counterpart's.

use std::{fs, hint::black_box, path::Path, time::Duration};

use candle_core::{Device, Tensor};
use candle_nn::{AdamW, Linear, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap, linear};
use criterion::{
    Criterion, Throughput,
    measurement::{Measurement, ValueFormatter, WallTime},
};
use model::{
    forward::{Bins, Network},
    mlp::{Mlp, loss},
    settings::TrainSettings,
    train::table::{Parts, Table, fit_classifier},
};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rustix::time::{ClockId, clock_gettime};

const INPUTS: usize = 32;
/// Features of five sensors, and three kinds.
const SHIPPED_INPUTS: usize = 88;
const SHIPPED_HEADS: usize = 5;
const TRAINED_ROWS: usize = 100_000;
const EPOCHS: usize = 20;
const TRAINED_BATCH: usize = 256;
const SCORED_BATCH: usize = 1024;

/// Others' figures for the same work on a machine like this one, seconds: they are not run here.
const SCIKIT_TRAINING: f64 = 5.5;
const JAX_TRAINING: f64 = 1.6;
const ONNX_ONE: f64 = 11e-6;
const ONNX_BATCHED: f64 = SCORED_BATCH as f64 / 7.3e6;

fn main() {
    // Candle's own threads would wait for each other over so little work.
    println!("threads: {}", std::env::var("RAYON_NUM_THREADS").unwrap_or("RAYON_NUM_THREADS is not set".into()));
    let folder = tempfile::tempdir().expect("a folder");
    let criterion = Criterion::default().with_measurement(CpuTime).output_directory(folder.path());
    let mut criterion = criterion.configure_from_args();
    scoring(&mut criterion);
    training(&mut criterion);
    criterion.final_summary();
    let of = |group: &str, name: &str| seconds(folder.path(), group, name);
    println!("\nratios, below 1 is faster:");
    let candle = |group| of(group, "candle");
    for (group, others) in [
        ("one", vec![("candle", candle("one")), ("ONNX Runtime", Some(ONNX_ONE))]),
        ("1024", vec![("candle", candle("1024")), ("ONNX Runtime", Some(ONNX_BATCHED))]),
        (
            "training",
            vec![
                ("candle", candle("training")),
                ("scikit-learn", Some(SCIKIT_TRAINING)),
                ("JAX with jit", Some(JAX_TRAINING)),
            ],
        ),
    ] {
        for name in ["plain", "shipped"] {
            let Some(own) = of(group, name) else { continue };
            let ratios = others.iter().filter_map(|(other, theirs)| Some(format!("{other} {:.2}", own / (*theirs)?)));
            println!("{group:>8} {name:<7} {own:.3e} s: {}", ratios.collect::<Vec<_>>().join(", "));
        }
    }
}

/// One window, and batches of 1024.
fn scoring(criterion: &mut Criterion<CpuTime>) {
    let plain = network(&TrainSettings { members: 1, bins: 0, ..TrainSettings::default() }, INPUTS, 1);
    let shipped = network(&TrainSettings::default(), SHIPPED_INPUTS, SHIPPED_HEADS);
    let candle = CandleMlp::new();
    for (name, batch) in [("one", 1), ("1024", SCORED_BATCH)] {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(batch as u64)).measurement_time(Duration::from_secs(3));
        let own = rows(batch, INPUTS);
        group.bench_function("plain", |b| b.iter(|| black_box(plain.all_logits(&own))));
        group.bench_function("candle", |b| b.iter(|| black_box(candle.score(&own))));
        let own = rows(batch, SHIPPED_INPUTS);
        group.bench_function("shipped", |b| b.iter(|| black_box(shipped.all_logits(&own))));
        group.finish();
    }
}

fn training(criterion: &mut Criterion<CpuTime>) {
    let values = rows(TRAINED_ROWS, INPUTS);
    let table = Table { width: INPUTS, values: &values };
    let label: Vec<bool> = (0..TRAINED_ROWS).map(|row| table.row(row)[0] * table.row(row)[1] > 1.5).collect();
    let train: Vec<usize> = (0..TRAINED_ROWS).collect();
    let learn = |settings: &TrainSettings, train: &[usize]| {
        let parts = Parts { train, ..Parts::default() };
        fit_classifier(table, std::slice::from_ref(&label), parts, settings).expect("a network")
    };
    let shipped = TrainSettings { epochs_max: EPOCHS, ..TrainSettings::default() };
    let bare = TrainSettings {
        members: 1,
        bins: 0,
        dropout: 0.0,
        input_noise: 0.0,
        batch_rows: TRAINED_BATCH,
        ..shipped.clone()
    };
    let mut group = criterion.benchmark_group("training");
    group.throughput(Throughput::Elements((TRAINED_ROWS * EPOCHS) as u64));
    group.sample_size(10).measurement_time(Duration::from_secs(20)).warm_up_time(Duration::from_millis(1));
    group.bench_function("plain", |b| b.iter(|| black_box(learn(&bare, &train))));
    group.bench_function("candle", |b| b.iter(|| black_box(CandleMlp::new().learn(&values, &label))));
    group.finish();
    // Whole it would take ten times a minute.
    let mut group = criterion.benchmark_group("training on a tenth");
    group.sample_size(10).measurement_time(Duration::from_secs(20)).warm_up_time(Duration::from_millis(1));
    group.bench_function("shipped", |b| b.iter(|| black_box(learn(&shipped, &train[..TRAINED_ROWS / 10]))));
    group.finish();
}

/// The plain network as candle's users would write it.
struct CandleMlp {
    variables: VarMap,
    layers: [Linear; 3],
}

impl CandleMlp {
    fn new() -> Self {
        let variables = VarMap::new();
        let builder = VarBuilder::from_varmap(&variables, candle_core::DType::F32, &Device::Cpu);
        let layer = |inputs, outputs, name: &str| linear(inputs, outputs, builder.pp(name)).expect("a layer");
        let layers = [layer(INPUTS, 64, "a"), layer(64, 32, "b"), layer(32, 1, "c")];
        CandleMlp { variables, layers }
    }

    fn logits(&self, rows: &[f32]) -> candle_core::Result<Tensor> {
        let [a, b, c] = &self.layers;
        let x = Tensor::from_slice(rows, (rows.len() / INPUTS, INPUTS), &Device::Cpu)?;
        c.forward(&b.forward(&a.forward(&x)?.relu()?)?.relu()?)
    }

    fn score(&self, rows: &[f32]) -> Vec<f32> {
        self.logits(rows).and_then(|logits| logits.flatten_all()?.to_vec1()).expect("logits")
    }

    fn learn(self, values: &[f32], label: &[bool]) -> Self {
        let step = |optimizer: &mut AdamW, batch: &[usize]| -> candle_core::Result<()> {
            let rows: Vec<f32> = batch.iter().flat_map(|row| &values[row * INPUTS..][..INPUTS]).copied().collect();
            let targets: Vec<f32> = batch.iter().map(|row| f32::from(u8::from(label[*row]))).collect();
            let targets = Tensor::from_vec(targets, (batch.len(), 1), &Device::Cpu)?;
            optimizer.backward_step(&loss(&self.logits(&rows)?, &targets, &targets.ones_like()?)?)
        };
        let mut optimizer = AdamW::new(self.variables.all_vars(), ParamsAdamW::default()).expect("an optimizer");
        let (mut order, mut rng) = ((0..label.len()).collect::<Vec<_>>(), ChaCha8Rng::seed_from_u64(1));
        for _ in 0..EPOCHS {
            order.shuffle(&mut rng);
            order.chunks(TRAINED_BATCH).for_each(|batch| step(&mut optimizer, batch).expect("a step"));
        }
        self
    }
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

/// What criterion found, per call; None: it was not chosen.
fn seconds(folder: &Path, group: &str, name: &str) -> Option<f64> {
    let text = fs::read_to_string(folder.join(group).join(name).join("new/estimates.json")).ok()?;
    let found: serde_json::Value = serde_json::from_str(&text).ok()?;
    Some(found["mean"]["point_estimate"].as_f64()? / 1e9)
}

/// Nanoseconds that this thread has been given.
struct CpuTime;

impl CpuTime {
    fn now() -> u64 {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }
}

impl Measurement for CpuTime {
    type Intermediate = u64;
    type Value = u64;

    fn start(&self) -> u64 {
        CpuTime::now()
    }

    fn end(&self, begun: u64) -> u64 {
        CpuTime::now() - begun
    }

    fn add(&self, a: &u64, b: &u64) -> u64 {
        a + b
    }

    fn zero(&self) -> u64 {
        0
    }

    fn to_f64(&self, value: &u64) -> f64 {
        *value as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}
