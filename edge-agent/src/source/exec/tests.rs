use std::fs;

use proto::{asset::AssetId, wire::telemetry::Quality};
use tokio::sync::watch;

use super::*;
use crate::{
    source::{Item, Sample},
    telemetry::Metrics,
};

fn build_from(folder: &Path, command: &str, stale_after_ms: u64) -> Box<dyn Source> {
    let text = format!(
        r#"
        command = ["sh", "-c", {command:?}]
        stale_after_ms = {stale_after_ms}
        [[machines]]
        id = "baler-1"
        kind = "baler"
        sensors = [
            {{ sensor = "pressure", unit = "bar", at = "p" }},
            {{ sensor = "oil", unit = "C", at = "t", scale = 0.1 }},
        ]
        "#
    );
    build(&toml::from_str(&text).unwrap(), folder).unwrap()
}

struct Running(Box<dyn Source>, Vec<Sample>);

impl Running {
    fn start(folder: &Path, command: &str, stale_after_ms: u64) -> Running {
        Self::begin(build_from(folder, command, stale_after_ms))
    }

    fn begin(mut source: Box<dyn Source>) -> Running {
        let (_, clock) = watch::channel(PlantClock::WALL);
        source.start(clock, &Metrics::new(&AssetId::new("gw").unwrap()));
        Running(source, Vec::new())
    }

    /// Polls until `wanted` holds for all samples so far.
    async fn until(&mut self, wanted: impl Fn(&[Sample]) -> bool) -> &[Sample] {
        for _ in 0..3_000 {
            let mut items = Vec::new();
            while self.0.poll(PlantClock::WALL.now(), 10, &mut items).unwrap() {}
            self.1.extend(items.into_iter().map(|i| if let Item::Sample(s) = i { s } else { panic!("{i:?}") }));
            if wanted(&self.1) {
                return &self.1;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}", self.1);
    }
}

fn has(samples: &[Sample], sensor: usize, quality: Quality, reason: QualityReason) -> bool {
    samples.iter().any(|s| (s.values[sensor].quality, s.values[sensor].reason) == (quality, reason))
}

#[tokio::test]
async fn lines_become_readings_and_what_is_none_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let own = wall_now_ms() / 1_000 - 60;
    let program = format!(
        "echo p 2.5; echo nonsense; echo unknown 1; echo 't 415 {own}'; echo t 1 5; echo 'p broken'; \
         printf '%09000d\\n' 7; echo oops >&2; echo '{{\"p\": 3, \"t\": 420}}'; exec sleep 60"
    );
    let mut running = Running::start(folder.path(), &program, 60_000);
    let samples = running.until(|samples| samples.iter().any(|s| s.values[0] == Reading::good(3.0))).await;
    let own = samples.iter().find(|s| s.time == PlantTime(own * 1_000)).unwrap();
    assert_eq!(own.values[1], Reading::good(41.5), "with its own time");
    let year_1970 = samples.iter().find(|s| s.values[1] == Reading::good(0.1)).unwrap();
    assert!(year_1970.time > own.time, "a time that can't be right is not taken");
    assert!(has(samples, 0, Quality::Good, QualityReason::None));
    assert!(has(samples, 0, Quality::Bad, QualityReason::Unreadable));
    let last = samples.last().unwrap();
    assert_eq!(last.values, [Reading::good(3.0), Reading::good(42.0)], "one row for one object");
}

#[tokio::test]
async fn a_program_that_ends_is_started_again_and_meanwhile_its_sensors_are_bad() {
    let folder = tempfile::tempdir().unwrap();
    // Counts its starts, in the folder of the configuration.
    let program = "echo x >> starts; echo p $(wc -l < starts)";
    let mut running = Running::start(folder.path(), program, 60_000);
    let samples = running.until(|s| s.iter().any(|s| s.values[0] == Reading::good(3.0))).await;
    assert!(has(samples, 0, Quality::Bad, QualityReason::Ended) && has(samples, 1, Quality::Bad, QualityReason::Ended));
    assert!(fs::read_to_string(folder.path().join("starts")).unwrap().lines().count() >= 3);
}

#[tokio::test]
async fn a_program_that_is_missing_is_no_reason_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
        command = ["./no-such-program"]
        stale_after_ms = 100
        [[machines]]
        id = "baler-1"
        kind = "baler"
        sensors = [{ sensor = "pressure", unit = "bar", at = "p" }]
    "#;
    let source = build(&toml::from_str(text).unwrap(), folder.path()).unwrap();
    let mut running = Running::begin(source);
    let ended = |s: &&Sample| s.values[0].reason == QualityReason::Ended;
    running.until(|samples| samples.iter().filter(ended).count() >= 3).await;
}

#[tokio::test]
async fn a_silent_program_makes_its_sensors_stale() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::start(folder.path(), "echo p 2.5; exec sleep 60", 100);
    let stale = |s: &Sample| (s.values[0].quality, s.values[0].value) == (Quality::Stale, 2.5);
    let samples = running.until(|samples| samples.iter().filter(|s| stale(s)).count() >= 3).await;
    assert!(has(samples, 0, Quality::Stale, QualityReason::Timeout));
    assert!(has(samples, 1, Quality::Bad, QualityReason::Timeout), "the other was never heard");
}

#[tokio::test]
async fn a_program_ends_with_its_source_and_so_does_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let program = "sleep 60 & echo $! > child; echo $$ > parent; echo p 1; wait";
    let mut running = Running::start(folder.path(), program, 60_000);
    running.until(|samples| !samples.is_empty()).await;
    let ids = ["parent", "child"].map(|f| fs::read_to_string(folder.path().join(f)).unwrap().trim().to_owned());
    // A process that has ended and that its parent did not look after yet is a zombie.
    let alive = |id: &String| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|state| !matches!(state.trim().chars().next(), None | Some('Z' | 'X')))
    };
    assert!(ids.iter().all(alive));
    drop(running);
    for _ in 0..1_000 {
        if !ids.iter().any(alive) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{ids:?} live on");
}

#[test]
fn stamps_are_believed_within_reason() {
    let (now, clock) = (1_700_000_000_000, PlantClock::WALL);
    let stamp = |own| stamp(own, now, &clock).map(PlantTime::millis);
    assert_eq!(stamp(None), Some(now));
    assert_eq!(stamp(Some(now - 60_000)), Some(now - 60_000));
    assert_eq!(stamp(Some(now + 500)), Some(now), "never newer than the clock");
    assert_eq!(stamp(Some(now + 5_000)), None);
    assert_eq!(stamp(Some(now - LINE_AGE_MS_MAX - 1)), None);
    assert_eq!(stamp(Some(0)), None);
}

#[test]
fn names_are_words_and_unique() {
    let config = |a: &str, b: &str| -> ExecConfig {
        let sensor = |s: &str, at: &str| format!("{{ sensor = '{s}', unit = '1', at = '{at}' }}");
        let sensors = [sensor("a", a), sensor("b", b)].join(", ");
        let text = format!("command = ['x']\n[[machines]]\nid = 'm'\nkind = 'k'\nsensors = [{sensors}]");
        toml::from_str(&text).unwrap()
    };
    assert!(config("a", "b").names().is_ok());
    assert!(config("a", "a").names().unwrap_err().to_string().contains("`a` is there twice"));
    assert!(config("a", "b c").names().unwrap_err().to_string().contains("`b c` is not one word"));
    let mut silent = config("a", "b");
    silent.command.clear();
    assert!(silent.names().unwrap_err().to_string().contains("source.command: names no program"));
}
