//! S3 away, forbidding or slow for long: scoring and alerts go on, memory and staging stay within their bounds, and
//! afterwards everything is there, in order.

use std::time::{Duration, Instant};

use edge_agent::agent::AgentHandle;
use proto::time::PlantTime;
use tokio::time::sleep;

use super::{
    hall::{FIGURES_AWAY, Hall, Life, REGISTRY_AWAY, S3_AWAY, STALL_MAX, check_balance},
    plant::{FIRST_STEP, Plant, STEP_MS, in_turns},
    proxy::{Asked, Fate},
};
use crate::archive::{self, assert_same};

/// 4 gateways x 10 machines x 3 sensors: 24,000 readings per wall second.
const SPEED: f64 = 200.0;
const GATEWAYS: usize = 4;
const MACHINES_PER_GATEWAY: usize = 10;
const STAGING_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Over what it had before S3 went: queues, the segments between engine and staging, and what an allocator keeps. It
/// does not grow with what waits, which is on disk.
const GROWTH_KB_MAX: u64 = 64 * 1024;
/// Whatever happens.
const RESIDENT_KB_MAX: u64 = 200 * 1024;
/// With staging full, so long the spools are watched.
const PAUSED_FOR: Duration = Duration::from_secs(5);
const STAGING_FULL: &str = "staging is full: nothing is taken until S3 is back";
const ROOM_AGAIN: &str = "there is room again: taking on";
const FORBIDDEN: &str = "S3 refuses: segments wait in staging until that is mended";

struct Outage {
    hall: Hall,
    plant: Plant,
    agents: Vec<AgentHandle>,
    processor: Life,
    http: String,
}

impl Outage {
    async fn new() -> Option<Outage> {
        let mut hall = Hall::new(PlantTime(FIRST_STEP * STEP_MS), SPEED).await?;
        let plant = Plant::new(GATEWAYS, MACHINES_PER_GATEWAY, in_turns);
        let agents = hall.agents(&plant);
        let mut processor = hall.processor("processor-0", &format!("staging_bytes_max = {STAGING_BYTES_MAX}"));
        let http = processor.field("http").await;
        hall.until_archived(100_000).await;
        Some(Outage { hall, plant, agents, processor, http })
    }

    /// The sum of a metric over its labels.
    async fn metric(&self, name: &str) -> u64 {
        let text = reqwest::get(format!("http://{}/metrics", self.http)).await.unwrap().text().await.unwrap();
        let of = |line: &&str| line.split(['{', ' ']).next() == Some(name);
        text.lines().filter(of).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>() as u64
    }

    /// Batches that came and were put into their places; each is committed, staged or pending, and nothing else.
    async fn check_batches(&self) {
        let metric = async |name| self.metric(name).await;
        let text = reqwest::get(format!("http://{}/metrics", self.http)).await.unwrap().text().await.unwrap();
        let received =
            |line: &&str| line.starts_with("millwright_batches_total") && line.contains("outcome=\"received\"");
        let taken = text.lines().find(received).and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        let known = [
            metric("millwright_batches_committed_total").await,
            metric("millwright_batches_staged").await,
            metric("millwright_batches_pending").await,
        ];
        println!("batches received {taken:?}; committed, staged, pending {known:?}");
        assert_eq!(taken, Some(known.iter().sum::<u64>() as f64), "{known:?}");
        assert!(known[1] > 0, "while S3 is away something is staged");
    }

    fn backlog(&self) -> u64 {
        self.agents.iter().map(|agent| agent.progress().borrow().backlog_bytes).sum()
    }

    /// Until the processor says that it takes nothing more; what it does meanwhile is looked at.
    async fn until_paused(&self) {
        let metrics = async || {
            let predictions = self.metric("millwright_predictions_total").await;
            (predictions, self.metric("millwright_alerts_total").await)
        };
        let (before, resident_kb, began) = (metrics().await, self.processor.resident_kb(), Instant::now());
        let mut peak_kb = resident_kb;
        while !self.processor.said(STAGING_FULL) {
            assert!(began.elapsed() < STALL_MAX, "staging never fills: {:#?}", self.processor.lines());
            peak_kb = peak_kb.max(self.processor.resident_kb());
            sleep(Duration::from_millis(100)).await;
        }
        let after = metrics().await;
        assert!(after.0 > before.0 && after.1 > before.1, "scoring and alerts go on: {before:?}, {after:?}");
        // What was on its way arrives.
        sleep(Duration::from_secs(1)).await;
        let arrived = async || {
            let messages = self.metric("millwright_batches_total").await;
            (self.metric("millwright_readings_received_total").await, messages)
        };
        let (backlog, taken) = (self.backlog(), arrived().await);
        for _ in 0..PAUSED_FOR.as_secs() {
            sleep(Duration::from_secs(1)).await;
            peak_kb = peak_kb.max(self.processor.resident_kb());
        }
        let staged = self.metric("millwright_staging_bytes").await;
        println!(
            "paused after {:.1} s with {staged} bytes staged; {} predictions, {} alerts meanwhile; backlog of the spools {backlog} and {} bytes; \
             resident {resident_kb} kB, at its peak {peak_kb} kB",
            began.elapsed().as_secs_f64() - PAUSED_FOR.as_secs_f64(),
            after.0 - before.0,
            after.1 - before.1,
            self.backlog(),
        );
        assert!(self.backlog() > backlog, "the spools hold what comes");
        assert_eq!(arrived().await, taken, "nothing is taken, nor sent");
        self.check_batches().await;
        assert!(staged <= STAGING_BYTES_MAX, "{staged}");
        assert!(peak_kb < (resident_kb + GROWTH_KB_MAX).min(RESIDENT_KB_MAX), "{resident_kb} kB, {peak_kb} kB");
    }

    /// Everything is in the archive exactly once, committed in the order of the log.
    async fn ends_well(mut self, announced: &[&str]) {
        self.plant.end_at(self.hall.now_step());
        self.hall.until_archived(self.plant.readings()).await;
        self.processor.stop(announced);
        drop(self.agents);
        let manifests = archive::manifests(&self.hall.store).await;
        manifests.iter().for_each(check_balance);
        for pair in manifests.windows(2) {
            for (site_agent, position) in pair[0].positions() {
                let next = pair[1].positions()[&site_agent];
                assert!(next.epoch == position.epoch && next.seq >= position.seq, "{position:?}, {next:?}");
            }
        }
        assert_same(&self.plant.sent(), &archive::readings(&self.hall.store, &manifests).await);
    }
}

async fn all_refused(fate: impl Fn(&Asked) -> Fate + Send + 'static, announced: &[&str]) {
    let Some(mut outage) = Outage::new().await else { return };
    outage.hall.proxy.rule(fate);
    outage.until_paused().await;
    outage.hall.proxy.rule(|_| Fate::Pass);
    outage.processor.until_said(ROOM_AGAIN).await;
    // The registry is looked at meanwhile.
    outage.ends_well(&[&[STAGING_FULL, REGISTRY_AWAY, FIGURES_AWAY], announced].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_s3_is_away_scoring_goes_on_until_staging_is_full_and_then_the_spools_hold_it() {
    all_refused(|_| Fate::ResetBefore, &[S3_AWAY]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_forbids_is_said_and_costs_nothing_once_it_is_mended() {
    all_refused(|_| Fate::Refuse(403), &[FORBIDDEN]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_bucket_holds_the_gateways_back_and_loses_nothing() {
    const LATE_MS: u64 = 1_500;
    const SLOW_FOR: Duration = Duration::from_secs(20);
    let Some(outage) = Outage::new().await else { return };
    outage.hall.proxy.rule(|asked| if asked.method == "PUT" { Fate::Late(LATE_MS) } else { Fate::Pass });
    let before = outage.metric("millwright_archive_manifest").await;
    sleep(SLOW_FOR).await;
    let after = outage.metric("millwright_archive_manifest").await;
    println!(
        "{} manifests in {SLOW_FOR:?}, {} bytes staged",
        after - before,
        outage.metric("millwright_staging_bytes").await
    );
    assert!(after > before, "it goes on");
    outage.hall.proxy.rule(|_| Fate::Pass);
    outage.ends_well(&[STAGING_FULL]).await;
}
