use super::*;
use crate::recipe::SaveEvery;
use crescendo_data::{Augmentation, Border, Flip};

fn complaint(name: &str, changes: &[&str]) -> String {
    Recipe::load(name, changes).unwrap_err().to_string()
}

#[test]
fn every_built_in_recipe_is_valid_and_described() {
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
fn unknown_keys_and_invalid_values_are_named() {
    for (change, part) in [
        ("train.epoch=3", "there is no key train.epoch; the nearest is train.epochs"),
        ("optimizer.lerning_rate=1", "the nearest is optimizer.learning_rate"),
        ("train.momentum=0.5", "the nearest is optimizer.momentum"),
        ("trian.seed=1", "there is no key trian.seed; the nearest is train.seed"),
        ("train=3", "train is a section"),
        ("lr=0.1", "there is no key lr; write optimizer.learning_rate"),
        ("optimizer.lr=0.1", "there is no key optimizer.lr; write optimizer.learning_rate"),
        ("learning_rate=0.1", "the nearest is optimizer.learning_rate"),
        ("momentum=0.9", "the nearest is optimizer.momentum"),
        ("batch_size=64", "there is no key batch_size; write batch.size, with batch.policy=fixed"),
        ("train.batch-size=64", "write batch.size, with batch.policy=fixed"),
        ("batch=64", "batch is a section, not a key: write batch.size, with batch.policy=fixed"),
        ("wd=0", "write optimizer.weight_decay"),
        ("weight_decay=0", "the nearest is optimizer.weight_decay"),
        ("seed=1", "the nearest is train.seed"),
        ("lr_scheduler=cosine", "write schedule.policy"),
        ("scheduler.type=cosine", "write schedule.policy"),
        ("gamma=0.1", "write schedule.steps, with schedule.policy=step"),
        ("optimizer=adam", "optimizer is a section, not a key: write optimizer.kind"),
        ("activation=elu", "the nearest is network.activation"),
        ("train.epochs", "write section.key=value"),
        ("train.epochs=many", "train.epochs must be a whole number, but it is \"many\""),
        ("train.epochs=-1", "train.epochs must be a whole number from 0 to 4294967295"),
        ("network.activation=swish", "gelu"),
        ("optimizer.momentum=1", "optimizer.momentum must be at least 0 and below 1"),
        ("network.blocks=[6, 6]", "network.widths has 3 entries but network.blocks has 2"),
        ("batch.steps=[[2, 125]]", "batch.steps"),
        ("data.augment=7", "data.augment must be true, false, or"),
        ("data.augment={padding=4,flip=\"never\"}", "data.augment must be true, false, or"),
        ("data.augment={padding=4,flip=true,cutout=33}", "data.augment.cutout must be at most 32"),
        ("data.border=256", "data.border must be a number from 0 to 255"),
        ("data.border=mirror", "data.border must be a number from 0 to 255"),
        ("data.test_shift=32", "data.test_shift must be at most 31"),
        ("data.sides=[]", "data.sides must begin with epoch 1"),
        ("data.sides=[[2, 16]]", "data.sides must begin with epoch 1"),
        ("data.sides=[[1, 16], [1, 32]]", "data.sides must list its epochs in rising order"),
        ("data.sides=[[1, 32], [5, 16]]", "data.sides must end with 32"),
        ("data.sides=[[1, 48], [5, 32]]", "data.sides has 48, but this network only takes"),
        (
            "data.sides=[[1, 24], [5, 32]]",
            "has 24, but this network only takes images of 13, 14, 15, 16, 29, 30, 31, 32 pixels",
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
fn a_file_has_what_differs_from_its_base() {
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
    assert!(complaint(&path("c.toml"), &[]).contains("cycle"));
    assert!(complaint(&path("d.toml"), &[]).contains("the nearest is train.seed"));
}

#[test]
fn differences_are_those_from_report() {
    let differences = |name: &str| Recipe::load::<&str>(name, &[]).unwrap().differences();
    assert!(differences("report").is_empty());
    assert_eq!(differences("original"), ["data.shuffle=\"file_order\""]);
    // A cutout of 0 is not written.
    let table = "data.augment={ flip = true, padding = 2 }";
    let differences = Recipe::load("report", &[table]).unwrap().differences();
    assert_eq!(differences, [table]);
}

#[test]
fn a_recipe_can_be_saved_and_read_again() {
    for built_in in &BUILT_IN {
        let recipe = Recipe::load::<&str>(built_in.name, &[]).unwrap();
        let text = toml::to_string(&recipe).unwrap();
        assert_eq!(Recipe::saved(&text).unwrap(), recipe);
        // The text of an older version lacks keys.
        let mut older = text;
        for line in ["keep = 0\n", "average_every = 5\n"] {
            assert!(older.contains(line));
            older = older.replace(line, "");
        }
        assert_eq!(Recipe::saved(&older).unwrap(), recipe);
    }
}

#[test]
fn minutes_between_saves_are_a_number_or_left_to_the_device() {
    let report = Recipe::load::<&str>("report", &[]).unwrap();
    assert_eq!(report.train.save_every_minutes, SaveEvery::Auto);
    for (value, every, line) in [
        ("auto", SaveEvery::Auto, "save_every_minutes = \"auto\"\n"),
        ("\"auto\"", SaveEvery::Auto, "save_every_minutes = \"auto\"\n"),
        ("2.5", SaveEvery::Minutes(2.5), "save_every_minutes = 2.5\n"),
        ("2", SaveEvery::Minutes(2.0), "save_every_minutes = 2.0\n"),
        ("0", SaveEvery::Minutes(0.0), "save_every_minutes = 0.0\n"),
    ] {
        let recipe = report.with(&format!("train.save_every_minutes={value}")).unwrap();
        assert_eq!(recipe.train.save_every_minutes, every);
        let text = toml::to_string(&recipe).unwrap();
        assert!(text.contains(line), "{text}");
        assert_eq!(Recipe::saved(&text).unwrap(), recipe);
        assert_eq!(recipe.with("train.save_every_minutes=auto").unwrap(), report);
    }
    for value in ["-1", "1e300", "nan", "inf"] {
        assert_eq!(
            complaint("report", &[&format!("train.save_every_minutes={value}")]),
            "train.save_every_minutes must be \"auto\" or a number from 0 to 3e38",
        );
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
fn the_network_of_the_paper_is_the_librarys() {
    let recipe = Recipe::load::<&str>("report", &[]).unwrap();
    assert_eq!(recipe.network, crescendo_network::NetworkConfig::paper());
}

/// Words of Rust and of serde that a user must not see.
const FOREIGN: [&str; 17] = [
    "u8",
    "u32",
    "u64",
    "usize",
    "f64",
    "i64",
    "bool",
    "variant",
    "struct",
    "tuple",
    "sequence",
    "map",
    "field",
    "expected",
    "enum",
    "invalid type",
    "did not match",
];

#[test]
fn a_value_of_the_wrong_type_gives_the_key_what_it_may_be_and_the_value() {
    for (change, expected) in [
        // Numbers.
        ("train.epochs=2.5", "train.epochs must be a whole number, but it is 2.5"),
        (
            "train.epochs=-1",
            "train.epochs must be a whole number from 0 to 4294967295, but it is -1",
        ),
        (
            "train.epochs=4294967296",
            "train.epochs must be a whole number from 0 to 4294967295, but it is 4294967296",
        ),
        (
            "train.seed=9223372036854775808",
            "train.seed must be a whole number from 0 to 9223372036854775807, but it is \
             \"9223372036854775808\"",
        ),
        ("engine.threads=[1]", "engine.threads must be a whole number, but it is [1]"),
        ("engine.threads={a=1}", "engine.threads must be a whole number, but it is { a = 1 }"),
        (
            "batch.patience=-2",
            "batch.patience must be a whole number from 0 to 4294967295, but it is -2",
        ),
        // Fractions.
        ("optimizer.momentum=high", "optimizer.momentum must be a number, but it is \"high\""),
        ("schedule.smoothing=true", "schedule.smoothing must be a number, but it is true"),
        (
            "train.save_every_minutes=often",
            "train.save_every_minutes must be \"auto\" or a number of minutes, but it is \"often\"",
        ),
        (
            "train.save_every_minutes=[5]",
            "train.save_every_minutes must be \"auto\" or a number of minutes, but it is [5]",
        ),
        // Booleans.
        ("network.bias=1", "network.bias must be true or false, but it is 1"),
        // Names.
        (
            "network.activation=swish",
            "network.activation must be one of leaky_relu, relu, elu, gelu, silu, but it is \"swish\"",
        ),
        (
            "batch.metric=loss",
            "batch.metric must be one of train_loss, validation_loss, validation_accuracy, but it is \
             \"loss\"",
        ),
        (
            "batch.metric=3",
            "batch.metric must be one of train_loss, validation_loss, validation_accuracy, but it is 3",
        ),
        (
            "schedule.threshold_mode=[]",
            "schedule.threshold_mode must be one of relative, absolute, but it is []",
        ),
        ("data.source=3", "data.source must be one of cifar-10, shapes, but it is 3"),
        // Lists.
        (
            "network.widths=[4,8",
            "network.widths must be a list of whole numbers, one for each stack, such as [64, 128, 256], \
             but it is \"[4,8\"",
        ),
        (
            "network.blocks=[6, -6, 6]",
            "network.blocks must be a list of whole numbers, one for each stack, such as [6, 6, 6], but \
             it is [6, -6, 6]",
        ),
        // Pairs.
        (
            "batch.steps=[[1]]",
            "batch.steps must be a list of [epoch, size] pairs such as [[1, 125], [61, 250]], but it is \
             [[1]]",
        ),
        (
            "schedule.steps=[[1, 0.5, 2]]",
            "schedule.steps must be a list of [epoch, factor] pairs such as [[61, 0.1], [81, 0.01]], but \
             it is [[1, 0.5, 2]]",
        ),
        (
            "data.sides=32",
            "data.sides must be a list of [epoch, pixels] pairs such as [[1, 16], [5, 32]], but it is 32",
        ),
        // Tables.
        (
            "data.augment={padding=4}",
            "data.augment must be true, false, or { padding = N, flip = true|false|\"alternate\", \
             cutout = N }, but it is { padding = 4 }",
        ),
        (
            "optimizer.groups=sgd",
            "optimizer.groups must be a list of tables such as [{ parameters = \"*.bias\", \
             learning_rate = 0.2 }], but it is \"sgd\"",
        ),
        (
            "optimizer.groups=[{ parameters = \"*\", momentum = \"high\" }]",
            "optimizer.groups, entry 1: momentum must be a number, but it is \"high\"",
        ),
        (
            "optimizer.groups=[{ parameters = \"*\" }, { parameters = \"*\", kind = \"adam\" }]",
            "optimizer.groups, entry 2: kind must be one of sgd, muon, fixed, but it is \"adam\"",
        ),
        (
            "optimizer.groups=[{ momentum = 0.5 }]",
            "optimizer.groups, entry 1: the key parameters is missing",
        ),
        (
            "optimizer.groups=[{ parameters = \"*\", rate = 1 }]",
            "optimizer.groups, entry 1: there is no key rate; the keys are parameters, kind, \
             learning_rate, momentum, nesterov, weight_decay, epochs",
        ),
    ] {
        assert_eq!(complaint("report", &[change]), expected, "{change}");
    }
}

#[test]
fn no_error_about_a_type_names_one_of_rusts() {
    let wrong = [
        "true",
        "-1",
        "2.5",
        "1e300",
        "99999999999999",
        "text",
        "[]",
        "[[]]",
        "[true]",
        "[[1, 2, 3]]",
        "[{ a = 1 }]",
        "{ a = 1 }",
        "{ sgd = 1 }",
        "2026-01-01",
    ];
    let recipe = Recipe::load::<&str>("report", &[]).unwrap();
    let mut refused = 0;
    for key in keys() {
        let before = refused;
        for value in wrong {
            let change = format!("{key}={value}");
            let Err(error) = recipe.with(&change) else { continue };
            let error = error.to_string();
            // What a user gave may be anything, and keys may contain such words.
            let said = error.split(", but it is").next().unwrap();
            let words: Vec<&str> = said.split(|c: char| !c.is_ascii_alphanumeric()).collect();
            let foreign = FOREIGN.iter().find(|foreign| words.contains(foreign));
            assert!(foreign.is_none(), "{change}: {error}");
            assert!(error.contains(&key) || error.contains(" must "), "{change}: {error}");
            assert!(!error.contains('\n'), "{change}: {error}");
            refused += 1;
        }
        assert!(refused > before + 5, "{key}");
    }
}

#[test]
fn every_key_with_a_list_has_a_description() {
    let lists = values(every_key()).into_iter().filter(|(_, value)| value.is_array());
    let mut described = LISTS.map(|list| list.0).to_vec();
    described.sort_unstable();
    let mut lists: Vec<String> = lists.map(|(key, _)| key).collect();
    lists.sort_unstable();
    assert_eq!(lists, described);
}

#[test]
fn saved_recipes_have_their_keys_in_the_order_of_the_built_in_recipe() {
    // Checkpoints contain this text, and equal weights make equal files.
    let names = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        lines
            .map(|line| line.split(['=', '#']).next().unwrap_or_default().trim().to_owned())
            .collect()
    };
    // A device and a precision that are chosen when a run is created are not written, so that checkpoints do not name
    // them; nor is a number of tiles that is tried, nor an empty list of operations.
    let recipe = Recipe::load::<&str>("report", &[]).unwrap();
    let mut written = names(BUILT_IN[0].text);
    written.retain(|name| name != "operations");
    let mut expected = written.clone();
    expected.retain(|name| !["device", "precision", "tiles"].contains(&&**name));
    assert_eq!(names(&toml::to_string(&recipe).unwrap()), expected);
    let chosen = ["engine.device=cuda", "engine.precision=bf16", "engine.tiles=64"];
    let recipe = Recipe::load("report", &chosen).unwrap();
    assert_eq!(names(&toml::to_string(&recipe).unwrap()), written);
}
