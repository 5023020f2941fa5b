//! The retraining trigger as Alertmanager meets it: notices over HTTP, with a program as the runner, and with Jobs that a
//! stand-in of the Kubernetes API makes over TLS.

mod cluster;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use serde_json::{Value, json};
use stream_processor::{
    telemetry::Exporter,
    trigger::{
        config::{RunnerConfig, TriggerConfig},
        desk::Runs,
        listener::{self, Listener},
        notice::NOTICE_BYTES_MAX,
        runner::{
            RunnerError,
            cluster::{Cluster, ClusterError},
            job::JobRunner,
        },
    },
};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use cluster::{CRONJOB, StandIn, Trouble};

const HOUR_MS: i64 = 3_600_000;
/// Far above what it takes; a test that hangs must end.
const WAIT_MAX: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
const TOKEN: &str = "a-token-that-is-long-enough";

/// A trigger on loopback, with the metrics of its own.
struct Running {
    listener: Listener,
    client: reqwest::Client,
    _stop: DropGuard,
}

impl Running {
    async fn start(runner: RunnerConfig, token_file: Option<&Path>) -> Self {
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config =
            TriggerConfig { http, token_file: token_file.map(Path::to_path_buf), cool_down_ms: HOUR_MS, runner };
        let stop = CancellationToken::new();
        let listener = listener::start(config, &Exporter::install().unwrap(), stop.clone()).await.unwrap();
        Running { listener, client: reqwest::Client::new(), _stop: stop.drop_guard() }
    }

    async fn command(folder: &Path, script: &str) -> Self {
        let argv = ["sh", "-c", script].map(String::from).to_vec();
        Self::start(RunnerConfig::Command { argv, folder: folder.into(), run_max: WAIT_MAX }, None).await
    }

    async fn job(api: &StandIn) -> Self {
        let (server, account) = (Some(api.server()), api.account().to_path_buf());
        Self::start(RunnerConfig::Job { cronjob: CRONJOB.into(), server, account }, None).await
    }

    async fn post(&self, body: impl Into<reqwest::Body>, token: Option<&str>) -> (StatusCode, String) {
        let request = self.client.post(format!("http://{}/alerts", self.listener.addr)).body(body);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let answer = request.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    async fn tell(&self, body: &Value) -> (StatusCode, String) {
        self.post(body.to_string(), None).await
    }

    /// Of a counter, by what stands in its braces.
    async fn counted(&self, name: &str, label: &str) -> u64 {
        let metrics = self.client.get(format!("http://{}/metrics", self.listener.addr)).send().await.unwrap();
        let text = metrics.text().await.unwrap();
        let start = format!("millwright_retraining_{name}_total{label} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok());
        value.unwrap_or_else(|| panic!("no {start}in\n{text}"))
    }

    async fn until_counted(&self, name: &str, label: &str, count: u64) {
        let began = Instant::now();
        while self.counted(name, label).await < count {
            assert!(began.elapsed() < WAIT_MAX, "{name} {label} is not {count} in time");
            sleep(LOOK).await;
        }
    }
}

fn notice(status: &str, fingerprint: &str) -> Value {
    json!({"version": "4", "status": status, "alerts": [{
        "status": status, "fingerprint": fingerprint,
        "labels": {"alertname": "ModelAccuracyLow", "action": "retrain"}, "annotations": {"summary": "F1 is 0.3"},
    }]})
}

#[tokio::test]
async fn an_alert_runs_the_program_once_with_the_reason_and_its_end_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let trigger = Running::command(folder.path(), "printf %s \"$MILLWRIGHT_WHY\" > why; echo told; exit 0").await;
    assert_eq!(trigger.counted("runs", "{state=\"succeeded\"}").await, 0);
    assert_eq!(trigger.tell(&notice("firing", "a")).await.0, StatusCode::OK);
    trigger.until_counted("runs", "{state=\"succeeded\"}", 1).await;
    assert_eq!(std::fs::read_to_string(folder.path().join("why")).unwrap(), "ModelAccuracyLow: F1 is 0.3");
    assert_eq!(trigger.tell(&notice("firing", "a")).await.0, StatusCode::OK);
    assert_eq!(trigger.tell(&notice("firing", "b")).await.0, StatusCode::OK);
    assert_eq!(trigger.tell(&notice("resolved", "a")).await.0, StatusCode::OK);
    assert_eq!(trigger.counted("runs", "{state=\"started\"}").await, 1);
    for decision in ["start", "repeated", "cooling-down", "resolved"] {
        assert_eq!(trigger.counted("alerts", &format!("{{decision=\"{decision}\"}}")).await, 1, "{decision}");
    }
}

#[tokio::test]
async fn a_program_that_fails_or_does_not_exist_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let trigger = Running::command(folder.path(), "exit 3").await;
    trigger.tell(&notice("firing", "a")).await;
    trigger.until_counted("runs", "{state=\"failed\"}", 1).await;

    let argv = vec!["no-such-program".to_string()];
    let missing = RunnerConfig::Command { argv, folder: folder.path().into(), run_max: WAIT_MAX };
    let trigger = Running::start(missing, None).await;
    let (status, reason) = trigger.tell(&notice("firing", "a")).await;
    assert!(status == StatusCode::SERVICE_UNAVAILABLE && reason.starts_with("no-such-program: "), "{status} {reason}");
    assert_eq!(trigger.counted("runs", "{state=\"not-started\"}").await, 1);
}

#[tokio::test]
async fn what_is_no_notice_or_not_allowed_is_refused_with_the_reason_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let trigger = Running::command(folder.path(), "touch ran").await;
    let (status, reason) = trigger.post("[", None).await;
    assert!(status == StatusCode::BAD_REQUEST && reason.starts_with("no notice of Alertmanager"), "{status} {reason}");
    let (status, _) = trigger.post(vec![b' '; NOTICE_BYTES_MAX + 1], None).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(trigger.counted("notices_refused", "").await, 2);

    let token_file = folder.path().join("token");
    std::fs::write(&token_file, TOKEN).unwrap();
    let argv = ["touch", "ran"].map(String::from).to_vec();
    let runner = RunnerConfig::Command { argv, folder: folder.path().into(), run_max: WAIT_MAX };
    let trigger = Running::start(runner, Some(&token_file)).await;
    let body = notice("firing", "a").to_string();
    assert_eq!(trigger.post(body.clone(), None).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(trigger.post(body.clone(), Some("another-token-of-length")).await.0, StatusCode::UNAUTHORIZED);
    assert!(!folder.path().join("ran").exists());
    assert_eq!(trigger.post(body, Some(TOKEN)).await.0, StatusCode::OK);
    trigger.until_counted("runs", "{state=\"succeeded\"}", 1).await;
    assert!(folder.path().join("ran").exists());
}

#[tokio::test]
async fn an_alert_makes_one_job_of_the_cronjob() {
    let Some(api) = StandIn::start(Trouble::None).await else { return };
    let trigger = Running::job(&api).await;
    assert_eq!(trigger.tell(&notice("firing", "a")).await, (StatusCode::OK, String::new()));
    let [job] = &api.made()[..] else { panic!("{:?}", api.made()) };
    assert!(job["metadata"]["name"].as_str().unwrap().starts_with("trainer-alert-"), "{job}");
    assert_eq!(job["metadata"]["ownerReferences"][0]["uid"], "uid-of-the-cronjob");
    assert_eq!(job["spec"]["backoffLimit"], 2);
    assert_eq!(job["spec"]["template"]["metadata"]["annotations"]["millwright/why"], "ModelAccuracyLow: F1 is 0.3");
    assert_eq!(trigger.tell(&notice("firing", "a")).await.0, StatusCode::OK);
    assert_eq!(trigger.tell(&notice("firing", "b")).await.0, StatusCode::OK);
    assert_eq!(api.made().len(), 1, "it runs");
    assert_eq!(trigger.counted("alerts", "{decision=\"repeated\"}").await, 1);
    assert_eq!(trigger.counted("alerts", "{decision=\"running\"}").await, 1);
    // Another trigger knows of it, too: the cluster remembers.
    assert_eq!(Running::job(&api).await.tell(&notice("firing", "a")).await.0, StatusCode::OK);
    assert_eq!(api.made().len(), 1);
}

#[tokio::test]
async fn what_the_cluster_refuses_is_said_and_alertmanager_tells_again() {
    for (trouble, expected) in [
        (Trouble::Forbidden, "the service account may not (403): jobs.batch is forbidden"),
        (Trouble::Nonsense, "an answer that can't be used"),
        (Trouble::HangsUp, "the API server broke off"),
    ] {
        let Some(api) = StandIn::start(trouble).await else { return };
        let trigger = Running::job(&api).await;
        let (status, reason) = trigger.tell(&notice("firing", "a")).await;
        assert!(status == StatusCode::SERVICE_UNAVAILABLE && reason.contains(expected), "{status} {reason}");
        assert_eq!(trigger.counted("runs", "{state=\"not-started\"}").await, 1);
        api.is_well_again();
        assert_eq!(trigger.tell(&notice("firing", "a")).await, (StatusCode::OK, String::new()));
        assert_eq!(api.made().len(), 1);
    }
}

#[tokio::test]
async fn a_name_that_is_taken_is_another_triggers_run_and_only_the_clusters_own_authority_is_trusted() {
    let Some(api) = StandIn::start(Trouble::None).await else { return };
    let runner = || JobRunner::new(Cluster::new(&api.server(), api.account().into()).unwrap(), CRONJOB.into());
    let first = runner().start("why", 60_000 * 7).await.unwrap();
    assert_eq!((first.name.as_str(), first.by_another), ("trainer-alert-7", false));
    let second = runner().start("why", 60_000 * 7 + 59_999).await.unwrap();
    assert_eq!((second.name.as_str(), second.by_another), ("trainer-alert-7", true));
    assert_eq!(api.made().len(), 1);
    assert_eq!(runner().runs().await.unwrap(), Runs { running: true, began_ms: Some(first.began_ms) });

    let missing = JobRunner::new(Cluster::new(&api.server(), api.account().into()).unwrap(), "other".into());
    assert!(matches!(missing.runs().await, Err(RunnerError::Cluster(ClusterError::Refused { status: 404, .. }))));
    let Some(other) = StandIn::start(Trouble::None).await else { return };
    let stranger = JobRunner::new(Cluster::new(&api.server(), other.account().into()).unwrap(), CRONJOB.into());
    let error = stranger.runs().await.unwrap_err().to_string();
    assert!(error.contains("can't be reached") && error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_is_given_up() {
    let Some(api) = StandIn::start(Trouble::Silent).await else { return };
    let cluster = Cluster::new(&api.server(), api.account().into()).unwrap().within(Duration::from_millis(200));
    let outcome = JobRunner::new(cluster, CRONJOB.into()).runs().await;
    assert!(matches!(outcome, Err(RunnerError::Cluster(ClusterError::Slow { .. }))), "{outcome:?}");
}
