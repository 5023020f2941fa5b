//! Where the bucket is and who we are there.

use std::{
    fmt, fs, io,
    net::Ipv6Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use aws_config::BehaviorVersion;
use aws_sdk_s3::{
    Client,
    config::{Credentials, Region, SharedHttpClient, retry::RetryConfig, timeout::TimeoutConfig},
};
use aws_smithy_http_client::tls;
use serde::Deserialize;

const ATTEMPTS_MAX: u32 = 3;
const CONNECT_TIMEOUT_MS: u64 = 3_000;
const ATTEMPT_TIMEOUT_MS: u64 = 20_000;
const OPERATION_TIMEOUT_MS: u64 = 60_000;
/// A key file is one line.
const KEY_FILE_BYTES_MAX: u64 = 4096;

#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// Not given: Amazon's own for the region.
    #[serde(default)]
    pub endpoint: Option<String>,
    #[serde(default = "default_region")]
    pub region: String,
    pub bucket: String,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`: what most other servers than Amazon's want.
    #[serde(default)]
    pub path_style: bool,
    /// Both files or none; none: the standard chain of AWS (environment, profile, web identity, instance).
    #[serde(default)]
    pub access_key_file: Option<PathBuf>,
    #[serde(default)]
    pub secret_key_file: Option<PathBuf>,
    #[serde(skip)]
    keys: Option<(String, String)>,
}

fn default_region() -> String {
    "us-east-1".into()
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("access_key_file and secret_key_file are given together or not at all")]
    HalfAKey,
    #[error("{file}: {reason}")]
    KeyFile { file: PathBuf, reason: io::Error },
    #[error("{file}: larger than {KEY_FILE_BYTES_MAX} bytes, so not a key")]
    KeyFileTooLarge { file: PathBuf },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`s3.{key}`: {reason}")]
pub struct InvalidS3 {
    pub key: &'static str,
    pub reason: String,
}

/// Without the keys: a configuration may be logged.
impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Config")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("bucket", &self.bucket)
            .field("path_style", &self.path_style)
            .finish_non_exhaustive()
    }
}

impl S3Config {
    /// A bucket behind `endpoint` with fixed keys, as the embedded endpoint has them.
    pub fn with_keys(endpoint: &str, bucket: &str, access_key: &str, secret_key: &str) -> Self {
        S3Config {
            endpoint: Some(endpoint.into()),
            region: default_region(),
            bucket: bucket.into(),
            path_style: true,
            access_key_file: None,
            secret_key_file: None,
            keys: Some((access_key.into(), secret_key.into())),
        }
    }

    /// What a type can't say. Relative paths begin at `base`; opens nothing.
    pub fn check(mut self, base: &Path) -> Result<Self, InvalidS3> {
        let invalid = |key, reason: String| Err(InvalidS3 { key, reason });
        if let Some(endpoint) = self.endpoint.as_deref().filter(|e| !is_endpoint(e)) {
            return invalid("endpoint", format!("`{endpoint}` is not http://host:port or https://host:port"));
        }
        if self.bucket.is_empty() || self.region.is_empty() {
            return invalid("bucket or region", "must not be empty".into());
        }
        if self.access_key_file.is_some() != self.secret_key_file.is_some() {
            return invalid("access_key_file", "needs secret_key_file, and secret_key_file needs it".into());
        }
        for file in [&mut self.access_key_file, &mut self.secret_key_file].into_iter().flatten() {
            *file = base.join(&*file);
        }
        Ok(self)
    }

    pub(super) async fn client(&self) -> Result<Client, ConfigError> {
        let http = http_client();
        let region = Region::new(self.region.clone());
        let base = match self.fixed_credentials()? {
            Some(credentials) => aws_sdk_s3::Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .credentials_provider(credentials)
                .http_client(http),
            None => {
                let loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http).region(region.clone());
                aws_sdk_s3::Config::from(&loader.load().await).to_builder()
            }
        };
        let mut base = base.region(region);
        // Only when given: the standard chain may know one.
        if let Some(endpoint) = &self.endpoint {
            base = base.endpoint_url(endpoint);
        }
        let config = base
            .force_path_style(self.path_style)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX))
            .timeout_config(timeouts(Duration::ZERO))
            .build();
        Ok(Client::from_conf(config))
    }

    fn fixed_credentials(&self) -> Result<Option<Credentials>, ConfigError> {
        let (access, secret) = match (&self.keys, &self.access_key_file, &self.secret_key_file) {
            (Some((access, secret)), ..) => (access.clone(), secret.clone()),
            (None, Some(access), Some(secret)) => (read_key(access)?, read_key(secret)?),
            (None, None, None) => return Ok(None),
            _ => return Err(ConfigError::HalfAKey),
        };
        Ok(Some(Credentials::new(access, secret, None, None, "millwright")))
    }
}

/// A path may follow: some servers have their S3 below one.
fn is_endpoint(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://").or(url.strip_prefix("https://")) else { return false };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, "443"),
    };
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).filter(|h| h.contains(':'));
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let hosted = bare.map_or(!host.is_empty() && host.chars().all(named), |ip| ip.parse::<Ipv6Addr>().is_ok());
    hosted && port.parse::<u16>().is_ok_and(|port| port > 0) && !path.contains(['?', '#', ' '])
}

fn http_client() -> SharedHttpClient {
    let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    aws_smithy_http_client::Builder::new().tls_provider(provider).build_https()
}

/// `transfer`: what the content of one attempt may take beside the request.
pub(super) fn timeouts(transfer: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_millis(CONNECT_TIMEOUT_MS))
        .operation_attempt_timeout(Duration::from_millis(ATTEMPT_TIMEOUT_MS) + transfer)
        .operation_timeout(Duration::from_millis(OPERATION_TIMEOUT_MS) + transfer * ATTEMPTS_MAX)
        .build()
}

fn read_key(file: &PathBuf) -> Result<String, ConfigError> {
    let failed = |reason| ConfigError::KeyFile { file: file.clone(), reason };
    if fs::metadata(file).map_err(failed)?.len() > KEY_FILE_BYTES_MAX {
        return Err(ConfigError::KeyFileTooLarge { file: file.clone() });
    }
    Ok(fs::read_to_string(file).map_err(failed)?.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_settings_are_refused() {
        let parse = toml::from_str::<S3Config>;
        assert_eq!(parse("bucket = \"b\"").unwrap().region, "us-east-1");
        assert!(parse("bucket = \"b\"\nbukket = 1").unwrap_err().to_string().contains("bukket"));
        assert!(parse("bucket = \"b\"\nkeys = [\"a\", \"b\"]").is_err());
    }

    #[test]
    fn what_cannot_work_is_named_and_paths_begin_at_the_configurations_folder() {
        let parse = |text: &str| toml::from_str::<S3Config>(&format!("bucket = \"b\"\n{text}")).unwrap();
        let key = |text: &str| parse(text).check(Path::new("/etc")).map(drop).map_err(|e| e.key);
        for good in ["http://minio:9000", "https://s3.example.com/", "http://[::1]:9000", "https://a.b/storage/v1/s3"] {
            assert_eq!(key(&format!("endpoint = \"{good}\"")), Ok(()), "{good}");
        }
        for bad in ["minio:9000", "ftp://minio", "http://", "http://a:b", "http://a:0", "http://a b", "http://::1:9"] {
            assert_eq!(key(&format!("endpoint = \"{bad}\"")), Err("endpoint"), "{bad}");
        }
        assert_eq!(key("secret_key_file = \"s\""), Err("access_key_file"));
        let keys = parse("access_key_file = \"a\"\nsecret_key_file = \"/s\"").check(Path::new("/etc")).unwrap();
        assert_eq!(keys.access_key_file.as_deref(), Some(Path::new("/etc/a")));
        assert_eq!(keys.secret_key_file.as_deref(), Some(Path::new("/s")));
    }

    #[test]
    fn keys_come_from_files_and_are_never_printed() {
        let dir = tempfile::tempdir().unwrap();
        let (access, secret) = (dir.path().join("a"), dir.path().join("s"));
        fs::write(&access, "AKIA\n").unwrap();
        fs::write(&secret, "shh\n").unwrap();
        let mut config = S3Config::with_keys("http://localhost:1", "b", "AKIA", "shh");
        assert!(!format!("{config:?}").contains("shh"));
        (config.keys, config.access_key_file) = (None, Some(access));
        assert!(matches!(config.fixed_credentials(), Err(ConfigError::HalfAKey)));
        config.secret_key_file = Some(secret);
        let credentials = config.fixed_credentials().unwrap().unwrap();
        assert_eq!((credentials.access_key_id(), credentials.secret_access_key()), ("AKIA", "shh"));
    }
}
