//! Which commit a model was trained by: `GIT_COMMIT` from the environment (images are built without a repository),
//! else from the checkout this lies in; neither: the artefact says none.

use std::{path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=GIT_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    // Cargo passes the environment's own on to the compiler.
    let given = std::env::var("GIT_COMMIT").is_ok_and(|commit| !commit.is_empty());
    // Without this, a source archive unpacked inside another repository would take that one's commit.
    if given || !Path::new("../.git").exists() {
        return;
    }
    // One line is added to this log whenever another commit is checked out or made: one small file to watch.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
    if let Some(commit) = git(&["rev-parse", "HEAD"]) {
        println!("cargo::rustc-env=GIT_COMMIT={commit}");
    }
}

/// None: no git here, or it has no answer.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}
