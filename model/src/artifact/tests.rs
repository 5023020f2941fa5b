use super::*;
use crate::forward::{Bins, Layer};

/// Two heads over waves of weights.
pub fn artifact() -> Artifact {
    let config = FeatureConfig::default();
    let features = FeatureSchema::of(&config).names.len();
    let kinds = vec![AssetId::new("press").unwrap()];
    let encoder = Encoder { kinds: kinds.clone(), mean: vec![0.1; features], std: vec![1.0 / 3.0; features] };
    let wave = |n: usize| (0..n).map(|i| (i as f32 * 0.37).sin() / 5.0).collect::<Vec<_>>();
    let inputs = encoder.width();
    // Two members, and bins for every second input.
    let edges = |i: usize| if i.is_multiple_of(2) && i < features { vec![-1.0, 0.2, 0.9, 2.0] } else { vec![] };
    let bins = Bins::new((0..inputs).map(edges).collect()).unwrap();
    let weight = wave((inputs + bins.count()) * 4);
    let (adapter, scale) = (wave(2 * inputs), wave(8));
    let hidden = Layer { inputs, outputs: 4, weight, adapter, scale, bias: wave(8) };
    let head = Layer { inputs: 4, outputs: 2, weight: wave(16), bias: wave(4), ..Layer::default() };
    let curve = Isotonic::new(vec![(-0.5, 0.1), (0.1, 0.3), (2.0, 0.9)]).unwrap();
    let head_of = |mode: &str| {
        let calibration =
            if mode == "slip" { Platt { slope: 0.7, intercept: -0.1 }.into() } else { curve.clone().into() };
        Head { mode: mode.into(), calibration, calibrated: mode == "slip", threshold: 0.3 }
    };
    let golden = |value: f64| Golden { kind: kinds[0].clone(), features: vec![value; features], probabilities: vec![] };
    let mut artifact = Artifact {
        config,
        horizon_ms: 86_400_000,
        encoder,
        network: Network::ensemble(bins, 2, vec![hidden, head]).unwrap(),
        heads: vec![head_of("slip"), head_of("heat")],
        golden: vec![golden(0.2), golden(-0.3)],
        origin: Origin { data_sha256: "00".into(), rows: 5, created_ms: 7, ..Origin::default() },
    };
    artifact.golden[1].features[3] = f64::NAN;
    for i in 0..2 {
        let Golden { kind, features, .. } = &artifact.golden[i];
        artifact.golden[i].probabilities = artifact.probabilities(&artifact.logits(kind, features));
    }
    artifact
}

#[test]
fn what_is_written_is_read_bit_for_bit() {
    let artifact = artifact();
    let bytes = artifact.encode().unwrap();
    let read = Artifact::decode(&bytes).unwrap();
    assert_eq!(read.encode().unwrap(), bytes);
    assert_eq!((read.version().unwrap(), &read.heads), (artifact.version().unwrap(), &artifact.heads));
    assert_eq!((read.golden.len(), &read.golden[0], &read.origin), (2, &artifact.golden[0], &artifact.origin));
}

#[test]
fn the_version_follows_what_scores_and_nothing_else() {
    let artifact = artifact();
    let version = artifact.version().unwrap();
    assert_eq!(version.len(), VERSION_DIGITS);
    let mut later = artifact.clone();
    later.origin.created_ms += 1;
    assert_eq!(later.version().unwrap(), version);
    let mut other = artifact.clone();
    other.heads[0].threshold = 0.31;
    assert_ne!(other.version().unwrap(), version);
    let mut other = artifact;
    other.encoder.mean[0] += 1e-15;
    assert_ne!(other.version().unwrap(), version);
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let bytes = artifact().encode().unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let in_weights = (header..bytes.len()).step_by(101);
    for at in (0..header).chain(in_weights).chain([bytes.len() - 1]) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        // The header ends in spaces that mean nothing; all else must be seen.
        assert!(Artifact::decode(&flipped).is_err() || bytes[at] == b' ', "byte {at} of {}", bytes.len());
    }
    for cut in [0, 7, 8, header - 1, header + 1, bytes.len() - 1] {
        assert!(Artifact::decode(&bytes[..cut]).is_err());
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(Artifact::decode(&longer).is_err());
}

#[test]
fn each_lie_is_refused_by_its_name() {
    let refused = |change: fn(&mut Artifact)| {
        let mut lie = artifact();
        change(&mut lie);
        Artifact::decode(&lie.encode().unwrap()).unwrap_err()
    };
    assert!(matches!(refused(|a| a.golden[1].probabilities[1] += 1e-3), ArtifactError::Golden { .. }));
    assert!(matches!(refused(|a| a.golden[1].probabilities[1] = f64::NAN), ArtifactError::NotFinite { .. }));
    assert!(matches!(
        refused(|a| a.heads[0].calibration = Platt { slope: f64::NAN, intercept: 0.0 }.into()),
        ArtifactError::NotFinite { .. }
    ));
    assert!(matches!(refused(|a| a.encoder.std[0] = 0.0), ArtifactError::NotFinite { .. }));
    assert!(matches!(refused(|a| a.heads[1].mode = "slip".into()), ArtifactError::Format(_)));
    assert!(matches!(refused(|a| a.golden.clear()), ArtifactError::Format(_)));
    assert!(matches!(refused(|a| a.config.window_ms = 0), ArtifactError::Features(_)));
    assert!(matches!(refused(|a| a.encoder.kinds.clear()), ArtifactError::Format(_)));
    assert!(matches!(Artifact::decode(&vec![0; ARTIFACT_BYTES_MAX + 1]), Err(ArtifactError::TooLarge { .. })));
}

/// Writes the artefact with a header or tensors that its own code would never write.
fn forged(identity: impl Fn(&mut Identity), tensors: impl Fn(&mut TensorsBuilder)) -> ArtifactError {
    let artifact = artifact();
    let mut sealed = artifact.scoring_tensors();
    sealed.f64("golden.features", &artifact.golden.iter().flat_map(|g| g.features.clone()).collect::<Vec<_>>());
    sealed
        .f64("golden.probabilities", &artifact.golden.iter().flat_map(|g| g.probabilities.clone()).collect::<Vec<_>>());
    tensors(&mut sealed);
    let mut said = artifact.identity();
    identity(&mut said);
    let version = artifact.version().unwrap();
    let header = Header {
        format: ARTIFACT_FORMAT,
        version,
        identity: said,
        golden_kinds: artifact.golden.iter().map(|g| g.kind.clone()).collect(),
        origin: artifact.origin.clone(),
    };
    Artifact::decode(&sealed.seal(&json(&header).unwrap()).unwrap()).unwrap_err()
}

#[test]
fn a_forged_file_with_a_right_checksum_is_refused_too() {
    assert!(matches!(forged(|i| i.fingerprint = "f".into(), |_| {}), ArtifactError::Fingerprint { .. }));
    assert!(matches!(forged(|i| i.config.window_ms += 1, |_| {}), ArtifactError::Fingerprint { .. }));
    assert!(matches!(forged(|i| i.sizes.clear(), |_| {}), ArtifactError::Format(_)));
    assert!(matches!(forged(|i| i.sizes[0] = usize::MAX, |_| {}), ArtifactError::Shape(ShapeError::Layer { .. })));
    assert!(matches!(forged(|i| i.members = 3, |_| {}), ArtifactError::Shape(_)));
    assert!(matches!(forged(|i| i.edges[0] = usize::MAX, |_| {}), ArtifactError::Format(_)));
    assert!(matches!(forged(|i| i.edges.clear(), |_| {}), ArtifactError::Format(_)));
    assert!(matches!(forged(|i| i.knots[1] = 2, |_| {}), ArtifactError::Format(_)));
    let falls = |t: &mut TensorsBuilder| t.f64("calibration.probability", &[0.5, 0.3, 0.9]);
    assert!(matches!(forged(|_| {}, falls), ArtifactError::Format(_)));
    assert!(matches!(forged(|i| i.calibrated.clear(), |_| {}), ArtifactError::Format(_)));
    assert!(matches!(forged(|i| i.horizon_ms += 1, |_| {}), ArtifactError::Version { .. }));
    let nan = |t: &mut TensorsBuilder| t.f32("layer.1.weight", &[f32::NAN; 16]);
    assert!(matches!(forged(|_| {}, nan), ArtifactError::Shape(ShapeError::NotFinite { layer: 1 })));
    let narrow = |t: &mut TensorsBuilder| t.f64("encoder.mean", &[1.0]);
    assert!(matches!(forged(|_| {}, narrow), ArtifactError::Format(_)));
    let moved = |t: &mut TensorsBuilder| t.f64("threshold", &[0.9, 0.9]);
    assert!(matches!(forged(|_| {}, moved), ArtifactError::Version { .. }));
}
