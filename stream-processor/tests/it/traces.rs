//! A traced batch is one trace, from the gateway to the alert: seen by an OTLP collector of the test's own.

use std::{
    collections::HashMap,
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span,
};
use stream_processor::embedded::s3::{Keys, S3Server};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::{
    components::{POLL, mosquitto},
    roles::{Logged, edge_agent},
};

const TOLD_MAX: Duration = Duration::from_secs(90);
const BUCKET: &str = "plant";

/// Every span that came, with the service that it is of.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_service in request.into_inner().resource_spans {
            let attributes = of_service.resource.unwrap_or_default().attributes;
            let service = attributes.into_iter().find(|a| a.key == "service.name");
            let service = match service.and_then(|a| a.value?.value) {
                Some(Value::StringValue(name)) => name,
                other => panic!("a service without a name: {other:?}"),
            };
            let spans = of_service.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, SocketAddr) {
        let collector = Collector::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(collector.clone());
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, addr)
    }

    /// The way from an alert's span back to its root, as soon as there is one.
    async fn way_to_an_alert(&self) -> Vec<(String, Span)> {
        let until = Instant::now() + TOLD_MAX;
        loop {
            let spans = self.0.lock().unwrap().clone();
            let by_id: HashMap<_, _> = spans.iter().map(|told| (&told.1.span_id, told)).collect();
            if let Some(alert) = spans.iter().find(|(_, span)| span.name == "alert") {
                let parent = |(_, span): &(String, Span)| by_id.get(&span.parent_span_id).map(|told| (*told).clone());
                let way: Vec<_> = std::iter::successors(Some(alert.clone()), parent).collect();
                // The two services' spans come on their own.
                if way.iter().any(|(_, span)| span.parent_span_id.is_empty()) {
                    return way;
                }
            }
            let names: Vec<_> = spans.iter().map(|(_, span)| &span.name).collect();
            assert!(Instant::now() < until, "no alert with all its parents among {names:?}");
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Two hours of a pump that shakes itself to pieces, a reading a minute.
fn shaking_pump() -> String {
    let row = |minute: u32| {
        let (hour, minute, vibration) = (minute / 60, minute % 60, 15.0 + f64::from(minute % 7) / 10.0);
        format!("2015-01-01 {hour:02}:{minute:02}:00,1,{vibration}\n")
    };
    "datetime,machineID,vibration\n".to_string() + &(0..120).map(row).collect::<String>()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traced_batch_is_followed_from_the_gateway_to_the_alert() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_broker, broker)) = mosquitto(folder.path()) else { return };
    let keys = Keys { access: "test".into(), secret: "secret-of-the-test".into() };
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let server = S3Server::start(&folder.path().join("bucket"), any, BUCKET, &keys).await.unwrap();
    let (collector, collector_addr) = Collector::start().await;

    let config = folder.path().join("processor.toml");
    let text = format!(
        "site = \"mill\"\n[mqtt]\nurl = \"mqtt://{broker}\"\n\
         [s3]\nendpoint = \"http://{}\"\nbucket = \"{BUCKET}\"\npath_style = true\n\
         [serve]\ngrpc = \"{any}\"\nhttp = \"{any}\"\n\
         [features]\nsensors = [\"vibration\"]\nwindow_ms = 600000\n\
         [traces]\nendpoint = \"http://{collector_addr}\"\n",
        server.addr
    );
    std::fs::write(&config, text).unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_stream-processor"));
    run.args(["run", "--config"]).arg(&config);
    run.env("AWS_ACCESS_KEY_ID", &keys.access).env("AWS_SECRET_ACCESS_KEY", &keys.secret);
    let mut processor = Logged::start(&mut run, folder.path().join("processor.log"));
    processor.says("http").await;

    let file = folder.path().join("pump.csv");
    std::fs::write(&file, shaking_pump()).unwrap();
    let config = folder.path().join("gateway.toml");
    let text = format!(
        "site = \"mill\"\nagent = \"gateway-1\"\ndata = \"spool\"\n[mqtt]\nurl = \"mqtt://{broker}\"\n\
         [batch]\ntrace_every = 1\n\
         [[source]]\ntype = \"replay\"\nfiles = [\"{}\"]\ntime = {{ column = \"datetime\" }}\n\
         machine = {{ column = \"machineID\", prefix = \"m\" }}\nkind = \"pump\"\n\
         sensors = [{{ column = \"vibration\", sensor = \"vibration\", unit = \"mm/s\" }}]\n",
        file.display()
    );
    std::fs::write(&config, text).unwrap();
    let mut run = Command::new(edge_agent());
    run.arg("--config").arg(&config);
    let mut agent = Logged::start(&mut run, folder.path().join("agent.log"));

    let way = collector.way_to_an_alert().await;
    let told: Vec<_> = way.iter().map(|(service, span)| (service.as_str(), span.name.as_str())).collect();
    let expected = [
        ("stream-processor", "alert"),
        ("stream-processor", "score"),
        ("stream-processor", "take"),
        ("edge-agent", "batch"),
    ];
    assert_eq!(told, expected);
    let traces: Vec<_> = way.iter().map(|(_, span)| &span.trace_id).collect();
    assert!(traces.iter().all(|id| id.len() == 16 && *id == traces[0]), "{traces:?}");
    let attribute = |span: &Span, key: &str| {
        let value = span.attributes.iter().find(|a| a.key == key).and_then(|a| a.value.clone()?.value);
        value.unwrap_or_else(|| panic!("{} has no {key}", span.name))
    };
    assert_eq!(attribute(&way[0].1, "millwright.machine"), Value::StringValue("m1".into()));
    assert_eq!(attribute(&way[3].1, "millwright.agent"), Value::StringValue("gateway-1".into()));
    for (_, span) in &way {
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{}", span.name);
    }
    agent.stops_cleanly();
    processor.stops_cleanly();
    server.stop().await;
}
