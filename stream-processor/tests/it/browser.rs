//! Headless Chromium through its WebDriver: just what a page test needs.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::components::{POLL, Program, find, on_free_port};

/// The key of an element reference, by the WebDriver specification.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
const WAIT_MAX: Duration = Duration::from_secs(180);

pub struct Browser {
    _driver: Program,
    http: reqwest::Client,
    session: String,
}

impl Browser {
    /// None after saying so, where there is no Chromium.
    pub async fn start(profile: &Path) -> Option<Self> {
        let (driver, chromium) = (find("chromedriver")?, find("chromium")?);
        let (driver, addr) = on_free_port(|addr| {
            let mut command = Command::new(&driver);
            command.arg(format!("--port={}", addr.port())).stdout(Stdio::null()).stderr(Stdio::null());
            command
        });
        let http = reqwest::Client::builder().timeout(WAIT_MAX).build().unwrap();
        let arguments = [
            "--headless=new".to_string(),
            "--no-sandbox".into(),
            "--disable-gpu".into(),
            "--disable-quic".into(),
            "--no-first-run".into(),
            "--disable-background-networking".into(),
            "--disable-component-update".into(),
            "--disable-sync".into(),
            "--disable-dev-shm-usage".into(),
            "--window-size=1200,1000".into(),
            format!("--user-data-dir={}", profile.display()),
        ];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": chromium, "args": arguments},
        }}});
        let reply = http.post(format!("http://{addr}/session")).json(&capabilities).send().await.unwrap();
        let reply: Value = reply.json().await.unwrap();
        let id = reply["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("no browser session: {reply}"));
        Some(Browser { _driver: driver, http, session: format!("http://{addr}/session/{id}") })
    }

    async fn call(&self, command: &str, body: Value) -> Value {
        self.try_call(command, body).await.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Err: what WebDriver had against it.
    async fn try_call(&self, command: &str, body: Value) -> Result<Value, Value> {
        let reply = self.http.post(format!("{}/{command}", self.session)).json(&body).send().await.unwrap();
        let value = reply.json::<Value>().await.unwrap()["value"].take();
        if value.get("error").is_some() { Err(value) } else { Ok(value) }
    }

    pub async fn open(&self, url: &str) {
        self.call("url", json!({ "url": url })).await;
    }

    /// Runs a script in the page and returns what it returns.
    pub async fn run(&self, script: &str) -> Value {
        self.call("execute/sync", json!({"script": script, "args": []})).await
    }

    /// Waits until there is such an element that can be clicked, and clicks it as a person would.
    pub async fn click(&self, css: &str) {
        let until = Instant::now() + WAIT_MAX;
        while let Err(error) = self.try_click(css).await {
            assert!(Instant::now() < until, "can't click {css}: {error}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Types as a person would.
    pub async fn type_into(&self, css: &str, text: &str) {
        let element = self.element(css).await.unwrap_or_else(|error| panic!("{css}: {error}"));
        self.call(&format!("element/{element}/value"), json!({ "text": text })).await;
    }

    async fn try_click(&self, css: &str) -> Result<(), Value> {
        let element = self.element(css).await?;
        self.try_call(&format!("element/{element}/click"), json!({})).await.map(drop)
    }

    async fn element(&self, css: &str) -> Result<String, Value> {
        let found = self.try_call("element", json!({"using": "css selector", "value": css})).await?;
        Ok(found[ELEMENT].as_str().expect("an element has a reference").to_owned())
    }

    /// Waits until the script returns something true.
    pub async fn wait_for(&self, script: &str) -> Value {
        let until = Instant::now() + WAIT_MAX;
        loop {
            let value = self.run(script).await;
            if !matches!(value, Value::Null | Value::Bool(false)) && value != json!(0) {
                return value;
            }
            assert!(Instant::now() < until, "never true in the page: {script}");
            tokio::time::sleep(POLL).await;
        }
    }

    pub async fn close(self) {
        let _ = self.http.delete(&self.session).send().await;
    }
}
