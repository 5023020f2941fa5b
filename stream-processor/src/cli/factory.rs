//! The embedded factory in the terminal.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::pending,
    io::{BufWriter, stdout},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use clap::Args;
use proto::wire::alert::{Alert, AlertState};
use tokio::sync::watch;

use super::{EXIT_CONFIG, EXIT_FAILED, Signals, fail};
use crate::{
    alert::text,
    embedded::{
        Factory, FactoryConfig, Status,
        report::{Progress, banner, say},
        s3::room,
        state::Phase,
        truth,
    },
    serve::board::{Board, Cursor, Since, View},
    telemetry,
};

const GIB_BITS: u32 = 30;

/// To standard output.
pub fn truth(data: &Path, days_ahead: u32) -> ExitCode {
    match truth::write(data, days_ahead, &mut BufWriter::new(stdout().lock())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e.to_string(), EXIT_FAILED),
    }
}

#[derive(Debug, Args)]
pub struct Options {
    /// Folder that holds everything the factory keeps
    #[arg(long, default_value = "data")]
    data: PathBuf,
    /// Address of the MQTT broker
    #[arg(long, default_value = "127.0.0.1:1883")]
    mqtt: SocketAddr,
    /// Address of the S3 endpoint
    #[arg(long, default_value = "127.0.0.1:9000")]
    s3: SocketAddr,
    /// Address of the gRPC services
    #[arg(long, default_value = "127.0.0.1:50051")]
    grpc: SocketAddr,
    /// Address of REST, console and metrics
    #[arg(long, default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// Plant seconds per second, once it is live
    #[arg(long, default_value_t = 3600.0, value_parser = speed)]
    speed: f64,
    /// Days of history at the very first start
    #[arg(long, default_value_t = 42, value_parser = clap::value_parser!(u32).range(1..=365))]
    history_days: u32,
    /// So many days after going live the plant becomes another one, to show what follows from that: hotter air, and parts
    /// that wear otherwise; never unless given. At the very first start
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=365))]
    change_after_days: Option<u32>,
    /// Leave retraining to others, such as `retraining-trigger`
    #[arg(long)]
    no_retraining: bool,
    /// File with the token that writes need; must be given to bind --grpc or --http beyond this machine
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// What the archive in the data folder may hold, GiB; beyond it the gateways keep what comes
    #[arg(long, default_value_t = room::BYTES_MAX >> GIB_BITS, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    data_gib_max: u64,
    /// Of the simulated plant, at the very first start
    #[arg(long)]
    seed: Option<u64>,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|_| "must be a number".to_string())?;
    if speed > 0.0 && speed <= 100_000.0 { Ok(speed) } else { Err("must be above 0 and at most 100000".into()) }
}

pub async fn main(options: Options) -> ExitCode {
    telemetry::init_logs("warn");
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(e) => return fail(&format!("cannot listen for signals: {e}"), 1),
    };
    let Options { data, mqtt, s3, grpc, http, speed, history_days, token_file, data_gib_max, seed, .. } = options;
    let (change_after_days, retrains) = (options.change_after_days, !options.no_retraining);
    let shown = data.display().to_string();
    let data_bytes_max = data_gib_max << GIB_BITS;
    let plant = FactoryConfig::default();
    let plant = FactoryConfig { change_after_days, retrains, ..plant };
    let config =
        FactoryConfig { data, mqtt, s3, grpc, http, speed, history_days, token_file, data_bytes_max, seed, ..plant };
    if let Err(e) = config.check() {
        return fail(&e.to_string(), EXIT_CONFIG);
    }
    let started = tokio::select! {
        started = Factory::start(config) => started,
        () = signals.asked_to_stop() => {
            say("  stopped before anything had begun", true);
            return ExitCode::SUCCESS;
        }
    };
    let factory = match started {
        Ok(factory) => factory,
        Err(e) => return fail(&e.to_string(), 1),
    };
    say(&banner(&factory.addresses, &shown, speed), true);
    let code = tokio::select! {
        () = signals.asked_to_stop() => ExitCode::SUCCESS,
        reason = factory.failed() => fail(&reason, 1),
        never = show(factory.status(), factory.board.clone()) => match never {},
    };
    say("\n  stopping: what the gateways hold drains first", true);
    let began = Instant::now();
    signals.force_the_stop();
    if let Err(e) = factory.stop().await {
        return fail(&e.to_string(), 1);
    }
    say(&format!("  stopped in {:.1} s; the next start goes on from here", began.elapsed().as_secs_f64()), true);
    code
}

/// Progress of the phases, then alerts.
async fn show(mut status: watch::Receiver<Status>, board: Board) -> Infallible {
    let mut bar: Option<(Phase, Progress, String)> = None;
    loop {
        let now = status.borrow_and_update().clone();
        if bar.as_ref().is_some_and(|(phase, ..)| *phase != now.phase)
            && let Some((_, progress, detail)) = bar.take()
        {
            progress.done(&detail);
        }
        match now.phase {
            Phase::Live => break,
            phase => {
                let name = if phase == Phase::History { "history" } else { "training" };
                let (_, progress, detail) = bar.get_or_insert_with(|| (phase, Progress::new(name), String::new()));
                progress.show(now.done, &now.detail);
                detail.clone_from(&now.detail);
            }
        }
        if status.changed().await.is_err() {
            return pending().await;
        }
    }
    say("  live      alerts follow as they come; first the open ones", true);
    alerts(board).await
}

async fn alerts(board: Board) -> Infallible {
    let mut changed = board.follow_alerts();
    let mut printed = Printed::default();
    loop {
        let (missed, news) = printed.news(&board.read());
        if missed > 0 {
            say(&format!("  ... {missed} alert events went by too fast to print"), true);
        }
        news.iter().for_each(|alert| say(&format!("  {}", text::line(alert)), true));
        if changed.changed().await.is_err() {
            return pending().await;
        }
    }
}

/// What is on the terminal already. Only a change of state is news: every update of a probability would scroll the
/// rest away.
#[derive(Default)]
struct Printed {
    seen: Cursor,
    /// Of those that are not closed, by id.
    states: HashMap<String, AlertState>,
}

impl Printed {
    /// At first all open ones; then what changed. Also how many events were missed: the open ones stand in for them.
    fn news(&mut self, view: &View) -> (u64, Vec<Arc<Alert>>) {
        let open = || view.open.values().cloned().collect();
        let (missed, alerts): (u64, Vec<Arc<Alert>>) = match view.alerts_since(self.seen) {
            Since::Events(events) => (0, events.into_iter().map(|(_, alert)| alert).collect()),
            Since::Missed(count) => (count, open()),
            Since::Other => (0, open()),
        };
        self.seen = view.alert_cursor();
        let news = alerts.into_iter().filter(|alert| match alert.state() {
            AlertState::Closed => self.states.remove(&alert.id).is_some(),
            state => self.states.insert(alert.id.clone(), state) != Some(state),
        });
        (missed, news.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(id: &str, state: AlertState, updated_ms: i64, provisional: bool) -> Alert {
        Alert { id: id.into(), state: state.into(), updated_ms, provisional, ..Default::default() }
    }

    #[test]
    fn the_open_ones_come_first_whatever_happened_to_them_and_then_only_changes_of_state() {
        use AlertState::{Acknowledged, Closed, Open};
        let board = Board::new();
        board.begin(3, vec![alert("a", Open, 9, false), alert("b", Acknowledged, 9, false)], vec![]);
        let mut printed = Printed::default();
        let mut news = || {
            let (missed, news) = printed.news(&board.read());
            assert_eq!(missed, 0);
            news.iter().map(|a| (a.id.clone(), a.state())).collect::<Vec<_>>()
        };
        assert_eq!(news(), [("a".into(), Open), ("b".into(), Acknowledged)]);
        board.publish_alerts(&[alert("a", Open, 10, true), alert("a", Acknowledged, 11, false)]);
        board.publish_alerts(&[alert("c", Open, 12, true), alert("c", Open, 12, false)]);
        assert_eq!(news(), [("a".into(), Acknowledged), ("c".into(), Open)]);
        board.publish_alerts(&[alert("c", Closed, 13, true), alert("c", Closed, 13, false)]);
        assert_eq!(news(), [("c".into(), Closed)]);
        assert_eq!(news(), []);
    }
}
