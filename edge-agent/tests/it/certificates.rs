//! Certificates made by openssl, as an operator would make them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use proto::broker::TlsFiles;
use tempfile::TempDir;

use crate::broker::find;

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/// A certificate authority and what it has issued, in a folder.
pub struct Authority {
    openssl: PathBuf,
    folder: TempDir,
}

pub struct Issued {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// None: openssl is not installed, which was said.
    pub fn new() -> Option<Self> {
        let authority = Authority { openssl: find("openssl")?, folder: tempfile::tempdir().unwrap() };
        let (key, certificate) = (authority.path("ca.key"), authority.certificate());
        authority.openssl(&[
            &["req", "-x509", "-days", "10", "-subj", "/CN=authority"],
            &NEW_KEY[..],
            &["-keyout", text(&key), "-out", text(&certificate)],
        ]);
        Some(authority)
    }

    pub fn certificate(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// For loopback; negative days: it has expired already.
    pub fn issue(&self, name: &str, days: i32) -> Issued {
        let [request, extensions] = ["csr", "ext"].map(|kind| self.path(&format!("{name}.{kind}")));
        let issued = Issued { certificate: self.path(&format!("{name}.crt")), key: self.path(&format!("{name}.key")) };
        let subject = format!("/CN={name}");
        self.openssl(&[
            &["req", "-subj", &subject],
            &NEW_KEY[..],
            &["-keyout", text(&issued.key), "-out", text(&request)],
        ]);
        fs::write(&extensions, "subjectAltName=IP:127.0.0.1\n").unwrap();
        let (ca, ca_key, days) = (self.certificate(), self.path("ca.key"), days.to_string());
        self.openssl(&[
            &["x509", "-req", "-in", text(&request), "-CA", text(&ca), "-CAkey", text(&ca_key), "-CAcreateserial"],
            &["-days", &days, "-extfile", text(&extensions), "-out", text(&issued.certificate)],
        ]);
        issued
    }

    /// Lines for a mosquitto that shows this certificate, and lets in whom `clients` has issued one.
    pub fn broker_lines(&self, name: &str, clients: &Authority) -> String {
        let Issued { certificate, key } = self.issue(name, 10);
        format!(
            "certfile {}\nkeyfile {}\ncafile {}\nrequire_certificate true\nuse_identity_as_username true\n",
            certificate.display(),
            key.display(),
            clients.certificate().display()
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn openssl(&self, arguments: &[&[&str]]) {
        let mut command = Command::new(&self.openssl);
        let done = command.args(arguments.concat()).stdin(Stdio::null()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The files that an agent is told of, which are replaced in place.
pub struct Installed {
    folder: TempDir,
}

impl Installed {
    pub fn new(ca: &Path, issued: &Issued) -> Self {
        let installed = Installed { folder: tempfile::tempdir().unwrap() };
        installed.install("ca.crt", ca);
        installed.renew(issued);
        installed
    }

    pub fn files(&self) -> TlsFiles {
        let path = |name| self.folder.path().join(name);
        TlsFiles { ca: path("ca.crt"), client: Some((path("gw.crt"), path("gw.key"))) }
    }

    pub fn trust(&self, ca: &Path) {
        self.install("ca.crt", ca);
    }

    pub fn renew(&self, issued: &Issued) {
        self.install("gw.crt", &issued.certificate);
        self.install("gw.key", &issued.key);
    }

    /// A certificate without its key.
    pub fn renew_half(&self, issued: &Issued) {
        self.install("gw.crt", &issued.certificate);
    }

    /// At once, as those who renew certificates do.
    fn install(&self, name: &str, from: &Path) {
        let new = self.folder.path().join("new");
        fs::copy(from, &new).unwrap();
        fs::rename(new, self.folder.path().join(name)).unwrap();
    }
}
