//! Files that let other programs of this user reach what is embedded here: the trainer above all. Written at every
//! start, since addresses may change.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{BUCKET, s3::Keys};

/// For `model ... --config`.
const MODEL_CONFIG: &str = "model.toml";
const ACCESS_KEY: &str = "s3-access-key";
const SECRET_KEY: &str = "s3-secret-key";
const MQTT_PASSWORD: &str = "mqtt-password";
const OWNER_ONLY: u32 = 0o600;

/// The factory's bucket as a configuration file, with its keys beside it.
pub fn write_model_config(folder: &Path, s3: SocketAddr, keys: &Keys) -> io::Result<()> {
    write_private(&folder.join(ACCESS_KEY), &keys.access)?;
    write_private(&folder.join(SECRET_KEY), &keys.secret)?;
    let text = format!(
        "# Written by the factory at every start; its S3 endpoint answers while it runs.\n\
         # A played plant's time is not the wall's, by which a trainer from outside tells how old an archive is.\n\
         [retrain]\nstale_hours_max = inf\n\
         [s3]\nendpoint = \"http://{s3}\"\nbucket = \"{BUCKET}\"\npath_style = true\n\
         access_key_file = \"{ACCESS_KEY}\"\nsecret_key_file = \"{SECRET_KEY}\"\n"
    );
    fs::write(folder.join(MODEL_CONFIG), text)
}

/// The processor's password at the embedded broker, in a file, as at any broker.
pub fn write_mqtt_password(folder: &Path, password: &str) -> io::Result<PathBuf> {
    let path = folder.join(MQTT_PASSWORD);
    write_private(&path, password)?;
    Ok(path)
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    create_private(path)?.write_all(text.as_bytes())
}

/// An empty file that nobody else can read, whatever was there before.
pub fn create_private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(OWNER_ONLY).open(path)?;
    // The mode above is for a new file only.
    file.set_permissions(Permissions::from_mode(OWNER_ONLY))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use model::{config::ModelConfig, store::Store};

    use super::*;

    #[tokio::test]
    async fn the_trainer_can_read_what_is_written_and_nobody_else_the_keys() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join(SECRET_KEY);
        fs::write(&secret, "what was there before, and readable").unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o644)).unwrap();
        let keys = Keys { access: "access".into(), secret: "secret".into() };
        write_model_config(folder.path(), "127.0.0.1:9000".parse().unwrap(), &keys).unwrap();
        assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, OWNER_ONLY);
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        let file = folder.path().join(MODEL_CONFIG);
        let config = ModelConfig::parse(&file.display().to_string(), &fs::read_to_string(&file).unwrap()).unwrap();
        let bucket = config.s3.unwrap();
        assert_eq!((bucket.bucket.as_str(), bucket.endpoint.as_deref()), (BUCKET, Some("http://127.0.0.1:9000")));
        Store::open(&bucket).await.expect("the key files are found from any working folder");
    }
}
