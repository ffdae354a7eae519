//! Loading a recipe: by its name or from its file, with changes to single keys.
//!
//! A recipe's file says what differs from its `base`; all keys that remain come from the built-in recipe
//! `report`. Tables are merged first, then converted, then [validated](crate::validation).

mod builder;
mod built_in;
mod conversion;
mod familiar_names;
mod set_keys;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::LazyLock;

use crescendo_network::Node;
use toml::{Table, Value};

use crate::{Error, Recipe, text_file};

pub use builder::RecipeBuilder;
pub use built_in::{BUILT_IN, BuiltIn};
pub(crate) use conversion::convert;
pub use familiar_names::familiar_name;
use familiar_names::in_words;

impl Recipe {
    /// The built-in recipe of this name, or the recipe in the file of this path, with `changes` of the form
    /// `section.key=value`. Keys that a recipe leaves out come from its `base`, or from `report`.
    ///
    /// # Errors
    /// If there is no such recipe, or it has an unknown key or an invalid value.
    ///
    /// # Example
    ///
    /// ```
    /// use crescendo_training::Recipe;
    ///
    /// let recipe = Recipe::load("quick", &["optimizer.learning_rate=0.05", "batch.policy=plateau"])?;
    /// assert_eq!(recipe.optimizer.learning_rate, 0.05);
    /// // Without changes, the compiler wants to know what these would be.
    /// let recipe = Recipe::load::<&str>("quick", &[])?;
    /// assert_eq!(recipe, Recipe::builder("quick")?.build()?);
    /// # Ok::<(), crescendo_training::Error>(())
    /// ```
    pub fn load<S: AsRef<str>>(name_or_path: &str, changes: &[S]) -> Result<Self, Error> {
        let mut table = table(name_or_path, 0)?;
        for change in changes {
            set(&mut table, change.as_ref())?;
        }
        Self::from_table(table)
    }

    /// This recipe with one more `section.key=value`.
    ///
    /// # Errors
    /// If the key is unknown, or the value is invalid.
    pub fn with(&self, change: &str) -> Result<Self, Error> {
        let mut table = self.table();
        set(&mut table, change)?;
        Self::from_table(table)
    }

    /// The recipe that a run or a checkpoint was saved with. Keys that are missing, because an older version
    /// of the program wrote it, come from `report`.
    ///
    /// # Errors
    /// If a key is unknown or a value is invalid.
    pub(crate) fn saved(text: &str) -> Result<Self, Error> {
        let recipe = Self::from_saved(text)?;
        recipe.validate()?;
        Ok(recipe)
    }

    /// The same with the operations of a network that are saved beside it.
    ///
    /// # Errors
    /// As for a recipe, or if the operations do not go with it.
    pub(crate) fn saved_with(text: &str, operations: Vec<Node>) -> Result<Self, Error> {
        let mut recipe = Self::from_saved(text)?;
        recipe.network.operations = operations;
        recipe.validate()?;
        Ok(recipe)
    }

    /// A saved recipe that has not been validated.
    fn from_saved(text: &str) -> Result<Self, Error> {
        let mut saved: Table =
            text.parse().map_err(|error| Error::Recipe(syntax_problem(text, &error)))?;
        saved.remove("run");
        let mut whole = every_key().clone();
        merge(&mut whole, saved, every_key(), "").map_err(Error::Recipe)?;
        Self::converted(whole)
    }

    fn from_table(table: Table) -> Result<Self, Error> {
        let recipe = Self::converted(table)?;
        recipe.validate()?;
        Ok(recipe)
    }

    fn converted(table: Table) -> Result<Self, Error> {
        convert(table.clone()).map_err(|error| Error::Recipe(type_problem(&table, error)))
    }

    /// What differs from `report`, as `section.key=value`. It stays the same when later versions of the
    /// program add keys.
    pub(crate) fn differences(&self) -> Vec<String> {
        fn collect(own: &Table, base: &Table, section: &str, lines: &mut Vec<String>) {
            for (key, value) in own {
                match (value, base.get(key)) {
                    (Value::Table(own), Some(Value::Table(base))) => {
                        collect(own, base, &format!("{section}{key}."), lines);
                    }
                    (value, other) if other == Some(value) => {}
                    (value, _) => lines.push(format!("{section}{key}={value}")),
                }
            }
        }
        let mut lines = Vec::new();
        collect(&self.table(), every_key(), "", &mut lines);
        lines
    }

    /// All keys and values.
    pub fn table(&self) -> Table {
        Table::try_from(self).expect("a recipe has only strings for keys")
    }
}

/// How many bases a user's recipe can have before a built-in one.
const MAX_BASES: usize = 10;

/// A recipe's table merged into that of its base.
fn table(name_or_path: &str, depth: usize) -> Result<Table, Error> {
    if depth > MAX_BASES {
        return Err(Error::Recipe(format!("{name_or_path}: its bases form a cycle")));
    }
    if name_or_path == BUILT_IN[0].name {
        return Ok(every_key().clone());
    }
    let built_in = BUILT_IN.iter().find(|recipe| recipe.name == name_or_path);
    let text = match built_in {
        Some(recipe) => recipe.text.to_owned(),
        None => read(name_or_path)?,
    };
    let mut own = parse(name_or_path, &text)?;
    // A run's `recipe.toml` also has a section about the run.
    own.remove("run");
    let base = match own.remove("base") {
        None => BUILT_IN[0].name.to_owned(),
        Some(Value::String(base)) if built_in.is_none() => base_path(name_or_path, &base),
        Some(Value::String(base)) => base,
        Some(_) => {
            return Err(Error::Recipe(format!(
                "{name_or_path}: base must be the name or the path of a recipe, in quotes"
            )));
        }
    };
    let mut whole = table(&base, depth + 1)?;
    merge(&mut whole, own, every_key(), "")
        .map_err(|problem| Error::Recipe(format!("{name_or_path}: {problem}")))?;
    Ok(whole)
}

/// The table in a recipe's file.
fn parse(name_or_path: &str, text: &str) -> Result<Table, Error> {
    text.parse().map_err(|error| {
        Error::Recipe(format!("{name_or_path} is not valid TOML: {}", syntax_problem(text, &error)))
    })
}

/// The name or the path of a recipe's base: paths are relative to the recipe's own folder.
fn base_path(recipe: &str, base: &str) -> String {
    if !base.ends_with(".toml") {
        return base.to_owned();
    }
    let folder = Path::new(recipe).parent().unwrap_or(Path::new(""));
    folder.join(base).to_string_lossy().into_owned()
}

/// What is wrong with the syntax of a TOML text, on one line, with the number of the line.
pub(crate) fn syntax_problem(text: &str, error: &toml::de::Error) -> String {
    let problem = error.message().lines().collect::<Vec<_>>().join(", ");
    let before = error.span().and_then(|span| text.get(..span.start));
    before.map_or(problem.clone(), |before| {
        let line = before.matches('\n').count();
        // In double quotes a Windows path is mostly not valid TOML.
        let has_path = text.lines().nth(line).is_some_and(|line| line.contains('\\'));
        let remedy = if has_path { format!("; {BACKSLASHES}") } else { String::new() };
        format!("line {}: {problem}{remedy}", line + 1)
    })
}

/// How to write a Windows path.
const BACKSLASHES: &str = "in double quotes a backslash begins an escape: write a path in single quotes, or with / \
                           instead of \\";

/// What may be wrong with a path that does not exist because of its backslashes.
pub(crate) fn path_remedy(path: &str) -> Option<String> {
    if path.contains(char::is_control) {
        // C:\new\report.toml in double quotes has a line's end and a return.
        return Some(BACKSLASHES.into());
    }
    let slashes = path.replace('\\', "/");
    let exists = slashes != path && Path::new(&slashes).exists();
    exists.then(|| format!("did you mean {slashes}?"))
}

fn read(path: &str) -> Result<String, Error> {
    if Path::new(path).exists() {
        return text_file::read(Path::new(path));
    }
    if let Some(remedy) = path_remedy(path) {
        return Err(Error::Recipe(format!("there is no recipe {}: {remedy}", path.escape_debug())));
    }
    let names = BUILT_IN.map(|recipe| recipe.name);
    let hint = nearest(path, names).map_or(String::new(), |name| format!(" (is it {name}?)"));
    Err(Error::Recipe(format!(
        "there is no recipe {path}{hint}: give the path of a TOML file, or one of {}",
        names.join(", ")
    )))
}

/// Which key of a recipe's table has the wrong type, what it may be, and what was given; `error` is what
/// converting the whole table says.
fn type_problem(table: &Table, error: conversion::Mismatch) -> String {
    // A recipe that is right but for one key shows whether that key is wrong.
    let mismatch = |key: &str, value: Value| {
        let mut one = every_key().clone();
        merge(&mut one, with_key(key, value), every_key(), "").expect("the key is known");
        convert::<Recipe>(one).err()
    };
    for (key, value) in values(table) {
        let Some(error) = mismatch(&key, value.clone()) else { continue };
        let mut error = error.of_key(&key, value);
        if error.lacks_names()
            && let Some(named) = mismatch(&key, Value::String(String::new()))
        {
            error = error.with_names_of(named);
        }
        if let Some((_, words)) = LISTS.iter().find(|list| list.0 == key) {
            error = error.expecting(&key, words, value);
        }
        return error.to_string();
    }
    error.to_string()
}

/// What the keys with lists may be.
const LISTS: [(&str, &str); 7] = [
    ("network.blocks", "a list of whole numbers, one for each stack, such as [6, 6, 6]"),
    ("network.widths", "a list of whole numbers, one for each stack, such as [64, 128, 256]"),
    (
        "network.operations",
        "a list of tables such as [{ name = \"flatten\", operation = \"flatten\", inputs = [0] }]",
    ),
    ("data.sides", "a list of [epoch, pixels] pairs such as [[1, 16], [5, 32]]"),
    (
        "optimizer.groups",
        "a list of tables such as [{ parameters = \"*.bias\", learning_rate = 0.2 }]",
    ),
    ("schedule.steps", "a list of [epoch, factor] pairs such as [[61, 0.1], [81, 0.01]]"),
    ("batch.steps", "a list of [epoch, size] pairs such as [[1, 125], [61, 250]]"),
];

/// Replaces the values in `whole` by those in `own`; `known` has every key there is, and its tables are the
/// sections.
fn merge(whole: &mut Table, own: Table, known: &Table, section: &str) -> Result<(), String> {
    for (key, value) in own {
        let name = format!("{section}{key}");
        match (known.get(&key), whole.get_mut(&key), value) {
            (Some(Value::Table(known)), Some(Value::Table(whole)), Value::Table(own)) => {
                merge(whole, own, known, &format!("{name}."))?;
            }
            (Some(Value::Table(_)), ..) => {
                let hint = familiar_name(&name)
                    .map_or(String::new(), |changes| format!(": write {}", in_words(changes)));
                return Err(format!("{name} is a section, not a key{hint}"));
            }
            // A recipe's own table lacks keys that are not written while they have their default.
            (Some(_), _, value) => drop(whole.insert(key, value)),
            (None, _, value) => return Err(unknown(&first_key(name, &value))),
        }
    }
    Ok(())
}

/// The recipe that has every key.
fn every_key() -> &'static Table {
    static TABLE: LazyLock<Table> =
        LazyLock::new(|| BUILT_IN[0].text.parse().expect("the built-in recipe is valid"));
    &TABLE
}

fn set(table: &mut Table, change: &str) -> Result<(), Error> {
    merge(table, parse_change(change)?, every_key(), "").map_err(Error::Recipe)
}

/// A table with nothing but the key of a change of the form `section.key=value`.
fn parse_change(change: &str) -> Result<Table, Error> {
    let parts = change.split_once('=').filter(|(key, _)| !key.trim().is_empty());
    let Some((key, value)) = parts else {
        let problem = format!("{change} does not change a key: write section.key=value");
        return Err(Error::Recipe(problem));
    };
    let (key, value) = (key.trim(), value.trim());
    // A TOML value, or else text without quotes.
    let value = match format!("value = {value}").parse::<Table>() {
        Ok(mut table) => table.remove("value").expect("the text has this key"),
        Err(_) => Value::String(value.to_owned()),
    };
    Ok(with_key(key, value))
}

/// A table with nothing but this key, which may lie in sections.
fn with_key(key: &str, value: Value) -> Table {
    let (sections, key) = key.rsplit_once('.').map_or((None, key), |(a, b)| (Some(a), b));
    let table = Table::from_iter([(key.to_owned(), value)]);
    sections.map_or(table.clone(), |sections| with_key(sections, Value::Table(table)))
}

/// The whole name of the first key in a section, or of the key itself.
fn first_key(name: String, value: &Value) -> String {
    match value.as_table().and_then(|table| table.iter().next()) {
        Some((key, value)) => first_key(format!("{name}.{key}"), value),
        None => name,
    }
}

fn unknown(name: &str) -> String {
    let known = keys();
    let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    let hint = match (nearest(name, known.iter().map(String::as_str)), familiar_name(name)) {
        // The right name in the wrong section.
        (Some(key), _) if last(key) == last(name) => format!("; the nearest is {key}"),
        (_, Some(changes)) => format!("; write {}", in_words(changes)),
        (Some(key), None) => format!("; the nearest is {key}"),
        (None, None) => String::new(),
    };
    format!("there is no key {name}{hint}")
}

/// Every key there is.
fn keys() -> Vec<String> {
    values(every_key()).into_iter().map(|(key, _)| key).collect()
}

/// The keys of a recipe's table by their whole names, with their values.
fn values(table: &Table) -> Vec<(String, &Value)> {
    fn collect<'a>(
        table: &'a Table,
        known: &Table,
        section: &str,
        values: &mut Vec<(String, &'a Value)>,
    ) {
        for (key, value) in table {
            let name = format!("{section}{key}");
            match (value, known.get(key)) {
                (Value::Table(table), Some(Value::Table(known))) => {
                    collect(table, known, &format!("{name}."), values);
                }
                _ => values.push((name, value)),
            }
        }
    }
    let mut all = Vec::new();
    collect(table, every_key(), "", &mut all);
    all
}

/// The known name that is most like this one, if any is.
fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    // The right key in the wrong section is nearer than another key in the right section.
    let likeness = |key: &str| {
        let whole = strsim::normalized_damerau_levenshtein(name, key);
        let parts = strsim::normalized_damerau_levenshtein(&last(name), &last(key)) - 0.05;
        [whole.max(parts), whole]
    };
    let best = known.into_iter().map(|key| (likeness(key), key));
    let best = best.max_by(|(a, _), (b, _)| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    best.filter(|best| best.0[0] > 0.5).map(|best| best.1)
}
