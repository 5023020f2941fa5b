//! Certificates and keys from PEM files, as connections need them. Each configuration names its own crypto provider, so that
//! no process-wide one is needed.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use proto::broker::TlsFiles;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{VerifierBuilderError, WebPkiClientVerifier},
};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{file}: {reason}")]
    File { file: PathBuf, reason: String },
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("TLS: client certificates can't be checked: {0}")]
    Verifier(#[from] VerifierBuilderError),
}

/// What a listener shows, and whom it lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// With those that lead to its authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Clients must show a certificate of this authority; None: anybody may come.
    pub client_ca: Option<PathBuf>,
}

pub fn client_config(files: &TlsFiles) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(&files.ca)?);
    match &files.client {
        Some((certificate, file)) => Ok(builder.with_client_auth_cert(certificates(certificate)?, key(file)?)?),
        None => Ok(builder.with_no_client_auth()),
    }
}

pub fn server_config(files: &ServerFiles) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match &files.client_ca {
        Some(ca) => {
            let roots = Arc::new(roots(ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    Ok(builder.with_single_cert(certificates(&files.certificate)?, key(&files.key)?)?)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(ca: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    let none = || TlsError::File { file: file.into(), reason: "no PEM certificate inside".into() };
    found.ok().filter(|c| !c.is_empty()).ok_or_else(none)
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let none = |e| TlsError::File { file: file.into(), reason: format!("no PEM key inside: {e}") };
    PrivateKeyDer::from_pem_slice(&read(file)?).map_err(none)
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(file).map_err(|e| TlsError::File { file: file.into(), reason: e.to_string() })
}
