use super::*;

fn alert(id: &str, state: AlertState) -> Alert {
    Alert { id: id.into(), machine: "press-1".into(), state: state.into(), provisional: true, ..Default::default() }
}

fn ids(since: Since<Alert>) -> Vec<String> {
    match since {
        Since::Events(events) => events.iter().map(|(_, alert)| alert.id.clone()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn tokens_survive_their_text() {
    let cursor = Cursor { incarnation: 3, number: 17 };
    assert_eq!(cursor.to_string().parse(), Ok(cursor));
    for bad in ["", "3", "3-", "-1", "a-b", "1-2-3"] {
        assert_eq!(bad.parse::<Cursor>(), Err(InvalidToken), "{bad}");
    }
}

#[test]
fn a_cursor_resumes_within_its_incarnation_only() {
    let board = Board::new();
    board.begin(1, vec![], vec![]);
    let start = board.read().alert_cursor();
    board.publish_alerts(&[alert("a", AlertState::Open), alert("b", AlertState::Open)]);
    assert_eq!(ids(board.read().alerts_since(start)), ["a", "b"]);
    board.begin(2, vec![alert("a", AlertState::Open)], vec![]);
    assert!(matches!(board.read().alerts_since(start), Since::Other));
    assert_eq!(board.read().open.keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn closed_alerts_leave_the_open_ones_and_are_bounded() {
    let board = Board::new();
    board.publish_alerts(&[alert("a", AlertState::Open), alert("a", AlertState::Closed)]);
    assert!(board.read().open.is_empty());
    let many: Vec<_> = (0..CLOSED_ALERTS_MAX).map(|n| alert(&n.to_string(), AlertState::Closed)).collect();
    board.publish_alerts(&many);
    assert_eq!(board.read().closed.len(), CLOSED_ALERTS_MAX);
    assert!(board.read().closed.iter().all(|c| c.id != "a"));
}

#[test]
fn a_commit_confirms_what_was_in_it_and_no_later_change() {
    let board = Board::new();
    let committed = board.publish_alerts(&[alert("a", AlertState::Open), alert("b", AlertState::Open)]);
    board.publish_alerts(&[alert("b", AlertState::Acknowledged)]);
    let cursor = board.read().alert_cursor();
    board.confirm_alerts(committed);
    assert_eq!(ids(board.read().alerts_since(cursor)), ["a"]);
    assert!(!board.read().open["a"].provisional);
    assert!(board.read().open["b"].provisional);
    // Nothing is confirmed twice.
    let cursor = board.read().alert_cursor();
    board.confirm_alerts(committed);
    assert!(ids(board.read().alerts_since(cursor)).is_empty());
}

/// S3 was away while more alerts changed than clients can ask for afterwards.
#[test]
fn a_commit_confirms_what_the_ring_has_forgotten() {
    let board = Board::new();
    board.publish_alerts(&[alert("first", AlertState::Open), alert("ended", AlertState::Closed)]);
    let many: Vec<_> = (0..=ALERT_EVENTS_MAX).map(|n| alert(&(n % 50).to_string(), AlertState::Open)).collect();
    let committed = board.publish_alerts(&many);
    board.confirm_alerts(committed);
    let view = board.read();
    assert!(view.open.values().chain(&view.closed).all(|alert| !alert.provisional));
    assert_eq!((view.open.len(), view.closed.len()), (51, 1));
}

#[test]
fn alerts_that_closed_before_a_restart_are_listed_after_it() {
    let board = Board::new();
    board.begin(2, vec![], vec![alert("a", AlertState::Closed), alert("b", AlertState::Closed)]);
    let (open, closed) = board.read().alerts(true);
    let closed: Vec<_> = closed.iter().map(|alert| (alert.id.as_str(), alert.provisional)).collect();
    assert_eq!((open.len(), closed), (0, vec![("b", false), ("a", false)]));
}

#[test]
fn ready_when_nothing_is_waited_for() {
    let board = Board::new();
    let ready = board.follow_ready();
    board.set_part(Part::Broker, None);
    board.set_part(Part::Archive, None);
    assert!(!*ready.borrow());
    board.set_part(Part::Recovery, None);
    assert!(*ready.borrow());
    board.set_part(Part::Broker, Some("connection refused".into()));
    assert!(!*ready.borrow());
}

#[test]
fn an_older_window_does_not_replace_a_newer_one() {
    let board = Board::new();
    let at = |end| Prediction { machine: "press-1".into(), window_end_ms: end, ..Default::default() };
    board.publish_predictions(&[at(20), at(10)]);
    let view = board.read();
    assert_eq!(view.machines["press-1"].prediction.as_ref().unwrap().window_end_ms, 20);
    assert!(matches!(view.predictions_since(Cursor::default()), Since::Events(events) if events.len() == 2));
}

#[test]
fn what_was_recovered_is_certain_and_of_this_incarnation() {
    let board = Board::new();
    board.begin(7, vec![alert("a", AlertState::Open)], vec![]);
    let view = board.read();
    assert_eq!((view.open["a"].provisional, view.open["a"].incarnation), (false, 7));
}

#[test]
fn machines_of_earlier_incarnations_are_there_at_once_and_keep_what_is_known_of_them() {
    let board = Board::new();
    let name = |text: &str| AssetId::new(text).unwrap();
    let agent = AgentKey { site: name("mill"), agent: name("gateway-1") };
    let (press, kind, stranger) = (name("press-1"), name("press"), name("stranger"));
    board.recall([(&press, Some(&kind), Some(&agent)), (&stranger, None, None)].into_iter());
    let window = |machine: &AssetId| WindowFeatures {
        machine: machine.clone(),
        kind: kind.clone(),
        start: PlantTime(0),
        end: PlantTime(1),
        generation: 0,
        revision: 0,
        sensors: vec![],
        features: vec![],
        normal: vec![],
    };
    board.publish_windows(&[window(&press)]);
    let view = board.read();
    let entry = &view.machines["press-1"];
    assert_eq!(
        (entry.kind.as_str(), entry.agent.as_ref(), entry.window_end),
        ("press", Some(&agent), Some(PlantTime(1)))
    );
    assert!(view.machines.contains_key("stranger"));
}

#[test]
fn a_glance_stays_as_it_was_taken() {
    let board = Board::new();
    let at = |end| Prediction { machine: "press-1".into(), window_end_ms: end, ..Default::default() };
    board.publish_predictions(&[at(10)]);
    let before = board.read().glance(None);
    board.publish_predictions(&[at(20)]);
    let after = board.read().glance(Some(before.version));
    let end = |glance: &Glance| glance.machines[0].prediction.as_ref().unwrap().window_end_ms;
    assert_eq!((end(&before), end(&after)), (10, 20));
    assert!(board.read().glance(Some(after.version)).machines.is_empty());
}

#[test]
fn a_revision_replaces_what_is_shown_of_its_window_and_nothing_newer() {
    let board = Board::new();
    let told =
        |end, revision| Prediction { machine: "press-1".into(), window_end_ms: end, revision, ..Default::default() };
    board.publish_predictions(&[told(10, 0), told(20, 0), told(10, 1)]);
    let shown = || board.read().machines["press-1"].prediction.as_ref().map(|p| (p.window_end_ms, p.revision));
    assert_eq!(shown(), Some((20, 0)));
    board.publish_predictions(&[told(20, 1)]);
    assert_eq!(shown(), Some((20, 1)));
}

#[test]
fn a_part_that_stays_as_it_is_wakes_nobody() {
    let board = Board::new();
    let mut ready = board.follow_ready();
    board.set_part(Part::Broker, Some("connection refused".into()));
    board.set_part(Part::Broker, None);
    assert!(!ready.has_changed().unwrap());
    board.set_part(Part::Archive, None);
    board.set_part(Part::Recovery, None);
    assert!(*ready.borrow_and_update());
    board.set_part(Part::Recovery, None);
    assert!(!ready.has_changed().unwrap());
}
