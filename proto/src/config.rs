//! Reads a TOML configuration strictly, and says in one line what is wrong: file, line, key, what is allowed.

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

    /// An error about the file, or one whose reason names the key itself.
    pub fn whole(file: &str, reason: impl Into<String>) -> Self {
        ConfigError { file: file.into(), line: None, key: String::new(), reason: reason.into() }
    }
}

/// Parses `text`, which came from `file`. Unknown keys are refused where `T` denies them.
pub fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|e| {
        let at = e.span().map_or(0, |s| s.start.min(text.len()));
        let before = text.get(..at).unwrap_or("");
        let line = before.matches('\n').count();
        let key = text.lines().nth(line).and_then(|l| l.split_once('=')).map(|(k, _)| k.trim()).unwrap_or("");
        let reason = e.message().replace('\n', " ");
        let key =
            if key.is_empty() || reason.contains(&format!("`{key}`")) { String::new() } else { format!("`{key}`: ") };
        ConfigError { file: file.into(), line: Some(line + 1), key, reason }
    })
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
    }

    fn message(text: &str) -> String {
        parse::<Example>("a.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn errors_are_one_line_with_file_line_key_and_what_is_allowed() {
        let unknown = message("unit = \"C\"\nspeed = 3\naddress = \"127.0.0.1:1\"\n");
        assert_eq!(unknown, "a.toml:2: unknown field `speed`, expected `unit` or `address`");
        let unit = message("unit = \"Celsius\"\naddress = \"127.0.0.1:1\"\n");
        assert!(unit.starts_with("a.toml:1: `unit`: unknown variant `Celsius`, expected one of `C`, `F`"), "{unit}");
        let address = message("unit = \"C\"\naddress = \"localhost\"\n");
        assert_eq!(address, "a.toml:2: `address`: invalid socket address syntax");
        for text in ["", "unit", "unit = ", "[", "unit = \"C\""] {
            assert!(!message(text).contains('\n'), "{text}");
        }
    }
}
