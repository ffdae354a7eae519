//! The commands of README.md and the guide can be pasted into bash, zsh and PowerShell, and do what they say.

use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};

use super::{Place, text};

/// The pages whose commands are run, each in a folder of its own, in their order.
const RUN: [&str; 4] = ["README.md", "docs/guide.md", "docs/deploy.md", "docs/cluster.md"];

/// The pages whose commands must be portable and whose links must lead somewhere.
const PAGES: [&str; 15] = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/guide.md",
    "docs/deploy.md",
    "docs/cluster.md",
    "docs/results.md",
    "docs/performance.md",
    "docs/python.md",
    "docs/findings.md",
    "docs/releasing.md",
    "docs/runs/README.md",
    "bench/README.md",
    "pytorch/README.md",
];

/// Commands that are not run here, by their first words, and why.
const NOT_RUN: [(&str, &str); 4] = [
    ("cargo test", "this test is part of it"),
    ("cargo run --release --example", "`cargo test` compiles the examples"),
    ("python3 -m http.server", "does not end"),
    ("tensorboard", "is not installed here: the tests in tensorboard.rs do that"),
];

/// What every training is made small by. Its data is `shapes:20,10` where the command names none.
const SMALL: [&str; 3] =
    ["network.widths=[4,4,4]", "optimizer.learning_rate=0.01", "batch.least_updates=1"];

/// A block between fences.
struct Block {
    language: String,
    lines: Vec<String>,
}

fn read(page: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap()
}

/// The lines of a page's blocks in Python, one block after another.
pub fn python_blocks(page: &str) -> Vec<String> {
    let blocks = parts(page).0.into_iter().filter(|block| block.language == "python");
    blocks.map(|block| block.lines.join("\n")).collect()
}

/// A page's blocks, and its text without them.
fn parts(page: &str) -> (Vec<Block>, String) {
    let (mut blocks, mut prose) = (Vec::new(), String::new());
    let mut block: Option<Block> = None;
    for line in read(page).lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            match block.take() {
                Some(done) => blocks.push(done),
                None => block = Some(Block { language: language.to_owned(), lines: Vec::new() }),
            }
        } else if let Some(block) = &mut block {
            block.lines.push(line.to_owned());
        } else {
            prose += line;
            prose.push('\n');
        }
    }
    assert!(block.is_none(), "{page}: a block is not closed");
    (blocks, prose)
}

/// The commands in a page's blocks, a line each.
fn commands(page: &str) -> Vec<String> {
    let (blocks, _) = parts(page);
    let known = ["sh", "toml", "python", "text"];
    for Block { language, lines } in &blocks {
        assert!(known.contains(&&language[..]), "{page}: what is the block {lines:?}?");
    }
    blocks
        .into_iter()
        .filter(|block| block.language == "sh")
        .flat_map(|block| block.lines)
        .collect()
}

/// The commands of this project's programs in a page's sentences and tables.
fn mentioned(page: &str) -> Vec<String> {
    let (_, prose) = parts(page);
    let spans = prose.split('`').skip(1).step_by(2);
    let spans = spans.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "));
    let programs = ["crescendo ", "cargo ", "python ", "python3 "];
    spans.filter(|span| programs.iter().any(|program| span.starts_with(program))).collect()
}

/// A command's words, if bash, zsh and PowerShell read the same ones.
fn words(command: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = command;
    loop {
        let (word, after) = match rest.strip_prefix('\'') {
            Some(quoted) => {
                let (word, after) = quoted.split_once('\'').ok_or("a quote is not closed")?;
                // Windows PowerShell drops double quotes from what a program is given.
                if word.contains(['"', '\\']) {
                    return Err(format!("{word} has a double quote or a backslash in it"));
                }
                (word, after)
            }
            None => {
                let word = rest.split(' ').next().unwrap_or_default();
                // A comma makes a list in PowerShell, a bracket a pattern in zsh.
                let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=".contains(c);
                if word.is_empty() || !word.chars().all(plain) {
                    return Err(format!("{word:?} must be quoted, or cannot be portable"));
                }
                // PowerShell cuts such an option in two.
                if word.starts_with('-') && word.contains(['.', ':']) {
                    return Err(format!("{word} has a full stop or a colon in an option"));
                }
                (word, &rest[word.len()..])
            }
        };
        words.push(word.to_owned());
        match after.strip_prefix(' ') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(words),
            None => return Err(format!("{word} must be quoted as a whole")),
        }
    }
}

#[test]
fn commands_can_be_pasted_into_any_shell() {
    for (command, portable) in [
        ("crescendo train report --set 'batch.steps=[[1, 125], [31, 500]]' --seed 1", true),
        ("crescendo train report --set network.widths=[4,8,8]", false),
        ("crescendo train report --set network.widths='[4,8,8]'", false),
        ("crescendo train report --set \"batch.steps=[[1, 125]]\"", false),
        ("crescendo train report --set 'batch.steps=[[1, 125]]", false),
        ("crescendo evaluate run --checkpoints 90,80", false),
        ("crescendo data fetch  # once", false),
        ("crescendo train report \\", false),
        ("crescendo recipes quick > mine.toml", false),
        ("crescendo data fetch && crescendo train report", false),
        ("crescendo train --data $HOME/data", false),
        ("  crescendo train", false),
    ] {
        assert_eq!(words(command).is_ok(), portable, "{command}: {:?}", words(command));
    }
    for page in PAGES {
        for command in commands(page).into_iter().chain(mentioned(page)) {
            if let Err(problem) = words(&command) {
                panic!("{page}: {command}: {problem}");
            }
        }
    }
}

#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in PAGES {
        let (_, prose) = parts(page);
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("http")) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => root.join(page),
                file => root.join(page).parent().unwrap().join(file),
            };
            assert!(file.exists(), "{page}: {target}");
            if !heading.is_empty() {
                let there = fs::read_to_string(file).unwrap();
                let mut headings = there.lines().filter(|line| line.starts_with('#')).map(anchor);
                assert!(headings.any(|anchor| anchor == heading), "{page}: {target}");
            }
        }
    }
}

/// What a heading is called in links to it.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn the_readme_does_what_it_says() {
    run_page(RUN[0]);
}

#[test]
#[ignore = "takes long: see CONTRIBUTING.md"]
fn longer_the_guide_does_what_it_says() {
    run_page(RUN[1]);
}

#[test]
fn the_page_on_deployment_does_what_it_says() {
    run_page(RUN[2]);
}

/// Runs a page's commands, in its order.
fn run_page(page: &str) {
    let place = Place::new();
    // What the page takes as given: images of the reader's, and the recipe that it shows.
    for index in 0..24 {
        let class = ["rose", "tulip"][index as usize % 2];
        fs::create_dir_all(place.path("flowers").join(class)).unwrap();
        let path = place.path(&format!("flowers/{class}/{index}.png"));
        // Of images that are alike BatchNorm divides by nearly nothing.
        let pixel = |x: u32, y: u32| {
            Rgb([(x * (5 + index)) as u8, (y * (6 + index)) as u8, (x * y + index * 9) as u8])
        };
        RgbImage::from_fn(40, 36, pixel).save(path).unwrap();
    }
    fs::copy(place.path("flowers/rose/0.png"), place.path("cat.png")).unwrap();
    fs::create_dir_all(place.path("new-flowers/rose")).unwrap();
    fs::copy(place.path("cat.png"), place.path("new-flowers/rose/new.png")).unwrap();
    for block in parts(page).0 {
        if block.language == "toml" {
            fs::write(place.path("mine.toml"), block.lines.join("\n")).unwrap();
        }
    }
    let mut count = 0;
    for command in commands(page) {
        if NOT_RUN.iter().any(|(start, _)| command.starts_with(start)) {
            continue;
        }
        let words = words(&command).unwrap();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match &words[..] {
            ["crescendo", arguments @ ..] | ["cargo", "run", "--release", "--", arguments @ ..] => {
                run(&place, page, arguments);
            }
            _ => panic!("{page}: run {command}, or say in NOT_RUN why not"),
        }
        count += 1;
    }
    assert!(count > 4, "{page} has {count} commands");
}

/// Runs a command on data and networks so small that it takes moments.
fn run(place: &Place, page: &str, arguments: &[&str]) {
    match arguments {
        // Only whether the command is understood: nothing can be downloaded below a file.
        ["data", "fetch", ..] => {
            let refused = expect(place, page, arguments, &["--dir", "cat.png/data"], 1);
            assert!(refused.contains("cat.png"), "{refused}");
        }
        ["train", ..] if arguments.contains(&"--resume") => {
            expect(place, page, arguments, &[], 0);
        }
        ["train", ..] => {
            // First as it is written: every key and value is checked.
            let recipe = recipe(arguments).unwrap_or("quick");
            let mut plan = vec!["plan", recipe];
            for pair in arguments.windows(2).filter(|pair| pair[0] == "--set") {
                plan.extend(pair);
            }
            expect(place, page, &plan, &[], 0);
            let mut changes = smaller(recipe, arguments);
            // A run with a name is used later, by the epochs that it has.
            if !arguments.contains(&"--out") {
                changes.extend(["--set", "train.epochs=2"]);
            }
            expect(place, page, arguments, &changes, 0);
        }
        ["bench", ..] => {
            let mut changes = smaller(recipe(arguments).unwrap_or("report"), arguments);
            changes.retain(|word| !["--data", "shapes:20,10"].contains(word));
            changes.extend(["--seconds", "0.05"]);
            expect(place, page, &with(arguments, "--batch", "20"), &changes, 0);
        }
        ["compare", name, ..] => {
            let mut changes = smaller("quick", arguments);
            // As short, and on as few images, as all arms still differ.
            let grows = *name == "grow-or-decay";
            changes.extend(["--set", if grows { "train.epochs=11" } else { "train.epochs=1" }]);
            let data = changes.iter_mut().find(|word| **word == "shapes:20,10");
            if grows && let Some(data) = data {
                *data = "shapes:130,10";
            }
            expect(place, page, &with(arguments, "--seeds", "0"), &changes, 0);
        }
        ["plan", ..] if arguments.contains(&"shapes:20000,1000") => {
            expect(place, page, &with(arguments, "--data", "shapes:2000,100"), &[], 0);
        }
        _ => {
            expect(place, page, arguments, &[], 0);
        }
    }
}

/// A command with this value for an option.
fn with<'a>(arguments: &[&'a str], option: &'a str, value: &'a str) -> Vec<&'a str> {
    let mut arguments = arguments.to_vec();
    match arguments.iter().position(|word| *word == option) {
        Some(at) => arguments[at + 1] = value,
        None => arguments.extend([option, value]),
    }
    arguments
}

/// The recipe that a command names.
fn recipe<'a>(arguments: &[&'a str]) -> Option<&'a str> {
    arguments.get(1).copied().filter(|word| !word.starts_with('-'))
}

/// What is added to a command so that it trains little by this recipe.
fn smaller(recipe: &str, arguments: &[&str]) -> Vec<&'static str> {
    let mut changes: Vec<&str> = SMALL.iter().flat_map(|change| ["--set", change]).collect();
    if !recipe.starts_with("fast") {
        changes.extend(["--set", "network.blocks=[1,1,1]"]);
    }
    if recipe.starts_with("report") {
        changes.extend(["--set", "network.head.hidden=8"]);
    }
    if arguments.iter().any(|word| word.starts_with("data.validation=")) {
        changes.extend(["--set", "data.validation=5"]);
    }
    // So small a network gains nothing from more, and other tests run beside this one.
    if !arguments.contains(&"--threads") {
        changes.extend(["--threads", "1"]);
    }
    if !arguments.contains(&"--data") {
        changes.extend(["--data", "shapes:20,10"]);
    }
    changes
}

/// Runs a command with some more arguments; it must end with this exit code. What it prints.
fn expect(place: &Place, page: &str, arguments: &[&str], more: &[&str], code: i32) -> String {
    let output = place.command("").args(arguments).args(more).output().unwrap();
    let said = text(&output.stdout) + &text(&output.stderr);
    let command = arguments.join(" ");
    assert_eq!(output.status.code(), Some(code), "{page}: crescendo {command}: {said}");
    said
}
