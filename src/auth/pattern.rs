//! The expressions of permissions.
//!
//! RabbitMQ matches them with PCRE: not anchored, an empty one standing for `^$`. Here they run in
//! linear time, so look-around and back references are refused, with one exception that operators
//! really write: look-ahead that forbids a beginning, `^(?!amq\.)orders`, which becomes two
//! expressions.

use super::AuthError;
use regex::bytes::{Regex, RegexBuilder};

/// Octets of an expression at most.
const PATTERN_OCTETS_MAX: usize = 4096;
/// Octets of a compiled expression at most.
const COMPILED_OCTETS_MAX: usize = 1 << 20;
/// Nesting of groups at most.
const NEST_MAX: u32 = 64;

/// A compiled expression, with its text.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    matcher: Matcher,
}

#[derive(Clone, Debug)]
enum Matcher {
    /// `.*`: no need to look.
    Everything,
    /// `^$`, and the empty expression that stands for it.
    EmptyName,
    Expression {
        /// Beginnings that must not match.
        forbidden: Vec<Regex>,
        wanted: Regex,
    },
}

impl Pattern {
    /// Compiles `text`.
    ///
    /// # Errors
    /// [`AuthError::InvalidPattern`], naming the expression.
    pub fn new(text: &str) -> Result<Self, AuthError> {
        let matcher = match text {
            ".*" | "^.*" | "^.*$" | ".*$" => Ok(Matcher::Everything),
            "" | "^$" => Ok(Matcher::EmptyName),
            _ => compile(text),
        };
        match matcher {
            Ok(matcher) => Ok(Pattern {
                text: text.to_owned(),
                matcher,
            }),
            Err(reason) => {
                let pattern = shortened(text);
                Err(AuthError::InvalidPattern { pattern, reason })
            }
        }
    }

    /// The expression as it was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether `name` matches somewhere.
    pub fn matches(&self, name: &[u8]) -> bool {
        match &self.matcher {
            Matcher::Everything => true,
            Matcher::EmptyName => name.is_empty(),
            Matcher::Expression { forbidden, wanted } => {
                wanted.is_match(name) && !forbidden.iter().any(|regex| regex.is_match(name))
            }
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

fn compile(text: &str) -> Result<Matcher, String> {
    if text.len() > PATTERN_OCTETS_MAX {
        return Err(format!("has more than {PATTERN_OCTETS_MAX} octets"));
    }
    let (mut forbidden, mut rest) = (Vec::new(), text);
    if rest.starts_with("^(?!") {
        rest = &rest[1..];
        while let Some(inner) = rest.strip_prefix("(?!") {
            let end = group_end(inner).ok_or("a group is not closed")?;
            forbidden.push(one(&format!("^(?:{})", &inner[..end]))?);
            rest = &inner[end + 1..];
        }
        if has_alternatives(rest) {
            return Err("look-ahead cannot stand beside alternatives".to_owned());
        }
    }
    let wanted = if forbidden.is_empty() {
        one(rest)?
    } else {
        one(&format!("^(?:{rest})"))?
    };
    Ok(Matcher::Expression { forbidden, wanted })
}

fn one(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text)
        .size_limit(COMPILED_OCTETS_MAX)
        .dfa_size_limit(COMPILED_OCTETS_MAX)
        .nest_limit(NEST_MAX)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "is too large when compiled".to_owned(),
            error => last_line(&error.to_string()),
        })
}

/// The parser's message draws the expression over several lines and says what is wrong last.
fn last_line(message: &str) -> String {
    let line = message.lines().last().unwrap_or_default();
    line.trim().trim_start_matches("error: ").to_owned()
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(200).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Where the group ends that `text` is the inside of: the place of its closing parenthesis.
fn group_end(text: &str) -> Option<usize> {
    scan(text, |depth, octet| depth == 0 && octet == b')')
}

fn has_alternatives(text: &str) -> bool {
    scan(text, |depth, octet| depth == 0 && octet == b'|').is_some()
}

/// The place of the first octet outside of classes and escapes for which `found(depth, octet)`.
fn scan(text: &str, found: impl Fn(u32, u8) -> bool) -> Option<usize> {
    let (mut depth, mut in_class, mut escaped) = (0_u32, false, false);
    for (place, octet) in text.bytes().enumerate() {
        if escaped {
            escaped = false;
            continue;
        }
        if !in_class && found(depth, octet) {
            return Some(place);
        }
        match octet {
            b'\\' => escaped = true,
            b'[' => in_class = true,
            b']' => in_class = false,
            b'(' if !in_class => depth += 1,
            b')' if !in_class => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_match_as_in_rabbitmq() {
        for (pattern, name, expected) in [
            (".*", "", true),
            (".*", "anything", true),
            ("", "", true),
            ("", "x", false),
            ("^$", "x", false),
            ("order", "my-orders", true),
            ("^order", "my-orders", false),
            ("^order", "orders", true),
            ("^(amq\\.gen.*|amq\\.default)$", "amq.default", true),
            ("^(amq\\.gen.*|amq\\.default)$", "amq.direct", false),
            ("^(?!amq\\.).*", "amq.direct", false),
            ("^(?!amq\\.).*", "orders", true),
            ("^(?!amq\\.)(?!sys[)]|x)orders$", "orders", true),
            ("^(?!amq\\.)(?!o)orders$", "orders", false),
            ("^(?!a|b)(c|d)", "cat", true),
            ("^(?!a|b)(c|d)", "ant", false),
            ("grün", "grüne", true),
            ("(?i)ORDER", "orders", true),
        ] {
            let compiled = Pattern::new(pattern).expect(pattern);
            assert_eq!(
                compiled.matches(name.as_bytes()),
                expected,
                "{pattern:?} on {name:?}"
            );
            assert_eq!(compiled.text(), pattern);
        }
        assert!(Pattern::new("^a").expect("valid").matches(b"a\xFF"));
    }

    #[test]
    fn what_cannot_be_compiled_is_named() {
        let long = "x".repeat(5000);
        let deep = format!("{}{}", "(".repeat(100), ")".repeat(100));
        for (pattern, part) in [
            ("(", "unclosed group"),
            ("*", "repetition operator missing expression"),
            ("a(?=b)", "look-around"),
            ("(a)\\1", "backreferences"),
            ("^(?!a)b|c", "beside alternatives"),
            ("^(?!a", "not closed"),
            ("(a{1000}){1000}", "too large"),
            (&*deep, "nest"),
            (&*long, "more than 4096 octets"),
        ] {
            let error = Pattern::new(pattern).expect_err(pattern).to_string();
            assert!(error.contains(part), "{pattern}: {error}");
            assert!(error.starts_with("invalid regular expression '"), "{error}");
            assert!(error.len() < 400);
        }
    }

    #[test]
    fn a_hostile_expression_is_answered_at_once() {
        let pattern = Pattern::new("^(a+)+$").expect("valid");
        assert!(!pattern.matches(&[&[b'a'; 250][..], b"!"].concat()));
    }
}
