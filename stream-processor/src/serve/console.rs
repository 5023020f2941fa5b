//! The crew's page, and the stream that keeps it live.
//!
//! The page gets the state as a whole and then, at a steady beat, what changed since its last one. So a slow phone gets
//! fewer, newer pictures instead of a queue of old ones.

use std::{
    convert::Infallible,
    sync::{Arc, LazyLock},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{
        IntoResponse, Sse,
        sse::{self, KeepAlive},
    },
    routing::get,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    board::{Activity, Board, Cursor, Glance, ProcessorState},
    rest::error::RestError,
    view::{self, AlertView, MachineView},
};
use crate::watch::ModelReport;

const PAGE: &str = include_str!("console.html");
const BEAT: Duration = Duration::from_millis(500);
const CONSOLES_MAX: usize = 256;

/// Nothing is loaded from elsewhere, and nothing runs or is styled that is not in the page as it was built.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let (style, script) = (source_hash("style"), source_hash("script"));
    format!(
        "default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// What the browser computes over the text between the element's tags.
fn source_hash(element: &str) -> String {
    let inside =
        PAGE.split_once(&format!("<{element}>")).and_then(|(_, rest)| rest.split_once(&format!("</{element}>")));
    let (text, _) = inside.unwrap_or_default();
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
}

#[derive(Clone)]
struct Console {
    board: Board,
    needs_token: bool,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

pub fn router(board: Board, needs_token: bool, stop: CancellationToken) -> Router {
    let places = Arc::new(Semaphore::new(CONSOLES_MAX));
    Router::new().route("/", get(page)).route("/events/stream", get(events)).with_state(Console {
        board,
        needs_token,
        places,
        stop,
    })
}

async fn page() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, PAGE)
}

async fn events(
    State(console): State<Console>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, RestError> {
    let full = |_| RestError::new(StatusCode::SERVICE_UNAVAILABLE, "too many consoles are open");
    let place = console.places.clone().try_acquire_owned().map_err(full)?;
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stop = console.stop.clone();
    let reader = Reader { console, seen: None, beat, _place: place };
    let pictures = stream::unfold(reader, |mut reader| async {
        reader.beat.tick().await;
        let event = reader.event();
        Some((Ok(event), reader))
    });
    Ok(Sse::new(pictures.take_until(stop.cancelled_owned())).keep_alive(KeepAlive::default()))
}

struct Reader {
    console: Console,
    seen: Option<Seen>,
    beat: Interval,
    _place: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, PartialEq)]
struct Seen {
    version: u64,
    alerts: Cursor,
}

#[derive(Serialize)]
struct Picture<'a> {
    /// Forget what you had.
    whole: bool,
    #[serde(flatten)]
    state: &'a ProcessorState,
    ready: bool,
    activity: Option<&'a Activity>,
    model: Option<&'a ModelReport>,
    plant_time_ms: i64,
    needs_token: bool,
    /// Those that changed.
    machines: Vec<MachineView>,
    /// All open ones, if there was a change.
    alerts: Option<Vec<AlertView>>,
}

impl Reader {
    fn event(&mut self) -> sse::Event {
        let (seen, glance) = {
            let view = self.console.board.read();
            let seen = self.seen.filter(|s| s.alerts.incarnation == view.incarnation);
            (seen, view.glance(seen.map(|s| s.version)))
        };
        self.seen = Some(Seen { version: glance.version, alerts: glance.alerts });
        let event = sse::Event::default().event("picture");
        let event = event.json_data(picture(&glance, seen, self.console.needs_token));
        event.unwrap_or_else(|_| sse::Event::default().comment("a picture could not be written"))
    }
}

fn picture(glance: &Glance, seen: Option<Seen>, needs_token: bool) -> Picture<'_> {
    Picture {
        whole: seen.is_none(),
        state: &glance.state,
        ready: glance.ready,
        activity: glance.activity.as_ref(),
        model: glance.model.as_deref(),
        plant_time_ms: glance.plant_time.millis(),
        needs_token,
        machines: glance.machines.iter().map(|entry| MachineView::new(entry, glance)).collect(),
        alerts: seen.is_none_or(|s| s.alerts != glance.alerts).then(|| view::open_alerts(&glance.open)),
    }
}
