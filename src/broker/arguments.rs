//! Arguments of declarations: which are known, what they may be, and when two declarations of the
//! same thing agree. What is unknown is accepted, kept and not compared, as in RabbitMQ.

use super::exception::{Exception, shown};
use super::exchange::ExchangeProperties;
use super::queue::QueueProperties;
use crate::wire::field_table::{FieldTable, FieldValue};

/// Longest time-to-live or expiry in milliseconds that RabbitMQ takes: ten years.
const EXPIRY_MS_MAX: i64 = 315_360_000_000;

/// The text for a queue that another connection owns, or whose `exclusive` differs.
pub(super) fn locked(what: &str) -> Exception {
    Exception::resource_locked(format!(
        "cannot obtain exclusive access to locked {what}. It could be originally declared on \
         another connection or the exclusive property value does not match that of the original \
         declaration."
    ))
}

fn inequivalent(key: &str, what: &str, received: &str, current: &str) -> Exception {
    Exception::precondition_failed(format!(
        "inequivalent arg '{key}' for {what}: received {received} but current is {current}"
    ))
}

fn check_same(
    key: &str,
    what: &str,
    received: &dyn std::fmt::Display,
    current: &dyn std::fmt::Display,
) -> Result<(), Exception> {
    let (received, current) = (format!("'{received}'"), format!("'{current}'"));
    if received == current {
        Ok(())
    } else {
        Err(inequivalent(key, what, &received, &current))
    }
}

fn check_same_argument(
    key: &str,
    what: &str,
    received: FieldTable<'_>,
    current: FieldTable<'_>,
) -> Result<(), Exception> {
    let typed =
        |value: FieldValue<'_>| format!("the value '{value}' of type '{}'", value.type_name());
    match (received.get(key), current.get(key)) {
        (None, None) => Ok(()),
        (Some(received), Some(current)) if received.is_equivalent(current) => Ok(()),
        (Some(received), Some(current)) => Err(inequivalent(
            key,
            what,
            &format!("'{received}'"),
            &format!("'{current}'"),
        )),
        (Some(received), None) => Err(inequivalent(key, what, &typed(received), "none")),
        (None, Some(current)) => Err(inequivalent(key, what, "none", &typed(current))),
    }
}

/// # Errors
/// 406 naming the first property in which two declarations of an exchange differ.
pub(super) fn check_exchange_equivalent(
    what: &str,
    current: &ExchangeProperties,
    received: &ExchangeProperties,
) -> Result<(), Exception> {
    let (had, has) = (current.exchange_type.name(), received.exchange_type.name());
    check_same("type", what, &has, &had)?;
    check_same("durable", what, &received.durable, &current.durable)?;
    check_same(
        "auto_delete",
        what,
        &received.auto_delete,
        &current.auto_delete,
    )?;
    check_same("internal", what, &received.internal, &current.internal)?;
    let (current, received) = (
        FieldTable::stored(&current.arguments),
        FieldTable::stored(&received.arguments),
    );
    check_same_argument("alternate-exchange", what, received, current)
}

/// # Errors
/// 406 for an argument of an exchange that cannot be.
pub(super) fn check_exchange(what: &str, arguments: FieldTable<'_>) -> Result<(), Exception> {
    match arguments.get("alternate-exchange") {
        None | Some(FieldValue::LongString(_)) => Ok(()),
        Some(other) => Err(Exception::precondition_failed(format!(
            "invalid type '{}' for arg 'alternate-exchange' in {what}",
            other.type_name()
        ))),
    }
}

/// Compares a declaration with the queue that is there.
pub(super) struct Equivalence<'a> {
    /// The queue in words.
    pub(super) what: &'a str,
    /// `durable` as it was declared.
    pub(super) declared_durable: bool,
}

impl Equivalence<'_> {
    /// # Errors
    /// 405 when the owner differs, else 406 naming the first difference.
    pub(super) fn check_queue(
        &self,
        current: &QueueProperties,
        received: &QueueProperties,
    ) -> Result<(), Exception> {
        let what = self.what;
        if current.exclusive_to != received.exclusive_to {
            return Err(locked(what));
        }
        let durable = self.declared_durable && received.exclusive_to.is_none();
        check_same("durable", what, &durable, &current.durable)?;
        check_same(
            "auto_delete",
            what,
            &received.auto_delete,
            &current.auto_delete,
        )?;
        let (current, received) = (
            FieldTable::stored(&current.arguments),
            FieldTable::stored(&received.arguments),
        );
        let queue_type = |table: FieldTable<'_>| {
            let given = table
                .get("x-queue-type")
                .and_then(FieldValue::as_long_string);
            shown(given.unwrap_or(b"classic")).into_owned()
        };
        check_same(
            "x-queue-type",
            what,
            &queue_type(received),
            &queue_type(current),
        )?;
        COMPARED
            .iter()
            .try_for_each(|key| check_same_argument(key, what, received, current))
    }
}

/// Arguments of queues in which two declarations must agree.
const COMPARED: [&str; 13] = [
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-single-active-consumer",
    "x-delivery-limit",
    "x-queue-version",
];

/// # Errors
/// 406 naming the argument of a queue that cannot be.
pub(super) fn check_queue(what: &str, arguments: FieldTable<'_>) -> Result<(), Exception> {
    for (key, value) in arguments {
        let Ok(key) = key.as_str() else { continue };
        let invalid = |why: String| {
            Err(Exception::precondition_failed(format!(
                "invalid arg '{key}' for {what}: {why}"
            )))
        };
        let unacceptable = || invalid(format!("{{unacceptable_type,{}}}", value.type_name()));
        match key {
            "x-expires" | "x-message-ttl" | "x-max-length" | "x-max-length-bytes"
            | "x-max-priority" | "x-delivery-limit" => {
                let Some(number) = value.as_integer() else {
                    return invalid(format!("\"expected integer, got {}\"", value.type_name()));
                };
                let is_time = matches!(key, "x-expires" | "x-message-ttl");
                if number < 0 && key != "x-delivery-limit" {
                    return invalid(format!("{{value_negative,{number}}}"));
                } else if number == 0 && key == "x-expires" {
                    return invalid("{value_zero,0}".into());
                } else if is_time && number > EXPIRY_MS_MAX {
                    return invalid(format!("{{value_too_large,{number}}}"));
                } else if key == "x-max-priority" && number > 255 {
                    return invalid(format!("{{max_value_exceeded,{number}}}"));
                }
            }
            "x-dead-letter-exchange" if value.as_long_string().is_none() => {
                return Err(Exception::precondition_failed(format!(
                    "invalid type '{}' for arg '{key}' in {what}",
                    value.type_name()
                )));
            }
            "x-dead-letter-routing-key" => {
                if value.as_long_string().is_none() {
                    return unacceptable();
                }
                if arguments.get("x-dead-letter-exchange").is_none() {
                    return invalid("routing_key_but_no_dlx_defined".into());
                }
            }
            "x-overflow" => match value.as_str() {
                Some("drop-head" | "reject-publish" | "reject-publish-dlx") => {}
                Some(_) => return invalid("invalid_overflow".into()),
                None => return unacceptable(),
            },
            "x-queue-mode" => match value.as_str() {
                Some("default" | "lazy") => {}
                Some(_) => return invalid("invalid_queue_mode".into()),
                None => return unacceptable(),
            },
            "x-single-active-consumer" if value.as_bool().is_none() => {
                return unacceptable();
            }
            "x-queue-type" => match value.as_str() {
                Some("classic" | "quorum") => {}
                Some(other) => return invalid(format!("\"unsupported queue type '{other}'\"")),
                None => return unacceptable(),
            },
            _ => {}
        }
    }
    Ok(())
}

/// # Errors
/// 406 for an argument of a consumer that cannot be.
pub(super) fn check_consumer(what: &str, arguments: FieldTable<'_>) -> Result<(), Exception> {
    match arguments.get("x-priority") {
        Some(value) if value.as_integer().is_none() => {
            Err(Exception::precondition_failed(format!(
                "invalid arg 'x-priority' for {what}: \"expected integer, got {}\"",
                value.type_name()
            )))
        }
        _ => Ok(()),
    }
}

/// Checks the `expiration` property: a whole number of milliseconds as text.
///
/// # Errors
/// 406 with the reason as RabbitMQ words it.
pub(super) fn check_expiration(expiration: &[u8]) -> Result<(), Exception> {
    let text = shown(expiration);
    let invalid = |why: &str| {
        Err(Exception::precondition_failed(format!(
            "invalid expiration '{text}': {why}"
        )))
    };
    let sign = usize::from(matches!(expiration.first(), Some(b'-' | b'+')));
    let digits = text[sign..].bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return invalid("no_integer");
    }
    let (number, rest) = text.split_at(sign + digits);
    if !rest.is_empty() {
        return invalid(&format!("{{leftover_string,\"{rest}\"}}"));
    }
    match number.parse::<i64>() {
        Ok(number) if number < 0 => invalid(&format!("{{value_negative,{number}}}")),
        Ok(number) if number <= EXPIRY_MS_MAX => Ok(()),
        _ => invalid(&format!(
            "{{value_too_large,{}}}",
            number.trim_start_matches('+')
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ShortString;
    use crate::wire::field_table::TableBuilder;

    #[test]
    fn an_expiration_is_a_number_of_milliseconds() {
        let check = |text: &str, expected: Option<&str>| {
            let error = check_expiration(text.as_bytes()).err();
            let expected = expected.map(|why| format!("invalid expiration '{text}': {why}"));
            assert_eq!(error.map(|error| error.explanation), expected);
        };
        check("0", None);
        check("315360000000", None);
        check("abc", Some("no_integer"));
        check("", Some("no_integer"));
        check("12ms", Some("{leftover_string,\"ms\"}"));
        check("-1", Some("{value_negative,-1}"));
        check("315360000001", Some("{value_too_large,315360000001}"));
        check(
            "99999999999999999999",
            Some("{value_too_large,99999999999999999999}"),
        );
    }

    #[test]
    fn integers_of_any_width_are_one_class() {
        let key = ShortString::literal("x-max-length");
        let table = |value| TableBuilder::new().with(key, value);
        let (int, long) = (
            table(FieldValue::SignedInt(10)),
            table(FieldValue::Long(10)),
        );
        let other = table(FieldValue::Long(20));
        let check = |a: &TableBuilder, b: &TableBuilder| {
            check_same_argument(
                "x-max-length",
                "queue 'q' in vhost '/'",
                a.as_table(),
                b.as_table(),
            )
            .map_err(|error| error.explanation)
        };
        assert_eq!(check(&int, &long), Ok(()));
        let start = "inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received";
        assert_eq!(
            check(&other, &int),
            Err(format!("{start} '20' but current is '10'"))
        );
        assert_eq!(
            check(&TableBuilder::new(), &int),
            Err(format!(
                "{start} none but current is the value '10' of type 'signedint'"
            ))
        );
        assert_eq!(
            check(&long, &TableBuilder::new()),
            Err(format!(
                "{start} the value '10' of type 'long' but current is none"
            ))
        );
    }
}
