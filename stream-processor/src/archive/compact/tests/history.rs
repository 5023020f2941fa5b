//! A year of commits: what recovery and a reader have to ask for.

use model::store::{ObjectMeta, PutOutcome, manifests::newest_number, objects::Answer};
use proto::archive::{manifest_key, manifest_prefix};

use super::*;

const COMMITS: u64 = 500_000;
const DAYS: u64 = 365;
/// Twice the logarithm of the commits, and a few.
const RECOVERY_REQUESTS_MAX: u64 = 45;
/// That for commits and records, and one for each part.
const READER_REQUESTS_MAX: u64 = 150;

/// A bucket with manifests that are made when they are asked for.
struct Year {
    bucket: Arc<Bucket>,
    commits: u64,
}

impl Year {
    fn manifest(&self, key: &str) -> Option<Bytes> {
        let number = key.strip_prefix(&manifest_prefix(SHARD))?.strip_suffix(".json")?.parse().ok()?;
        let day = PlantTime((number * DAYS / COMMITS) as i64 * DAY_MS);
        let site = AssetId::new("mill").unwrap();
        let key = object_key(Table::Readings, &site, &day.date(), SHARD, 1, number);
        let object = ObjectRef { key, bytes: 1_000, sha256: sha256(&number.to_le_bytes()) };
        let time = day.millis();
        let object = DataObject { table: Table::Readings, object, rows: 10, min_time_ms: time, max_time_ms: time };
        let manifest =
            Manifest { kind: ManifestKind::Commit, incarnation: 1, objects: vec![object], ..takeover(number) };
        (1..=self.commits).contains(&number).then(|| manifest.encode().unwrap().into())
    }
}

impl Objects for Year {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Bytes>> {
        Box::pin(async move { Ok(self.bucket.get(key).await?.or_else(|| self.manifest(key))) })
    }

    fn head<'a>(&'a self, key: &'a str) -> Answer<'a, Option<ObjectMeta>> {
        Box::pin(async move {
            let made = || self.manifest(key).map(|_| ObjectMeta { key: key.into(), bytes: 0, etag: String::new() });
            Ok(self.bucket.head(key).await?.or_else(made))
        })
    }

    fn get_file<'a>(&'a self, key: &'a str, path: &'a Path) -> Answer<'a, Option<u64>> {
        self.bucket.get_file(key, path)
    }

    fn list<'a>(&'a self, prefix: &'a str, start_after: Option<&'a str>) -> Answer<'a, Vec<ObjectMeta>> {
        self.bucket.list(prefix, start_after)
    }

    fn put<'a>(&'a self, key: &'a str, bytes: Bytes) -> Answer<'a, ()> {
        self.bucket.put(key, bytes)
    }

    fn put_file<'a>(&'a self, key: &'a str, path: &'a Path) -> Answer<'a, ()> {
        self.bucket.put_file(key, path)
    }

    fn put_if_absent<'a>(&'a self, key: &'a str, bytes: Bytes) -> Answer<'a, PutOutcome> {
        self.bucket.put_if_absent(key, bytes)
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        self.bucket.delete(key)
    }
}

#[tokio::test]
async fn after_a_year_recovery_and_readers_ask_for_little() {
    let mut year = Year { bucket: Bucket::new(), commits: COMMITS };
    year.bucket.die(bucket::Death::Never);
    assert_eq!(newest_number(&year, SHARD, 0).await.unwrap(), Some(COMMITS));
    let recovery = year.bucket.requests();
    assert!(recovery <= RECOVERY_REQUESTS_MAX, "{recovery}");

    let report = compact(&year, &NEVER_MERGE).await.unwrap();
    assert_eq!((report.manifest, report.compaction), (COMMITS, COMMITS.div_ceil(MANIFESTS_PER_RECORD_MAX)));
    let record = newest_compaction(&year, SHARD, 0).await.unwrap().unwrap();
    assert_eq!(record.parts.iter().map(|p| p.objects).sum::<u64>(), COMMITS);
    assert_eq!(year.bucket.keys(&manifest_key(SHARD, 1)), Vec::<String>::new(), "it was made, not kept");

    const AFTER: u64 = 20;
    year.commits += AFTER;
    year.bucket.die(bucket::Death::Never);
    let listing = resolve(&year, SHARD, &[Table::Readings]).await.unwrap().unwrap();
    let reader = year.bucket.requests();
    println!("{COMMITS} commits: recovery asks {recovery} times, a reader {reader}, of {} parts", record.parts.len());
    assert!(reader <= READER_REQUESTS_MAX + AFTER, "{reader}");
    assert_eq!((listing.manifest, listing.objects.len() as u64), (COMMITS + AFTER, COMMITS + AFTER));
    assert!(
        listing.objects.iter().zip(1..).all(|(listed, number)| listed.manifest == number),
        "none twice, none missing"
    );
}
