use super::*;

fn build_from(url: &str, at: &str) -> Result<Box<dyn Source>, String> {
    let text = format!(
        r#"
        {url}
        [[machines]]
        id = "press-1"
        kind = "press"
        sensors = [{{ sensor = "a", unit = "1", at = {{ {at} }} }}]
        "#
    );
    let config: ModbusConfig = toml::from_str(&text).map_err(|e| e.message().to_owned())?;
    build(&config).map_err(|e| e.to_string())
}

#[test]
fn a_place_that_no_device_has_is_refused() {
    let (url, at) = ("url = 'tcp://10.0.0.5'", "table = 'holding', address = 0");
    for (url, at, said) in [
        ("url = '10.0.0.5:502'", at, "source.url: `10.0.0.5:502` is not tcp://host:port or rtu:///dev/"),
        ("url = 'tcp://10.0.0.5:port'", at, "has a port that is no number"),
        ("url = 'rtu://ttyUSB0'", at, "is not tcp://host:port or rtu:///dev/"),
        ("url = 'tcp://h'\nserial = { baud = 9600 }", at, "has no `serial`"),
        ("url = 'rtu:///dev/ttyUSB0'\nserial = { baud = 1 }", at, "at 1 baud"),
        ("url = 'rtu:///dev/ttyUSB0'\nserial = { stop_bits = 3 }", at, "with 3 stop bits"),
        ("url = 'rtu:///dev/ttyUSB0'\nserial = { parity = 'mark' }", at, "unknown variant `mark`"),
        ("url = 'tcp://h'\ninterval_ms = 1", at, "source.interval_ms: 1 is not within 10 to 3600000"),
        ("url = 'tcp://h'\ntimeout_ms = 0", at, "source.timeout_ms: 0 is not within"),
        (url, "table = 'coil', address = 0, type = 'u16'", "`press-1`, `a`: a coil or discrete input is a bool"),
        (url, "table = 'holding', address = 65535, type = 'f32'", "address 65535 leaves no room for its type"),
        (url, "table = 'holding', address = 65536", "invalid value: integer `65536`"),
        (url, "table = 'holding', adress = 1", "unknown field `adress`"),
        (url, "table = 'register', address = 1", "unknown variant `register`, expected one of `coil`"),
    ] {
        let error = build_from(url, at).err().unwrap();
        assert!(error.contains(said), "{error}");
    }
    for url in ["tcp://plc", "tcp://plc:1502", "tcp://[::1]", "tcp://[::1]:502", "rtu:///dev/ttyS0"] {
        assert!(build_from(&format!("url = '{url}'"), at).is_ok(), "{url}");
    }
}

#[test]
fn a_block_that_is_shorter_than_asked_is_no_value() {
    let span = Span { unit_id: 1, table: Table::Input, address: 12, count: 2 };
    let point = Point { machine: 0, span, number: Number::U32, words: Order::Big, bytes: Order::Big };
    let block = Span { address: 10, count: 4, ..span };
    assert_eq!(point.reading(block, &Ok(vec![9, 9, 1, 2])), Reading::good(65_538.0));
    assert_eq!(point.reading(block, &Ok(vec![9, 9, 1])).reason, QualityReason::Unreadable);
    assert_eq!(point.reading(block, &Err(Fault::Refused)).reason, QualityReason::DeviceError);
}
