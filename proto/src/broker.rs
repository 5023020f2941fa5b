//! The `[mqtt]` section of every program's configuration: where the broker is, and who we are there. Opens no file.

use std::path::{Path, PathBuf};

use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerConfig {
    /// `mqtt://host[:port]` or `mqtts://host[:port]`; an IPv6 address stands in brackets.
    pub url: String,
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Needed for `mqtts://`.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

/// A [`BrokerConfig`] whose parts fit together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    pub host: String,
    pub port: u16,
    pub tls: Option<TlsFiles>,
    /// User name and the file with the password.
    pub login: Option<(String, PathBuf)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: PathBuf,
    /// Client certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`mqtt.{key}`: {reason}")]
pub struct InvalidBroker {
    pub key: &'static str,
    pub reason: String,
}

impl BrokerConfig {
    /// Relative paths begin at `base`.
    pub fn check(&self, base: &Path) -> Result<Broker, InvalidBroker> {
        let invalid = |key, reason: &str| InvalidBroker { key, reason: reason.into() };
        let (host, port, secure) = address(&self.url).ok_or_else(|| InvalidBroker {
            key: "url",
            reason: format!("`{}` is not mqtt://host:port or mqtts://host:port", self.url),
        })?;
        let path = |p: &Option<PathBuf>| p.as_ref().map(|p| base.join(p));
        let client = match (path(&self.cert_file), path(&self.key_file)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(invalid("cert_file", "needs key_file, and key_file needs it")),
        };
        let tls = match (secure, path(&self.ca_file)) {
            (true, Some(ca)) => Some(TlsFiles { ca, client }),
            (true, None) => return Err(invalid("ca_file", "is needed for mqtts://")),
            (false, None) if client.is_none() => None,
            (false, _) => return Err(invalid("url", "must be mqtts:// when certificates are given")),
        };
        let login = match (&self.username, path(&self.password_file)) {
            (Some(name), Some(file)) => Some((name.clone(), file)),
            (None, None) => None,
            _ => return Err(invalid("username", "needs password_file, and password_file needs it")),
        };
        Ok(Broker { host, port, tls, login })
    }
}

/// Host, port, and whether it is TLS.
fn address(url: &str) -> Option<(String, u16, bool)> {
    let (rest, secure, default) = match (url.strip_prefix("mqtt://"), url.strip_prefix("mqtts://")) {
        (Some(rest), _) => (rest, false, 1883),
        (_, Some(rest)) => (rest, true, 8883),
        _ => return None,
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (rest, default),
    };
    // An IPv6 address stands in brackets, so that its colons are not taken for the port's.
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let valid = |h: &str| !h.is_empty() && !h.contains(['/', '@', '?', '#', ' ', '[', ']']);
    let host = bare.filter(|h| h.contains(':')).or((!host.contains(':')).then_some(host))?;
    valid(host).then(|| (host.to_owned(), port, secure))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> BrokerConfig {
        BrokerConfig {
            url: url.into(),
            username: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }

    #[test]
    fn addresses_are_read_with_their_default_ports() {
        let address = |url: &str| config(url).check(Path::new("")).map(|b| (b.host, b.port)).ok();
        assert_eq!(address("mqtt://broker"), Some(("broker".into(), 1883)));
        assert_eq!(address("mqtt://10.0.0.1:99"), Some(("10.0.0.1".into(), 99)));
        assert_eq!(address("mqtt://[::1]:77"), Some(("::1".into(), 77)));
        assert_eq!(address("mqtt://[::1]"), Some(("::1".into(), 1883)));
        let secure = BrokerConfig { ca_file: Some("ca".into()), ..config("mqtts://a") }.check(Path::new("")).unwrap();
        assert_eq!((secure.host.as_str(), secure.port), ("a", 8883));
        for bad in [
            "broker",
            "a:1883",
            "http://broker",
            "mqtt://",
            "mqtt://a:b",
            "mqtt://a:99999",
            "mqtt://u@a",
            "mqtt://a/b",
            "mqtt://::1",
            "mqtts://broker",
        ] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_named() {
        let key = |c: BrokerConfig| c.check(Path::new("/etc")).unwrap_err().key;
        assert_eq!(key(config("mqtts://b")), "ca_file");
        assert_eq!(key(BrokerConfig { ca_file: Some("ca".into()), ..config("mqtt://b") }), "url");
        assert_eq!(key(BrokerConfig { key_file: Some("k".into()), ..config("mqtt://b") }), "cert_file");
        assert_eq!(key(BrokerConfig { username: Some("u".into()), ..config("mqtt://b") }), "username");
        let secure = BrokerConfig { ca_file: Some("ca".into()), ..config("mqtts://b") };
        let tls = secure.check(Path::new("/etc")).unwrap().tls.unwrap();
        assert_eq!(tls.ca, Path::new("/etc/ca"));
    }
}
