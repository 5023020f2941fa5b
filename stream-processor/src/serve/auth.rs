//! Who may write. Reading is open to whoever reaches the port.
//!
//! With a token, every write carries it. Without one the listeners are on loopback, where the danger is a web page in
//! the operator's own browser: writes must then come from the console's own origin.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::http::{HeaderMap, Uri, header};
use sha2::{Digest, Sha256};

const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=512;

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("serve.token_file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("serve.token_file {}: a token has 16 to 512 characters of printable ASCII without spaces", path.display())]
    Unfit { path: PathBuf },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("this needs the header `Authorization: Bearer <token>`")]
    Missing,
    #[error("the token is wrong")]
    Wrong,
    #[error("writes from another site's page are refused")]
    CrossOrigin,
}

#[derive(Clone)]
pub struct Writes {
    /// Hashed, so that neither the length nor the time of a comparison says anything about it.
    token: Option<Arc<[u8; 32]>>,
}

impl Writes {
    /// For loopback.
    pub const fn local() -> Self {
        Writes { token: None }
    }

    pub fn with_token(path: &Path) -> Result<Self, TokenError> {
        let text =
            fs::read_to_string(path).map_err(|source| TokenError::Unreadable { path: path.to_path_buf(), source })?;
        let token = text.trim();
        if !TOKEN_BYTES.contains(&token.len()) || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TokenError::Unfit { path: path.to_path_buf() });
        }
        Ok(Writes { token: Some(Arc::new(hash(token))) })
    }

    pub fn needs_token(&self) -> bool {
        self.token.is_some()
    }

    /// gRPC: no browser can send it to another origin without being asked first, and nobody answers that.
    pub fn check_token(&self, authorization: Option<&[u8]>) -> Result<(), Denied> {
        let Some(expected) = &self.token else { return Ok(()) };
        let given = authorization
            .and_then(|value| std::str::from_utf8(value).ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or(Denied::Missing)?;
        if hash(given) == **expected { Ok(()) } else { Err(Denied::Wrong) }
    }

    pub fn check_http(&self, headers: &HeaderMap) -> Result<(), Denied> {
        match self.needs_token() {
            true => self.check_token(headers.get(header::AUTHORIZATION).map(|v| v.as_bytes())),
            false if is_same_origin(headers) => Ok(()),
            false => Err(Denied::CrossOrigin),
        }
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The host must be this machine, or a name that somebody points here could carry a page of theirs; and a browser that
/// names the page's origin must name this host.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|v: &header::HeaderValue| v.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or_default();
    let is_ours = |origin: &str| origin.strip_prefix("http://").or(origin.strip_prefix("https://")) == Some(host);
    is_loopback(host) && text(header::ORIGIN).is_none_or(is_ours)
}

fn is_loopback(host: &str) -> bool {
    let Some(name) = host.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_string)) else { return false };
    let ip = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn with_a_token_only_the_token_counts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "correct-horse-battery\n").unwrap();
        let writes = Writes::with_token(file.path()).unwrap();
        let check = |pairs: &[_]| writes.check_http(&headers(pairs));
        assert_eq!(check(&[("host", "127.0.0.1")]), Err(Denied::Missing));
        assert_eq!(check(&[("authorization", "Basic correct-horse-battery")]), Err(Denied::Missing));
        assert_eq!(check(&[("authorization", "Bearer correct-horse")]), Err(Denied::Wrong));
        assert_eq!(check(&[("authorization", "bearer correct-horse-battery")]), Ok(()));
        assert_eq!(writes.check_token(None), Err(Denied::Missing));
    }

    #[test]
    fn a_token_that_could_be_guessed_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for unfit in ["", "short", "two words are no token", &"x".repeat(513)] {
            fs::write(file.path(), unfit).unwrap();
            assert!(matches!(Writes::with_token(file.path()), Err(TokenError::Unfit { .. })), "{unfit:?}");
        }
        assert!(matches!(Writes::with_token(Path::new("/no/such/file")), Err(TokenError::Unreadable { .. })));
    }

    #[test]
    fn on_loopback_only_the_own_page_and_tools_write() {
        let check = |pairs: &[_]| Writes::local().check_http(&headers(pairs));
        assert_eq!(check(&[("host", "127.0.0.1:8080")]), Ok(()));
        assert_eq!(check(&[("host", "[::1]:8080"), ("origin", "http://[::1]:8080")]), Ok(()));
        assert_eq!(check(&[("host", "localhost:8080"), ("origin", "http://localhost:8080")]), Ok(()));
        for origin in ["http://evil.example", "null", "http://localhost:9999", "http://localhost:8080.evil.example"] {
            assert_eq!(check(&[("host", "localhost:8080"), ("origin", origin)]), Err(Denied::CrossOrigin), "{origin}");
        }
        assert_eq!(check(&[("host", "evil.example")]), Err(Denied::CrossOrigin));
        assert_eq!(check(&[]), Err(Denied::CrossOrigin));
    }
}
