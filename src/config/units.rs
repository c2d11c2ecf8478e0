//! Values as people write them: numbers with units, yes and no.

/// A count, or octets with a unit: `1000`, `64k`, `64KiB`, `1.5`-style fractions excluded.
///
/// As in RabbitMQ, `k`, `M`, `G` and `KiB`, `MiB`, `GiB` are powers of 1024, `kB`, `MB`, `GB` of
/// 1000; letter case does not matter except for that difference.
pub(super) fn octets(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| "a number is expected".to_owned())?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        unit => return Err(format!("unit '{unit}' is not known")),
    };
    number
        .checked_mul(factor)
        .ok_or_else(|| "is too great".to_owned())
}

/// A whole number from `min` to `max`.
pub(super) fn number(text: &str, min: u64, max: u64) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        Ok(_) => Err(format!("must be from {min} to {max}")),
        Err(_) => Err(format!("a whole number from {min} to {max} is expected")),
    }
}

/// `true`/`on`/`yes` or `false`/`off`/`no`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "on" | "yes" => Ok(true),
        "false" | "off" | "no" => Ok(false),
        _ => Err("'on' or 'off' is expected".to_owned()),
    }
}

/// A level as RabbitMQ or `env_logger` names it, as a filter of the latter.
pub(super) fn log_level(text: &str) -> Result<String, String> {
    let level = match text.to_ascii_lowercase().as_str() {
        "none" | "off" => "off",
        "critical" | "error" => "error",
        "warning" | "warn" => "warn",
        "notice" | "info" => "info",
        "debug" => "debug",
        "trace" => "trace",
        _ => return Err("one of off, error, warn, info, debug, trace is expected".to_owned()),
    };
    Ok(level.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_read_with_and_without_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1000", Some(1000)),
            ("64k", Some(65_536)),
            ("64KiB", Some(65_536)),
            ("64 KB", Some(64_000)),
            ("1GiB", Some(1 << 30)),
            ("2MB", Some(2_000_000)),
            ("", None),
            ("-1", None),
            ("1.5M", None),
            ("12 apples", None),
            ("99999999999999999999", None),
            ("18446744073709551615k", None),
        ] {
            assert_eq!(octets(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn switches_levels_and_numbers() {
        assert_eq!(switch("on"), Ok(true));
        assert_eq!(switch("false"), Ok(false));
        assert!(switch("maybe").is_err());
        assert_eq!(log_level("Warning"), Ok("warn".to_owned()));
        assert!(log_level("loud").is_err());
        assert_eq!(number("7", 0, 7), Ok(7));
        assert!(number("8", 0, 7).is_err() && number("x", 0, 7).is_err());
    }
}
