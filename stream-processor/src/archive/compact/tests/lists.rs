//! `archive files` and `archive symlinks`.

use proto::archive::compaction::symlink_prefix;

use super::*;
use crate::archive::files::{FilesError, Filter, Format, files, symlinks};

#[derive(clap::Parser)]
struct Args {
    #[command(flatten)]
    filter: Filter,
}

fn filter(args: &[&str]) -> Filter {
    <Args as clap::Parser>::parse_from([&["files"], args].concat()).filter
}

async fn lines(bucket: &Bucket, args: &[&str], format: Format) -> Vec<String> {
    let text = files(bucket, None, &[Table::Readings], &filter(args), format, "plant").await.unwrap();
    text.lines().map(String::from).collect()
}

#[tokio::test]
async fn files_are_those_that_count_in_every_format() {
    let bucket = archive(3).await;
    upload(&bucket, 4, 1).await;
    let keys = lines(&bucket, &[], Format::Keys).await;
    assert_eq!(keys.len(), 4, "not those of the commit that never came");
    assert!(keys[0].ends_with("date=1970-01-01/shard=00/00000000000000000001-20.parquet"), "{keys:?}");
    assert_eq!(lines(&bucket, &[], Format::Uris).await[3], format!("s3://plant/{}", keys[3]));
    let json: Vec<serde_json::Value> =
        lines(&bucket, &[], Format::Json).await.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((json[1]["key"].as_str(), json[1]["rows"].as_u64()), (Some(keys[1].as_str()), Some(5)));
    assert_eq!(lines(&bucket, &["--from", "1970-01-02"], Format::Keys).await, [keys[1].clone(), keys[3].clone()]);
    assert_eq!(lines(&bucket, &["--to", "1970-01-01"], Format::Keys).await, [keys[0].clone(), keys[2].clone()]);
    assert!(lines(&bucket, &["--site", "annex"], Format::Keys).await.is_empty());
    compact(&*bucket, &EAGER).await.unwrap();
    assert_eq!(lines(&bucket, &[], Format::Keys).await.len(), 2);
    let nothing = Bucket::new();
    let empty = files(&*nothing, None, &[Table::Readings], &filter(&[]), Format::Keys, "plant").await;
    assert!(matches!(empty, Err(FilesError::Empty)));
}

#[tokio::test]
async fn symlink_manifests_follow_the_list_partition_by_partition() {
    let bucket = archive(3).await;
    let prefix = symlink_prefix(Table::Readings);
    let stale = format!("{prefix}site=annex/date=1970-01-01/shard=00/manifest");
    let foreign = format!("{prefix}site=mill/date=1970-01-01/shard=01/manifest");
    for key in [&stale, &foreign] {
        bucket.set(key, Some("s3://plant/gone".into()));
    }
    assert_eq!(symlinks(&*bucket, None, &[Table::Readings], "plant").await.unwrap(), 2);
    let first = format!("{prefix}site=mill/date=1970-01-01/shard=00/manifest");
    let second = format!("{prefix}site=mill/date=1970-01-02/shard=00/manifest");
    assert_eq!(bucket.keys(&prefix), [first.clone(), foreign, second], "another shard's stay, stale ones go");
    let text = |key: &str| String::from_utf8(bucket.bytes(key).unwrap().to_vec()).unwrap();
    let of_day = lines(&bucket, &["--to", "1970-01-01"], Format::Uris).await;
    assert_eq!(text(&first).lines().collect::<Vec<_>>(), of_day);
    compact(&*bucket, &EAGER).await.unwrap();
    symlinks(&*bucket, None, &[Table::Readings], "plant").await.unwrap();
    assert_eq!(text(&first).lines().count(), 1, "the merged one");
    assert_no_orphans_but_lists(&bucket).await;
}

async fn assert_no_orphans_but_lists(bucket: &Bucket) {
    let copy = bucket.copy();
    for key in bucket.keys(&symlink_prefix(Table::Readings)) {
        copy.set(&key, None);
    }
    assert_no_orphans(&copy).await;
}
