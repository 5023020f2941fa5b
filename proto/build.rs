//! Compiles the schema with protox, so that no protoc is needed, and keeps the descriptors for gRPC reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const SCHEMA: &str = "schema";
const SNAPSHOT: &str = "#[derive(serde::Serialize, serde::Deserialize)] #[serde(default)]";
const FILES: [&str; 3] = [
    "schema/millwright/telemetry/v1/telemetry.proto",
    "schema/millwright/prediction/v1/prediction.proto",
    "schema/millwright/alert/v1/alert.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={SCHEMA}");
    let descriptors = protox::compile(FILES, [SCHEMA])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let services = env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure()
        .build_client(services)
        .build_server(services)
        // Open alerts and event records that wait are part of the processor's snapshot. The default keeps older
        // snapshots readable.
        .type_attribute("millwright.alert.v1.Alert", SNAPSHOT)
        .type_attribute("millwright.prediction.v1.Contribution", SNAPSHOT)
        .type_attribute("millwright.telemetry.v1.EventRecord", SNAPSHOT)
        .compile_fds(descriptors)?;
    Ok(())
}
