//! The words of a script's values: text, numbers, tables, captures, octets.
//!
//! ```text
//! value   'text' "text" 'a'*255  10  true  $name  $name~'regex'  ~'regex'  *  {table}  [array]
//!         L:10 (letter of the wire and value)  V (void)  T:1  D:314/2  x:'octets'
//! text    \n \r \t \\ \' \" \0 \xNN  and ${name}, the value of a capture or of a counter
//! table   {name=value, ...}: with `...` at its end other entries may follow between and after
//! octets  4f 00 'text'  u16:5 u32:5 u64:5  (queue.declare queue='q')  any of them *N
//! ```

use std::collections::HashMap;

use regex::bytes::Regex;

use crate::methods::{self, FieldType, MethodSpec};
use crate::peer::{Method, property};
use crate::value::{Field, Table, Value};

/// What scripts remember: captured values and counters.
pub(crate) type Variables = HashMap<String, Value>;

/// A value as written.
#[derive(Clone, Debug)]
pub(crate) enum Expression {
    Any,
    Bool(bool),
    Number(i128),
    Real(f64),
    Decimal(u8, u32),
    Text(Text),
    Variable(String),
    Capture(Option<String>, Regex),
    Table(Vec<(Text, Expression)>, bool),
    Array(Vec<Expression>),
    Tagged(u8, Box<Expression>),
    Void,
}

/// Text with places for variables, repeated.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pieces: Vec<Piece>,
    times: usize,
}

#[derive(Clone, Debug)]
enum Piece {
    Octets(Vec<u8>),
    Variable(String),
}

impl Text {
    pub(crate) fn octets(&self, variables: &Variables) -> Result<Vec<u8>, String> {
        let mut once = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Octets(octets) => once.extend(octets),
                Piece::Variable(name) => match lookup(variables, name)? {
                    Value::Text(octets) => once.extend(octets),
                    other => once.extend(other.to_string().into_bytes()),
                },
            }
        }
        Ok(once.repeat(self.times))
    }
}

fn lookup<'a>(variables: &'a Variables, name: &str) -> Result<&'a Value, String> {
    variables
        .get(name)
        .ok_or_else(|| format!("nothing is known of ${name}"))
}

impl Expression {
    /// The value for an argument of type `kind`.
    pub(crate) fn value(&self, kind: FieldType, variables: &Variables) -> Result<Value, String> {
        Ok(match (self, kind) {
            (Expression::Variable(name), _) => lookup(variables, name)?.clone(),
            (Expression::Bool(bit), FieldType::Bit) => Value::Bit(*bit),
            (Expression::Number(n), _) => {
                Value::Number(u64::try_from(*n).map_err(|_| format!("{n} is no unsigned number"))?)
            }
            (Expression::Text(text), _) => Value::Text(text.octets(variables)?),
            (Expression::Table(..), _) => match self.field(variables)? {
                Field::Table(table) => Value::Table(table),
                _ => unreachable!("a table expression gives a table"),
            },
            _ => return Err(format!("{self:?} is no value of type {kind:?}")),
        })
    }

    /// The value for a table or an array.
    fn field(&self, variables: &Variables) -> Result<Field, String> {
        Ok(match self {
            Expression::Bool(b) => Field::Bool(*b),
            Expression::Number(n) => integer(b'I', *n)?,
            Expression::Real(x) => Field::Double(*x),
            Expression::Decimal(scale, n) => Field::Decimal(*scale, *n),
            Expression::Text(text) => Field::Octets(b'S', text.octets(variables)?),
            Expression::Void => Field::Void,
            Expression::Variable(name) => match lookup(variables, name)? {
                Value::Text(octets) => Field::Octets(b'S', octets.clone()),
                Value::Number(n) => integer(b'l', i128::from(*n))?,
                Value::Bit(b) => Field::Bool(*b),
                Value::Table(table) => Field::Table(table.clone()),
            },
            Expression::Table(entries, _) => {
                let mut table = Table::new();
                for (name, entry) in entries {
                    table.push((name.octets(variables)?, entry.field(variables)?));
                }
                Field::Table(table)
            }
            Expression::Array(items) => {
                let items = items.iter().map(|item| item.field(variables));
                Field::Array(items.collect::<Result<_, _>>()?)
            }
            Expression::Tagged(letter, inner) => match (letter, &**inner) {
                (b'T', Expression::Number(n)) => {
                    Field::Timestamp(u64::try_from(*n).map_err(|e| e.to_string())?)
                }
                (b'f', Expression::Real(x)) => Field::Float(*x as f32),
                (b'd', Expression::Real(x)) => Field::Double(*x),
                (b'D', Expression::Decimal(scale, n)) => Field::Decimal(*scale, *n),
                (b'S' | b'x', Expression::Text(text)) => {
                    Field::Octets(*letter, text.octets(variables)?)
                }
                (_, Expression::Number(n)) => integer(*letter, *n)?,
                _ => return Err(format!("letter {:?} and {inner:?}", *letter as char)),
            },
            Expression::Any | Expression::Capture(..) => {
                return Err("a wildcard cannot be sent".into());
            }
        })
    }

    /// Whether `value` is what this expression expects; captures remember it.
    pub(crate) fn matches(
        &self,
        kind: FieldType,
        value: &Value,
        variables: &mut Variables,
    ) -> bool {
        match (self, value) {
            (Expression::Any, _) => true,
            (Expression::Variable(name), value) => {
                *variables
                    .entry(name.clone())
                    .or_insert_with(|| value.clone())
                    == *value
            }
            (Expression::Capture(name, regex), Value::Text(octets)) => {
                if let Some(name) = name {
                    variables.insert(name.clone(), value.clone());
                }
                regex.is_match(octets)
            }
            (Expression::Table(entries, open), Value::Table(table)) => {
                table_matches(entries, *open, table, variables)
            }
            _ => self.value(kind, variables).as_ref() == Ok(value),
        }
    }

    fn matches_field(&self, field: &Field, variables: &mut Variables) -> bool {
        match (self, field) {
            (Expression::Any, _) => true,
            (Expression::Capture(..) | Expression::Variable(_), Field::Octets(b'S', octets)) => {
                self.matches(FieldType::Longstr, &Value::Text(octets.clone()), variables)
            }
            (Expression::Table(entries, open), Field::Table(table)) => {
                table_matches(entries, *open, table, variables)
            }
            (Expression::Array(items), Field::Array(fields)) => {
                items.len() == fields.len()
                    && items
                        .iter()
                        .zip(fields)
                        .all(|(it, field)| it.matches_field(field, variables))
            }
            _ => self.field(variables).as_ref() == Ok(field),
        }
    }
}

/// Whether the entries are there in their order; nothing else, unless `open`.
fn table_matches(
    entries: &[(Text, Expression)],
    open: bool,
    table: &Table,
    variables: &mut Variables,
) -> bool {
    let mut rest = table.iter();
    for (name, expected) in entries {
        let Ok(name) = name.octets(variables) else {
            return false;
        };
        let found = if open {
            rest.find(|(it, _)| *it == name)
        } else {
            rest.next()
        };
        match found {
            Some((it, field)) if *it == name && expected.matches_field(field, variables) => {}
            _ => return false,
        }
    }
    open || rest.next().is_none()
}

fn integer(letter: u8, n: i128) -> Result<Field, String> {
    let fits = match letter {
        b'b' => i8::try_from(n).is_ok(),
        b'B' => u8::try_from(n).is_ok(),
        b's' => i16::try_from(n).is_ok(),
        b'u' => u16::try_from(n).is_ok(),
        b'I' => i32::try_from(n).is_ok(),
        b'i' => u32::try_from(n).is_ok(),
        b'l' | b'L' => i64::try_from(n).is_ok(),
        _ => false,
    };
    if fits {
        Ok(Field::Integer(letter, n as i64))
    } else {
        Err(format!("{n} does not fit letter {:?}", letter as char))
    }
}

/// A method in words: only what is named is given; unnamed arguments are zero, or anything when
/// the words end in `...`.
#[derive(Clone, Debug)]
pub(crate) struct MethodWords {
    pub(crate) spec: &'static MethodSpec,
    arguments: Vec<Option<Expression>>,
    open: bool,
}

impl MethodWords {
    pub(crate) fn method(&self, variables: &Variables) -> Result<Method, String> {
        let values =
            self.spec
                .arguments()
                .zip(&self.arguments)
                .map(|((name, kind), expression)| match expression {
                    Some(expression) => expression
                        .value(kind, variables)
                        .map_err(|why| format!("{name}: {why}")),
                    None => Ok(Value::default_of(kind)),
                });
        Ok(Method {
            spec: self.spec,
            values: values.collect::<Result<_, _>>()?,
        })
    }

    pub(crate) fn matches(&self, method: &Method, variables: &mut Variables) -> bool {
        self.spec == method.spec
            && self
                .spec
                .arguments()
                .zip(&self.arguments)
                .zip(&method.values)
                .all(|(((_, kind), expected), value)| match expected {
                    Some(expected) => expected.matches(kind, value, variables),
                    None => self.open || *value == Value::default_of(kind),
                })
    }
}

/// Properties in words.
pub(crate) type PropertyWords = Vec<(&'static str, FieldType, Expression)>;

/// Content in words: `{property=value, ...} 'body' frames=N`.
#[derive(Clone, Debug)]
pub(crate) struct ContentWords {
    pub(crate) properties: PropertyWords,
    pub(crate) properties_open: bool,
    pub(crate) body: Expression,
    pub(crate) frames: Option<usize>,
}

/// A part of octets written out.
#[derive(Clone, Debug)]
pub(crate) enum Octets {
    Plain(Vec<u8>),
    Text(Text),
    Method(MethodWords),
    Many(Vec<Octets>, usize),
}

/// The octets of all `parts` in a row.
pub(crate) fn all_octets(parts: &[Octets], variables: &Variables) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for part in parts {
        match part {
            Octets::Plain(octets) => out.extend(octets),
            Octets::Text(text) => out.extend(text.octets(variables)?),
            Octets::Method(words) => out.extend(words.method(variables)?.payload()?),
            Octets::Many(parts, times) => out.extend(all_octets(parts, variables)?.repeat(*times)),
        }
    }
    Ok(out)
}

/// Reads words from the front of a line.
pub(crate) struct Cursor<'a> {
    pub(crate) rest: &'a str,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(line: &'a str) -> Self {
        Cursor { rest: line.trim() }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    pub(crate) fn is_at_end(&mut self) -> bool {
        self.skip_space();
        self.rest.is_empty()
    }

    /// Takes `word` when it comes next.
    pub(crate) fn accept(&mut self, word: &str) -> bool {
        self.skip_space();
        self.accept_here(word)
    }

    fn accept_here(&mut self, word: &str) -> bool {
        match self.rest.strip_prefix(word) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    pub(crate) fn expect(&mut self, word: &str) -> Result<(), String> {
        if self.accept(word) {
            Ok(())
        } else {
            Err(format!("{word:?} wanted at {:?}", self.rest))
        }
    }

    /// The longest run of characters that names are made of; empty when there is none.
    pub(crate) fn name(&mut self) -> &'a str {
        self.skip_space();
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c)))
            .unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        name
    }

    /// An unsigned number, decimal or `0x`.
    pub(crate) fn number(&mut self) -> Result<u64, String> {
        let word = self.name();
        parse_number(word)
            .and_then(|n| u64::try_from(n).ok())
            .ok_or_else(|| format!("{word:?} is no number, before {:?}", self.rest))
    }

    fn times(&mut self) -> Result<usize, String> {
        if self.accept_here("*") {
            Ok(self.number()? as usize)
        } else {
            Ok(1)
        }
    }

    /// Text in quotes.
    fn text(&mut self) -> Result<Text, String> {
        self.skip_space();
        let quote = self.rest.chars().next().filter(|c| "'\"".contains(*c));
        let quote = quote.ok_or_else(|| format!("text wanted at {:?}", self.rest))?;
        let mut pieces = Vec::new();
        let mut octets = Vec::new();
        let mut chars = self.rest[1..].char_indices();
        while let Some((place, c)) = chars.next() {
            if c == quote {
                self.rest = &self.rest[place + 2..];
                pieces.push(Piece::Octets(octets));
                let times = self.times()?;
                return Ok(Text { pieces, times });
            }
            let following = &self.rest[1 + place + c.len_utf8()..];
            match c {
                '\\' => {
                    let (_, escaped) = chars.next().ok_or("a backslash at the end")?;
                    match escaped {
                        'n' => octets.push(b'\n'),
                        'r' => octets.push(b'\r'),
                        't' => octets.push(b'\t'),
                        '0' => octets.push(0),
                        'x' => {
                            let digits = following.get(1..3).ok_or("\\x wants two digits")?;
                            octets.push(u8::from_str_radix(digits, 16).map_err(|e| e.to_string())?);
                            chars.nth(1);
                        }
                        '\\' | '\'' | '"' | '$' => octets.push(escaped as u8),
                        other => return Err(format!("no escape \\{other}")),
                    }
                }
                '$' if following.starts_with('{') => {
                    let end = following.find('}').ok_or("${ without }")?;
                    pieces.push(Piece::Octets(std::mem::take(&mut octets)));
                    pieces.push(Piece::Variable(following[1..end].to_string()));
                    chars.nth(end);
                }
                c => octets.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Err(format!("text without an end: {:?}", self.rest))
    }

    fn regex(&mut self) -> Result<Regex, String> {
        // A regular expression keeps its backslashes.
        self.skip_space();
        let quote = self.rest.chars().next().filter(|c| "'\"".contains(*c));
        let quote = quote.ok_or("a regex stands between quotes")?;
        let inner = &self.rest[1..];
        let end = inner.find(quote).ok_or("a regex without an end")?;
        self.rest = &inner[end + 1..];
        Regex::new(&format!("(?s)^(?:{})$", &inner[..end])).map_err(|e| e.to_string())
    }

    /// One value.
    pub(crate) fn expression(&mut self) -> Result<Expression, String> {
        self.skip_space();
        match self.rest.chars().next() {
            Some('\'' | '"') => return Ok(Expression::Text(self.text()?)),
            Some('*') => {
                self.rest = &self.rest[1..];
                return Ok(Expression::Any);
            }
            Some('~') => {
                self.rest = &self.rest[1..];
                return Ok(Expression::Capture(None, self.regex()?));
            }
            Some('$') => {
                self.rest = &self.rest[1..];
                let name = self.name().to_string();
                if self.accept_here("~") {
                    return Ok(Expression::Capture(Some(name), self.regex()?));
                }
                return Ok(Expression::Variable(name));
            }
            Some('{') => return self.table(),
            Some('[') => return self.array(),
            _ => {}
        }
        let word = self.name();
        match word {
            "true" => return Ok(Expression::Bool(true)),
            "false" => return Ok(Expression::Bool(false)),
            "V" => return Ok(Expression::Void),
            _ => {}
        }
        if word.len() == 1 && self.accept_here(":") {
            let inner = self.expression()?;
            return Ok(Expression::Tagged(word.as_bytes()[0], Box::new(inner)));
        }
        if let Some(n) = parse_number(word) {
            if self.accept_here("/") {
                let scale = self.number()?;
                let n = u32::try_from(n).map_err(|e| e.to_string())?;
                return Ok(Expression::Decimal(scale as u8, n));
            }
            return Ok(Expression::Number(n));
        }
        word.parse()
            .map(Expression::Real)
            .map_err(|_| format!("no value: {word:?}{:?}", self.rest))
    }

    fn table(&mut self) -> Result<Expression, String> {
        self.expect("{")?;
        let (mut entries, mut open) = (Vec::new(), false);
        while !self.accept("}") {
            if self.accept("...") {
                open = true;
                continue;
            }
            self.skip_space();
            let name = if self.rest.starts_with(['\'', '"']) {
                self.text()?
            } else {
                let pieces = vec![Piece::Octets(self.name().into())];
                Text { pieces, times: 1 }
            };
            self.expect("=")?;
            entries.push((name, self.expression()?));
            self.accept(",");
        }
        Ok(Expression::Table(entries, open))
    }

    fn array(&mut self) -> Result<Expression, String> {
        self.expect("[")?;
        let mut items = Vec::new();
        while !self.accept("]") {
            items.push(self.expression()?);
            self.accept(",");
        }
        Ok(Expression::Array(items))
    }

    /// Name and arguments of a method, up to `;`, `)` or the end.
    pub(crate) fn method(&mut self) -> Result<MethodWords, String> {
        let name = self.name();
        let spec = methods::by_name(name).ok_or_else(|| format!("no method {name:?}"))?;
        let mut words = MethodWords {
            spec,
            arguments: vec![None; spec.arguments().count()],
            open: false,
        };
        while !self.is_at_end() && !self.rest.starts_with([';', ')']) {
            if self.accept("...") {
                words.open = true;
                continue;
            }
            let name = self.name();
            if name == "in" {
                self.expect("=")?;
                let cause = self.name();
                let cause =
                    methods::by_name(cause).ok_or_else(|| format!("no method {cause:?}"))?;
                words.set("class_id", Expression::Number(cause.class_id.into()))?;
                words.set("method_id", Expression::Number(cause.method_id.into()))?;
                continue;
            }
            let value = if self.accept_here("=") {
                self.expression()?
            } else {
                Expression::Bool(true)
            };
            words.set(name, value)?;
        }
        Ok(words)
    }

    /// `{property=value} 'body' frames=N`; the properties may be absent.
    pub(crate) fn content(&mut self) -> Result<ContentWords, String> {
        self.skip_space();
        let (properties, properties_open) = if self.rest.starts_with('{') {
            self.properties()?
        } else {
            (Vec::new(), false)
        };
        let body = self.expression()?;
        let frames = if self.accept("frames=") {
            Some(self.number()? as usize)
        } else {
            None
        };
        Ok(ContentWords {
            properties,
            properties_open,
            body,
            frames,
        })
    }

    /// `{property=value, ...}` and whether others may be there too.
    pub(crate) fn properties(&mut self) -> Result<(PropertyWords, bool), String> {
        let Expression::Table(entries, open) = self.table()? else {
            unreachable!("a table expression gives a table");
        };
        let properties = entries.into_iter().map(|(name, expression)| {
            let name = String::from_utf8(name.octets(&Variables::new())?).unwrap_or_default();
            let (name, kind) = property(&name).ok_or_else(|| format!("no property {name:?}"))?;
            Ok((name, kind, expression))
        });
        Ok((properties.collect::<Result<_, String>>()?, open))
    }

    /// Octets written out, up to `)` or the end.
    pub(crate) fn octets(&mut self) -> Result<Vec<Octets>, String> {
        let mut parts = Vec::new();
        while !self.is_at_end() && !self.rest.starts_with(')') {
            if self.rest.starts_with(['\'', '"']) {
                parts.push(Octets::Text(self.text()?));
                continue;
            }
            if self.accept_here("(") {
                let named = self
                    .rest
                    .trim_start()
                    .find(|c: char| !c.is_ascii_lowercase());
                let is_method =
                    named.is_some_and(|end| self.rest.trim_start()[end..].starts_with('.'));
                let inner = if is_method {
                    vec![Octets::Method(self.method()?)]
                } else {
                    self.octets()?
                };
                self.expect(")")?;
                parts.push(Octets::Many(inner, self.times()?));
                continue;
            }
            let word = self.name();
            let width = match word {
                "u8" => 1,
                "u16" => 2,
                "u32" => 4,
                "u64" => 8,
                _ => 0,
            };
            let octets = if width > 0 {
                self.expect(":")?;
                self.number()?.to_be_bytes()[8 - width..].to_vec()
            } else {
                hex(word).ok_or_else(|| format!("no octets: {word:?}{:?}", self.rest))?
            };
            parts.push(Octets::Many(vec![Octets::Plain(octets)], self.times()?));
        }
        Ok(parts)
    }
}

impl MethodWords {
    fn set(&mut self, name: &str, value: Expression) -> Result<(), String> {
        let place = self.spec.arguments().position(|(known, _)| known == name);
        let place = place.ok_or_else(|| format!("{} has no {name:?}", self.spec.name))?;
        match self.arguments[place].replace(value) {
            None => Ok(()),
            Some(_) => Err(format!("{name} twice")),
        }
    }
}

fn parse_number(word: &str) -> Option<i128> {
    match word.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

fn hex(word: &str) -> Option<Vec<u8>> {
    if word.is_empty() || !word.len().is_multiple_of(2) || !word.is_ascii() {
        return None;
    }
    let pairs = (0..word.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&word[at..at + 2], 16).ok())
        .collect()
}
