//! Reading the text of a configuration file: the walk over it that collects all faults instead of
//! ending at the first.

mod checks;
mod keys;
mod kinds;
mod records;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::values::quoted;
use super::{Config, ForwardRule, limits};
use keys::Key;
use kinds::Value;

pub(super) use keys::{Keys, TABLES, Table};

/// One thing that is wrong, at a byte offset of the text.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) offset: usize,
    pub(super) key: String,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(offset: usize, key: &str, message: impl Into<String>) -> Self {
        Fault {
            offset,
            key: key.to_owned(),
            message: message.into(),
        }
    }
}

/// Reads a configuration, or finds all its faults, in no particular order.
pub(super) fn read(text: &str) -> Result<Config, Vec<Fault>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // The values of a text that is not TOML are guesses; complaints about them would mislead.
        return Err(syntax_faults(text, &errors));
    }
    let root = root.get_ref();
    let mut config = Config::default();
    let mut faults = Vec::new();
    for (name, value) in root {
        match TABLES.iter().find(|table| table.name == name.get_ref()) {
            Some(table) => read_table(table, value, &mut config, &mut faults),
            None => faults.push(unknown_table(name, value)),
        }
    }
    checks::check(root, &config, &mut faults);
    if faults.is_empty() {
        Ok(config)
    } else {
        Err(faults)
    }
}

fn read_table(table: &Table, value: &Value<'_>, config: &mut Config, faults: &mut Vec<Fault>) {
    let shown = table.shown();
    match (&table.keys, value.get_ref()) {
        (Keys::Table(keys), DeValue::Table(entries)) => {
            read_keys(&shown, keys, entries, config, faults);
        }
        (Keys::Records, DeValue::Table(entries)) => {
            config.records = records::read(entries, faults);
        }
        (Keys::Rules(keys), DeValue::Array(elements)) => {
            read_rules(&shown, keys, elements, config, faults);
        }
        (keys, other) => {
            let expected = match keys {
                Keys::Table(_) | Keys::Records => "a table",
                Keys::Rules(_) => "a list of tables",
            };
            let found = other.type_str();
            let message =
                format!("expected {expected}, found {found}; write the keys below {shown}");
            faults.push(Fault::new(value.span().start, &shown, message));
        }
    }
}

/// The keys of one table; `shown` is its name as it is written in the file.
fn read_keys<T>(
    shown: &str,
    keys: &[Key<T>],
    entries: &DeTable<'_>,
    setting: &mut T,
    faults: &mut Vec<Fault>,
) {
    for (key_name, value) in entries {
        let path = key_path(shown, key_name.get_ref());
        match keys.iter().find(|key| key.name == key_name.get_ref()) {
            Some(key) => {
                let found = (key.read)(value, setting).err().unwrap_or_default();
                let locate = |(offset, message)| Fault::new(offset, &path, message);
                faults.extend(found.into_iter().map(locate));
            }
            None => {
                let keys = keys.iter().map(|key| key.name).collect::<Vec<_>>();
                let hint = nearest(key_name.get_ref(), &keys)
                    .unwrap_or_else(|| format!("the keys of {shown} are {}", keys.join(", ")));
                let message = format!("unknown key {}; {hint}", quoted(key_name.get_ref()));
                faults.push(Fault::new(key_name.span().start, &path, message));
            }
        }
    }
}

/// The elements of `[[forward]]`.
fn read_rules(
    shown: &str,
    keys: &[Key<ForwardRule>],
    elements: &DeArray<'_>,
    config: &mut Config,
    faults: &mut Vec<Fault>,
) {
    let (count, max) = (elements.len(), limits::RULES_MAX);
    for (index, element) in elements.iter().enumerate() {
        let offset = element.span().start;
        let mut say = |message| faults.push(Fault::new(offset, shown, message));
        let Some(entries) = element.get_ref().as_table() else {
            let found = element.get_ref().type_str();
            say(format!(
                "expected a table, found {found}; write the keys below {shown}"
            ));
            continue;
        };
        if index == max {
            say(format!("{count} rules are listed; list at most {max}"));
        }
        let is_missing = |key: &&Key<ForwardRule>| !entries.contains_key(key.name);
        for key in keys.iter().filter(is_missing) {
            say(format!(
                "the key \"{}\" is missing from this rule",
                key.name
            ));
        }
        let mut rule = ForwardRule {
            domains: Vec::new(),
            servers: Vec::new(),
        };
        read_keys(shown, keys, entries, &mut rule, faults);
        config.forward.push(rule);
    }
}

/// A name at the top of the file that is no table's: misspelt, or a key outside of its table.
fn unknown_table(name: &Spanned<Cow<'_, str>>, value: &Value<'_>) -> Fault {
    let (offset, name) = (name.span().start, name.get_ref());
    let shown = quoted(name);
    let has_key = |table: &&Table| table.keys.names().iter().any(|key| key == name);
    if let Some(table) = TABLES.iter().find(has_key) {
        let table = table.shown();
        let message = format!("the key {shown} is outside of its table; write it below {table}");
        return Fault::new(offset, &bare(name), message);
    }
    let names = TABLES.iter().map(|table| table.name).collect::<Vec<_>>();
    let list = || format!("the tables are {}", names.join(", "));
    let hint = nearest(name, &names).unwrap_or_else(list);
    if value.get_ref().is_table() {
        let message = format!("unknown table {shown}; {hint}");
        Fault::new(offset, &format!("[{}]", bare(name)), message)
    } else {
        Fault::new(offset, &bare(name), format!("unknown key {shown}; {hint}"))
    }
}

/// A hint at the name that was probably meant, if one is near enough: one letter in three may be
/// wrong.
fn nearest(name: &str, known: &[&str]) -> Option<String> {
    const LONGEST: usize = 64;
    let distance = |known: &&str| strsim::damerau_levenshtein(name, known);
    let known = known
        .iter()
        .filter(|_| name.len() <= LONGEST)
        .min_by_key(|known| distance(known))?;
    (distance(known) <= known.len().div_ceil(3)).then(|| format!("did you mean \"{known}\"?"))
}

/// A key behind the name of its table as it is written in the file.
fn key_path(table: &str, key: &str) -> String {
    format!("{table}.{}", bare(key))
}

/// A key as it is written in TOML: bare if it can be, or else quoted.
fn bare(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.len() <= 64 && key.chars().all(is_bare) {
        key.to_owned()
    } else {
        quoted(key)
    }
}

/// The first syntax error of each line; those that follow on a line are mostly caused by it.
fn syntax_faults(text: &str, errors: &[toml::de::Error]) -> Vec<Fault> {
    let mut faults: Vec<Fault> = Vec::new();
    for error in errors {
        let offset = error.span().map_or(text.len(), |span| span.start);
        let last = faults.last().map(|fault| fault.offset);
        let between = last.and_then(|last| text.get(last.min(offset)..last.max(offset)));
        if between.is_none_or(|between| between.contains('\n')) {
            let message = error.message().replace(char::is_control, " ");
            faults.push(Fault::new(offset, "", message));
        }
    }
    faults
}
