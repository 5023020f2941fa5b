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

const REPLAY: &str = r#"
[[source]]
type = "replay"
files = ["pumps.csv"]
kind = "pump"
time = { column = 1, format = "unix_s" }
machine = { id = "pump-1" }
sensors = [
    { column = 2, sensor = "p", unit = "psi" },
]
"#;

const MODBUS: &str = r#"
[[source]]
type = "modbus"
url = "tcp://10.0.0.5"
interval_ms = 500
[[source.machines]]
id = "press-1"
kind = "press"
sensors = [
    { sensor = "t", unit = "C", at = { table = "input", address = 1, type = "f32" } },
]
"#;

fn load(text: &str) -> Result<Gateway, String> {
    Gateway::parse("gateway.toml", text, PathBuf::from("/etc/mill")).map_err(|e| e.to_string())
}

#[test]
fn a_short_file_is_enough() {
    let gateway = load(GOOD).unwrap();
    assert_eq!((gateway.agent.mqtt.host.as_str(), gateway.agent.mqtt.port), ("broker", 1884));
    assert_eq!(gateway.agent.data, PathBuf::from("/etc/mill/spool"));
    assert_eq!(gateway.clock, ClockConfig::default());
    assert_eq!(gateway.agent.spool, SpoolConfig::default());
}

#[test]
fn what_is_wrong_is_said_in_one_line_with_file_key_and_what_is_allowed() {
    let cases = [
        (GOOD.replace("data =", "date ="), "unknown field `date`"),
        (GOOD.replace("mqtt://broker:1884", "broker"), "`mqtt.url`: `broker` is not mqtt://host:port"),
        (GOOD.replace("mqtt://", "mqtts://"), "`mqtt.ca_file`: is needed"),
        (GOOD.replace("gw-1", "gw/1"), "`agent`: `gw/1` is not a valid name"),
        (
            GOOD.replace("\"simulator\"", "\"magic\""),
            "gateway.toml:10: `type`: unknown variant `magic`, expected one of `simulator`, `replay`, `modbus`",
        ),
        (
            GOOD.replace("type =", "kind ="),
            "gateway.toml:9: missing field `type`, expected `simulator`, `replay`, `modbus`",
        ),
        (GOOD.replace("data = \"spool\"\n", ""), "gateway.toml: missing field `data`"),
        (GOOD.replace("url = \"mqtt://broker:1884\"\n", ""), "gateway.toml:6: missing field `url`"),
        (GOOD.split("[[").next().unwrap().into(), "`source`: at least one [[source]] is needed"),
        (format!("{GOOD}speed = 3"), "gateway.toml:11: unknown field `speed`"),
        (
            format!("{GOOD}{REPLAY}").replace("\"psi\"", "\"PSI\""),
            "gateway.toml:19: `unit`: unknown variant `PSI`, expected one of `C`, ",
        ),
        (format!("{GOOD}{REPLAY}").replace("sensor = \"p\", ", ""), "gateway.toml:19: missing field `sensor`"),
        (format!("{GOOD}{REPLAY}").replace("kind = \"pump\"\n", ""), "gateway.toml:12: missing field `kind`"),
        (
            format!("{GOOD}{REPLAY}").replace("\"unix_s\"", "\"s\""),
            "gateway.toml:16: `format`: unknown variant `s`, expected one of `date_time`",
        ),
        (
            format!("{GOOD}{MODBUS}").replace("table", "tabel"),
            "gateway.toml:20: `at`: unknown field `tabel`, expected one of `unit_id`",
        ),
        (
            format!("{GOOD}{MODBUS}").replace("\"f32\"", "\"float\""),
            "gateway.toml:20: `type`: unknown variant `float`, expected",
        ),
        (format!("{GOOD}{MODBUS}").replace("kind = \"press\"", ""), "gateway.toml:16: missing field `kind`"),
        (format!("{GOOD}{MODBUS}speed = 1"), "gateway.toml:22: unknown field `speed`"),
        (
            format!("{GOOD}{MODBUS}").replace("interval_ms = 500", "intervall = 1"),
            "gateway.toml:15: unknown field `intervall`",
        ),
        (format!("{GOOD}[publish]\nbytes_per_second = 5"), "`publish.bytes_per_second`: 5 is not within"),
        (format!("{GOOD}[publish]\nbatches_per_second = 0"), "`publish.batches_per_second`: 0 is not within 1 to"),
        (format!("{GOOD}[clock]\nstart = \"2015\""), "gateway.toml:12: `start`: invalid value"),
        (format!("{GOOD}[clock]\nstart = 5\nplant_origin = 5"), "`clock.start`: does not go with"),
        (format!("{GOOD}\n[serve]\nmetrics = \"here\""), "`metrics`: invalid socket address"),
        (format!("{GOOD}\n[batch]\nflush_ms = 1"), "`batch.flush_ms`: 1 is not within 10 to"),
        (format!("{GOOD}\n[batch]\nflush_ms = \"1s\""), "`flush_ms`: invalid type"),
        (format!("{GOOD}\n[spool]\nbytes_max = 1000"), "`spool.bytes_max`: 1000 is not within"),
        (
            format!("{GOOD}\n[spool]\nfree_bytes_min = 2000000000000"),
            "`spool.free_bytes_min`: 2000000000000 is not within",
        ),
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
fn a_replay_at_a_chosen_speed_needs_a_start_and_a_speed() {
    let gateway = load(&format!("{GOOD}{REPLAY}[clock]\nstart = \"2015-01-01T00:00:00Z\"\nspeed = 60\n")).unwrap();
    assert_eq!((gateway.sources.len(), gateway.clock.speed), (2, 60.0));
    assert_eq!(gateway.clock.start, proto::time::parse_date_time("2015-01-01 00:00:00"));
}

#[test]
fn what_a_running_agent_cannot_change_is_named() {
    let gateway = load(GOOD).unwrap();
    let fixed = |text: &str| gateway.needs_restart(&load(text).unwrap());
    for (text, key) in [
        (GOOD.replace("gw-1", "gw-2"), "agent"),
        (GOOD.replace("\"mill\"", "\"moon\""), "site"),
        (GOOD.replace("\"spool\"", "\"other\""), "data"),
        (GOOD.replace(":1884", ":1885"), "mqtt"),
        (format!("{GOOD}[clock]\nstart = \"2015-01-01T00:00:00Z\""), "clock"),
        (format!("{GOOD}[serve]\nmetrics = \"127.0.0.1:1\""), "serve"),
    ] {
        assert_eq!(fixed(&text), Some(key));
    }
    let limits = "[batch]\nflush_ms = 20\n[spool]\nbytes_max = 100000000\n[publish]\nbatches_per_second = 5";
    assert_eq!(fixed(&format!("{GOOD}machines = 3\n{limits}")), None);
    let changed = load(&format!("{GOOD}{limits}")).unwrap();
    assert_eq!(changed.agent.window.batches_per_second, 5);
}
