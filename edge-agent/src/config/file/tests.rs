use super::*;

const GOOD: &str = r#"
site = "mill"
agent = "gw-1"
data = "spool"

[mqtt]
url = "mqtt://broker:1884"

[[source]]
type = "simulator"
"#;

fn load(text: &str) -> Result<Gateway, String> {
    Gateway::parse("gateway.toml", text, PathBuf::from("/etc/mill")).map_err(|e| e.to_string())
}

#[test]
fn a_short_file_is_enough() {
    let gateway = load(GOOD).unwrap();
    assert_eq!((gateway.agent.mqtt.host.as_str(), gateway.agent.mqtt.port), ("broker", 1884));
    assert_eq!(gateway.agent.data, PathBuf::from("/etc/mill/spool"));
    assert_eq!(gateway.clock, PlantClock::WALL);
    assert_eq!(gateway.agent.spool, SpoolConfig::default());
}

#[test]
fn what_is_wrong_is_said_in_one_line_with_file_key_and_what_is_allowed() {
    let cases = [
        (GOOD.replace("data =", "date ="), "unknown field `date`"),
        (GOOD.replace("mqtt://broker:1884", "broker"), "`mqtt.url`: `broker` is not mqtt://host:port"),
        (GOOD.replace("mqtt://", "mqtts://"), "`mqtt.ca_file`: is needed"),
        (GOOD.replace("gw-1", "gw/1"), "`agent`: `gw/1` is not a valid name"),
        (GOOD.replace("\"simulator\"", "\"magic\""), "unknown variant `magic`"),
        (format!("{GOOD}\n[serve]\nmetrics = \"here\""), "`metrics`: invalid socket address"),
        (format!("{GOOD}\n[batch]\nflush_ms = 1"), "`batch.flush_ms`: 1 is not within 10 to"),
        (format!("{GOOD}\n[batch]\nflush_ms = \"1s\""), "`flush_ms`: invalid type"),
        (format!("{GOOD}\n[spool]\nbytes_max = 1000"), "`spool.bytes_max`: 1000 is not within"),
        (
            format!("{GOOD}\n[clock]\nwall_origin_ms = 0\nplant_origin = 0\nspeed = 0.0"),
            "`clock.speed`: must be above 0",
        ),
    ];
    for (text, expected) in cases {
        let error = load(&text).unwrap_err();
        assert!(error.starts_with("gateway.toml:") && error.contains(expected), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn broker_addresses() {
    let plain = |host: &str, port| Some((host.to_owned(), port, false));
    assert_eq!(address("mqtt://a"), plain("a", 1883));
    assert_eq!(address("mqtt://10.0.0.1:99"), plain("10.0.0.1", 99));
    assert_eq!(address("mqtt://[::1]:99"), plain("::1", 99));
    assert_eq!(address("mqtt://[::1]"), plain("::1", 1883));
    assert_eq!(address("mqtts://a"), Some(("a".into(), 8883, true)));
    for bad in
        ["a:1883", "http://a", "mqtt://", "mqtt://a:b", "mqtt://a:99999", "mqtt://u@a", "mqtt://a/b", "mqtt://::1"]
    {
        assert_eq!(address(bad), None, "{bad}");
    }
}
