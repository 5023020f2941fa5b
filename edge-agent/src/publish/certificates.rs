//! The certificates of the connection to the broker, read anew when they are renewed. A renewal that can't be used
//! leaves the old ones in force.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use proto::{
    broker::TlsFiles,
    time::{PlantTime, parse_date_time},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Settings,
    mqtt::{MqttError, Tls},
};
use crate::{agent::progress::changed, telemetry::Metrics};

pub struct Certificates {
    files: TlsFiles,
    /// What the files held when they were looked at last, good or bad; None: they could not be read.
    seen: Option<Contents>,
    tls: watch::Sender<Tls>,
    metrics: Metrics,
}

impl Certificates {
    pub fn load(files: TlsFiles, metrics: Metrics) -> Result<(Self, watch::Receiver<Tls>), MqttError> {
        let seen = Contents::read(&files)?;
        let config = Arc::new(seen.client_config(&files)?);
        let (tls, follow) = watch::channel(Some(config));
        let certificates = Certificates { files, seen: Some(seen), tls, metrics };
        certificates.report_expiry();
        Ok((certificates, follow))
    }

    /// Looks at the files again and again, and when the agent is reloaded, until it is stopped.
    pub async fn watch(mut self, every: Duration, mut settings: watch::Receiver<Settings>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(every) => {}
                () = changed(&mut settings) => {}
            }
            let looked = spawn_blocking(move || {
                self.look();
                self
            });
            match looked.await {
                Ok(certificates) => self = certificates,
                Err(_) => return,
            }
        }
    }

    fn look(&mut self) {
        let read = Contents::read(&self.files);
        if read.as_ref().ok() == self.seen.as_ref() {
            return;
        }
        self.seen = None;
        let outcome = match read.and_then(|contents| self.seen.insert(contents).client_config(&self.files)) {
            Ok(config) => {
                self.report_expiry();
                tracing::info!(file = %self.files.ca.display(), "certificates are renewed");
                self.tls.send_replace(Some(Arc::new(config)));
                "ok"
            }
            Err(error) => {
                tracing::warn!(%error, "renewed certificates can't be used; the old ones stay in force");
                "failed"
            }
        };
        self.metrics.certificate_reloads.add(1, &self.metrics.with("outcome", outcome));
    }

    fn report_expiry(&self) {
        if let Some(expiry) = self.seen.as_ref().and_then(Contents::expiry) {
            self.metrics.certificate_expiry.record(expiry.millis() as f64 / 1e3, &self.metrics.agent);
        }
    }
}

/// Of the three files, as they are.
#[derive(PartialEq, Eq)]
struct Contents {
    ca: Vec<u8>,
    client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, MqttError> {
        let read =
            |file: &PathBuf| fs::read(file).map_err(|source| MqttError::Unreadable { file: file.clone(), source });
        let client = match &files.client {
            Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
            None => None,
        };
        Ok(Contents { ca: read(&files.ca)?, client })
    }

    /// Names its own crypto provider, so that no process-wide one is needed.
    fn client_config(&self, files: &TlsFiles) -> Result<ClientConfig, MqttError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca, &files.ca)? {
            roots.add(certificate)?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        Ok(match (&self.client, &files.client) {
            (Some((certificate, key)), Some((certificate_file, key_file))) => {
                let invalid = |e| MqttError::File { file: key_file.clone(), reason: format!("no PEM key inside: {e}") };
                let key = PrivateKeyDer::from_pem_slice(key).map_err(invalid)?;
                builder.with_client_auth_cert(certificates(certificate, certificate_file)?, key)?
            }
            _ => builder.with_no_client_auth(),
        })
    }

    /// Of the certificate that we show; None: there is none, or it does not say.
    fn expiry(&self) -> Option<PlantTime> {
        let (pem, _) = self.client.as_ref()?;
        not_after(&CertificateDer::pem_slice_iter(pem).next()?.ok()?)
    }
}

/// What the files make of a connection, read once.
pub fn client_config(files: &TlsFiles) -> Result<ClientConfig, MqttError> {
    Contents::read(files)?.client_config(files)
}

fn certificates(pem: &[u8], file: &Path) -> Result<Vec<CertificateDer<'static>>, MqttError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let invalid = || MqttError::File { file: file.into(), reason: "no PEM certificate inside".into() };
    found.ok().filter(|c| !c.is_empty()).ok_or_else(invalid)
}

/// The end of a certificate's validity (RFC 5280, 4.1.2.5), which rustls verifies of others and tells nobody.
fn not_after(der: &[u8]) -> Option<PlantTime> {
    let (mut signed, _) = element(element(der)?.0)?;
    // Version (optional), serial number, signature algorithm, issuer.
    let skipped = if signed.first() == Some(&0xa0) { 4 } else { 3 };
    for _ in 0..skipped {
        signed = element(signed)?.1;
    }
    let (validity, _) = element(signed)?;
    let (_, not_after) = element(validity)?;
    let (text, _) = element(not_after)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let text = match (not_after.first()?, text.len()) {
        (0x17, 12) if text < "50" => format!("20{text}"),
        (0x17, 12) => format!("19{text}"),
        (0x18, 14) => text.to_owned(),
        _ => return None,
    };
    let [year, month, day, hour, minute, second] = [0..4, 4..6, 6..8, 8..10, 10..12, 12..14].map(|at| text.get(at));
    parse_date_time(&format!("{}-{}-{} {}:{}:{}", year?, month?, day?, hour?, minute?, second?))
}

/// Content of the DER element at the beginning, and what follows it.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = der.get(1..)?.split_first()?;
    let (length, rest) = match length {
        short @ 0..0x80 => (usize::from(short), rest),
        long => {
            let (bytes, rest) =
                rest.split_at_checked(usize::from(long & 0x7f)).filter(|(bytes, _)| bytes.len() <= 4)?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTIL_2036: &str = "-----BEGIN CERTIFICATE-----
MIIBLDCB36ADAgECAhQ3bQrDdjBmrKOXq6LtM3GKw+qGHDAFBgMrZXAwDDEKMAgG
A1UEAwwBYTAeFw0yNjExMjUwNzAyNDZaFw0zNjExMjIwNzAyNDZaMAwxCjAIBgNV
BAMMAWEwKjAFBgMrZXADIQAQy3Mnbk0BH1O8wOBBrRmm06tsNLET7atgxJSxdjOb
y6NTMFEwHQYDVR0OBBYEFC/Z0HhfYeuZUVSqCpL1CQSS8zt4MB8GA1UdIwQYMBaA
FC/Z0HhfYeuZUVSqCpL1CQSS8zt4MA8GA1UdEwEB/wQFMAMBAf8wBQYDK2VwA0EA
wYdJKu7czZVFHpbMtP0OUieXnth0HEVs7fln/LFYhsaxe5aJiaMyj5bGg98RwdPz
iXV6/P+nt7QYG/CfJCqWCw==
-----END CERTIFICATE-----";
    /// From 2050 on, years have four digits.
    const UNTIL_2081: &str = "-----BEGIN CERTIFICATE-----
MIIBLjCB4aADAgECAhQyRZfVvuCol+tlUV+WJyrYmLaS8zAFBgMrZXAwDDEKMAgG
A1UEAwwBYTAgFw0yNjExMjUwNzAyNDZaGA8yMDgxMDgyODA3MDI0NlowDDEKMAgG
A1UEAwwBYTAqMAUGAytlcAMhAKKy2avYbq5Nl/6LemTuoeuDlvudmig91NkEr3B9
iKhuo1MwUTAdBgNVHQ4EFgQUBKFfPzEFBoDr6isB9lvjsDIy6NEwHwYDVR0jBBgw
FoAUBKFfPzEFBoDr6isB9lvjsDIy6NEwDwYDVR0TAQH/BAUwAwEB/zAFBgMrZXAD
QQDdc9x15VwPXQSv9g9kbjWL3Lob71WYEV80oroys6fY6FGqzudowWocewonbnmW
MRmU0AoHP1RMhQLHvQUOgU8J
-----END CERTIFICATE-----";

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn the_end_of_a_certificate_is_read_and_nothing_is_made_of_other_bytes() {
        for (pem, end) in [(UNTIL_2036, "2036-11-22 07:02:46"), (UNTIL_2081, "2081-08-28 07:02:46")] {
            let der = der(pem);
            assert_eq!(not_after(&der), parse_date_time(end));
            assert!(parse_date_time(end).is_some());
            for bytes in 0..der.len() {
                not_after(&der[..bytes]);
                let mut damaged = der.to_vec();
                damaged[bytes] ^= 0xff;
                not_after(&damaged);
            }
        }
        assert_eq!(not_after(b""), None);
    }
}
