//! Which keys of a recipe the user sets.

use toml::{Table, Value};

use super::{BUILT_IN, MAX_BASES, base_path, every_key, parse, parse_change, read, values};
use crate::{Error, Recipe};

impl Recipe {
    /// Whether the user sets `key`, such as `network.classes`: in one of the `changes`, in the recipe's own
    /// file, or in the file of one of its bases. Built-in recipes do not count.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn sets_key<S: AsRef<str>>(
        name_or_path: &str,
        changes: &[S],
        key: &str,
    ) -> Result<bool, Error> {
        for change in changes {
            if has(&parse_change(change.as_ref())?, key) {
                return Ok(true);
            }
        }
        let mut recipe = name_or_path.to_owned();
        for _ in 0..=MAX_BASES {
            if BUILT_IN.iter().any(|built_in| built_in.name == recipe) {
                break;
            }
            let own = parse(&recipe, &read(&recipe)?)?;
            if has(&own, key) {
                return Ok(true);
            }
            match own.get("base") {
                Some(Value::String(base)) => recipe = base_path(&recipe, base),
                _ => break,
            }
        }
        Ok(false)
    }

    /// The keys that the user sets: in one of the `changes`, or in the recipe's own file or those of its bases, if
    /// the value differs from what the key would have without that. Built-in recipes and what a run saved do not
    /// count.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn set_keys<S: AsRef<str>>(
        name_or_path: &str,
        changes: &[S],
    ) -> Result<Vec<String>, Error> {
        let mut keys = Self::changed_keys(changes)?;
        let mut add = |own: &Table, base: &Table| {
            for (key, value) in values(own) {
                if get(base, &key) != Some(value) && !keys.contains(&key) {
                    keys.push(key);
                }
            }
        };
        let mut recipe = name_or_path.to_owned();
        for _ in 0..=MAX_BASES {
            if BUILT_IN.iter().any(|built_in| built_in.name == recipe) {
                break;
            }
            let mut own = parse(&recipe, &read(&recipe)?)?;
            if own.contains_key("run") {
                break;
            }
            match own.remove("base") {
                Some(Value::String(base)) => {
                    let base = base_path(&recipe, &base);
                    add(&own, &super::table(&base, 0)?);
                    recipe = base;
                }
                _ => {
                    add(&own, every_key());
                    break;
                }
            }
        }
        Ok(keys)
    }

    /// The keys in changes of the form `section.key=value`.
    ///
    /// # Errors
    /// If one does not have that form.
    pub fn changed_keys<S: AsRef<str>>(changes: &[S]) -> Result<Vec<String>, Error> {
        let mut keys: Vec<String> = Vec::new();
        for change in changes {
            let table = parse_change(change.as_ref())?;
            let new = values(&table).into_iter().map(|(key, _)| key);
            keys.extend(new.filter(|key| !keys.contains(key)).collect::<Vec<_>>());
        }
        Ok(keys)
    }
}

/// Whether a table has this key, such as `network.classes`.
fn has(table: &Table, key: &str) -> bool {
    match key.split_once('.') {
        None => table.contains_key(key),
        Some((section, key)) => {
            table.get(section).and_then(Value::as_table).is_some_and(|table| has(table, key))
        }
    }
}

/// The value of a key such as `network.classes`.
fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((section, key)) => get(table.get(section)?.as_table()?, key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_sets_keys_by_changes_and_in_files_but_not_by_built_in_recipes() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        // What a file has in common with its base is not set by it.
        let own = "base = \"quick\"\n[train]\nepochs = 14\nseed = 3\n[network.head]\npool = 4\n";
        std::fs::write(path("own.toml"), own).unwrap();
        std::fs::write(path("more.toml"), "base = \"own.toml\"\n[data]\nborder = 0\n").unwrap();
        std::fs::write(path("copy.toml"), BUILT_IN[0].text).unwrap();
        let keys = |recipe: &str, changes: &[&str]| {
            let mut keys = Recipe::set_keys(recipe, changes).unwrap();
            keys.sort_unstable();
            keys
        };
        let set = ["batch.size=125", "batch.size=5", "data.augment={padding=1,flip=true}"];
        assert_eq!(keys("quick", &set), ["batch.size", "data.augment"]);
        assert!(keys("fast96", &[]).is_empty() && keys(&path("copy.toml"), &[]).is_empty());
        assert_eq!(
            keys(&path("more.toml"), &["train.epochs=2"]),
            ["data.border", "network.head.pool", "train.epochs", "train.seed"]
        );
        let saved = toml::to_string(&Recipe::load("quick", &set[..2]).unwrap()).unwrap();
        std::fs::write(path("saved.toml"), saved + "[run]\nrecipe = \"quick\"\n").unwrap();
        assert!(keys(&path("saved.toml"), &[]).is_empty());
    }
}
