//! Reads a TOML configuration strictly, and says in one line what is wrong: file, line, key, what is allowed.

use std::ops::Range;

use serde::de::DeserializeOwned;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {key}{reason}", line.map(|l| format!(":{l}")).unwrap_or_default())]
pub struct ConfigError {
    pub file: String,
    /// From 1; None when the error belongs to no line.
    pub line: Option<usize>,
    /// "`key`: ", or empty when the reason names it.
    key: String,
    reason: String,
}

impl ConfigError {
    /// An error found after parsing, about one key.
    pub fn key(file: &str, key: &str, reason: impl Into<String>) -> Self {
        ConfigError { file: file.into(), line: None, key: format!("`{key}`: "), reason: reason.into() }
    }

    /// An error of a setting whose section has its own check.
    pub fn setting(file: &str, section: &str, key: &str, allowed: &str) -> Self {
        Self::key(file, &format!("{section}.{key}"), format!("allowed: {allowed}"))
    }

    /// An error about the file, or one whose reason names the key itself.
    pub fn whole(file: &str, reason: impl Into<String>) -> Self {
        ConfigError { file: file.into(), line: None, key: String::new(), reason: reason.into() }
    }

    /// An error about the line of `text` on which `span` begins.
    pub fn at(file: &str, text: &str, span: Range<usize>, reason: impl Into<String>) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let reason = reason.into().replace('\n', " ");
        let key = match key_before(before) {
            Some(key) if !reason.contains(&format!("`{key}`")) => format!("`{key}`: "),
            _ => String::new(),
        };
        ConfigError { file: file.into(), line: Some(line), key, reason }
    }

    /// An error of the parser. One that has no place, such as a key that is missing at the top, belongs to the whole.
    pub fn toml(file: &str, text: &str, error: &toml::de::Error) -> Self {
        match error.span().filter(|span| !(span.start == 0 && error.message().starts_with("missing field"))) {
            Some(span) => Self::at(file, text, span, error.message()),
            None => Self::whole(file, error.message().replace('\n', " ")),
        }
    }
}

/// The key whose value begins behind `before`, if it is on the same line. What stands before a key, or a table's
/// header, has none: the error names it or is about the table as a whole.
fn key_before(before: &str) -> Option<&str> {
    let line = before.rsplit('\n').next()?;
    let (left, _) = line.rsplit_once('=')?;
    left.rsplit([' ', '\t', ',', '{', '[']).find(|word| !word.is_empty())
}

/// Parses `text`, which came from `file`. Unknown keys are refused where `T` denies them.
pub fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|e| ConfigError::toml(file, text, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asset::Unit;
    use serde::Deserialize;
    use std::net::SocketAddr;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        #[serde(rename = "unit")]
        _unit: Unit,
        #[serde(rename = "address")]
        _address: SocketAddr,
        #[serde(default, rename = "inner")]
        _inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(rename = "unit")]
        _unit: Unit,
        #[serde(default, rename = "low")]
        _low: f64,
    }

    fn message(text: &str) -> String {
        parse::<Example>("a.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn errors_are_one_line_with_file_line_key_and_what_is_allowed() {
        let unknown = message("unit = \"C\"\nspeed = 3\naddress = \"127.0.0.1:1\"\n");
        assert_eq!(unknown, "a.toml:2: unknown field `speed`, expected one of `unit`, `address`, `inner`");
        let unit = message("unit = \"Celsius\"\naddress = \"127.0.0.1:1\"\n");
        assert!(unit.starts_with("a.toml:1: `unit`: unknown variant `Celsius`, expected one of `C`, `F`"), "{unit}");
        let address = message("unit = \"C\"\naddress = \"localhost\"\n");
        assert_eq!(address, "a.toml:2: `address`: invalid socket address syntax");
        for text in ["", "unit", "unit = ", "[", "unit = \"C\""] {
            assert!(!message(text).contains('\n'), "{text}");
        }
    }

    #[test]
    fn a_missing_key_is_not_blamed_on_another() {
        assert_eq!(message("unit = \"C\"\n"), "a.toml: missing field `address`");
        let top = "unit = \"C\"\naddress = \"127.0.0.1:1\"\n";
        assert_eq!(message(&format!("{top}[[inner]]\nlow = 1.0\n")), "a.toml:3: missing field `unit`");
        let inline = message(&format!("{top}inner = [\n  {{ unit = \"C\" }},\n  {{ low = 2.0 }},\n]\n"));
        assert_eq!(inline, "a.toml:5: missing field `unit`");
    }

    #[test]
    fn a_value_in_an_inline_table_is_named_by_its_own_key() {
        let top = "unit = \"C\"\naddress = \"127.0.0.1:1\"\n";
        let error = message(&format!("{top}inner = [{{ unit = \"C\", low = \"x\" }}, {{ unit = \"F\" }}]\n"));
        assert!(error.starts_with("a.toml:3: `low`: invalid type: string \"x\""), "{error}");
        let error = message(&format!("{top}inner = [\n  {{ low = 1.0, unit = \"Q\" }},\n]\n"));
        assert!(error.starts_with("a.toml:4: `unit`: unknown variant `Q`, expected one of `C`"), "{error}");
    }
}
