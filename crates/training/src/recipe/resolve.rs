//! From a recipe's name or file, and changes to single keys, to a whole recipe.

use std::path::Path;

use toml::{Table, Value};

use super::Recipe;
use crate::Error;

/// A recipe, or a comparison of some, that is built into the program.
pub struct BuiltIn {
    /// What it is called.
    pub name: &'static str,
    /// Its file.
    pub text: &'static str,
}

/// The built-in recipes. The first has every key there is.
pub const BUILT_IN: [BuiltIn; 7] = [
    BuiltIn { name: "report", text: include_str!("../../../../recipes/report.toml") },
    BuiltIn { name: "original", text: include_str!("../../../../recipes/original.toml") },
    BuiltIn { name: "quick", text: include_str!("../../../../recipes/quick.toml") },
    BuiltIn { name: "report-fast", text: include_str!("../../../../recipes/report-fast.toml") },
    BuiltIn { name: "fast94", text: include_str!("../../../../recipes/fast94.toml") },
    BuiltIn { name: "fast95", text: include_str!("../../../../recipes/fast95.toml") },
    BuiltIn { name: "fast96", text: include_str!("../../../../recipes/fast96.toml") },
];

impl BuiltIn {
    /// What it is, from the comment that opens its file.
    pub fn summary(&self) -> String {
        let lines = self.text.lines().map_while(|line| line.strip_prefix('#'));
        lines.map(str::trim).collect::<Vec<_>>().join(" ")
    }
}

impl Recipe {
    /// The recipe of this name, or in the file of this path, with `changes` of the form
    /// `section.key=value`. What a recipe does not say comes from its `base`, or from `report`.
    ///
    /// # Errors
    /// If there is no such recipe, or it has an unknown key or a value that makes no sense.
    pub fn load<S: AsRef<str>>(name_or_path: &str, changes: &[S]) -> Result<Self, Error> {
        let mut table = table(name_or_path, 0)?;
        for change in changes {
            set(&mut table, change.as_ref())?;
        }
        Self::from_table(table)
    }

    /// Whether `key`, such as `network.classes`, is in the user's own words: in one of the `changes`, or
    /// in the recipe of this name or path, or a base of it, unless that is built in.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn names<S: AsRef<str>>(
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
        for _ in 0..=MOST_BASES {
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

    /// This recipe with one more `section.key=value`.
    ///
    /// # Errors
    /// If the key is unknown, or the value makes no sense.
    pub fn with(&self, change: &str) -> Result<Self, Error> {
        let mut table = self.table();
        set(&mut table, change)?;
        Self::from_table(table)
    }

    /// The recipe that a run or a checkpoint was saved with. A key that it does not have, because
    /// an older program wrote it, comes from `report`.
    ///
    /// # Errors
    /// If a key is unknown, or has a value that makes no sense.
    pub(crate) fn saved(text: &str) -> Result<Self, Error> {
        let mut saved: Table = text.parse().map_err(|error| Error::Recipe(place(text, &error)))?;
        saved.remove("run");
        let mut whole = every_key();
        lay_over(&mut whole, saved, &every_key(), "").map_err(Error::Recipe)?;
        Self::from_table(whole)
    }

    fn from_table(table: Table) -> Result<Self, Error> {
        let recipe: Recipe = Value::Table(table).try_into().map_err(|error: toml::de::Error| {
            let problem = error.to_string().lines().collect::<Vec<_>>().join(" ");
            Error::Recipe(format!("the recipe does not make sense: {problem}"))
        })?;
        recipe.check()?;
        Ok(recipe)
    }

    /// What differs from `report`, as `section.key=value`: what a recipe is, whatever keys are added to
    /// all recipes later.
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
        collect(&self.table(), &every_key(), "", &mut lines);
        lines
    }

    /// All keys and values.
    pub fn table(&self) -> Table {
        Table::try_from(self).expect("a recipe has only strings for keys")
    }
}

/// Recipes between a user's and a built-in one.
const MOST_BASES: usize = 10;

/// A recipe's table on top of its base's.
fn table(name_or_path: &str, depth: usize) -> Result<Table, Error> {
    if depth > MOST_BASES {
        return Err(Error::Recipe(format!("{name_or_path}: its bases go in a circle")));
    }
    let built_in = BUILT_IN.iter().find(|recipe| recipe.name == name_or_path);
    let text = match built_in {
        Some(recipe) => recipe.text.to_owned(),
        None => read(name_or_path)?,
    };
    let mut own = parse(name_or_path, &text)?;
    // What a run wrote about itself beside its recipe is not part of the recipe.
    own.remove("run");
    let base = match own.remove("base") {
        None if name_or_path == BUILT_IN[0].name => return Ok(own),
        None => BUILT_IN[0].name.to_owned(),
        Some(Value::String(base)) if built_in.is_none() => base_path(name_or_path, &base),
        Some(Value::String(base)) => base,
        Some(_) => {
            return Err(Error::Recipe(format!("{name_or_path}: base must be a recipe's name")));
        }
    };
    let mut whole = table(&base, depth + 1)?;
    lay_over(&mut whole, own, &every_key(), "")
        .map_err(|problem| Error::Recipe(format!("{name_or_path}: {problem}")))?;
    Ok(whole)
}

/// A recipe's file.
fn parse(name_or_path: &str, text: &str) -> Result<Table, Error> {
    text.parse().map_err(|error| {
        Error::Recipe(format!("{name_or_path} is no valid TOML: {}", place(text, &error)))
    })
}

/// The name, or the path, of what a user's recipe calls its base: files are beside it.
fn base_path(recipe: &str, base: &str) -> String {
    if !base.ends_with(".toml") {
        return base.to_owned();
    }
    let folder = Path::new(recipe).parent().unwrap_or(Path::new(""));
    folder.join(base).to_string_lossy().into_owned()
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

/// An error in a text, as one line that says where.
pub(crate) fn place(text: &str, error: &toml::de::Error) -> String {
    let problem = error.message().lines().collect::<Vec<_>>().join(", ");
    let before = error.span().and_then(|span| text.get(..span.start));
    before.map_or(problem.clone(), |text| {
        format!("line {}: {problem}", text.matches('\n').count() + 1)
    })
}

fn read(path: &str) -> Result<String, Error> {
    if Path::new(path).exists() {
        return std::fs::read_to_string(path).map_err(|e| Error::io("read", Path::new(path), e));
    }
    let names = BUILT_IN.map(|recipe| recipe.name);
    let hint = nearest(path, names).map_or(String::new(), |name| format!(" (is it {name}?)"));
    Err(Error::Recipe(format!(
        "there is no recipe {path}{hint}: give the path of a TOML file, or one of {}",
        names.join(", ")
    )))
}

/// Replaces in `whole` what `own` says; `known` has every key there is, and its tables are the
/// sections.
fn lay_over(whole: &mut Table, own: Table, known: &Table, section: &str) -> Result<(), String> {
    for (key, value) in own {
        let name = format!("{section}{key}");
        match (known.get(&key), whole.get_mut(&key), value) {
            (Some(Value::Table(known)), Some(Value::Table(whole)), Value::Table(own)) => {
                lay_over(whole, own, known, &format!("{name}."))?;
            }
            (Some(Value::Table(_)), ..) => return Err(format!("{name} is a section, not a key")),
            (Some(_), Some(whole), value) => *whole = value,
            (_, _, value) => return Err(unknown(&first_key(name, &value))),
        }
    }
    Ok(())
}

/// The recipe that has every key.
fn every_key() -> Table {
    BUILT_IN[0].text.parse().expect("the built-in recipe is valid")
}

fn set(table: &mut Table, change: &str) -> Result<(), Error> {
    lay_over(table, parse_change(change)?, &every_key(), "").map_err(Error::Recipe)
}

/// A table with nothing but what a change says.
fn parse_change(change: &str) -> Result<Table, Error> {
    let parts = change.split_once('=').filter(|(key, _)| !key.trim().is_empty());
    let Some((key, value)) = parts else {
        let problem = format!("{change} is no change of a recipe: write section.key=value");
        return Err(Error::Recipe(problem));
    };
    let (key, value) = (key.trim(), value.trim());
    // A value as TOML has it, or else a bare word.
    let value = match format!("value = {value}").parse::<Table>() {
        Ok(mut table) => table.remove("value").expect("it was just written"),
        Err(_) => Value::String(value.to_owned()),
    };
    let mut own = value;
    for part in key.rsplit('.') {
        own = Value::Table(Table::from_iter([(part.to_owned(), own)]));
    }
    let Value::Table(own) = own else { unreachable!("a key has at least one part") };
    Ok(own)
}

/// The whole name of the first key in a section, or of a key itself.
fn first_key(name: String, value: &Value) -> String {
    match value.as_table().and_then(|table| table.iter().next()) {
        Some((key, value)) => first_key(format!("{name}.{key}"), value),
        None => name,
    }
}

fn unknown(name: &str) -> String {
    let known = keys();
    let hint = nearest(name, known.iter().map(String::as_str))
        .map_or(String::new(), |key| format!("; the nearest is {key}"));
    format!("there is no key {name}{hint}")
}

/// Every key there is.
fn keys() -> Vec<String> {
    fn collect(table: &Table, section: &str, keys: &mut Vec<String>) {
        for (key, value) in table {
            let name = format!("{section}{key}");
            match value {
                Value::Table(table) => collect(table, &format!("{name}."), keys),
                _ => keys.push(name),
            }
        }
    }
    let mut keys = Vec::new();
    collect(&every_key(), "", &mut keys);
    keys
}

fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    // A key in the wrong section is nearer than another key in the right one.
    let distance = |key: &str| {
        let whole = strsim::normalized_damerau_levenshtein(name, key);
        whole.max(strsim::normalized_damerau_levenshtein(&last(name), &last(key)) - 0.05)
    };
    let best = known.into_iter().map(|key| (distance(key), key));
    best.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|best| best.0 > 0.5).map(|best| best.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crescendo_data::{Augmentation, Border, Flip};

    fn complaint(name: &str, changes: &[&str]) -> String {
        Recipe::load(name, changes).unwrap_err().to_string()
    }

    #[test]
    fn every_built_in_recipe_is_valid_and_says_what_it_is() {
        for recipe in &BUILT_IN {
            Recipe::load::<&str>(recipe.name, &[]).unwrap();
            assert!(recipe.summary().len() > 40);
        }
    }

    #[test]
    fn changes_take_effect_on_any_kind_of_value() {
        let changes = [
            "train.epochs=3",
            "optimizer.learning_rate = 1",
            "network.widths=[16, 32, 64]",
            "network.activation=elu",
            "data.augment={ padding = 2, flip = false }",
            "data.border=[1, 2, 3]",
            "batch.steps=[[1, 10], [2, 20]]",
        ];
        let recipe = Recipe::load("report", &changes).unwrap();
        assert_eq!((recipe.train.epochs, recipe.optimizer.learning_rate), (3, 1.0));
        assert_eq!(recipe.network.widths, [16, 32, 64]);
        assert_eq!(recipe.batch.steps, [(1, 10), (2, 20)]);
        let augmentation = recipe.data.augmentation().unwrap();
        assert_eq!((augmentation.padding, augmentation.border), (2, Border::Colour([1, 2, 3])));
        let changes = [
            "data.augment={ padding = 2, flip = \"alternate\", cutout = 12 }",
            "data.border=reflect",
            "data.test_shift=1",
        ];
        let recipe = Recipe::load("report", &changes).unwrap();
        let augmentation =
            Augmentation { padding: 2, border: Border::Reflect, flip: Flip::Alternate, cutout: 12 };
        assert_eq!(recipe.data.augmentation(), Some(augmentation));
        assert_eq!(recipe.data.test_shift, 1);
        assert_eq!(Recipe::saved(&toml::to_string(&recipe).unwrap()).unwrap(), recipe);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (change, part) in [
            ("train.epoch=3", "there is no key train.epoch; the nearest is train.epochs"),
            ("optimizer.lerning_rate=1", "the nearest is optimizer.learning_rate"),
            ("train.momentum=0.5", "the nearest is optimizer.momentum"),
            ("trian.seed=1", "there is no key trian.seed; the nearest is train.seed"),
            ("train=3", "train is a section"),
            ("train.epochs", "write section.key=value"),
            ("train.epochs=many", "epochs"),
            ("train.epochs=-1", "epochs"),
            ("network.activation=swish", "gelu"),
            ("optimizer.momentum=1", "optimizer.momentum must be from 0 to below 1"),
            ("network.blocks=[6, 6]", "network.widths has 3 entries but network.blocks has 2"),
            ("batch.steps=[[2, 125]]", "batch.steps"),
            ("data.augment=7", "data.augment is true, false, or"),
            ("data.augment={padding=4,flip=\"never\"}", "data.augment is true, false, or"),
            (
                "data.augment={padding=4,flip=true,cutout=33}",
                "data.augment.cutout must be at most 32",
            ),
            ("data.border=256", "data.border is a number from 0 to 255"),
            ("data.border=mirror", "data.border is a number from 0 to 255"),
            ("data.test_shift=32", "data.test_shift must be at most 31"),
            ("data.sides=[]", "data.sides must begin with epoch 1"),
            ("data.sides=[[2, 16]]", "data.sides must begin with epoch 1"),
            ("data.sides=[[1, 16], [1, 32]]", "data.sides must name its epochs in rising order"),
            ("data.sides=[[1, 32], [5, 16]]", "data.sides must end with 32"),
            ("data.sides=[[1, 48], [5, 32]]", "data.sides has 48, but this network's head can do"),
            (
                "data.sides=[[1, 24], [5, 32]]",
                "has 24, but this network's head can do with 13, 14, 15, 16, 29, 30, 31, 32 pixels",
            ),
        ] {
            let complaint = complaint("report", &[change]);
            assert!(complaint.contains(part), "{change}: {complaint}");
        }
        let changes = ["data.augment={padding=32,flip=true}", "data.border=reflect"];
        assert!(complaint("report", &changes).contains("data.augment.padding must be at most 31"));
        let complaint = complaint("reprot", &[]);
        assert!(complaint.contains("is it report?") && complaint.contains("quick"), "{complaint}");
    }

    #[test]
    fn a_file_says_what_differs_from_its_base() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        std::fs::write(path("a.toml"), "base = \"quick\"\n[train]\nepochs = 2\n").unwrap();
        std::fs::write(path("b.toml"), "base = \"a.toml\"\n[train]\nseed = 7\n").unwrap();
        std::fs::write(path("c.toml"), "base = \"c.toml\"\n").unwrap();
        std::fs::write(path("d.toml"), "[train]\nseeds = 7\n").unwrap();
        let recipe = Recipe::load::<&str>(&path("b.toml"), &[]).unwrap();
        let quick = Recipe::load::<&str>("quick", &[]).unwrap();
        assert_eq!((recipe.train.epochs, recipe.train.seed), (2, 7));
        assert_eq!(recipe.network, quick.network);
        assert!(complaint(&path("c.toml"), &[]).contains("circle"));
        assert!(complaint(&path("d.toml"), &[]).contains("the nearest is train.seed"));
    }

    #[test]
    fn a_recipe_is_what_differs_from_report() {
        let differences = |name: &str| Recipe::load::<&str>(name, &[]).unwrap().differences();
        assert!(differences("report").is_empty());
        assert_eq!(differences("original"), ["data.shuffle=\"file_order\""]);
        // Nor does it say that nothing is cut out.
        let table = "data.augment={ flip = true, padding = 2 }";
        let differences = Recipe::load("report", &[table]).unwrap().differences();
        assert_eq!(differences, [table]);
    }

    #[test]
    fn a_recipe_survives_its_own_text() {
        for built_in in &BUILT_IN {
            let recipe = Recipe::load::<&str>(built_in.name, &[]).unwrap();
            let text = toml::to_string(&recipe).unwrap();
            assert_eq!(Recipe::saved(&text).unwrap(), recipe);
            // An older program's text lacks keys.
            let mut older = text;
            for line in ["keep = 0\n", "average_every = 5\n"] {
                assert!(older.contains(line));
                older = older.replace(line, "");
            }
            assert_eq!(Recipe::saved(&older).unwrap(), recipe);
        }
    }

    #[test]
    fn a_table_can_take_the_place_of_a_switch_and_back() {
        let table = "data.augment={ padding = 2, flip = false }";
        let recipe = Recipe::load("report", &[table, "data.augment=false"]).unwrap();
        assert_eq!(recipe.data.augmentation(), None);
        let recipe = recipe.with(table).unwrap();
        assert_eq!(recipe.data.augmentation().unwrap().padding, 2);
    }

    #[test]
    fn the_reports_network_is_described_once() {
        let recipe = Recipe::load::<&str>("report", &[]).unwrap();
        assert_eq!(recipe.network, crescendo_network::Config::report());
    }
}
