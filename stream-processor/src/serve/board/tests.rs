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
    board.begin(1, vec![]);
    let start = board.read().alert_cursor();
    board.publish_alerts(&[alert("a", AlertState::Open), alert("b", AlertState::Open)]);
    assert_eq!(ids(board.read().alerts_since(start)), ["a", "b"]);
    board.begin(2, vec![alert("a", AlertState::Open)]);
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
