//! What a line says, and where lines end. Pure.

use serde_json::{Map, Value};

/// A longer line is thrown away up to its end.
pub const LINE_BYTES_MAX: usize = 8 * 1024;

/// Something printed about one sensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    pub name: String,
    /// None: not a number.
    pub value: Option<f64>,
    /// Wall time, ms since the Unix epoch, if the line has one.
    pub time_ms: Option<i64>,
}

/// `name value [unix time in seconds]`, or a JSON object: either `{"name": ..., "value": ..., "time": ...}` or one of
/// names and their values, with or without a "time". An error says what is wrong with it.
pub fn parse(line: &str) -> Result<Vec<Said>, &'static str> {
    let line = line.trim();
    if line.starts_with('{') {
        let object = serde_json::from_str(line).map_err(|_| "is not a JSON object")?;
        return parse_object(object);
    }
    let mut words = line.split_whitespace();
    let (Some(name), Some(value)) = (words.next(), words.next()) else {
        return Err("is not `name value [unix time]`");
    };
    let time_ms = words.next().map(|text| text.parse().ok().and_then(to_ms).ok_or("has no Unix time after the value"));
    if words.next().is_some() {
        return Err("has more than a name, a value and a time");
    }
    Ok(vec![Said { name: name.into(), value: value.parse().ok(), time_ms: time_ms.transpose()? }])
}

fn parse_object(mut object: Map<String, Value>) -> Result<Vec<Said>, &'static str> {
    let time = object.remove("time").filter(|time| !time.is_null());
    let time_ms = time.map(|time| time.as_f64().and_then(to_ms).ok_or("has a \"time\" that is no Unix time"));
    let time_ms = time_ms.transpose()?;
    let said = |name: String, value: &Value| Said { name, value: number(value), time_ms };
    if let (Some(Value::String(name)), Some(value)) = (object.get("name"), object.get("value")) {
        return Ok(vec![said(name.clone(), value)]);
    }
    Ok(object.iter().map(|(name, value)| said(name.clone(), value)).collect())
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::Bool(on) => Some(f64::from(u8::from(*on))),
        _ => None,
    }
}

fn to_ms(seconds: f64) -> Option<i64> {
    let ms = (seconds * 1e3).round();
    (ms.abs() < 1e15).then_some(ms as i64)
}

/// Cuts a stream of bytes into lines, whatever comes.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// The line is too long: the rest of it is not kept.
    skipping: bool,
}

impl Lines {
    /// The lines that end within `bytes`; None stands for one that was too long.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Option<&str>)) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.keep(&bytes[..end]);
            match std::mem::take(&mut self.skipping) {
                true => each(None),
                false => each(Some(&String::from_utf8_lossy(&self.bytes))),
            }
            self.bytes.clear();
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.skipping |= self.bytes.len() + bytes.len() > LINE_BYTES_MAX;
        match self.skipping {
            true => self.bytes.clear(),
            false => self.bytes.extend_from_slice(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn said(name: &str, value: f64, time_ms: Option<i64>) -> Said {
        Said { name: name.into(), value: Some(value), time_ms }
    }

    #[test]
    fn words_and_objects_say_the_same() {
        assert_eq!(parse("p1 3.5"), Ok(vec![said("p1", 3.5, None)]));
        assert_eq!(parse("  p1\t-2e3  1700000000.25 \r"), Ok(vec![said("p1", -2e3, Some(1_700_000_000_250))]));
        let named = r#"{"name": "p1", "value": 3.5, "time": 1700000000}"#;
        assert_eq!(parse(named), Ok(vec![said("p1", 3.5, Some(1_700_000_000_000))]));
        let flat = parse(r#"{"a": 1, "b": true, "time": null}"#).unwrap();
        assert_eq!(flat, [said("a", 1.0, None), said("b", 1.0, None)]);
        assert_eq!(parse("p1 broken").unwrap()[0].value, None);
        assert_eq!(parse(r#"{"p1": null}"#).unwrap()[0].value, None);
    }

    #[test]
    fn what_is_no_reading_is_refused() {
        for line in ["", "p1", "p1 1 today", "p1 1 1e300", "p1 1 5 6", "{", "{\"time\": \"noon\"}", "{\"time\": 1e300}"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn nothing_that_a_program_prints_is_more_than_a_line_that_is_refused() {
        let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        println!("seed {seed}");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let words = [
            "p", " ", "1", "e9", "\n", "{", "}", "\"", "\"p\"", ":", ",", "[", "-", ".", "time", "name", "value",
            "\u{fffd}",
        ];
        let mut lines = Lines::default();
        for _ in 0..20_000 {
            let bytes: Vec<u8> = match rng.random_bool(0.5) {
                true => (0..rng.random_range(0..40)).map(|_| rng.random()).collect(),
                false => {
                    (0..rng.random_range(0..20)).flat_map(|_| words[rng.random_range(0..words.len())].bytes()).collect()
                }
            };
            lines.push(&bytes, |line| {
                for said in line.map(parse).into_iter().flatten().flatten() {
                    assert!(said.time_ms.is_none_or(|ms| ms.abs() < 1_000_000_000_000_000));
                }
            });
        }
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        let long = "x".repeat(LINE_BYTES_MAX + 1);
        let text = format!("a 1\n\n{long}\nb 2\nrest");
        for size in [1, 3, 1_000, 100_000] {
            let (mut lines, mut got) = (Lines::default(), Vec::new());
            for part in text.as_bytes().chunks(size) {
                lines.push(part, |line| got.push(line.map(String::from)));
                assert!(lines.bytes.len() <= LINE_BYTES_MAX);
            }
            let expected = [Some("a 1"), Some(""), None, Some("b 2")].map(|line| line.map(String::from));
            assert_eq!(got, expected, "in pieces of {size}");
        }
    }
}
