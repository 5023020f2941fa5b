//! A retraining as a Job: made from the CronJob's template, as `kubectl create job --from` makes it.

use chrono::DateTime;
use proto::time::wall_now_ms;
use serde_json::{Value, json};

use super::{Begun, RunnerError, cluster::Cluster};
use crate::trigger::desk::Runs;

/// Where the pod's template keeps the reason, from which the trainer has it.
pub const WHY_ANNOTATION: &str = "millwright/why";
/// What `kubectl` marks such a Job with, and the CronJob's own do not have.
const BY_HAND: (&str, &str) = ("cronjob.kubernetes.io/instantiate", "manual");
/// More are not looked through.
const JOBS_MAX: usize = 500;
const CONFLICT: u16 = 409;
const MINUTE_MS: i64 = 60_000;

pub struct JobRunner {
    cluster: Cluster,
    cronjob: String,
}

impl JobRunner {
    pub fn new(cluster: Cluster, cronjob: String) -> Self {
        JobRunner { cluster, cronjob }
    }

    pub async fn runs(&self) -> Result<Runs, RunnerError> {
        let cronjob = self.cronjob().await?;
        let jobs = self.cluster.get(&format!("{}?limit={JOBS_MAX}", self.jobs_path()?)).await?;
        if !jobs["metadata"]["continue"].as_str().unwrap_or_default().is_empty() {
            return Err(RunnerError::TooManyJobs);
        }
        Ok(runs_of(&jobs, &cronjob["metadata"]["uid"]))
    }

    /// One a minute at most, whoever asks: the minute is in the name.
    pub async fn start(&self, why: &str, now_ms: i64) -> Result<Begun, RunnerError> {
        let name = format!("{}-alert-{}", self.cronjob, now_ms / MINUTE_MS);
        let cronjob = self.cronjob().await?;
        let job = job_of(&cronjob, &name, why).ok_or_else(|| RunnerError::NoTemplate(self.cronjob.clone()))?;
        match self.cluster.post(&self.jobs_path()?, &job).await {
            Ok(made) => Ok(Begun { name, began_ms: made_ms(&made).unwrap_or_else(wall_now_ms), by_another: false }),
            Err(e) if e.status() == Some(CONFLICT) => Ok(Begun { name, began_ms: now_ms, by_another: true }),
            Err(e) => Err(e.into()),
        }
    }

    async fn cronjob(&self) -> Result<Value, RunnerError> {
        let namespace = self.cluster.namespace()?;
        Ok(self.cluster.get(&format!("/apis/batch/v1/namespaces/{namespace}/cronjobs/{}", self.cronjob)).await?)
    }

    fn jobs_path(&self) -> Result<String, RunnerError> {
        Ok(format!("/apis/batch/v1/namespaces/{}/jobs", self.cluster.namespace()?))
    }
}

/// None: the CronJob has no template.
fn job_of(cronjob: &Value, name: &str, why: &str) -> Option<Value> {
    let template = cronjob["spec"]["jobTemplate"].as_object()?;
    let mut spec = template.get("spec")?.as_object()?.clone();
    let metadata = template.get("metadata").and_then(Value::as_object);
    let of = |key: &str| metadata.and_then(|m| m.get(key)).and_then(Value::as_object).cloned().unwrap_or_default();
    let mut annotations = of("annotations");
    annotations.insert(BY_HAND.0.into(), BY_HAND.1.into());
    let mut pod = &mut spec;
    for part in ["template", "metadata", "annotations"] {
        pod = pod.entry(part).or_insert_with(|| json!({})).as_object_mut()?;
    }
    pod.insert(WHY_ANNOTATION.into(), why.into());
    let owner = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "controller": true,
        "name": cronjob["metadata"]["name"], "uid": cronjob["metadata"]["uid"],
    });
    let metadata =
        json!({"name": name, "labels": of("labels"), "annotations": annotations, "ownerReferences": [owner]});
    Some(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}))
}

/// The Jobs that belong to the CronJob, by schedule and by alert.
fn runs_of(jobs: &Value, cronjob_uid: &Value) -> Runs {
    let items = jobs["items"].as_array().map_or(&[][..], Vec::as_slice);
    let belongs = |job: &&Value| {
        let owners = job["metadata"]["ownerReferences"].as_array();
        owners.is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == *cronjob_uid))
    };
    let ours: Vec<&Value> = items.iter().filter(belongs).collect();
    Runs { running: ours.iter().any(|job| !has_ended(job)), began_ms: ours.iter().filter_map(|job| made_ms(job)).max() }
}

fn has_ended(job: &Value) -> bool {
    let is_end = |c: &Value| matches!(c["type"].as_str(), Some("Complete" | "Failed")) && c["status"] == "True";
    job["status"]["conditions"].as_array().is_some_and(|conditions| conditions.iter().any(is_end))
}

fn made_ms(job: &Value) -> Option<i64> {
    let text = job["metadata"]["creationTimestamp"].as_str()?;
    DateTime::parse_from_rfc3339(text).ok().map(|at| at.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cronjob() -> Value {
        json!({
            "metadata": {"name": "trainer", "uid": "u-1"},
            "spec": {"schedule": "0 3 * * 0", "jobTemplate": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"backoffLimit": 2, "template": {"metadata": {"annotations": {"millwright/why": "by schedule", "c": "d"}}}},
            }},
        })
    }

    #[test]
    fn a_job_is_the_template_with_a_name_an_owner_and_the_reason() {
        let job = job_of(&cronjob(), "trainer-alert-7", "ModelAccuracyLow: low").unwrap();
        assert_eq!(job["metadata"]["name"], "trainer-alert-7");
        assert_eq!(job["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(job["metadata"]["annotations"], json!({"cronjob.kubernetes.io/instantiate": "manual"}));
        let owner = &job["metadata"]["ownerReferences"][0];
        assert_eq!(
            (&owner["uid"], &owner["kind"], &owner["controller"]),
            (&json!("u-1"), &json!("CronJob"), &json!(true))
        );
        assert_eq!(job["spec"]["backoffLimit"], 2);
        let annotations = &job["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(*annotations, json!({"millwright/why": "ModelAccuracyLow: low", "c": "d"}));
    }

    #[test]
    fn a_cronjob_without_a_template_makes_no_job() {
        for cronjob in [
            json!({}),
            json!({"spec": {"jobTemplate": {}}}),
            json!({"spec": {"jobTemplate": {"spec": {"template": 1}}}}),
        ] {
            assert_eq!(job_of(&cronjob, "n", "why"), None, "{cronjob}");
        }
    }

    #[test]
    fn only_the_cronjobs_own_jobs_count_and_only_an_ended_one_is_over() {
        let job = |uid: &str, made: &str, conditions: Value| json!({"metadata": {"ownerReferences": [{"uid": uid}], "creationTimestamp": made}, "status": {"conditions": conditions}});
        let failed = json!([{"type": "Failed", "status": "True"}]);
        let suspended = json!([{"type": "Suspended", "status": "True"}, {"type": "Complete", "status": "False"}]);
        let uid = json!("u-1");
        let list = |items: &[Value]| runs_of(&json!({"items": items}), &uid);
        let [old, new] = ["2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z"];
        let ended =
            list(&[job("u-1", new, failed.clone()), job("u-1", old, failed.clone()), job("u-2", new, json!(null))]);
        assert_eq!(ended, Runs { running: false, began_ms: Some(1_767_225_602_000) });
        assert!(list(&[job("u-1", old, suspended)]).running);
        assert!(list(&[job("u-1", old, json!(null))]).running, "nothing is known of it yet");
        assert_eq!(list(&[]), Runs::default());
        assert_eq!(runs_of(&json!({}), &uid), Runs::default());
    }
}
