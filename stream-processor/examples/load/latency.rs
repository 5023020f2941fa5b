//! How long a prediction takes: from the sending of the batch that its window waited for to its arrival by gRPC.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use proto::wire::prediction::{
    Prediction, StreamPredictionsRequest, prediction_service_client::PredictionServiceClient,
    stream_predictions_response::Event,
};

use crate::{
    gateway::Seen,
    network::LATENESS_MS,
    traffic::{FLUSH_MS, Traffic},
};

/// Of all predictions that came so far.
#[derive(Debug, Default)]
pub struct Latencies(pub Vec<Duration>);

impl Latencies {
    /// None before the first.
    pub fn quantiles<const N: usize>(&self, quantiles: [f64; N]) -> Option<[Duration; N]> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        Some(quantiles.map(|q| sorted[((sorted.len() as f64 * q) as usize).min(last)]))
    }
}

/// Follows the stream of predictions for ever.
pub async fn follow(
    grpc: SocketAddr,
    traffic: Traffic,
    gateways: Vec<Rc<RefCell<Seen>>>,
    into: Rc<RefCell<Latencies>>,
) -> anyhow::Result<()> {
    let mut client = PredictionServiceClient::connect(format!("http://{grpc}")).await?;
    let mut predictions = client.stream_predictions(StreamPredictionsRequest::default()).await?.into_inner();
    while let Some(response) = predictions.message().await? {
        let arrived = Instant::now();
        if let Some(Event::Prediction(prediction)) = response.event
            && let Some(sent) = sent_at(&prediction, &traffic, &gateways)
        {
            into.borrow_mut().0.push(arrived - sent);
        }
    }
    anyhow::bail!("the stream of predictions ended")
}

/// When the batch was sent whose seal closed the prediction's window.
fn sent_at(prediction: &Prediction, traffic: &Traffic, gateways: &[Rc<RefCell<Seen>>]) -> Option<Instant> {
    let gateway = gateways.get(gateway_of(&prediction.machine)?)?;
    let batches = (prediction.window_end_ms + LATENESS_MS - traffic.origin_ms) / FLUSH_MS;
    gateway.borrow().sent_at.get(usize::try_from(batches).ok()?.checked_sub(1)?).copied()
}

/// By the names of the traffic.
fn gateway_of(machine: &str) -> Option<usize> {
    machine.strip_prefix("machine-")?.split_once('-')?.0.parse().ok()
}
