//! A network of the default shape for windows of ten seconds. It has learnt nothing, which changes no cost.

use model::{
    artifact::{Artifact, Golden, Head, Origin},
    calibration::Platt,
    features::{FeatureConfig, FeatureSchema},
    forward::{Bins, Encoder, Network},
    mlp::Mlp,
    settings::TrainSettings,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::traffic::{KINDS, name};

const MODES: [&str; 5] = ["bearing_wear", "lubrication_loss", "imbalance", "belt_slip", "overheating"];
/// Ten minutes of the default windows are ten seconds here, and the lateness is as much of it.
pub const WINDOW_MS: i64 = 10_000;
pub const LATENESS_MS: i64 = 1_000;
/// Alerts are rare.
const PLATT: Platt = Platt { slope: 0.1, intercept: -8.0 };
const THRESHOLD: f64 = 0.5;

pub fn features() -> FeatureConfig {
    FeatureConfig { window_ms: WINDOW_MS, lateness_ms: LATENESS_MS, ..FeatureConfig::default() }
}

pub fn untrained() -> anyhow::Result<Artifact> {
    let config = features();
    let width = FeatureSchema::of(&config).names.len();
    let kinds = KINDS.map(name).to_vec();
    let encoder = Encoder { kinds: kinds.clone(), mean: vec![50.0; width], std: vec![40.0; width] };
    let settings = TrainSettings::default();
    let sizes = [&[encoder.width()], &settings.hidden[..], &[MODES.len()]].concat();
    let edges = |input| if input < width { edges(settings.bins) } else { vec![] };
    let bins = Bins::new((0..encoder.width()).map(edges).collect())?;
    let mlp = Mlp::new(&sizes, bins, settings.members, &mut ChaCha8Rng::seed_from_u64(1))?;
    let layers = mlp.layers(&mlp.values()?);
    let head =
        |mode: &str| Head { mode: mode.into(), calibration: PLATT.into(), calibrated: true, threshold: THRESHOLD };
    let golden = Golden { kind: kinds[0].clone(), features: vec![60.0; width], probabilities: vec![] };
    let mut artifact = Artifact {
        config,
        horizon_ms: settings.horizon_ms(),
        encoder,
        network: Network::ensemble(mlp.bins().clone(), mlp.members(), layers)?,
        heads: MODES.map(head).to_vec(),
        golden: vec![],
        origin: Origin { settings, ..Origin::default() },
    };
    let probabilities = artifact.probabilities(&artifact.logits(&golden.kind, &golden.features));
    artifact.golden.push(Golden { probabilities, ..golden });
    Ok(artifact)
}

/// Evenly over what a standardized feature usually is.
fn edges(bins: usize) -> Vec<f32> {
    if bins < 2 { vec![] } else { (0..=bins).map(|i| 4.0 * i as f32 / bins as f32 - 2.0).collect() }
}
