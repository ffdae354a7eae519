//! The output of training with `--json`, with `--quiet`, and into a closed pipe.

use std::process::Stdio;

use super::{Place, SMALL, checkpoint, column, text};
use serde_json::Value;

#[test]
fn json_has_an_event_on_every_line() {
    let place = Place::new();
    let settings = "--epochs 4 --set data.validation=24 --set train.checkpoint_every=2 --set \
                    train.evaluate_every=0";
    let arguments = format!("train {SMALL} {settings} --json --out run");
    let output = place.command(&arguments).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    let lines = text(&output.stdout);
    let events: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let named = |name: &str| -> Vec<&Value> {
        events.iter().filter(|event| event["event"] == name).collect()
    };
    assert_eq!(events[0]["event"], "started");
    assert_eq!(events[0]["resumed_at"], Value::Null);
    let last = &events[events.len() - 1];
    assert_eq!((&last["event"], &last["folder"]), (&"finished".into(), &"run".into()));

    let updates: Vec<u64> =
        named("step").iter().map(|step| step["update"].as_u64().unwrap()).collect();
    assert_eq!(updates, (1..=30).collect::<Vec<_>>());
    let table = place.read("run/epochs.csv");
    for (name, column) in
        ["updates", "batch_size", "learning_rate"].map(|name| (name, column(&table, name)))
    {
        let cells: Vec<String> =
            named("epoch").iter().map(|epoch| epoch[name].to_string()).collect();
        assert_eq!(cells, column, "{name}");
    }
    let [decision] = named("decision")[..] else { panic!("{lines}") };
    let values = ["epoch", "updates", "what", "from", "to"].map(|key| decision[key].to_string());
    assert_eq!(values, ["3", "20", "\"batch_size\"", "12", "24"]);
    let checkpoints = named("checkpoint");
    assert_eq!(checkpoints.len(), 2);
    assert_eq!(checkpoints[1]["file"], "run/weights/epoch-0004.safetensors");

    let [validated, tested] = named("evaluated")[..] else { panic!("{lines}") };
    assert_eq!((&validated["split"], &tested["split"]), (&"validation".into(), &"test".into()));
    for (evaluated, images) in [(validated, 24), (tested, 100)] {
        let confusion: Vec<Vec<u64>> =
            serde_json::from_value(evaluated["confusion"].clone()).unwrap();
        assert_eq!(confusion.iter().flatten().sum::<u64>(), images);
        assert_eq!(evaluated["classes"].as_array().unwrap().len(), confusion.len());
        assert!(evaluated["loss"].is_f64());
    }
    assert_eq!(tested["accuracy"], last["test_accuracy"]);
}

#[test]
fn quiet_prints_only_the_result() {
    let place = Place::new();
    let arguments = format!("train {SMALL} --epochs 1 --quiet --out run");
    let output = place.command(&arguments).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("Test accuracy: 0."), "{printed}");
    assert_eq!(lines[1], "Run: run");
    assert!(place.read("run/log.txt").contains("Epoch 1 Loss "), "the log is as always");
    let complaint = place.refuse(1, "train --resume nowhere --quiet");
    assert!(complaint.contains("nowhere"), "{complaint}");
    place.refuse(2, "train --quiet --json");
}

#[test]
fn a_closed_pipe_does_not_stop_training() {
    let place = Place::new();
    for (format, run) in [("--json", "json"), ("--quiet", "quiet"), ("", "lines")] {
        let arguments = format!("train {SMALL} --epochs 1 {format} --out {run}");
        let mut command = place.command(&arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{format}: {}", text(&output.stderr));
        assert!(place.read(&format!("{run}/log.txt")).contains("Run: "));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn no_command_panics_if_its_output_is_full_or_closed() {
    check_outputs(2);
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "takes half a minute"]
fn longer_no_command_panics_if_any_output_is_full_or_closed() {
    check_outputs(SINKS.len());
}

/// Where a command's standard output, or its standard error, goes: a full device or a closed pipe.
#[cfg(target_os = "linux")]
const SINKS: [&str; 7] =
    [">/dev/full", "2>/dev/full", ">&-", "2>&-", ">/dev/full 2>&1", "| true", "2>&1 | true"];

/// Every command with so many of the sinks; each command begins where the one before ended.
#[cfg(target_os = "linux")]
fn check_outputs(sinks: usize) {
    let place = Place::with_run("--epochs 1");
    image::RgbImage::new(40, 40).save(place.path("x.png")).unwrap();
    std::fs::create_dir(place.path("empty")).unwrap();
    std::fs::write(place.path("same.toml"), "recipe = \"quick\"\n").unwrap();
    let small = format!("train {SMALL} --epochs 1 --out");
    let commands = [
        format!("{small} RUN"),
        format!("{small} RUN --json"),
        format!("{small} RUN --quiet"),
        "train --resume run".into(),
        "evaluate run".into(),
        "evaluate run --json".into(),
        "evaluate nowhere".into(),
        "predict run x.png x.png".into(),
        "predict run x.png nowhere.png --json".into(),
        "plan quick".into(),
        "plan quick --json".into(),
        "recipes".into(),
        "recipes quick".into(),
        "report run".into(),
        "data info shapes:20,10".into(),
        "data info empty".into(),
        "compare".into(),
        "compare head --show".into(),
        "runs .".into(),
        "runs . --json".into(),
        "completions bash".into(),
        "bench quick --batch 4 --seconds 0.01".into(),
        "devices".into(),
        "devices --json".into(),
        "--help".into(),
        "train --help".into(),
        "--version".into(),
        "nonsense".into(),
    ];
    let mut all = SINKS.iter().cycle();
    for (index, command) in commands.iter().enumerate() {
        for (number, sink) in all.by_ref().take(sinks).enumerate() {
            let run = format!("run-{index}-{number}");
            let arguments = command.replace("RUN", &run);
            let program = place.command(&arguments);
            let mut shell = std::process::Command::new("bash");
            // What the program itself says, where it is not in the sink, and its exit code.
            let script = format!("set -o pipefail; \"$0\" \"$@\" {sink}");
            shell.args(["-c", &script]).arg(program.get_program()).args(program.get_args());
            shell.envs(program.get_envs().filter_map(|(key, value)| Some((key, value?))));
            let output = shell.current_dir(place.folder()).output().unwrap();
            let said = text(&output.stdout) + &text(&output.stderr);
            let code = output.status.code();
            assert!(!said.contains("panicked"), "{arguments} {sink}: {said}");
            // 101 is the exit code of a panic.
            assert!(matches!(code, Some(0..=2)), "{arguments} {sink}: {code:?} {said}");
            // A run is whole in any case.
            let whole = checkpoint(&place.path(&run), 1).exists();
            assert_eq!(whole, command.contains("RUN"), "{arguments} {sink}");
        }
    }
    // Results that could not be printed are no success.
    let output = std::process::Command::new("bash")
        .args(["-c", "\"$0\" evaluate run > /dev/full"])
        .arg(env!("CARGO_BIN_EXE_crescendo"))
        .current_dir(place.folder())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot write to the output"));
}
