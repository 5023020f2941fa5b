//! Looks at every object that counts, and at the newest snapshot.

use std::path::Path;

use futures::{StreamExt, stream};
use model::store::{StoreError, objects::Objects};
use proto::archive::{DataObject, ObjectRef, compaction::Listed};

use super::{Depth, Fault, Verified, audit::Audit};
use crate::archive::compact::merge::{read_digest, row_count, sha256_of};

/// Files in the scratch folder.
const LOOKS_IN_FLIGHT_MAX: usize = 3;

pub async fn look(store: &dyn Objects, audit: Audit, depth: Depth, scratch: &Path) -> Result<Verified, StoreError> {
    let Audit { mut out, live, snapshot, .. } = audit;
    for object in live.values().map(|l| &l.object) {
        out.objects += 1;
        out.rows += object.rows;
        out.bytes += object.object.bytes;
    }
    let data = live.values().map(|l| (l.object.object.clone(), Some(l.clone())));
    let all: Vec<_> = data.chain(snapshot.map(|s| (s, None))).enumerate().collect();
    let looks = all.into_iter().map(|(n, (object, listed))| async move {
        match depth {
            Depth::Sizes => size(store, &object).await,
            Depth::Content => content(store, &object, listed, &scratch.join(n.to_string())).await,
        }
    });
    let mut looks = stream::iter(looks).buffered(LOOKS_IN_FLIGHT_MAX);
    while let Some(fault) = looks.next().await {
        if let Some(fault) = fault? {
            out.fault(fault);
        }
    }
    Ok(out)
}

async fn size(store: &dyn Objects, object: &ObjectRef) -> Result<Option<Fault>, StoreError> {
    let found = store.head(&object.key).await?.map(|meta| meta.bytes);
    Ok(wrong_size(object, found))
}

fn wrong_size(object: &ObjectRef, found: Option<u64>) -> Option<Fault> {
    let key = object.key.clone();
    match found {
        None => Some(Fault::Missing { key }),
        Some(bytes) if bytes != object.bytes => {
            Some(Fault::Object { key, reason: format!("{bytes} bytes, listed with {}", object.bytes) })
        }
        Some(_) => None,
    }
}

async fn content(
    store: &dyn Objects,
    object: &ObjectRef,
    listed: Option<Listed>,
    path: &Path,
) -> Result<Option<Fault>, StoreError> {
    let found = store.get_file(&object.key, path).await?;
    if let Some(fault) = wrong_size(object, found) {
        return Ok(Some(fault));
    }
    let (object, path) = (object.clone(), path.to_owned());
    let looked = tokio::task::spawn_blocking(move || {
        let reason = difference(&object, listed.as_ref(), &path).err();
        // Only room would be lost, until the folder goes.
        let _ = std::fs::remove_file(&path);
        reason.map(|reason| Fault::Object { key: object.key, reason })
    });
    Ok(looked.await.unwrap_or_else(|e| Some(Fault::Object { key: "looking".into(), reason: e.to_string() })))
}

/// As an error: how the file differs from what is listed.
fn difference(object: &ObjectRef, listed: Option<&Listed>, path: &Path) -> Result<(), String> {
    let sha256 = sha256_of(path).map_err(|e| e.to_string())?;
    if sha256 != object.sha256 {
        return Err(format!("SHA-256 {sha256}, listed with {}", object.sha256));
    }
    let Some(Listed { object: DataObject { rows, .. }, digest, .. }) = listed else { return Ok(()) };
    let found = match digest {
        None => row_count(path).map_err(|e| e.to_string())?,
        Some(digest) => {
            let (found, read) = read_digest(path).map_err(|e| e.to_string())?;
            if read != *digest {
                return Err(format!("its rows have the digest {read}, listed with {digest}"));
            }
            found
        }
    };
    if found != *rows { Err(format!("{found} rows, listed with {rows}")) } else { Ok(()) }
}
